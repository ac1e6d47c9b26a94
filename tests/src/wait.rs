//! Waiting for a condition, never for a duration.
//!
//! The probe is asked again when the wait has grown by a tenth, and at least ten times a second: what
//! happens at once costs nothing, and who waits long leaves the machine to those he waits for.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Between two looks: at least, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Asks `probe` until it has an answer. The error names `what` and the deadline.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let end = began + deadline;
    loop {
        // The clock is read first: a probe that was late to run still counts.
        let last = Instant::now() >= end;
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if last {
            bail!("not within {deadline:?}: {what}");
        }
        let pause = (began.elapsed() / 10).clamp(PAUSE.0, PAUSE.1);
        sleep(pause.min(end.saturating_duration_since(Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_there_costs_no_time() {
        let start = Instant::now();
        let answer = eventually("an answer", Duration::from_secs(60), || Some(42));
        assert_eq!(answer.expect("at once"), 42);
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_probe_is_asked_until_it_has_an_answer() {
        let mut asked = 0;
        let answer = eventually("the fifth", Duration::from_secs(60), || {
            asked += 1;
            (asked == 5).then_some(asked)
        });
        assert_eq!(answer.expect("the fifth"), 5);
    }

    #[test]
    fn the_error_names_condition_and_deadline() {
        let error = eventually::<()>("rain", Duration::from_millis(30), || None);
        assert_eq!(
            error.expect_err("never").to_string(),
            "not within 30ms: rain"
        );
    }

    #[test]
    fn the_probe_is_asked_once_even_if_there_is_no_time() {
        let answer = eventually("an answer", Duration::ZERO, || Some(1));
        assert_eq!(answer.expect("asked"), 1);
    }
}
