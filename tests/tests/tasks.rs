//! The model `async` from outside: who is polled, and how often; what that costs in system calls;
//! what a waiting task costs in memory. Its promises are in `promises.rs`, those of its executor
//! beside it in `server/src/executor.rs`.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tcpecho_lab::contestant::ASYNC;
use tcpecho_lab::limit::no_room_for;
use tcpecho_lab::observe::calls::{CallRecord, Phase};
use tcpecho_lab::observe::processes;
use tcpecho_lab::peer::{PATIENCE, Peer, connect_many};
use tcpecho_lab::server::{ServerProcess, with};
use tcpecho_lab::skip::{figure, skip};
use tcpecho_lab::wait::eventually;

/// To ask for the status is a poll, too: of the task that watches the signals.
const ASKING: u64 = 1;

#[test]
fn an_echo_is_one_poll() -> anyhow::Result<()> {
    with(ASYNC.server(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"accepted")?;
        let before = Tasks::of(server)?;
        for _ in 0..200 {
            peer.echo(&[7; 64])?;
        }
        let after = Tasks::of(server)?;
        ensure!(
            after.polls - before.polls == 200 + ASKING,
            "200 echoes: {before:?}, {after:?}"
        );
        Ok(())
    })
}

#[test]
fn who_is_idle_is_not_polled() -> anyhow::Result<()> {
    const TEST: &str = "who_is_idle_is_not_polled";
    const IDLE: usize = 1000;
    if let Some(why) = no_room_for(IDLE)? {
        return skip(TEST, why);
    }
    with(ASYNC.server(), |server| {
        let mut idle = connect_many(server.address(), IDLE)?;
        let mut busy = Peer::connect(server.address())?;
        busy.echo(b"the last one: all are accepted")?;
        let before = Tasks::of(server)?;
        // The task that watches the signals is one, too.
        ensure!(before.alive == IDLE as u64 + 2, "{before:?}");
        for _ in 0..200 {
            busy.echo(&[7; 64])?;
        }
        let after = Tasks::of(server)?;
        ensure!(
            after.polls - before.polls == 200 + ASKING,
            "200 echoes beside {IDLE} idle ones: {before:?}, {after:?}"
        );
        // They are all right.
        for peer in &mut idle {
            peer.echo(b"still here")?;
        }
        drop(idle);
        eventually("tasks that end with their connections", PATIENCE, || {
            (Tasks::of(server).ok()?.alive == 2).then_some(())
        })
    })
}

/// However much has come meanwhile, in however many pieces.
#[test]
fn who_is_ready_is_polled_once() -> anyhow::Result<()> {
    with(ASYNC.server(), |server| {
        let mut peers = connect_many(server.address(), 50)?;
        for peer in &mut peers {
            peer.echo(b"accepted")?;
        }
        let before = Tasks::of(server)?;
        server.freeze()?;
        for peer in &mut peers {
            for piece in [b"one ", b"two ", b"six "] {
                peer.send(piece)?;
                peer.wait_until_delivered()?;
            }
        }
        server.thaw()?;
        for peer in &mut peers {
            peer.expect(b"one two six ")?;
        }
        let after = Tasks::of(server)?;
        ensure!(
            after.polls - before.polls == peers.len() as u64 + ASKING,
            "50 are ready: {before:?}, {after:?}"
        );
        Ok(())
    })
}

/// 50 clients at a time: a read and a write for each, and few waits for all of them; no
/// registration but the first.
#[test]
fn fifty_busy_connections_cost_no_more_than_2_2_calls_per_echo() -> anyhow::Result<()> {
    const ROUNDS: usize = 10;
    with(ASYNC.server().events(), |server| {
        let mut peers = connect_many(server.address(), 50)?;
        for peer in &mut peers {
            peer.echo(b"accepted")?;
        }
        let before = returned(server, "").len();
        for _ in 0..ROUNDS {
            server.freeze()?;
            for peer in &mut peers {
                peer.send(&[7; 64])?;
                peer.wait_until_delivered()?;
            }
            server.thaw()?;
            for peer in &mut peers {
                peer.expect(&[7; 64])?;
            }
        }
        let echoes = ROUNDS * peers.len();
        eventually("a record of each write", PATIENCE, || {
            (returned(server, "write").len() == echoes + peers.len()).then_some(())
        })?;
        let calls = returned(server, "").len() - before;
        ensure!(
            calls * 10 <= echoes * 22,
            "{calls} calls for {echoes} echoes"
        );
        let registered = returned(server, "epoll_ctl").len();
        ensure!(
            registered == peers.len() + 2,
            "{registered} registrations of listener, pipe and 50 connections"
        );
        ensure!(server.calls_lost() == 0, "records are missing");
        Ok(())
    })
}

