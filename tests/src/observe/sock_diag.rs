//! The state of one TCP socket, asked for by its two addresses; `sock_diag(7)`.
//!
//! /proc/net/tcp walks a table of the whole host, which takes milliseconds; this is a lookup, and
//! can be asked every millisecond.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr as KernelAddr};
use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP};

use crate::observe::sockets::{self, State};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// `INET_DIAG_CONG`.
const CONGESTION: u16 = 4;
/// `INET_DIAG_SKMEMINFO`.
const MEMORY: u16 = 7;
/// `idiag_timer` where the next thing to be sent is a keepalive probe.
const KEEPALIVE: u8 = 2;
/// `idiag_timer` where nothing is waited for but the end of TIME-WAIT.
const TIME_WAIT: u8 = 3;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// An open question to the kernel; can be asked again and again.
#[derive(Debug)]
pub struct SockDiag(Netlink);

impl SockDiag {
    /// Opens it, for this thread's network namespace.
    pub fn open() -> Result<Self> {
        let mut socket = Netlink::new(NETLINK_SOCK_DIAG).context("a netlink socket")?;
        socket.bind_auto()?;
        socket.connect(&KernelAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The state of the socket whose own address is `local`; None if there is none (any more).
    pub fn state(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<State>> {
        let answer = self.ask(local, remote)?;
        Ok(answer.map(|answer| answer.state))
    }

    /// The bytes that wait to be read from it; None if there is no such socket.
    pub fn unread(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<u32>> {
        let answer = self.ask(local, remote)?;
        Ok(answer.map(|answer| answer.unread))
    }

    /// The bytes it has sent, or will, that nobody has acknowledged; None if there is no such socket.
    pub fn unacknowledged(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<u32>> {
        let answer = self.ask(local, remote)?;
        Ok(answer.map(|answer| answer.limit))
    }

    /// How often in a row it has sent the same again, unacknowledged; None if there is no such socket.
    pub fn sent_again(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<u8>> {
        let answer = self.ask(local, remote)?;
        Ok(answer.map(|answer| answer.sent_again))
    }

    /// The name of its congestion control; None if there is no such socket.
    pub fn congestion(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<String>> {
        let bytes = self.exchange(local, remote)?;
        let is_there = understand(&bytes)?.is_some_and(|answer| answer.state != State::Listen);
        let name = attribute(&bytes, CONGESTION).filter(|_| is_there);
        let name = name.and_then(|name| name.split(|byte| *byte == 0).next());
        Ok(name.map(|name| String::from_utf8_lossy(name).into_owned()))
    }

    /// When the kernel will send a keepalive probe from it if it hears nothing until then; None if it
    /// never will, or waits for something else meanwhile.
    pub fn next_probe(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<Duration>> {
        let answer = self.ask(local, remote)?;
        let keepalive = answer.filter(|answer| answer.timer == KEEPALIVE);
        Ok(keepalive.map(|answer| answer.expires))
    }

    /// How much longer it stays in TIME-WAIT; None if it is not in it.
    pub fn time_wait_left(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Duration>> {
        let answer = self.ask(local, remote)?;
        let waits = answer.filter(|a| a.state == State::TimeWait && a.timer == TIME_WAIT);
        Ok(waits.map(|answer| answer.expires))
    }

    /// How many connections wait for accept at the listener with this address; None if nobody
    /// listens there.
    pub fn queued(&self, local: SocketAddr) -> Result<Option<u32>> {
        Ok(self.listener(local)?.map(|answer| answer.unread))
    }

    /// How many connections may wait for accept at the listener with this address.
    pub fn backlog(&self, local: SocketAddr) -> Result<Option<u32>> {
        Ok(self.listener(local)?.map(|answer| answer.limit))
    }

    /// How many segments the listener with this address has dropped; None if nobody listens there.
    pub fn dropped(&self, local: SocketAddr) -> Result<Option<u32>> {
        /// `SK_MEMINFO_DROPS`, the ninth of its numbers.
        const DROPS: usize = 8;
        let bytes = self.exchange(local, nobody(local))?;
        let listens = understand(&bytes)?.is_some_and(|answer| answer.state == State::Listen);
        let numbers = attribute(&bytes, MEMORY).filter(|_| listens);
        let drops = numbers.and_then(|numbers| numbers.chunks_exact(4).nth(DROPS));
        Ok(drops.and_then(|drops| drops.try_into().ok().map(u32::from_ne_bytes)))
    }

    fn listener(&self, local: SocketAddr) -> Result<Option<Answer>> {
        let answer = self.look_up(local, nobody(local))?;
        Ok(answer.filter(|answer| answer.state == State::Listen))
    }

    fn ask(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<Answer>> {
        // A connection that is gone is answered with the listener, if there is one.
        let answer = self.look_up(local, remote)?;
        Ok(answer.filter(|answer| answer.state != State::Listen))
    }

    fn look_up(&self, local: SocketAddr, remote: SocketAddr) -> Result<Option<Answer>> {
        understand(&self.exchange(local, remote)?)
    }

    fn exchange(&self, local: SocketAddr, remote: SocketAddr) -> Result<Vec<u8>> {
        self.0.send(&question(local, remote), 0)?;
        // The kernel answers before send returns.
        let (answer, _) = self.0.recv_from_full()?;
        Ok(answer)
    }
}

/// What the kernel says of a socket.
#[derive(Clone, Copy, Debug)]
struct Answer {
    state: State,
    /// `idiag_timer`: what the kernel waits for on its own, and `idiag_expires`: how much longer.
    timer: u8,
    expires: Duration,
    /// `idiag_retrans`.
    sent_again: u8,
    /// `idiag_rqueue`: bytes not yet read; of a listener, connections not yet accepted.
    unread: u32,
    /// `idiag_wqueue`: bytes not yet acknowledged; of a listener, its backlog.
    limit: u32,
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    const LENGTH: usize = HEADER + 56;
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend((LENGTH as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // sequence number, port id
    let attributes = 1 << (CONGESTION - 1) | 1 << (MEMORY - 1);
    bytes.extend([family as u8, IPPROTO_TCP as u8, attributes, 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // any state
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(sixteen(local.ip()));
    bytes.extend(sixteen(remote.ip()));
    bytes.extend([0; 4]); // any interface
    bytes.extend([0xff; 8]); // no cookie
    bytes
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
    }
}

/// The peer of a listener.
fn nobody(local: SocketAddr) -> SocketAddr {
    let ip = match local {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

/// `struct nlmsghdr`, and then `struct inet_diag_msg` or an errno.
fn understand(answer: &[u8]) -> Result<Option<Answer>> {
    /// Of `idiag_rqueue`, behind four bytes, the addresses and a timer.
    const UNREAD: usize = HEADER + 4 + 48 + 4;
    let kind = answer
        .get(4..6)
        .context("a netlink answer without a header")?;
    if kind == NLMSG_ERROR.to_ne_bytes() {
        let code = answer.get(HEADER..HEADER + 4).context("no errno")?;
        let code = i32::from_ne_bytes(code.try_into()?);
        if code == -nix::libc::ENOENT {
            return Ok(None);
        }
        bail!(std::io::Error::from_raw_os_error(-code));
    }
    let number = *answer.get(HEADER + 1).context("no state in the answer")?;
    let timer = *answer.get(HEADER + 2).context("no timer in the answer")?;
    let sent_again = *answer.get(HEADER + 3).context("a short answer")?;
    let word = |at: usize| -> Result<u32> {
        let bytes = answer.get(at..at + 4).context("a short answer")?;
        Ok(u32::from_ne_bytes(bytes.try_into()?))
    };
    let (unread, limit) = (word(UNREAD)?, word(UNREAD + 4)?);
    let expires = Duration::from_millis(word(UNREAD - 4)?.into());
    let state = sockets::state(number);
    Ok(state.map(|state| Answer {
        state,
        timer,
        expires,
        sent_again,
        unread,
        limit,
    }))
}

/// The attributes stand behind `struct inet_diag_msg`: length, kind, value, padded to four bytes.
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = answer.get(HEADER + 72..)?;
    loop {
        let number = |at| Some(u16::from_ne_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
        let (length, kind) = (usize::from(number(0)?), number(2)?);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::eventually;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use nix::errno::Errno;
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen,
        setsockopt, socket, sockopt,
    };

    fn follow(bind: &str) {
        let diag = SockDiag::open().expect("netlink");
        let listener = TcpListener::bind(bind).expect("a port");
        let server = listener.local_addr().expect("bound");
        let queued = || diag.queued(server).expect("an answer");
        assert_eq!(queued(), Some(0));
        let backlog = |local| diag.backlog(local).expect("an answer");
        assert!(backlog(server).is_some_and(|limit| limit > 0));
        assert_eq!(backlog(SocketAddr::new(server.ip(), 1)), None);
        let near = TcpStream::connect(server).expect("a listener");
        let client = near.local_addr().expect("bound");
        let soon = Duration::from_secs(10);
        let probe = || (queued() == Some(1)).then_some(());
        eventually("one in the queue", soon, probe).expect("it has connected");
        let nobody = SocketAddr::new(server.ip(), 1);
        let (far, _) = listener.accept().expect("queued");
        let state = |local, remote| diag.state(local, remote).expect("an answer");
        assert_eq!(state(client, server), Some(State::Established));
        assert_eq!(state(server, client), Some(State::Established));
        let default = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        let default = default.expect("the default").trim().to_owned();
        let congestion = |local, remote| diag.congestion(local, remote).expect("an answer");
        assert_eq!(congestion(client, server), Some(default));
        assert_eq!(congestion(server, nobody), None, "not the listener's");
        (&near).write_all(b"hello").expect("room");
        let unread = |local, remote| diag.unread(local, remote).expect("an answer");
        assert_eq!(unread(server, client), Some(5));
        assert_eq!(unread(client, server), Some(0));
        let acknowledged = || {
            let bytes = diag.unacknowledged(client, server).expect("an answer");
            (bytes == Some(0)).then_some(())
        };
        eventually("an acknowledgement", soon, acknowledged).expect("it comes");
        (&far).read_exact(&mut [0; 5]).expect("it has arrived");
        assert_eq!(unread(server, client), Some(0));
        let becomes = |local, remote, wanted| {
            let soon = Duration::from_secs(10);
            let probe = || (state(local, remote) == wanted).then_some(());
            eventually(&format!("{wanted:?}"), soon, probe).expect("the next state");
        };
        drop(far);
        becomes(server, client, Some(State::FinWait2));
        becomes(client, server, Some(State::CloseWait));
        drop(near);
        becomes(server, client, Some(State::TimeWait));
        let left = |local, remote| diag.time_wait_left(local, remote).expect("an answer");
        assert!(left(server, client).is_some_and(|left| left.as_secs() >= 30));
        becomes(client, server, None);
        assert_eq!(left(client, server), None);
        assert_eq!(state(server, nobody), None, "not the listener");
        drop(listener);
        assert_eq!(queued(), None);
    }

    #[test]
    fn a_connection_is_followed_by_its_addresses() {
        follow("127.0.0.1:0");
    }

    #[test]
    fn a_keepalive_is_seen_before_it_is_sent() {
        let diag = SockDiag::open().expect("netlink");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("bound");
        let near = TcpStream::connect(server).expect("a listener");
        let client = near.local_addr().expect("bound");
        let probe = || diag.next_probe(client, server).expect("an answer");
        assert_eq!(probe(), None);
        setsockopt(&near, sockopt::TcpKeepIdle, &1000).expect("an option");
        setsockopt(&near, sockopt::KeepAlive, &true).expect("an option");
        let seconds = probe().expect("a timer").as_secs();
        assert!((900..=1000).contains(&seconds), "{seconds}");
        assert_eq!(diag.next_probe(server, client).expect("an answer"), None);
    }

    #[test]
    fn a_full_listener_counts_what_it_drops() {
        let diag = SockDiag::open().expect("netlink");
        let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let socket = |flags| {
            let flags = SockFlag::SOCK_CLOEXEC | flags;
            socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket")
        };
        let listener = socket(SockFlag::empty());
        bind(listener.as_raw_fd(), &SockaddrStorage::from(loopback)).expect("a port");
        listen(&listener, Backlog::new(0).expect("small")).expect("bound");
        let listener = TcpListener::from(listener);
        let server = listener.local_addr().expect("bound");
        let _queued = TcpStream::connect(server).expect("room for one");
        assert_eq!(diag.dropped(server).expect("an answer"), Some(0));
        let late = socket(SockFlag::SOCK_NONBLOCK);
        let began = connect(late.as_raw_fd(), &SockaddrStorage::from(server));
        assert_eq!(began, Err(Errno::EINPROGRESS));
        let late = TcpStream::from(late);
        let client = late.local_addr().expect("bound");
        let again = || diag.sent_again(client, server).expect("an answer");
        let soon = Duration::from_secs(20);
        let sent = eventually("a second SYN", soon, || again().filter(|n| *n > 0));
        assert!(sent.expect("a second later") > 0);
        // What has been sent may not have arrived yet.
        let dropped = || diag.dropped(server).expect("an answer");
        let twice = eventually("two drops", soon, || dropped().filter(|n| *n >= 2));
        assert!(twice.is_ok(), "{:?}", dropped());
        drop(listener);
        assert_eq!(diag.dropped(server).expect("an answer"), None);
    }

    #[test]
    fn ipv6_as_well() {
        follow("[::1]:0");
    }
}
