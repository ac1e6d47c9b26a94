//! What a worker does with one connection: open it, read, send, end it.

use std::io;
use std::mem;

use mio::{Interest, Token};

use super::{OPENING, Phase, Slot, TURN, Worker};
use crate::load::clock;
use crate::load::connection::{Connection, Received};
use crate::load::failure::Failure;
use crate::load::meter::Meter;
use crate::load::pattern::PIECE;
use crate::load::plan::{Kind, Plan, Reads, Sends};

impl Slot {
    /// Without a connection yet.
    pub(super) fn new(plan: &Plan, number: u64, kind: Kind) -> Self {
        Self {
            number,
            kind,
            sends: plan.sends(kind),
            connection: None,
            waits: false,
            due: 0,
            released: 0,
            echoes: 0,
            sent: 0,
            read: 0,
        }
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(Connection::is_connecting)
    }
}

impl Worker<'_> {
    /// Opens connections, as many as may be being opened at the same time.
    pub(super) fn open_more(&mut self) {
        while self.opening < OPENING {
            let Some(index) = self.unopened.next() else {
                break;
            };
            self.opening += 1;
            let number = self.slots[index].number;
            self.open(index, number);
        }
        if self.phase == Phase::Opening && self.opening == 0 {
            self.phase = Phase::Ready;
            self.teller.tell(super::Note::Connected);
        }
    }

    fn open(&mut self, index: usize, number: u64) {
        if let Err(failure) = self.try_open(index, number) {
            self.fail(index, failure);
        }
    }

    fn try_open(&mut self, index: usize, number: u64) -> Result<(), Failure> {
        let began = clock::now();
        let shared = self.shared;
        let mut stream = shared.sources.connect(number)?;
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let registry = self.poll.registry();
        let registered = registry.register(&mut stream, Token(index), interest);
        registered.map_err(|error| Failure::system(&error).of("epoll_ctl"))?;
        let slot = &mut self.slots[index];
        let message = shared.plan.message(slot.kind);
        slot.connection = Some(Connection::new(stream, number, message, began));
        Ok(())
    }

    /// What a connection does when the load begins.
    pub(super) fn begin_slot(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        match (slot.sends, &mut slot.connection) {
            (Sends::Once, _) => self.open_next(index),
            (Sends::Answers(depth), Some(connection)) => {
                self.now = clock::now();
                (0..depth).for_each(|_| connection.release(self.now));
                self.turn(index);
            }
            (Sends::Always, Some(_)) => self.turn(index),
            _ => {}
        }
    }

    /// The next connection of a slot that has one after the other.
    fn open_next(&mut self, index: usize) {
        let number = self.next_number;
        self.next_number += self.shared.plan.load.threads;
        self.open(index, number);
    }

    /// Messages that are due.
    pub(super) fn send_due(&mut self) {
        if self.schedule.is_some() {
            self.count_due(self.now);
            self.next_turns();
        }
    }

    /// Those that are due at this moment and before the end. They are only counted here: a server that
    /// is slower than the schedule must not cost memory, nor the time in which the schedule could be
    /// kept.
    pub(super) fn count_due(&mut self, now: u64) {
        let (Some(schedule), Some(meter)) = (&mut self.schedule, &self.meter) else {
            return;
        };
        let last = now.min(meter.times().end - 1);
        while let Some((index, _)) = schedule.next(last) {
            let slot = &mut self.slots[index];
            if slot.connection.is_none() {
                continue;
            }
            slot.due += 1;
            if !mem::replace(&mut slot.waits, true) {
                self.again.push(index);
            }
        }
    }

    /// A connection's turn: whatever it can do.
    pub(super) fn turn(&mut self, index: usize) {
        if let Err(failure) = self.serve(index) {
            self.fail(index, failure);
        }
    }

    pub(super) fn fail(&mut self, index: usize, failure: Failure) {
        let slot = &mut self.slots[index];
        let number = slot
            .connection
            .as_ref()
            .map_or(slot.number, Connection::number);
        let who = match slot.kind {
            Kind::Measured => format!("connection {number}"),
            kind => format!("{} connection {number}", kind.name()),
        };
        if let (Some(connection), Some(_)) = (slot.connection.take(), &self.ring) {
            // To close it would not do: the ring has it as well.
            connection.abandon();
        }
        self.failures.add(failure.of(&who), self.now);
        if matches!(self.phase, Phase::Opening | Phase::Ready) {
            // There is no load without all of them.
            self.phase = Phase::Over;
        }
    }

    fn serve(&mut self, index: usize) -> Result<(), Failure> {
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else {
            return Ok(());
        };
        if connection.is_connecting() {
            let target = self.shared.address;
            let established = connection.establish(target);
            if !established.map_err(|failure| failure.of(&format!("connect to {target}")))? {
                return Ok(());
            }
            self.established(index);
        }
        let reads = match self.slots[index].kind.reads() {
            // What it is owed it takes in the end.
            Reads::Slowly if self.phase == Phase::Draining => Reads::All,
            reads => reads,
        };
        if reads == Reads::All && !self.is_by_ring(index) {
            self.read(index, PIECE)?;
        }
        self.send(index)?;
        self.leave(index)
    }

    fn established(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else {
            return;
        };
        if slot.sends == Sends::Once {
            self.now = clock::now();
            connection.release(self.now);
            let began = connection.began;
            if let Some(meter) = &mut self.meter {
                meter.at(self.now);
                meter.connected(began, self.now);
            }
        } else {
            if self.shared.plan.wire && slot.kind == Kind::Measured {
                connection.stamp();
            }
            self.opening -= 1;
            self.open_more();
        }
    }

    /// Reads, `piece` bytes at once at most, until there is nothing or its turn is over.
    pub(super) fn read(&mut self, index: usize, piece: usize) -> Result<(), Failure> {
        let turns = if piece < PIECE { 1 } else { TURN };
        for _ in 0..turns {
            let Some(connection) = &mut self.slots[index].connection else {
                return Ok(());
            };
            if !connection.is_readable() {
                return Ok(());
            }
            match connection.receive(&mut self.buffer[..piece], &self.shared.pattern)? {
                Received::Nothing => return Ok(()),
                Received::Bytes(n) => {
                    self.now = clock::now();
                    self.came_back(index, n)?;
                }
                Received::Fin => return self.end(index),
            }
        }
        if piece == PIECE {
            self.wait_for_next_turn(index);
        }
        Ok(())
    }

    fn wait_for_next_turn(&mut self, index: usize) {
        let waits = &mut self.slots[index].waits;
        if !mem::replace(waits, true) {
            self.again.push(index);
        }
    }

    /// So many bytes have come back, by now.
    pub(super) fn came_back(&mut self, index: usize, n: u64) -> Result<(), Failure> {
        let (slot, now) = (&mut self.slots[index], self.now);
        let (Some(connection), Some(meter)) = (&mut slot.connection, &mut self.meter) else {
            return Ok(());
        };
        connection.waiting_since = now;
        meter.at(now);
        let counts = meter.is_measuring();
        if slot.kind != Kind::Measured {
            slot.read += if counts { n } else { 0 };
            return Ok(());
        }
        meter.bytes(n);
        let mut complete = 0;
        while let Some(start) = connection.complete() {
            meter.echo(start, now);
            if let Some(wire) = connection.on_the_wire(now - start.sent) {
                meter.on_the_wire(start, wire, self.shared.apart);
                // The next one is not to be charged with what that took.
                self.now = clock::now();
            }
            complete += 1;
        }
        slot.echoes += if counts { complete } else { 0 };
        self.answered(index, complete)
    }

    /// So many messages are complete: what comes next?
    fn answered(&mut self, index: usize, complete: u64) -> Result<(), Failure> {
        let (slot, now) = (&mut self.slots[index], self.now);
        let (Some(connection), Some(meter)) = (&mut slot.connection, &mut self.meter) else {
            return Ok(());
        };
        match slot.sends {
            Sends::Answers(_) if self.phase == Phase::Loaded => {
                (0..complete).for_each(|_| connection.release(now));
            }
            Sends::Once if complete > 0 => {
                meter.first_echo(connection.began, now);
                connection.half_close(now)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends what may be sent, until the socket takes no more or its turn is over.
    pub(super) fn send(&mut self, index: usize) -> Result<(), Failure> {
        for _ in 0..TURN {
            if !self.has_more(index) {
                return Ok(());
            }
            let slot = &mut self.slots[index];
            let Some(connection) = &mut slot.connection else {
                return Ok(());
            };
            if !connection.is_writable() {
                return Ok(());
            }
            if slot.sends == Sends::Scheduled {
                self.now = clock::now();
            }
            let n = match &mut self.ring {
                Some(ring) if slot.kind == Kind::Measured => {
                    let piece = connection.to_send(&self.shared.pattern);
                    let asked = ring.send(index, piece);
                    asked.map_err(|errno| connection.broken(&io::Error::from(errno)))?;
                    connection.has_sent(piece.len(), self.now);
                    piece.len() as u64
                }
                _ => connection.send(&self.shared.pattern, self.now)?,
            };
            let counts = self.meter.as_ref().is_some_and(Meter::is_measuring);
            slot.sent += if counts { n } else { 0 };
        }
        self.wait_for_next_turn(index);
        Ok(())
    }

    /// Is there something to send? When all was sent, what comes next is released.
    fn has_more(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else {
            return false;
        };
        if !connection.has_sent_all() {
            return true;
        }
        match slot.sends {
            _ if self.phase != Phase::Loaded => return false,
            Sends::Always => {
                self.now = clock::now();
                connection.release(self.now);
            }
            Sends::Scheduled if slot.released < slot.due => self.release_due(index),
            _ => return false,
        }
        true
    }

    /// What is due goes together: all of it, or as much as one call may send.
    fn release_due(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let (Some(connection), Some(schedule)) = (&mut slot.connection, &self.schedule) else {
            return;
        };
        let together = (PIECE as u64 / self.shared.plan.load.size).max(1);
        let until = slot.due.min(slot.released + together);
        for round in slot.released..until {
            connection.release(schedule.due_of(index, round));
        }
        slot.released = until;
    }

    /// Sends the FIN, if it is time.
    pub(super) fn leave(&mut self, index: usize) -> Result<(), Failure> {
        if self.phase != Phase::Draining || !self.may_leave {
            return Ok(());
        }
        match &mut self.slots[index].connection {
            Some(connection) if connection.is_answered() => connection.half_close(self.now),
            _ => Ok(()),
        }
    }

    /// The peer's FIN has come.
    pub(super) fn end(&mut self, index: usize) -> Result<(), Failure> {
        let slot = &mut self.slots[index];
        if let Some(connection) = slot.connection.take() {
            let ended = connection.end();
            if ended.is_err() {
                slot.connection = Some(connection);
            }
            ended?;
        }
        if self.slots[index].sends == Sends::Once && self.phase == Phase::Loaded {
            self.open_next(index);
        }
        Ok(())
    }
}
