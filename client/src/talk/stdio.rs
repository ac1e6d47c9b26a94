//! A mistake that looks like the cure: poll(2) for stdin and the socket at once, and then fgets
//! (UNP 6.5).
//!
//! poll looks into the kernel, fgets into a buffer of its own. When several lines come in one
//! burst, as from a pipe, the first fgets takes all of them out of the kernel and
//! returns one. The others are in the buffer, where poll does not see them: they are sent when
//! stdin has something new, or ends. `(printf 'one\ntwo\nthree\n'; sleep 5) | tcpecho --mode stdio
//! localhost` shows one, and five seconds later the others. A terminal hands over one line at a
//! time, so whoever tries it by hand sees a program that works.
//!
//! It has a second trap: fgets waits for the end of a line that has begun, deaf to the server.
//! What is right here is what the server's end means, and our half-close (UNP 6.7). The socket
//! blocks; UNP 16.2 says what that costs.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{Shutdown, shutdown};
use tcpecho_common::{Exit, calls};

use super::textbook::{LineReader, MAXLINE, OUT_OF_PATIENCE, fputs, wait_for_one, writen};
use super::{Manner, Stop, report};
use crate::input::is_readable;
use crate::session::{Leave, Outcome, Session};
use crate::socket::last_segments;

/// Talks over `stream`, which blocks, until one side ends it.
pub fn talk(
    stream: &TcpStream,
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    manner: &Manner,
) -> Exit {
    let mut session = Session::with(manner.farewell);
    let result = str_cli(stream, stdin, stdout, manner, &mut session);
    log::info!("closed: {session}");
    match result {
        Ok(outcome) => {
            let heard = last_segments(stream).map(|last| last.heard);
            report(outcome, heard, 0)
        }
        Err(stop) => stop.report(),
    }
}

fn str_cli(
    stream: &TcpStream,
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    manner: &Manner,
    session: &mut Session,
) -> Result<Outcome, Stop> {
    let mut input = LineReader::new(stdin, manner.idle_timeout);
    let mut line = Vec::with_capacity(MAXLINE);
    loop {
        if session.is_ending() {
            take_the_rest(stream, stdout, session)?;
        }
        if let Some(outcome) = session.outcome(0) {
            return Ok(outcome);
        }
        let mut fds = [stream.as_fd(), stdin].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let watched = if session.wants_input() { 2 } else { 1 };
        let is_idle = Leave::Idle(manner.idle_timeout.unwrap_or_default());
        match wait_for_one(&mut fds[..watched], -1, manner.idle_timeout) {
            Ok(()) => {}
            Err(OUT_OF_PATIENCE) => {
                session.leave(is_idle);
                continue;
            }
            Err(errno) => return Err(Stop::Failed("wait for events", errno)),
        }
        let [from_server, from_stdin] = fds.map(|fd| fd.any().unwrap_or(false));
        if from_server {
            receive(stream, stdout, session)?;
        }
        if from_stdin && session.wants_input() {
            line.clear();
            let result = input.line(&mut line, MAXLINE); // fgets
            session.took(line.len());
            match result {
                Ok(()) => {}
                Err(OUT_OF_PATIENCE) => {
                    session.leave(is_idle);
                    continue;
                }
                Err(errno) => return Err(Stop::stdin(errno)),
            }
            // feof. A terminal would not say it again.
            if input.is_at_end() {
                session.input_ended();
            }
            writen(stream, &line, session, manner);
        }
        if session.should_half_close() {
            let fd = stream.as_raw_fd();
            // It fails only where the connection has failed, and a read will tell that.
            let _ = calls::at_once("shutdown", fd, || shutdown(fd, Shutdown::Write));
            session.half_closed();
        }
        if session.should_close() {
            session.leave(Leave::Closed);
        }
    }
}

/// A write has failed. What came before that can still be read, and nothing is waited for.
fn take_the_rest(
    stream: &TcpStream,
    stdout: BorrowedFd<'_>,
    session: &mut Session,
) -> Result<(), Stop> {
    while !session.is_silent() {
        if is_readable(stream.as_fd()).unwrap_or(false) {
            receive(stream, stdout, session)?;
        } else {
            session.server_silent();
        }
    }
    Ok(())
}

/// Takes what has come from the server to stdout.
fn receive(stream: &TcpStream, stdout: BorrowedFd<'_>, session: &mut Session) -> Result<(), Stop> {
    let mut bytes = [0; MAXLINE];
    match calls::read(stream, &mut bytes) {
        Ok(0) => session.server_silent(),
        Ok(n) => {
            session.received(n);
            fputs(stdout, &bytes[..n]).map_err(Stop::stdout)?;
        }
        Err(Errno::EINTR) => {}
        Err(errno) => {
            session.failed(errno);
            session.server_silent();
        }
    }
    Ok(())
}
