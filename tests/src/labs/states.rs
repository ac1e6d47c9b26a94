//! The states that the sockets of a port go through, with the time at which each was first seen.
//!
//! An ordinary user cannot be told of a change of state, he has to look: a thread looks every
//! millisecond, so a state is seen up to a millisecond late, and one that is shorter may be missed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::observe::sockets::{self, Socket, State};

const INTERVAL: Duration = Duration::from_millis(1);

/// A socket was first seen in this state, or (None) no longer seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, in nanoseconds of `CLOCK_REALTIME`.
    pub at: u64,
    /// The socket's own address.
    pub local: SocketAddr,
    /// The address of its peer.
    pub remote: SocketAddr,
    /// The state.
    pub state: Option<State>,
}

/// Changes in the making.
#[derive(Debug)]
pub struct StateLog {
    changes: Arc<Mutex<Vec<Change>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StateLog {
    /// Watches all sockets with this port on either side, until dropped.
    pub fn watch(port: u16) -> Self {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, ended) = (Arc::clone(&changes), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut before = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                if let Ok(all) = sockets::tcp() {
                    let sockets = sockets::with_port(&all, port);
                    let news = difference(now(), &before, &sockets);
                    log.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(news);
                    before = sockets;
                }
                thread::sleep(INTERVAL);
            }
        });
        Self {
            changes,
            stop,
            thread: Some(thread),
        }
    }

    /// The changes so far.
    pub fn changes(&self) -> Vec<Change> {
        let changes = self.changes.lock();
        changes.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for StateLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads; if it panicked there is nothing to save.
            let _ = thread.join();
        }
    }
}

/// Nanoseconds of `CLOCK_REALTIME`.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

fn difference(at: u64, before: &[Socket], after: &[Socket]) -> Vec<Change> {
    let same = |a: &Socket, b: &Socket| (a.local, a.remote) == (b.local, b.remote);
    let change = |socket: &Socket, state| Change {
        at,
        local: socket.local,
        remote: socket.remote,
        state,
    };
    let new = after.iter().filter(|socket| {
        let old = before.iter().find(|old| same(old, socket));
        old.is_none_or(|old| old.state != socket.state)
    });
    let gone = before
        .iter()
        .filter(|old| !after.iter().any(|new| same(old, new)));
    new.map(|socket| change(socket, Some(socket.state)))
        .chain(gone.map(|socket| change(socket, None)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16, state: State) -> Socket {
        Socket {
            local: ([127, 0, 0, 1], port).into(),
            remote: ([127, 0, 0, 1], 9877).into(),
            state,
            recv_q: 0,
            send_q: 0,
            inode: 1,
        }
    }

    #[test]
    fn only_changes_are_news() {
        let before = [socket(1, State::Established), socket(2, State::Established)];
        let after = [socket(1, State::CloseWait), socket(3, State::SynSent)];
        let news = difference(7, &before, &after);
        let seen: Vec<_> = news.iter().map(|c| (c.local.port(), c.state)).collect();
        let expected = [
            (1, Some(State::CloseWait)),
            (3, Some(State::SynSent)),
            (2, None),
        ];
        assert_eq!(seen, expected);
        assert_eq!(difference(8, &after, &after), []);
    }
}
