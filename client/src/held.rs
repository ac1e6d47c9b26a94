//! Connections that are opened and held, and on which nothing is said: the client that opens N of
//! them and talks on the first (UNP 5.10, tcpcli04). At its end all are closed at once, N FINs in
//! a row, and N children of a forking server end together.
//!
//! Nothing is read from them: a FIN, and how a connection failed, poll(2) can tell without that.
//! What an unruly server sends stays in the kernel.
//!
//! What it costs: a descriptor and a port for each, and what the server spends. Which of these is
//! used up first, [`Shortage`] says.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tcpecho_common::{Exit, calls, logging};

use crate::PROGRAM;
use crate::connect::{self, Terms};
use crate::session;
use crate::socket::{last_segments, take_error};

/// The peer's FIN, or a failure, which poll tells in any case. nix has no name for it.
const ENDED: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// So many lines are told at once; what is said after them is collected for this long, because
/// thousands of connections may end one after the other.
const AT_ONCE: u32 = 8;
const COLLECTED_FOR: Duration = Duration::from_millis(100);

/// See the module's head.
#[derive(Debug, Default)]
pub struct Held {
    connections: Vec<Connection>,
    /// What the first end among them stands for.
    lost: Option<Exit>,
    /// Ends that are still to be told, how many lines have been, and when the last was.
    untold: Vec<(SocketAddr, End)>,
    lines: u32,
    last_line: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    has_ended: bool,
}

/// How a held connection ended: all that can be said without having talked.
type End = (session::Cause, Option<Duration>);

/// Why there are not as many connections as were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    address: SocketAddr,
    wanted: usize,
    got: usize,
    cause: connect::Cause,
}

impl Held {
    /// Opens as many as it takes to have `wanted` with `first`, to the same address.
    pub fn beside(first: &TcpStream, wanted: usize, terms: &Terms) -> Result<Self, Shortage> {
        let mut held = Self::default();
        if wanted < 2 {
            return Ok(held);
        }
        raise_limit();
        // If it has been reset already, whoever talks will notice; we have nowhere to go.
        let Ok(address) = first.peer_addr() else {
            return Ok(held);
        };
        while held.connections.len() + 1 < wanted {
            match connect::one(address, terms) {
                Ok(stream) => held.connections.push(Connection {
                    stream,
                    has_ended: false,
                }),
                Err(cause) => {
                    let got = held.connections.len() + 1;
                    held.close();
                    return Err(Shortage {
                        address,
                        wanted,
                        got,
                        cause,
                    });
                }
            }
        }
        log::info!("{} connections held", held.connections.len());
        Ok(held)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Asks for an event when one of them ends: with token `first`, `first` + 1 ...
    pub fn register(&self, registry: &Registry, first: usize) -> nix::Result<()> {
        for (connection, token) in self.connections.iter().zip(first..) {
            let raw = connection.stream.as_raw_fd();
            calls::at_once("epoll_ctl", raw, || {
                registry
                    .register(&mut SourceFd(&raw), Token(token), Interest::READABLE)
                    .map_err(|error| calls::errno(&error))
            })?;
        }
        Ok(())
    }

    /// Looks at those with these numbers, and tells which of them have ended meanwhile, now or
    /// when [`next_line`](Self::next_line) says.
    pub fn look_at(&mut self, numbers: impl IntoIterator<Item = usize>) {
        self.collect(numbers);
        if self.untold.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.next_line().is_none_or(|due| due <= now) {
            say(self.tell(now));
        }
    }

    /// Looks at all of them, and keeps nothing back.
    pub fn look(&mut self) {
        self.collect(0..self.len());
        say(self.tell(Instant::now()));
    }

    /// When there will be something to tell; None: nothing, or at once.
    pub fn next_line(&self) -> Option<Instant> {
        let waits = !self.untold.is_empty() && self.lines >= AT_ONCE;
        self.last_line
            .filter(|_| waits)
            .map(|last| last + COLLECTED_FOR)
    }

    fn collect(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            if let Some(end) = connection.end() {
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                let address = connection.stream.local_addr().unwrap_or(unknown);
                log::info!("held connection {address}: {}", end.0.told(end.1));
                self.untold.push((address, end));
                self.lost.get_or_insert(end.0.exit());
            }
        }
    }

    /// The lines for all that is untold.
    fn tell(&mut self, now: Instant) -> Vec<String> {
        let lines = lines(&std::mem::take(&mut self.untold), self.len());
        if !lines.is_empty() {
            self.lines += lines.len() as u32;
            self.last_line = Some(now);
        }
        lines
    }

    /// The exit code of a talk that would end with `exit`: all is well only if none was lost.
    pub fn judge(&self, exit: Exit) -> Exit {
        match (exit, self.lost) {
            (Exit::Done, Some(lost)) => lost,
            _ => exit,
        }
    }

