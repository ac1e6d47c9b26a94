//! What tasks wait with: the one place that knows which waker belongs to which socket or time.
//!
//! [`Registration::ready`] and [`Driver::sleep`] are the innermost futures, written out by hand:
//! everything else that waits awaits one of them. Polled, they look whether what they wait for has
//! happened; if not, they leave their waker here. [`Driver::wait`] is the one call that blocks:
//! it asks mio for events, keeps what they say, and wakes whoever waits for that.
//!
//! Edge-triggered: an event says once that something has changed. So what it said is kept until a
//! read or write has found that it is over ([`Registration::clear`]); an event that comes while its
//! task waits for something else, or for nothing, is not lost.
//!
//! All events of a wait are taken in before a task is polled, so none can be meant for a socket that
//! was closed meanwhile, and its place needs no generation (compare `models/reactor.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Token};
use nix::errno::Errno;
use slab::Slab;
use tcpecho_common::calls;

use crate::conn::Wants;
use crate::failure::Failure;
use crate::poller::{Readiness, register};

/// Events taken per wait.
const EVENTS: usize = 1024;

/// The poller, the timers, and who waits for what.
pub struct Driver {
    poll: RefCell<mio::Poll>,
    events: RefCell<Events>,
    sources: RefCell<Slab<Source>>,
    timers: RefCell<BTreeMap<TimerKey, Waker>>,
    timers_made: Cell<u64>,
}

/// When it is due; and a number, for two may be due at the same time.
type TimerKey = (Instant, u64);

/// What is known of a registered descriptor, and who waits for more.
#[derive(Default)]
struct Source {
    waiting: Option<Waker>,
    wants: Wants,
    /// What events have said that has not been used up.
    is_ready: Wants,
    /// The last event said more than "readable": believe only EAGAIN.
    more: bool,
    is_nudged: bool,
    /// What events have said since the task was told.
    news: Readiness,
}

const _: () = assert!(size_of::<Source>() <= 24);

impl Driver {
    /// Errors: no descriptor for the poller.
    pub fn new() -> Result<Self, Failure> {
        let poll = mio::Poll::new()
            .map_err(|error| Failure::new("cannot create the poller", calls::errno(&error)))?;
        Ok(Self {
            poll: RefCell::new(poll),
            events: RefCell::new(Events::with_capacity(EVENTS)),
            sources: RefCell::default(),
            timers: RefCell::default(),
            timers_made: Cell::new(0),
        })
    }

    /// Registers a descriptor, once, for as long as it is open. The registration is to be dropped
    /// when it is closed.
    pub fn register(
        &'static self,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> nix::Result<Registration> {
        let mut sources = self.sources.borrow_mut();
        let place = sources.vacant_entry();
        let index = place.key();
        register(self.poll.borrow().registry(), fd, Token(index), interest)?;
        place.insert(Source::default());
        Ok(Registration {
            driver: self,
            index,
        })
    }

    /// Waits until that much time has passed.
    pub fn sleep(&self, time: Duration) -> Sleep<'_> {
        let number = self.timers_made.get();
        self.timers_made.set(number + 1);
        Sleep {
            driver: self,
            key: (Instant::now() + time, number),
            has_begun: false,
        }
    }

    /// How many sleep.
    pub fn timers(&self) -> usize {
        self.timers.borrow().len()
    }

    /// Ends the wait of every task for its descriptor: there is something to look at that the
    /// kernel does not know of.
    pub fn nudge(&self) {
        for (_, source) in self.sources.borrow_mut().iter_mut() {
            source.is_nudged = true;
            if let Some(waker) = source.waiting.take() {
                waker.wake();
            }
        }
    }

    /// Waits for events and timers, and wakes who waits for them; only looks if `at_once`.
    pub fn wait(&self, at_once: bool) -> Result<(), Failure> {
        let mut poll = self.poll.borrow_mut();
        let mut events = self.events.borrow_mut();
        let (fd, timeout) = (poll.as_raw_fd(), self.timeout(at_once));
        let waited = calls::may_block("epoll_wait", fd, || {
            poll.poll(&mut events, timeout)
                .map(|()| events.iter().count())
                .map_err(|error| calls::errno(&error))
        });
        match waited {
            Ok(_) => {}
            // A signal, or a stop and continue: whoever called waits again, for what is left.
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Failure::new("cannot wait for events", errno)),
        }
        let mut sources = self.sources.borrow_mut();
        for event in events.iter() {
            if let Some(source) = sources.get_mut(event.token().0) {
                source.happened(event.into());
            }
        }
        self.wake_sleepers();
        Ok(())
    }

    /// None: until something happens. The clock is asked only where somebody sleeps.
    fn timeout(&self, at_once: bool) -> Option<Duration> {
        if at_once {
            return Some(Duration::ZERO);
        }
        let timers = self.timers.borrow();
        let ((next, _), _) = timers.first_key_value()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn wake_sleepers(&self) {
        let mut timers = self.timers.borrow_mut();
        if timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(timer) = timers.first_entry() {
            if timer.key().0 > now {
                break;
            }
            timer.remove().wake();
        }
    }
}

