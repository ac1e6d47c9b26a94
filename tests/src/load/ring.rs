//! The short way of an echo, through io_uring(7): one system call sends many messages and waits for
//! many echoes, so an echo costs no call of its own.
//!
//! It is for connections on which one message is under way. For these it is sure that a message has been
//! sent as soon as its echo is back, so nobody needs to be told of a send that went well; and what has
//! arrived waits in provided buffers, of which there is one for each message.

use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::libc;
use tcpecho_common::calls;
use tcpecho_common::provided::{Group, Shape};

/// The longest message that gains by it: for longer ones the calls hardly count.
pub const LONGEST: u64 = 4096;

/// Requests handed over at a time.
const REQUESTS: u32 = 256;

/// Completions taken at a time: what is sent in answer goes off before more are taken.
const AT_ONCE: usize = 128;

/// There is room for so many completions and buffers at least, and at most.
const ROOM: (u32, u32) = (256, 4096);

/// A buffer has room for a message and so many bytes more.
const SURPLUS: usize = 64;

/// The number of the group of buffers, for the kernel.
const GROUP: u16 = 0;

/// A ring. What is sent lives for longer than it does.
pub struct Ring<'a> {
    uring: IoUring,
    buffers: Group,
    sent: PhantomData<&'a [u8]>,
}

/// What a request was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// To know when the poller has events.
    Poller,
    /// To receive what comes on the connection with this index, until it ends.
    Receive(usize),
    /// To send on the connection with this index. It completes only if that has failed.
    Send(usize),
}

/// What has come of a request, or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// Of which.
    pub what: What,
    /// How many bytes; 0 is the end of the stream.
    pub result: nix::Result<usize>,
    /// They are in this buffer.
    pub buffer: Option<u16>,
    /// The request goes on.
    pub more: bool,
}

impl What {
    fn pack(self) -> u64 {
        match self {
            Self::Poller => 0,
            Self::Receive(index) => (index as u64) << 2 | 1,
            Self::Send(index) => (index as u64) << 2 | 2,
        }
    }

    fn unpack(number: u64) -> Self {
        let index = (number >> 2) as usize;
        match number & 3 {
            1 => Self::Receive(index),
            2 => Self::Send(index),
            _ => Self::Poller,
        }
    }
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Self {
        Self {
            what: What::unpack(entry.user_data()),
            result: usize::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result())),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        }
    }
}

impl<'a> Ring<'a> {
    /// A ring for these sockets, which are named by their index from now on, and messages of this size;
    /// -1 is none. Only the thread that has made it may use it.
    ///
    /// Errors: io_uring is forbidden here, is older than Linux 6.1, or finds no memory that may be
    /// locked.
    pub fn new(sockets: &[RawFd], message: u64) -> nix::Result<Self> {
        let (least, most) = ROOM;
        let room = (2 * sockets.len() as u32).next_power_of_two();
        let room = room.clamp(least, most);
        let ring = IoUring::builder()
            .setup_cqsize(room.max(REQUESTS))
            .setup_submit_all()
            // Completions happen when we wait for them, in this thread.
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(REQUESTS)
            .map_err(|error| calls::errno(&error))?;
        let submitter = ring.submitter();
        submitter
            .register_files(sockets)
            .map_err(|error| calls::errno(&error))?;
        let shape = Shape {
            group: GROUP,
            // What comes beyond a message is to come with it, and not to pass for a part of the next.
            bytes: message as usize + SURPLUS,
            count: room as u16,
            count_at_first: room as u16,
        };
        let buffers = Group::provide(shape, &submitter)?;
        Ok(Self {
            uring: ring,
            buffers,
            sent: PhantomData,
        })
    }

    /// Tells once when this poller has events.
    pub fn watch(&mut self, poller: RawFd) -> nix::Result<()> {
        let request = opcode::PollAdd::new(Fd(poller), libc::POLLIN as u32);
        self.ask(What::Poller, request.build())
    }

    /// Receives whatever comes, until it ends or fails; where buffers have run out (ENOBUFS), or the
    /// kernel has no room to tell, it is to be asked for again.
    pub fn receive(&mut self, index: usize) -> nix::Result<()> {
        let request = opcode::RecvMulti::new(Fixed(index as u32), GROUP).build();
        self.ask(What::Receive(index), request)
    }

