//! All clients in one thread: wait with select until some socket is ready, do what can be done
//! without waiting, wait again (UNP 6.3 and 6.8; select(2)).
//!
//! What it costs: an entry of 64 bytes per connection. The sets are overwritten by each call, so
//! they are copied before it, 128 bytes each; the kernel looks at every descriptor up to the highest
//! one, and so do we until we have found all that are ready. When all are busy, one call serves them
//! all, and an echo is two system calls, as in the reactor.
//!
//! Level-triggered: select tells what is there, not what has changed, and tells it again until it is
//! gone. So nothing can be missed, but nobody may be asked about whose answer does not interest us,
//! or the loop spins: not for input while output is pending (the end of the input would be told for
//! ever), not the listener while nobody may be accepted. Urgent data needs no third set, for
//! exceptions: what stands behind the mark makes the socket readable once more.
//!
//! What to look for: `ps` shows one process with one thread, asleep in do_select; `strace` shows the
//! sets.
//!
//! Limit: descriptors below FD_SETSIZE, 1024, whatever `ulimit -n` says. The C macros write past the
//! end of the set without a word; here a client whose descriptor does not fit is closed with a log
//! line, and the server goes on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};
use tcpecho_common::calls;

use super::Server;
use crate::conn::Wants;
use crate::door::Door;
use crate::event_loop::EventLoop;
use crate::failure::Failure;
use crate::table::{InterestList, Key, Table};
use crate::{signals, spin};

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    let mut sets = Sets {
        spin: server.config.spin,
        ..Sets::default()
    };
    sets.reserve(&server.listener, "the listening socket")?;
    if let Some(pipe) = signals::pollable() {
        sets.reserve(&pipe, "the pipe for signals")?;
        sets.read.insert(member(pipe.as_raw_fd()));
    }
    server.announce();
    let Server {
        listener,
        config,
        counters,
    } = server;
    let door = Door::new(listener, config.max_connections);
    let table = Table::new(sets, &config, counters, 0);
    run(EventLoop::new(door, table, config, counters))
}

fn run(mut select: EventLoop<Sets>) -> Result<(), Failure> {
    let pipe = signals::pollable().map(|pipe| pipe.as_raw_fd());
    while !select.is_over() {
        let listener = select.door.wanted(select.table.len());
        let listener = listener.map(|listener| listener.as_raw_fd());
        let timeout = select.timeout();
        let ready = select.table.interest.wait(listener, timeout)?;
        for (fd, how) in ready.descriptors() {
            if Some(fd) == pipe {
                select.look_at_signals();
            } else if Some(fd) == listener {
                select.door.knock();
            } else if let Some(key) = select.table.interest.client(fd) {
                select.table.ready(key, how, false);
            }
        }
        select.table.run_queued();
        select.look_at_clock();
        select.accept_some()?;
    }
    select.stopped();
    Ok(())
}

/// What select shall look at until something changes: `allset` of UNP, one to read, one to write.
#[derive(Default)]
struct Sets {
    read: FdSet<'static>,
    write: FdSet<'static>,
    /// Whose descriptor it is. The length is the first argument of select: the highest one plus 1.
    clients: Vec<Option<Key>>,
    /// As long as this it must stay, for the listener and the pipe.
    reserved: usize,
    spin: Duration,
}

impl InterestList for Sets {
    fn add(&mut self, key: Key, stream: BorrowedFd<'_>) -> Result<(), String> {
        let fd = stream.as_raw_fd();
        if !fits(fd) {
            return Err(format!(
                "its descriptor would be {fd}, and select takes none from FD_SETSIZE = {FD_SETSIZE} on"
            ));
        }
        let length = self.clients.len().max(fd as usize + 1);
        self.clients.resize(length, None);
        self.clients[fd as usize] = Some(key);
        self.read.insert(member(fd));
        Ok(())
    }

