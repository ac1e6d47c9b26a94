//! A process per client that runs another program, as inetd does it: accept, fork, dup2, exec; that
//! program serves descriptor 0 and knows of no listener (UNP 4.8, 13.5).
//!
//! Here the other program is this one once more, with `--inetd` (see `inetd.rs`). What it costs: a
//! fork, an exec and the start of a program per connection. What it gives: whoever serves need not
//! know of sockets (any program that reads 0 and writes 1 is a server), and a fresh process has
//! nothing of ours: no memory, no descriptors but what it was given. A first echo takes some four times
//! as long as with fork, and a child's memory is its own where fork's is mostly its parent's.
//!
//! After fork the child makes the connection its descriptors 0, 1 and 2. Exec closes what is marked
//! close-on-exec: the listener, and the connection's first number; it gives back their defaults to
//! signals with handlers, keeps ignored ones ignored and blocked ones blocked. So a SIGTERM that
//! comes too early for the new program waits until that has a handler. Two descriptors are handed
//! on by number, in flags that `--help` does not show: the log, since 2 is the connection now, and
//! the counters, since memory does not survive exec. Who the client is the program asks its
//! descriptor 0.
//!
//! What to look for: `ps -f` shows the parent in accept and a `tcpechod --inetd` for every client;
//! `ss -tanp` shows a connection's descriptors 0 and 1. A child tells the time since its own start.
//!
//! Limit: where fork fails (EAGAIN: `ulimit -u`, a cgroup's pids.max; ENOMEM), that connection is
//! closed with a log line and the server goes on; where exec fails, the child says why and closes
//! it. A parent that is killed with SIGKILL leaves its children serving. Log lines (and records of
//! `--events-fd`) that a child could not write, because nobody read them, are counted by that child
//! only, and forgotten with it if they were its last.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{STDERR_FILENO, STDIN_FILENO, STDOUT_FILENO};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, execv, fork};
use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children::{self, Children};
use crate::cli::{Config, Handed};
use crate::counters::{Counters, Live, log_status};
use crate::failure::Failure;
use crate::signals;

/// The very program that runs, whatever has been put in the place of its file since.
const PROGRAM: &CStr = c"/proc/self/exe";

/// The lowest number that no connection gets.
const FIRST: RawFd = 3;

/// Before anything is logged: moves what is said on descriptors 0 to 2 out of the way of connections,
/// to numbers that stay open over exec.
pub(super) fn put_aside(config: &mut Config) -> Result<(), Failure> {
    let aside = |fd| match fd {
        STDIN_FILENO => fcntl(io::stdin(), FcntlArg::F_DUPFD(FIRST)),
        STDOUT_FILENO => fcntl(io::stdout(), FcntlArg::F_DUPFD(FIRST)),
        STDERR_FILENO => fcntl(io::stderr(), FcntlArg::F_DUPFD(FIRST)),
        other => Ok(other),
    };
    let mut put = || {
        config.log_fd = aside(config.log_fd)?;
        config.events_fd = config.events_fd.map(aside).transpose()?;
        Ok(())
    };
    put().map_err(|errno: Errno| Failure::new("cannot put the log aside", errno))
}

pub(super) fn serve(mut server: Server) -> Result<(), Failure> {
    let (counters, counters_fd) = Counters::to_hand_on()?;
    server.counters = counters;
    let handed = Handed {
        log_fd: Some(server.config.log_fd),
        counters_fd: Some(counters_fd.as_raw_fd()),
        nth: 0,
    };
    server.announce();
    let started = Instant::now();
    let mut children = Children::default();
    let mut exhaustion = Exhaustion::default();
    loop {
        let pending = signals::pending();
        if pending.child {
            children.reap_and_count(&server.config, server.counters);
        }
        if pending.status {
            let live = Live {
                children: Some((children.count(), children.reaped())),
                ..Live::default()
            };
            log_status(server.config.model, started, server.counters, live);
        }
        if pending.stop {
            break;
        }
        if children.count() >= server.config.max_connections {
            // SIGCHLD ends the pause.
            accept::pause();
            continue;
        }
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                exhaustion.ended();
                start_child(&server, &mut children, handed, stream, peer);
            }
            Err(Refusal::Interrupted) if server.config.commits(Mistake::FatalEintr) => {
                return Err(accept::fatal_eintr());
            }
            Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
            Err(Refusal::Exhausted(errno)) => {
                exhaustion.began(errno, children.count());
                accept::pause();
            }
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
    }
    stop(server, children, handed);
    Ok(())
}

