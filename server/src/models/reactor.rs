//! All clients in one thread: wait with mio until some socket is ready, do what can be done
//! without waiting, wait again (UNP 6 and 16; epoll(7)).
//!
//! What it costs: an entry of 64 bytes per connection, and no process or thread; at 64 bytes a
//! message, two system calls per echo and one wait for all that are ready together. What it
//! cannot: use more than one processor, or survive a call that blocks; everybody would wait.
//!
//! Edge-triggered, and each connection is registered once, for everything: an event says that
//! something has changed, not that something is there. So nothing may be left undone without
//! remembering it. What has more to do than its share goes on the run queue; a listener that was
//! not drained is remembered as one.
//!
//! What to look for: `ps` shows one process with one thread, asleep in epoll_wait whatever the
//! number of clients; `strace -c` shows read, write and few epoll_wait; `RUST_LOG=mio=trace` the
//! registrations.
//!
//! Limit: descriptors (`ulimit -n`); then accepting rests and the clients it has are served.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::errno::Errno;
use slab::Slab;
use tcpecho_common::calls;

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children;
use crate::cli::Config;
use crate::conn::{EchoConn, Shared, Turn};
use crate::counters::{Bytes, Counters, Live, log_status};
use crate::end::End;
use crate::failure::Failure;
use crate::listener::Listener;
use crate::{signals, socket};

const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// Events taken per wait.
const EVENTS: usize = 1024;

/// Connections accepted before those that are open have their turn again.
const ACCEPTS_PER_ROUND: usize = 128;

/// A connection is idle when this many ticks in a row have passed without a byte.
const IDLE_TICKS: u8 = 8;

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    let failed = |what| move |errno| Failure::new(what, errno);
    let poll = Poll::new()
        .map_err(|error| calls::errno(&error))
        .map_err(failed("cannot create the poller"))?;
    server.listener.do_not_block();
    register(
        poll.registry(),
        server.listener.as_fd(),
        LISTENER,
        Interest::READABLE,
    )
    .map_err(failed("cannot wait for clients"))?;
    if let Some(pipe) = signals::pollable() {
        register(poll.registry(), pipe, SIGNALS, Interest::READABLE)
            .map_err(failed("cannot wait for signals"))?;
    }
    server.announce();
    Reactor::new(poll, server).run()
}

struct Reactor {
    poll: Poll,
    /// None once the server stops.
    listener: Option<Listener>,
    door: Door,
    connections: Slab<Connection>,
    generation: u32,
    /// Connections that had more to do than one turn allows.
    run_queue: VecDeque<Token>,
    shared: Shared,
    counters: &'static Counters,
    config: Config,
    started: Instant,
    /// When to look for idle connections; only with `--idle-timeout`.
    idle_tick: Option<Instant>,
    /// When to look for connections that have had all they were owed; only while stopping.
    stop_tick: Option<Instant>,
}

/// Whether, and when, to accept. The edge-triggered listener speaks up once per change: whoever is
/// left in the queue, for whatever reason, must be remembered here.
#[derive(Default)]
struct Door {
    /// Somebody may be waiting.
    knocked: bool,
    /// Out of descriptors or memory: try again then, or when a connection closes.
    rests_until: Option<Instant>,
    exhaustion: Exhaustion,
}

/// One client; at most 64 bytes, for there may be many of them.
struct Connection {
    echo: EchoConn,
    stream: OwnedFd,
    /// Tells this connection's events from those of an earlier one at the same index.
    generation: u32,
    peer: Peer,
    /// Is it on the run queue?
    queued: bool,
}

const _: () = assert!(size_of::<Connection>() <= 64);

