//! The children of a forking server: counting them, reaping them, ending them.
//!
//! Reaping is done by the accept loop when SIGCHLD has interrupted it, not in the handler: there
//! the log and the table of children would be out of bounds (signal-safety(7)).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{mem, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tcpecho_common::{Mistake, calls};

use crate::cli::Config;
use crate::counters::Counters;
use crate::signals;

/// How long after the grace children that have not ended are killed: they reset what is stuck at
/// the end of the grace, and need a moment for it.
const AFTER_GRACE: Duration = Duration::from_millis(500);

/// The living children, and those nobody has waited for.
#[derive(Debug, Default)]
pub struct Children {
    /// With the number of what each serves: a connection, or a worker's place.
    alive: HashMap<Pid, u64>,
    reaped: u64,
    /// Numbers of those that were killed, or failed.
    uncounted: Vec<u64>,
}

impl Children {
    /// A child has been forked for the `nth` connection or place.
    pub fn add(&mut self, pid: Pid, nth: u64) {
        self.alive.insert(pid, nth);
    }

    /// Children not waited for yet.
    pub fn count(&self) -> usize {
        self.alive.len()
    }

    /// Is this one of them?
    pub fn contains(&self, pid: Pid) -> bool {
        self.alive.contains_key(&pid)
    }

    /// Tells all children to stop.
    pub fn tell_to_stop(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Children waited for, so far.
    pub fn reaped(&self) -> u64 {
        self.reaped
    }

    /// Waits for every child that has ended; signals do not queue, so one SIGCHLD may stand for
    /// several (UNP 5.10). Returns the numbers of those that had been killed, or had failed, and so
    /// have not counted the end of their connection themselves.
    pub fn reap(&mut self, config: &Config) -> Vec<u64> {
        if config.commits(Mistake::NoReaper) {
            return Vec::new();
        }
        while self.wait(WaitPidFlag::WNOHANG) && !config.commits(Mistake::WaitOnce)
            || self.takes_none_for_one(config)
        {}
        mem::take(&mut self.uncounted)
    }

    /// As [`reap`](Self::reap), where each child serves one connection: counts the end of those whose
    /// child has not, and what it had read and not written as lost.
    pub fn reap_and_count(&mut self, config: &Config, counters: &Counters) {
        for nth in self.reap(config) {
            counters.closed.fetch_add(1, Relaxed);
            let tally = counters.tally(nth);
            // Where there are very many children, some share a tally: what is pending is theirs, too.
            if !self
                .alive
                .values()
                .any(|other| ptr::eq(counters.tally(*other), tally))
            {
                tally.give_up();
            }
        }
    }

    /// `while (wait3(&status, WNOHANG, 0) >= 0)`, a reaper that is often seen: it goes on when no
    /// child has ended (0) as if one had, until there is none left (-1). To be told to stop helps.
    fn takes_none_for_one(&self, config: &Config) -> bool {
        config.commits(Mistake::Wait3Spin) && !self.alive.is_empty() && !signals::stopping()
    }

    /// Tells all children to stop and waits until they have. At the end of the grace and at the
    /// second SIGTERM `now` tells them to reset what is stuck; those that have not ended then are
    /// killed. Returns how many had to be.
    pub fn end(&mut self, grace: Duration, now: &AtomicBool) -> usize {
        self.tell_to_stop();
        let grace_ends = signals::deadline(grace).unwrap_or_else(Instant::now);
        let mut deadline = None;
        // The timer of a stopping server interrupts this wait, so the clock is looked at.
        while !self.alive.is_empty() && deadline.is_none_or(|end| Instant::now() < end) {
            self.wait(WaitPidFlag::empty());
            let hurry = signals::pending().now || Instant::now() >= grace_ends;
            if hurry && deadline.is_none() {
                // A child whose SIGTERM came late would go by a clock that was started late.
                now.store(true, Relaxed);
                deadline = Some(Instant::now() + AFTER_GRACE);
            }
            signals::tell_why_waiting(self.alive.len(), grace);
        }
        let killed = self.alive.len();
        if killed > 0 {
            self.signal(Signal::SIGKILL);
            while !self.alive.is_empty() {
                self.wait(WaitPidFlag::empty());
            }
        }
        killed
    }

    /// Only children that have not been waited for: their pids cannot belong to anybody else.
    fn signal(&self, signal: Signal) {
        for pid in self.alive.keys() {
            // ESRCH cannot be, and whatever else: it is killed later.
            let _ = kill(*pid, signal);
        }
    }

    /// One wait. False if there was nothing to wait for now; true if a child was waited for, or a
    /// signal interrupted it, so that there may be more.
    fn wait(&mut self, flags: WaitPidFlag) -> bool {
        let mut status = WaitStatus::StillAlive;
        let call = || {
            status = waitpid(None, Some(flags))?;
            Ok(status.pid().unwrap_or(Pid::from_raw(0)))
        };
        let waited = if flags.contains(WaitPidFlag::WNOHANG) {
            calls::at_once("waitpid", -1, call)
        } else {
            calls::may_block("waitpid", -1, call)
        };
        if waited == Err(Errno::ECHILD) {
            self.alive.clear();
        }
        let ended = status.pid();
        if let Some(pid) = ended {
            self.ended(pid, status);
        }
        ended.is_some() || waited == Err(Errno::EINTR)
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        // Not one of ours: as process 1 we inherit other people's orphans.
        let Some(nth) = self.alive.remove(&pid) else {
            return;
        };
        self.reaped += 1;
        match status {
            WaitStatus::Signaled(_, signal, _) => {
                self.uncounted.push(nth);
                log::info!("reaped child {pid}: killed by {signal}");
            }
            WaitStatus::Exited(_, 0) => log::info!("reaped child {pid}"),
            other => {
                self.uncounted.push(nth);
                log::warn!("reaped child {pid}: {other:?}");
            }
        }
    }
}

/// For models that have no children: as process 1 of a container they inherit other people's
/// orphans, and nobody else waits for those.
pub fn reap_strangers() {
    let waited = || waitpid(None, Some(WaitPidFlag::WNOHANG));
    while waited().is_ok_and(|status| status.pid().is_some()) {}
}

/// Ends a forked child at once: nothing of the parent's is flushed or run a second time.
#[inline]
pub fn leave() -> ! {
    #[expect(unsafe_code)]
    // SAFETY: it ends the process and touches nothing.
    unsafe {
        libc::_exit(0)
    }
}
