//! The listening socket of a readiness loop: whether, and when, to accept.
//!
//! Whoever is left in the kernel's queue, for whatever reason, must be remembered here: an
//! edge-triggered poller speaks up once per change. A level-triggered one never stops speaking;
//! there the listener is left out of the set while nobody may be accepted ([`Door::wanted`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::failure::Failure;
use crate::listener::Listener;

/// Connections accepted before those that are open have their turn again.
pub const ACCEPTS_PER_ROUND: usize = 128;

/// Where clients come in.
#[derive(Debug)]
pub struct Door {
    /// None once the server has stopped listening.
    listener: Option<Listener>,
    /// Somebody may be waiting.
    knocked: bool,
    /// Out of descriptors or memory: try again then, or when a connection closes.
    rests_until: Option<Instant>,
    exhaustion: Exhaustion,
    /// Nobody is let in while this many are open.
    capacity: usize,
}

impl Door {
    /// The door of a server; from now on accept does not wait.
    pub fn new(listener: Listener, capacity: usize) -> Self {
        listener.do_not_block();
        Self {
            listener: Some(listener),
            knocked: false,
            rests_until: None,
            exhaustion: Exhaustion::default(),
            capacity,
        }
    }

    /// The listening socket is ready.
    pub fn knock(&mut self) {
        self.knocked = true;
    }

    /// May somebody be waiting, whom nobody has accepted yet?
    pub fn has_knocked(&self) -> bool {
        self.knocked && self.listener.is_some()
    }

    /// The listening socket, unless whoever comes would have to wait, with `open` connections open.
    pub fn wanted(&self, open: usize) -> Option<BorrowedFd<'_>> {
        let may = self.rests_until.is_none() && open < self.capacity;
        self.listener.as_ref().filter(|_| may).map(AsFd::as_fd)
    }

    /// Is there somebody to accept, and room?
    pub fn may_accept(&self, open: usize) -> bool {
        self.knocked && self.wanted(open).is_some()
    }

    /// Accepts one connection; None if it did not come to that: [`may_accept`](Self::may_accept)
    /// knows whether to try again.
    pub fn accept(&mut self, open: usize) -> Result<Option<(OwnedFd, Peer)>, Failure> {
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        match accept(listener, Blocking::No) {
            Ok(client) => {
                self.exhaustion.ended();
                return Ok(Some(client));
            }
            Err(Refusal::Nobody) => self.knocked = false,
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            Err(Refusal::Exhausted(errno)) => {
                self.exhaustion.began(errno, open);
                self.rests_until = Some(Instant::now() + accept::PAUSE);
            }
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
        Ok(None)
    }

    /// A connection has been closed: there is a descriptor for the next one.
    pub fn try_again(&mut self) {
        self.rests_until = None;
    }

    /// When accepting goes on by itself.
    pub fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Accepting goes on if it has rested long enough.
    pub fn look_at_clock(&mut self) {
        if self
            .rests_until
            .is_some_and(|until| until <= Instant::now())
        {
            self.rests_until = None;
        }
    }

    /// The server stops: all who are queued are let in, also past the cap, for all they get is what
    /// they have sent by now.
    pub fn let_everybody_in(&mut self) {
        self.capacity = usize::MAX;
        self.knocked = true;
        self.rests_until = None;
    }

    /// Stops listening.
    pub fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.close();
        }
    }

    /// Does it still listen?
    pub fn is_open(&self) -> bool {
        self.listener.is_some()
    }
}
