//! Where connections come from, and whether there is room for them.
//!
//! A connection is its two addresses and its two ports. To one port of one server an address has as
//! many as there are ephemeral ports (28,232 usually), those in TIME-WAIT included. On IPv4's loopback
//! there are 16 million addresses to come from: each is used for three quarters of its ports (with
//! fewer free ones the kernel searches long), and the next connection comes from the next one.
//! Elsewhere there is only one.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Result, bail};
use mio::net;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, setsockopt,
    socket, sockopt,
};

use crate::load::failure::{Failure, Kind};
use crate::load::plan::Plan;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Linux's, where it does not say.
const PORTS: u64 = 28_232;

/// Descriptors that are no connections: three for stdio, files, and what each thread polls.
const OTHERS: u64 = 16;
const PER_THREAD: u64 = 4;

/// So many addresses are tried before it is said that there are no ports.
const TRIES: u64 = 100;

/// The source addresses of a run.
#[derive(Debug)]
pub struct Sources {
    target: SocketAddr,
    ports: u64,
    /// Addresses that others had used up.
    skipped: AtomicU64,
}

impl Sources {
    /// For connections to `target`.
    pub fn new(target: SocketAddr) -> Self {
        let range = fs::read_to_string(PORT_RANGE).ok();
        Self {
            target,
            ports: range.and_then(|range| count(&range)).unwrap_or(PORTS),
            skipped: AtomicU64::new(0),
        }
    }

    /// Begins to connect; non-blocking. Errors: that cannot even be begun.
    pub fn connect(&self, number: u64) -> Result<net::TcpStream, Failure> {
        let tries = if self.has_others() { TRIES } else { 1 };
        for _ in 0..tries {
            match begin(self.target, self.address(number)) {
                Ok(stream) => return Ok(net::TcpStream::from_std(stream)),
                Err(Errno::EADDRNOTAVAIL) => _ = self.skipped.fetch_add(1, Relaxed),
                Err(errno) => {
                    let failure = Failure::system(&errno.into());
                    return Err(failure.of(&format!("connect to {}", self.target)));
                }
            }
        }
        Err(Failure::new(Kind::NoPorts, self.no_ports()))
    }

    /// Are there other addresses to come from?
    fn has_others(&self) -> bool {
        matches!(self.target.ip(), IpAddr::V4(target) if target.is_loopback())
    }

    /// What this connection is to be bound to; nothing: what the kernel chooses.
    fn address(&self, number: u64) -> Option<Ipv4Addr> {
        let index = number / (self.ports * 3 / 4).max(1) + self.skipped.load(Relaxed);
        let first = u32::from(Ipv4Addr::LOCALHOST);
        let others = u32::from(Ipv4Addr::new(127, 255, 255, 254)) - first;
        let address = Ipv4Addr::from(first + (index % u64::from(others)) as u32);
        (self.has_others() && index > 0).then_some(address)
    }

    fn no_ports(&self) -> String {
        format!(
            "all {} ports to {} are in use or in TIME-WAIT: fewer connections, a wider {PORT_RANGE}, \
             or an address of 127.0.0.0/8",
            self.ports, self.target
        )
    }
}

/// How many ports `first last` are.
fn count(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(|end| end.parse::<u64>().ok());
    let (first, last) = (ends.next()??, ends.next()??);
    last.checked_sub(first).map(|ports| ports + 1)
}

fn begin(target: SocketAddr, source: Option<Ipv4Addr>) -> nix::Result<TcpStream> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    // The second of several small messages under way is not to wait for the first one's ACK.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    if let Some(source) = source {
        // The port is left to connect, which knows that it need only be new to this target.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let [a, b, c, d] = source.octets();
        bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0))?;
    }
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno),
    }
}

/// Raises the soft limit of descriptors to what the plan needs. Errors: the hard one is below that.
pub fn make_room(plan: &Plan) -> Result<()> {
    let needed = plan.all_connections() + plan.load.threads * PER_THREAD + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if needed <= soft {
        return Ok(());
    }
    if needed > hard {
        let connections = plan.all_connections();
        bail!(
            "{connections} connections need {needed} descriptors, the limit is {hard}: raise it \
             with `ulimit -n {needed}`, or fewer connections"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(target: &str) -> Sources {
        let target = target.parse().expect("an address");
        Sources {
            target,
            ports: 4000,
            skipped: AtomicU64::new(0),
        }
    }

    #[test]
    fn on_loopback_no_address_is_used_up() {
        let sources = sources("127.0.0.1:7");
        let address = |number| sources.address(number).map(|address| address.to_string());
        assert_eq!(address(0), None);
        assert_eq!(address(2999), None);
        assert_eq!(address(3000).as_deref(), Some("127.0.0.2"));
        assert_eq!(address(3000 * 255).as_deref(), Some("127.0.1.0"));
        assert!(address(u64::MAX).is_some());
    }

    #[test]
    fn elsewhere_there_is_one_address() {
        for target in ["192.0.2.1:7", "[::1]:7"] {
            assert_eq!(sources(target).address(1_000_000), None);
            assert!(sources(target).no_ports().contains("4000 ports"));
        }
    }

    #[test]
    fn a_range_of_ports_has_both_its_ends() {
        assert_eq!(count("32768\t60999\n"), Some(28_232));
        for bad in ["", "1", "x y", "2 1"] {
            assert_eq!(count(bad), None);
        }
    }
}
