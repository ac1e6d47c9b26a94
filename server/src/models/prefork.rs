//! A pool of processes, forked in advance: each accepts, serves that one client to the end, accepts
//! the next (UNP 30.6-30.8). The parent never serves: it waits for signals, and replaces workers
//! that have died.
//!
//! What it costs: N processes for as long as the server runs, and nothing per connection: no fork
//! while a client waits. What it gives: processes share nothing but the listening socket; one that
//! crashes takes one client with it, and is replaced. Those that die as soon as they are started are
//! started again ever less often.
//!
//! All workers are blocked in accept on the same socket, which they have inherited; the kernel wakes
//! one of them per client. Where it woke them all (the thundering herd), or where accept by several
//! processes failed, they had to take turns: `--accept-lock` shows how (UNP 30.7). It costs two
//! system calls per connection, and a worker that is stopped while it holds the lock stops all.
//!
//! What to look for: `ps` shows the same number of processes with and without clients, in accept or
//! in read; client N+1 connects and gets no answer, `ss -ltn` shows it as Recv-Q of the listener,
//! `ss -ltnp` all the processes that listen. With `-v` one sees which worker accepts whom: they take
//! turns, for who has waited longest is woken first. With `--accept-lock`, `/proc/locks` shows the
//! holder, and all the others wait in fcntl.
//!
//! Limit: N clients, however idle; so there is no `--max-connections`. Where not all workers can be
//! forked, the server works with those it has and keeps trying. Workers end with their parent, even
//! if it is killed with SIGKILL: what they owe they deliver within the grace; who was queued is reset.

use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use tcpecho_common::calls;

use super::Server;
use crate::accept::{self, Blocking, Peer, Refusal, accept};
use crate::children::{self, Children};
use crate::counters::{Live, Tally, log_status};
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::pool::Worker;
use crate::{signals, socket};

/// A worker that has lived this long has not died as soon as it was started.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

pub(super) fn serve(server: &Server) -> Result<(), Failure> {
    signals::believe(&server.counters.now);
    let started = Instant::now();
    let mut pool = Pool::new(server)?;
    let filled = pool.fill();
    if pool.children.count() == 0 {
        return filled.map_err(|errno| Failure::new("cannot fork a worker", errno));
    }
    server.announce();
    loop {
        let pending = signals::pending();
        if pending.child {
            pool.reap();
        }
        if pending.status {
            let live = Live {
                children: Some((pool.children.count(), pool.children.reaped())),
                workers: server.config.workers,
                ..Live::default()
            };
            log_status(server.config.model, started, server.counters, live);
        }
        if pending.stop {
            break;
        }
        if let Some(errno) = server.counters.scoreboard.failure() {
            pool.children.end(server.config.grace, &server.counters.now);
            return Err(accept::failure(errno));
        }
        // Whoever could not be started is started later.
        let _ = pool.fill();
        signals::wait(pool.backoff.next_look());
    }
    pool.stop();
    Ok(())
}

/// The workers, as their parent sees them.
struct Pool<'a> {
    server: &'a Server,
    lock: Option<AcceptLock>,
    children: Children,
    /// Place n is that of worker n, and empty when it has died.
    places: Vec<Option<Place>>,
    backoff: Backoff,
}

struct Place {
    worker: Worker,
    child: Pid,
    since: Instant,
}

impl<'a> Pool<'a> {
    fn new(server: &'a Server) -> Result<Self, Failure> {
        let lock = server.config.accept_lock.then(AcceptLock::new);
        Ok(Self {
            server,
            lock: lock.transpose()?,
            children: Children::default(),
            places: (0..server.config.workers).map(|_| None).collect(),
            backoff: Backoff::new(),
        })
    }

    /// Starts the workers that are missing, unless it is too early for that.
    fn fill(&mut self) -> nix::Result<()> {
        if self.backoff.left().is_some() {
            return Ok(());
        }
        for number in 0..self.places.len() {
            if self.places[number].is_none() {
                let place = self.start(number);
                let place = place.inspect_err(|errno| self.backoff.failed("fork", errno))?;
                self.children.add(place.child, number as u64);
                self.places[number] = Some(place);
            }
        }
        Ok(())
    }

