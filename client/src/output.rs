//! stdout, written to without waiting for whoever reads it.
//!
//! While we wait in write(2) for a consumer that does not read, we are deaf to the server. Setting
//! `O_NONBLOCK` is no cure: the flag belongs to the open file description, which the shell's
//! terminal and the other end of a pipeline share, and it stays when we have gone. So a pipe or a
//! terminal is opened once more, through /proc/self/fd; that opening is ours alone. Never a file:
//! it would be opened at offset 0. A socket cannot be opened so, but takes `MSG_DONTWAIT`.
//!
//! Room is asked after only while a write waits for it: a log line on the same terminal is news of
//! room as well, and would bring the next log line. A pipe is watched all the time, for the end of
//! its readers, which is an error event whatever one asks for.
//!
//! UNP 16.2 sets the flag; open(2), proc(5), send(2), epoll(7).

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::isatty;
use tcpecho_common::{calls, sink};

/// See the module's head.
#[derive(Debug)]
pub struct Output<'fd> {
    fd: BorrowedFd<'fd>,
    is_pipe: bool,
    way: Way,
    /// What epoll has been asked for.
    watched: Option<Interest>,
}

#[derive(Debug)]
enum Way {
    /// A private, non-blocking opening of the same pipe or terminal.
    Reopened(OwnedFd),
    Socket,
    /// A pipe or terminal that may not be opened again: poll(2), then little.
    Polled,
    /// A file, or a device such as /dev/null: writing does not wait for a reader.
    Direct,
}

impl<'fd> Output<'fd> {
    /// Finds out what `fd` is and how to write to it. Errors: EBADF if it is open for reading only.
    pub fn over(fd: BorrowedFd<'fd>) -> nix::Result<Self> {
        sink::is_writable(fd)?;
        let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
        let way = if kind == SFlag::S_IFSOCK {
            Way::Socket
        } else if kind == SFlag::S_IFIFO || isatty(fd).unwrap_or(false) {
            reopen(fd).map_or(Way::Polled, Way::Reopened)
        } else {
            Way::Direct
        };
        log::debug!("stdout: {way}");
        Ok(Self {
            fd,
            is_pipe: kind == SFlag::S_IFIFO,
            way,
            watched: None,
        })
    }

    /// Asks for an event when there is room again if it `is_full`, for none if not, and of a pipe
    /// in any case for one when nobody can read it any more. A file is never full, and epoll
    /// refuses it.
    pub fn watch(&mut self, registry: &Registry, token: Token, is_full: bool) -> nix::Result<()> {
        let wanted = match self.way {
            Way::Direct => None,
            _ if is_full => Some(Interest::WRITABLE),
            // One has to ask for something: this never comes from a pipe.
            _ => self.is_pipe.then_some(Interest::PRIORITY),
        };
        if wanted == self.watched {
            return Ok(());
        }
        let raw = self.raw();
        calls::at_once("epoll_ctl", raw, || {
            let mut source = SourceFd(&raw);
            match (self.watched, wanted) {
                (_, None) => registry.deregister(&mut source),
                (None, Some(interest)) => registry.register(&mut source, token, interest),
                (Some(_), Some(interest)) => registry.reregister(&mut source, token, interest),
            }
            .map_err(|error| calls::errno(&error))
        })?;
        self.watched = wanted;
        Ok(())
    }

    /// Is it a pipe? Then an error event says that nobody can read any more.
    pub fn is_pipe(&self) -> bool {
        self.is_pipe
    }

