//! One client at a time: accept, serve to the end, accept the next (UNP 1.5).
//!
//! What it costs: nothing; it is the smallest server there is. What it cannot: the second client
//! connects, because the kernel completes the handshake and queues it, types, and gets no answer
//! until the first has left.
//!
//! What to look for: `ps` shows one process, waiting in accept or in read; `ss -ltn` shows the
//! waiting clients as Recv-Q of the listener, `ss -tn` their unread bytes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::counters::{Live, log_status};
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::{signals, socket};

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    server.announce();
    let started = Instant::now();
    let mut exhaustion = Exhaustion::default();
    loop {
        if look_at_signals(&server, started) {
            break;
        }
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                exhaustion.ended();
                talk(&server, started, stream, peer);
            }
            Err(Refusal::Interrupted) if server.config.commits(Mistake::FatalEintr) => {
                return Err(accept::failure(nix::errno::Errno::EINTR));
            }
            Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
            Err(Refusal::Exhausted(errno)) => {
                exhaustion.began(errno, 0);
                accept::pause();
            }
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
    }
    stop(server, started);
    Ok(())
}

/// True once the server has been told to stop.
fn look_at_signals(server: &Server, started: Instant) -> bool {
    let pending = signals::pending();
    if pending.status {
        log_status(
            server.config.model,
            started,
            server.counters,
            Live::default(),
        );
    }
    pending.stop
}

fn talk(server: &Server, started: Instant, stream: OwnedFd, peer: Peer) {
    let nth = server.counters.accepted.fetch_add(1, Relaxed);
    log::info!("accepted {peer}");
    let mut interrupted = || _ = look_at_signals(server, started);
    let policy = Policy::new(&server.config, &mut interrupted);
    let (end, echoed) = echo(stream.as_fd(), policy, server.counters.tally(nth));
    socket::prepare_close(&stream, end);
    calls::close(stream);
    server.counters.closed.fetch_add(1, Relaxed);
    end.log(peer, echoed);
}

/// The clients that are queued by now get what they are owed, one after the other.
fn stop(server: Server, started: Instant) {
    server.counters.stopping();
    server.listener.do_not_block();
    while signals::in_time(server.config.grace) {
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => talk(&server, started, stream, peer),
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            Err(_) => break,
        }
    }
    server.listener.close();
    server.counters.stopped();
}
