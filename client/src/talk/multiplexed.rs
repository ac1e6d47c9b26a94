//! Waits for stdin, the socket and stdout at once, with mio.
//!
//! What it costs: an `epoll_wait` and a poll per burst of input, two buffers of 256 KiB, nothing
//! while nothing happens. What it buys: the server's FIN or reset is noticed when it arrives,
//! whether the user types or not, and whether anybody reads our stdout or not.
//!
//! The socket is registered once, edge-triggered: an event says that something changed, a flag
//! remembers it until a call says EAGAIN. Backpressure is a full buffer: no room, no read; the flag
//! stays, so nothing has to be registered anew. Thus a consumer that stops reading stops, one
//! after the other, us, the server, us again, and whoever writes to our stdin. Only stdout is
//! asked for room when it has none: see [`output`](crate::output).
//!
//! UNP 6.4, 6.7 (`str_cli` with select and shutdown), 16.2 (non-blocking `str_cli`); epoll(7).

use std::fmt;
use std::mem::replace;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use tcpecho_common::{Exit, calls};

use super::{Stop, report};
use crate::buffer::Buffer;
use crate::input::Input;
use crate::output::Output;
use crate::session::Session;
use crate::socket;

const SOCKET: Token = Token(0);
const STDIN: Token = Token(1);
const STDOUT: Token = Token(2);

/// Talks over `stream`, which is non-blocking, until one side ends it.
pub fn talk(stream: &TcpStream, stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>) -> Exit {
    match Talk::new(stream, stdin, stdout) {
        Ok(talk) => talk.run(),
        Err(stop) => stop.report(),
    }
}

struct Talk<'a> {
    poll: Poll,
    stream: &'a TcpStream,
    stdin: Input<'a>,
    stdout: Output<'a>,
    /// From stdin to the server.
    up: Buffer,
    /// From the server to stdout.
    down: Buffer,
    session: Session,
    /// May a read from the socket bring something, may a write to it, may a write to stdout?
    readable: bool,
    writable: bool,
    has_room: bool,
    /// When the first sign of the server's end was seen, and how long before that the last
    /// segment had come.
    sighting: Option<(Instant, Option<Duration>)>,
    /// The exit code, once it is certain and has been told.
    told: Option<Exit>,
}

impl<'a> Talk<'a> {
    fn new(
        stream: &'a TcpStream,
        stdin: BorrowedFd<'a>,
        stdout: BorrowedFd<'a>,
    ) -> Result<Self, Stop> {
        let poll = calls::at_once("epoll_create1", -1, || {
            Poll::new().map(Epoll).map_err(|error| calls::errno(&error))
        });
        let Epoll(poll) = poll.map_err(|errno| Stop::Failed("make an epoll", errno))?;
        let mut talk = Self {
            poll,
            stream,
            stdin: Input::over(stdin).map_err(Stop::stdin)?,
            stdout: Output::over(stdout).map_err(Stop::stdout)?,
            up: Buffer::default(),
            down: Buffer::default(),
            session: Session::default(),
            readable: true,
            writable: true,
            has_room: true,
            sighting: None,
            told: None,
        };
        talk.register()
            .map_err(|errno| Stop::Failed("wait for events", errno))?;
        Ok(talk)
    }

    fn register(&mut self) -> nix::Result<()> {
        let registry = self.poll.registry();
        // Priority: a read stops at the urgent mark, and what is behind it brings no other event.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let raw = self.stream.as_raw_fd();
        calls::at_once("epoll_ctl", raw, || {
            registry
                .register(&mut SourceFd(&raw), SOCKET, interest)
                .map_err(|error| calls::errno(&error))
        })?;
        self.stdin.register(registry, STDIN)?;
        self.stdout.watch(registry, STDOUT, false)
    }

    fn run(mut self) -> Exit {
        let mut events = Events::with_capacity(8);
        loop {
            let result = self.turn();
            if self.session.is_silent() && self.down.is_empty() {
                log::info!("closed: {}", self.session);
                return self.told.unwrap_or(Exit::Failed);
            }
            if let Err(stop) = result.and_then(|()| self.wait(&mut events)) {
                log::info!("stopping: {}", self.session);
                let exit = stop.report();
                // If the server's end was a bad one, that was told first and stays the reason.
                return self.told.filter(|told| *told != Exit::Done).unwrap_or(exit);
            }
        }
    }

    /// Does what can be done without waiting. The server comes before stdin: if both have ended
    /// meanwhile, it was there first.
    fn turn(&mut self) -> Result<(), Stop> {
        self.receive();
        let delivered = self.deliver();
        self.foresee();
        delivered?;
        self.take()?;
        self.send();
        Ok(())
    }

