//! The states that the two sockets of a connection go through, with the time at which each was
//! first seen.
//!
//! An ordinary user cannot be told of a change of state, he has to look: a thread looks every
//! half millisecond, so a state is seen that much late, and one that is shorter may be missed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::narrate::ladder::Side;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::State;

const INTERVAL: Duration = Duration::from_micros(500);

/// A socket was first seen in this state, or (None) was first seen to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, in nanoseconds of `CLOCK_REALTIME`.
    pub at: u64,
    /// Whose socket.
    pub side: Side,
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
    /// Watches a connection between two addresses, until dropped.
    pub fn watch(client: SocketAddr, server: SocketAddr) -> Result<Self> {
        let diag = SockDiag::open()?;
        let changes = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, ended) = (Arc::clone(&changes), Arc::clone(&stop));
        let sides = [
            (Side::Client, client, server),
            (Side::Server, server, client),
        ];
        let look = move |diag: &SockDiag, log: &Mutex<Vec<Change>>| {
            for (side, local, remote) in sides {
                let state = diag.state(local, remote).unwrap_or(None);
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                note(&mut log, now(), side, state);
            }
        };
        look(&diag, &log);
        let thread = thread::Builder::new()
            .name("states".into())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    look(&diag, &log);
                    thread::sleep(INTERVAL);
                }
            })?;
        Ok(Self {
            changes,
            stop,
            thread: Some(thread),
        })
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

/// Adds what was seen if it is news.
fn note(changes: &mut Vec<Change>, at: u64, side: Side, state: Option<State>) {
    let before = changes.iter().rev().find(|change| change.side == side);
    if before.is_none_or(|before| before.state != state) {
        changes.push(Change { at, side, state });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_news() {
        let mut changes = Vec::new();
        let (established, waiting) = (Some(State::Established), Some(State::CloseWait));
        note(&mut changes, 1, Side::Client, established);
        note(&mut changes, 2, Side::Server, established);
        note(&mut changes, 3, Side::Client, established);
        note(&mut changes, 4, Side::Client, waiting);
        note(&mut changes, 5, Side::Client, None);
        note(&mut changes, 6, Side::Client, None);
        let times: Vec<_> = changes.iter().map(|change| change.at).collect();
        assert_eq!(times, [1, 2, 4, 5]);
    }
}
