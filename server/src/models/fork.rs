//! A process per client: accept, fork; the child serves, the parent accepts the next (UNP 4.8,
//! 5.2-5.10).
//!
//! What it costs: a fork per connection, and a process's memory for as long as it lasts. What it
//! gives: children share nothing, and the kernel shares the processors among them; one that
//! crashes takes one client with it.
//!
//! After accept the connection has one descriptor, after fork two, and the FIN is sent when the
//! last is closed: so the parent closes its copy at once, and the child closes its copy of the
//! listener. A child that ends stays in the process table until its parent has waited for it:
//! SIGCHLD interrupts accept, and the loop reaps.
//!
//! What to look for: `ps` shows the parent in accept and a child in read for every client, and no
//! `<defunct>`; `ss -tanp` shows the port twice: LISTEN with the parent's pid, ESTAB with a child's.
//!
//! Limit: where fork fails (EAGAIN: `ulimit -u`, a cgroup's pids.max; ENOMEM), that connection is
//! closed with a log line and the server goes on. A parent that is killed with SIGKILL leaves its
//! children serving.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nix::unistd::{ForkResult, Pid, fork};
use tcpecho_common::{Mistake, calls};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children::{self, Children};
use crate::counters::{Live, log_status};
use crate::echo::{Policy, echo};
use crate::failure::Failure;
use crate::{signals, socket};

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    signals::believe(&server.counters.now);
    server.announce();
    let started = Instant::now();
    let mut children = Children::default();
    let mut exhaustion = Exhaustion::default();
    loop {
        let pending = signals::pending();
        if pending.child {
            children.reap_and_count(&server.config, server.counters);
        }
        if pending.status {
            let live = Live {
                children: Some((children.count(), children.reaped())),
                ..Live::default()
            };
            log_status(server.config.model, started, server.counters, live);
        }
        if pending.stop {
            break;
        }
        if children.count() >= server.config.max_connections {
            // SIGCHLD ends the pause.
            accept::pause();
            continue;
        }
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => {
                exhaustion.ended();
                start_child(&server, &mut children, stream, peer);
            }
            Err(Refusal::Interrupted) if server.config.commits(Mistake::FatalEintr) => {
                return Err(accept::fatal_eintr());
            }
            Err(Refusal::Interrupted | Refusal::Lost | Refusal::Nobody) => {}
            Err(Refusal::Exhausted(errno)) => {
                exhaustion.began(errno, children.count());
                accept::pause();
            }
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
    }
    stop(server, children);
    Ok(())
}

fn start_child(server: &Server, children: &mut Children, stream: OwnedFd, peer: Peer) {
    let nth = server.counters.accepted.fetch_add(1, Relaxed);
    match split(server, &stream, peer, nth) {
        Ok(child) => {
            children.add(child, nth);
            log::info!("accepted {peer}: child {child}");
        }
        Err(errno) => {
            server.counters.refused.fetch_add(1, Relaxed);
            server.counters.closed.fetch_add(1, Relaxed);
            log::warn!("refused {peer}: cannot fork: {errno}");
        }
    }
    if server.config.commits(Mistake::LeakConnfd) {
        std::mem::forget(stream);
    } else {
        calls::close(stream);
    }
}

/// Forks; only the parent returns. A signal may come at any moment: the handler knows in which of the
/// two it runs.
#[expect(unsafe_code)]
fn split(server: &Server, stream: &OwnedFd, peer: Peer, nth: u64) -> nix::Result<Pid> {
    let fork = || {
        // SAFETY: this process has one thread, so no lock is held by another.
        unsafe { fork() }.map(|side| match side {
            ForkResult::Parent { child } => child,
            ForkResult::Child => Pid::from_raw(0),
        })
    };
    let child = calls::at_once("fork", -1, fork)?;
    if child.as_raw() == 0 {
        // A panic must not unwind into the accept loop: this process would become a second server.
        let _ = catch_unwind(AssertUnwindSafe(|| be_child(server, stream, peer, nth)));
        server.counters.closed.fetch_add(1, Relaxed);
        children::leave();
    }
    Ok(child)
}

fn be_child(server: &Server, stream: &OwnedFd, peer: Peer, nth: u64) {
    signals::become_child();
    if !server.config.commits(Mistake::KeepListenfd) {
        server.listener.close_in_child();
    }
    let mut interrupted = || _ = signals::pending();
    let policy = Policy::new(&server.config, &mut interrupted);
    let (end, echoed) = echo(stream.as_fd(), policy, server.counters.tally(nth));
    let discarded = socket::prepare_close(stream, end);
    server.counters.discarded.fetch_add(discarded, Relaxed);
    // Leaving closes the connection.
    end.log(peer, echoed);
}

/// The clients that are queued by now get a child each, which gives them what they are owed; then
/// the children are told to stop, and waited for.
fn stop(server: Server, mut children: Children) {
    server.counters.stopping();
    server.listener.do_not_block();
    while signals::in_time(server.config.grace) {
        match accept(&server.listener, Blocking::Yes) {
            Ok((stream, peer)) => start_child(&server, &mut children, stream, peer),
            Err(Refusal::Interrupted | Refusal::Lost) => {}
            Err(_) => break,
        }
    }
    // To close our descriptor would not do: a child that has just been forked may still have its own.
    server.listener.shut_down();
    server.listener.close();
    let killed = children.end(server.config.grace, &server.counters.now);
    if killed > 0 {
        log::warn!("had to kill children that had not stopped: {killed}");
    }
    server.counters.stopped();
}
