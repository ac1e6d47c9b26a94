//! Whatever a peer does (sends in pieces, with urgent marks between, stops reading, reads a little,
//! half-closes, resets), whether the loop is told of levels or of edges, and whatever splice does (all,
//! a part, nothing, fail): the echo of a connection is exact, nothing stalls, nothing is kept beyond its
//! bounds.
//!
//! The peer and its kernel are a model; proptest makes up ten thousand lives of it.

use std::sync::LazyLock;

use nix::errno::Errno;
use proptest::prelude::*;
use tcpecho_common::queues;
use tcpechod::conn::{EchoConn, Shared, Stream, Turn, WINDOW, Wants};
use tcpechod::end::End;
use tcpechod::pipe::Pipe;

/// What a peer does, one thing after the other.
#[derive(Clone, Debug)]
enum Act {
    Send(usize),
    /// A mark at which reads stop; the urgent byte is not part of the stream.
    Urgent,
    /// It reads, or its kernel makes room for what it has not read.
    Take(usize),
    HalfClose,
    Reset,
    /// Both at once, seen as one event.
    SendAndReset(usize),
    /// The server is told to stop.
    Stop,
}

/// One length in so many is large.
fn acts(rarity: u32) -> impl Strategy<Value = Vec<Act>> {
    let length = prop_oneof![rarity => 1..2000_usize, 1 => 1..3 * WINDOW];
    let act = prop_oneof![
        6 => length.clone().prop_map(Act::Send),
        1 => Just(Act::Urgent),
        6 => length.prop_map(Act::Take),
        1 => Just(Act::HalfClose),
        1 => Just(Act::Reset),
        1 => (1..2000_usize).prop_map(Act::SendAndReset),
        1 => Just(Act::Stop),
    ];
    prop::collection::vec(act, 0..20)
}

/// What splice does, whatever there is to be done.
#[derive(Clone, Copy, Debug)]
enum Splice {
    /// As much as can be.
    All,
    /// So much at most.
    Part(usize),
    /// Nothing, and says so: 0.
    Nothing,
    Fails(Errno),
}

/// What it does, one call after the other, and again from the start; nothing: it cannot be done.
fn splices() -> impl Strategy<Value = Vec<Splice>> {
    let errno = prop_oneof![
        4 => Just(Errno::EAGAIN),
        2 => Just(Errno::EINTR),
        1 => Just(Errno::EINVAL),
    ];
    let splice = prop_oneof![
        6 => Just(Splice::All),
        3 => (1..WINDOW).prop_map(Splice::Part),
        1 => Just(Splice::Nothing),
        2 => errno.prop_map(Splice::Fails),
    ];
    prop::collection::vec(splice, 0..12)
}

/// How the loop is told that something can be done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trigger {
    /// As long as it can be done, if it is wanted: select, poll.
    Level,
    /// Once when something has changed: epoll as mio uses it.
    Edge,
}

/// The socket: what has arrived for the server, and how much the peer's side has room for.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools)]
struct Socket {
    sent: usize,
    /// Where reads stop, counted from the start of the stream.
    marks: Vec<usize>,
    read: usize,
    room: usize,
    echoed: usize,
    half_closed: bool,
    reset: bool,
    fin_sent: bool,
    /// A write has found no room: the kernel tells when there is some again.
    told_when_there_is_room: bool,
    reads_since_event: usize,
    splices: Vec<Splice>,
    spliced: usize,
    /// A call has told of the reset; the next ones say that this is the end.
    told_of_reset: bool,
}

/// These bytes of the stream.
fn stream(from: usize, length: usize) -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..=250).cycle().take(251 + WINDOW).collect());
    &PATTERN[from % 251..][..length]
}

impl Socket {
    fn is_readable(&self) -> bool {
        self.reset || self.read < self.sent || self.half_closed
    }

    /// How many bytes there are to be read, up to the mark.
    fn readable(&self) -> usize {
        let all_taken = self.echoed == self.read;
        assert!(
            all_taken || self.fin_sent,
            "read although the peer does not take its echoes"
        );
        let beyond = |mark: &&usize| **mark > self.read;
        let end = self
            .marks
            .iter()
            .find(beyond)
            .map_or(self.sent, |m| (*m).min(self.sent));
        end - self.read
    }

