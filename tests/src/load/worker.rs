//! A worker: a thread with a poll and its share of the connections.
//!
//! Every connection is registered once, edge-triggered. An echo costs one recv and one send; what is
//! ready at the same time shares an epoll_wait. Nothing is allocated or formatted per message, and
//! all read into the same buffer. The clock is read once per message, when it has come back and before
//! the next one is sent; to read it once for all that are ready together would make the last of them
//! seem faster than it was.
//!
//! Where short messages follow each other one by one on many connections, these go through a ring
//! instead (`by_ring.rs`), if the system lets them: a generator must not be the slower half of what it
//! measures.

use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use nix::sched::{CloneFlags, unshare};

use crate::load::clock::{self, nanoseconds};
use crate::load::connection::Connection;
use crate::load::failure::Ledger;
use crate::load::meter::{Meter, Parts, Slice, Times};
use crate::load::pace::{Schedule, Timer};
use crate::load::pattern::{PIECE, Pattern};
use crate::load::plan::{Kind, Plan, Reads, SLOW_PAUSE, SLOW_PIECE, Sends};
use crate::load::processor::Usage;
use crate::load::report::{Engine, Load, Mode};
use crate::load::ring::{Completion, Ring};
use crate::load::source::Sources;

mod by_ring;
mod turn;

const WAKE: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);

/// Connections that are being established at the same time, before the load begins: no more than any
/// backlog takes.
const OPENING: usize = 64;

/// How often one connection reads or writes before it is the next one's turn.
const TURN: usize = 2;

/// How often overdue connections are looked for.
const CHECK: u64 = 50_000_000;

/// What all threads of a run see.
#[derive(Debug)]
pub struct Shared {
    /// What is to be done.
    pub plan: Plan,
    /// Where to connect to.
    pub address: SocketAddr,
    /// Where from.
    pub sources: Sources,
    /// What is sent.
    pub pattern: Pattern,
    /// Nanoseconds to be taken off each time on the wire: see [`stamps`](crate::load::stamps).
    pub apart: u64,
    /// When the load begins; 0 as long as that is not known.
    pub start: AtomicU64,
    /// Connections may be ended when all is over.
    pub leave: AtomicBool,
    /// Everything is to end at once.
    pub stop: AtomicBool,
}

/// What a worker tells while it runs.
#[derive(Debug)]
pub enum Note {
    /// All its connections are established.
    Connected,
    /// One of its slices is over.
    Slice(u64, Box<Slice>),
    /// It is done.
    Done(Result<Box<Outcome>>),
}

/// What a worker has to say in the end.
#[derive(Debug)]
pub struct Outcome {
    /// Echoes by part of the run.
    pub parts: Parts,
    /// Echoes of each measured connection.
    pub echoes: Vec<u64>,
    /// The company: kind, bytes sent and read while measuring.
    pub company: Vec<(Kind, u64, u64)>,
    /// What went wrong.
    pub failures: Ledger,
    /// Open loop: messages that were due and not even sent until the end.
    pub unsent: u64,
    /// What its measured connections went through.
    pub engine: Engine,
    /// Processor time while measuring.
    pub usage: Usage,
    /// When the load ended; 0 if it has not begun.
    pub ended: u64,
}

/// Where a worker tells it.
#[derive(Clone, Debug)]
pub struct Teller {
    /// To the one who runs it,
    pub sender: Sender<Note>,
    /// who is to be woken.
    pub waker: Arc<Waker>,
}

impl Teller {
    fn tell(&self, note: Note) {
        // If nobody listens any more, nobody needs to be told.
        let _ = self.sender.send(note);
        let _ = self.waker.wake();
    }
}

/// A place for a connection, or for one after the other.
#[derive(Debug)]
struct Slot {
    number: u64,
    kind: Kind,
    sends: Sends,
    connection: Option<Connection>,
    /// It is on the list of those that have more to do.
    waits: bool,
    /// Open loop: messages that have become due, and those of them that its connection knows of.
    due: u64,
    released: u64,
    /// While measuring.
    echoes: u64,
    sent: u64,
    read: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Connections are being established.
    Opening,
    /// They are there; the others' are not.
    Ready,
    /// Warm-up and measurement.
    Loaded,
    /// Nothing new is sent; what is owed comes back, and then the FINs.
    Draining,
    Over,
}

/// See the module's head.
pub struct Worker<'a> {
    shared: &'a Shared,
    teller: Teller,
    poll: Poll,
    /// What the measured connections go through while there is load, if not through the poller; and
    /// what was taken from it.
    ring: Option<Ring<'a>>,
    completions: Vec<Completion>,
    slots: Vec<Slot>,
    /// Slots whose connections are to be opened before the load begins, and how many are being opened.
    unopened: Range<usize>,
    opening: usize,
    /// Slots that have more to do than one turn.
    again: Vec<usize>,
    buffer: Box<[u8]>,
    phase: Phase,
    meter: Option<Meter>,
    schedule: Option<Schedule>,
    /// Goes off when it is time for something. A timeout of each wait would be set and cleared for each
    /// echo, where there is but one connection.
    timer: Timer,
    /// The time when it was last read.
    now: u64,
    next_part: u64,
    next_check: u64,
    next_slow: u64,
    /// Connections may be ended.
    may_leave: bool,
    failures: Ledger,
    unsent: u64,
    /// Processor time when the measurement began, and what was used while it lasted.
    usage_before: Option<Usage>,
    usage: Usage,
    /// When the load ended, as far as it counts.
    ended: u64,
    /// The number of the next connection, where each message has one of its own.
    next_number: u64,
}

