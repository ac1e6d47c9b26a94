//! Write twice: of each line the first byte, a pause, the rest (UNP 5.13, the client tcpcli11).
//!
//! If the server has closed, the first write succeeds and brings back an RST, and the second meets
//! it: EPIPE and SIGPIPE. The pause is what the RST needs to arrive.
//!
//! Pure state: what may be sent of what waits, and from when on.

use std::time::{Duration, Instant};

/// Where in a line we are, and until when we pause.
#[derive(Clone, Copy, Debug)]
pub struct SplitWrite {
    pause: Duration,
    paused_until: Option<Instant>,
    at_start: bool,
}

impl SplitWrite {
    /// With pauses as long as `pause`.
    pub fn new(pause: Duration) -> Self {
        Self {
            pause,
            paused_until: None,
            at_start: true,
        }
    }

    /// The part of `bytes`, which wait, that may be sent now; nothing during a pause.
    pub fn allowed<'a>(&self, bytes: &'a [u8], now: Instant) -> &'a [u8] {
        if self.paused_until.is_some_and(|end| now < end) {
            return &[];
        }
        let newline = || bytes.iter().position(|byte| *byte == b'\n');
        let length = if self.at_start {
            1
        } else {
            newline().map_or(bytes.len(), |at| at + 1)
        };
        &bytes[..length.min(bytes.len())]
    }

    /// These bytes, a part of what was allowed, have been sent.
    pub fn sent(&mut self, bytes: &[u8], now: Instant) {
        let Some(last) = bytes.last() else { return };
        self.paused_until = self.at_start.then(|| now + self.pause);
        self.at_start = *last == b'\n';
    }

    /// When the pause ends, if this is one.
    pub fn resumes(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|end| now < *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(100);

    /// What is sent at once, and then after each pause.
    fn bursts(mut bytes: &[u8], at_most: usize) -> Vec<Vec<u8>> {
        let (mut split, mut now) = (SplitWrite::new(PAUSE), Instant::now());
        let mut bursts = vec![Vec::new()];
        while !bytes.is_empty() {
            let allowed = split.allowed(bytes, now);
            let n = allowed.len().min(at_most);
            bursts.last_mut().expect("one").extend(&allowed[..n]);
            split.sent(&allowed[..n], now);
            bytes = &bytes[n..];
            if let Some(end) = split.resumes(now) {
                assert_eq!(end, now + PAUSE);
                assert!(split.allowed(bytes, now + PAUSE / 2).is_empty());
                now = end;
                bursts.push(Vec::new());
            }
        }
        bursts
    }

    #[test]
    fn the_first_byte_of_each_line_goes_alone() {
        let sent = bursts(b"hello\nw\n\nx", 1000);
        assert_eq!(sent, [&b"h"[..], b"ello\nw", b"\n\n", b"x", b""]);
    }

    #[test]
    fn partial_writes_make_no_difference() {
        let line = b"hello world\nanother\n";
        for at_most in 1..line.len() {
            assert_eq!(bursts(line, at_most), bursts(line, 1000), "{at_most}");
        }
    }

    #[test]
    fn without_a_pause_there_are_two_writes_all_the_same() {
        let (mut split, now) = (SplitWrite::new(Duration::ZERO), Instant::now());
        assert_eq!(split.allowed(b"ab\n", now), b"a");
        split.sent(b"a", now);
        assert_eq!(split.resumes(now), None);
        assert_eq!(split.allowed(b"b\n", now), b"b\n");
    }
}
