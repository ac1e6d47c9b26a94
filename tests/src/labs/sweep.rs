//! Ctrl-C leaves nothing behind, outside namespaces as well.
//!
//! The programs of a lab are in process groups of their own, out of reach of the terminal's ^C. A
//! PID namespace takes them along when its first process ends; without one a thread does it: it
//! waits for the signal and kills everything that descends from this process, orphans included.

use std::thread;

use anyhow::{Context, Result};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, raise, signal};
use nix::unistd::Pid;

use crate::observe::processes;

/// From now on SIGINT, SIGTERM and SIGHUP end this process and everything it has started.
/// To be called before there are other threads, which would otherwise get the signals.
pub fn when_interrupted() -> Result<()> {
    // Orphans come to us instead of to init, so that they stay our descendants.
    set_child_subreaper(true).context("prctl PR_SET_CHILD_SUBREAPER")?;
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("block signals")?;
    thread::Builder::new().name("sweep".into()).spawn(move || {
        if let Ok(which) = signals.wait() {
            kill_descendants();
            die_of(which);
        }
    })?;
    Ok(())
}

/// Again and again, because a server may be forking while its descendants are listed; a server
/// that is dead does not fork.
fn kill_descendants() {
    let own = std::process::id() as i32;
    loop {
        let tree = processes::tree(own).into_iter();
        let alive: Vec<_> = tree.filter(|p| p.pid != own && p.state != 'Z').collect();
        if alive.is_empty() {
            return;
        }
        for process in alive {
            // Gone meanwhile is as good.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
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