    fn start(&self, number: usize) -> nix::Result<Place> {
        let worker = Worker::new(number, self.server.counters);
        let forked = fork_to(|| self.be_worker(&worker));
        let child = forked.inspect_err(|_| worker.is_gone())?;
        log::info!("started worker {number}: child {child}");
        Ok(Place {
            worker,
            child,
            since: Instant::now(),
        })
    }

    fn reap(&mut self) {
        self.children.reap(&self.server.config);
        for place in &mut self.places {
            let is_dead = |place: &mut Place| !self.children.contains(place.child);
            if let Some(dead) = place.take_if(is_dead) {
                dead.worker.is_gone();
                let lived = dead.since.elapsed();
                if lived < LONG_ENOUGH {
                    self.backoff
                        .failed("the last one lived", &format_args!("{lived:.0?}"));
                }
            }
        }
    }

    fn be_worker(&self, worker: &Worker) {
        let listener = &self.server.listener;
        let mut listens = true;
        while !signals::pending().stop {
            match self.accept() {
                Ok((stream, peer)) => {
                    worker.serves();
                    log::info!("accepted {peer}: worker {}", worker.number);
                    let mut interrupted = || {
                        // Its parent may be gone, and so cannot do it for all.
                        if signals::pending().stop && std::mem::take(&mut listens) {
                            listener.close_in_child();
                        }
                    };
                    self.talk(worker.tally(), &stream, peer, &mut interrupted);
                    calls::close(stream);
                    worker.has_served();
                }
                Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
                Err(Refusal::Exhausted(errno)) => {
                    signals::wait(Some(worker.rests(errno)));
                    worker.tries_again();
                }
                // Its parent has stopped listening for all.
                Err(Refusal::Fatal(_)) if signals::stopping() => {}
                Err(Refusal::Fatal(errno)) => {
                    worker.fails(errno);
                    return;
                }
            }
        }
    }

    /// Waits for a client; with the lock, first for its turn.
    fn accept(&self) -> Result<(OwnedFd, Peer), Refusal> {
        let turn = self.lock.as_ref().map(AcceptLock::take);
        let _turn = turn.transpose().map_err(Refusal::from)?;
        accept(&self.server.listener, Blocking::Yes)
    }

    fn talk(&self, tally: &Tally, stream: &OwnedFd, peer: Peer, interrupted: &mut dyn FnMut()) {
        let policy = Policy::new(&self.server.config, interrupted);
        let (end, echoed) = echo(stream.as_fd(), policy, tally);
        let discarded = socket::prepare_close(stream, end);
        self.server.counters.discarded.fetch_add(discarded, Relaxed);
        end.log(peer, echoed);
    }

    /// All workers may be busy with what they owe, and the clients that are queued by now must not
    /// wait for them: each gets a child of its own, this once. The workers accept nobody any more;
    /// then nobody listens, and all are waited for.
    fn stop(mut self) {
        let Server {
            listener,
            config,
            counters,
        } = self.server;
        counters.stopping();
        self.children.tell_to_stop();
        listener.do_not_block();
        while signals::in_time(config.grace) {
            match accept(listener, Blocking::Yes) {
                Ok((stream, peer)) => self.start_helper(stream, peer),
                Err(Refusal::Interrupted | Refusal::Lost) => {}
                Err(_) => break,
            }
        }
        // To close our descriptor would not do: busy workers have theirs.
        listener.shut_down();
        let killed = self.children.end(config.grace, &counters.now);
        if killed > 0 {
            log::warn!("had to kill children that had not stopped: {killed}");
        }
        counters.stopped();
    }

