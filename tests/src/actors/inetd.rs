//! A super-server in its simplest form: accept, fork, dup2, exec; inetd(8), UNP 13.5.
//!
//! `inetd ADDRESS PROGRAM ARGUMENT...` makes each connection descriptors 0, 1 and 2 of a new PROGRAM.
//! `inetd number ADDRESS PROGRAM ARGUMENT...` leaves it where it is; in the place of the argument `%d`
//! the program finds its number.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, execvp, fork};

use crate::actors::{Actor, say};

/// `inetd [number] ADDRESS PROGRAM ARGUMENT...`.
pub static ACTOR: Actor = Actor {
    name: "inetd",
    about: "[number] ADDRESS PROGRAM ARGUMENT...: runs the program for every connection",
    perform,
};

fn perform(args: &[String]) -> Result<()> {
    let (by_number, args) = match args {
        [word, rest @ ..] if word == "number" => (true, rest),
        args => (false, args),
    };
    let [address, words @ ..] = args else {
        bail!("usage: inetd {}", ACTOR.about);
    };
    // Marked close-on-exec, as what it accepts.
    let listener = TcpListener::bind(address).with_context(|| format!("bind to {address}"))?;
    dispose(Signal::SIGCHLD, SigHandler::SigIgn)?;
    say(&format!("listening on {}", listener.local_addr()?))?;
    loop {
        let (connection, _) = listener.accept()?;
        #[expect(unsafe_code)]
        // SAFETY: this process has one thread, so no lock is held by another.
        if let ForkResult::Child = unsafe { fork() }? {
            let Err(error) = become_program(&connection, by_number, words);
            return Err(error).with_context(|| format!("execute {}", words.join(" ")));
        }
    }
}

fn become_program(connection: &TcpStream, by_number: bool, words: &[String]) -> Result<Infallible> {
    let number = connection.as_raw_fd().to_string();
    let words = words.iter().map(|word| match &**word {
        "%d" if by_number => CString::new(&*number),
        word => CString::new(word),
    });
    let words: Vec<CString> = words.collect::<Result<_, _>>()?;
    if by_number {
        fcntl(connection, FcntlArg::F_SETFD(FdFlag::empty()))?;
    } else {
        // The copies stay open over exec.
        dup2_stdin(connection)?;
        dup2_stdout(connection)?;
        dup2_stderr(connection)?;
    }
    // The Rust runtime ignores it, and what is ignored stays so.
    dispose(Signal::SIGPIPE, SigHandler::SigDfl)?;
    dispose(Signal::SIGCHLD, SigHandler::SigDfl)?;
    let program = words.first().context("which program?")?;
    Ok(execvp(program, &words).map_err(io::Error::from)?)
}

fn dispose(number: Signal, handler: SigHandler) -> Result<()> {
    #[expect(unsafe_code)]
    // SAFETY: no handler is installed.
    unsafe { signal(number, handler) }?;
    Ok(())
}