fn start_child(
    server: &Server,
    children: &mut Children,
    handed: Handed,
    stream: OwnedFd,
    peer: Peer,
) {
    let nth = server.counters.accepted.fetch_add(1, Relaxed);
    let handed = Handed { nth, ..handed };
    match signals::held(|| split(server, &stream, peer, handed)) {
        Ok(child) => {
            children.add(child, nth);
            log::info!("accepted {peer}: child {child}");
        }
        Err(errno) => {
            server.counters.refused.fetch_add(1, Relaxed);
            server.counters.closed.fetch_add(1, Relaxed);
            log::warn!("refused {peer}: cannot fork: {errno}");
        }
    }
    calls::close(stream);
}

/// Forks; only the parent returns. Signals are held back meanwhile, and in the child until the new
/// program has handlers for them: none arrives in a child that still looks like its parent, and none
/// kills a program that does not know yet what to do about it.
#[expect(unsafe_code)]
fn split(server: &Server, stream: &OwnedFd, peer: Peer, handed: Handed) -> nix::Result<Pid> {
    let fork = || {
        // SAFETY: this process has one thread, so no lock is held by another.
        unsafe { fork() }.map(|side| match side {
            ForkResult::Parent { child } => child,
            ForkResult::Child => Pid::from_raw(0),
        })
    };
    let child = calls::at_once("fork", -1, fork)?;
    if child.as_raw() == 0 {
        // A panic must not unwind into the accept loop: this process would become a second server.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Err(errno) = become_program(server, stream, handed) {
                log::warn!(
                    "refused {peer}: cannot execute {}: {errno}",
                    PROGRAM.to_string_lossy()
                );
            }
        }));
        server.counters.refused.fetch_add(1, Relaxed);
        server.counters.closed.fetch_add(1, Relaxed);
        children::leave();
    }
    Ok(child)
}

/// Makes the connection descriptors 0, 1 and 2, and becomes the program that serves them. Errors: why
/// it could not; all it says goes to where the log was put aside ([`put_aside`]).
fn become_program(server: &Server, stream: &OwnedFd, handed: Handed) -> nix::Result<()> {
    signals::hand_on();
    let arguments = server.config.inetd_args(handed).into_iter();
    let arguments: Vec<CString> = ["tcpechod".to_owned()]
        .into_iter()
        .chain(arguments)
        .map(|argument| CString::new(argument).expect("no zero byte"))
        .collect();
    let fd = stream.as_raw_fd();
    calls::at_once("dup2", fd, || dup2_stdin(stream).map(|()| STDIN_FILENO))?;
    calls::at_once("dup2", fd, || dup2_stdout(stream).map(|()| STDOUT_FILENO))?;
    calls::at_once("dup2", fd, || dup2_stderr(stream).map(|()| STDERR_FILENO))?;
    calls::may_block("execve", -1, || {
        execv(PROGRAM, &arguments).map(|never| match never {})
    })
}

/// The clients that are queued by now get a child each, which gives them what they are owed; then
/// the children are told to stop, and waited for.
fn stop(server: Server, mut children: Children, handed: Handed) {
    server.counters.stopping();
    server.listener.do_not_block();
    while signals::in_time(server.config.grace) {
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => start_child(&server, &mut children, handed, stream, peer),
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            Err(_) => break,
        }
    }
    // To close our descriptor would not do: a child that has just been forked may still have its own.
    server.listener.shut_down();
    server.listener.close();
    let killed = children.end(server.config.grace, &server.counters.now);
    if killed > 0 {
        log::warn!("had to kill children that had not stopped: {killed}");
    }
    server.counters.stopped();
}
