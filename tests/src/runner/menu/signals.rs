//! Signals as something to wait for beside the keyboard; signalfd(2).

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the menu must know of: somebody wants it to end, to stop, to go on; its window has changed;
/// a demonstration has ended.
const SIGNALS: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
];

/// These signals do nothing any more but wait to be read. Dropped, they do what they did before.
#[derive(Debug)]
pub struct Signals {
    set: SigSet,
    descriptor: SignalFd,
}

impl Signals {
    /// From now on. To be called before there are other threads, which would get them otherwise.
    pub fn catch() -> Result<Self> {
        let set: SigSet = SIGNALS.into_iter().collect();
        set.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&set, flags).context("signalfd")?;
        Ok(Self { set, descriptor })
    }

    /// The next that has come, if one has.
    pub fn come(&self) -> Option<Signal> {
        let information = self.descriptor.read_signal().ok().flatten()?;
        Signal::try_from(information.ssi_signo as i32).ok()
    }

    /// Waits for one.
    pub fn wait(&self) -> Result<Signal> {
        loop {
            if let Some(signal) = self.come() {
                return Ok(signal);
            }
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).context("poll")?;
        }
    }

    /// Lets `signal` do to this process what it does to others. Returns if that was to stop it, and
    /// it has been told to go on.
    pub fn obey(&self, signal: Signal) {
        let only: SigSet = [signal].into_iter().collect();
        // Unblocked, it comes before raise returns.
        let _ = only.thread_unblock();
        let _ = raise(signal);
        let _ = only.thread_block();
    }

    /// For a child, between fork and exec: it gets them as everybody does.
    pub fn release(set: SigSet) -> nix::Result<()> {
        set.thread_unblock()
    }

    /// Which they are.
    pub fn set(&self) -> SigSet {
        self.set
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.set.thread_unblock();
    }
}
