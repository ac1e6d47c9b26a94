//! From a name and a port to a connection: every address in the order of getaddrinfo(3), each with
//! its own time limit. UNP 11.12 (`tcp_connect`), 16.3 (non-blocking connect).
//!
//! The socket is non-blocking: connect(2) starts, poll(2) waits, `SO_ERROR` tells. A blocking
//! connect would keep the kernel's patience (130 s of SYNs) and, when a signal interrupts it, goes
//! on behind our back.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use tcpecho_common::{Exit, calls};

use crate::session::is_silence;
use crate::socket::{Options, close_with_reset, is_connected_to_itself, take_error};

/// Why there is no connection.
#[derive(Debug)]
pub enum Failure {
    /// The name has no address, or nobody answered who could know. getaddrinfo has time limits of
    /// its own, and its errors are not errnos.
    Unresolved(String, io::Error),
    /// Every address failed.
    Refused(Vec<Attempt>),
}

/// One address that did not accept.
#[derive(Debug)]
pub struct Attempt {
    address: SocketAddr,
    cause: Cause,
}

/// Why an address did not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A system call said so.
    System(Errno),
    /// The time limit passed.
    NoAnswerWithin(Duration),
    /// Nobody listens, and the socket was connected to itself.
    ItselfAnswered,
}

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The time limit for each address.
    pub timeout: Duration,
    /// For each socket.
    pub options: Options,
}

/// Connects to the first address of `host` that accepts. The socket is non-blocking.
pub fn to(host: &str, port: u16, terms: &Terms) -> Result<TcpStream, Failure> {
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| Failure::Unresolved(host.into(), error))?;
    let mut failed = Vec::new();
    for address in addresses {
        log::info!("connecting to {address}");
        match one(address, terms) {
            Ok(stream) => return Ok(stream),
            Err(cause) => {
                let attempt = Attempt { address, cause };
                log::info!("{attempt}");
                failed.push(attempt);
            }
        }
    }
    Err(Failure::Refused(failed))
}

/// Connects to `address`. The socket is non-blocking.
pub fn one(address: SocketAddr, terms: &Terms) -> Result<TcpStream, Cause> {
    let Terms { timeout, options } = terms;
    let deadline = Instant::now() + *timeout;
    let stream = open(address).map(TcpStream::from).map_err(Cause::System)?;
    let connected = options
        .prepare(&stream)
        .map_err(Cause::System)
        .and_then(|()| establish(&stream, address, deadline))
        .and_then(|is_in_time| {
            if is_in_time {
                options.apply(&stream).map_err(Cause::System)
            } else {
                Err(Cause::NoAnswerWithin(*timeout))
            }
        });
    match connected {
        Ok(()) => Ok(stream),
        Err(cause) => {
            calls::close(stream.into());
            Err(cause)
        }
    }
}

/// Connects; false if `deadline` came first.
fn establish(stream: &TcpStream, address: SocketAddr, deadline: Instant) -> Result<bool, Cause> {
    let raw = stream.as_raw_fd();
    let start = calls::at_once("connect", raw, || {
        connect(raw, &SockaddrStorage::from(address))
    });
    match start {
        Ok(()) => {}
        Err(Errno::EINPROGRESS | Errno::EINTR) => {
            if !is_decided(stream, deadline).map_err(Cause::System)? {
                return Ok(false);
            }
        }
        Err(errno) => return Err(Cause::System(errno)),
    }
    take_error(stream).map_or(Ok(()), |errno| Err(Cause::System(errno)))?;
    if is_connected_to_itself(stream) {
        // An ordinary close would leave TIME-WAIT on the server's port, where no server could be
        // started for a minute.
        // It can fail only if the connection is gone.
        let _ = close_with_reset(stream);
        return Err(Cause::ItselfAnswered);
    }
    Ok(true)
}

fn open(address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = calls::at_once("socket", -1, || {
        socket(family, SockType::Stream, flags, None)
    })?;
    // What is typed leaves at once. Nagle would hold a line back while an earlier one is not
    // acknowledged; in bulk we hand over as much as we have anyway, so there is nothing to collect.
    calls::at_once("setsockopt", socket.as_raw_fd(), || {
        setsockopt(&socket, sockopt::TcpNoDelay, &true)
    })?;
    Ok(socket)
}

/// Waits until the handshake has succeeded or failed; false if `deadline` came first.
fn is_decided(socket: &TcpStream, deadline: Instant) -> nix::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, lest the last millisecond be spent spinning.
        let timeout =
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        match calls::may_block("poll", socket.as_raw_fd(), || poll(&mut fds, timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

impl Failure {
    /// The exit code that stands for it: an answer of any kind, even a refusal, is not silence.
    pub fn exit(&self) -> Exit {
        let Self::Refused(attempts) = self else {
            return Exit::Failed;
        };
        // A server may reset the connection before we have looked at it.
        if attempts
            .iter()
            .any(|attempt| attempt.met(|errno| errno == Errno::ECONNRESET))
        {
            Exit::Reset
        } else if attempts.iter().all(|attempt| attempt.met(is_silence)) {
            Exit::Unreachable
        } else {
            Exit::Failed
        }
    }

    /// A line for each thing that went wrong.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Unresolved(host, error) => vec![format!("cannot resolve '{host}': {error}")],
            Self::Refused(attempts) => attempts.iter().map(Attempt::to_string).collect(),
        }
    }
}