    /// Closes them, one right after the other.
    pub fn close(self) {
        for connection in self.connections {
            calls::close(connection.stream.into());
        }
    }
}

impl Connection {
    /// How it has ended, once.
    fn end(&mut self) -> Option<End> {
        if self.has_ended {
            return None;
        }
        let mut fds = [PollFd::new(self.stream.as_fd(), ENDED)];
        let raw = self.stream.as_raw_fd();
        let looked = calls::at_once("poll", raw, || poll(&mut fds, PollTimeout::ZERO));
        if looked != Ok(1) {
            return None;
        }
        self.has_ended = true;
        let heard = last_segments(&self.stream).map(|last| last.heard);
        let cause = take_error(&self.stream)
            // After the FIN, EPIPE is how a reset is told: the FIN was the end.
            .filter(|errno| *errno != Errno::EPIPE)
            .map_or(session::Cause::Fin, session::Cause::Failed);
        Some((cause, heard))
    }
}

fn say(lines: Vec<String>) {
    for line in lines {
        logging::say(PROGRAM, line);
    }
}

/// One line for each cause.
fn lines(ended: &[(SocketAddr, End)], total: usize) -> Vec<String> {
    let mut causes: Vec<session::Cause> = Vec::new();
    for (_, (cause, _)) in ended {
        if !causes.contains(cause) {
            causes.push(*cause);
        }
    }
    causes
        .iter()
        .map(|cause| {
            let alike = ended.iter().filter(|(_, end)| end.0 == *cause);
            let alike: Vec<_> = alike.collect();
            // How long ago: of the last, which was the reason to look.
            let told = alike
                .last()
                .map_or_else(String::new, |(_, (cause, heard))| cause.told(*heard));
            match alike[..] {
                [(address, _)] => format!("held connection {address}: {told}"),
                _ => format!("{} of {total} held connections: {told}", alike.len()),
            }
        })
        .collect()
}

/// As many descriptors as we may have.
fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // If it fails, the limit will be told when it is reached.
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        log::info!("descriptors: soft limit raised from {soft} to {hard}");
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            wanted,
            got,
            cause,
        } = self;
        write!(f, "only {got} of {wanted} connections to {address}: ")?;
        match cause {
            connect::Cause::System(errno) => {
                write!(f, "{errno}")?;
                match way_out(*errno) {
                    Some(hint) => write!(f, " ({hint})"),
                    None => Ok(()),
                }
            }
            connect::Cause::NoAnswerWithin(limit) => write!(
                f,
                "the server takes no more: no answer within {limit:?} (its queue is full: start it \
                 with a higher --backlog, or with a model that serves more clients)"
            ),
            connect::Cause::ItselfAnswered => {
                write!(f, "{} (the server has gone)", Errno::ECONNREFUSED)
            }
        }
    }
}

