//! What becomes of SIGPIPE, the signal for a write to a connection that has been reset; UNP 5.13,
//! signal-safety(7).
//!
//! The Rust runtime ignores it before `main`, so that the write fails with EPIPE. `default` undoes
//! that: the signal kills, as it does any C program that has not thought of it. `count` installs a
//! handler that only counts; the count is told by [`tell`], which the talk calls after a write that
//! has failed, and a thread calls for signals that came from elsewhere (`kill -PIPE`) while
//! everybody waits. The handler wakes the thread through a pipe, so there is no moment between
//! looking and waiting in which a signal could be missed.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use nix::unistd::pipe2;
use tcpecho_common::calls;
use tcpecho_common::sink::{self, Sink};

use crate::PROGRAM;

/// What SIGPIPE does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sigpipe {
    /// Nothing; the write fails with EPIPE
    Ignore,
    /// It is counted and told, and the write fails with EPIPE
    Count,
    /// It kills the process, as it does any C program that has not thought of it
    Default,
}

static ARRIVED: AtomicU32 = AtomicU32::new(0);
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// How many have been told of, and where; None: nobody counts.
static TOLD: Mutex<Option<(u32, Sink)>> = Mutex::new(None);

/// Installs what `sigpipe` says. Log lines and messages to a stderr that nobody reads are no reason
/// to die or to count.
pub fn install(sigpipe: Sigpipe) -> nix::Result<()> {
    let handler = match sigpipe {
        Sigpipe::Ignore => SigHandler::SigIgn,
        Sigpipe::Default => SigHandler::SigDfl,
        Sigpipe::Count => {
            start_teller()?;
            SigHandler::Handler(count)
        }
    };
    if sigpipe != Sigpipe::Ignore {
        sink::survive_sigpipe();
    }
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    #[expect(unsafe_code)]
    // SAFETY: `count`, the only handler, keeps to what signal-safety(7) allows.
    unsafe { sigaction(Signal::SIGPIPE, &action) }?;
    // We may have been started with it blocked.
    let pipe: SigSet = [Signal::SIGPIPE].into_iter().collect();
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&pipe), None)
}

/// Tells of every SIGPIPE that has not been told of.
pub fn tell() {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((told, stderr)) = told.as_mut() else {
        return;
    };
    while *told < ARRIVED.load(SeqCst) {
        *told += 1;
        let pid = std::process::id();
        let line = format!("{PROGRAM}: SIGPIPE number {told} in process {pid}\n");
        // A line that finds no room is lost, and the next has the right number.
        let _ = stderr.line(line.as_bytes());
    }
}

fn start_teller() -> nix::Result<()> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // A handler that waits for room would be worse than one whose byte is one too many.
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    thread::Builder::new()
        .name("sigpipe".into())
        .spawn(move || follow(&reader))
        .map_err(|error| calls::errno(&error))?;
    // Without a stderr there is nobody to tell.
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) =
        Sink::over(libc::STDERR_FILENO).ok().map(|sink| (0, sink));
    WAKE.store(writer.as_raw_fd(), SeqCst);
    // The handler may need it until the last moment.
    std::mem::forget(writer);
    Ok(())
}

fn follow(reader: &OwnedFd) {
    let mut bytes = [0; 64];
    while matches!(
        nix::unistd::read(reader, &mut bytes),
        Ok(1..) | Err(Errno::EINTR)
    ) {
        tell();
    }
}

/// The handler: counts, and wakes the thread.
extern "C" fn count(_: libc::c_int) {
    let errno = Errno::last_raw();
    ARRIVED.fetch_add(1, SeqCst);
    #[expect(unsafe_code)]
    // SAFETY: one byte from a static; the descriptor is never closed. If the pipe is full, a
    // wake-up is under way already.
    unsafe {
        libc::write(WAKE.load(SeqCst), b"!".as_ptr().cast(), 1);
    }
    Errno::set_raw(errno);
}