    /// How much of this the next splice moves.
    fn splice(&mut self, length: usize) -> nix::Result<usize> {
        self.reads_since_event += 1;
        self.spliced += 1;
        let next = self.splices.iter().cycle().nth(self.spliced - 1);
        match *next.unwrap_or(&Splice::Fails(Errno::ENOSYS)) {
            Splice::All if length == 0 => Err(Errno::EAGAIN),
            Splice::All => Ok(length),
            Splice::Part(most) => Ok(length.min(most)),
            Splice::Nothing => Ok(0),
            Splice::Fails(errno) => Err(errno),
        }
    }

    fn tell_of_reset(&mut self) -> nix::Result<usize> {
        self.told_of_reset = true;
        Err(Errno::ECONNRESET)
    }
}

impl Stream for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        self.reads_since_event += 1;
        let length = buffer.len().min(self.readable());
        // What had arrived before the reset can still be read.
        if length == 0 && self.reset && !self.told_of_reset {
            return self.tell_of_reset();
        }
        if length == 0 && (self.half_closed || self.reset) {
            return Ok(0);
        }
        if length == 0 {
            return Err(Errno::EAGAIN);
        }
        buffer[..length].copy_from_slice(stream(self.read, length));
        self.read += length;
        Ok(length)
    }

    fn write(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        assert!(!self.fin_sent, "written after the FIN");
        if self.reset {
            return self.tell_of_reset();
        }
        let length = bytes.len().min(self.room);
        if length == 0 {
            self.told_when_there_is_room = true;
            return Err(Errno::EAGAIN);
        }
        self.room -= length;
        assert!(
            bytes[..length] == *stream(self.echoed, length),
            "not the bytes that were sent"
        );
        self.echoed += length;
        Ok(length)
    }

    /// Nothing is promised of what it says when there is nothing, but that the socket's error is told
    /// once.
    fn splice_in(&mut self, pipe: &Pipe, most: usize) -> nix::Result<usize> {
        assert_eq!(queues::unread(&pipe.reader), 0, "somebody's bytes");
        let readable = self.readable();
        if readable == 0 && self.reset && !self.told_of_reset {
            return self.tell_of_reset();
        }
        let length = self.splice(readable.min(most))?;
        let bytes = stream(self.read, length);
        assert_eq!(nix::unistd::write(&pipe.writer, bytes), Ok(length));
        self.read += length;
        Ok(length)
    }

    /// It may say that there is no room, but nobody will tell when there is: a write did not ask.
    fn splice_out(&mut self, pipe: &Pipe, most: usize) -> nix::Result<usize> {
        assert!(!self.fin_sent, "spliced after the FIN");
        assert_eq!(
            queues::unread(&pipe.reader),
            most,
            "more is spliced than came"
        );
        if self.reset {
            return self.tell_of_reset();
        }
        let length = self.splice(most.min(self.room))?;
        let mut bytes = vec![0; length];
        assert_eq!(nix::unistd::read(&pipe.reader, &mut bytes), Ok(length));
        assert!(
            bytes == *stream(self.echoed, length),
            "not the bytes that were sent"
        );
        self.room -= length;
        self.echoed += length;
        Ok(length)
    }

    fn shutdown_write(&mut self) {
        self.fin_sent = true;
    }

    fn unread(&self) -> usize {
        self.sent - self.read
    }

    fn unacknowledged(&self) -> usize {
        0
    }
}

/// The loop around one connection.
struct Life {
    trigger: Trigger,
    socket: Socket,
    conn: EchoConn,
    shared: Shared,
    wants: Wants,
    /// What had been sent when the server was told to stop.
    sent_at_stop: Option<usize>,
    end: Option<End>,
}

impl Life {
    fn new(trigger: Trigger, splices: &[Splice]) -> Self {
        Self {
            trigger,
            socket: Socket {
                splices: splices.to_vec(),
                ..Socket::default()
            },
            conn: EchoConn::default(),
            shared: Shared::default(),
            wants: Wants {
                read: true,
                write: false,
            },
            sent_at_stop: None,
            end: None,
        }
    }