impl<'a> Worker<'a> {
    /// The worker with this number, and how to wake it.
    pub fn new(shared: &'a Shared, number: u64, teller: Teller) -> Result<(Self, Waker)> {
        let poll = Poll::new().context("epoll_create")?;
        let waker = Waker::new(poll.registry(), WAKE).context("eventfd")?;
        let plan = &shared.plan;
        let share = plan.share(number).into_iter();
        let slots: Vec<_> = share.map(|(n, kind)| Slot::new(plan, n, kind)).collect();
        let is_measured = |slot: &&Slot| slot.kind == Kind::Measured;
        let measured = slots.iter().filter(is_measured).count();
        let timer = Timer::new(poll.registry(), TIMER)?;
        let first = if plan.connects_per_request() {
            measured
        } else {
            0
        };
        let worker = Self {
            shared,
            teller,
            timer,
            poll,
            ring: None,
            completions: Vec::new(),
            unopened: first..slots.len(),
            slots,
            opening: 0,
            again: Vec::new(),
            buffer: vec![0; PIECE].into(),
            phase: Phase::Opening,
            meter: None,
            schedule: None,
            now: clock::now(),
            next_part: u64::MAX,
            next_check: 0,
            next_slow: u64::MAX,
            may_leave: false,
            failures: Ledger::default(),
            unsent: 0,
            usage_before: None,
            usage: Usage::default(),
            ended: 0,
            next_number: plan.all_connections() + number,
        };
        Ok((worker, waker))
    }

    /// Does all of it, and tells how it went.
    pub fn run(mut self) {
        let done = self.all();
        let parts = self.meter.take().map_or_else(Parts::default, |meter| {
            let (slices, parts) = meter.finish();
            self.tell_slices(slices);
            parts
        });
        let teller = self.teller.clone();
        teller.tell(Note::Done(done.map(|()| Box::new(self.outcome(parts)))));
    }

    fn all(&mut self) -> Result<()> {
        // With a table of descriptors that no other thread shares, the kernel counts no references
        // to them, which were 1 % of an echo. Where that is refused it works as well.
        let _ = unshare(CloneFlags::CLONE_FILES);
        let mut events = Events::with_capacity(1024);
        self.open_more();
        // Sets the timer, without which a connection that nobody answers would be waited for for ever.
        self.on_time()?;
        while self.phase != Phase::Over {
            self.wait(&mut events)?;
            for event in &events {
                self.event(event)?;
            }
            self.next_turns();
            self.on_time()?;
        }
        Ok(())
    }

