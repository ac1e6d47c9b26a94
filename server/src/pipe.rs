//! A pipe between a socket and itself: splice(2) moves what has been received into it, and from it
//! to be sent, without a copy. What moves are references to the pages that the sender's bytes are in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tcpecho_common::calls;

/// In bytes, as fcntl(2) wants it. What there is room for are pieces, one for each page of that, and
/// what a network card has received may be in small ones. A user with many large pipes gets no more, and
/// has to be content with a small one.
const SIZE: i32 = 1024 * 1024;

/// Both ends of a pipe; neither blocks.
#[derive(Debug)]
pub struct Pipe {
    /// Where bytes come out.
    pub reader: OwnedFd,
    /// Where they go in.
    pub writer: OwnedFd,
}

impl Pipe {
    /// An empty one. Errors: no descriptors are left, or no memory.
    pub fn open() -> nix::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SIZE));
        Ok(Self { reader, writer })
    }

    /// Moves into it what the socket has received, `most` bytes at most.
    pub fn fill(&self, socket: BorrowedFd<'_>, most: usize) -> nix::Result<usize> {
        calls::splice(socket, &self.writer, socket, most)
    }

    /// Moves its next `most` bytes at most to the socket, to be sent.
    pub fn drain(&self, socket: BorrowedFd<'_>, most: usize) -> nix::Result<usize> {
        calls::splice(&self.reader, socket, socket, most)
    }

    /// Copies its next bytes: there are as many as the buffer is long.
    pub fn read(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        calls::try_read(self.reader.as_fd(), buffer)
    }
}