    fn receive(&mut self) {
        while self.readable && self.down.has_room() && !self.session.is_silent() {
            match self.down.fill(|room| calls::try_read(self.stream, room)) {
                Ok(0) => {
                    self.sight();
                    self.session.server_silent();
                }
                Ok(n) => self.session.received(n),
                // After a FIN or a reset a read never says so. A write can fail on a connection that
                // goes on (ENOBUFS): what had come was read, and the rest is not worth waiting for.
                Err(Errno::EAGAIN) if self.session.is_ending() => self.session.server_silent(),
                Err(Errno::EAGAIN) => self.readable = false,
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    self.fail(errno);
                    self.session.server_silent();
                }
            }
        }
    }

    fn deliver(&mut self) -> Result<(), Stop> {
        if !self.has_room {
            return Ok(());
        }
        match self.down.drain(|bytes| self.stdout.write(bytes)).1 {
            Ok(()) => {}
            Err(Errno::EAGAIN) => self.has_room = false,
            Err(errno) => return Err(Stop::stdout(errno)),
        }
        // As long as something is left we go on asking: a slow consumer costs no epoll_ctl.
        self.stdout
            .watch(self.poll.registry(), STDOUT, !self.has_room)
            .map_err(|errno| Stop::Failed("wait for events", errno))
    }

    fn take(&mut self) -> Result<(), Stop> {
        while self.session.wants_input() && self.stdin.is_ready() && self.up.has_room() {
            match self.up.fill(|room| self.stdin.read(room)) {
                Ok(0) => self.session.input_ended(),
                Ok(n) => {
                    self.session.took(n);
                    // The rest can wait until this has been sent.
                    return Ok(());
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(Stop::stdin(errno)),
            }
        }
        Ok(())
    }

    fn send(&mut self) {
        if self.writable && self.session.may_send() {
            let (sent, result) = self.up.drain(|bytes| calls::try_write(self.stream, bytes));
            self.session.sent(sent);
            match result {
                Ok(()) => {}
                Err(Errno::EAGAIN) => self.writable = false,
                Err(errno) => self.fail(errno),
            }
        }
        if self.session.should_half_close() {
            let fd = self.stream.as_raw_fd();
            // It fails only where the connection has failed, and a read will tell that.
            let _ = calls::at_once("shutdown", fd, || shutdown(fd, Shutdown::Write));
            self.session.half_closed();
        }
    }

    /// The connection failed. What came before can still be read.
    fn fail(&mut self, errno: Errno) {
        self.sight();
        self.session.failed(errno);
        self.readable = true;
    }

    /// Keeps the moment of the first sign of the end.
    fn sight(&mut self) {
        self.sighting.get_or_insert_with(|| {
            let heard = socket::last_segments(self.stream).map(|last| last.heard);
            (Instant::now(), heard)
        });
    }

    /// Tells a bad end as soon as it is certain, which may be long before stdout has taken all
    /// that came before it. Delivery goes on for as long as somebody reads: losing bytes is worse
    /// than staying.
    fn foresee(&mut self) {
        if self.told.is_some() || !self.session.is_ending() {
            return;
        }
        let unread = if self.session.is_silent() {
            0
        } else {
            // Once the end has arrived nothing can come after it.
            socket::unread(self.stream).unwrap_or(0)
        };
        let Some(outcome) = self.session.outcome(unread) else {
            return;
        };
        let heard = self
            .sighting
            .and_then(|(at, heard)| heard.map(|age| age + at.elapsed()));
        self.told = Some(report(outcome, heard, self.down.len() as u64 + unread));
    }

    /// Waits for events, or only collects them if there is something to do.
    fn wait(&mut self, events: &mut Events) -> Result<(), Stop> {
        let (fd, has_work) = (self.poll.as_raw_fd(), self.has_work());
        let poll = &mut self.poll;
        let mut wait = |timeout| {
            poll.poll(events, timeout).map_err(|e| calls::errno(&e))?;
            Ok(events.iter().count())
        };
        let result = if has_work {
            calls::at_once("epoll_wait", fd, || wait(Some(Duration::ZERO)))
        } else {
            calls::may_block("epoll_wait", fd, || wait(None))
        };
        match result {
            Ok(_) => events.iter().try_for_each(|event| self.note(event)),
            // Stopped and continued, or the like.
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Stop::Failed("wait for events", errno)),
        }
    }

    /// Is there something that a turn could do now?
    fn has_work(&self) -> bool {
        let receive = self.readable && self.down.has_room() && !self.session.is_silent();
        let deliver = self.has_room && !self.down.is_empty();
        let take = self.session.wants_input() && self.stdin.is_ready() && self.up.has_room();
        let send = self.writable && self.session.may_send() && !self.up.is_empty();
        receive || deliver || take || send
    }

    fn note(&mut self, event: &Event) -> Result<(), Stop> {
        let (what, is_news) = match event.token() {
            SOCKET => ("socket", self.note_socket(event)),
            STDIN => ("stdin", self.stdin.woken()),
            _ => ("stdout", !replace(&mut self.has_room, true)),
        };
        let nobody_reads = what == "stdout" && event.is_error() && self.stdout.is_pipe();
        // A line for what changes nothing could be the reason for the next event.
        if is_news || nobody_reads {
            log::debug!("ready: {what} {}", Readiness(event));
        }
        if nobody_reads {
            return Err(Stop::NobodyReads);
        }
        Ok(())
    }

    /// The error comes before the end that it brings about. That is all we believe an event:
    /// whether there is more to read, a read must say. Returns whether it changes anything.
    fn note_socket(&mut self, event: &Event) -> bool {
        let before = (self.readable, self.writable, self.session);
        if event.is_error() {
            if let Some(errno) = socket::take_error(self.stream) {
                self.fail(errno);
            }
        }
        if event.is_read_closed() {
            self.sight();
            self.session.server_ending();
        }
        self.readable = true;
        self.writable |= event.is_writable();
        before != (self.readable, self.writable, self.session)
    }
}

/// What epoll_create1 returns.
struct Epoll(Poll);

impl calls::Figure for Epoll {
    fn figure(&self) -> i64 {
        i64::from(self.0.as_raw_fd())
    }
}

/// What an event says, in words.
struct Readiness<'a>(&'a Event);

impl fmt::Display for Readiness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(event) = self;
        let words = [
            (event.is_readable(), "readable"),
            (event.is_writable(), "writable"),
            (event.is_priority(), "urgent"),
            (event.is_read_closed(), "read-closed"),
            (event.is_write_closed(), "write-closed"),
            (event.is_error(), "error"),
        ];
        let said: Vec<_> = words
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, w)| *w)
            .collect();
        f.write_str(&said.join(", "))
    }
}
