//! Waits in one system call, with a handler for SIGUSR1, and says whether the signal has ended the
//! call: `EINTR`. A call that the kernel restarts says nothing; UNP 5.9, signal(7).

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::select::{FdSet, select};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{accept, setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use nix::unistd::{Pid, pipe2, read, write};
use tcpecho_common::calls;

use crate::actors::{Actor, say};

/// `blocked CALL [--restart]`.
pub static ACTOR: Actor = Actor {
    name: "blocked",
    about: "CALL [--restart]: waits in a system call until SIGUSR1 interrupts it",
    perform,
};

/// The calls it can wait in.
pub const CALLS: &[&str] = &[
    "accept",
    "read",
    "write",
    "waitpid",
    "accept/timeout",
    "read/timeout",
    "poll",
    "select",
    "epoll_wait",
    "nanosleep",
];

/// Longer than anybody waits.
const LONG: Duration = Duration::from_secs(600);

fn perform(args: &[String]) -> Result<()> {
    let (call, restart) = match args {
        [call] => (call, false),
        [call, flag] if flag == "--restart" => (call, true),
        _ => bail!(
            "usage: blocked CALL [--restart], CALL: {}",
            CALLS.join(", ")
        ),
    };
    catch(restart)?;
    let outcome = wait_in(call)?;
    say(&match outcome {
        Ok(()) => "it returned".into(),
        Err(errno) => format!("{errno:?}"),
    })
}

/// Installs the handler, with SA_RESTART or without.
fn catch(restart: bool) -> Result<()> {
    let flags = if restart {
        SaFlags::SA_RESTART
    } else {
        SaFlags::empty()
    };
    let action = SigAction::new(SigHandler::Handler(caught), flags, SigSet::empty());
    #[expect(unsafe_code)]
    // SAFETY: the handler makes one system call, which signal-safety(7) allows.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    Ok(())
}

/// The handler: says that it has run.
extern "C" fn caught(_: libc::c_int) {
    let errno = Errno::last_raw();
    #[expect(unsafe_code)]
    // SAFETY: seven bytes from a static.
    unsafe {
        libc::write(libc::STDOUT_FILENO, b"caught\n".as_ptr().cast(), 7);
    }
    Errno::set_raw(errno);
}

/// Waits in the call. The outer error: it does not come to that.
fn wait_in(call: &str) -> Result<nix::Result<()>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    // Accepted, so that accept has to wait; it never says anything.
    let _far = listener.accept()?;
    let ready = || say(&format!("ready: {call}, process {}", std::process::id()));
    Ok(match call {
        "accept" | "accept/timeout" => {
            if call.ends_with("/timeout") {
                let time = TimeVal::seconds(LONG.as_secs() as i64);
                setsockopt(&listener, ReceiveTimeout, &time)?;
            }
            ready()?;
            accept(listener.as_raw_fd()).map(drop)
        }
        "read" | "read/timeout" => {
            if call.ends_with("/timeout") {
                near.set_read_timeout(Some(LONG))?;
            }
            ready()?;
            read(&near, &mut [0]).map(drop)
        }
        "write" => {
            let (_reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            fill(&writer)?;
            ready()?;
            write(&writer, b"!").map(drop)
        }
        "waitpid" => {
            let mut sleep = Command::new("sleep");
            let child = sleep.arg(LONG.as_secs().to_string()).spawn();
            let child = child.context("start sleep")?;
            ready()?;
            waitpid(Pid::from_raw(child.id() as i32), None).map(drop)
        }
        "poll" => {
            let mut fds = [PollFd::new(near.as_fd(), PollFlags::POLLIN)];
            ready()?;
            poll(&mut fds, PollTimeout::NONE).map(drop)
        }
        "select" => {
            let mut set = FdSet::new();
            set.insert(near.as_fd());
            ready()?;
            select(None, &mut set, None, None, None).map(drop)
        }
        "epoll_wait" => {
            let mut epoll = mio::Poll::new()?;
            ready()?;
            let mut events = mio::Events::with_capacity(1);
            epoll.poll(&mut events, None).map_err(|e| calls::errno(&e))
        }
        "nanosleep" => {
            ready()?;
            let time = TimeSpec::from_duration(LONG);
            let clock = ClockId::CLOCK_MONOTONIC;
            clock_nanosleep(clock, ClockNanosleepFlags::empty(), &time).map(drop)
        }
        _ => bail!("no call {call}; there are {}", CALLS.join(", ")),
    })
}

/// Writes until there is no room.
fn fill(writer: &impl AsFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let full = loop {
        if let Err(errno) = write(writer, &[0; 4096]) {
            break errno;
        }
    };
    fcntl(writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    match full {
        Errno::EAGAIN => Ok(()),
        errno => Err(errno).context("fill a pipe"),
    }
}
