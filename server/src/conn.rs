//! The readiness echo of one connection: what to do when a socket is ready, and what to wait for
//! next. It knows no poller; select, poll and a reactor drive it alike, level- or edge-triggered.
//!
//! An idle connection owns no buffer. Bytes are read into one buffer shared by all connections of
//! a loop and written at once; only what the peer does not take is kept, and while it is kept
//! nothing more is read. So a peer that never reads costs what one read brought, at most
//! [`WINDOW`]; and all of them together little more than [`HELD_IN_FULL`], past which reads shrink
//! to [`SMALL_WINDOW`].
//!
//! Who sends much at once ([`LARGE`]) is echoed without a copy, as far as that goes: splice(2) into
//! a pipe and out of it. That is a shortcut and decides nothing. What the peer does not take is read
//! out of the pipe, so that it is empty after every turn and one is enough for a loop; whether there
//! is more to come, an end or an error, and whether there is room, a read and a write tell, as ever.

use std::mem;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use tcpecho_common::{Mistake, calls, queues};

use crate::end::End;
use crate::pipe::Pipe;
use crate::{handler, socket};

/// The most one read brings, and the most one connection may move per turn.
pub const WINDOW: usize = 256 * 1024;

/// The most one read brings while more than [`HELD_IN_FULL`] is held.
pub const SMALL_WINDOW: usize = 4 * 1024;

/// Bytes held for all peers of a loop, from which on reads are small.
pub const HELD_IN_FULL: usize = 64 * 1024 * 1024;

/// Who has sent so much at once is spliced; with less, the calls cost more than the copies. (Of a
/// message of 64 KiB a bit less may come first.)
pub const LARGE: usize = 48 * 1024;

/// Errors of splice(2) that say nothing of the stream: the kernel, a filter of system calls, or a
/// want of memory forbids it.
const CANNOT: [Errno; 4] = [Errno::EINVAL, Errno::ENOSYS, Errno::EPERM, Errno::ENOMEM];

/// A connection is idle when this many ticks of the idle clock in a row have passed without a byte.
pub const IDLE_TICKS: u8 = 8;
/// Where `--mistake unbounded-buffer` stops after all: a class needs its machine for a while yet.
const HOARD_AT_MOST: usize = 512 * 1024 * 1024;