impl Attempt {
    fn met(&self, kind: impl Fn(Errno) -> bool) -> bool {
        kind(match self.cause {
            Cause::System(errno) => errno,
            Cause::NoAnswerWithin(_) => Errno::ETIMEDOUT,
            Cause::ItselfAnswered => Errno::ECONNREFUSED,
        })
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, cause } = self;
        write!(f, "cannot connect to {address}: ")?;
        let refused = Errno::ECONNREFUSED;
        let start = format!(
            "is the server running? start one: tcpechod {}",
            address.port()
        );
        match cause {
            Cause::System(errno) if *errno == refused => write!(f, "{refused} ({start})"),
            Cause::System(Errno::EINVAL) if needs_interface(address) => write!(
                f,
                "{} (a link-local address needs its interface: {}%eth0)",
                Errno::EINVAL,
                address.ip()
            ),
            Cause::System(errno) => write!(f, "{errno}"),
            Cause::NoAnswerWithin(limit) => {
                write!(f, "{} (--connect-timeout {limit:?})", Errno::ETIMEDOUT)
            }
            Cause::ItselfAnswered => {
                write!(f, "{refused} ({start}; the socket had connected to itself)")
            }
        }
    }
}

/// Is it valid on every link, and so on none in particular?
fn needs_interface(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(10);
    const TERMS: Terms = within(PATIENCE);

    const fn within(timeout: Duration) -> Terms {
        Terms {
            timeout,
            options: Options {
                keepalive: None,
                user_timeout: None,
                reset: false,
                receive_buffer: None,
            },
        }
    }

    #[test]
    fn a_listening_port_is_connected_without_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let stream = to("127.0.0.1", port, &TERMS).expect("a connection");
        assert!(stream.nodelay().expect("an option"));
        let (_, peer) = listener.accept().expect("accepted");
        assert_eq!(peer, stream.local_addr().expect("our address"));
    }

    #[test]
    fn a_port_nobody_listens_on_is_refused() {
        // Bound but not listening: nobody else gets the port meanwhile.
        let bound = open("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        nix::sys::socket::bind(
            bound.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], 0))),
        )
        .expect("bound");
        let port = TcpStream::from(bound.try_clone().expect("a copy"))
            .local_addr()
            .expect("its address")
            .port();
        let failure = to("127.0.0.1", port, &TERMS).expect_err("nobody listens");
        assert_eq!(failure.exit(), Exit::Failed);
        let line = format!(
            "cannot connect to 127.0.0.1:{port}: ECONNREFUSED: Connection refused \
             (is the server running? start one: tcpechod {port})"
        );
        assert_eq!(failure.lines(), [line]);
    }

    #[test]
    fn a_link_local_address_needs_its_interface() {
        let failure = to("fe80::1", 7, &TERMS).expect_err("of which link?");
        let hint = "(a link-local address needs its interface: fe80::1%eth0)";
        // A machine without IPv6 has another reason.
        if failure.lines()[0].contains("EINVAL") {
            assert!(failure.lines()[0].ends_with(hint), "{failure:?}");
        }
    }

    #[test]
    fn silence_from_every_address_is_unreachable_a_single_refusal_is_not() {
        let attempt = |cause| Attempt {
            address: ([127, 0, 0, 1], 9877).into(),
            cause,
        };
        let silence = || {
            vec![
                attempt(Cause::NoAnswerWithin(PATIENCE)),
                attempt(Cause::System(Errno::EHOSTUNREACH)),
            ]
        };
        assert_eq!(Failure::Refused(silence()).exit(), Exit::Unreachable);
        let mut mixed = silence();
        mixed.push(attempt(Cause::ItselfAnswered));
        assert_eq!(Failure::Refused(mixed).exit(), Exit::Failed);
        assert_eq!(
            attempt(Cause::NoAnswerWithin(Duration::from_millis(250))).to_string(),
            "cannot connect to 127.0.0.1:9877: ETIMEDOUT: Connection timed out (--connect-timeout 250ms)"
        );
    }

    #[test]
    fn a_full_backlog_ends_at_the_time_limit() {
        let listener = open(([127, 0, 0, 1], 0).into()).expect("a socket");
        let any = SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        nix::sys::socket::bind(listener.as_raw_fd(), &any).expect("bound");
        let backlog = nix::sys::socket::Backlog::new(0).expect("small");
        nix::sys::socket::listen(&listener, backlog).expect("listening");
        let port = TcpListener::from(listener.try_clone().expect("a copy"))
            .local_addr()
            .expect("its address")
            .port();
        let _queued = to("127.0.0.1", port, &TERMS).expect("backlog 0 queues one");
        let limit = Duration::from_millis(50);
        let start = Instant::now();
        let failure = to("127.0.0.1", port, &within(limit)).expect_err("the SYN is dropped");
        assert_eq!(failure.exit(), Exit::Unreachable);
        assert!(start.elapsed() >= limit);
    }
}
