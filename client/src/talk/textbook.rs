//! The calls of the textbook, for the modes that are built of them: fgets and readline
//! ([`LineReader`]), writen, fputs (UNP 3.9).
//!
//! What differs from the book is what an honest program needs: bytes are exact, EINTR is no end,
//! and a descriptor that somebody else made non-blocking is waited for.

use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::isatty;
use tcpecho_common::calls;

use super::Manner;
use crate::input::is_readable;
use crate::mistake::Mistake;
use crate::session::Session;
use crate::sigpipe;

/// UNP's `MAXLINE`: the longest piece of a line that goes out before its answer is awaited. It
/// fits into any socket's buffers, so that a server that echoes while it reads cannot deadlock us.
pub const MAXLINE: usize = 4096;

/// What a wait that has taken too long returns: no call on a file or socket fails with it.
pub const OUT_OF_PATIENCE: Errno = Errno::ETIME;

/// Sends all of `line`; with `--split-write` its first byte, and after a pause the rest. A failure is
/// kept, not told yet: a read still finds what came before.
pub fn writen(stream: &TcpStream, line: &[u8], session: &mut Session, manner: &Manner) {
    match manner.split_write {
        Some(pause) if !line.is_empty() => {
            let (first, rest) = line.split_at(1);
            write_all(stream, first, session, manner);
            if session.may_send() {
                sleep(pause);
                write_all(stream, rest, session, manner);
            }
        }
        _ => write_all(stream, line, session, manner),
    }
}

fn write_all(stream: &TcpStream, bytes: &[u8], session: &mut Session, manner: &Manner) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match calls::write(stream, rest) {
            Ok(n) => {
                session.sent(n);
                rest = &rest[n..];
            }
            Err(Errno::EINTR) => {}
            Err(errno) => {
                sigpipe::tell();
                if manner.mistake == Some(Mistake::IgnoreWriteErrors) {
                    session.sent(rest.len());
                } else {
                    session.failed(errno);
                }
                return;
            }
        }
    }
}

/// sleep(3): the pause during which the blocking mode is deaf.
fn sleep(pause: Duration) {
    // It cannot fail.
    let _ = calls::may_block("nanosleep", -1, || {
        std::thread::sleep(pause);
        Ok(())
    });
}

/// Writes all of `line`, unbuffered.
pub fn fputs(stdout: BorrowedFd<'_>, line: &[u8]) -> nix::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        match calls::write(stdout, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(stdout, PollFlags::POLLOUT, None)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Waits with poll(2). Errors: [`OUT_OF_PATIENCE`] after `patience`.
fn wait_for(fd: BorrowedFd<'_>, event: PollFlags, patience: Option<Duration>) -> nix::Result<()> {
    let mut fds = [PollFd::new(fd, event)];
    wait_for_one(&mut fds, fd.as_raw_fd(), patience)
}

/// poll(2) until there is an answer; `fd` is what is told of it. Errors: [`OUT_OF_PATIENCE`] after
/// `patience`.
pub fn wait_for_one(
    fds: &mut [PollFd<'_>],
    fd: i32,
    patience: Option<Duration>,
) -> nix::Result<()> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, rounded_up);
        match calls::may_block("poll", fd, || poll(fds, timeout)) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Err(OUT_OF_PATIENCE),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// In milliseconds; the last one is not spent spinning.
fn rounded_up(left: Duration) -> PollTimeout {
    PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
}

/// Lines from a descriptor, as UNP's `my_read`: with a buffer of its own, because one read per byte
/// is slow, and because stdio's cannot be looked into.
pub struct LineReader<'fd> {
    fd: BorrowedFd<'fd>,
    buffer: [u8; MAXLINE],
    start: usize,
    end: usize,
    /// Does it wait for more? If not, nothing to read is the end.
    pub waits: bool,
    /// How long it waits; None: in read(2), for ever.
    patience: Option<Duration>,
    /// A terminal can go on after its end; we do not.
    ended: bool,
}

impl<'fd> LineReader<'fd> {
    /// Over `fd`, which blocks.
    pub fn new(fd: BorrowedFd<'fd>, patience: Option<Duration>) -> Self {
        Self {
            fd,
            buffer: [0; MAXLINE],
            start: 0,
            end: 0,
            waits: true,
            patience,
            ended: false,
        }
    }

    /// Appends bytes to `line` up to and with a newline, `limit` of them at most, or what there is
    /// before the end. After an error `line` has what came before it.
    pub fn line(&mut self, line: &mut Vec<u8>, limit: usize) -> nix::Result<()> {
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

    /// Has everything been given away, and will nothing follow?
    pub fn is_at_end(&self) -> bool {
        self.ended && self.start == self.end
    }

    /// False at the end.
    fn refill(&mut self) -> nix::Result<bool> {
        while !self.ended {
            if !self.waits && !is_readable(self.fd)? {
                break;
            }
            if self.patience.is_some() {
                wait_for(self.fd, PollFlags::POLLIN, self.patience)?;
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
                Err(Errno::EAGAIN) => wait_for(self.fd, PollFlags::POLLIN, self.patience)?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

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
        let mut reader = LineReader::new(fd.as_fd(), None);
        assert_eq!(next(&mut reader, MAXLINE), b"one\n");
        assert_eq!(next(&mut reader, MAXLINE), b"\n");
        assert_eq!(next(&mut reader, MAXLINE), b"\0two\n");
        assert_eq!(next(&mut reader, 6), b"three ");
        assert!(!reader.is_at_end());
        assert_eq!(next(&mut reader, MAXLINE), b"four");
        assert!(reader.is_at_end());
        assert_eq!(next(&mut reader, MAXLINE), b"");
    }

    #[test]
    fn a_line_longer_than_the_buffer_loses_nothing() {
        let (fd, writer) = nix::unistd::pipe().expect("a pipe");
        let long: Vec<u8> = (0..10_000_u32).map(|i| (i % 7) as u8 + b'a').collect();
        nix::unistd::write(&writer, &long).expect("room");
        drop(writer);
        let mut reader = LineReader::new(fd.as_fd(), None);
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

    #[test]
    fn a_reader_that_is_out_of_patience_keeps_what_came() {
        let (fd, writer) = nix::unistd::pipe().expect("a pipe");
        nix::unistd::write(&writer, b"half a li").expect("room");
        let mut reader = LineReader::new(fd.as_fd(), Some(Duration::from_millis(20)));
        let mut line = Vec::new();
        assert_eq!(reader.line(&mut line, MAXLINE), Err(OUT_OF_PATIENCE));
        assert_eq!(line, b"half a li");
        nix::unistd::write(&writer, b"ne\n").expect("room");
        assert_eq!(reader.line(&mut line, MAXLINE), Ok(()));
        assert_eq!(line, b"half a line\n");
    }
}
