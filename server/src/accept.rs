//! Accept one connection, and sort the ways in which that can fail; accept(2).

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{SockaddrLike, SockaddrStorage, getpeername};
use tcpecho_common::calls;

use crate::failure::Failure;
use crate::listener::Listener;
use crate::signals;

/// How long accepting rests when descriptors or memory have run out.
pub const PAUSE: Duration = Duration::from_millis(100);

/// What a failed accept means for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody is waiting (EAGAIN).
    Nobody,
    /// A signal arrived (EINTR): look at the signals, then accept again.
    Interrupted,
    /// This one client is gone, or its network is: accept the next at once.
    Lost,
    /// Out of descriptors or memory. The client stays queued, so accepting again at once would
    /// spin: rest, or wait until a connection closes.
    Exhausted(Errno),
    /// The listening socket itself is unusable.
    Fatal(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EAGAIN => Self::Nobody,
            Errno::EINTR => Self::Interrupted,
            Errno::EBADF | Errno::EFAULT | Errno::EINVAL | Errno::ENOTSOCK => Self::Fatal(errno),
            // accept(2), "Error handling": Linux passes pending network errors of the new socket.
            Errno::ECONNABORTED
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ECONNRESET
            | Errno::ETIMEDOUT => Self::Lost,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and what nobody has seen yet must not spin either.
            _ => Self::Exhausted(errno),
        }
    }
}

/// Accepts one connection. Waits for it unless the listener is non-blocking. The connection is
/// blocking or not as asked, and closed on exec.
pub fn accept(listener: &Listener, blocking: Blocking) -> Result<(OwnedFd, Peer), Refusal> {
    let fd = listener.as_fd().as_raw_fd();
    let flags = match blocking {
        Blocking::Yes => libc::SOCK_CLOEXEC,
        Blocking::No => libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
    };
    let accepted = match blocking {
        Blocking::Yes => calls::may_block("accept", fd, || accept4(fd, flags)),
        Blocking::No => calls::at_once("accept", fd, || accept4(fd, flags)),
    };
    match sort(accepted) {
        // --mistake spin-on-emfile: as if it had been this one client only.
        Err(Refusal::Exhausted(_)) if listener.spins() && !signals::stopping() => {
            Err(Refusal::Lost)
        }
        other => other,
    }
}

/// Sorts what an accept has come to, whoever has made it.
pub fn sort<T>(accepted: nix::Result<T>) -> Result<T, Refusal> {
    match accepted.map_err(|errno| (Refusal::from(errno), errno)) {
        Ok(connection) => {
            LOST_IN_A_ROW.store(0, Relaxed);
            Ok(connection)
        }
        Err((Refusal::Lost, errno)) => {
            log::info!("a client was lost before it was accepted: {errno}");
            // A filter that forbids accept says EPERM for ever: nobody is lost, and to try again at
            // once would spin.
            let many = LOST_IN_A_ROW.fetch_add(1, Relaxed) > MANY;
            Err(if many {
                Refusal::Exhausted(errno)
            } else {
                Refusal::Lost
            })
        }
        Err((refusal, _)) => Err(refusal),
    }
}

/// More clients than this are not lost one after the other without one being accepted.
const MANY: u32 = 100;

static LOST_IN_A_ROW: AtomicU32 = AtomicU32::new(0);

/// Shall reads and writes on the accepted connection wait?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Yes: the thread or process has nothing else to do.
    Yes,
    /// No: a reactor's connection.
    No,
}

