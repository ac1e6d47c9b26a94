//! The ring: a queue of requests and a queue of what has come of them, both shared with the kernel;
//! io_uring(7). One system call hands over all that was asked for and waits for a completion.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::libc;
use tcpecho_common::calls;

use super::buffers::{Buffers, Size};
use crate::failure::Failure;

/// Requests handed over at a time. With the queues of this size and the buffers' ring, all that the
/// kernel locks in memory is below 64 KiB, the limit (`ulimit -l`) of some systems.
const REQUESTS: u32 = 256;

/// Completions there is room for. What does not fit the kernel keeps for later, and ends the
/// multishot request that it came from.
const COMPLETIONS: u32 = 1024;

/// `IORING_RECVSEND_POLL_FIRST` of `io_uring.h`, a flag of requests to receive.
const POLL_FIRST: u16 = 1;

pub struct Ring {
    ring: IoUring,
    /// Asked for, and not handed over yet.
    queued: VecDeque<squeue::Entry>,
}

/// What a request was made for. It comes back with the completion, which may be late: for a
/// connection that is gone, whose index has been given to another of a later generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub what: What,
    pub index: usize,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    Accept,
    Signals,
    Recv,
    Send,
    CancelAccept,
    CancelRecv,
    CancelSend,
}

const WHATS: [What; 7] = [
    What::Accept,
    What::Signals,
    What::Recv,
    What::Send,
    What::CancelAccept,
    What::CancelRecv,
    What::CancelSend,
];

impl Token {
    /// For a request that concerns no connection.
    pub fn only(what: What) -> Self {
        Self {
            what,
            index: 0,
            generation: 0,
        }
    }

    /// As a number: what in 8 bits, the index in 24, the generation in 32.
    fn pack(self) -> u64 {
        (self.what as u64) << 56 | (self.index as u64) << 32 | u64::from(self.generation)
    }

    fn unpack(number: u64) -> Self {
        Self {
            what: WHATS[(number >> 56) as usize],
            index: (number >> 32) as usize & 0xFF_FFFF,
            generation: number as u32,
        }
    }
}

/// What has come of a request; or, if there is more to come of it, a part.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub result: nix::Result<i32>,
    /// The provided buffer that the kernel has used, by its number in the group.
    pub buffer: Option<u16>,
    /// The request goes on. If not, it is over, whatever the result is.
    pub more: bool,
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Self {
        let result = entry.result();
        Self {
            token: Token::unpack(entry.user_data()),
            result: if result < 0 {
                Err(Errno::from_raw(-result))
            } else {
                Ok(result)
            },
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        }
    }
}

