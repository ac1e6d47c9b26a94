//! Waiting for a condition, never for a duration.
//!
//! The probe is asked again when the wait has grown by a tenth, and at least ten times a second: what
//! happens at once costs nothing, and who waits long leaves the machine to those he waits for.
//!
//! A machine may stand still: a laptop that swaps, a virtual machine whose host is busy (one
//! stood still for 3.2 s under load). Those we wait for stood still, too, so that time does not count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Between two looks: at least, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Who sleeps that much longer than he wanted says that the machine stood still.
const STANDSTILL: Duration = Duration::from_millis(300);

static STOOD_STILL: Longest = Longest(AtomicU64::new(0));

/// The longest time that the machine has stood still while somebody in this process waited, since
/// [`begin_anew`]; none that is worth telling.
pub fn stood_still() -> Option<Duration> {
    STOOD_STILL.worth_telling()
}

/// Forgets what [`stood_still`] would tell.
pub fn begin_anew() {
    STOOD_STILL.0.store(0, Relaxed);
}

/// In nanoseconds.
struct Longest(AtomicU64);

impl Longest {
    fn note(&self, time: Duration) {
        self.0.fetch_max(time.as_nanos() as u64, Relaxed);
    }

    fn worth_telling(&self) -> Option<Duration> {
        let longest = Duration::from_nanos(self.0.load(Relaxed));
        (longest >= STANDSTILL).then_some(longest)
    }
}

/// Asks `probe` until it has an answer. The error names `what` and the deadline.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let mut end = began + deadline;
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
        end += overslept(pause.min(end.saturating_duration_since(Instant::now())));
    }
}

/// Sleeps; returns how much longer than that.
fn overslept(time: Duration) -> Duration {
    let began = Instant::now();
    sleep(time);
    let over = began.elapsed().saturating_sub(time);
    STOOD_STILL.note(over);
    over
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
    fn the_longest_standstill_is_told_if_it_was_long() {
        let longest = Longest(AtomicU64::new(0));
        longest.note(Duration::from_millis(20));
        assert_eq!(longest.worth_telling(), None);
        longest.note(Duration::from_secs(3));
        longest.note(Duration::from_secs(1));
        assert_eq!(longest.worth_telling(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn the_probe_is_asked_once_even_if_there_is_no_time() {
        let answer = eventually("an answer", Duration::ZERO, || Some(1));
        assert_eq!(answer.expect("asked"), 1);
    }
}
