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
//! Whatever takes time on purpose (`--split-write`, `--read-rate`, time limits) is a deadline for
//! the same wait, never a sleep: a pause does not make us deaf.
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
use tcpecho_common::{Exit, calls, queues};

use super::{Manner, Stop, report};
use crate::buffer::Buffer;
use crate::held::Held;
use crate::input::Input;
use crate::output::Output;
use crate::patience::Patience;
use crate::rate::ReadRate;
use crate::session::{Leave, Session};
use crate::sigpipe;
use crate::socket;
use crate::split::SplitWrite;

const SOCKET: Token = Token(0);
const STDIN: Token = Token(1);
const STDOUT: Token = Token(2);
/// The first of the held connections.
const HELD: usize = 3;

/// More events than this are collected with the next wait.
const EVENTS_AT_ONCE: usize = 1024;

/// Talks over `stream`, which is non-blocking, until one side ends it, and watches over the `held`
/// ones meanwhile.
pub fn talk(
    stream: &TcpStream,
    held: &mut Held,
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    manner: &Manner,
) -> Exit {
    match Talk::new(stream, held, stdin, stdout, manner) {
        Ok(talk) => talk.run(),
        Err(stop) => stop.report(),
    }
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "edges seen, which nobody tells again"
)]
struct Talk<'a> {
    poll: Poll,
    stream: &'a TcpStream,
    held: &'a mut Held,
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
    /// Has the server ever sent urgent data?
    urgent: bool,
    /// When the first sign of the server's end was seen, and how long before that the last
    /// segment had come.
    sighting: Option<(Instant, Option<Duration>)>,
    /// The exit code, once it is certain and has been told.
    told: Option<Exit>,
    split: Option<SplitWrite>,
    rate: Option<ReadRate>,
    patience: Patience,
    /// Bytes that stdout has taken.
    delivered: u64,
}

