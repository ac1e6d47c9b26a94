//! What the readiness loops of one thread have in common, however they wait: a [`Door`], a
//! [`Table`], and what signals do to them.
//!
//! The loop itself is the model's: wait, hand out what is ready, run the queue, look at the clock,
//! accept.

use std::time::{Duration, Instant};

use crate::children;
use crate::cli::Config;
use crate::counters::{Counters, Live, log_status};
use crate::door::{ACCEPTS_PER_ROUND, Door};
use crate::failure::Failure;
use crate::signals;
use crate::table::{InterestList, Table};

/// A readiness loop, apart from its waiting.
#[derive(Debug)]
pub struct EventLoop<I> {
    /// Where clients come in.
    pub door: Door,
    /// The clients that are in.
    pub table: Table<I>,
    config: Config,
    counters: &'static Counters,
    started: Instant,
}

impl<I: InterestList> EventLoop<I> {
    /// A loop that nobody has connected to yet.
    pub fn new(door: Door, table: Table<I>, config: Config, counters: &'static Counters) -> Self {
        Self {
            door,
            table,
            config,
            counters,
            started: Instant::now(),
        }
    }

    /// Has it stopped listening, and has everybody left?
    pub fn is_over(&self) -> bool {
        !self.door.is_open() && self.table.is_empty()
    }

    /// It is over.
    pub fn stopped(&self) {
        self.counters.stopped();
    }

    /// How long to wait. None: until something happens.
    pub fn timeout(&self) -> Option<Duration> {
        if self.table.has_queued() || self.door.may_accept(self.table.len()) {
            return Some(Duration::ZERO);
        }
        let next = [self.door.rests_until(), self.table.next_tick()];
        let next = next.into_iter().flatten().min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Accepts those who wait, but no more than a round allows.
    pub fn accept_some(&mut self) -> Result<(), Failure> {
        if self.table.has_made_room() {
            self.door.try_again();
        }
        for _ in 0..ACCEPTS_PER_ROUND {
            if !self.door.may_accept(self.table.len()) {
                break;
            }
            if let Some((stream, peer)) = self.door.accept(self.table.len())? {
                self.table.admit(stream, peer);
            }
        }
        Ok(())
    }

    /// Whatever is due by now.
    pub fn look_at_clock(&mut self) {
        self.door.look_at_clock();
        self.table.look_at_clock();
    }

    /// The pipe has become readable.
    pub fn look_at_signals(&mut self) {
        signals::drain_pipe();
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            log_status(
                self.config.model,
                self.started,
                self.counters,
                Live::default(),
            );
        }
        if pending.stop && self.door.is_open() {
            self.stop();
        }
        if pending.now {
            self.table.close_all();
        }
    }

    /// Takes in whom the kernel has accepted for us, stops listening, and lets every connection
    /// have what it is owed.
    fn stop(&mut self) {
        self.counters.stopping();
        loop {
            // Those that are owed nothing close at once, and make room where descriptors are out.
            let before = self.table.len();
            self.table.stop();
            let made_room = self.table.len() < before;
            self.door.let_everybody_in();
            while self.door.may_accept(self.table.len()) && signals::in_time(self.config.grace) {
                if self.accept_some().is_err() {
                    break;
                }
            }
            if !self.door.has_knocked() || !made_room {
                break;
            }
        }
        self.door.close();
        self.table.stop();
    }
}
