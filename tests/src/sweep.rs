//! Ctrl-C leaves nothing behind, outside namespaces as well.
//!
//! The programs that we start are in process groups of their own, out of reach of the terminal's ^C. A
//! PID namespace takes them along when its first process ends; without one a thread does it: it
//! waits for the signal and kills everything that descends from this process, orphans included.
//!
//! What is being started at that moment is waited for, and nothing is started after it: whoever
//! starts a program holds what `starting` has given until it is there.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, raise, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::observe::processes;

/// The signal that has come. Whoever starts a program reads it, and holds it meanwhile.
static CAME: RwLock<Option<Signal>> = RwLock::new(None);

/// Whoever must not be ended in the middle of something holds this.
static UNDIVIDED: RwLock<()> = RwLock::new(());

/// Who ends this process when everything that it has started has been killed.
pub enum Last {
    /// The signal, at once.
    Signal,
    /// The signal, after these last words.
    Words(Box<dyn FnOnce() + Send>),
    /// The caller, who has something to tell first, with [`die`]; or the second signal, at once.
    Caller,
}

/// From now on SIGINT, SIGTERM and SIGHUP end everything that this process has started, and then
/// this process. To be called before there are other threads, which would otherwise get the signals.
pub fn when_interrupted(last: Last) -> Result<()> {
    // Orphans come to us instead of to init, so that they stay our descendants.
    set_child_subreaper(true).context("prctl PR_SET_CHILD_SUBREAPER")?;
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("block signals")?;
    thread::Builder::new().name("sweep".into()).spawn(move || {
        let Ok(which) = signals.wait() else { return };
        // This waits for what is being started.
        *CAME.write().unwrap_or_else(PoisonError::into_inner) = Some(which);
        kill_descendants();
        match last {
            Last::Signal => {}
            Last::Words(say) => say(),
            Last::Caller => _ = signals.wait(),
        }
        let _undivided = UNDIVIDED.write();
        die_of(which);
    })?;
    Ok(())
}

/// To be held while a program is started. Error: we have been interrupted, nothing is started any more.
pub(crate) fn starting() -> Result<RwLockReadGuard<'static, Option<Signal>>> {
    let came = CAME.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(signal) = *came {
        bail!("interrupted by {signal}");
    }
    Ok(came)
}

/// To be held while something is done that must not be left half done, such as a file that is written
/// and renamed: a signal waits for its end.
pub(crate) fn undivided() -> RwLockReadGuard<'static, ()> {
    UNDIVIDED.read().unwrap_or_else(PoisonError::into_inner)
}

/// The signal that has come.
pub fn interrupted() -> Option<Signal> {
    *CAME.read().unwrap_or_else(PoisonError::into_inner)
}

/// If we have been interrupted, dies of that signal. Whoever is dead is waited for, so that nobody
/// sees them as zombies until init has found them.
pub fn die() {
    if let Some(which) = interrupted() {
        clear_away();
        die_of(which);
    }
}

/// Ends as if this signal had come to us, which it has to those whom we have started. To be called only
/// after [`when_interrupted`].
pub fn follow(which: Signal) -> ! {
    let _ = kill(Pid::this(), which);
    loop {
        thread::park();
    }
}

/// Ends everything that descends from this process, and waits for whoever is dead.
pub fn clear_away() {
    kill_descendants();
    while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
    {
    }
}

/// Again and again, because a server may be forking while its descendants are listed; a server
/// that is dead does not fork.
fn kill_descendants() {
    let own = std::process::id() as i32;
    let alive = || {
        let tree = processes::tree(own).into_iter();
        let alive = tree.filter(|p| p.pid != own && p.state != 'Z');
        alive.map(|process| process.pid).collect::<Vec<_>>()
    };
    let mut hunt = Hunt::default();
    while !hunt.is_over_for(&alive()) {}
}

/// Kills whoever is found, until nobody is found twice in a row. Once would not do: a list of processes
/// is older than what is read of each, and who was there for the list, and dead when it was read, may
/// have forked in between.
#[derive(Default)]
pub(crate) struct Hunt {
    looks_in_vain: u32,
}

impl Hunt {
    /// Kills those who have just been found alive. Is nobody left?
    pub(crate) fn is_over_for(&mut self, found: &[i32]) -> bool {
        for pid in found {
            // Gone meanwhile is as good.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        self.looks_in_vain = if found.is_empty() {
            self.looks_in_vain + 1
        } else {
            0
        };
        self.looks_in_vain >= 2
    }
}

/// Dies of the signal, so that a shell that waits for us sees what it expects.
fn die_of(which: Signal) {
    let mut only = SigSet::empty();
    only.add(which);
    #[expect(unsafe_code)]
    // SAFETY: the default disposition runs no code of ours.
    let _ = unsafe { signal(which, SigHandler::SigDfl) };
    let _ = only.thread_unblock();
    let _ = raise(which);
}