    fn start_helper(&mut self, stream: OwnedFd, peer: Peer) {
        let Server {
            listener, counters, ..
        } = self.server;
        counters.accepted.fetch_add(1, Relaxed);
        let forked = fork_to(|| {
            listener.close_in_child();
            let tally = counters.tally(self.places.len() as u64);
            let mut interrupted = || _ = signals::pending();
            self.talk(tally, &stream, peer, &mut interrupted);
            // Leaving closes the connection.
            counters.closed.fetch_add(1, Relaxed);
        });
        match forked {
            Ok(child) => {
                self.children.add(child, self.places.len() as u64);
                log::info!("accepted {peer}: child {child}");
            }
            Err(errno) => {
                counters.refused.fetch_add(1, Relaxed);
                counters.closed.fetch_add(1, Relaxed);
                log::warn!("refused {peer}: cannot fork: {errno}");
            }
        }
        calls::close(stream);
    }
}

/// Forks a child that does this and leaves; only the parent returns. A signal may come at any moment:
/// the handler knows in which of the two it runs.
#[expect(unsafe_code)]
fn fork_to(work: impl FnOnce()) -> nix::Result<Pid> {
    let parent = getpid();
    let fork = || {
        // SAFETY: this process has one thread, so no lock is held by another.
        unsafe { fork() }.map(|side| match side {
            ForkResult::Parent { child } => child,
            ForkResult::Child => Pid::from_raw(0),
        })
    };
    let child = calls::at_once("fork", -1, fork)?;
    if child.as_raw() == 0 {
        // A panic must not unwind into the parent's loop.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            signals::become_child();
            signals::end_with_parent(parent);
            work();
        }));
        children::leave();
    }
    Ok(child)
}

/// How long to wait before workers are started again that die as soon as they are started.
struct Backoff {
    /// Twice as long from one failure to the next; zero when all is well.
    delay: Duration,
    until: Instant,
    told: bool,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LAST: Duration = Duration::from_secs(2);

    fn new() -> Self {
        Self {
            delay: Duration::ZERO,
            until: Instant::now(),
            told: false,
        }
    }

    /// How long nobody shall be started, if it is too early now.
    fn left(&self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// A worker could not be started, or has died at once. Of all that were started together the
    /// first one counts.
    fn failed(&mut self, what: &str, how: &dyn Display) {
        if self.left().is_some() {
            return;
        }
        self.delay = (self.delay * 2).clamp(Self::FIRST, Self::LAST);
        self.until = Instant::now() + self.delay;
        // Once is no episode.
        if self.delay > Self::FIRST && !std::mem::replace(&mut self.told, true) {
            log::warn!(
                "workers do not stay alive ({what}: {how}): starting them ever less often, at \
                 last every {:?}",
                Self::LAST
            );
        }
    }

    /// When to look whether it is time to start workers, or whether they have stayed alive; None if
    /// there is no reason to look.
    fn next_look(&mut self) -> Option<Duration> {
        if self.delay.is_zero() || self.left().is_some() {
            return self.left();
        }
        // They were started when the delay was over.
        let settled = self.until + LONG_ENOUGH;
        let left = settled.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Some(left);
        }
        if std::mem::replace(self, Self::new()).told {
            log::warn!("workers stay alive again");
        }
        None
    }
}

/// Whoever holds it may accept. The kernel gives it back when the holder dies, however it dies.
///
/// A lock of fcntl(2) belongs to the process; one of flock(2) belongs to the open file, which all
/// workers have inherited, and would keep nobody out.
struct AcceptLock(OwnedFd);

impl AcceptLock {
    /// On a file that has no name and is gone with the server.
    fn new() -> Result<Self, Failure> {
        memfd_create(c"accept lock", MFdFlags::MFD_CLOEXEC)
            .map(Self)
            .map_err(|errno| Failure::new("cannot create the file for the accept lock", errno))
    }

    /// Waits for it.
    fn take(&self) -> nix::Result<Turn<'_>> {
        self.set(libc::F_WRLCK)?;
        Ok(Turn(self))
    }

    fn set(&self, what: libc::c_int) -> nix::Result<()> {
        let whole_file = libc::flock {
            l_type: what as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        let set = || fcntl(&self.0, FcntlArg::F_SETLKW(&whole_file)).map(drop);
        calls::may_block("fcntl", self.0.as_raw_fd(), set)
    }
}

/// Has the lock until it is dropped.
struct Turn<'a>(&'a AcceptLock);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Giving back neither waits nor fails.
        let _ = self.0.set(libc::F_UNLCK);
    }
}
