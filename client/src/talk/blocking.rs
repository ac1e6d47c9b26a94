//! The textbook loop, kept as it is first shown: fgets, writen, readline, fputs (UNP 5.5).
//!
//! It waits in one place at a time, and mostly in fgets. If the server ends meanwhile, the kernel
//! knows at once, and we do not until somebody types: the line goes to a server that has gone, and
//! only then readline finds the FIN, seconds old (UNP 5.12). That is the lesson; the cure is
//! [`multiplexed`](super::multiplexed).
//!
//! What differs from the book: the answer to a piece without newline (of a line longer than
//! `MAXLINE`, or the last one) is as many bytes as the piece has, where the book would wait for a
//! newline for ever; and what the end means is judged and told as in the other mode.

use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tcpecho_common::Exit;

use super::textbook::{LineReader, MAXLINE, OUT_OF_PATIENCE, fputs, writen};
use super::{Manner, Stop, report};
use crate::session::{Leave, Outcome, Session};
use crate::socket;

/// Talks over `stream`, which blocks, until one side ends it.
pub fn talk(
    stream: &TcpStream,
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    manner: &Manner,
) -> Exit {
    let mut session = Session::default();
    let result = str_cli(stream, stdin, stdout, manner, &mut session);
    log::info!("closed: {session}");
    match result {
        Ok(Some(outcome)) => report(outcome, fin_age(stream), 0),
        // Every line was answered; close(2) will send our FIN.
        Ok(None) => Exit::Done,
        Err(stop) => stop.report(),
    }
}

/// The loop. None: stdin ended, and every line had its answer.
fn str_cli(
    stream: &TcpStream,
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    manner: &Manner,
    session: &mut Session,
) -> Result<Option<Outcome>, Stop> {
    let mut input = LineReader::new(stdin, manner.idle_timeout);
    let mut server = LineReader::new(stream.as_fd(), manner.idle_timeout);
    let mut line = Vec::with_capacity(MAXLINE);
    loop {
        line.clear();
        // fgets
        match (input.line(&mut line, MAXLINE), manner.idle_timeout) {
            (Err(OUT_OF_PATIENCE), Some(limit)) => {
                session.took(line.len());
                session.leave(Leave::Idle(limit));
                return Ok(session.outcome(0));
            }
            (result, _) => result.map_err(Stop::stdin)?,
        }
        if line.is_empty() {
            return Ok(None);
        }
        session.took(line.len());
        writen(stream, &line, session, manner);
        let longest = if line.ends_with(b"\n") {
            MAXLINE
        } else {
            line.len()
        };
        line.clear();
        readline(&mut server, &mut line, longest, session, manner);
        fputs(stdout, &line).map_err(Stop::stdout)?;
        if let Some(outcome) = session.outcome(0) {
            return Ok(Some(outcome));
        }
    }
}

/// Reads a line, or `longest` bytes. One cut short leaves `session` at its end. If the line could
/// not be sent, what has come is read and nothing is waited for: the connection may have survived
/// that (ENOBUFS), and then no answer would come, and no end.
fn readline(
    server: &mut LineReader<'_>,
    answer: &mut Vec<u8>,
    longest: usize,
    session: &mut Session,
    manner: &Manner,
) {
    server.waits = session.may_send();
    match (server.line(answer, longest), manner.idle_timeout) {
        (Ok(()), _) if answer.len() == longest || answer.ends_with(b"\n") => {}
        (Ok(()), _) => session.server_silent(),
        (Err(OUT_OF_PATIENCE), Some(limit)) => session.leave(Leave::Idle(limit)),
        (Err(errno), _) => {
            session.failed(errno);
            session.server_silent();
        }
    }
    session.received(answer.len());
}

/// How long ago the FIN came, if the kernel can still tell: the last segment was the FIN unless
/// something came after what we sent last, which may have been an acknowledgement from a server
/// that closed only its own direction.
fn fin_age(stream: &TcpStream) -> Option<Duration> {
    let last = socket::last_segments(stream)?;
    (last.heard > last.sent).then_some(last.heard)
}
