//! All clients in one thread: wait with poll until some socket is ready, do what can be done
//! without waiting, wait again (UNP 6.10 and 6.11; poll(2)).
//!
//! What it costs: an entry of 64 bytes per connection, and eight in the array that poll is given.
//! The array is kept, and changed where something changes; but the kernel looks at all of it each
//! time, and so do we until we have found all that are ready. So a call is O(n): with ten thousand
//! connections of which one is busy, an echo costs ten thousand looks. When all are busy, one call
//! serves them all, and an echo is two system calls, as in the reactor.
//!
//! Level-triggered: poll tells what is there, not what has changed, and tells it again until it is
//! gone. So nothing can be missed, but nobody may be asked about whose answer does not interest us,
//! or the loop spins: not for input while output is pending (the end of the input would be told for
//! ever), not the listener while nobody may be accepted. POLLERR and POLLHUP come unasked; who waits
//! for nothing is taken out of the array. Urgent data needs no POLLPRI: what stands behind the mark
//! makes the socket readable once more.
//!
//! What to look for: `ps` shows one process with one thread, asleep in do_poll; `strace` shows the
//! array grow with the number of clients.
//!
//! Limit: descriptors (`ulimit -n`); then accepting rests and the clients it has are served.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_short, pollfd};
use nix::sys::resource::{Resource, getrlimit};
use tcpecho_common::calls;

use super::Server;
use crate::conn::Wants;
use crate::door::Door;
use crate::event_loop::EventLoop;
use crate::failure::Failure;
use crate::table::{InterestList, Key, Table};
use crate::{signals, spin};

const SIGNALS: usize = 0;
const LISTENER: usize = 1;
/// Where the connection with index 0 is.
const FIRST: usize = 2;

/// poll passes over a negative descriptor.
const VACANT: pollfd = pollfd {
    fd: -1,
    events: 0,
    revents: 0,
};

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    server.announce();
    let Server {
        listener,
        config,
        counters,
    } = server;
    let mut array = PollArray {
        fds: vec![VACANT; FIRST],
        spin: config.spin,
    };
    array.set(SIGNALS, signals::pollable(), libc::POLLIN);
    let door = Door::new(listener, config.max_connections);
    let table = Table::new(array, &config, counters, 0);
    run(EventLoop::new(door, table, config, counters))
}

fn run(mut poll: EventLoop<PollArray>) -> Result<(), Failure> {
    while !poll.is_over() {
        let listener = poll.door.wanted(poll.table.len());
        poll.table.interest.set(LISTENER, listener, libc::POLLIN);
        let timeout = poll.timeout();
        let mut ready = poll.table.interest.wait(timeout)?;
        let mut at = 0;
        // The array gets shorter when the last one leaves.
        while ready > 0 && at < poll.table.interest.fds.len() {
            let revents = poll.table.interest.fds[at].revents;
            if revents != 0 {
                ready -= 1;
                match at {
                    SIGNALS => poll.look_at_signals(),
                    LISTENER => poll.door.knock(),
                    _ => {
                        if let Some(key) = poll.table.key_at(at - FIRST) {
                            poll.table.ready(key, Readiness(revents), false);
                        }
                    }
                }
            }
            at += 1;
        }
        poll.table.run_queued();
        poll.look_at_clock();
        poll.accept_some()?;
    }
    poll.stopped();
    Ok(())
}

/// The array that poll is given: the pipe, the listener, then the connections, each at its index in
/// the table.
struct PollArray {
    fds: Vec<pollfd>,
    spin: Duration,
}

impl InterestList for PollArray {
    fn add(&mut self, key: Key, stream: BorrowedFd<'_>) -> Result<(), String> {
        self.set(FIRST + key.index(), Some(stream), libc::POLLIN);
        Ok(())
    }

