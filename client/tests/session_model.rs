//! The session against a model of everything around it: a stdin, a kernel with little room, and a peer
//! that fragments, stalls, closes and resets at random.
//!
//! The client here is the multiplexed loop without its sockets: the real session, the real buffers,
//! the real split write. The model knows what really happened, and the verdict must say just that.
//! No clock, no sockets: ten thousand talks take seconds, and a failing one is shown as short as it
//! can be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use proptest::prelude::*;
use proptest::test_runner::Config;
use tcpecho::buffer::Buffer;
use tcpecho::session::{Cause, Farewell, Leave, Outcome, Session};
use tcpecho::split::SplitWrite;
use tcpecho_common::Exit;

const TALKS: u32 = 10_000;
const PAUSE: Duration = Duration::from_millis(10);
/// Of each buffer: little, so that it is often full.
const ROOM: usize = 16;
const PATIENCE: Duration = Duration::from_secs(2);

/// What happens next, outside or inside.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The user types so many bytes, ends them with a newline, or ends stdin.
    Type(u8),
    Newline,
    EndOfInput,
    /// The kernel has room for so many more bytes on the way to the peer.
    Room(u8),
    /// The peer reads so many bytes, and owes them.
    Read(u8),
    /// The peer answers so many of the bytes it owes.
    Answer(u8),
    /// The peer closes its direction, or both; or resets.
    HalfClose,
    Close,
    Reset,
    /// The client does what it can, reading and writing so many bytes at a time.
    Turn(u8),
    /// It looks at an event: the end, an error.
    Event,
    /// Time passes.
    Tick,
    /// A time limit is over.
    Quit,
    Idle,
}

/// Up to eighty steps. A step is made of one number, which is quicker than a strategy for each: which
/// it is, by weight, and of how many bytes it speaks.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<u16>().prop_map(step), 0..80)
}

fn step(number: u16) -> Step {
    let bytes = (number >> 8) as u8 % 8 + 1;
    match number % 55 {
        0..12 => Step::Turn(bytes),
        12..18 => Step::Type(bytes),
        18..24 => Step::Room(bytes),
        24..32 => Step::Read(bytes),
        32..40 => Step::Answer(bytes),
        40..44 => Step::Event,
        44..47 => Step::Tick,
        47..49 => Step::Newline,
        49 => Step::EndOfInput,
        50 => Step::HalfClose,
        51 => Step::Close,
        52 => Step::Reset,
        53 => Step::Quit,
        _ => Step::Idle,
    }
}

fn farewell() -> impl Strategy<Value = Farewell> {
    prop_oneof![
        3 => Just(Farewell::HalfClose),
        1 => Just(Farewell::Stay),
        1 => Just(Farewell::CloseAnswered),
        1 => Just(Farewell::CloseSent),
    ]
}

/// Everything that is not the client.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "five facts, each on its own")]
struct World {
    /// What was typed, and how much of it the client has not read yet.
    typed: Vec<u8>,
    unread_input: VecDeque<u8>,
    input_ended: bool,
    /// Room in our kernel, and what is in it or further.
    room: usize,
    sent: Vec<u8>,
    /// How much of it the peer has read, and answered.
    read: usize,
    answered: usize,
    /// Bytes that have come and are not read.
    incoming: VecDeque<u8>,
    our_fin: bool,
    fin: bool,
    /// Has the peer closed both directions? Then whatever comes is answered with an RST.
    closed: bool,
    reset: bool,
    /// The error that waits on the socket.
    error: Option<Errno>,
    /// What came first.
    first_sign: Option<Cause>,
}