/// What all connections of one loop share.
#[derive(Debug)]
pub struct Shared {
    buffer: Box<[u8]>,
    held: usize,
    mistake: Option<Mistake>,
    /// For those that are spliced; empty. Made when it is needed.
    pipe: Option<Pipe>,
    /// Splicing is not possible here, or must not be.
    no_pipe: bool,
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Shared {
    /// For a loop whose connections make this mistake, if it is one that they can make.
    pub fn new(mistake: Option<Mistake>) -> Self {
        let size = match mistake {
            Some(Mistake::ReadOnce) => SMALL_WINDOW,
            _ => WINDOW,
        };
        Self {
            buffer: vec![0; size].into_boxed_slice(),
            held: 0,
            mistake,
            pipe: None,
            // Where a mistake is to be made with the bytes, they have to come in.
            no_pipe: mistake.is_some(),
        }
    }

    /// Is this mistake to be made?
    pub fn commits(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Bytes held for peers that do not take them.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Where the next read goes: no more than `most` bytes, and little while much is held.
    pub fn window(&mut self, most: usize) -> &mut [u8] {
        let size = if self.held > HELD_IN_FULL {
            SMALL_WINDOW
        } else {
            self.buffer.len()
        };
        &mut self.buffer[..size.min(most)]
    }

    /// The first `length` bytes of the window: what a read has brought.
    pub fn filled(&self, length: usize) -> &[u8] {
        &self.buffer[..length]
    }

    /// So many bytes are kept from now on for a peer that does not take them.
    pub fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// The pipe. Whoever takes it puts it back when it is empty again, and else drops it: nobody is
    /// sent the bytes of another. None: do without, this time.
    fn take_pipe(&mut self) -> Option<Pipe> {
        if self.no_pipe || self.held > HELD_IN_FULL {
            return None;
        }
        self.pipe.take().or_else(|| Pipe::open().ok())
    }

    /// They are kept no more.
    pub fn release(&mut self, bytes: usize) {
        self.held -= bytes;
    }
}

/// A non-blocking stream, as far as an echo needs one.
pub trait Stream {
    /// read(2); EAGAIN if there is nothing.
    fn read(&mut self, buffer: &mut [u8]) -> nix::Result<usize>;
    /// write(2); EAGAIN if there is no room.
    fn write(&mut self, bytes: &[u8]) -> nix::Result<usize>;
    /// Sends our FIN.
    fn shutdown_write(&mut self);
    /// Bytes received that have not been read.
    fn unread(&self) -> usize;
    /// Bytes written (and our FIN) that the peer has not acknowledged.
    fn unacknowledged(&self) -> usize;
    /// splice(2) from it into the pipe. An error that is not about splicing is the socket's, which
    /// tells it once.
    fn splice_in(&mut self, _pipe: &Pipe, _most: usize) -> nix::Result<usize> {
        Err(Errno::EINVAL)
    }
    /// splice(2) out of the pipe, into it.
    fn splice_out(&mut self, _pipe: &Pipe, _most: usize) -> nix::Result<usize> {
        Err(Errno::EINVAL)
    }
    /// write(2) on a socket that blocks: waits for room. For `--mistake blocking-write`.
    fn write_blocking(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        self.write(bytes)
    }
}

impl Stream for BorrowedFd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        calls::try_read(*self, buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        calls::try_write(*self, bytes)
    }

    fn shutdown_write(&mut self) {
        socket::shutdown_write(*self);
    }

    fn unread(&self) -> usize {
        queues::unread(*self)
    }

    fn unacknowledged(&self) -> usize {
        socket::unacknowledged(*self)
    }

    fn splice_in(&mut self, pipe: &Pipe, most: usize) -> nix::Result<usize> {
        pipe.fill(*self, most)
    }

    fn splice_out(&mut self, pipe: &Pipe, most: usize) -> nix::Result<usize> {
        pipe.drain(*self, most)
    }

    fn write_blocking(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        socket::write_blocking(*self, bytes)
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Wake me when it is readable.
    pub read: bool,
    /// Wake me when it is writable.
    pub write: bool,
}

impl Wants {
    /// Something to read.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    /// Room to write.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };
    /// The peer has closed its side, and its kernel has not taken everything: no event tells when
    /// it has. A stopping loop gives a turn at every tick.
    pub const NOTHING: Self = Self {
        read: false,
        write: false,
    };
}

const TO_DO_EITHER: Turn = Turn::Wait(Wants {
    read: true,
    write: true,
});

const TO_READ: Turn = Turn::Wait(Wants::READ);
const TO_WRITE: Turn = Turn::Wait(Wants::WRITE);
const FOR_NOTHING: Turn = Turn::Wait(Wants::NOTHING);

/// What becomes of a connection after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has had its share and may have more to do: give it another turn after the others.
    Again,
    /// Wait until it is ready for one of these.
    Wait(Wants),
    /// It is over: close it.
    Done(End),
}

/// The echo of one connection.
#[derive(Debug, Default)]
pub struct EchoConn {
    /// What the peer has not taken yet. Boxed, so that an idle connection has a pointer only.
    remainder: Option<Box<Remainder>>,
    echoed: u64,
    /// In the phase [`Phase::Owed`]: this much is still to be read and echoed.
    owed: u32,
    /// Bytes that were read and could not be written because the connection had failed.
    lost: u32,
    phase: Phase,
    /// Read until EAGAIN, even where a short read would do.
    drain: bool,
    /// Much came at once: see [`LARGE`].
    large: bool,
    /// Ticks of the idle clock since a byte moved.
    quiet: u8,
    /// Bytes that the peer had not acknowledged at the last tick, if it was a quiet one.
    unacknowledged: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Echoing,
    /// The server stops; what the peer is owed is still to be echoed.
    Owed,
    /// Our FIN is sent; what comes is thrown away until the peer has everything.
    Lingering,
}

#[derive(Debug, Default)]
struct Remainder {
    bytes: Box<[u8]>,
    written: usize,
}

impl EchoConn {
    /// Bytes written back.
    pub fn echoed(&self) -> u64 {
        self.echoed
    }

