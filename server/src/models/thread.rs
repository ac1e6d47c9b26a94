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

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children;
use crate::cli::Config;
use crate::counters::{Counters, Live, log_status};
use crate::crew::Crew;
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::{signals, socket};

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
    let (config, counters) = (server.config.clone(), server.counters);
    log::info!("accepted {peer}: thread {nth}");
    let work = move || be_thread(&config, counters, nth, stream, peer);
    if let Err(errno) = crew.start("echo", nth, work) {
        // The closure is gone, and with it the connection.
        server.counters.refused.fetch_add(1, Relaxed);
        server.counters.closed.fetch_add(1, Relaxed);
        log::warn!("refused {peer}: cannot start a thread: {errno}");
    }
}

fn be_thread(config: &Config, counters: &Counters, nth: u64, stream: OwnedFd, peer: Peer) {
    // A panic closes the connection, and has been told by the one that panicked.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let mut interrupted = || {};
        let policy = Policy::new(config, &mut interrupted);
        let (end, echoed) = echo(stream.as_fd(), policy, counters.tally(nth));
        let discarded = socket::prepare_close(&stream, end);
        counters.discarded.fetch_add(discarded, Relaxed);
        calls::close(stream);
        end.log(peer, echoed);
    }));
    counters.closed.fetch_add(1, Relaxed);
}

/// The clients that are queued by now get a thread each, which gives them what they are owed; then
/// the threads are interrupted until all have left.
fn stop(server: Server, crew: &Arc<Crew>) {
    server.counters.stopping();
    server.listener.do_not_block();
    while signals::in_time(server.config.grace) {
        // Asked before: if the last of them has left meanwhile, there is room now.
        let somebody_leaves = crew.count() > 0;
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => start_thread(&server, crew, stream, peer),
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            // Those that are owed nothing leave at once, and make room.
            Err(Refusal::Exhausted(_)) if somebody_leaves => {
                crew.interrupt();
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