impl Reactor {
    fn new(poll: Poll, server: Server) -> Self {
        let Server {
            listener,
            config,
            counters,
        } = server;
        let started = Instant::now();
        Self {
            poll,
            listener: Some(listener),
            door: Door::default(),
            connections: Slab::new(),
            generation: 0,
            run_queue: VecDeque::new(),
            shared: Shared::default(),
            counters,
            started,
            idle_tick: config
                .idle_timeout
                .map(|idle| started + idle / u32::from(IDLE_TICKS)),
            stop_tick: None,
            config,
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(EVENTS);
        while self.listener.is_some() || !self.connections.is_empty() {
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.door.knocked = true,
                    SIGNALS => self.look_at_signals(),
                    _ => self.ready(event),
                }
            }
            self.accept_some()?;
            self.run_queued();
            self.look_at_clock();
        }
        self.counters.stopped();
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), Failure> {
        let timeout = self.timeout();
        let poll = &mut self.poll;
        let fd = poll.as_raw_fd();
        let waited = calls::may_block("epoll_wait", fd, || {
            poll.poll(events, timeout)
                .map(|()| events.iter().count())
                .map_err(|error| calls::errno(&error))
        });
        match waited {
            // EINTR: a signal, or a stop and continue. The timers are looked at, then it waits on.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Failure::new("cannot wait for events", errno)),
        }
    }

    /// None: until something happens.
    fn timeout(&self) -> Option<Duration> {
        if !self.run_queue.is_empty() || self.may_accept() {
            return Some(Duration::ZERO);
        }
        let next = [self.door.rests_until, self.idle_tick, self.stop_tick]
            .into_iter()
            .flatten()
            .min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// A connection's event. It may be late, for a connection that is gone.
    fn ready(&mut self, event: &Event) {
        let token = event.token();
        let Some(connection) = self.find(token) else {
            return;
        };
        log::debug!("ready {}:{}", connection.peer, Readiness(event));
        if event.is_read_closed()
            || event.is_write_closed()
            || event.is_error()
            || event.is_priority()
        {
            connection.echo.drain();
        }
        self.turn(token);
    }

    fn turn(&mut self, token: Token) {
        let (index, _) = unpack(token);
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.queued {
            return;
        }
        match connection
            .echo
            .turn(&mut connection.stream.as_fd(), &mut self.shared)
        {
            Turn::Wait(_) => {}
            Turn::Again => {
                connection.queued = true;
                self.run_queue.push_back(token);
            }
            Turn::Done(end) => self.close(index, end),
        }
    }

    /// One turn for each that is queued by now; who needs more comes again after the next wait,
    /// which takes no time.
    fn run_queued(&mut self) {
        for _ in 0..self.run_queue.len() {
            let Some(token) = self.run_queue.pop_front() else {
                return;
            };
            if let Some(connection) = self.find(token) {
                connection.queued = false;
                self.turn(token);
            }
        }
    }

    fn find(&mut self, token: Token) -> Option<&mut Connection> {
        let (index, generation) = unpack(token);
        self.connections
            .get_mut(index)
            .filter(|connection| connection.generation == generation)
    }

    fn close(&mut self, index: usize, end: End) {
        let mut connection = self.connections.remove(index);
        let (echoed, lost) = (
            connection.echo.echoed(),
            connection.echo.close(&mut self.shared),
        );
        let tally = self.counters.tally(0);
        tally.received((echoed + lost) as usize);
        tally.echoed(echoed as usize);
        tally.lost(lost);
        self.counters.closed.fetch_add(1, Relaxed);
        let discarded = socket::prepare_close(&connection.stream, end);
        self.counters.discarded.fetch_add(discarded, Relaxed);
        calls::close(connection.stream);
        end.log(connection.peer, echoed);
        // There is a descriptor for the next one.
        self.door.rests_until = None;
    }

    fn may_accept(&self) -> bool {
        self.door.knocked
            && self.door.rests_until.is_none()
            && self.listener.is_some()
            && self.connections.len() < self.config.max_connections
    }

    fn accept_some(&mut self) -> Result<(), Failure> {
        for _ in 0..ACCEPTS_PER_ROUND {
            if !self.may_accept() {
                break;
            }
            let Some(listener) = &self.listener else {
                break;
            };
            match accept(listener, Blocking::No) {
                Ok((stream, peer)) => {
                    self.door.exhaustion.ended();
                    self.admit(stream, peer);
                }
                Err(Refusal::Nobody) => self.door.knocked = false,
                Err(Refusal::Interrupted | Refusal::Lost) => {}
                Err(Refusal::Exhausted(errno)) => {
                    self.door.exhaustion.began(errno, self.connections.len());
                    self.door.rests_until = Some(Instant::now() + accept::PAUSE);
                }
                Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
            }
        }
        Ok(())
    }

    /// The one registration of a connection. What has arrived already makes its first event.
    fn admit(&mut self, stream: OwnedFd, peer: Peer) {
        self.counters.accepted.fetch_add(1, Relaxed);
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.connections.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        match register(
            self.poll.registry(),
            stream.as_fd(),
            pack(entry.key(), generation),
            interest,
        ) {
            Ok(()) => {
                entry.insert(Connection {
                    echo: EchoConn::default(),
                    stream,
                    generation,
                    peer,
                    queued: false,
                });
                log::info!("accepted {peer}");
            }
            Err(errno) => {
                self.counters.refused.fetch_add(1, Relaxed);
                self.counters.closed.fetch_add(1, Relaxed);
                log::warn!("refused {peer}: cannot register it: {errno}");
            }
        }
    }

    fn look_at_signals(&mut self) {
        signals::drain_pipe();
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            let bytes = self
                .connections
                .iter()
                .fold(Bytes::default(), |sum, (_, connection)| Bytes {
                    received: sum.received + connection.echo.echoed() + connection.echo.pending(),
                    echoed: sum.echoed + connection.echo.echoed(),
                    ..sum
                });
            log_status(
                self.config.model,
                self.started,
                self.counters,
                Live {
                    bytes,
                    ..Live::default()
                },
            );
        }
        if pending.stop && self.listener.is_some() {
            self.stop();
        }
        if pending.now {
            self.for_each(|reactor, token| reactor.close(unpack(token).0, End::Stuck));
        }
    }

    /// Takes in whom the kernel has accepted for us, stops listening, and lets every connection
    /// have what it is owed.
    fn stop(&mut self) {
        self.counters.stopping();
        self.idle_tick = None;
        self.stop_tick = Some(Instant::now() + signals::TICK);
        // Clients are let in past the cap: all they get is what they have sent by now.
        self.config.max_connections = usize::MAX;
        loop {
            // Those that are owed nothing close at once, and make room where descriptors are out.
            let before = self.connections.len();
            self.let_have_what_is_owed();
            let made_room = self.connections.len() < before;
            self.door.knocked = true;
            self.door.rests_until = None;
            while self.may_accept() && signals::in_time(self.config.grace) {
                if self.accept_some().is_err() {
                    break;
                }
            }
            if !self.door.knocked || !made_room {
                break;
            }
        }
        if let Some(listener) = self.listener.take() {
            listener.close();
        }
        self.let_have_what_is_owed();
    }

    fn let_have_what_is_owed(&mut self) {
        self.for_each(|reactor, token| {
            if let Some(connection) = reactor.find(token) {
                connection.echo.stop(&connection.stream.as_fd());
                reactor.turn(token);
            }
        });
    }

    fn look_at_clock(&mut self) {
        if self.door.rests_until.is_none() && self.idle_tick.is_none() && self.stop_tick.is_none() {
            return;
        }
        let now = Instant::now();
        let due = |timer: Option<Instant>| timer.is_some_and(|timer| timer <= now);
        if due(self.door.rests_until) {
            self.door.rests_until = None;
        }
        if due(self.idle_tick) {
            self.idle_tick = self
                .config
                .idle_timeout
                .map(|idle| now + idle / u32::from(IDLE_TICKS));
            self.close_idle();
        }
        if due(self.stop_tick) {
            self.stop_tick = Some(now + signals::TICK);
            let over = !signals::in_time(self.config.grace);
            signals::tell_why_waiting(self.connections.len(), self.config.grace);
            self.for_each(|reactor, token| {
                if over {
                    reactor.close(unpack(token).0, End::Stuck);
                } else {
                    // No event tells that the peer has acknowledged everything.
                    reactor.turn(token);
                }
            });
        }
    }

    fn close_idle(&mut self) {
        self.for_each(|reactor, token| {
            let quiet = reactor.find(token).map_or(0, |connection| {
                connection.echo.tick(&connection.stream.as_fd())
            });
            if quiet >= IDLE_TICKS {
                reactor.close(unpack(token).0, End::Idle);
            }
        });
    }

    /// For the rare occasions that concern all connections; `body` may close the one it is given.
    fn for_each(&mut self, mut body: impl FnMut(&mut Self, Token)) {
        let tokens: Vec<_> = self
            .connections
            .iter()
            .map(|(index, c)| pack(index, c.generation))
            .collect();
        for token in tokens {
            body(self, token);
        }
    }
}

/// An event in the words of the log.
struct Readiness<'a>(&'a Event);

impl fmt::Display for Readiness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(event) = self;
        let words = [
            (event.is_readable(), " readable"),
            (event.is_writable(), " writable"),
            (event.is_priority(), " priority"),
            (event.is_read_closed(), " read-closed"),
            (event.is_write_closed(), " write-closed"),
            (event.is_error(), " error"),
        ];
        let mut words = words.iter().filter(|(is, _)| *is);
        words.try_for_each(|(_, word)| f.write_str(word))
    }
}

fn register(
    registry: &Registry,
    fd: BorrowedFd<'_>,
    token: Token,
    interest: Interest,
) -> nix::Result<()> {
    let number = fd.as_raw_fd();
    calls::at_once("epoll_ctl", number, || {
        registry
            .register(&mut SourceFd(&number), token, interest)
            .map_err(|error| calls::errno(&error))
    })
}

/// A token is the index in the table, and the generation of whoever sits there.
fn pack(index: usize, generation: u32) -> Token {
    Token((generation as usize) << 32 | index)
}

fn unpack(Token(token): Token) -> (usize, u32) {
    (token & 0xFFFF_FFFF, (token >> 32) as u32)
}
