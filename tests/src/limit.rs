//! The limits of descriptors and memory, our own or those of a running process; getrlimit(2),
//! prlimit(2).

use std::fs;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::observe::processes;
use crate::program::PROMPTLY;
use crate::wait::eventually;

/// Descriptors of tests that run beside the one that asks, and of everything else.
pub const OTHERS: u64 = 2500;

/// Makes room for so many connections of our own, with the tests beside us; or says why not.
pub fn no_room_for(connections: usize) -> Result<Option<String>> {
    let wanted = connections as u64 + OTHERS;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < wanted {
        return Ok(Some(format!("ulimit -Hn is {hard}, {wanted} are needed")));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(None)
}

/// The limit that a process had, and the process.
#[derive(Debug)]
pub struct Limit {
    pid: i32,
    /// Soft and hard.
    before: (u64, u64),
}

impl Limit {
    /// Of this process.
    pub fn of(pid: i32) -> Result<Self> {
        let before =
            limit_descriptors(pid, None).with_context(|| format!("the limits of process {pid}"))?;
        Ok(Self { pid, before })
    }

    /// No descriptor that is free now can be had any more.
    pub fn lower_to_what_is_in_use(&self) -> Result<()> {
        self.lower(0)
    }

    /// Of the descriptors that are free now, so many can be had, and no more.
    pub fn lower(&self, room: usize) -> Result<()> {
        let used = processes::descriptors(self.pid)?;
        let mut free = (0..i32::MAX).filter(|n| used.iter().all(|(fd, _)| fd != n));
        let limit = free.nth(room).context("none is free")? as u64;
        limit_descriptors(self.pid, Some((limit, self.before.1)))?;
        // An accept that blocks has had its descriptor reserved since before (and one in a ring
        // knows the limit from before): start it anew, by a stop that interrupts the wait.
        eventually("a process that waits", PROMPTLY, || {
            processes::look(self.pid).filter(|process| process.state == 'S')
        })?;
        kill(Pid::from_raw(self.pid), Signal::SIGSTOP)?;
        // All threads of it: those that have not stopped yet would not notice.
        eventually("a stopped process", PROMPTLY, || {
            let states = processes::states(self.pid)?;
            states.iter().all(|state| *state == 'T').then_some(())
        })?;
        kill(Pid::from_raw(self.pid), Signal::SIGCONT)?;
        Ok(())
    }

    /// The limit that it had.
    pub fn restore(&self) -> Result<()> {
        limit_descriptors(self.pid, Some(self.before))?;
        Ok(())
    }
}

/// The limit of descriptors (`RLIMIT_NOFILE`, soft and hard) of another process, and a new one;
/// prlimit(2). Returns what it was. Errors: ESRCH if it has ended, EPERM if it is not ours.
pub fn limit_descriptors(pid: i32, new: Option<(u64, u64)>) -> nix::Result<(u64, u64)> {
    limit(pid, Resource::RLIMIT_NOFILE, new)
}

/// From now on another process can map so many bytes more than it has, and no more (`RLIMIT_AS`).
pub fn limit_memory(pid: i32, more: u64) -> Result<()> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm.split(' ').next().context("an empty statm")?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.context("no page size")? as u64;
    let soft = pages.parse::<u64>()? * page + more;
    let (_, hard) = limit(pid, Resource::RLIMIT_AS, None)?;
    limit(pid, Resource::RLIMIT_AS, Some((soft, hard)))?;
    Ok(())
}

#[expect(unsafe_code)]
fn limit(pid: i32, of: Resource, new: Option<(u64, u64)>) -> nix::Result<(u64, u64)> {
    let new = new.map(|(rlim_cur, rlim_max)| libc::rlimit { rlim_cur, rlim_max });
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it reads one struct, if there is one, and writes one.
    let done = unsafe { libc::prlimit(pid, of as _, new, &raw mut old) };
    Errno::result(done).map(|_| (old.rlim_cur, old.rlim_max))
}
