//! One client at a time: accept, serve to the end, accept the next (UNP 1.5).
//!
//! What it costs: nothing; it is the smallest server there is. What it cannot: the second client
//! connects, because the kernel completes the handshake and queues it, types, and gets no answer
//! until the first has left.
//!
//! What to look for: `ps` shows one process, waiting in accept or in read; `ss -ltn` shows the
//! waiting clients as Recv-Q of the listener, `ss -tn` their unread bytes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children;
use crate::cli::Config;
use crate::counters::{Counters, Live, log_status};
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::listener::Listener;
use crate::{signals, socket};

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    server.announce();
    let mut desk = Desk {
        listener: Some(server.listener),
        queue: VecDeque::new(),
        unfinished: None,
        config: server.config,
        counters: server.counters,
        started: Instant::now(),
    };
    let mut exhaustion = Exhaustion::default();
    loop {
        desk.look_at_signals();
        let Some(listener) = &desk.listener else {
            break;
        };
        match accept(listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                exhaustion.ended();
                desk.counters.accepted.fetch_add(1, Relaxed);
                desk.talk(stream, peer);
                if desk.config.commits(Mistake::OneClient) {
                    break;
                }
            }
            Err(Refusal::Interrupted) if desk.config.commits(Mistake::FatalEintr) => {
                return Err(accept::fatal_eintr());
            }
            Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
            Err(Refusal::Exhausted(errno)) => {
                exhaustion.began(errno, 0);
                accept::pause();
            }
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
    }
    // Those that were queued when the signal came get what they are owed, one after the other.
    while let Some((stream, peer)) = desk.next_queued() {
        desk.talk(stream, peer);
    }
    desk.counters.stopped();
    Ok(())
}

struct Desk {
    /// None once the server stops.
    listener: Option<Listener>,
    /// Accepted when the server was told to stop, and not served yet.
    queue: VecDeque<(OwnedFd, Peer)>,
    /// There was no descriptor for everybody when the server was told to stop.
    unfinished: Option<Listener>,
    config: Config,
    counters: &'static Counters,
    started: Instant,
}

impl Desk {
    /// Before accept, and whenever a signal has interrupted a talk.
    fn look_at_signals(&mut self) {
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            log_status(
                self.config.model,
                self.started,
                self.counters,
                Live::default(),
            );
        }
        if pending.stop {
            if let Some(listener) = self.listener.take() {
                self.counters.stopping();
                listener.do_not_block();
                self.let_in(listener);
            }
            signals::tell_why_waiting(self.queue.len() + 1, self.config.grace);
        }
    }

    /// Takes in whom the kernel has accepted for us, and stops listening when nobody is left.
    fn let_in(&mut self, listener: Listener) {
        loop {
            match accept(&listener, Blocking::Yes) {
                Ok((stream, peer)) => {
                    self.counters.accepted.fetch_add(1, Relaxed);
                    self.queue.push_back((stream, peer));
                }
                Err(Refusal::Interrupted | Refusal::Lost) => {}
                Err(Refusal::Exhausted(_)) => {
                    self.unfinished = Some(listener);
                    return;
                }
                Err(Refusal::Nobody | Refusal::Fatal(_)) => break,
            }
        }
        listener.close();
    }

    /// Whoever was queued when the signal came. A talk that has ended makes room for one more.
    fn next_queued(&mut self) -> Option<(OwnedFd, Peer)> {
        if let Some(listener) = self.unfinished.take() {
            self.let_in(listener);
        }
        self.queue.pop_front()
    }

    fn talk(&mut self, stream: OwnedFd, peer: Peer) {
        let (config, counters) = (self.config.clone(), self.counters);
        log::info!("accepted {peer}");
        let mut interrupted = || self.look_at_signals();
        let policy = Policy::new(&config, &mut interrupted);
        let (end, echoed) = echo(stream.as_fd(), policy, counters.tally(0));
        let discarded = socket::prepare_close(&stream, end);
        calls::close(stream);
        counters.discarded.fetch_add(discarded, Relaxed);
        counters.closed.fetch_add(1, Relaxed);
        end.log(peer, echoed);
    }
}