/// Whose limit it is, and what can be done about it.
fn way_out(errno: Errno) -> Option<String> {
    let setting = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join("-")
    };
    Some(match errno {
        Errno::EADDRNOTAVAIL => format!(
            "ports are the limit: each connection to one server address needs one of its own, from \
             net.ipv4.ip_local_port_range, here {}; widen it with sysctl, wait 60 s for TIME-WAIT \
             to end, or use another address of the server as well",
            setting("/proc/sys/net/ipv4/ip_local_port_range")
        ),
        Errno::EMFILE => format!(
            "descriptors are the limit: this process may have {}; raise the hard one (ulimit -Hn, \
             as root), or start several clients",
            getrlimit(Resource::RLIMIT_NOFILE)
                .map_or_else(|_| "no more".into(), |(s, _)| s.to_string())
        ),
        Errno::ENFILE => format!(
            "descriptors are the limit, of the whole system: sysctl fs.file-max, here {}",
            setting("/proc/sys/fs/file-max")
        ),
        Errno::ENOBUFS | Errno::ENOMEM => "the kernel's memory is the limit".into(),
        Errno::ECONNREFUSED | Errno::ECONNRESET => {
            "the server is the limit: it takes no more, or has gone".into()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{Options, close_with_reset};
    use session::Cause::{Failed, Fin};
    use std::net::{Shutdown, TcpListener};

    const TERMS: Terms = Terms {
        timeout: Duration::from_secs(10),
        options: Options {
            keepalive: None,
            user_timeout: None,
            reset: false,
            receive_buffer: None,
        },
    };

    /// As many connections as that, beside one that is for talking, and the server's ends.
    fn hold(number: usize) -> (TcpStream, Held, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let first = connect::one(address, &TERMS).expect("it listens");
        let held = Held::beside(&first, number + 1, &TERMS).expect("it listens");
        let mut accepted: Vec<_> = (0..=number)
            .map(|_| listener.accept().expect("queued").0)
            .collect();
        accepted.remove(0);
        (first, held, accepted)
    }

    /// What there is to tell.
    fn news(held: &mut Held) -> Vec<String> {
        held.collect(0..9);
        held.tell(Instant::now())
    }

    /// Waits until the kernel has news of connection `number`.
    fn wait_for_end(held: &Held, number: usize) {
        let stream = &held.connections[number].stream;
        let mut fds = [PollFd::new(stream.as_fd(), ENDED)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)), Ok(1));
    }

    #[test]
    fn each_end_is_noticed_once() {
        let (_first, mut held, servers) = hold(1);
        assert_eq!(held.connections[0].end(), None);
        servers[0].shutdown(Shutdown::Write).expect("connected");
        wait_for_end(&held, 0);
        let mut end = || held.connections[0].end().map(|(cause, _)| cause);
        assert_eq!((end(), end()), (Some(Fin), None));
    }

    #[test]
    fn the_first_end_decides_on_the_exit_code_if_all_else_is_well() {
        let (_first, mut held, servers) = hold(3);
        assert!(news(&mut held).is_empty());
        assert_eq!(held.judge(Exit::Done), Exit::Done);
        close_with_reset(&servers[1]).expect("a socket option");
        let mut servers = servers.into_iter();
        let kept = servers.next();
        drop(servers.next());
        wait_for_end(&held, 1);
        assert_eq!(news(&mut held).len(), 1);
        let ended = [false, true, false];
        assert!(held.connections.iter().map(|c| c.has_ended).eq(ended));
        drop(kept);
        wait_for_end(&held, 0);
        assert_eq!(news(&mut held).len(), 1);
        assert_eq!(held.judge(Exit::Done), Exit::Reset);
        assert_eq!(held.judge(Exit::Failed), Exit::Failed);
    }

    #[test]
    fn what_is_sent_unasked_is_no_end() {
        use std::io::Write;
        let (_first, mut held, mut servers) = hold(1);
        servers[0].write_all(b"welcome\n").expect("room");
        let stream = &held.connections[0].stream;
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)), Ok(1));
        assert!(news(&mut held).is_empty());
        assert_eq!(held.judge(Exit::Done), Exit::Done);
        drop(servers);
        wait_for_end(&held, 0);
        assert_eq!(news(&mut held).len(), 1);
        assert_eq!(held.judge(Exit::Done), Exit::Premature);
    }

    #[test]
    fn many_ends_are_told_in_one_line_for_each_cause() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (fin, reset) = (
            (Fin, Some(Duration::ZERO)),
            (Failed(Errno::ECONNRESET), None),
        );
        assert_eq!(
            lines(&[(at(1), fin), (at(3), reset), (at(2), fin)], 9),
            [
                "2 of 9 held connections: server terminated prematurely (FIN) 0 ms ago",
                "held connection 127.0.0.1:3: server reset the connection (RST)",
            ]
        );
        assert!(lines(&[], 9).is_empty());
    }

    #[test]
    fn the_first_are_told_at_once_and_then_some_at_a_time() {
        let (mut held, start) = (Held::default(), Instant::now());
        let end = (SocketAddr::from(([127, 0, 0, 1], 7)), (Fin, None));
        for _ in 0..AT_ONCE {
            held.untold.push(end);
            assert_eq!(held.next_line(), None);
            assert_eq!(held.tell(start).len(), 1);
        }
        assert_eq!(held.next_line(), None);
        held.untold.push(end);
        held.untold.push(end);
        assert_eq!(held.next_line(), Some(start + COLLECTED_FOR));
        assert_eq!(held.tell(start + COLLECTED_FOR).len(), 1);
        assert_eq!(held.next_line(), None);
    }

    #[test]
    fn a_shortage_names_the_limit_and_the_way_out() {
        for (cause, told) in [
            (
                connect::Cause::System(Errno::EADDRNOTAVAIL),
                "ports are the limit",
            ),
            (
                connect::Cause::System(Errno::EMFILE),
                "descriptors are the limit: this process may have",
            ),
            (
                connect::Cause::System(Errno::ENFILE),
                "of the whole system: sysctl fs.file-max",
            ),
            (
                connect::Cause::NoAnswerWithin(Duration::from_secs(10)),
                "no answer within 10s (its queue is full",
            ),
            (connect::Cause::ItselfAnswered, "the server has gone"),
        ] {
            let shortage = Shortage {
                address: ([127, 0, 0, 1], 9877).into(),
                wanted: 20,
                got: 12,
                cause,
            };
            let text = shortage.to_string();
            let start = "only 12 of 20 connections to 127.0.0.1:9877: ";
            assert!(text.starts_with(start) && text.contains(told), "{text}");
        }
    }
}
