//! A pool of threads, started in advance: each accepts, serves that one client to the end, accepts
//! the next (UNP 30.11). The main thread only waits for signals.
//!
//! What it costs: N stacks for as long as the server runs, and nothing per connection: no thread is
//! created and none ends while clients come and go.
//!
//! Why accept in each thread, and not one that accepts and hands over (UNP 30.12): the kernel has a
//! queue already, the backlog, and wakes one of the threads that wait there. A second queue needs a
//! lock, takes two thread switches per connection, and hides who is waiting: a client in it is
//! accepted, holds a descriptor, and gets no answer.
//!
//! What to look for: `ps -L` shows the same number of threads with and without clients, in accept or
//! in read; client N+1 connects and gets no answer, `ss -ltn` shows it as Recv-Q of the listener.
//! With `-v` one sees which worker accepts whom: they take turns, for who has waited longest is
//! woken first.
//!
//! Limit: N clients, however idle; so there is no `--max-connections`. Where not all threads can be
//! started, the server works with those it has. A thread that waits in accept has reserved a
//! descriptor for its next client: the limit (`ulimit -n`) is reached N earlier.
//!
//! A panic ends one connection: the worker catches it and accepts the next client.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tcpecho_common::calls;

use super::Server;
use crate::accept::{self, Blocking, Peer, Refusal, accept};
use crate::children;
use crate::counters::{Live, Tally, log_status};
use crate::crew::Crew;
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::pool::Worker;
use crate::{signals, socket};

/// What ps(1) shows of a thread.
const KIND: &str = "worker";

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    let started = Instant::now();
    let server = Arc::new(server);
    let crew = Arc::new(Crew::default());
    start_workers(&server, &crew)?;
    server.announce();
    loop {
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            let live = Live {
                threads: Some(server.counters.scoreboard.serving()),
                workers: server.config.workers,
                ..Live::default()
            };
            log_status(server.config.model, started, server.counters, live);
        }
        if pending.stop {
            break;
        }
        if let Some(errno) = server.counters.scoreboard.failure() {
            return Err(accept::failure(errno));
        }
        signals::wait(None);
    }
    stop(&server, &crew);
    Ok(())
}

/// As many as possible; one is enough to serve.
fn start_workers(server: &Arc<Server>, crew: &Arc<Crew>) -> Result<(), Failure> {
    let wanted = server.config.workers;
    for number in 0..wanted {
        let worker = Worker::new(number, server.counters);
        let theirs = Arc::clone(server);
        let started = crew.start(KIND, number as u64, move || {
            be_worker(&theirs, &worker);
        });
        match started {
            Ok(()) => {}
            Err(errno) if number == 0 => return Err(Failure::new("cannot start a thread", errno)),
            Err(errno) => {
                worker.is_gone();
                log::warn!(
                    "serving with {number} of {wanted} threads, no more can be started: {errno}"
                );
                break;
            }
        }
    }
    Ok(())
}

fn be_worker(server: &Server, worker: &Worker) {
    while !signals::stopping() {
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                worker.serves();
                log::info!("accepted {peer}: worker {}", worker.number);
                talk(server, worker.tally(), stream, peer);
                worker.has_served();
            }
            Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
            Err(Refusal::Exhausted(errno)) => {
                signals::wait(Some(worker.rests(errno)));
                worker.tries_again();
            }
            // The main thread has stopped listening.
            Err(Refusal::Fatal(_)) if signals::stopping() => {}
            Err(Refusal::Fatal(errno)) => {
                worker.fails(errno);
                signals::wake_main_thread();
                return;
            }
        }
    }
}

/// Serves one connection. A panic closes it, and has been told by the one that panicked.
fn talk(server: &Server, tally: &Tally, stream: OwnedFd, peer: Peer) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let mut interrupted = || {};
        let policy = Policy::new(&server.config, &mut interrupted);
        let (end, echoed) = echo(stream.as_fd(), policy, tally);
        let discarded = socket::prepare_close(&stream, end);
        server.counters.discarded.fetch_add(discarded, Relaxed);
        calls::close(stream);
        end.log(peer, echoed);
    }));
}

/// All workers may be busy with what they owe, and the clients that are queued by now must not wait
/// for them: each gets a thread of its own, this once. Then nobody listens any more, and all are
/// interrupted until they have left.
fn stop(server: &Arc<Server>, crew: &Arc<Crew>) {
    let counters = server.counters;
    counters.stopping();
    server.listener.do_not_block();
    let mut nth = server.config.workers as u64;
    while signals::in_time(server.config.grace) {
        // Asked before: if the last of them has left meanwhile, there is room now.
        let somebody_leaves = crew.count() > 0;
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                start_helper(server, crew, nth, stream, peer);
                nth += 1;
            }
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            // Those that are owed nothing leave at once, and make room.
            Err(Refusal::Exhausted(_)) if somebody_leaves => {
                crew.interrupt();
                crew.wait_for_one_to_leave(signals::TICK);
            }
            Err(_) => break,
        }
    }
    // The descriptor stays open: a worker may be about to use its number.
    server.listener.shut_down();
    // Threads reset what is stuck by themselves at the end of the grace, or at the second signal:
    // when they are interrupted next.
    while crew.interrupt() > 0 {
        signals::tell_why_waiting(crew.count(), server.config.grace);
        crew.wait_for_all_to_leave(signals::TICK);
    }
    counters.stopped();
}

fn start_helper(server: &Arc<Server>, crew: &Arc<Crew>, nth: u64, stream: OwnedFd, peer: Peer) {
    let counters = server.counters;
    counters.accepted.fetch_add(1, Relaxed);
    log::info!("accepted {peer}: thread {nth}");
    let theirs = Arc::clone(server);
    let started = crew.start(KIND, nth, move || {
        talk(&theirs, theirs.counters.tally(nth), stream, peer);
        theirs.counters.closed.fetch_add(1, Relaxed);
    });
    if let Err(errno) = started {
        counters.refused.fetch_add(1, Relaxed);
        counters.closed.fetch_add(1, Relaxed);
        log::warn!("refused {peer}: cannot start a thread: {errno}");
    }
}
