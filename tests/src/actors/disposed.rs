//! Catches, ignores and blocks the signals it is told to, leaves all others as they are by default,
//! and waits; sigaction(2), UNP 5.8.
//!
//! `disposed catch=USR1 ignore=USR2 block=HUP heirs`: `all` stands for every signal. What the kernel
//! refuses is said. `heirs` adds two children, one that is as fork made it and one that has become
//! sleep(1) by exec; `mortal` adds a child that ends at once.

use std::ffi::CString;

use anyhow::{Result, bail};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, execvp, fork};

use crate::actors::{Actor, say, signal, wait_for_ever};

/// `disposed [catch=SIG,...] [ignore=SIG,...] [block=SIG,...] [heirs|mortal]`.
pub static ACTOR: Actor = Actor {
    name: "disposed",
    about: "[catch=SIG,...] [ignore=SIG,...] [block=SIG,...] [heirs|mortal]: waits for signals",
    perform,
};

fn perform(args: &[String]) -> Result<()> {
    // The Rust runtime has handlers of its own, and ignores SIGPIPE.
    for signal in Signal::iterator() {
        // SIGKILL and SIGSTOP cannot even be set to what they are.
        let _ = dispose(signal, SigHandler::SigDfl);
    }
    for arg in args {
        match arg.split_once('=') {
            Some(("catch", names)) => try_all(names, SigHandler::Handler(caught))?,
            Some(("ignore", names)) => try_all(names, SigHandler::SigIgn)?,
            Some(("block", names)) => signals(names)?
                .into_iter()
                .collect::<SigSet>()
                .thread_block()?,
            None if arg == "heirs" => have_heirs()?,
            None if arg == "mortal" => have_child(|| ())?,
            _ => bail!("usage: disposed {}", ACTOR.about),
        }
    }
    say("ready")?;
    wait_for_ever()
}

fn signals(names: &str) -> Result<Vec<Signal>> {
    match names {
        "all" => Ok(Signal::iterator().collect()),
        names => names.split(',').map(signal).collect(),
    }
}

fn try_all(names: &str, handler: SigHandler) -> Result<()> {
    for signal in signals(names)? {
        if let Err(errno) = dispose(signal, handler) {
            say(&format!("{signal}: {errno:?}"))?;
        }
    }
    Ok(())
}

fn dispose(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code)]
    // SAFETY: `caught`, the only handler, does nothing.
    unsafe { sigaction(signal, &action) }.map(drop)
}

extern "C" fn caught(_: libc::c_int) {}

fn have_heirs() -> Result<()> {
    have_child(|| wait_for_ever())?;
    let words = ["sleep", "600"].map(|word| CString::new(word).unwrap_or_default());
    have_child(move || _ = execvp(&words[0], &words))
}

/// Forks a child that lives this life.
fn have_child(life: impl FnOnce()) -> Result<()> {
    #[expect(unsafe_code)]
    // SAFETY: this process has one thread, so no lock is held by another.
    if let ForkResult::Child = unsafe { fork() }? {
        life();
        #[expect(unsafe_code)]
        // SAFETY: it ends the process and touches nothing.
        unsafe {
            libc::_exit(0)
        }
    }
    Ok(())
}