    /// Bytes read and not yet written back.
    pub fn pending(&self) -> u64 {
        self.remainder
            .as_ref()
            .map_or(0, |r| (r.bytes.len() - r.written) as u64)
    }

    /// A tick of the idle clock. Returns for how many ticks in a row no byte has moved either way.
    /// A peer that takes what the kernel holds for it moves bytes too, though we cannot see it
    /// otherwise: the kernel tells of room only when there is much of it.
    pub fn tick(&mut self, stream: &impl Stream) -> u8 {
        let before = self.unacknowledged;
        // Where a byte has moved since the last tick there is nothing to ask the kernel.
        self.unacknowledged = if self.quiet == 0 {
            0
        } else {
            u32::try_from(stream.unacknowledged()).unwrap_or(u32::MAX)
        };
        self.quiet = if self.unacknowledged < before {
            1
        } else {
            self.quiet.saturating_add(1)
        };
        self.quiet
    }

    /// The event said more than "readable": the peer has closed its side, or sent urgent data. A
    /// read stops at the urgent mark, so a short one does not mean that there is no more.
    pub fn drain(&mut self) {
        self.drain = true;
    }

    /// The server stops. The connection is owed its remainder and what the kernel has received for
    /// it by now; the next turns see to that.
    pub fn stop(&mut self, stream: &impl Stream) {
        if self.phase == Phase::Echoing {
            self.phase = Phase::Owed;
            self.owed = u32::try_from(stream.unread()).unwrap_or(u32::MAX);
        }
    }

    /// One turn: flush, then read and echo, up to [`WINDOW`] bytes. Call it when the stream may be
    /// ready; a call too many costs a system call and nothing else.
    pub fn turn(&mut self, stream: &mut impl Stream, shared: &mut Shared) -> Turn {
        self.step(stream, shared).unwrap_or_else(|end| {
            if shared.commits(Mistake::DieOnReset) {
                end.err_sys();
            }
            Turn::Done(end)
        })
    }

    /// The connection is being closed: frees what the peer has not taken. Returns how many bytes
    /// had been read and are lost.
    pub fn close(&mut self, shared: &mut Shared) -> u64 {
        let lost = u64::from(self.lost) + self.pending();
        if let Some(remainder) = self.remainder.take() {
            shared.release(remainder.bytes.len());
        }
        lost
    }

    fn step(&mut self, stream: &mut impl Stream, shared: &mut Shared) -> Result<Turn, End> {
        if self.remainder.is_some() {
            if !self.flush(stream, shared)? {
                return self.blocked(stream, shared);
            }
            // Whatever edge came while reading was suspended has been used up.
            self.drain = true;
        }
        let mut budget = WINDOW;
        while budget > 0 {
            self.next_phase(stream)?;
            let mut spliced = 0;
            if self.large && self.phase == Phase::Echoing {
                spliced = self.splice(stream, shared)?;
                budget = budget.saturating_sub(spliced);
                if self.remainder.is_some() {
                    return Ok(TO_WRITE);
                }
                if budget == 0 {
                    break;
                }
                // What was spliced may have been all. But whatever it was, only a read knows.
            }
            let window = self.window(shared);
            let size = window.len();
            let n = match stream.read(window) {
                Ok(0) if self.phase == Phase::Lingering => return Ok(FOR_NOTHING),
                Ok(0) => return Err(End::Fin),
                Ok(n) => n,
                Err(Errno::EINTR) => continue,
                // It was not the end, but a signal at the urgent mark: see `unread`.
                Err(Errno::EAGAIN) if self.expects_more() && stream.unread() > 0 => continue,
                Err(Errno::EAGAIN) => {
                    self.drain = false;
                    return Ok(TO_READ);
                }
                Err(errno) => return Err(End::Failed(errno)),
            };
            budget = budget.saturating_sub(n);
            self.quiet = 0;
            self.large = spliced + n >= LARGE;
            if self.phase != Phase::Lingering && !self.answer(stream, shared, n)? {
                return self.blocked(stream, shared);
            }
            let enough = n < size && !self.drain || shared.commits(Mistake::ReadOnce);
            if enough && self.phase == Phase::Echoing {
                return Ok(TO_READ);
            }
        }
        Ok(Turn::Again)
    }