    fn change(&mut self, key: Key, stream: BorrowedFd<'_>, wants: Wants) {
        let events = match (wants.read, wants.write) {
            (true, true) => libc::POLLIN | libc::POLLOUT,
            (true, false) => libc::POLLIN,
            (false, true) => libc::POLLOUT,
            // When both sides have sent their FIN, POLLHUP would be told for ever.
            (false, false) => return self.set(FIRST + key.index(), None, 0),
        };
        self.set(FIRST + key.index(), Some(stream), events);
    }

    fn remove(&mut self, key: Key, _: BorrowedFd<'_>) {
        self.set(FIRST + key.index(), None, 0);
        // As few as possible, for the kernel looks at them all.
        while self.fds.len() > FIRST && self.fds.last().is_some_and(|last| last.fd < 0) {
            self.fds.pop();
        }
    }
}

impl PollArray {
    /// The array may have got too short for one who waits for nothing, when the last one left.
    fn set(&mut self, at: usize, fd: Option<BorrowedFd<'_>>, events: c_short) {
        if at >= self.fds.len() {
            self.fds.resize(at + 1, VACANT);
        }
        self.fds[at] = pollfd {
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            events,
            revents: 0,
        };
    }

    /// How many are ready.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<usize, Failure> {
        /// The call has no descriptor of its own.
        const NONE: RawFd = -1;
        let waited = spin::wait(self.spin, timeout, |timeout| {
            calls::may_block("poll", NONE, || self.poll(timeout))
        });
        match waited {
            Ok(ready) => Ok(ready),
            Err(Errno::EINVAL) => self.wait_in_parts(),
            // A signal. The timers are looked at, then it waits on.
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(Failure::new("cannot wait for events", errno)),
        }
    }

    fn poll(&mut self, timeout: Option<Duration>) -> nix::Result<usize> {
        poll(&mut self.fds, timeout)
    }

    /// There are more entries than RLIMIT_NOFILE, which somebody has lowered since: so one part after
    /// the other, without waiting, and a rest where nothing is ready. The pipe is in the first part.
    fn wait_in_parts(&mut self) -> Result<usize, Failure> {
        let failed = |errno| Failure::new("cannot wait for events", errno);
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
        let part = (soft as usize).max(1);
        let mut ready = 0;
        for part in self.fds.chunks_mut(part) {
            ready += poll(part, Some(Duration::ZERO)).map_err(failed)?;
        }
        if ready == 0 {
            let first = part.min(self.fds.len());
            ready = match poll(&mut self.fds[..first], Some(signals::TICK)) {
                Err(Errno::EINTR) => 0,
                ready => ready.map_err(failed)?,
            };
        }
        Ok(ready)
    }
}

/// poll(2).
#[expect(unsafe_code)]
fn poll(fds: &mut [pollfd], timeout: Option<Duration>) -> nix::Result<usize> {
    let (fds, count) = (fds.as_mut_ptr(), fds.len() as libc::nfds_t);
    // SAFETY: it reads and writes as many entries as there are.
    let ready = unsafe { libc::poll(fds, count, milliseconds(timeout)) };
    Errno::result(ready).map(|ready| ready as usize)
}

/// -1: for ever. Rounded up, so that it does not wake up too early, again and again.
fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    timeout.map_or(-1, |timeout| {
        let rounded = timeout.as_nanos().div_ceil(1_000_000);
        libc::c_int::try_from(rounded).unwrap_or(libc::c_int::MAX)
    })
}

/// What poll returned, in the words of the log.
struct Readiness(c_short);

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (libc::POLLIN, " POLLIN"),
            (libc::POLLOUT, " POLLOUT"),
            (libc::POLLERR, " POLLERR"),
            (libc::POLLHUP, " POLLHUP"),
            (libc::POLLNVAL, " POLLNVAL"),
        ];
        let mut words = words.iter().filter(|(bit, _)| self.0 & bit != 0);
        words.try_for_each(|(_, word)| f.write_str(word))
    }
}
