//! The open loop: when each message is due is known before the first one is sent, and nothing that
//! the server does changes it. That is what keeps a stall from hiding the messages it has delayed
//! ("coordinated omission").
//!
//! The messages of all connections together are evenly spaced: of `n` connections at rate `r`, the
//! one with number `c` sends its message `k` at `(k * n + c) / r`. Poll's timeout counts in milliseconds,
//! so a timer wakes the worker: timerfd_create(2).

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

/// The messages of one worker's connections, in the order in which they are due.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: u64,
    /// Nanoseconds between two messages of the whole run.
    gap: f64,
    /// Connections of the whole run.
    all: u64,
    /// The numbers of this worker's, ascending; its slots are their indices.
    numbers: Vec<u64>,
    /// The message that is next: of this slot, in this round.
    slot: usize,
    round: u64,
}

impl Schedule {
    /// Of the connections with these `numbers`, of `all` together, at `rate` messages a second of all
    /// together, from `start` (nanoseconds) on.
    pub fn new(numbers: Vec<u64>, all: u64, rate: f64, start: u64) -> Self {
        Self {
            start,
            gap: 1e9 / rate,
            all,
            numbers,
            slot: 0,
            round: 0,
        }
    }

    /// When the next message is due; never if there are no connections.
    pub fn due(&self) -> u64 {
        self.due_of(self.slot, self.round)
    }

    /// When the message of this slot in this round is due; never if there is no such slot.
    pub fn due_of(&self, slot: usize, round: u64) -> u64 {
        let Some(number) = self.numbers.get(slot) else {
            return u64::MAX;
        };
        let index = round * self.all + number;
        self.start + (index as f64 * self.gap) as u64
    }

    /// The slot of the next message and when it is due, if that is at `now` or was before.
    pub fn next(&mut self, now: u64) -> Option<(usize, u64)> {
        let (slot, due) = (self.slot, self.due());
        if due > now {
            return None;
        }
        self.slot += 1;
        if self.slot == self.numbers.len() {
            self.slot = 0;
            self.round += 1;
        }
        Some((slot, due))
    }
}

/// Wakes a poll at a moment.
#[derive(Debug)]
pub struct Timer {
    timer: TimerFd,
    set: u64,
}

impl Timer {
    /// One that is not set, registered.
    pub fn new(registry: &Registry, token: Token) -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).context("timerfd_create")?;
        let fd = timer.as_fd().as_raw_fd();
        registry
            .register(&mut SourceFd(&fd), token, Interest::READABLE)
            .context("register a timer")?;
        Ok(Self { timer, set: 0 })
    }

    /// Sets it to a moment of [`clock`](super::clock). It need not be read: each time it goes off is a
    /// new edge.
    pub fn set(&mut self, at: u64) -> Result<()> {
        if at == self.set {
            return Ok(());
        }
        self.set = at;
        let at = Expiration::OneShot(Duration::from_nanos(at).into());
        self.timer
            .set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .context("timerfd_settime")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use proptest::prelude::*;

    use crate::load::clock;

    proptest! {
        #[test]
        fn workers_together_send_each_message_once_when_it_is_due(
            all in 1..20_u64, threads in 1..4_u64, rate in 1.0..1e6_f64,
        ) {
            let numbers = |worker| (0..all).filter(|n| n % threads == worker).collect::<Vec<_>>();
            let mut due = Vec::new();
            for worker in 0..threads {
                let mut schedule = Schedule::new(numbers(worker), all, rate, 1000);
                let mut last = 0;
                while let Some((slot, at)) = schedule.next(1000 + (100.0 * 1e9 / rate) as u64) {
                    prop_assert!(at >= last, "in order");
                    last = at;
                    due.push((at, numbers(worker)[slot]));
                }
            }
            due.sort_unstable();
            let expected: Vec<_> = (0..=100).map(|i| (1000 + (i as f64 * 1e9 / rate) as u64, i % all)).collect();
            let (got, expected) = (&due[..100], &expected[..100]);
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut schedule = Schedule::new(vec![0, 1], 2, 1000.0, 5000);
        assert_eq!(schedule.next(4999), None);
        assert_eq!(schedule.next(5000), Some((0, 5000)));
        assert_eq!(schedule.due(), 1_005_000);
        assert_eq!(schedule.next(1_004_999), None);
        // What is late is not left out.
        assert_eq!(schedule.next(9_000_000), Some((1, 1_005_000)));
        assert_eq!(schedule.next(9_000_000), Some((0, 2_005_000)));
        assert_eq!(
            Schedule::new(Vec::new(), 1, 1.0, 0).next(u64::MAX - 1),
            None
        );
    }

    #[test]
    fn a_timer_goes_off_again_and_again_and_never_early() {
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(4);
        let mut timer = Timer::new(poll.registry(), Token(7)).expect("a timer");
        for _ in 0..20 {
            let at = clock::now() + 200_000;
            timer.set(at).expect("set");
            poll.poll(&mut events, None).expect("polled");
            assert!(clock::now() >= at);
            assert!(events.iter().all(|event| event.token() == Token(7)));
        }
    }
}