/// nix's accept4 does not return the address, and getpeername fails with ENOTCONN for a client
/// that was reset while it was queued.
#[expect(unsafe_code)]
fn accept4(listener: libc::c_int, flags: libc::c_int) -> nix::Result<(OwnedFd, Peer)> {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes of address, and the length it had.
    let fd = unsafe { libc::accept4(listener, (&raw mut storage).cast(), &raw mut length, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: a descriptor the kernel has just given us has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the kernel has filled in `length` bytes.
    let address = unsafe { SockaddrStorage::from_raw((&raw const storage).cast(), Some(length)) };
    Ok((fd, address.as_ref().map_or(Peer::UNKNOWN, Peer::from)))
}

/// Rests until [`PAUSE`] is over or a signal arrives.
pub fn pause() {
    // EINTR is as good as the end of the pause: the caller looks at the signals, then tries again.
    let _ = poll(
        &mut [],
        PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO),
    );
}

/// Says that nobody is accepted: one line per episode, however often it is tried again, and one
/// episode per second, however often a client that leaves makes room for just one more.
#[derive(Debug, Default)]
pub struct Exhaustion {
    lasts: bool,
    told: Option<Instant>,
    silently: bool,
}

impl Exhaustion {
    /// Accepting has failed; `open` connections are being served.
    pub fn began(&mut self, errno: Errno, open: usize) {
        if std::mem::replace(&mut self.lasts, true) {
            return;
        }
        self.silently = self
            .told
            .is_some_and(|at| at.elapsed() < Self::BETWEEN_LINES);
        if !self.silently {
            self.told = Some(Instant::now());
            let hint = match (errno, open) {
                (Errno::EMFILE, 0) => "; not one descriptor is left for a client: raise ulimit -n",
                (Errno::EMFILE, _) => "; raise ulimit -n, or set --max-connections below it",
                _ => "",
            };
            log::warn!(
                "not accepting for now, new clients wait ({open} connections open): {errno}{hint}"
            );
        }
    }

    /// Accepting has worked.
    pub fn ended(&mut self) {
        if std::mem::take(&mut self.lasts) && !self.silently {
            log::warn!("accepting again");
        }
    }

    const BETWEEN_LINES: Duration = Duration::from_secs(1);
}

/// The failure that ends the server, for [`Refusal::Fatal`].
pub fn failure(errno: Errno) -> Failure {
    Failure::new("cannot accept on the listening socket", errno)
}

/// The failure of a server that takes an interruption for one.
pub fn fatal_eintr() -> Failure {
    failure(Errno::EINTR).hint("a signal arrived during accept; --mistake fatal-eintr")
}

/// Who has connected, in 22 bytes (a `SocketAddr` has 32; the reactor keeps one per connection).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    ip: [u8; 16],
    scope: [u8; 4],
    port: u16,
}

impl Peer {
    /// A peer without an Internet address.
    pub const UNKNOWN: Self = Self {
        ip: [0; 16],
        scope: [0; 4],
        port: 0,
    };

    /// The peer of a connection that was accepted without its address; unknown if it has been reset
    /// meanwhile.
    pub fn of(connection: impl AsFd) -> Self {
        let fd = connection.as_fd().as_raw_fd();
        let mut peer = Self::UNKNOWN;
        let asked = calls::at_once("getpeername", fd, || {
            peer = Self::from(&getpeername::<SockaddrStorage>(fd)?);
            Ok(())
        });
        asked.map_or(Self::UNKNOWN, |()| peer)
    }

    /// The address; IPv4 as IPv4, also where it came through a dual-stack socket.
    pub fn address(self) -> SocketAddr {
        let ip = Ipv6Addr::from(self.ip);
        match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), self.port),
            None => SocketAddrV6::new(ip, self.port, 0, u32::from_ne_bytes(self.scope)).into(),
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        Self {
            ip: ip.octets(),
            scope: u32::to_ne_bytes(scope),
            port: address.port(),
        }
    }
}

impl From<&SockaddrStorage> for Peer {
    fn from(storage: &SockaddrStorage) -> Self {
        let v4 = storage
            .as_sockaddr_in()
            .map(|a| SocketAddr::V4((*a).into()));
        let any = v4.or_else(|| {
            storage
                .as_sockaddr_in6()
                .map(|a| SocketAddr::V6((*a).into()))
        });
        any.map_or(Self::UNKNOWN, Self::from)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNKNOWN {
            f.write_str("unknown")
        } else {
            self.address().fmt(f)
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_prints_as_its_address() {
        for text in ["127.0.0.1:7", "[::1]:9877", "[fe80::1%3]:80"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Peer::from(address).to_string(), text);
        }
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().expect("an address");
        assert_eq!(Peer::from(mapped).to_string(), "10.0.0.1:80");
    }

    #[test]
    fn an_unheard_of_error_makes_accepting_rest_rather_than_spin() {
        assert_eq!(
            Refusal::from(Errno::ENOSR),
            Refusal::Exhausted(Errno::ENOSR)
        );
        assert_eq!(Refusal::from(Errno::ECONNABORTED), Refusal::Lost);
        assert_eq!(Refusal::from(Errno::EINVAL), Refusal::Fatal(Errno::EINVAL));
    }
}