impl<'a> Talk<'a> {
    fn new(
        stream: &'a TcpStream,
        held: &'a mut Held,
        stdin: BorrowedFd<'a>,
        stdout: BorrowedFd<'a>,
        manner: &Manner,
    ) -> Result<Self, Stop> {
        let poll = calls::at_once("epoll_create1", -1, || {
            Poll::new().map(Epoll).map_err(|error| calls::errno(&error))
        });
        let Epoll(poll) = poll.map_err(|errno| Stop::Failed("make an epoll", errno))?;
        let now = Instant::now();
        let mut talk = Self {
            poll,
            stream,
            held,
            stdin: Input::over(stdin).map_err(Stop::stdin)?,
            stdout: Output::over(stdout).map_err(Stop::stdout)?,
            up: Buffer::default(),
            down: Buffer::default(),
            session: Session::with(manner.farewell),
            readable: true,
            writable: true,
            has_room: true,
            urgent: false,
            sighting: None,
            told: None,
            split: manner.split_write.map(SplitWrite::new),
            rate: manner.read_rate.map(|rate| ReadRate::new(rate, now)),
            patience: Patience::new(manner.idle_timeout, manner.quit_after, now),
            delivered: 0,
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
        self.held.register(registry, HELD)?;
        self.stdout.watch(registry, STDOUT, false)
    }

    fn run(mut self) -> Exit {
        let capacity = (HELD + self.held.len()).clamp(8, EVENTS_AT_ONCE);
        let mut events = Events::with_capacity(capacity);
        loop {
            let result = self.turn();
            if self.is_over() {
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

    /// Has everything been read that will be, and been delivered? If a time limit is over, nothing
    /// is waited for any more, not even a stdout that is stuck.
    fn is_over(&self) -> bool {
        let is_read = self.session.is_silent() || (self.session.is_ending() && self.never_reads());
        (is_read && self.down.is_empty()) || self.patience.is_lost()
    }

    /// Does what can be done without waiting. The server comes before stdin: if both have ended
    /// meanwhile, it was there first.
    fn turn(&mut self) -> Result<(), Stop> {
        self.receive();
        let delivered = self.deliver();
        self.mind_the_time();
        self.foresee();
        delivered?;
        self.take()?;
        self.send();
        if self.never_reads() {
            // There will be no read that brings us back here.
            self.foresee();
        }
        Ok(())
    }

    fn receive(&mut self) {
        while self.may_receive() {
            let allowed = self.allowed_to_read();
            if allowed == 0 {
                return;
            }
            match self.down.fill(|room| {
                let most = room.len().min(allowed);
                calls::try_read(self.stream, &mut room[..most])
            }) {
                Ok(0) => {
                    self.sight();
                    self.session.server_silent();
                }
                Ok(n) => {
                    self.session.received(n);
                    if let Some(rate) = &mut self.rate {
                        rate.took(n);
                    }
                }
                // It was not the end, but a signal at the urgent mark: see `unread`.
                Err(Errno::EAGAIN) if self.urgent && queues::unread(self.stream) > 0 => {}
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

    /// Is there room for more, and may something be there?
    fn may_receive(&self) -> bool {
        self.readable && self.down.has_room() && !self.session.is_silent()
    }

    /// How many bytes `--read-rate` lets us read now.
    fn allowed_to_read(&mut self) -> usize {
        match &mut self.rate {
            Some(rate) => rate.allowed(Instant::now()),
            None => usize::MAX,
        }
    }

    fn never_reads(&self) -> bool {
        self.rate.is_some_and(|rate| rate.is_never())
    }

    fn deliver(&mut self) -> Result<(), Stop> {
        if !self.has_room {
            return Ok(());
        }
        let (delivered, result) = self.down.drain(|bytes| self.stdout.write(bytes));
        self.delivered += delivered as u64;
        match result {
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
                Ok(0) => {
                    self.session.input_ended();
                    self.patience.input_ended(Instant::now());
                }
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
            let (stream, split) = (self.stream, &mut self.split);
            let mut is_paused = false;
            let (sent, result) = self.up.drain(|bytes| {
                let Some(split) = split.as_mut() else {
                    return calls::try_write(stream, bytes);
                };
                let now = Instant::now();
                let allowed = split.allowed(bytes, now);
                if allowed.is_empty() {
                    is_paused = true;
                    return Err(Errno::EAGAIN);
                }
                let n = calls::try_write(stream, allowed)?;
                split.sent(&allowed[..n], now);
                Ok(n)
            });
            self.session.sent(sent);
            match result {
                Ok(()) => {}
                Err(Errno::EAGAIN) => self.writable = is_paused,
                Err(errno) => {
                    sigpipe::tell();
                    self.fail(errno);
                }
            }
        }
        if self.session.should_half_close() {
            let fd = self.stream.as_raw_fd();
            // It fails only where the connection has failed, and a read will tell that.
            let _ = calls::at_once("shutdown", fd, || shutdown(fd, Shutdown::Write));
            self.session.half_closed();
        }
        if self.session.should_close() {
            self.session.leave(Leave::Closed);
            self.foresee();
        }
    }

    /// Leaves if a time limit is over.
    fn mind_the_time(&mut self) {
        let moved = self.session.moved() + self.delivered;
        self.patience.moved(moved, Instant::now);
        if let Some(why) = self.patience.look(Instant::now) {
            self.session.leave(why);
        }
    }

    /// When there will be something to do, whatever happens.
    fn next_deadline(&self) -> Option<Instant> {
        let resumes_sending = self
            .split
            .filter(|_| self.session.may_send() && !self.up.is_empty())
            .and_then(|split| split.resumes(Instant::now()));
        let resumes_reading = self
            .rate
            .filter(|_| self.may_receive())
            .and_then(|rate| rate.resumes());
        let patience_ends = self.patience.ends().map(|(end, _)| end);
        let deadlines = [
            resumes_sending,
            resumes_reading,
            patience_ends,
            self.held.next_line(),
        ];
        deadlines.into_iter().flatten().min()
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
            queues::unread(self.stream) as u64
        };
        let Some(outcome) = self.session.outcome(unread) else {
            return;
        };
        let heard = self
            .sighting
            .and_then(|(at, heard)| heard.map(|age| age + at.elapsed()));
        let readable = if self.never_reads() { 0 } else { unread };
        self.told = Some(report(outcome, heard, self.down.len() as u64 + readable));
    }

    /// Waits for events, or only collects them if there is something to do.
    fn wait(&mut self, events: &mut Events) -> Result<(), Stop> {
        let (fd, has_work) = (self.poll.as_raw_fd(), self.has_work());
        let deadline = self.next_deadline();
        let poll = &mut self.poll;
        let mut wait = |timeout| {
            poll.poll(events, timeout).map_err(|e| calls::errno(&e))?;
            Ok(events.iter().count())
        };
        let result = if has_work {
            calls::at_once("epoll_wait", fd, || wait(Some(Duration::ZERO)))
        } else {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            calls::may_block("epoll_wait", fd, || wait(left))
        };
        match result {
            Ok(_) => {}
            // Stopped and continued, or the like.
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Stop::Failed("wait for events", errno)),
        }
        let held = events
            .iter()
            .filter_map(|event| event.token().0.checked_sub(HELD));
        self.held.look_at(held);
        let mut ours = events.iter().filter(|event| event.token().0 < HELD);
        ours.try_for_each(|event| self.note(event))
    }

    /// Is there something that a turn could do now?
    fn has_work(&mut self) -> bool {
        let receive = self.may_receive() && self.allowed_to_read() > 0;
        let deliver = self.has_room && !self.down.is_empty();
        let take = self.session.wants_input() && self.stdin.is_ready() && self.up.has_room();
        let send = self.writable && self.session.may_send() && !self.up.is_empty();
        let is_paused = || {
            self.split
                .is_some_and(|split| split.resumes(Instant::now()).is_some())
        };
        receive || deliver || take || (send && !is_paused())
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
        self.urgent |= event.is_priority();
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