impl Ring {
    /// A ring, and the buffers for what is received. The kernel's version is not asked for: the
    /// setup fails where something is missing.
    pub fn new() -> Result<(Self, Buffers), Failure> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            // A request that fails at once does not keep those behind it from being handed over.
            .setup_submit_all()
            // Completions happen when we wait for them, each connection's share after the other's,
            // and not whenever the kernel gets hold of us.
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(REQUESTS)
            .map_err(|error| refused("cannot set up io_uring", calls::errno(&error)))?;
        let buffers = Buffers::provide(&ring.submitter())
            .map_err(|errno| refused("cannot provide buffers for io_uring", errno))?;
        let queued = VecDeque::new();
        Ok((Self { ring, queued }, buffers))
    }

    /// Accepts one connection, or every one that comes until it fails.
    pub fn accept(&mut self, listener: RawFd, all: bool) {
        let (fd, flags) = (Fd(listener), libc::SOCK_CLOEXEC);
        let request = if all {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            let nowhere = (std::ptr::null_mut(), std::ptr::null_mut());
            let accept = opcode::Accept::new(fd, nowhere.0, nowhere.1);
            accept.flags(flags).build()
        };
        self.ask(Token::only(What::Accept), request);
    }

    /// Waits, once, until a descriptor is readable.
    pub fn poll(&mut self, fd: RawFd, token: Token) {
        self.ask(
            token,
            opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build(),
        );
    }

    /// Receives once, at most `length` bytes, into a provided buffer. A small one is for the answer to
    /// what is just being sent, which cannot be there yet: the kernel need not try before it waits.
    pub fn recv(&mut self, stream: RawFd, size: Size, length: u32, token: Token) {
        let length = length.min(size.bytes() as u32);
        let poll_first = match size {
            Size::Small => POLL_FIRST,
            Size::Large => 0,
        };
        let request = opcode::Recv::new(Fd(stream), std::ptr::null_mut(), length)
            .ioprio(poll_first)
            .buf_group(size.group())
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.ask(token, request);
    }

    /// Sends; `flags` as of send(2).
    ///
    /// # Safety
    ///
    /// The bytes stay where they are, and what they are, until the request is complete.
    #[expect(unsafe_code)]
    pub unsafe fn send(&mut self, stream: RawFd, bytes: &[u8], flags: i32, token: Token) {
        let request = opcode::Send::new(Fd(stream), bytes.as_ptr(), bytes.len() as u32)
            .flags(flags)
            .build();
        self.ask(token, request);
    }

    /// Cancels the request with the token `of`. It still has a completion of its own.
    pub fn cancel(&mut self, of: Token, token: Token) {
        let request = opcode::AsyncCancel2::new(CancelBuilder::user_data(of.pack()));
        self.ask(token, request.build());
    }

    fn ask(&mut self, token: Token, request: squeue::Entry) {
        self.queued.push_back(request.user_data(token.pack()));
    }

    /// Hands over all that was asked for and waits for a completion, or until the timeout. What an
    /// error keeps from being handed over is handed over the next time.
    pub fn wait(&mut self, timeout: Option<Duration>) -> nix::Result<()> {
        let fd = self.ring.as_raw_fd();
        while self.fill() {
            let enter = || self.ring.submit().map_err(|error| calls::errno(&error));
            calls::at_once("io_uring_enter", fd, enter)?;
        }
        let mut arguments = SubmitArgs::new();
        let timeout = timeout.map(Timespec::from);
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        let submitter = self.ring.submitter();
        let entered = calls::may_block("io_uring_enter", fd, || {
            let handed_over = submitter.submit_with_args(1, &arguments);
            handed_over.map_err(|error| calls::errno(&error))
        });
        match entered {
            Ok(_) | Err(Errno::ETIME) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes the completions, in place of those taken before. What found no room comes with the next
    /// wait.
    pub fn take(&mut self, completions: &mut Vec<Completion>) {
        completions.clear();
        if self.ring.submission().cq_overflow() {
            log::debug!("more completions than fit into the queue");
        }
        completions.extend(self.ring.completion().map(Completion::from));
    }

    /// Moves requests into the submission queue. True if there are more than fit.
    fn fill(&mut self) -> bool {
        let mut submission = self.ring.submission();
        while let Some(request) = self.queued.front() {
            #[expect(unsafe_code)]
            // SAFETY: only a request to send refers to memory of ours, and who asked for it keeps
            // that until it is complete. Received bytes go to the provided buffers, which stay.
            if unsafe { submission.push(request) }.is_err() {
                return true;
            }
            self.queued.pop_front();
        }
        false
    }
}

fn refused(what: &str, errno: Errno) -> Failure {
    const OTHER: &str = "another model: --model reactor";
    let failure = Failure::new(what, errno);
    match errno {
        Errno::EPERM | Errno::EACCES => failure.hint(format!(
            "it is forbidden here, by sysctl kernel.io_uring_disabled or a seccomp filter; {OTHER}"
        )),
        Errno::ENOSYS => failure.hint(format!(
            "this kernel has none, Linux 6.1 is needed; {OTHER}"
        )),
        Errno::EINVAL => failure.hint(format!(
            "this kernel's is too old, Linux 6.1 is needed; {OTHER}"
        )),
        Errno::ENOMEM => failure.hint(format!(
            "raise the limit of locked memory: ulimit -l; {OTHER}"
        )),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        for what in WHATS {
            for (index, generation) in [(0, 0), (1, u32::MAX), (0xFF_FFFF, 7)] {
                let token = Token {
                    what,
                    index,
                    generation,
                };
                assert_eq!(Token::unpack(token.pack()), token);
            }
        }
    }
}
