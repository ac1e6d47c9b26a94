//! stdin, read without waiting and without touching its flags.
//!
//! `O_NONBLOCK` belongs to the open file description, which we share with the shell and others, so
//! fd 0 stays blocking, and poll(2) is asked before each read(2): one read per readiness event
//! would leave the rest of a burst, and the end of a pipe, unseen. epoll refuses files and
//! /dev/null (EPERM); those never make a reader wait.
//!
//! Another process that reads the same terminal or pipe can take what poll promised; then we wait
//! in read(2). UNP 6.3, 16.2.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::isatty;
use tcpecho_common::calls;

/// See the module's head.
#[derive(Debug)]
pub struct Input<'fd> {
    fd: BorrowedFd<'fd>,
    is_terminal: bool,
    readiness: Readiness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// It never makes a reader wait.
    Always,
    /// There may be something; poll knows.
    Maybe,
    /// Nothing until the next event.
    NotYet,
}

impl<'fd> Input<'fd> {
    /// stdin, or what stands for it.
    /// Errors: EBADF if it is open for writing only; a pipe like that would never be readable.
    pub fn over(fd: BorrowedFd<'fd>) -> nix::Result<Self> {
        let mode = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
        if mode == OFlag::O_WRONLY {
            return Err(Errno::EBADF);
        }
        Ok(Self {
            fd,
            is_terminal: isatty(fd).unwrap_or(false),
            readiness: Readiness::Maybe,
        })
    }

    /// Asks for an event when there is something to read.
    pub fn register(&mut self, registry: &Registry, token: Token) -> nix::Result<()> {
        let raw = self.fd.as_raw_fd();
        let result = calls::at_once("epoll_ctl", raw, || {
            registry
                .register(&mut SourceFd(&raw), token, Interest::READABLE)
                .map_err(|error| calls::errno(&error))
        });
        match result {
            Err(Errno::EPERM) => {
                self.readiness = Readiness::Always;
                Ok(())
            }
            result => result,
        }
    }

    /// An event has come. Returns whether that changes anything.
    pub fn woken(&mut self) -> bool {
        let waited = self.readiness == Readiness::NotYet;
        if waited {
            self.readiness = Readiness::Maybe;
        }
        waited
    }

    /// May there be something to read?
    pub fn is_ready(&self) -> bool {
        self.readiness != Readiness::NotYet
    }

    /// read(2). EAGAIN: nothing now, an event will tell; 0: the end, and do not read again: a
    /// terminal's end is not its last word.
    pub fn read(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        if self.readiness == Readiness::Maybe && !is_readable(self.fd)? {
            self.readiness = Readiness::NotYet;
            return Err(Errno::EAGAIN);
        }
        match calls::try_read(self.fd, buffer) {
            // Somebody made it non-blocking, and somebody was faster.
            Err(Errno::EAGAIN) => {
                self.readiness = Readiness::NotYet;
                Err(Errno::EAGAIN)
            }
            // The terminal hung up.
            Err(Errno::EIO) if self.is_terminal => Ok(0),
            result => result,
        }
    }
}

/// Will read(2) return at once, be it with an error or the end?
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    calls::at_once("poll", fd.as_raw_fd(), || poll(&mut fds, PollTimeout::ZERO))
        .map(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_pipe_is_read_until_it_is_empty_and_ends() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let mut input = Input::over(reader.as_fd()).expect("it can be read");
        let mut buffer = [0; 4];
        assert_eq!(input.read(&mut buffer), Err(Errno::EAGAIN));
        assert!(!input.is_ready());
        nix::unistd::write(&writer, b"abcdef").expect("room");
        drop(writer);
        input.woken();
        assert_eq!(input.read(&mut buffer), Ok(4));
        assert_eq!(input.read(&mut buffer), Ok(2));
        assert_eq!(input.read(&mut buffer), Ok(0));
    }

    #[test]
    fn the_writing_end_of_a_pipe_is_no_input() {
        let (_reader, writer) = nix::unistd::pipe().expect("a pipe");
        assert_eq!(Input::over(writer.as_fd()).map(drop), Err(Errno::EBADF));
    }

    #[test]
    fn a_file_is_always_ready_and_a_directory_says_what_it_is() {
        let poll = mio::Poll::new().expect("epoll");
        let mut buffer = [0; 4];
        for (path, expected) in [("/dev/null", Ok(0)), ("/", Err(Errno::EISDIR))] {
            let file = File::open(path).expect("there");
            let mut input = Input::over(file.as_fd()).expect("it can be read");
            input.register(poll.registry(), Token(0)).expect("no error");
            assert_eq!(input.read(&mut buffer), expected, "{path}");
            assert!(input.is_ready(), "{path}");
        }
    }
}
