//! The states that the two sockets of a connection go through, with the time at which each was
//! first seen.
//!
//! An ordinary user cannot be told of a change of state, he has to look: a thread looks every
//! half millisecond, so a state is seen that much late (more on a busy machine), and one that is
//! shorter may be missed. Where the packets are known, a state that was seen is put where it
//! belongs: at the packet that caused it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::narrate::ladder::Side;
use crate::observe::packets::Packet;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::State;

const INTERVAL: Duration = Duration::from_micros(500);

/// A socket was first seen in this state, or (None) was first seen to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the kernel was asked, in nanoseconds of `CLOCK_REALTIME`; it cannot have been later
    /// that the state before was seen.
    pub asked: u64,
    /// When the answer was there: the change has been before that.
    pub answered: u64,
    /// Whose socket.
    pub side: Side,
    /// The state.
    pub state: Option<State>,
}

/// Changes in the making.
#[derive(Debug)]
pub struct StateLog {
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Log {
    /// Of the network namespace in which the watching began.
    diag: SockDiag,
    sides: [(Side, SocketAddr, SocketAddr); 2],
    changes: Mutex<Vec<Change>>,
}

impl StateLog {
    /// Watches a connection between two addresses, in this thread's network namespace, until dropped.
    pub fn watch(client: SocketAddr, server: SocketAddr) -> Result<Self> {
        let log = Arc::new(Log {
            diag: SockDiag::open()?,
            sides: [
                (Side::Client, client, server),
                (Side::Server, server, client),
            ],
            changes: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (watching, ended) = (Arc::clone(&log), Arc::clone(&stop));
        log.look();
        let thread = thread::Builder::new()
            .name("states".into())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    watching.look();
                    thread::sleep(INTERVAL);
                }
            })?;
        Ok(Self {
            log,
            stop,
            thread: Some(thread),
        })
    }

    /// The changes so far, up to this moment.
    pub fn changes(&self) -> Vec<Change> {
        self.log.look();
        let changes = self.log.changes.lock();
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

impl Log {
    /// Looks at both sockets. Who looks holds the changes, so that looks are in order.
    fn look(&self) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        for (side, local, remote) in self.sides {
            let asked = now();
            let state = self.diag.state(local, remote).unwrap_or(None);
            note(&mut changes, [asked, now()], side, state);
        }
    }
}

/// Adds what was seen if it is news.
fn note(changes: &mut Vec<Change>, [asked, answered]: [u64; 2], side: Side, state: Option<State>) {
    let before = changes.iter().rev().find(|change| change.side == side);
    if before.is_none_or(|before| before.state != state) {
        changes.push(Change {
            asked,
            answered,
            side,
            state,
        });
    }
}

impl Change {
    /// When it happened: at the packet of its connection that must have caused it, if that one had
    /// passed when it was seen; else when it was looked for.
    pub fn at(&self, client: SocketAddr, packets: &[Packet]) -> u64 {
        cause(self.side, self.state, client, packets)
            .filter(|cause| *cause <= self.answered)
            .unwrap_or(self.asked)
    }
}

/// The time of the packet that brings the socket of `side` into this state; RFC 9293, 3.3.2.
fn cause(side: Side, state: Option<State>, client: SocketAddr, packets: &[Packet]) -> Option<u64> {
    let own = |p: &&Packet| (p.from == client) == (side == Side::Client);
    let first = |is_it: &dyn Fn(&&Packet) -> bool| packets.iter().find(is_it);
    let own_fin = first(&|p| own(p) && p.flags.fin());
    let peers_fin = first(&|p| !own(p) && p.flags.fin()).map(|p| p.at);
    let acknowledged = || {
        let fin = own_fin?;
        let next = fin.seq.wrapping_add(fin.len as u32).wrapping_add(1);
        let ack = first(&|p| !own(p) && p.at > fin.at && p.flags.ack() && p.ack == next);
        ack.map(|p| p.at)
    };
    match state {
        Some(State::Established) if side == Side::Client => {
            first(&|p| !own(p) && p.flags.syn()).map(|p| p.at)
        }
        Some(State::Established) => first(&|p| !own(p) && !p.flags.syn()).map(|p| p.at),
        Some(State::FinWait1 | State::LastAck) => own_fin.map(|p| p.at),
        Some(State::FinWait2) => acknowledged(),
        Some(State::CloseWait | State::Closing) => peers_fin,
        Some(State::TimeWait) => Some(peers_fin?.max(acknowledged()?)),
        None => {
            let reset = first(&|p| p.flags.rst()).map(|p| p.at);
            // Only who was the second to send a FIN is gone with its acknowledgement.
            let second = own_fin.filter(|fin| peers_fin.is_some_and(|peers| peers < fin.at));
            reset.or_else(|| second.and_then(|_| acknowledged()))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_news() {
        let mut changes = Vec::new();
        let (established, waiting) = (Some(State::Established), Some(State::CloseWait));
        note(&mut changes, [1, 1], Side::Client, established);
        note(&mut changes, [2, 2], Side::Server, established);
        note(&mut changes, [3, 3], Side::Client, established);
        note(&mut changes, [4, 4], Side::Client, waiting);
        note(&mut changes, [5, 5], Side::Client, None);
        note(&mut changes, [6, 6], Side::Client, None);
        let times: Vec<_> = changes.iter().map(|change| change.asked).collect();
        assert_eq!(times, [1, 2, 4, 5]);
    }

    #[test]
    fn a_state_stands_at_the_packet_that_caused_it() {
        const FIN_ACK: u8 = 0x11;
        const ACK: u8 = 0x10;
        let client: SocketAddr = "127.0.0.1:50000".parse().expect("an address");
        let server: SocketAddr = "127.0.0.1:9877".parse().expect("an address");
        let packet = |at, by_client, flags: u8, seq, ack| Packet {
            at,
            from: if by_client { client } else { server },
            to: if by_client { server } else { client },
            flags: flags.into(),
            seq,
            ack,
            window: 1,
            len: 0,
        };
        let packets = [
            packet(10, false, FIN_ACK, 7, 1),
            packet(20, true, ACK, 1, 8),
            packet(30, true, FIN_ACK, 1, 8),
            packet(40, false, ACK, 8, 2),
        ];
        let at = |side, state, seen| {
            let change = Change {
                asked: seen - 1,
                answered: seen,
                side,
                state,
            };
            change.at(client, &packets)
        };
        assert_eq!(at(Side::Server, Some(State::FinWait1), 900), 10);
        assert_eq!(at(Side::Client, Some(State::CloseWait), 900), 10);
        assert_eq!(at(Side::Server, Some(State::FinWait2), 900), 20);
        assert_eq!(at(Side::Server, Some(State::TimeWait), 900), 30);
        assert_eq!(at(Side::Client, Some(State::LastAck), 900), 30);
        assert_eq!(at(Side::Client, None, 900), 40);
        // Seen before the packet that could have caused it: then it was not that packet.
        assert_eq!(at(Side::Client, None, 35), 34);
        // What ends TIME-WAIT is no packet.
        assert_eq!(at(Side::Server, None, 900), 899);
        let reset = [packet(50, false, 0x04, 8, 0)];
        let gone = cause(Side::Server, None, client, &reset);
        assert_eq!(gone, Some(50));
    }
}
