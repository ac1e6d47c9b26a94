//! What a worker does where messages go through a ring: the measured connections are no longer the
//! poller's, and the ring also tells when the poller has something for the others.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::Worker;
use crate::load::clock;
use crate::load::failure::{Failure, Kind as Failed};
use crate::load::plan::Kind;
use crate::load::report::Engine;
use crate::load::ring::{Completion, Ring, What};

/// With fewer connections there is too little to hand over at a time: they gain nothing.
const WORTHWHILE: usize = 4;

impl Worker<'_> {
    /// Hands the measured connections over to a ring, if there is to be one; where the system refuses
    /// it they stay with the poller, unless somebody insists.
    pub(super) fn board(&mut self) -> Result<()> {
        let plan = &self.shared.plan;
        let is_measured = |kind: Kind| kind == Kind::Measured;
        let count = self.slots.iter().filter(|slot| is_measured(slot.kind));
        let wanted = match plan.engine {
            Some(Engine::Epoll) => false,
            Some(Engine::IoUring) => true,
            None => plan.suits_ring().is_ok() && count.count() >= WORTHWHILE,
        };
        if !wanted {
            return Ok(());
        }
        let sockets = self.slots.iter().map(|slot| match &slot.connection {
            Some(connection) if is_measured(slot.kind) => connection.as_raw_fd(),
            _ => -1,
        });
        let sockets: Vec<_> = sockets.collect();
        let mut ring = match Ring::new(&sockets, plan.load.size) {
            Err(_) if plan.engine.is_none() => return Ok(()),
            ring => ring.context("cannot set up io_uring (without it: --engine epoll)")?,
        };
        ring.watch(self.poll.as_raw_fd())?;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(connection) = slot.connection.as_mut().filter(|_| is_measured(slot.kind)) {
                connection
                    .leave(self.poll.registry())
                    .context("epoll_ctl")?;
                ring.receive(index)?;
            }
        }
        self.ring = Some(ring);
        Ok(())
    }

    /// Is it the ring that sends and receives for this one?
    pub(super) fn is_by_ring(&self, index: usize) -> bool {
        self.ring.is_some() && self.slots[index].kind == Kind::Measured
    }

    /// Sends what was asked for, waits, and takes what has come. True if the poller has events.
    pub(super) fn ring_round(&mut self, patience: Option<Duration>) -> Result<bool> {
        let Some(ring) = &mut self.ring else {
            return Ok(true);
        };
        let mut completions = mem::take(&mut self.completions);
        ring.wait(patience).context("io_uring_enter")?;
        ring.take(&mut completions);
        // Of those that come together all are here by now, and their bytes as well.
        self.now = clock::now();
        let mut has_events = false;
        for completion in &completions {
            match completion.what {
                What::Poller => has_events = true,
                What::Receive(index) => self.has_come(index, completion)?,
                What::Send(index) => self.not_sent(index, completion.result),
            }
        }
        self.completions = completions;
        if has_events {
            let poller = self.poll.as_raw_fd();
            self.ring
                .iter_mut()
                .try_for_each(|ring| ring.watch(poller))?;
        }
        Ok(has_events)
    }

    /// Something has come on this connection, or nothing more will. Errors: the ring's.
    fn has_come(&mut self, index: usize, completion: &Completion) -> nix::Result<()> {
        let came = self.take(index, completion);
        if let Err(failure) = came {
            self.fail(index, failure);
        }
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        if let Some(buffer) = completion.buffer {
            ring.give_back(buffer);
        }
        match self.slots[index].connection {
            Some(_) if !completion.more => ring.receive(index),
            _ => Ok(()),
        }
    }

    fn take(&mut self, index: usize, completion: &Completion) -> Result<(), Failure> {
        let (Some(ring), Some(connection)) = (&self.ring, &mut self.slots[index].connection) else {
            return Ok(());
        };
        let n = match completion.result {
            Ok(n) => n,
            Err(Errno::ENOBUFS) => return Ok(()),
            Err(errno) => return Err(connection.broken(&io::Error::from(errno))),
        };
        let Some(buffer) = completion.buffer.filter(|_| n > 0) else {
            return self.end(index);
        };
        connection.take(ring.bytes(buffer, n), &self.shared.pattern)?;
        self.came_back(index, n as u64)?;
        self.send(index)?;
        self.leave(index)
    }

    /// A send has failed, if not at once.
    fn not_sent(&mut self, index: usize, result: nix::Result<usize>) {
        let Some(connection) = &self.slots[index].connection else {
            return;
        };
        let failure = match result {
            Ok(n) => Failure::new(Failed::Reset, format!("only {n} bytes could be sent")),
            Err(errno) => connection.broken(&io::Error::from(errno)),
        };
        self.fail(index, failure);
    }
}
