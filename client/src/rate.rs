//! How fast the socket is read, for clients that are slow on purpose or never read.
//!
//! A bucket of bytes that fills at the rate and is taken from in slices: twenty reads a second
//! are enough to be smooth, and few enough to cost nothing. What is not read waits in the kernel;
//! then the window closes, and then the server notices. So that this does not take megabytes, the
//! receive buffer is small too ([`ReadRate::receive_buffer`]).
//!
//! Pure state; UNP 6.4 says nothing of this, 7.5 has `SO_RCVBUF`.

use std::time::{Duration, Instant};

const SECOND: u128 = 1_000_000_000;

/// See the module's head.
#[derive(Clone, Copy, Debug)]
pub struct ReadRate {
    per_second: u64,
    /// Bytes that may be read now.
    allowance: u64,
    /// Up to when it has been filled.
    filled: Instant,
}

impl ReadRate {
    /// So many bytes a second; 0 never reads.
    pub fn new(per_second: u64, now: Instant) -> Self {
        Self {
            per_second,
            allowance: 0,
            filled: now,
        }
    }

    /// What `SO_RCVBUF` should be: a fifth of a second's worth, of which the kernel makes two;
    /// None where its own choice is small enough. It must be set before the connection is made.
    pub fn receive_buffer(per_second: u64) -> Option<usize> {
        const LEAST: u64 = 4096;
        const AUTOMATIC: u64 = 65536;
        let buffer = (per_second / 5).max(LEAST);
        (buffer < AUTOMATIC).then_some(buffer as usize)
    }

    /// Does it never read?
    pub fn is_never(&self) -> bool {
        self.per_second == 0
    }

    /// How many bytes may be read now.
    pub fn allowed(&mut self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.filled);
        let earned = passed.as_nanos() * u128::from(self.per_second) / SECOND;
        if earned >= u128::from(self.slice()) {
            // Nobody may save up for a burst.
            let most = 2 * self.slice();
            self.allowance = most.min(self.allowance.saturating_add(earned as u64));
            self.filled = if self.allowance == most {
                now
            } else {
                self.filled + self.time_for(earned as u64)
            };
        }
        self.allowance as usize
    }

    /// So many of them were read.
    pub fn took(&mut self, bytes: usize) {
        self.allowance = self.allowance.saturating_sub(bytes as u64);
    }

    /// When it may be read again; None: now, or never.
    pub fn resumes(&self) -> Option<Instant> {
        let waits = self.allowance == 0 && !self.is_never();
        waits.then(|| self.filled + self.time_for(self.slice()))
    }

    /// A twentieth of a second's worth.
    fn slice(&self) -> u64 {
        (self.per_second / 20).max(1)
    }

    /// How long `bytes` take, rounded up.
    fn time_for(&self, bytes: u64) -> Duration {
        let rate = u128::from(self.per_second.max(1));
        let nanoseconds = (u128::from(bytes) * SECOND).div_ceil(rate);
        Duration::from_nanos(nanoseconds as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are read in ten seconds by a reader that reads whenever it may.
    fn in_ten_seconds(per_second: u64) -> u64 {
        let start = Instant::now();
        let (mut rate, mut total) = (ReadRate::new(per_second, start), 0);
        let mut now = start;
        while now < start + Duration::from_secs(10) {
            let n = rate.allowed(now);
            rate.took(n);
            total += n as u64;
            let Some(next) = rate.resumes() else { break };
            assert!(next > now, "it would spin");
            now = next;
        }
        total
    }

    #[test]
    fn the_rate_is_kept() {
        for rate in [1, 3, 100, 20_000, 12_345_678, 10_000_000_000] {
            let total = in_ten_seconds(rate);
            let (least, most) = (rate * 10 * 99 / 100 - 1, rate * 10 * 101 / 100);
            assert!((least..=most).contains(&total), "{rate}: {total}");
        }
    }

    #[test]
    fn zero_is_never() {
        let start = Instant::now();
        let mut rate = ReadRate::new(0, start);
        assert!(rate.is_never());
        assert_eq!(rate.allowed(start + Duration::from_secs(86_400)), 0);
        assert_eq!(rate.resumes(), None);
    }

    #[test]
    fn nothing_is_saved_up() {
        let start = Instant::now();
        let mut rate = ReadRate::new(1000, start);
        assert_eq!(rate.allowed(start + Duration::from_secs(60)), 100);
        rate.took(100);
        let next = rate.resumes().expect("later");
        assert_eq!(next, start + Duration::from_millis(60_050));
    }

    #[test]
    fn slow_readers_have_small_buffers() {
        assert_eq!(ReadRate::receive_buffer(0), Some(4096));
        assert_eq!(ReadRate::receive_buffer(100_000), Some(20_000));
        assert_eq!(ReadRate::receive_buffer(1_000_000), None);
    }
}