impl Source {
    fn happened(&mut self, event: Readiness) {
        self.news |= event;
        self.is_ready.read |= event.to_read();
        self.is_ready.write |= event.to_write();
        self.more |= event.hints_at_more();
        if self.has_what_it_wants() {
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
    }

    fn has_what_it_wants(&self) -> bool {
        self.is_ready.read && self.wants.read || self.is_ready.write && self.wants.write
    }
}

/// A descriptor's place with the driver. One task uses it; it waits for one thing at a time.
pub struct Registration {
    driver: &'static Driver,
    index: usize,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It is ready, as far as is known; with what events have said since it was asked last.
    Ready(Readiness),
    /// By [`Driver::nudge`].
    Nudged,
}

impl Registration {
    /// Waits until it is ready for what is wanted.
    pub fn ready(&self, wants: Wants) -> Ready<'_> {
        Ready {
            registration: self,
            wants,
        }
    }

    /// It has turned out not to be ready for this any more; wait for the next event.
    pub fn clear(&self, wants: Wants) {
        self.with(|source| {
            source.is_ready.read &= !wants.read;
            source.is_ready.write &= !wants.write;
            source.more &= !wants.read;
        });
    }

    /// A read has brought less than it could have: there is no more, and no need to ask. Unless the
    /// peer has closed its side, or sent urgent data, at whose mark a read stops. Returns which.
    pub fn clear_after_short_read(&self) -> bool {
        self.with(|source| {
            source.is_ready.read &= source.more;
            !source.is_ready.read
        })
    }

    /// Has an event said more than "readable", and no read has failed since?
    pub fn hints_at_more(&self) -> bool {
        self.with(|source| source.more)
    }

    fn with<T>(&self, body: impl FnOnce(&mut Source) -> T) -> T {
        body(&mut self.driver.sources.borrow_mut()[self.index])
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Its waker goes with it.
        self.driver.sources.borrow_mut().remove(self.index);
    }
}

/// The future of [`Registration::ready`].
pub struct Ready<'a> {
    registration: &'a Registration,
    wants: Wants,
}

impl Future for Ready<'_> {
    type Output = Woken;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Woken> {
        self.registration.with(|source| {
            source.wants = self.wants;
            if mem::take(&mut source.is_nudged) {
                return Poll::Ready(Woken::Nudged);
            }
            if source.has_what_it_wants() {
                return Poll::Ready(Woken::Ready(mem::take(&mut source.news)));
            }
            source.waiting = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

/// The future of [`Driver::sleep`].
pub struct Sleep<'a> {
    driver: &'a Driver,
    key: TimerKey,
    has_begun: bool,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let driver = self.driver;
        let mut timers = driver.timers.borrow_mut();
        let is_over = !timers.contains_key(&self.key);
        if mem::replace(&mut self.has_begun, true) && is_over {
            return Poll::Ready(());
        }
        timers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

/// Nobody waits for it any more.
impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.driver.timers.borrow_mut().remove(&self.key);
    }
}
