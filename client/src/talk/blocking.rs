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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::isatty;
use tcpecho_common::{Exit, calls};

use super::{Stop, report};
use crate::input::is_readable;
use crate::session::{Outcome, Session};
use crate::socket;

/// UNP's `MAXLINE`: the longest piece of a line that goes out before its answer is awaited. It
/// fits into any socket's buffers, so that a server that echoes while it reads cannot deadlock us.
const MAXLINE: usize = 4096;

/// Talks over `stream`, which blocks, until one side ends it.
pub fn talk(stream: &TcpStream, stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>) -> Exit {
    let mut session = Session::default();
    let result = str_cli(stream, stdin, stdout, &mut session);
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
    session: &mut Session,
) -> Result<Option<Outcome>, Stop> {
    let mut input = LineReader::new(stdin);
    let mut server = LineReader::new(stream.as_fd());
    let mut line = Vec::with_capacity(MAXLINE);
    loop {
        line.clear();
        input.line(&mut line, MAXLINE).map_err(Stop::stdin)?; // fgets
        if line.is_empty() {
            return Ok(None);
        }
        session.took(line.len());
        writen(stream, &line, session);
        let longest = if line.ends_with(b"\n") {
            MAXLINE
        } else {
            line.len()
        };
        line.clear();
        readline(&mut server, &mut line, longest, session);
        fputs(stdout, &line).map_err(Stop::stdout)?;
        if let Some(outcome) = session.outcome(0) {
            return Ok(Some(outcome));
        }
    }
}

/// Sends all of `line`. A failure is kept, not told yet: readline still finds what came before.
fn writen(stream: &TcpStream, line: &[u8], session: &mut Session) {
    let mut rest = line;
    while !rest.is_empty() {
        match calls::write(stream, rest) {
            Ok(n) => {
                session.sent(n);
                rest = &rest[n..];
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return session.failed(errno),
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
) {
    server.waits = session.may_send();
    match server.line(answer, longest) {
        Ok(()) if answer.len() == longest || answer.ends_with(b"\n") => {}
        Ok(()) => session.server_silent(),
        Err(errno) => {
            session.failed(errno);
            session.server_silent();
        }
    }
    session.received(answer.len());
}

/// Writes all of `line`, unbuffered.
fn fputs(stdout: BorrowedFd<'_>, line: &[u8]) -> nix::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        match calls::write(stdout, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(stdout, PollFlags::POLLOUT)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// If the descriptor does not block, somebody else wanted it so; here it must.
fn wait_for(fd: BorrowedFd<'_>, event: PollFlags) -> nix::Result<()> {
    let mut fds = [PollFd::new(fd, event)];
    match calls::may_block("poll", fd.as_raw_fd(), || poll(&mut fds, PollTimeout::NONE)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// How long ago the FIN came, if the kernel can still tell: the last segment was the FIN unless
/// something came after what we sent last, which may have been an acknowledgement from a server
/// that closed only its own direction.
fn fin_age(stream: &TcpStream) -> Option<Duration> {
    let last = socket::last_segments(stream)?;
    (last.heard > last.sent).then_some(last.heard)
}

/// Lines from a descriptor, as UNP's `my_read`: with a buffer of its own, because one read per byte
/// is slow, and because stdio's cannot be looked into.
struct LineReader<'fd> {
    fd: BorrowedFd<'fd>,
    buffer: [u8; MAXLINE],
    start: usize,
    end: usize,
    /// Does it wait for more? If not, nothing to read is the end.
    waits: bool,
    /// A terminal can go on after its end; we do not.
    ended: bool,
}

impl<'fd> LineReader<'fd> {
    fn new(fd: BorrowedFd<'fd>) -> Self {
        Self {
            fd,
            buffer: [0; MAXLINE],
            start: 0,
            end: 0,
            waits: true,
            ended: false,
        }
    }

    /// Appends bytes to `line` up to and with a newline, `limit` of them at most, or what there is
    /// before the end. After an error `line` has what came before it.
    fn line(&mut self, line: &mut Vec<u8>, limit: usize) -> nix::Result<()> {
        let mut limit = limit;
        while limit > 0 {
            if self.start == self.end && !self.refill()? {
                return Ok(());
            }
            let waiting = &self.buffer[self.start..self.end];
            let waiting = &waiting[..waiting.len().min(limit)];
            let newline = waiting.iter().position(|b| *b == b'\n');
            let n = newline.map_or(waiting.len(), |at| at + 1);
            line.extend_from_slice(&waiting[..n]);
            self.start += n;
            limit -= n;
            if newline.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// False at the end.
    fn refill(&mut self) -> nix::Result<bool> {
        while !self.ended {
            if !self.waits && !is_readable(self.fd)? {
                break;
            }
            match calls::read(self.fd, &mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    (self.start, self.end) = (0, n);
                    return Ok(true);
                }
                // The terminal hung up.
                Err(Errno::EIO) if isatty(self.fd).unwrap_or(true) => self.ended = true,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait_for(self.fd, PollFlags::POLLIN)?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(reader: &mut LineReader<'_>, limit: usize) -> Vec<u8> {
        let mut line = Vec::new();
        reader.line(&mut line, limit).expect("no error");
        line
    }

    #[test]
    fn lines_come_whole_or_in_pieces_and_the_last_needs_no_newline() {
        let (fd, writer) = nix::unistd::pipe().expect("a pipe");
        nix::unistd::write(&writer, b"one\n\n\0two\nthree four").expect("room");
        drop(writer);
        let mut reader = LineReader::new(fd.as_fd());
        assert_eq!(next(&mut reader, MAXLINE), b"one\n");
        assert_eq!(next(&mut reader, MAXLINE), b"\n");
        assert_eq!(next(&mut reader, MAXLINE), b"\0two\n");
        assert_eq!(next(&mut reader, 6), b"three ");
        assert_eq!(next(&mut reader, MAXLINE), b"four");
        assert_eq!(next(&mut reader, MAXLINE), b"");
        assert!(reader.ended);
    }

    #[test]
    fn a_line_longer_than_the_buffer_loses_nothing() {
        let (fd, writer) = nix::unistd::pipe().expect("a pipe");
        let long: Vec<u8> = (0..10_000_u32).map(|i| (i % 7) as u8 + b'a').collect();
        nix::unistd::write(&writer, &long).expect("room");
        drop(writer);
        let mut reader = LineReader::new(fd.as_fd());
        let mut all = Vec::new();
        loop {
            let piece = next(&mut reader, MAXLINE);
            if piece.is_empty() {
                break;
            }
            assert!(piece.len() <= MAXLINE);
            all.extend(piece);
        }
        assert!(all == long);
    }
}
