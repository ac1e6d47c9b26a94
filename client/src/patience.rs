//! The time limits of a talk: `--idle-timeout` and `--quit-after`.
//!
//! Pure state: it is told what moves and when stdin has ended, and knows when patience ends.

use std::time::{Duration, Instant};

use crate::session::Leave;

/// See the module's head. The default has no end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    idle: Option<Idle>,
    quit: Option<Quit>,
    lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    limit: Duration,
    /// How often a byte had moved when that was last counted, and when it had changed.
    moved: u64,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Quit {
    limit: Duration,
    /// When it is over; None until stdin has ended.
    at: Option<Instant>,
}

impl Patience {
    /// With these limits, for a talk that begins now.
    pub fn new(idle: Option<Duration>, quit: Option<Duration>, now: Instant) -> Self {
        Self {
            idle: idle.map(|limit| Idle {
                limit,
                moved: 0,
                since: now,
            }),
            quit: quit.map(|limit| Quit { limit, at: None }),
            lost: false,
        }
    }

    /// stdin has ended.
    pub fn input_ended(&mut self, now: Instant) {
        if let Some(quit) = &mut self.quit {
            quit.at.get_or_insert(now + quit.limit);
        }
    }

    /// A byte has moved that often until now. The clock is read only if somebody wants to know.
    pub fn moved(&mut self, moved: u64, now: impl FnOnce() -> Instant) {
        if let Some(idle) = self.idle.as_mut().filter(|idle| idle.moved != moved) {
            (idle.moved, idle.since) = (moved, now());
        }
    }

    /// When it ends, if nothing moves, and why.
    pub fn ends(&self) -> Option<(Instant, Leave)> {
        let quit = self.quit.and_then(|quit| Some((quit.at?, quit.limit)));
        let quit = quit.map(|(at, limit)| (at, Leave::Quit(limit)));
        let idle = self.idle;
        let idle = idle.map(|idle| (idle.since + idle.limit, Leave::Idle(idle.limit)));
        quit.into_iter().chain(idle).min_by_key(|(end, _)| *end)
    }

    /// Looks at the clock: why it is lost, if it is.
    pub fn look(&mut self, now: impl FnOnce() -> Instant) -> Option<Leave> {
        let (end, why) = self.ends()?;
        self.lost |= end <= now();
        self.lost.then_some(why)
    }

    /// Was it lost when it was last looked at?
    pub fn is_lost(&self) -> bool {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn without_limits_it_never_ends_and_no_clock_is_read() {
        let mut patience = Patience::default();
        patience.moved(1, || panic!("nobody wants to know"));
        patience.input_ended(Instant::now());
        assert_eq!(patience.look(|| panic!("nobody wants to know")), None);
        assert_eq!(patience.ends(), None);
    }

    #[test]
    fn whatever_moves_begins_the_idle_time_anew() {
        let start = Instant::now();
        let mut patience = Patience::new(Some(SECOND), None, start);
        patience.moved(1, || start + SECOND / 2);
        patience.moved(1, || panic!("nothing has moved"));
        let end = start + SECOND * 3 / 2;
        assert_eq!(patience.ends(), Some((end, Leave::Idle(SECOND))));
        assert_eq!(patience.look(|| start + SECOND), None);
        assert!(!patience.is_lost());
        assert_eq!(patience.look(|| end), Some(Leave::Idle(SECOND)));
        assert!(patience.is_lost());
    }

    #[test]
    fn the_time_to_quit_begins_when_stdin_ends_and_only_then() {
        let start = Instant::now();
        let mut patience = Patience::new(Some(SECOND * 9), Some(SECOND), start);
        assert_eq!(patience.look(|| start + SECOND * 8), None);
        patience.input_ended(start + SECOND);
        patience.input_ended(start + SECOND * 2);
        let end = start + SECOND * 2;
        assert_eq!(patience.ends(), Some((end, Leave::Quit(SECOND))));
        assert_eq!(patience.look(|| end), Some(Leave::Quit(SECOND)));
    }
}