    /// Waits until something has happened; the timer is something, too.
    fn wait(&mut self, events: &mut Events) -> Result<()> {
        let mut patience = if self.again.is_empty() {
            None
        } else {
            Some(Duration::ZERO)
        };
        if self.ring.is_some() {
            if !self.ring_round(patience)? {
                events.clear();
                return Ok(());
            }
            patience = Some(Duration::ZERO);
        }
        match self.poll.poll(events, patience) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(error).context("epoll_wait");
            }
            _ => self.now = clock::now(),
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        match event.token() {
            WAKE => self.woken()?,
            TIMER => {}
            Token(index) => {
                if let Some(connection) = &mut self.slots[index].connection {
                    connection.note(event);
                    self.turn(index);
                }
            }
        }
        self.send_due();
        Ok(())
    }

    fn woken(&mut self) -> Result<()> {
        if self.shared.stop.load(Ordering::Acquire) {
            self.end_load(self.now);
            self.phase = Phase::Over;
            return Ok(());
        }
        let start = self.shared.start.load(Ordering::Acquire);
        if self.phase == Phase::Ready && start > 0 {
            self.begin_load(start)?;
        }
        self.may_leave = self.shared.leave.load(Ordering::Acquire);
        match self.phase {
            Phase::Draining => self.everybody(),
            _ if self.ended > 0 => self.drain(),
            _ => {}
        }
        Ok(())
    }

    /// Those whose turn was over before they had done everything.
    fn next_turns(&mut self) {
        for index in mem::take(&mut self.again) {
            self.slots[index].waits = false;
            self.turn(index);
        }
    }

    /// What is to be done at certain times.
    fn on_time(&mut self) -> Result<()> {
        self.send_due();
        if self.now >= self.next_part {
            self.part();
        }
        if self.now >= self.next_check {
            self.check();
        }
        if self.now >= self.next_slow {
            self.read_slowly();
        }
        let nobody = self.slots.iter().all(|slot| slot.connection.is_none());
        if nobody && matches!(self.phase, Phase::Loaded | Phase::Draining) {
            self.end_load(self.now);
            self.phase = Phase::Over;
        }
        let due = self.schedule.as_ref().map_or(u64::MAX, Schedule::due);
        let times = [due, self.next_part, self.next_check, self.next_slow];
        self.timer.set(times.into_iter().fold(u64::MAX, u64::min))
    }

    fn begin_load(&mut self, start: u64) -> Result<()> {
        self.board()?;
        let plan = &self.shared.plan;
        let times = Times::of(plan, start);
        self.phase = Phase::Loaded;
        self.meter = Some(Meter::new(plan.load.mode, plan.wire, times));
        self.next_part = start;
        self.schedule = self.schedule_from(start);
        self.next_slow = if self.slots.iter().any(|slot| slot.kind == Kind::Slow) {
            start
        } else {
            u64::MAX
        };
        for index in 0..self.slots.len() {
            self.begin_slot(index);
        }
        Ok(())
    }

    fn schedule_from(&self, start: u64) -> Option<Schedule> {
        let Load {
            mode, connections, ..
        } = self.shared.plan.load;
        let Mode::Open { rate } = mode else {
            return None;
        };
        let measured = self.slots.iter().filter(|slot| slot.kind == Kind::Measured);
        let numbers = measured.map(|slot| slot.number).collect();
        Some(Schedule::new(numbers, connections, rate, start))
    }

    /// A part of the run is over, or a slice of it.
    fn part(&mut self) {
        let Some(meter) = &mut self.meter else { return };
        meter.at(self.now);
        self.next_part = meter.until();
        let over = meter.over();
        let is_measuring = meter.is_measuring();
        let is_over = self.now >= meter.times().end;
        self.tell_slices(over);
        if is_measuring && self.usage_before.is_none() {
            self.usage_before = Some(Usage::of_this_thread());
        }
        if is_over {
            self.end_measuring(self.now);
            self.drain();
        }
    }

    fn end_measuring(&mut self, now: u64) {
        if self.ended > 0 {
            return;
        }
        self.ended = now;
        if let Some(before) = self.usage_before {
            self.usage = Usage::of_this_thread().since(before);
        }
    }

    /// Lets everybody have what is owed, and no more. Where each message has a connection, the load goes
    /// on as long as connections are held: else the server would work off its queue under the eyes of
    /// whoever looks, as if that were for what was measured.
    fn drain(&mut self) {
        let goes_on = self.shared.plan.connects_per_request() && !self.may_leave;
        if self.phase == Phase::Loaded && !goes_on {
            self.end_load(self.now);
            self.phase = Phase::Draining;
            self.everybody();
        }
    }

    /// Nothing new is to be sent from now on.
    fn end_load(&mut self, now: u64) {
        self.end_measuring(now);
        self.count_due(now);
        let schedule = self.schedule.take();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let (Some(connection), Some(meter)) = (&mut slot.connection, &mut self.meter) else {
                continue;
            };
            let released = connection.stop().map(|start| start.due);
            let due = schedule.iter().flat_map(|schedule| {
                (slot.released..slot.due).map(move |round| schedule.due_of(index, round))
            });
            for due in released.chain(due) {
                self.unsent += 1;
                meter.unsent(due);
            }
        }
    }

    /// Everybody's turn.
    fn everybody(&mut self) {
        for index in 0..self.slots.len() {
            if self.slots[index].kind == Kind::NeverRead && self.may_leave {
                self.slots[index].connection = None;
            }
            self.turn(index);
        }
    }

    /// Who has waited too long has failed.
    fn check(&mut self) {
        self.next_check = self.now + CHECK;
        let limit = self
            .now
            .saturating_sub(nanoseconds(self.shared.plan.timeout));
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.kind.reads() == Reads::Nothing && !slot.is_connecting() {
                continue;
            }
            let overdue = slot.connection.as_ref().and_then(|c| c.overdue(limit));
            if let Some(failure) = overdue {
                self.fail(index, failure);
            }
        }
    }

    fn read_slowly(&mut self) {
        self.next_slow = self.now + nanoseconds(SLOW_PAUSE);
        for index in 0..self.slots.len() {
            if self.slots[index].kind == Kind::Slow {
                if let Err(failure) = self.read(index, SLOW_PIECE) {
                    self.fail(index, failure);
                }
            }
        }
    }

    fn tell_slices(&self, slices: Vec<(u64, Slice)>) {
        for (number, slice) in slices {
            self.teller.tell(Note::Slice(number, slice.into()));
        }
    }

    fn outcome(self, parts: Parts) -> Outcome {
        let mut company: Vec<(Kind, u64, u64)> = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.kind != Kind::Measured) {
            company.push((slot.kind, slot.sent, slot.read));
        }
        let measured = self.slots.iter().filter(|slot| slot.kind == Kind::Measured);
        let echoes = measured.map(|slot| slot.echoes).collect();
        Outcome {
            parts,
            echoes,
            company,
            failures: self.failures,
            unsent: self.unsent,
            engine: match self.ring {
                Some(_) => Engine::IoUring,
                None => Engine::Epoll,
            },
            usage: self.usage,
            ended: self.ended,
        }
    }
}
