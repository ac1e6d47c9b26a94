//! All clients in one thread: wait with mio until some socket is ready, do what can be done
//! without waiting, wait again (UNP 6 and 16; epoll(7)).
//!
//! What it costs: an entry of 64 bytes per connection, and no process or thread; at 64 bytes a
//! message, two system calls per echo and one wait for all that are ready together. What it
//! cannot: use more than one processor, or survive a call that blocks; everybody would wait.
//!
//! Edge-triggered, and each connection is registered once, for everything: an event says that
//! something has changed, not that something is there. So nothing may be left undone without
//! remembering it. What has more to do than its share goes on the run queue; a listener that was
//! not drained is remembered as one.
//!
//! What to look for: `ps` shows one process with one thread, asleep in epoll_wait whatever the
//! number of clients; `strace -c` shows read, write and few epoll_wait, and splice for those who send
//! much at once; `RUST_LOG=mio=trace` the registrations.
//!
//! Limit: descriptors (`ulimit -n`); then accepting rests and the clients it has are served.
//!
//! With `--workers N` there are N such loops, a thread each: see `reactor/workers.rs`.

mod workers;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::conn::Wants;
use crate::door::Door;
use crate::event_loop::EventLoop;
use crate::failure::Failure;
use crate::poller::{Readiness, register};
use crate::table::{InterestList, Key, Table};
use crate::{signals, spin};

const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// Events taken per wait.
const EVENTS: usize = 1024;

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    if server.config.workers > 1 {
        return workers::serve(server);
    }
    let epoll = Epoll::open(server.config.spin)?;
    epoll.wait_for(&server.listener, LISTENER, "cannot wait for clients")?;
    if let Some(pipe) = signals::pollable() {
        epoll.wait_for(&pipe, SIGNALS, "cannot wait for signals")?;
    }
    server.announce();
    let Server {
        listener,
        config,
        counters,
    } = server;
    let door = Door::new(listener, config.max_connections);
    let table = Table::new(epoll, &config, counters, 0);
    run(EventLoop::new(door, table, config, counters))
}

fn run(mut reactor: EventLoop<Epoll>) -> Result<(), Failure> {
    let mut events = Events::with_capacity(EVENTS);
    while !reactor.is_over() {
        let timeout = reactor.timeout();
        reactor.table.interest.wait(&mut events, timeout)?;
        for event in &events {
            match event.token() {
                LISTENER => reactor.door.knock(),
                SIGNALS => reactor.look_at_signals(),
                _ => ready(&mut reactor.table, event),
            }
        }
        reactor.table.run_queued();
        reactor.look_at_clock();
        reactor.accept_some()?;
    }
    reactor.stopped();
    Ok(())
}

/// A connection's event.
fn ready(table: &mut Table<Epoll>, event: &Event) {
    let Token(key) = event.token();
    let readiness = Readiness::from(event);
    if event.is_read_closed() && table.commits(Mistake::CloseOnFin) {
        return table.close_early(Key(key));
    }
    table.ready(Key(key), readiness, readiness.hints_at_more());
}

/// The kernel's list of what we wait for. Nothing is ever changed in it: a connection is registered
/// when it comes, for everything, and forgotten when its descriptor is closed. What has arrived
/// before makes its first event.
struct Epoll {
    poll: Poll,
    spin: Duration,
}

impl InterestList for Epoll {
    fn add(&mut self, key: Key, stream: BorrowedFd<'_>) -> Result<(), String> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        register(self.poll.registry(), stream, Token(key.0), interest)
            .map_err(|errno| format!("cannot register it: {errno}"))
    }

    fn change(&mut self, _: Key, _: BorrowedFd<'_>, _: Wants) {}

    fn remove(&mut self, _: Key, _: BorrowedFd<'_>) {}
}

impl Epoll {
    fn open(spin: Duration) -> Result<Self, Failure> {
        let poll = Poll::new().map_err(|error| calls::errno(&error));
        let poll = poll.map_err(|errno| Failure::new("cannot create the poller", errno))?;
        Ok(Self { poll, spin })
    }

    fn wait_for(&self, source: &impl AsFd, token: Token, failed: &str) -> Result<(), Failure> {
        register(
            self.poll.registry(),
            source.as_fd(),
            token,
            Interest::READABLE,
        )
        .map_err(|errno| Failure::new(failed, errno))
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> Result<(), Failure> {
        let fd = self.poll.as_raw_fd();
        let waited = spin::wait(self.spin, timeout, |timeout| {
            calls::may_block("epoll_wait", fd, || {
                self.poll
                    .poll(events, timeout)
                    .map(|()| events.iter().count())
                    .map_err(|error| calls::errno(&error))
            })
        });
        match waited {
            // EINTR: a signal, or a stop and continue. The timers are looked at, then it waits on.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Failure::new("cannot wait for events", errno)),
        }
    }
}
