//! The connections of one readiness loop: an entry each, the run queue, and the ticks of the clock.
//!
//! How the loop waits is its own business. It is told of every change of what a connection waits
//! for ([`InterestList`]), and says here which connection is ready.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use slab::Slab;
use tcpecho_common::{Mistake, calls};

use crate::accept::Peer;
use crate::cli::Config;
use crate::conn::{EchoConn, Shared, Turn, Wants};
use crate::counters::{Counters, Tally};
use crate::end::End;
use crate::run_queue::RunQueue;
use crate::{signals, socket};

/// A connection is idle when this many ticks in a row have passed without a byte.
const IDLE_TICKS: u8 = 8;

/// What a loop waits for: epoll's interest list, the array of poll, the sets of select.
pub trait InterestList {
    /// A new connection, to be read from. Errors: it cannot be waited for, and why.
    fn add(&mut self, key: Key, stream: BorrowedFd<'_>) -> Result<(), String>;
    /// It waits for this from now on.
    fn change(&mut self, key: Key, stream: BorrowedFd<'_>, wants: Wants);
    /// It is about to be closed.
    fn remove(&mut self, key: Key, stream: BorrowedFd<'_>);
}

/// An index in the table, and the generation of whoever sits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub usize);

impl Key {
    fn new(index: usize, generation: u32) -> Self {
        Self((generation as usize) << 32 | index)
    }

    /// The index: small numbers, used again when they are free.
    pub fn index(self) -> usize {
        self.0 & 0xFFFF_FFFF
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// One client; at most 64 bytes, for there may be many of them.
#[derive(Debug)]
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

/// The connections of one loop.
#[derive(Debug)]
pub struct Table<I> {
    /// What the loop waits for.
    pub interest: I,
    connections: Slab<Connection>,
    generation: u32,
    /// Connections that had more to do than one turn allows.
    run_queue: RunQueue<Key>,
    /// Whose turn it is.
    in_hand: Option<Key>,
    /// Has a connection been closed since somebody asked?
    made_room: bool,
    shared: Shared,
    counters: &'static Counters,
    tally: &'static Tally,
    grace: Duration,
    idle_timeout: Option<Duration>,
    /// When to look for idle connections; only with `--idle-timeout`.
    idle_tick: Option<Instant>,
    /// When to look for connections that have had all they were owed; only while stopping.
    stop_tick: Option<Instant>,
}

impl<I: InterestList> Table<I> {
    /// An empty table, of the n-th loop of a server.
    pub fn new(interest: I, config: &Config, counters: &'static Counters, nth: usize) -> Self {
        let mut table = Self {
            interest,
            connections: Slab::new(),
            generation: 0,
            run_queue: RunQueue::default(),
            in_hand: None,
            made_room: false,
            shared: Shared::new(config.mistake),
            counters,
            tally: counters.tally(nth as u64),
            grace: config.grace,
            idle_timeout: config.idle_timeout,
            idle_tick: None,
            stop_tick: None,
        };
        table.set_idle_tick();
        table
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Is none open?
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Who sits at this index.
    pub fn key_at(&self, index: usize) -> Option<Key> {
        let connection = self.connections.get(index)?;
        Some(Key::new(index, connection.generation))
    }

    /// A client has been accepted.
    pub fn admit(&mut self, stream: OwnedFd, peer: Peer) {
        self.counters.accepted.fetch_add(1, Relaxed);
        self.tally.accepted();
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.connections.vacant_entry();
        match self
            .interest
            .add(Key::new(entry.key(), generation), stream.as_fd())
        {
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
            Err(why) => {
                self.counters.refused.fetch_add(1, Relaxed);
                self.counters.closed.fetch_add(1, Relaxed);
                calls::close(stream);
                self.made_room = true;
                log::warn!("refused {peer}: {why}");
            }
        }
    }

    /// A connection is ready, in words that begin with a space; `drain`: it may have more than one
    /// read brings, and nobody will say so again. The event may be late, for a connection that is
    /// gone.
    pub fn ready(&mut self, key: Key, how: impl fmt::Display, drain: bool) {
        let Some(connection) = find(&mut self.connections, key) else {
            return;
        };
        log::debug!("ready {}:{how}", connection.peer);
        if drain {
            connection.echo.drain();
        }
        self.turn(key);
    }

    /// As many turns as connections are queued by now; who needs more comes again after the next wait,
    /// which takes no time.
    pub fn run_queued(&mut self) {
        for _ in 0..self.run_queue.len() {
            let Some(key) = self.run_queue.pop() else {
                return;
            };
            if let Some(connection) = find(&mut self.connections, key) {
                connection.queued = false;
                self.turn(key);
            }
        }
    }

    /// Is anybody on the run queue?
    pub fn has_queued(&self) -> bool {
        !self.run_queue.is_empty()
    }

    fn turn(&mut self, key: Key) {
        let Some(connection) = find(&mut self.connections, key) else {
            return;
        };
        if connection.queued {
            return;
        }
        self.in_hand = Some(key);
        let before = (connection.echo.echoed(), connection.echo.pending());
        let stream = connection.stream.as_fd();
        let turn = connection.echo.turn(&mut { stream }, &mut self.shared);
        let after = (connection.echo.echoed(), connection.echo.pending());
        if after != before {
            let received = (after.0 + after.1) - (before.0 + before.1);
            self.tally.received(received as usize);
            self.tally.echoed((after.0 - before.0) as usize);
        }
        match turn {
            Turn::Wait(wants) => self.interest.change(key, stream, wants),
            Turn::Again => {
                connection.queued = true;
                self.run_queue.push(key);
            }
            Turn::Done(end) => self.close(key, end),
        }
        self.in_hand = None;
    }

    /// After a panic: closes the connection whose turn it was. False if it was nobody's turn; then it
    /// may well happen again. The others need a turn, for the events of the round are lost.
    pub fn drop_in_hand(&mut self) -> bool {
        let Some(key) = self.in_hand.take() else {
            return false;
        };
        let is_there = find(&mut self.connections, key).is_some();
        if is_there {
            self.close(key, End::Failed(Errno::EIO));
        }
        is_there
    }

    /// A turn for all, whether they are ready or not.
    pub fn turn_all(&mut self) {
        self.for_each(|table, key| {
            if let Some(connection) = find(&mut table.connections, key) {
                connection.echo.drain();
                table.turn(key);
            }
        });
    }

    fn close(&mut self, key: Key, end: End) {
        let mut connection = self.connections.remove(key.index());
        self.interest.remove(key, connection.stream.as_fd());
        let (echoed, pending) = (connection.echo.echoed(), connection.echo.pending());
        let lost = connection.echo.close(&mut self.shared);
        // What the peer has not taken is counted as received; what a failed write had is not.
        self.tally.received((lost - pending) as usize);
        self.tally.lost(lost);
        let discarded = socket::prepare_close(&connection.stream, end);
        self.counters.discarded.fetch_add(discarded, Relaxed);
        calls::close(connection.stream);
        self.counters.closed.fetch_add(1, Relaxed);
        end.log(connection.peer, echoed);
        self.made_room = true;
    }

    /// Is this mistake to be made?
    pub fn commits(&self, mistake: Mistake) -> bool {
        self.shared.commits(mistake)
    }

    /// Closes a connection that has not had everything yet; for `--mistake close-on-fin`.
    pub fn close_early(&mut self, key: Key) {
        if find(&mut self.connections, key).is_some() {
            self.close(key, End::Fin);
        }
    }

    /// Has a connection been closed since this was asked last?
    pub fn has_made_room(&mut self) -> bool {
        std::mem::take(&mut self.made_room)
    }

    /// The server stops: every connection gets what it is owed. Those that are owed nothing close at
    /// once. May be called again for those that have come since.
    pub fn stop(&mut self) {
        self.idle_tick = None;
        self.stop_tick = Some(Instant::now() + signals::TICK);
        self.for_each(|table, key| {
            if let Some(connection) = find(&mut table.connections, key) {
                connection.echo.stop(&connection.stream.as_fd());
                table.turn(key);
            }
        });
    }

    /// Closes all, whatever they are owed.
    pub fn close_all(&mut self) {
        self.for_each(|table, key| table.close(key, End::Stuck));
    }

    /// When to look at the clock again.
    pub fn next_tick(&self) -> Option<Instant> {
        [self.idle_tick, self.stop_tick].into_iter().flatten().min()
    }

    /// Closes those that have been idle for too long, or are stuck at the end of the grace.
    pub fn look_at_clock(&mut self) {
        let Some(next) = self.next_tick() else {
            return;
        };
        let now = Instant::now();
        if now < next {
            return;
        }
        if self.idle_tick.is_some_and(|tick| tick <= now) {
            self.set_idle_tick();
            self.close_idle();
        }
        if self.stop_tick.is_some_and(|tick| tick <= now) {
            self.stop_tick = Some(now + signals::TICK);
            signals::tell_why_waiting(self.counters.open() as usize, self.grace);
            if signals::in_time(self.grace) {
                // No event tells that the peer has acknowledged everything.
                self.for_each(Self::turn);
            } else {
                self.close_all();
            }
        }
    }

    fn set_idle_tick(&mut self) {
        let between = self.idle_timeout.map(|idle| idle / u32::from(IDLE_TICKS));
        self.idle_tick = between.map(|between| Instant::now() + between);
    }

    fn close_idle(&mut self) {
        self.for_each(|table, key| {
            let quiet = find(&mut table.connections, key).map_or(0, |connection| {
                connection.echo.tick(&connection.stream.as_fd())
            });
            if quiet >= IDLE_TICKS {
                table.close(key, End::Idle);
            }
        });
    }

    /// For the rare occasions that concern all connections; `body` may close the one it is given.
    fn for_each(&mut self, mut body: impl FnMut(&mut Self, Key)) {
        let keys: Vec<_> = self
            .connections
            .iter()
            .map(|(index, connection)| Key::new(index, connection.generation))
            .collect();
        for key in keys {
            body(self, key);
        }
    }
}

fn find(connections: &mut Slab<Connection>, key: Key) -> Option<&mut Connection> {
    connections
        .get_mut(key.index())
        .filter(|connection| connection.generation == key.generation())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Breaks when this index waits again.
    struct Fragile(Option<usize>);

    impl InterestList for Fragile {
        fn add(&mut self, _: Key, _: BorrowedFd<'_>) -> Result<(), String> {
            Ok(())
        }

        fn change(&mut self, key: Key, _: BorrowedFd<'_>, _: Wants) {
            assert_ne!(Some(key.index()), self.0, "on purpose");
        }

        fn remove(&mut self, _: Key, _: BorrowedFd<'_>) {}
    }

    fn table(interest: Fragile) -> Table<Fragile> {
        let config = Cli::try_parse_from(["tcpechod"]).and_then(Cli::config);
        let counters = Counters::shared().expect("memory");
        Table::new(interest, &config.expect("the defaults"), counters, 0)
    }

    fn client(table: &mut Table<Fragile>) -> UnixStream {
        let (near, far) = UnixStream::pair().expect("descriptors");
        far.set_nonblocking(true).expect("a socket");
        table.admit(far.into(), Peer::UNKNOWN);
        near
    }

    #[test]
    fn an_event_for_one_who_has_left_does_not_hit_the_next() {
        let mut table = table(Fragile(None));
        drop(client(&mut table));
        let first = table.key_at(0).expect("it was admitted");
        table.ready(first, "", false);
        assert!(table.is_empty() && table.has_made_room());
        let mut second = client(&mut table);
        second.write_all(b"hello").expect("room");
        table.ready(first, "", false);
        second.set_nonblocking(true).expect("a socket");
        assert!(second.read(&mut [0; 9]).is_err(), "a late event hit it");
        let key = table.key_at(0).expect("in the same place");
        table.ready(key, "", false);
        assert_eq!(second.read(&mut [0; 9]).expect("its echo"), 5);
    }

    #[test]
    fn a_panic_costs_the_connection_in_hand_and_no_other() {
        let mut table = table(Fragile(Some(1)));
        let mut clients: Vec<_> = (0..3).map(|_| client(&mut table)).collect();
        for client in &mut clients {
            client.write_all(b"hello").expect("room");
        }
        let key = table.key_at(1).expect("it was admitted");
        let turn = catch_unwind(AssertUnwindSafe(|| table.ready(key, "", false)));
        assert!(turn.is_err());
        assert!(table.drop_in_hand(), "it was somebody's turn");
        assert!(!table.drop_in_hand(), "and is nobody's any more");
        table.turn_all();
        assert_eq!(table.len(), 2);
        for (nth, client) in clients.iter_mut().enumerate() {
            let mut answer = Vec::new();
            if nth != 1 {
                client.set_nonblocking(true).expect("a socket");
            }
            let end = client.read_to_end(&mut answer);
            assert_eq!(answer, b"hello");
            assert_eq!(end.is_ok(), nth == 1, "only that one has ended");
        }
    }
}
