//! What the workers of a pool, processes or threads, know of each other: a scoreboard.
//!
//! It lies in the memory that all processes of the server share: a worker that is killed cannot say
//! any more what it was doing, but it is written here.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use tcpecho_common::defaults;

use crate::accept;
use crate::counters::{Counters, Tally};

/// What each worker is doing, and what has been said about all of them.
#[derive(Debug)]
#[repr(C)]
pub struct Scoreboard {
    workers: [AtomicU8; defaults::MAX_WORKERS],
    /// It has been said that nobody accepts.
    told: AtomicBool,
    /// When the last line about that was written, in ms; 0: never.
    told_at: AtomicU64,
    /// Why the listening socket is unusable; 0: it is not.
    failure: AtomicI32,
}

// A fresh mapping holds zeros.
const NOT_THERE: u8 = 0;
const ACCEPTS: u8 = 1;
const SERVES: u8 = 2;
const RESTS: u8 = 3;

/// Lines about accepting that rests are no closer together than this.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// Whatever the size of the pool, a worker tries again after this.
const LONGEST_REST: Duration = Duration::from_secs(2);

impl Scoreboard {
    /// Why the server cannot go on, if a worker has found the listening socket unusable.
    pub fn failure(&self) -> Option<Errno> {
        let errno = self.failure.load(SeqCst);
        (errno != 0).then(|| Errno::from_raw(errno))
    }

    /// How many serve a connection.
    pub fn serving(&self) -> usize {
        self.count(SERVES)
    }

    fn count(&self, what: u8) -> usize {
        let states = self.workers.iter().map(|state| state.load(SeqCst));
        states.filter(|state| *state == what).count()
    }
}

/// One worker's place on the scoreboard, and its share of the counters.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// From 0 on. Whoever replaces it has the same.
    pub number: usize,
    counters: &'static Counters,
}

impl Worker {
    /// A worker that is about to be started.
    pub fn new(number: usize, counters: &'static Counters) -> Self {
        let worker = Self { number, counters };
        worker.becomes(ACCEPTS);
        worker
    }

    /// Where it counts its bytes.
    pub fn tally(&self) -> &'static Tally {
        self.counters.tally(self.number as u64)
    }

    /// It has accepted a connection.
    pub fn serves(&self) {
        self.becomes(SERVES);
        self.counters.accepted.fetch_add(1, SeqCst);
        self.tally().accepted();
        let board = self.board();
        if board.told.load(SeqCst) && board.told.swap(false, SeqCst) {
            board.told_at.store(now(), SeqCst);
            log::warn!("accepting again");
        }
    }

    /// That connection has ended.
    pub fn has_served(&self) {
        self.becomes(ACCEPTS);
        self.counters.closed.fetch_add(1, SeqCst);
    }

    /// It cannot accept for now, for want of descriptors or memory. Returns how long it shall rest:
    /// longer the more others do, so that all together they try no more often than one would.
    pub fn rests(&self, errno: Errno) -> Duration {
        self.becomes(RESTS);
        self.tell_if_nobody_accepts(errno);
        let resting = self.board().count(RESTS).max(1);
        (accept::PAUSE * resting as u32).min(LONGEST_REST)
    }

    /// While others accept, no client waits: once per episode, so says the last one that could.
    fn tell_if_nobody_accepts(&self, errno: Errno) {
        let board = self.board();
        let told_at = board.told_at.load(SeqCst);
        let soon = told_at > 0 && now() - told_at < BETWEEN_LINES.as_millis() as u64;
        if soon || board.count(ACCEPTS) > 0 || board.told.swap(true, SeqCst) {
            return;
        }
        board.told_at.store(now(), SeqCst);
        let open = self.counters.open();
        let hint = match (errno, open) {
            (Errno::EMFILE, 0) => "; not one descriptor is left for a client: raise ulimit -n",
            (Errno::EMFILE, _) => "; raise ulimit -n, or set --workers below it",
            _ => "",
        };
        log::warn!(
            "not accepting for now, new clients wait ({open} connections open): {errno}{hint}"
        );
    }

    /// It tries again.
    pub fn tries_again(&self) {
        self.becomes(ACCEPTS);
    }

    /// The listening socket is unusable, for all of them.
    pub fn fails(&self, errno: Errno) {
        self.board().failure.store(errno as i32, SeqCst);
    }

    /// It has ended, whatever it was doing. Said by its parent, which has waited for it.
    pub fn is_gone(&self) {
        if self.state().swap(NOT_THERE, SeqCst) == SERVES {
            self.counters.closed.fetch_add(1, SeqCst);
        }
        // Nobody writes what it had read.
        self.tally().give_up();
    }

    fn becomes(&self, state: u8) {
        self.state().store(state, SeqCst);
    }

    fn state(&self) -> &AtomicU8 {
        &self.board().workers[self.number]
    }

    fn board(&self) -> &Scoreboard {
        &self.counters.scoreboard
    }
}

/// Milliseconds, on a clock that all processes share; never 0.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    now.as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_died_serving_has_closed_its_connection() {
        let counters = Counters::shared().expect("a page");
        let workers = [0, 1].map(|number| Worker::new(number, counters));
        for worker in &workers {
            worker.serves();
            worker.tally().received(10);
        }
        workers[0].tally().echoed(4);
        assert_eq!((counters.open(), counters.scoreboard.serving()), (2, 2));
        workers[0].is_gone();
        assert_eq!((counters.open(), counters.scoreboard.serving()), (1, 1));
        let bytes = counters.bytes();
        assert_eq!((bytes.lost, bytes.pending()), (6, 10));

        // One that had nobody.
        workers[1].has_served();
        workers[1].is_gone();
        assert_eq!(counters.open(), 0);
    }

    #[test]
    fn only_the_last_one_says_that_nobody_accepts() {
        let counters = Counters::shared().expect("a page");
        let told = || counters.scoreboard.told.load(SeqCst);
        let workers = [0, 1, 2].map(|number| Worker::new(number, counters));
        workers[0].serves();
        assert_eq!(workers[1].rests(Errno::ENFILE), accept::PAUSE);
        assert!(!told(), "worker 2 accepts");
        assert_eq!(workers[2].rests(Errno::ENFILE), accept::PAUSE * 2);
        assert!(told());
        workers[1].tries_again();
        workers[1].serves();
        assert!(!told());
        workers[2].rests(Errno::ENFILE);
        assert!(!told(), "the last line is less than a second old");
    }
}
