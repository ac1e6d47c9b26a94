//! `--inetd`: the connection is there already. A superserver (inetd, xinetd, systemd, socat, or our
//! own `--model exec`) has accepted it, made it descriptors 0, 1 and 2, and executed us; we serve it
//! and end with it (UNP 13.5).
//!
//! Nobody tells us who the peer is: getpeername(2) on descriptor 0 does (UNP 4.10). Descriptor 2 is
//! the connection, too, so nothing may be said there, for the client would take it for an echo.
//!
//! Without a superserver, descriptors 0 and 1 may be two pipes, two files, a terminal: what is read
//! from 0 is then written to 1.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::socket::{SockType, SockaddrStorage, getpeername, getsockopt, sockopt};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::dup2_stderr;
use tcpecho_common::calls;

use crate::accept::Peer;
use crate::cli::{Config, Handed};
use crate::counters::{Counters, Live, log_status};
use crate::echo::{Policy, echo_between};
use crate::end::End;
use crate::failure::Failure;
use crate::{inherited, signals, socket};

/// If stderr is the connection, too, puts /dev/null in its place: for our log, for a panic, for
/// whatever a library has to say. To be called before anything is said. Errors: there is no
/// /dev/null, and no place to tell.
pub fn keep_stderr_off_the_connection() -> nix::Result<()> {
    if !is_same_socket(io::stdin().as_fd(), io::stderr().as_fd()) {
        return Ok(());
    }
    let nowhere = open(
        "/dev/null",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    dup2_stderr(nowhere)
}

/// Takes what the server that has executed us has handed on: puts its log in the place of stderr, and
/// returns its counters. To be called before anything else is opened.
pub fn take(handed: Handed) -> Result<Option<OwnedFd>, Failure> {
    let take = |fd: RawFd| {
        let none = |errno| Failure::new(format!("no descriptor {fd} was handed on"), errno);
        inherited::take(fd).map_err(none)
    };
    if let Some(log) = handed.log_fd.map(take).transpose()? {
        dup2_stderr(log).map_err(|errno| Failure::new("cannot log to stderr", errno))?;
    }
    handed.counters_fd.map(take).transpose()
}

/// Serves descriptor 0 until the connection is over, as the `nth` of the server whose counters these
/// are; or on its own. Errors: it cannot be served.
pub fn serve(config: &Config, nth: u64, counters: Option<OwnedFd>) -> Result<(), Failure> {
    let leader = counters.is_none();
    let counters = counters.map_or_else(Counters::shared, |file| Counters::of(&file))?;
    if leader {
        counters.accepted.fetch_add(1, Relaxed);
    } else {
        // The program was executed by way of a link, whose name `ps` would show.
        let _ = prctl::set_name(c"tcpechod");
        signals::believe(&counters.now);
    }
    signals::install_for_one_connection(config.sigpipe)?;

    let (stdin, stdout) = (io::stdin(), io::stdout());
    let connection = stdin.as_fd();
    let is_socket = is_stream(connection)?;
    let back = if is_socket {
        connection
    } else {
        stdout.as_fd()
    };
    // Who gave it to us may have had reasons of its own not to wait.
    inherited::do_block(connection);
    inherited::do_block(back);
    let peer = peer(connection);
    log::info!("serving {peer}");

    let started = Instant::now();
    let mut interrupted = || {
        let pending = signals::pending();
        if pending.status {
            log_status(config.model, started, counters, Live::default());
        }
        if pending.stop && leader {
            signals::tell_why_waiting(1, config.grace);
        }
    };
    let policy = Policy::new(config, &mut interrupted);
    let (end, echoed) = echo_between(connection, back, policy, counters.tally(nth));
    let discarded = socket::prepare_close(connection, end);
    counters.discarded.fetch_add(discarded, Relaxed);
    match end {
        End::Failed(Errno::ENOTCONN) => {
            return Err(unfit("descriptor 0 is a socket, but not a connection"));
        }
        End::Failed(errno) if !is_socket && errno != Errno::EPIPE => {
            return Err(Failure::new(
                "cannot echo descriptor 0 to descriptor 1",
                errno,
            ));
        }
        _ => counters.closed.fetch_add(1, Relaxed),
    };
    // Leaving closes the connection.
    end.log(peer, echoed);
    if leader && signals::stopping() {
        counters.stopped();
    }
    Ok(())
}

/// Is it a stream that we can serve? False if it is no socket at all. Errors: a socket of another
/// kind.
fn is_stream(fd: BorrowedFd<'_>) -> Result<bool, Failure> {
    match getsockopt(&fd, sockopt::SockType) {
        Err(_) => Ok(false),
        Ok(SockType::Stream) => Ok(true),
        Ok(_) => Err(unfit("descriptor 0 is not a stream socket")),
    }
}

fn unfit(what: &str) -> Failure {
    Failure::plain(what).hint(
        "--inetd serves a TCP connection: nowait in inetd.conf, wait = no in xinetd, \
         Accept=yes and StandardInput=socket in systemd",
    )
}

/// Unknown: a client that was reset before we came (ENOTCONN), and what is no Internet socket.
fn peer(connection: BorrowedFd<'_>) -> Peer {
    let fd = connection.as_raw_fd();
    let mut peer = Peer::UNKNOWN;
    let _ = calls::at_once("getpeername", fd, || {
        let address: SockaddrStorage = getpeername(fd)?;
        peer = Peer::from(&address);
        Ok(())
    });
    peer
}

fn is_same_socket(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let (Ok(one), Ok(other)) = (fstat(one), fstat(other)) else {
        return false;
    };
    let is_socket = SFlag::from_bits_truncate(one.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
    is_socket && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