    fn change(&mut self, _: Key, stream: BorrowedFd<'_>, wants: Wants) {
        let fd = member(stream.as_raw_fd());
        for (set, wanted) in [(&mut self.read, wants.read), (&mut self.write, wants.write)] {
            if wanted {
                set.insert(fd);
            } else {
                set.remove(fd);
            }
        }
    }

    fn remove(&mut self, _: Key, stream: BorrowedFd<'_>) {
        let fd = stream.as_raw_fd();
        self.read.remove(member(fd));
        self.write.remove(member(fd));
        self.clients[fd as usize] = None;
        while self.clients.len() > self.reserved && self.clients.last() == Some(&None) {
            self.clients.pop();
        }
    }
}

impl Sets {
    /// For a descriptor that stays, and is no client's.
    fn reserve(&mut self, fd: &impl AsFd, what: &str) -> Result<(), Failure> {
        let fd = fd.as_fd().as_raw_fd();
        if !fits(fd) {
            let what = format!(
                "cannot wait with select for {what}: it is descriptor {fd}, and FD_SETSIZE is {FD_SETSIZE}"
            );
            return Err(Failure::plain(what)
                .hint("close what was open before it was started, or try --model poll"));
        }
        self.reserved = self.reserved.max(fd as usize + 1);
        self.clients.resize(self.reserved, None);
        Ok(())
    }

    fn client(&self, fd: RawFd) -> Option<Key> {
        self.clients.get(fd as usize).copied().flatten()
    }

    fn wait(&self, listener: Option<RawFd>, timeout: Option<Duration>) -> Result<Ready, Failure> {
        /// The call has no descriptor of its own.
        const NONE: RawFd = -1;
        let nfds = self.clients.len() as libc::c_int;
        let mut ready = Ready::default();
        let waited = spin::wait(self.spin, timeout, |timeout| {
            // select leaves nothing in the sets but those that are ready.
            (ready.read, ready.write) = (self.read, self.write);
            if let Some(listener) = listener {
                ready.read.insert(member(listener));
            }
            let mut timeout = timeout.map(microseconds);
            calls::may_block("select", NONE, || {
                let (read, write) = (&mut ready.read, &mut ready.write);
                let count = select(nfds, read, write, None, timeout.as_mut())?;
                Ok(count as usize)
            })
        });
        match waited {
            Ok(count) => ready.count = count,
            // A signal. The timers are looked at, then it waits on.
            Err(Errno::EINTR) => ready.count = 0,
            Err(errno) => return Err(Failure::new("cannot wait for events", errno)),
        }
        ready.nfds = nfds;
        Ok(ready)
    }
}

/// What select has left in the sets.
#[derive(Default)]
struct Ready {
    read: FdSet<'static>,
    write: FdSet<'static>,
    nfds: libc::c_int,
    count: usize,
}

impl Ready {
    /// The descriptors that are ready, each with how, in the words of the log. No more is looked at
    /// when all have been found.
    fn descriptors(&self) -> impl Iterator<Item = (RawFd, &'static str)> {
        let highest = Some(self.nfds - 1);
        let [read, write] = [(&self.read, " readable"), (&self.write, " writable")]
            .map(|(set, how)| set.fds(highest).map(move |fd| (fd.as_raw_fd(), how)));
        read.chain(write).take(self.count)
    }
}

fn fits(fd: RawFd) -> bool {
    (fd as usize) < FD_SETSIZE
}

/// A descriptor as a member of a set.
fn member(fd: RawFd) -> BorrowedFd<'static> {
    #[expect(unsafe_code)]
    // SAFETY: a set keeps the number only, and it is taken out before the descriptor is closed.
    unsafe {
        BorrowedFd::borrow_raw(fd)
    }
}

/// Rounded up, so that it does not wake up too early, again and again.
fn microseconds(timeout: Duration) -> TimeVal {
    TimeVal::microseconds(timeout.as_nanos().div_ceil(1000) as i64)
}
