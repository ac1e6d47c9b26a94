//! Ctrl-C, as a descriptor: signalfd(2). The first signal ends the run, the second the program.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What ends a run.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The signals that end this program, waiting to be read.
#[derive(Debug)]
pub struct Interrupts {
    signals: SigSet,
    descriptor: SignalFd,
}

impl Interrupts {
    /// From now on they kill no more. To be called before there are other threads, which would
    /// otherwise die of them. What we were started to ignore (nohup) stays ignored.
    pub fn catch() -> Result<Self> {
        let signals: SigSet = SIGNALS
            .into_iter()
            .filter(|signal| !is_ignored(*signal))
            .collect();
        signals.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&signals, flags).context("signalfd")?;
        Ok(Self {
            signals,
            descriptor,
        })
    }

    /// Which has come, if one has. Another one kills.
    pub fn come(&self) -> Option<Signal> {
        let information = self.descriptor.read_signal().ok().flatten()?;
        let _ = self.signals.thread_unblock();
        Signal::try_from(information.ssi_signo as i32).ok()
    }
}

impl Drop for Interrupts {
    /// From now on they kill again: what comes next may wait for whoever reads our stdout, for ever.
    fn drop(&mut self) {
        let _ = self.signals.thread_unblock();
    }
}

impl AsRawFd for Interrupts {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_fd().as_raw_fd()
    }
}

/// Has a signal come that nobody has taken note of yet?
pub fn is_pending() -> bool {
    let mut pending = MaybeUninit::zeroed();
    #[expect(unsafe_code)]
    // SAFETY: it fills one sigset_t, for which all zeros (no signals) do as well.
    let pending = unsafe {
        libc::sigpending(pending.as_mut_ptr());
        SigSet::from_sigset_t_unchecked(pending.assume_init())
    };
    SIGNALS.iter().any(|signal| pending.contains(*signal))
}

fn is_ignored(signal: Signal) -> bool {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code)]
    // SAFETY: neither the default disposition nor the one before, which is put back, is code of ours.
    unsafe {
        let before = sigaction(signal, &default);
        let ignored = before.is_ok_and(|before| matches!(before.handler(), SigHandler::SigIgn));
        if let (true, Ok(before)) = (ignored, before) {
            let _ = sigaction(signal, &before);
        }
        ignored
    }
}

/// Dies of the signal, so that a shell that waits for us sees what it expects.
pub fn die_of(signal: Signal) {
    let only: SigSet = [signal].into_iter().collect();
    let _ = only.thread_unblock();
    let _ = raise(signal);
}