impl World {
    fn happens(&mut self, step: Step) {
        match step {
            Step::Type(n) if !self.input_ended => self.typed(&b"abcdefgh"[..usize::from(n)]),
            Step::Newline if !self.input_ended => self.typed(b"\n"),
            Step::EndOfInput => self.input_ended = true,
            Step::Room(n) => self.room += usize::from(n),
            Step::Read(n) if !self.closed => {
                self.read = self.sent.len().min(self.read + usize::from(n));
            }
            Step::Answer(n) if !self.fin && !self.reset => {
                let end = self.read.min(self.answered + usize::from(n));
                self.incoming.extend(&self.sent[self.answered..end]);
                self.answered = end;
            }
            Step::HalfClose => self.receive_fin(),
            Step::Close if !self.closed && !self.reset => {
                self.closed = true;
                // close(2) with unread bytes is a reset.
                if self.read < self.sent.len() {
                    self.receive_reset();
                } else {
                    self.receive_fin();
                }
            }
            Step::Reset => self.receive_reset(),
            _ => {}
        }
    }

    fn typed(&mut self, bytes: &[u8]) {
        self.typed.extend(bytes);
        self.unread_input.extend(bytes);
    }

    fn receive_fin(&mut self) {
        if !self.fin && !self.reset {
            self.fin = true;
            self.first_sign.get_or_insert(Cause::Fin);
        }
    }

    fn receive_reset(&mut self) {
        if !self.reset {
            (self.reset, self.closed) = (true, true);
            // As Linux has it: after a FIN the error is EPIPE.
            let error = if self.fin {
                Errno::EPIPE
            } else {
                Errno::ECONNRESET
            };
            self.error = Some(error);
            let cause = Cause::Failed(Errno::ECONNRESET);
            self.first_sign.get_or_insert(cause);
        }
    }