/// What one has sent fills many buffers, and there is room for all the echoes: still the sockets of
/// the others are looked at after every window or two.
#[test]
fn a_firehose_lets_others_have_their_turn() -> anyhow::Result<()> {
    const WINDOW: i64 = 256 * 1024;
    with(ASYNC.server().events(), |server| {
        let mut firehose = Peer::connect(server.address())?;
        // The kernel gives more room to those who use it.
        firehose.stream_on(64_000_000)?;
        server.freeze()?;
        firehose.send_pattern(1_500_000)?;
        server.thaw()?;
        firehose.expect_pattern(1_500_000)?;
        let calls = server.calls();
        let calls = calls.iter().filter(|record| record.phase == Phase::Return);
        let (mut moved, mut most) = (HashMap::new(), 0);
        for record in calls {
            match record.call.as_str() {
                "read" => {
                    let sum = moved.entry(record.fd).or_insert(0);
                    *sum += record.result.max(0);
                    most = most.max(*sum);
                }
                "epoll_wait" => moved.clear(),
                _ => {}
            }
        }
        ensure!(
            (WINDOW..=2 * WINDOW).contains(&most),
            "{most} bytes read from one socket between two looks at the others"
        );
        ensure!(server.calls_lost() == 0, "records are missing");
        Ok(())
    })
}

#[test]
fn ten_thousand_idle_connections_have_512_bytes_each_and_all_answer() -> anyhow::Result<()> {
    const TEST: &str = "ten_thousand_idle_connections_have_512_bytes_each_and_all_answer";
    const CONNECTIONS: usize = 10_000;
    if let Some(why) = no_room_for(CONNECTIONS)? {
        return skip(TEST, why);
    }
    with(ASYNC.server(), |server| {
        let memory = || processes::memory(server.pid()).context("the server has vanished");
        let mut peers = connect_many(server.address(), 1)?;
        // The buffer of all has been used once.
        peers[0].stream_on(4_000_000)?;
        let before = memory()?.anonymous;
        while peers.len() < CONNECTIONS {
            peers.extend(connect_many(server.address(), 500)?);
            // When the last has been answered, all have been accepted: the backlog is empty again.
            let last = peers.len() - 1;
            peers[last].echo(b"idle from now on")?;
        }
        let each = (memory()?.anonymous - before) / CONNECTIONS as u64;
        figure(ASYNC, format!("{each} bytes for each of {CONNECTIONS}"));
        ensure!(each <= 512, "{each} bytes for each");
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(format!("number {number}").as_bytes())?;
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.expect(format!("number {number}").as_bytes())?;
        }
        Ok(())
    })
}

// -- Helpers ------------------------------------------------------------------------------------

/// The row `tasks` of the status table.
#[derive(Debug)]
struct Tasks {
    alive: u64,
    polls: u64,
}

impl Tasks {
    fn of(server: &ServerProcess) -> anyhow::Result<Self> {
        let tables = || {
            let log = server.stderr();
            let rows = log.lines().filter_map(Self::parse);
            rows.collect::<Vec<_>>()
        };
        let before = tables().len();
        server.signal(Signal::SIGUSR1)?;
        eventually("a table of the status", PATIENCE, || {
            tables().into_iter().nth(before)
        })
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["tasks", "alive", alive, "polls", polls] = words[..] else {
            return None;
        };
        Some(Self {
            alive: alive.parse().ok()?,
            polls: polls.parse().ok()?,
        })
    }
}

/// The calls of this name that have returned; of any, if it is empty.
fn returned(server: &ServerProcess, call: &str) -> Vec<CallRecord> {
    let mut calls = server.calls();
    calls
        .retain(|record| record.phase == Phase::Return && (call.is_empty() || record.call == call));
    calls
}