    /// Echoes what is there by way of the pipe; what the peer does not take is kept. Returns how much
    /// there was; 0 says nothing.
    fn splice(&mut self, stream: &mut impl Stream, shared: &mut Shared) -> Result<usize, End> {
        let Some(pipe) = shared.take_pipe() else {
            return Ok(0);
        };
        let n = match stream.splice_in(&pipe, WINDOW) {
            Ok(n) => n,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM) => 0,
            Err(errno) if CANNOT.contains(&errno) => {
                shared.no_pipe = true;
                return Ok(0);
            }
            Err(errno) => return Err(End::Failed(errno)),
        };
        if n > 0 {
            self.quiet = 0;
            self.large = n >= LARGE;
        }
        let left = self.splice_out(stream, &pipe, n)?;
        self.copy_out(&pipe, &mut shared.buffer[..left])?;
        shared.pipe = Some(pipe);
        self.answer(stream, shared, left)?;
        Ok(n)
    }

    /// Moves so many bytes from the pipe to the peer. Returns how many do not go.
    fn splice_out(
        &mut self,
        stream: &mut impl Stream,
        pipe: &Pipe,
        mut left: usize,
    ) -> Result<usize, End> {
        while left > 0 {
            match stream.splice_out(pipe, left) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(n) => {
                    left -= n;
                    self.echoed += n as u64;
                }
                Err(Errno::EINTR) => {}
                Err(errno) if CANNOT.contains(&errno) => break,
                Err(errno) => return Err(self.lose(left, errno)),
            }
        }
        Ok(left)
    }

    /// Empties the pipe into the buffer, which is as long as what is in it.
    fn copy_out(&mut self, pipe: &Pipe, buffer: &mut [u8]) -> Result<(), End> {
        let mut copied = 0;
        while copied < buffer.len() {
            match pipe.read(&mut buffer[copied..]) {
                Ok(n) => copied += n,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.lose(buffer.len(), errno)),
            }
        }
        Ok(())
    }

    /// The connection has failed, and with it this many bytes that were read.
    fn lose(&mut self, bytes: usize, errno: Errno) -> End {
        self.lost = bytes as u32;
        End::Failed(errno)
    }

    /// Is there more than one read may bring?
    fn expects_more(&self) -> bool {
        self.drain || self.phase == Phase::Owed
    }

    /// The peer does not take what it is owed: nothing more is read until it has.
    fn blocked(&mut self, stream: &mut impl Stream, shared: &mut Shared) -> Result<Turn, End> {
        if shared.commits(Mistake::UnboundedBuffer) && self.phase == Phase::Echoing {
            return self.hoard(stream, shared);
        }
        Ok(TO_WRITE)
    }

    /// `--mistake unbounded-buffer`: whatever comes is added to the remainder.
    fn hoard(&mut self, stream: &mut impl Stream, shared: &mut Shared) -> Result<Turn, End> {
        if shared.held >= HOARD_AT_MOST {
            return Ok(TO_WRITE);
        }
        match stream.read(shared.window(usize::MAX)) {
            // It stays true until the peer has taken everything.
            Ok(0) => Ok(TO_WRITE),
            Ok(n) => {
                self.quiet = 0;
                self.keep(shared, 0..n);
                Ok(Turn::Again)
            }
            Err(Errno::EAGAIN) => Ok(TO_DO_EITHER),
            Err(Errno::EINTR) => Ok(Turn::Again),
            Err(errno) => Err(End::Failed(errno)),
        }
    }

    /// Nothing is pending; where the server stops, is there still something to do?
    fn next_phase(&mut self, stream: &mut impl Stream) -> Result<(), End> {
        match self.phase {
            Phase::Owed if self.owed == 0 => {
                let all_arrived = stream.unacknowledged() == 0;
                // Closing with input unread, which may come at any moment, sends an RST instead of
                // a FIN: so the FIN first. And an RST destroys echoes that are under way: so listen
                // until they have arrived.
                stream.shutdown_write();
                if all_arrived {
                    return Err(End::Stopped);
                }
                self.phase = Phase::Lingering;
                Ok(())
            }
            Phase::Lingering if stream.unacknowledged() == 0 => Err(End::Stopped),
            _ => Ok(()),
        }
    }

    fn window<'a>(&self, shared: &'a mut Shared) -> &'a mut [u8] {
        shared.window(if self.phase == Phase::Owed {
            self.owed as usize
        } else {
            usize::MAX
        })
    }

    /// Writes the first `n` bytes of the shared buffer; keeps what does not go. True if all went.
    fn answer(
        &mut self,
        stream: &mut impl Stream,
        shared: &mut Shared,
        n: usize,
    ) -> Result<bool, End> {
        self.owed = self.owed.saturating_sub(n as u32);
        if shared.commits(Mistake::SlowHandler) {
            handler::query();
        }
        let mut written = 0;
        while written < n {
            match write(stream, &shared.buffer[written..n], shared.mistake) {
                Ok(more) => {
                    written += more;
                    self.echoed += more as u64;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.keep(shared, written..n);
                    return Ok(false);
                }
                Err(errno) => return Err(self.lose(n - written, errno)),
            }
        }
        Ok(true)
    }

    /// Keeps this part of the shared buffer until the peer takes it.
    fn keep(&mut self, shared: &mut Shared, part: Range<usize>) {
        shared.hold(part.len());
        let mut remainder = self.remainder.take().unwrap_or_default();
        let mut bytes = mem::take(&mut remainder.bytes).into_vec();
        bytes.reserve_exact(part.len());
        bytes.extend_from_slice(&shared.buffer[part]);
        remainder.bytes = bytes.into_boxed_slice();
        self.remainder = Some(remainder);
    }

    /// Writes the remainder, as far as it goes. True if nothing is left of it.
    fn flush(&mut self, stream: &mut impl Stream, shared: &mut Shared) -> Result<bool, End> {
        let Some(remainder) = self.remainder.as_mut() else {
            return Ok(true);
        };
        while remainder.written < remainder.bytes.len() {
            match stream.write(&remainder.bytes[remainder.written..]) {
                Ok(n) => {
                    remainder.written += n;
                    self.echoed += n as u64;
                    self.quiet = 0;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(End::Failed(errno)),
            }
        }
        shared.release(remainder.bytes.len());
        self.remainder = None;
        Ok(true)
    }
}

