//! A thread per client: accept, spawn; the thread serves, the main thread accepts the next
//! (UNP 26.4).
//!
//! What it costs: a thread's stack and a scheduler entry per connection; creating one is several
//! times cheaper than a fork. What it gives: the code of one connection reads from top to bottom,
//! and threads share the server's memory, which is also what they must take care of.
//!
//! What to look for: `ps -L` shows one process with a thread per client, each in read; one
//! descriptor table for all, so nobody closes a copy of anything.
//!
//! Limit: where no thread can be created (EAGAIN: threads-max, pids.max, `ulimit -u`), that
//! connection is closed with a log line and the server goes on.
//!
//! Signals go to the main thread. To stop a thread that is blocked in read or write, it is
//! interrupted again and again until it has noticed (see [`signals`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc;
use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children;
use crate::cli::Config;
use crate::counters::{Counters, Live, log_status};
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::{signals, socket};

/// Enough for echo() and a log line; the buffer is on the heap.
const STACK: usize = 128 * 1024;

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    server.announce();
    let started = Instant::now();
    let crew = Arc::new(Crew::default());
    let mut exhaustion = Exhaustion::default();
    loop {
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            let live = Live {
                threads: Some(crew.count()),
                ..Live::default()
            };
            log_status(server.config.model, started, server.counters, live);
        }
        if pending.stop {
            break;
        }
        if crew.count() >= server.config.max_connections {
            crew.wait_for_one_to_leave(signals::TICK);
            continue;
        }
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                exhaustion.ended();
                start_thread(&server, &crew, stream, peer);
            }
            Err(Refusal::Interrupted) if server.config.commits(Mistake::FatalEintr) => {
                return Err(accept::fatal_eintr());
            }
            Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
            Err(Refusal::Exhausted(errno)) => {
                exhaustion.began(errno, crew.count());
                crew.wait_for_one_to_leave(accept::PAUSE);
            }
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
    }
    stop(server, &crew);
    Ok(())
}

fn start_thread(server: &Server, crew: &Arc<Crew>, stream: OwnedFd, peer: Peer) {
    let nth = server.counters.accepted.fetch_add(1, Relaxed);
    let (config, counters, member) = (server.config.clone(), server.counters, crew.join(nth));
    log::info!("accepted {peer}: thread {nth}");
    let spawned = thread::Builder::new()
        .name(format!("echo {nth}"))
        .stack_size(STACK)
        .spawn(move || be_thread(&config, counters, &member, stream, peer));
    match spawned {
        Ok(thread) => crew.keep(nth, thread),
        Err(error) => {
            // The closure is gone, and with it the connection and the membership.
            server.counters.refused.fetch_add(1, Relaxed);
            server.counters.closed.fetch_add(1, Relaxed);
            log::warn!(
                "refused {peer}: cannot start a thread: {}",
                calls::errno(&error)
            );
        }
    }
}

fn be_thread(config: &Config, counters: &Counters, member: &Member, stream: OwnedFd, peer: Peer) {
    signals::leave_to_main_thread();
    member.can_be_interrupted();
    let (end, echoed) = echo(
        stream.as_fd(),
        Policy::new(config, &mut || {}),
        counters.tally(member.nth),
    );
    let discarded = socket::prepare_close(&stream, end);
    counters.discarded.fetch_add(discarded, Relaxed);
    calls::close(stream);
    counters.closed.fetch_add(1, Relaxed);
    end.log(peer, echoed);
}

/// The clients that are queued by now get a thread each, which gives them what they are owed; then
/// the threads are interrupted until all have left.
fn stop(server: Server, crew: &Arc<Crew>) {
    server.counters.stopping();
    server.listener.do_not_block();
    while signals::in_time(server.config.grace) {
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => start_thread(&server, crew, stream, peer),
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            // Those that are owed nothing leave at once, and make room.
            Err(Refusal::Exhausted(_)) if crew.interrupt() > 0 => {
                crew.wait_for_one_to_leave(signals::TICK);
            }
            Err(_) => break,
        }
    }
    server.listener.close();
    // Threads reset what is stuck by themselves at the end of the grace, or at the second signal:
    // when they are interrupted next.
    while crew.interrupt() > 0 {
        signals::tell_why_waiting(crew.count(), server.config.grace);
        crew.wait_for_all_to_leave(signals::TICK);
    }
    server.counters.stopped();
}