    /// Sends all of this. It completes only if that fails.
    pub fn send(&mut self, index: usize, bytes: &'a [u8]) -> nix::Result<()> {
        let request = opcode::Send::new(Fixed(index as u32), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.ask(What::Send(index), request)
    }

    fn ask(&mut self, what: What, request: squeue::Entry) -> nix::Result<()> {
        let request = request.user_data(what.pack());
        loop {
            #[expect(unsafe_code)]
            // SAFETY: only a request to send refers to memory of ours, which lives for longer than
            // the ring, whose requests end with it (see `drop`). Received bytes go to the provided
            // buffers, which stay.
            let pushed = unsafe { self.uring.submission().push(&request) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.uring.submit().map_err(|error| calls::errno(&error))?;
        }
    }

    /// Hands over all that was asked for, and waits for a completion, but no longer than this.
    pub fn wait(&mut self, patience: Option<Duration>) -> nix::Result<()> {
        let patience = patience.map(Timespec::from);
        let mut arguments = SubmitArgs::new();
        if let Some(patience) = &patience {
            arguments = arguments.timespec(patience);
        }
        let entered = self.uring.submitter().submit_with_args(1, &arguments);
        match entered.map_err(|error| calls::errno(&error)) {
            // The latter two: no memory for a request, or completions that must be taken first.
            Ok(_) | Err(Errno::ETIME | Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes some completions, in place of those taken before. The rest is there at the next wait.
    pub fn take(&mut self, completions: &mut Vec<Completion>) {
        completions.clear();
        let come = self.uring.completion().take(AT_ONCE);
        completions.extend(come.map(Completion::from));
    }

    /// The first bytes of a buffer that has come with a completion.
    pub fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        self.buffers.bytes(buffer, length)
    }

    /// The buffer may be used again.
    pub fn give_back(&mut self, buffer: u16) {
        self.buffers.give_back(buffer);
    }
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        // What is sent may be gone afterwards. If this could fail there would be nothing to do about it
        // but to keep the ring as it is.
        let all = CancelBuilder::any();
        let cancelled = self.uring.submitter().register_sync_cancel(None, all);
        let cancelled = cancelled.map_err(|error| calls::errno(&error));
        debug_assert!(matches!(cancelled, Ok(()) | Err(Errno::ENOENT)));
        // Else the sockets would be closed when the kernel gets round to it.
        let _ = self.uring.submitter().unregister_files();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    const LONG: Duration = Duration::from_secs(10);

    /// Two ends of a connection. (Of a Unix one, whose end has come with its last bytes, the kernel does
    /// not tell the end: seen with Linux 6.18.)
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let near = TcpStream::connect(address).expect("it listens");
        let (far, _) = listener.accept().expect("it has come");
        (near, far)
    }

    /// The completions that come next.
    fn next(ring: &mut Ring<'_>) -> Vec<Completion> {
        let mut completions = Vec::new();
        ring.wait(Some(LONG)).expect("to wait");
        ring.take(&mut completions);
        assert!(!completions.is_empty(), "nothing came in {LONG:?}");
        completions
    }

    #[test]
    fn what_was_sent_is_told_by_its_echo_alone() {
        let (near, mut far) = pair();
        let mut ring = Ring::new(&[-1, near.as_raw_fd()], 5).expect("io_uring");
        ring.receive(1).expect("room");
        ring.send(1, b"hello").expect("room");
        ring.wait(Some(Duration::ZERO)).expect("to hand it over");
        let mut bytes = [0; 5];
        far.read_exact(&mut bytes).expect("what was sent");
        far.write_all(&bytes).expect("room");
        let [echo] = next(&mut ring)[..] else {
            panic!("more than the echo");
        };
        assert_eq!(
            (echo.what, echo.result, echo.more),
            (What::Receive(1), Ok(5), true)
        );
        let buffer = echo.buffer.expect("it is in a buffer");
        assert_eq!(ring.bytes(buffer, 5), b"hello");
        drop(far);
        let [end] = next(&mut ring)[..] else {
            panic!("more than the end");
        };
        assert_eq!((end.result, end.more), (Ok(0), false));
    }

    #[test]
    fn a_send_that_fails_is_told() {
        let (near, _far) = pair();
        let mut ring = Ring::new(&[near.as_raw_fd()], 5).expect("io_uring");
        near.shutdown(Shutdown::Write).expect("it is connected");
        ring.send(0, b"hello").expect("room");
        let [failed] = next(&mut ring)[..] else {
            panic!("more than the failure");
        };
        assert_eq!(
            (failed.what, failed.result),
            (What::Send(0), Err(Errno::EPIPE))
        );
    }

    /// Far more comes than there are buffers.
    #[test]
    fn without_buffers_receiving_ends_and_goes_on_when_asked_for_again() {
        let (near, mut far) = pair();
        let mut ring = Ring::new(&[near.as_raw_fd()], 1).expect("io_uring");
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        far.write_all(&bytes).expect("room");
        drop(far);
        let (mut got, mut taken, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        ring.receive(0).expect("room");
        while ends.last() != Some(&Ok(0)) {
            for completion in next(&mut ring) {
                if let Some(buffer) = completion.buffer {
                    let n = completion.result.expect("bytes");
                    got.extend_from_slice(ring.bytes(buffer, n));
                    taken.push(buffer);
                }
                if !completion.more {
                    ends.push(completion.result);
                    taken.drain(..).for_each(|buffer| ring.give_back(buffer));
                    ring.receive(0).expect("room");
                }
            }
        }
        assert_eq!(got, bytes);
        assert!(ends.contains(&Err(Errno::ENOBUFS)), "they never ran out");
    }

    /// The poller is an epoll, which knows of something.
    #[test]
    fn it_tells_once_that_the_poller_has_events() {
        let poll = mio::Poll::new().expect("an epoll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("an eventfd");
        let mut ring = Ring::new(&[-1], 1).expect("io_uring");
        ring.watch(poll.as_raw_fd()).expect("room");
        waker.wake().expect("to wake");
        let [told] = next(&mut ring)[..] else {
            panic!("more than that");
        };
        assert_eq!((told.what, told.more), (What::Poller, false));
    }

    proptest! {
        #[test]
        fn what_was_asked_for_comes_back_as_it_was(index in 0..1_usize << 40) {
            for what in [What::Poller, What::Receive(index), What::Send(index)] {
                prop_assert_eq!(What::unpack(what.pack()), what);
            }
        }
    }
}