/// write(2), and the mistakes that can be made about it where there is no room.
fn write(stream: &mut impl Stream, bytes: &[u8], mistake: Option<Mistake>) -> nix::Result<usize> {
    match (stream.write(bytes), mistake) {
        (Err(Errno::EAGAIN), Some(Mistake::ShortWrite)) => Ok(bytes.len()),
        (Err(Errno::EAGAIN), Some(Mistake::BlockingWrite)) => stream.write_blocking(bytes),
        (written, _) => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A peer as the kernel shows it: reads come as scripted, writes go while there is room.
    #[derive(Default)]
    struct Peer {
        input: VecDeque<nix::Result<Vec<u8>>>,
        room: usize,
        output: Vec<u8>,
        write_fails: Option<Errno>,
        fin_sent: bool,
        unacknowledged: usize,
        reads: usize,
        /// Bytes that came in by splice.
        spliced: usize,
    }

    impl Peer {
        fn sends(chunks: &[&[u8]]) -> Self {
            let input = chunks.iter().map(|chunk| Ok(chunk.to_vec())).collect();
            Self {
                input,
                room: usize::MAX,
                ..Self::default()
            }
        }

        fn turn(&mut self, conn: &mut EchoConn, shared: &mut Shared) -> Turn {
            conn.turn(self, shared)
        }
    }

    impl Stream for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
            self.reads += 1;
            let mut chunk = self.input.pop_front().unwrap_or(Err(Errno::EAGAIN))?;
            let n = chunk.len().min(buffer.len());
            buffer[..n].copy_from_slice(&chunk[..n]);
            if n < chunk.len() {
                self.input.push_front(Ok(chunk.split_off(n)));
            }
            Ok(n)
        }

        fn write(&mut self, bytes: &[u8]) -> nix::Result<usize> {
            if let Some(errno) = self.write_fails {
                return Err(errno);
            }
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(Errno::EAGAIN);
            }
            self.room -= n;
            self.output.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn splice_in(&mut self, pipe: &Pipe, most: usize) -> nix::Result<usize> {
            let mut bytes = vec![0; most];
            let n = self.read(&mut bytes)?;
            self.spliced += n;
            nix::unistd::write(&pipe.writer, &bytes[..n])
        }

        fn splice_out(&mut self, pipe: &Pipe, most: usize) -> nix::Result<usize> {
            let mut bytes = vec![0; most.min(self.room)];
            let n = nix::unistd::read(&pipe.reader, &mut bytes)?;
            self.write(&bytes[..n])
        }

        fn shutdown_write(&mut self) {
            self.fin_sent = true;
            self.unacknowledged += 1;
        }

        fn unread(&self) -> usize {
            self.input.iter().flatten().map(Vec::len).sum()
        }

        fn unacknowledged(&self) -> usize {
            self.unacknowledged
        }
    }

    #[test]
    fn a_short_read_ends_the_turn_without_asking_again() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"hello"]);
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
        assert_eq!((peer.reads, peer.output.as_slice()), (1, &b"hello"[..]));
    }

    #[test]
    fn after_a_hint_it_reads_until_there_is_no_more() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"abc", b"efg"]);
        conn.drain();
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
        assert_eq!((peer.reads, peer.output.as_slice()), (3, &b"abcefg"[..]));
    }

    /// At the urgent mark, where a signal was pending.
    #[test]
    fn after_a_hint_it_does_not_believe_that_there_is_no_more() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"abc"]);
        peer.input.extend([Err(Errno::EAGAIN), Ok(b"efg".to_vec())]);
        conn.drain();
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
        assert_eq!((peer.reads, peer.output.as_slice()), (4, &b"abcefg"[..]));
    }

    #[test]
    fn a_firehose_gets_one_window_per_turn() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[&vec![7; 3 * WINDOW]]);
        assert_eq!(peer.turn(&mut conn, &mut shared), Turn::Again);
        assert_eq!(peer.output.len(), WINDOW);
    }

    #[test]
    fn what_the_peer_does_not_take_is_kept_and_nothing_more_is_read() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"abcdef", b"ghi", b""]);
        peer.room = 2;
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_WRITE);
        assert_eq!((conn.pending(), shared.held()), (4, 4));
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_WRITE);
        assert_eq!(peer.reads, 1);
        peer.room = usize::MAX;
        assert_eq!(peer.turn(&mut conn, &mut shared), Turn::Done(End::Fin));
        assert_eq!(peer.output, b"abcdefghi");
        assert_eq!(
            (conn.echoed(), conn.close(&mut shared), shared.held()),
            (9, 0, 0)
        );
    }

    #[test]
    fn reads_shrink_when_much_is_held() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        shared.held = HELD_IN_FULL + 1;
        let mut peer = Peer::sends(&[&vec![7; WINDOW]]);
        peer.room = 0;
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_WRITE);
        assert_eq!(conn.pending(), SMALL_WINDOW as u64);
    }

    #[test]
    fn who_sends_much_is_spliced_as_long_as_that_goes_on() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[]);
        // Each goes the way that the one before it suggests.
        for (sent, spliced) in [(LARGE, 0), (LARGE, LARGE), (10, 10), (10, 0), (LARGE, 0)] {
            // A turn for nothing says nothing.
            assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
            peer.input.push_back(Ok(vec![7; sent]));
            (peer.room, peer.spliced) = (usize::MAX, 0);
            assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
            assert_eq!(peer.spliced, spliced, "of {sent}");
        }
        assert_eq!(conn.echoed(), peer.output.len() as u64);
    }

    #[test]
    fn what_must_come_in_is_not_spliced() {
        let mistaken = Shared::new(Some(Mistake::ShortWrite));
        let full = Shared {
            held: HELD_IN_FULL + 1,
            ..Shared::default()
        };
        for mut shared in [mistaken, full] {
            let mut conn = EchoConn {
                large: true,
                ..EchoConn::default()
            };
            let mut peer = Peer::sends(&[&vec![7; LARGE]]);
            peer.turn(&mut conn, &mut shared);
            assert_eq!((peer.spliced, peer.reads > 0), (0, true));
        }
    }

    #[test]
    fn what_is_lost_on_its_way_through_the_pipe_reaches_nobody_else() {
        let mut shared = Shared::default();
        for errno in [Errno::EPIPE, Errno::ECONNRESET] {
            let mut conn = EchoConn {
                large: true,
                ..EchoConn::default()
            };
            let mut peer = Peer::sends(&[b"abc"]);
            peer.write_fails = Some(errno);
            let turn = peer.turn(&mut conn, &mut shared);
            assert_eq!(turn, Turn::Done(End::Failed(errno)));
            assert_eq!((peer.spliced, conn.close(&mut shared)), (3, 3));
        }
        let mut conn = EchoConn {
            large: true,
            ..EchoConn::default()
        };
        let mut peer = Peer::sends(&[b"efg"]);
        peer.turn(&mut conn, &mut shared);
        assert_eq!((peer.spliced, peer.output.as_slice()), (3, &b"efg"[..]));
    }

    #[test]
    fn a_failed_write_ends_it_and_says_what_is_lost() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"abc"]);
        peer.write_fails = Some(Errno::EPIPE);
        assert_eq!(
            peer.turn(&mut conn, &mut shared),
            Turn::Done(End::Failed(Errno::EPIPE))
        );
        assert_eq!((conn.close(&mut shared), shared.held()), (3, 0));
    }

    #[test]
    fn interruptions_change_nothing() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[]);
        peer.input.extend([Err(Errno::EINTR), Ok(b"abc".to_vec())]);
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
        assert_eq!(peer.output, b"abc");
    }

    #[test]
    fn a_stopping_server_echoes_what_was_there_and_no_more() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"owed"]);
        conn.stop(&peer);
        peer.input.push_back(Ok(b"too late".to_vec()));
        peer.unacknowledged = 4;
        assert_eq!(peer.turn(&mut conn, &mut shared), TO_READ);
        assert_eq!(
            (peer.output.as_slice(), peer.fin_sent),
            (&b"owed"[..], true)
        );
        peer.unacknowledged = 0;
        assert_eq!(peer.turn(&mut conn, &mut shared), Turn::Done(End::Stopped));
    }

    #[test]
    fn a_stopping_server_closes_at_once_where_nothing_is_owed() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[]);
        conn.stop(&peer);
        assert_eq!(peer.turn(&mut conn, &mut shared), Turn::Done(End::Stopped));
        assert!(peer.fin_sent, "close alone sends an RST if input has come");
    }

    #[test]
    fn ticks_count_since_the_last_byte() {
        let (mut conn, mut shared) = (EchoConn::default(), Shared::default());
        let mut peer = Peer::sends(&[b"a"]);
        assert_eq!((conn.tick(&peer), conn.tick(&peer)), (1, 2));
        peer.turn(&mut conn, &mut shared);
        assert_eq!(conn.tick(&peer), 1);
    }

    #[test]
    fn a_peer_that_takes_what_the_kernel_holds_is_not_quiet() {
        let (mut conn, mut peer) = (EchoConn::default(), Peer::sends(&[]));
        peer.unacknowledged = 1000;
        assert_eq!((conn.tick(&peer), conn.tick(&peer)), (1, 2));
        peer.unacknowledged = 999;
        assert_eq!((conn.tick(&peer), conn.tick(&peer)), (1, 2));
        peer.unacknowledged = 0;
        assert_eq!((conn.tick(&peer), conn.tick(&peer)), (1, 2));
    }
}
