//! One connection of the generator: what it may send, what it has sent, what has come back.
//!
//! Positions count the bytes of its stream: `received <= sent <= released`. A message is released
//! (to be sent), sent as far as the socket takes it, and complete when its last byte has come back and
//! all were compared.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;

use crate::load::failure::{Failure, Kind};
use crate::load::pattern::{Difference, Origin, Pattern};
use crate::load::stamps::{Missing, Stamps, Wire};

/// When a message began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// When it was due: in an open loop by the schedule, else when it was sent.
    pub due: u64,
    /// When the call was made that sent it, or its first bytes.
    pub sent: u64,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing more for now.
    Nothing,
    /// So many bytes, the right ones.
    Bytes(u64),
    /// The end of the stream.
    Fin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    /// We have sent our FIN.
    Ending,
}

/// See the module's head.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    number: u64,
    origin: Origin,
    state: State,
    /// Bytes of a message.
    message: u64,
    released: u64,
    sent: u64,
    received: u64,
    /// Where the first message that is not complete ends.
    message_end: u64,
    /// Of the messages that are not complete; of these, so many have begun to be sent.
    starts: VecDeque<Start>,
    begun: usize,
    /// When connect was called.
    pub began: u64,
    /// Since when it has been waiting for the bytes that come next.
    pub waiting_since: u64,
    readable: bool,
    writable: bool,
    /// The last edge told of more than data: read on until there is nothing.
    to_the_end: bool,
    /// The kernel's time stamps, where they are wanted.
    stamps: Option<Box<Stamps>>,
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Connection {
    /// The connection with this number, being established since `began`.
    pub fn new(stream: TcpStream, number: u64, message: u64, began: u64) -> Self {
        Self {
            stream,
            number,
            origin: Origin::of(number),
            state: State::Connecting,
            message,
            released: 0,
            sent: 0,
            received: 0,
            message_end: message,
            starts: VecDeque::new(),
            begun: 0,
            began,
            waiting_since: began,
            readable: false,
            writable: false,
            to_the_end: false,
            stamps: None,
        }
    }

    /// Every message is to be stamped by the kernel.
    pub fn stamp(&mut self) {
        self.stamps = Some(Stamps::of(&self.stream).into());
    }

    /// Takes note of an edge.
    pub fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
        let mut is_error = event.is_error();
        if let Some(stamps) = self.stamps.as_mut().filter(|_| is_error) {
            // Stamps are no error, and errors make it readable. If something has come back, that is first:
            // the time until it is read is measured.
            if !event.is_readable() {
                stamps.collect(&self.stream);
            }
            is_error = false;
        }
        self.to_the_end |= event.is_read_closed() || is_error || event.is_priority();
    }

    /// Is it still being established?
    pub fn is_connecting(&self) -> bool {
        self.state == State::Connecting
    }

    /// Has it been established, as far as is known? Errors: why it will not be.
    pub fn establish(&mut self, target: SocketAddr) -> Result<bool, Failure> {
        if !self.writable {
            return Ok(false);
        }
        if self.to_the_end {
            if let Some(error) = self.stream.take_error().unwrap_or_else(Some) {
                return Err(Failure::system(&error));
            }
        }
        // Nobody listens, and its own port was the one it asked for.
        if self.stream.local_addr().is_ok_and(|local| local == target) {
            return Err(Failure::new(Kind::Refused, "it met itself"));
        }
        self.state = State::Open;
        Ok(true)
    }

    /// One more message may be sent, which was due at this moment.
    pub fn release(&mut self, due: u64) {
        if self.received == self.released {
            self.waiting_since = due;
        }
        self.released += self.message;
        self.starts.push_back(Start { due, sent: due });
    }

    /// Has everything that was released been sent?
    pub fn has_sent_all(&self) -> bool {
        self.sent == self.released
    }

    /// Has everything that was sent come back?
    pub fn is_answered(&self) -> bool {
        self.has_sent_all() && self.received == self.sent
    }

    /// May the socket take something?
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// May there be something to read?
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// What is to be sent next of what was released, in one piece.
    pub fn to_send<'p>(&self, pattern: &'p Pattern) -> &'p [u8] {
        pattern.slice(self.origin, self.sent, self.released - self.sent)
    }

    /// So many bytes of it were sent, by a call that was made at `now`.
    pub fn has_sent(&mut self, n: usize, now: u64) {
        self.sent += n as u64;
        self.note_begun(now);
    }

    /// Sends what the socket takes of what was released; 0 if it takes nothing. The time is `now`.
    pub fn send(&mut self, pattern: &Pattern, now: u64) -> Result<u64, Failure> {
        let piece = self.to_send(pattern);
        match self.stream.write(piece) {
            Ok(n) => {
                self.writable = n == piece.len();
                self.has_sent(n, now);
                if let Some(stamps) = &mut self.stamps {
                    // With the end of a message?
                    if self.sent % self.message < n as u64 {
                        stamps.sent(self.sent);
                    }
                }
                Ok(n as u64)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// Which messages have had their first byte sent by the call at `now`.
    fn note_begun(&mut self, now: u64) {
        let first = self.message_end - self.message;
        let begun = (self.sent - first).div_ceil(self.message) as usize;
        for start in self.starts.iter_mut().take(begun).skip(self.begun) {
            start.sent = now;
        }
        self.begun = begun;
    }

    /// Reads once, and compares.
    pub fn receive(&mut self, buffer: &mut [u8], pattern: &Pattern) -> Result<Received, Failure> {
        let read = match &mut self.stamps {
            None => self.stream.read(buffer),
            Some(stamps) => stamps.read(&self.stream, buffer),
        };
        match read {
            Ok(0) => Ok(Received::Fin),
            Ok(n) => {
                self.readable = n == buffer.len() || self.to_the_end;
                self.take(&buffer[..n], pattern)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                (self.readable, self.to_the_end) = (false, false);
                Ok(Received::Nothing)
            }
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// These bytes have come back: compares them.
    pub fn take(&mut self, found: &[u8], pattern: &Pattern) -> Result<Received, Failure> {
        self.compare(found, pattern)?;
        self.received += found.len() as u64;
        Ok(Received::Bytes(found.len() as u64))
    }

    fn compare(&self, found: &[u8], pattern: &Pattern) -> Result<(), Failure> {
        let owed = (self.sent - self.received).min(found.len() as u64) as usize;
        pattern
            .compare(self.origin, self.received, &found[..owed])
            .map_err(|difference| differs(&difference))?;
        if owed < found.len() {
            let (extra, sent) = (found.len() - owed, self.sent);
            let text = format!("{extra} bytes more than the {sent} that were sent");
            return Err(Failure::new(Kind::ExtraBytes, text));
        }
        Ok(())
    }

    /// The start of a message that is complete, oldest first.
    pub fn complete(&mut self) -> Option<Start> {
        if self.received < self.message_end {
            return None;
        }
        self.message_end += self.message;
        self.begun -= 1;
        self.starts.pop_front()
    }

    /// What the kernel's time stamps say of the message that [`complete`](Self::complete) has just
    /// returned, which the program has seen take so long; nothing if they are not wanted.
    pub fn on_the_wire(&mut self, seen: u64) -> Option<Result<Wire, Missing>> {
        let stamps = self.stamps.as_mut()?;
        let end = self.message_end - self.message;
        let shared = self.received > end;
        Some(stamps.complete(&self.stream, end, shared, seen))
    }

    /// Nothing more is to be sent than the rest of what has begun. Returns when the messages were due
    /// that have not begun.
    pub fn stop(&mut self) -> impl Iterator<Item = Start> {
        let begun = self.sent.next_multiple_of(self.message).min(self.released);
        let left = (self.released - begun) / self.message;
        self.released = begun;
        let keep = self.starts.len() - left as usize;
        self.starts.drain(keep..)
    }

    /// Sends our FIN.
    pub fn half_close(&mut self, now: u64) -> Result<(), Failure> {
        if self.state == State::Ending {
            return Ok(());
        }
        self.state = State::Ending;
        self.waiting_since = now;
        let done = self.stream.shutdown(Shutdown::Write);
        done.map_err(|error| self.broken(&error))
    }

    /// The peer's FIN has come. Errors: it has not come last.
    pub fn end(&self) -> Result<(), Failure> {
        let Self { sent, received, .. } = self;
        if self.state != State::Ending {
            let text = format!("FIN after {received} of {sent} bytes, before ours");
            return Err(Failure::new(Kind::Closed, text));
        }
        if received < sent {
            let text = format!("FIN after {received} of {sent} bytes");
            return Err(Failure::new(Kind::MissingBytes, text));
        }
        Ok(())
    }

    /// Why this cannot go on, if it has been waiting since before `limit`.
    pub fn overdue(&self, limit: u64) -> Option<Failure> {
        let Self { sent, received, .. } = self;
        let (kind, text) = match self.state {
            _ if self.waiting_since >= limit => return None,
            State::Connecting => (Kind::Unreachable, "no answer to connect".to_owned()),
            State::Ending if received == sent => (
                Kind::NoFin,
                format!("no FIN after ours and all {sent} bytes"),
            ),
            State::Open if self.is_answered() => return None,
            _ => (
                Kind::Timeout,
                format!("nothing more after {received} of {sent} bytes"),
            ),
        };
        Some(Failure::new(kind, text))
    }

    /// It cannot go on after this error.
    pub fn broken(&self, error: &std::io::Error) -> Failure {
        let Self { sent, received, .. } = self;
        Failure::system(error).of(&format!("after {received} of {sent} bytes"))
    }

    /// From now on somebody else than this poller tells what happens to it.
    pub fn leave(&mut self, registry: &Registry) -> std::io::Result<()> {
        registry.deregister(&mut self.stream)
    }

    /// Ends it both ways, for whoever still has its descriptor.
    pub fn abandon(&self) {
        // If it has ended already, so much the better.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }
}

fn differs(difference: &Difference) -> Failure {
    let Difference {
        at,
        expected,
        found,
        shift,
    } = difference;
    let (kind, what) = match shift {
        Some(missing @ 1..) => (Kind::MissingBytes, format!("{missing} bytes are missing")),
        Some(extra) => (Kind::ExtraBytes, format!("{} bytes come again", -extra)),
        None => (
            Kind::WrongBytes,
            format!("0x{found:02x} instead of 0x{expected:02x}"),
        ),
    };
    Failure::new(kind, format!("{what} at position {at}"))
}
