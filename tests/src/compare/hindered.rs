//! When nothing comes back: is it the fault of the server?
//!
//! A server whose processors others have answers late or not at all, as one does that hangs. What tells
//! them apart: the former could run, and one of its threads waits for a processor for a good part of the
//! time, while others use one; the latter waits for something else, or has a processor. Who still owes
//! something is looked at for a moment; of who has answered in the end, only later than that was measured,
//! the time since there is load counts, and the load generator as well, without which nothing comes back
//! either.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::UsageWho;

use crate::compare::account::{Machine, used_by};
use crate::figures;
use crate::observe::accounts;

/// A good part of the time.
const PART: f64 = 0.25;

/// How long who still owes something is looked at.
const MOMENT: Duration = Duration::from_millis(400);

/// A measurement that says nothing of the server, because others had the processors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hindered {
    /// Processor time that others used, of all there was; 0 to 1.
    pub foreign_load: f64,
}

impl fmt::Display for Hindered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = figures::percent(self.foreign_load);
        write!(f, "other programs had the processors ({part} of them)")
    }
}

impl std::error::Error for Hindered {}

/// Something did not come in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// What, in one line.
    pub what: String,
    /// If it came in the end: how long server or load generator have waited for a processor meanwhile,
    /// and of what time.
    pub came: Option<(Duration, Duration)>,
}

impl Late {
    /// This never came.
    pub fn never(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            came: None,
        }
    }

    /// How long somebody has waited for a processor, and of what time.
    fn wait(&self, server: i32) -> (Duration, Duration) {
        let now = || (accounts::longest_wait_in(server, MOMENT), MOMENT);
        self.came.unwrap_or_else(now)
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Late {}

/// A measurement, or something else that may fail, since it began.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    began: Instant,
    machine: Machine,
    ours: Duration,
}

impl Attempt {
    /// To be called before the server is started.
    pub fn begin() -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            machine: Machine::now()?,
            ours: ours()?,
        })
    }

    /// If this error is about time, and others had the processors meanwhile: that. The server is still
    /// there.
    pub fn excuse(&self, error: &anyhow::Error, server: i32) -> Option<Hindered> {
        let late: &Late = error.downcast_ref()?;
        let (waited, of) = late.wait(server);
        if waited < of.mul_f64(PART) {
            return None;
        }
        let now = Self::begin().ok()?;
        let machine = now.machine.since(&self.machine);
        let used = accounts::usage(server)?.cpu + now.ours.saturating_sub(self.ours);
        hindered(self.began.elapsed(), &machine, used)
    }
}

/// What this process has used, and those of its children that it has waited for.
fn ours() -> Result<Duration> {
    Ok(used_by(UsageWho::RUSAGE_SELF)? + used_by(UsageWho::RUSAGE_CHILDREN)?)
}

/// Somebody has waited for a processor: have others had one meanwhile? Server and load generator, and we
/// ourselves, have used so much.
fn hindered(elapsed: Duration, machine: &Machine, used: Duration) -> Option<Hindered> {
    let foreign = machine.busy.saturating_sub(used);
    (foreign >= elapsed.mul_f64(PART)).then(|| Hindered {
        foreign_load: machine.part(foreign),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::process::Command;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_waits_while_others_run_is_hindered() {
        let machine = Machine {
            busy: SECOND * 2,
            all: SECOND * 2,
        };
        let hindered = |used| hindered(SECOND, &machine, SECOND.mul_f64(used));
        let judged = hindered(0.1).expect("hindered");
        assert!((judged.foreign_load - 0.95).abs() < 1e-9, "{judged:?}");
        assert_eq!(
            judged.to_string(),
            "other programs had the processors (95 % of them)"
        );
        // It waits for its own threads, which have the processors.
        assert_eq!(hindered(1.9), None);
    }

    /// Whatever others do.
    #[test]
    fn who_waits_for_something_else_or_is_wrong_is_not() {
        let attempt = Attempt::begin().expect("a Linux");
        let mut sleep = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = sleep.id() as i32;
        let excuse = |error| attempt.excuse(&error, pid);
        let late = excuse(Late::never("nothing came").into());
        let wrong = excuse(anyhow!("wrong-bytes: 0x00 instead of 0x01"));
        let _ = (sleep.kill(), sleep.wait());
        assert_eq!((late, wrong), (None, None));
    }
}
