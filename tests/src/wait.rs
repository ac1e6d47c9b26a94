//! Waiting for a condition, never for a duration.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Asks `probe` until it has an answer. The error names `what` and the deadline.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        // The clock is read first: a probe that was late to run still counts.
        let last = Instant::now() >= end;
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if last {
            bail!("not within {deadline:?}: {what}");
        }
        sleep(pause.min(end.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