/// The threads that serve somebody.
///
/// They are not detached but joined, by those that leave later: pthread_detach(3) looks at the
/// thread a last time after it has let go of it, and if the thread has ended meanwhile and its
/// stack has been given back, that is a crash (glibc 2.36; rare, for it keeps 40 MiB of stacks).
#[derive(Default)]
struct Crew {
    threads: Mutex<Threads>,
    one_left: Condvar,
    leaving: Mutex<Vec<JoinHandle<()>>>,
}

type Threads = HashMap<u64, Place>;

/// What is known of a thread; both come some time after it has been started.
#[derive(Default)]
struct Place {
    itself: Option<libc::pthread_t>,
    handle: Option<JoinHandle<()>>,
}

impl Crew {
    fn join(self: &Arc<Self>, nth: u64) -> Member {
        self.lock().insert(nth, Place::default());
        Member {
            crew: Arc::clone(self),
            nth,
        }
    }

    /// The thread of this member has been started.
    fn keep(&self, nth: u64, handle: JoinHandle<()>) {
        if let Some(place) = self.lock().get_mut(&nth) {
            place.handle = Some(handle);
            return;
        }
        // It has left already.
        join(handle);
    }

    fn count(&self) -> usize {
        self.lock().len()
    }

    /// Interrupts the blocked calls of all. Returns how many there are.
    fn interrupt(&self) -> usize {
        let threads = self.lock();
        // A thread that is in the table has not ended: it leaves under this lock.
        threads
            .values()
            .filter_map(|place| place.itself)
            .for_each(signals::interrupt);
        threads.len()
    }

    /// Waits for a thread to leave, but not for long: a signal does not end this wait.
    fn wait_for_one_to_leave(&self, at_most: Duration) {
        let threads = self.lock();
        drop(self.one_left.wait_timeout(threads, at_most));
    }

    /// Waits for all to leave, but not for long. To interrupt the others whenever one leaves would be
    /// quadratic, under the lock that the leaving wait for: 4,000 threads took 10 s to stop.
    fn wait_for_all_to_leave(&self, at_most: Duration) {
        let threads = self.lock();
        let some_left = |threads: &mut Threads| !threads.is_empty();
        drop(
            self.one_left
                .wait_timeout_while(threads, at_most, some_left),
        );
    }

    /// Of a thread that leaves: joins those that have come to their end, and is joined later. It
    /// does not wait for those that are still leaving: they do the same, and all would queue up.
    fn leave(&self, handle: JoinHandle<()>) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, mut others): (Vec<_>, Vec<_>) = std::mem::take(&mut *leaving)
            .into_iter()
            .partition(JoinHandle::is_finished);
        others.push(handle);
        *leaving = others;
        drop(leaving);
        ended.into_iter().for_each(join);
    }

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For threads that are about to end.
fn join(handle: JoinHandle<()>) {
    // A panic has been told by the one that panicked.
    let _ = handle.join();
}

/// One thread's place in the crew, left when it is dropped: also by a panic, and also when the
/// thread could not be created.
struct Member {
    crew: Arc<Crew>,
    nth: u64,
}

impl Member {
    /// Called by the thread itself.
    fn can_be_interrupted(&self) {
        if let Some(place) = self.crew.lock().get_mut(&self.nth) {
            place.itself = Some(signals::this_thread());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let place = self.crew.lock().remove(&self.nth);
        self.crew.one_left.notify_one();
        // If it has not been kept yet, the one who comes to keep it joins it.
        if let Some(handle) = place.and_then(|place| place.handle) {
            self.crew.leave(handle);
        }
    }
}