    fn act(&mut self, act: &Act) {
        let socket = &mut self.socket;
        let mut event = true;
        match act {
            Act::Send(length) if !socket.half_closed => socket.sent += length,
            Act::Urgent if !socket.half_closed => {
                socket.marks.push(socket.sent);
                self.conn.drain();
            }
            Act::Take(length) => {
                socket.room += length;
                event = std::mem::take(&mut socket.told_when_there_is_room);
            }
            Act::HalfClose => {
                socket.half_closed = true;
                self.conn.drain();
            }
            Act::Reset | Act::SendAndReset(_) => {
                if let Act::SendAndReset(length) = act {
                    socket.sent += if socket.half_closed { 0 } else { *length };
                }
                socket.reset = true;
                self.conn.drain();
            }
            Act::Stop if self.sent_at_stop.is_none() => {
                self.sent_at_stop = Some(socket.sent);
                self.conn.stop(&self.socket);
            }
            Act::Send(_) | Act::Urgent | Act::Stop => event = false,
        }
        match self.trigger {
            Trigger::Edge if event => self.turns(),
            Trigger::Edge => {}
            Trigger::Level => {
                // The stopping loop gives everybody a turn, and so does one that was told of a hang-up.
                if matches!(act, Act::Stop | Act::Reset | Act::SendAndReset(_)) {
                    self.turns();
                }
                while self.end.is_none() && self.is_ready() {
                    self.turns();
                }
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.wants.read && self.socket.is_readable() || self.wants.write && self.socket.room > 0
    }

    /// A turn, and as many more as it asks for.
    fn turns(&mut self) {
        self.socket.reads_since_event = 0;
        while self.end.is_none() {
            let read_before = self.socket.read;
            let turn = self.conn.turn(&mut self.socket, &mut self.shared);
            assert!(
                self.socket.read - read_before <= 2 * WINDOW,
                "more than its share"
            );
            assert!(
                self.conn.pending() <= WINDOW as u64,
                "more than one read is kept"
            );
            assert_eq!(self.shared.held() == 0, self.conn.pending() == 0);
            match turn {
                Turn::Again => continue,
                Turn::Wait(wants) => self.wants = wants,
                Turn::Done(end) => self.end = Some(end),
            }
            break;
        }
        assert!(self.socket.reads_since_event < 1000, "it reads for ever");
    }

    /// The peer takes everything and ends its stream; then the connection must be over.
    fn conclude(mut self) {
        self.act(&Act::Take(usize::MAX / 4));
        if self.end.is_none() {
            assert_eq!(self.socket.echoed, self.socket.sent, "it has stalled");
        }
        self.act(&Act::HalfClose);
        let socket = &self.socket;
        let expected = match self.end.expect("it has stalled") {
            End::Fin => {
                assert!(!socket.told_of_reset, "a reset is told as a FIN");
                socket.sent
            }
            End::Stopped => self.sent_at_stop.expect("told to"),
            end => {
                assert!(socket.reset, "{end} without a reset");
                let lost = self.conn.close(&mut self.shared);
                assert_eq!(socket.echoed as u64 + lost, socket.read as u64);
                assert_eq!(self.shared.held(), 0, "a closed connection holds bytes");
                return;
            }
        };
        assert_eq!(socket.echoed, expected, "echoes are missing, or too many");
        assert_eq!(self.conn.close(&mut self.shared), 0);
        assert_eq!(self.shared.held(), 0);
    }
}

/// What fails is printed, smallest case first; nothing is written into the tree.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_life_on_edges_is_echoed_exactly(acts in acts(20)) {
        live(Trigger::Edge, &acts, &[]);
    }

    #[test]
    fn a_life_on_levels_is_echoed_exactly(acts in acts(20)) {
        live(Trigger::Level, &acts, &[]);
    }

    #[test]
    fn a_large_life_on_edges_is_echoed_exactly(acts in acts(1), splices in splices()) {
        live(Trigger::Edge, &acts, &splices);
    }

    #[test]
    fn a_large_life_on_levels_is_echoed_exactly(acts in acts(1), splices in splices()) {
        live(Trigger::Level, &acts, &splices);
    }
}

fn live(trigger: Trigger, acts: &[Act], splices: &[Splice]) {
    let mut life = Life::new(trigger, splices);
    for act in acts {
        life.act(act);
    }
    life.conclude();
}