    /// read(2) on the socket.
    fn read(&mut self, room: &mut [u8]) -> nix::Result<usize> {
        let n = room.len().min(self.incoming.len());
        for (place, byte) in room.iter_mut().zip(self.incoming.drain(..n)) {
            *place = byte;
        }
        match self.error {
            _ if n > 0 => Ok(n),
            Some(_) if !self.fin => Err(self.error.take().unwrap_or(Errno::ECONNRESET)),
            _ if self.fin || self.reset => Ok(0),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// write(2) on the socket.
    fn write(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        assert!(!self.our_fin, "bytes behind our FIN");
        if let Some(errno) = self.error.take() {
            return Err(errno);
        }
        if self.reset {
            return Err(Errno::EPIPE);
        }
        if self.room == 0 {
            return Err(Errno::EAGAIN);
        }
        let n = bytes.len().min(self.room);
        self.room -= n;
        self.sent.extend(&bytes[..n]);
        if self.closed {
            self.receive_reset();
        }
        Ok(n)
    }

    /// read(2) on stdin.
    fn read_input(&mut self, room: &mut [u8], most: usize) -> nix::Result<usize> {
        let n = room.len().min(most).min(self.unread_input.len());
        for (place, byte) in room.iter_mut().zip(self.unread_input.drain(..n)) {
            *place = byte;
        }
        match n {
            0 if self.input_ended => Ok(0),
            0 => Err(Errno::EAGAIN),
            n => Ok(n),
        }
    }
}

/// The multiplexed loop.
struct Client {
    session: Session,
    up: Buffer,
    down: Buffer,
    split: Option<SplitWrite>,
    now: Instant,
    taken: Vec<u8>,
    stdout: Vec<u8>,
    told: Option<Outcome>,
    gave_up: bool,
}

impl Client {
    fn new(farewell: Farewell, splits: bool) -> Self {
        Self {
            session: Session::with(farewell),
            up: Buffer::with_capacity(ROOM),
            down: Buffer::with_capacity(ROOM),
            split: splits.then(|| SplitWrite::new(PAUSE)),
            now: Instant::now(),
            taken: Vec::new(),
            stdout: Vec::new(),
            told: None,
            gave_up: false,
        }
    }

    fn is_over(&self) -> bool {
        (self.session.is_silent() && self.down.is_empty() && self.told.is_some()) || self.gave_up
    }

    fn leave(&mut self, world: &World, why: Leave) {
        self.session.leave(why);
        self.gave_up = true;
        self.foresee(world);
    }

    fn look_at_event(&mut self, world: &mut World) {
        if let Some(errno) = world.error.take() {
            self.session.failed(errno);
        }
        if world.fin || world.reset {
            self.session.server_ending();
        }
    }

    fn turn(&mut self, world: &mut World, most: usize) {
        if !self.session.is_silent() && self.down.has_room() {
            let read = |room: &mut [u8]| {
                let most = most.min(room.len());
                world.read(&mut room[..most])
            };
            match self.down.fill(read) {
                Ok(0) => self.session.server_silent(),
                Ok(n) => self.session.received(n),
                Err(Errno::EAGAIN) if self.session.is_ending() => self.session.server_silent(),
                Err(Errno::EAGAIN) => {}
                Err(errno) => {
                    self.session.failed(errno);
                    self.session.server_silent();
                }
            }
        }
        let mut once = Some(most);
        let stdout = &mut self.stdout;
        let _ = self.down.drain(|bytes| {
            let n = bytes.len().min(once.take().ok_or(Errno::EAGAIN)?);
            stdout.extend(&bytes[..n]);
            Ok(n)
        });
        self.foresee(world);
        if self.session.wants_input() && self.up.has_room() {
            let taken = &mut self.taken;
            let read = |room: &mut [u8]| {
                let n = world.read_input(room, most)?;
                taken.extend(&room[..n]);
                Ok(n)
            };
            match self.up.fill(read) {
                Ok(0) => self.session.input_ended(),
                Ok(n) => self.session.took(n),
                Err(errno) => assert_eq!(errno, Errno::EAGAIN),
            }
        }
        if self.session.may_send() {
            let (split, now) = (&mut self.split, self.now);
            let (sent, result) = self.up.drain(|bytes| {
                let allowed = split.map_or(bytes, |split| split.allowed(bytes, now));
                if allowed.is_empty() {
                    return Err(Errno::EAGAIN);
                }
                let n = world.write(&allowed[..allowed.len().min(most)])?;
                if let Some(split) = split {
                    split.sent(&allowed[..n], now);
                }
                Ok(n)
            });
            self.session.sent(sent);
            match result {
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(errno) => self.session.failed(errno),
            }
        }
        if self.session.should_half_close() {
            world.our_fin = true;
            self.session.half_closed();
        }
        if self.session.should_close() {
            self.session.leave(Leave::Closed);
            self.foresee(world);
        }
    }

    /// The verdict is given once, and does not change.
    fn foresee(&mut self, world: &World) {
        let unread = if self.session.is_silent() {
            0
        } else {
            world.incoming.len() as u64
        };
        let outcome = self.session.outcome(unread);
        assert_eq!(outcome.is_some(), self.session.is_ending());
        if self.told.is_none() {
            self.told = outcome;
        }
    }
}

/// A talk with these steps, and then whatever it takes to end it. Returns its end.
fn hold(farewell: Farewell, splits: bool, steps: &[Step]) -> (World, Client, Option<Leave>) {
    let (mut world, mut client) = (World::default(), Client::new(farewell, splits));
    let mut left = None;
    let mut peer_is_fair = steps.iter().copied().chain(
        // The user ends; a peer that is still there reads everything, answers, and closes when it
        // has seen our FIN, or has nothing more to wait for.
        std::iter::once(Step::EndOfInput).chain(
            [
                Step::Room(200),
                Step::Read(200),
                Step::Answer(200),
                Step::Tick,
                Step::Event,
                Step::Turn(200),
            ]
            .into_iter()
            .cycle()
            .take(6 * 500),
        ),
    );
    while !client.is_over() {
        let step = peer_is_fair.next().unwrap_or_else(|| {
            panic!("it hangs: {:?}, {world:?}", client.session);
        });
        world.happens(step);
        match step {
            Step::Turn(most) => client.turn(&mut world, most.into()),
            Step::Event => client.look_at_event(&mut world),
            Step::Tick => client.now += PAUSE,
            Step::Quit if client.session.input_has_ended() => {
                left = Some(Leave::Quit(PATIENCE));
                client.leave(&world, Leave::Quit(PATIENCE));
            }
            Step::Idle => {
                left = Some(Leave::Idle(PATIENCE));
                client.leave(&world, Leave::Idle(PATIENCE));
            }
            _ => {}
        }
        let is_fed = world.answered == world.typed.len() && client.taken == world.typed;
        let stays = farewell == Farewell::Stay && client.session.input_has_ended();
        let is_done = world.our_fin || stays;
        if is_fed && is_done && world.sent.len() == world.answered {
            world.receive_fin();
        }
    }
    (world, client, left)
}

/// What the model knows must be what the verdict says.
fn judge(farewell: Farewell, world: &World, client: &Client, left: Option<Leave>) {
    let told = client.told.expect("it is over");
    let (taken, sent) = (client.taken.len() as u64, world.sent.len() as u64);
    // Exact, in order, nothing twice.
    assert!(world.typed.starts_with(&client.taken));
    assert!(client.taken.starts_with(&world.sent));
    assert!(world.sent.starts_with(&client.stdout));
    // What had come when it was told: all of it is delivered, unless we gave up.
    let received = world.answered as u64;
    let unsent = taken - sent;
    let all_is_said = |missing: u64, told_unsent: u64| {
        assert_eq!(told_unsent, unsent);
        if left.is_none() {
            assert_eq!(client.stdout.len() as u64, received);
            assert_eq!(missing, taken - received.min(sent));
        } else {
            assert!(missing >= taken - received.min(sent));
            assert!(missing <= taken - client.stdout.len() as u64);
        }
    };
    match told {
        Outcome::Answered {
            sent: told_sent,
            received: told_received,
        } => {
            assert_eq!(told.exit(), Exit::Done);
            assert!(world.input_ended && client.taken == world.typed);
            assert_eq!((told_sent, told_received), (taken, taken));
            if left.is_none() {
                assert!(client.stdout == world.typed);
            }
            match farewell {
                Farewell::HalfClose => assert!(world.our_fin),
                Farewell::Stay | Farewell::CloseAnswered | Farewell::CloseSent => {
                    assert!(!world.our_fin);
                }
            }
        }
        Outcome::Closed { .. } => {
            assert_eq!(farewell, Farewell::CloseSent);
            assert_eq!((unsent, told.exit()), (0, Exit::Done));
            assert!(world.input_ended && client.taken == world.typed);
        }
        Outcome::CutShort {
            cause,
            unanswered,
            unsent,
        } => {
            assert_eq!(Some(cause), world.first_sign);
            let reset = cause != Cause::Fin;
            let code = if reset { Exit::Reset } else { Exit::Premature };
            assert_eq!(told.exit(), code);
            all_is_said(unanswered, unsent);
            // A FIN that was due is no reason to complain.
            let was_due = match farewell {
                Farewell::HalfClose => world.our_fin,
                Farewell::Stay => world.input_ended && client.session.input_has_ended(),
                Farewell::CloseAnswered | Farewell::CloseSent => false,
            };
            assert!(reset || unanswered > 0 || !was_due);
        }
        Outcome::GivenUp {
            why,
            unanswered,
            unsent,
        } => {
            assert_eq!((Some(why), told.exit()), (left, Exit::Unreachable));
            all_is_said(unanswered, unsent);
        }
    }
}

proptest! {
    #![proptest_config(Config {
        cases: TALKS,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn the_verdict_says_what_happened(
        farewell in farewell(),
        splits in any::<bool>(),
        steps in steps(),
    ) {
        let (world, client, left) = hold(farewell, splits, &steps);
        judge(farewell, &world, &client, left);
    }

    /// With a peer that only fragments and stalls, everything comes back.
    #[test]
    fn a_fair_peer_gives_every_byte_back(
        farewell in farewell(),
        splits in any::<bool>(),
        steps in steps(),
    ) {
        let is_fair = |step: &Step| !matches!(
            step,
            Step::HalfClose | Step::Close | Step::Reset | Step::Quit | Step::Idle
        );
        let steps: Vec<_> = steps.into_iter().filter(is_fair).collect();
        let (world, client, left) = hold(farewell, splits, &steps);
        judge(farewell, &world, &client, left);
        let told = client.told.expect("it is over");
        prop_assert_eq!(told.exit(), Exit::Done);
        if farewell != Farewell::CloseSent {
            prop_assert!(client.stdout == world.typed);
        }
    }
}
