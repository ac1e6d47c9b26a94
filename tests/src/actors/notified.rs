//! Wants to be told by SIGIO when there is something to read, and reads it then; fcntl(2), UNP 25.2.
//!
//! It has a handler in any case. With `owner` it says whom to tell (F_SETOWN), with `async` that
//! somebody is to be told (O_ASYNC). Each run of the handler and each read is a line on stdout.

use std::io::stdin;
use std::os::fd::AsFd;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpid, read};

use crate::actors::{Actor, say};

/// `notified [owner] [async]`.
pub static ACTOR: Actor = Actor {
    name: "notified",
    about: "[owner] [async]: waits for SIGIO, and reads stdin when it comes",
    perform,
};

fn perform(args: &[String]) -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(caught),
        SaFlags::empty(),
        SigSet::empty(),
    );
    #[expect(unsafe_code)]
    // SAFETY: the handler makes one system call, which signal-safety(7) allows.
    unsafe { sigaction(Signal::SIGIO, &action) }?;
    let mut flags = OFlag::O_NONBLOCK;
    for arg in args {
        match &**arg {
            "owner" => own_stdin()?,
            "async" => flags |= OFlag::O_ASYNC,
            _ => bail!("usage: notified {}", ACTOR.about),
        }
    }
    fcntl(stdin(), FcntlArg::F_SETFL(flags))?;
    // It can come only while we wait, and not shortly before that.
    SigSet::from(Signal::SIGIO).thread_block()?;
    say("ready")?;
    loop {
        SigSet::empty().suspend()?;
        let bytes = drain(stdin())?;
        say(&format!("read {bytes} bytes"))?;
    }
}

/// The signals about stdin are for this process.
fn own_stdin() -> Result<()> {
    #[expect(unsafe_code)]
    // SAFETY: F_SETOWN takes an integer and touches no memory of ours.
    let result = unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_SETOWN, getpid().as_raw()) };
    Errno::result(result)?;
    Ok(())
}

/// The handler: says that it has run.
extern "C" fn caught(_: libc::c_int) {
    let errno = Errno::last_raw();
    #[expect(unsafe_code)]
    // SAFETY: six bytes from a static.
    unsafe {
        libc::write(libc::STDOUT_FILENO, b"SIGIO\n".as_ptr().cast(), 6);
    }
    Errno::set_raw(errno);
}

/// Reads until there is nothing more; how many bytes that was.
fn drain(fd: impl AsFd) -> Result<usize> {
    let mut bytes = 0;
    loop {
        match read(&fd, &mut [0; 100]) {
            Ok(0) | Err(Errno::EAGAIN) => return Ok(bytes),
            Err(Errno::EINTR) => {}
            n => bytes += n?,
        }
    }
}
