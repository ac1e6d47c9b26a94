//! `--spin`: look again and again before sleeping. Who sleeps has to be woken, and that takes the
//! kernel longer than the echo of a short message; who does not sleep needs a processor.

use std::time::{Duration, Instant};

/// Waits with `wait`, which takes a timeout and returns how many are ready: without sleeping for as
/// long as `spin`, then for the rest of `timeout` (None: for ever).
pub fn wait(
    spin: Duration,
    timeout: Option<Duration>,
    mut wait: impl FnMut(Option<Duration>) -> nix::Result<usize>,
) -> nix::Result<usize> {
    if spin.is_zero() {
        return wait(timeout);
    }
    let started = Instant::now();
    let spin = timeout.map_or(spin, |timeout| timeout.min(spin));
    while started.elapsed() < spin {
        let ready = wait(Some(Duration::ZERO))?;
        if ready > 0 {
            return Ok(ready);
        }
    }
    wait(timeout.map(|timeout| timeout.saturating_sub(started.elapsed())))
}