    /// write(2). EAGAIN: no room, an event will tell.
    pub fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match &self.way {
            Way::Reopened(own) => calls::try_write(own, bytes),
            Way::Socket => calls::at_once("send", self.raw(), || {
                send(self.raw(), bytes, MsgFlags::MSG_DONTWAIT)
            }),
            Way::Polled => write_if_room(self.fd, bytes),
            Way::Direct => calls::write(self.fd, bytes),
        }
    }

    fn raw(&self) -> RawFd {
        match &self.way {
            Way::Reopened(own) => own.as_raw_fd(),
            _ => self.fd.as_raw_fd(),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reopened(own) => write!(
                f,
                "a pipe or terminal, opened once more as descriptor {}",
                own.as_raw_fd()
            ),
            Self::Socket => f.write_str("a socket"),
            Self::Polled => f.write_str("a pipe or terminal that cannot be opened once more"),
            Self::Direct => f.write_str("a file or device that never makes a writer wait"),
        }
    }
}

fn reopen(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    calls::at_once("open", -1, || sink::reopen(fd.as_raw_fd()))
}

/// A pipe that polls writable takes `PIPE_BUF` bytes; a terminal nearly always does.
fn write_if_room(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let ready = calls::at_once("poll", fd.as_raw_fd(), || poll(&mut fds, PollTimeout::ZERO))?;
    if ready == 0 {
        return Err(Errno::EAGAIN);
    }
    calls::write(fd, &bytes[..bytes.len().min(4096)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::os::unix::net::UnixStream;

    fn fill(output: &Output<'_>) -> usize {
        let mut written = 0;
        loop {
            match output.write(&[b'x'; 1000]) {
                Ok(n) => written += n,
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    return written;
                }
            }
        }
    }

    fn blocks(fd: impl AsFd) -> bool {
        let flags = fcntl(fd, FcntlArg::F_GETFL).expect("flags");
        !OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn a_full_pipe_is_no_reason_to_wait_and_its_flags_stay() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let output = Output::over(writer.as_fd()).expect("open");
        assert!(matches!(output.way, Way::Reopened(_)));
        assert!(fill(&output) >= 4096);
        assert!(blocks(&writer) && blocks(&reader));
    }

    #[test]
    fn a_pipe_that_cannot_be_reopened_is_polled() {
        let (_reader, writer) = nix::unistd::pipe().expect("a pipe");
        let output = Output {
            fd: writer.as_fd(),
            is_pipe: true,
            way: Way::Polled,
            watched: None,
        };
        assert!(fill(&output) >= 4096);
    }

    #[test]
    fn a_full_socket_is_no_reason_to_wait_and_its_flags_stay() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let output = Output::over(ours.as_fd()).expect("open");
        assert!(matches!(output.way, Way::Socket));
        assert!(fill(&output) >= 4096);
        assert!(blocks(&ours));
    }

    #[test]
    fn room_is_asked_for_when_there_is_none_and_a_pipe_is_watched_for_its_readers() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let ours = OwnedFd::from(ours);
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let mut poll = mio::Poll::new().expect("epoll");
        let mut events = mio::Events::with_capacity(8);
        let registry = poll.registry().try_clone().expect("a copy");
        let mut count = || {
            let timeout = Some(std::time::Duration::ZERO);
            poll.poll(&mut events, timeout).expect("polled");
            events.iter().count()
        };
        let outputs = [&ours, &writer].map(|fd| (fd, Output::over(fd.as_fd())));
        let [mut socket, mut pipe] = outputs.map(|(fd, output)| (fd, output.expect("open")));
        for (fd, output) in [&mut socket, &mut pipe] {
            let token = Token(0);
            output.watch(&registry, token, false).expect("asked");
            // What another writer does to it is no news.
            nix::unistd::write(fd, b"a log line").expect("room");
            assert_eq!(count(), 0, "{output:?}");
            output.watch(&registry, token, true).expect("asked");
            assert_eq!(count(), 1, "{output:?}");
            output.watch(&registry, token, false).expect("asked");
            assert_eq!(count(), 0, "{output:?}");
        }
        drop(reader);
        assert_eq!(count(), 1, "nobody reads the pipe any more");
    }

    #[test]
    fn no_reader_is_an_error() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let output = Output::over(writer.as_fd()).expect("open");
        drop(reader);
        assert_eq!(output.write(b"x"), Err(Errno::EPIPE));
    }
}
