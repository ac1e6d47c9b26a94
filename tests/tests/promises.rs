//! The promises of every model: one function per promise, run for every contestant that makes it.
//!
//! `cargo test --test promises half_close` runs one promise, `cargo test --test promises fork` one
//! contestant. What a stopping server promises is in `server_stop.rs`, what it does with bad input
//! in `server_cli.rs`, what it does when the system fails it in `faults.rs`.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tcpecho_common::Model;
use tcpecho_common::model::Unit;
use tcpecho_lab::apart;
use tcpecho_lab::contestant::{self, Contestant};
use tcpecho_lab::limit::limit_descriptors;
use tcpecho_lab::limit::no_room_for;
use tcpecho_lab::observe::processes::{self, Memory};
use tcpecho_lab::observe::resources::Resources;
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::peer::{PATIENCE, Peer, connect_many, round_trips};
use tcpecho_lab::promised;
use tcpecho_lab::server::{ServerProcess, with};
use tcpecho_lab::skip::{figure, skip};
use tcpecho_lab::wait::eventually;

promised! { by everybody:
    every_byte_comes_back_in_order
    a_long_stream_with_half_close_comes_back_identical
    a_half_close_gets_every_echo
    waiting_for_a_peer_to_read_costs_no_processor_time
    a_peer_that_never_reads_is_read_from_no_more
    a_peer_that_reads_again_gets_everything
    a_reset_ends_that_connection_only
    a_reset_while_queued_harms_nobody
    urgent_data_stalls_nothing
}

promised! { by every model:
    ten_thousand_connections_leave_nothing_behind
    idle_peers_are_closed_and_busy_ones_are_not
    a_stuck_peer_is_idle
    a_slow_reader_is_not_idle
}

promised! { by those that serve many at once:
    many_are_served_at_once
    never_readers_cost_little_and_harm_nobody
    no_more_are_accepted_than_max_connections
    a_full_server_serves_everybody_in_turn
    a_limit_below_what_is_open_ends_nobody
}

// -- Bytes --------------------------------------------------------------------------------------

fn every_byte_comes_back_in_order(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello\n")?;
        peer.echo(b"\0\xff\r\n no newline at the end")?;
        for length in [
            1, 2, 1000, 4096, 65_535, 65_536, 262_144, 262_145, 1_000_000,
        ] {
            peer.send_pattern(length)?;
            peer.expect_pattern(length)?;
        }
        peer.half_close()?;
        peer.expect_fin()
    })
}

fn a_long_stream_with_half_close_comes_back_identical(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        Peer::connect(server.address())?.stream(stream_length())
    })
}

/// 64 MB, or as many as `TCPECHO_STREAM_MB` says.
fn stream_length() -> u64 {
    let megabytes = std::env::var("TCPECHO_STREAM_MB").ok();
    megabytes.and_then(|text| text.parse().ok()).unwrap_or(64) * 1_000_000
}

/// At the half-close the kernel's buffers and the server's are full.
fn a_half_close_gets_every_echo(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut small = Peer::connect(server.address())?;
        small.send(b"last words")?;
        small.half_close()?;
        small.expect(b"last words")?;
        small.expect_fin()?;

        let mut large = Peer::connect(server.address())?;
        large.send_until_stuck()?;
        large.half_close()?;
        large.expect_rest_and_fin()
    })
}

/// recv stops at the urgent mark, so a short read does not mean that nothing is left.
fn urgent_data_stalls_nothing(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        for _ in 0..10 {
            let mut peer = Peer::connect(server.address())?;
            peer.echo(b"accepted")?;
            server.freeze()?;
            peer.send(b"abc")?;
            peer.send_urgent(b'D')?;
            peer.send(b"efg")?;
            peer.wait_until_delivered()?;
            server.thaw()?;
            peer.expect(b"abcefg")?;
            peer.half_close()?;
            peer.expect_fin()?;
        }
        Ok(())
    })
}

// -- Peers that do not read ---------------------------------------------------------------------

/// Half-closed, with echoes that do not fit: a server that keeps asking whether there is more to
/// read is told so at once, again and again.
fn waiting_for_a_peer_to_read_costs_no_processor_time(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_millis(500);
    with(contestant.talkative(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.send_until_stuck()?;
        peer.half_close()?;
        let before = cpu_time(server);
        thread::sleep(WATCHED);
        let used = cpu_time(server).saturating_sub(before);
        // A server that spins has had a third of a processor at least, whatever else runs.
        ensure!(
            used <= WATCHED / 10,
            "{used:?} used in {WATCHED:?} of waiting"
        );
        peer.expect_rest_and_fin()
    })
}

/// What it sends without reading, the kernel's buffers hold; the server's memory does not grow with
/// it. When it has been reset, everybody else is served.
fn a_peer_that_never_reads_is_read_from_no_more(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.send_until_stuck()?;
        peer.reset();
        Peer::connect(server.address())?.echo(b"next, please")
    })
}

/// While it does not read, the last of what it has to say arrives and is left in the kernel. No
/// event tells of that a second time: who was waiting for room to write must think of it.
fn a_peer_that_reads_again_gets_everything(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        peer.send_until_unread(server.address())?;
        peer.expect_pattern(peer.sent())
    })
}

fn never_readers_cost_little_and_harm_nobody(contestant: &Contestant) -> anyhow::Result<()> {
    const NEVER_READERS: usize = 6;
    const PINGS: usize = 200;
    with(contestant.server(), |server| {
        let mut pinging = Peer::connect(server.address())?;
        // Every buffer that is there once, or once per worker, has been used once.
        let mut first = connect_many(server.address(), 2)?;
        for peer in &mut first {
            peer.send_until_stuck()?;
        }
        for mut peer in first {
            peer.half_close()?;
            peer.expect_rest_and_fin()?;
        }
        let alone = round_trips(&mut pinging, PINGS)?[PINGS / 2];
        let before = memory(server);

        let mut stuck = Vec::new();
        for _ in 0..NEVER_READERS {
            let mut peer = Peer::connect(server.address())?;
            peer.send_until_stuck()?;
            stuck.push(peer);
        }
        let cost = memory(server).anonymous.saturating_sub(before.anonymous) / NEVER_READERS as u64;
        let beside = round_trips(&mut pinging, PINGS)?[PINGS / 2];
        figure(
            contestant,
            format!(
                "a never-reader costs {} KiB; a round trip {alone:?} alone, {beside:?} beside them",
                cost / 1024
            ),
        );
        let at_most = match (contestant.model, contestant.model.unit()) {
            // A program of its own has its own relocations, and started from nothing.
            (Model::Exec, _) => 1024,
            // A process of its own costs some pages more.
            (_, Unit::Process) => 512,
            _ => 256,
        };
        ensure!(
            cost <= at_most * 1024,
            "{cost} bytes for each that never reads"
        );
        ensure!(
            beside <= alone * 20 + Duration::from_millis(20),
            "a round trip takes {beside:?} beside never-readers, {alone:?} without"
        );
        for mut peer in stuck {
            peer.half_close()?;
            peer.expect_rest_and_fin()?;
        }
        Ok(())
    })
}

// -- Many peers ---------------------------------------------------------------------------------

fn many_are_served_at_once(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut peers = connect_many(server.address(), 50)?;
        for round in 0..3 {
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.send(format!("round {round} of {number}\n").as_bytes())?;
            }
            for (number, peer) in peers.iter_mut().enumerate().rev() {
                peer.expect(format!("round {round} of {number}\n").as_bytes())?;
            }
        }
        Ok(())
    })
}

#[test]
fn the_iterative_server_answers_the_second_when_the_first_has_left() -> anyhow::Result<()> {
    with(contestant::ITERATIVE.talkative(), |server| {
        let mut first = Peer::connect(server.address())?;
        first.echo(b"first")?;
        let mut second = Peer::connect(server.address())?;
        second.send(b"second")?;
        first.echo(b"still first")?;
        ensure!(!second.has_news(), "the second was served beside the first");
        ensure!(waiting(server)? == 1, "the second is not queued");
        drop(first);
        second.expect(b"second")
    })
}

fn no_more_are_accepted_than_max_connections(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.capped(3).arg("-v"), |server| {
        let mut served = connect_many(server.address(), 3)?;
        for peer in &mut served {
            peer.echo(b"served")?;
        }
        let mut queued = connect_many(server.address(), 2)?;
        for peer in &mut queued {
            peer.send(b"patience")?;
        }
        for _ in 0..20 {
            for peer in &mut served {
                peer.echo(b"still served")?;
            }
            let queued = waiting(server)?;
            ensure!(queued == 2, "{queued} are queued, not 2");
        }
        ensure!(
            !queued.iter().any(Peer::has_news),
            "one too many was served"
        );
        for mut waiting in queued {
            let mut leaving = served.remove(0);
            leaving.half_close()?;
            leaving.expect_fin()?;
            waiting.expect(b"patience")?;
            served.push(waiting);
        }
        Ok(())
    })
}

/// Whoever was left in the queue while the server was full must not be forgotten there.
fn a_full_server_serves_everybody_in_turn(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.capped(2), |server| {
        let address = server.address();
        in_threads(8, move |_| {
            for round in 0..25 {
                let mut peer = Peer::connect(address)?;
                peer.echo(b"in turn")?;
                if round % 2 == 0 {
                    peer.reset();
                }
            }
            Ok(())
        })
    })
}

/// Whoever is connected has its descriptor; poll(2), for one, wants to know the limit all the same.
fn a_limit_below_what_is_open_ends_nobody(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut peers = connect_many(server.address(), 20)?;
        for peer in &mut peers {
            peer.echo(b"before")?;
        }
        let before = limit_descriptors(server.pid(), None)?;
        limit_descriptors(server.pid(), Some((5, before.1)))?;
        for peer in &mut peers {
            peer.echo(b"meanwhile")?;
        }
        limit_descriptors(server.pid(), Some(before))?;
        Peer::connect(server.address())?.echo(b"afterwards")
    })
}

// -- Peers that leave ---------------------------------------------------------------------------

fn a_reset_ends_that_connection_only(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        // After an echo, with echoes not read, with nothing read, and in the midst of a stream.
        for (echoed, more) in [(true, 0), (true, 100), (false, 100), (false, 8_000_000)] {
            let mut leaving = Peer::connect(server.address())?;
            if echoed {
                leaving.echo(b"here I am")?;
            }
            let mut staying = Peer::connect(server.address())?;
            staying.send(b"before")?;
            if more > 1000 {
                leaving.send_until_stuck()?;
            } else {
                leaving.send_pattern(more)?;
            }
            leaving.reset();
            staying.expect(b"before")?;
            staying.echo(b"after")?;
            staying.half_close()?;
            staying.expect_fin()?;
        }
        ensure!(server.status().is_none(), "the server has ended");
        Ok(())
    })
}

fn a_reset_while_queued_harms_nobody(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        server.freeze()?;
        let mut good = Vec::new();
        for number in 0..20 {
            let mut peer = Peer::connect(server.address())?;
            peer.send(b"am I queued?")?;
            peer.wait_until_delivered()?;
            if number % 7 == 3 {
                good.push(peer);
            } else {
                peer.reset();
            }
        }
        server.thaw()?;
        for mut peer in good {
            peer.expect(b"am I queued?")?;
            peer.half_close()?;
            peer.expect_fin()?;
        }
        Peer::connect(server.address())?.echo(b"business as usual")
    })
}

fn ten_thousand_connections_leave_nothing_behind(contestant: &Contestant) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 10_000;
    const AT_A_TIME: usize = 8;
    // Nothing is kept for later, and every allocation is a mapping of its own: how much a heap keeps
    // depends on how many were served at once by chance. A leak is what remains.
    let server = contestant.server().env(
        "GLIBC_TUNABLES",
        "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1:glibc.pthread.stack_cache_size=0",
    );
    with(server, |server| {
        let address = server.address();
        let churn = |connections: usize| {
            in_threads(AT_A_TIME, move |_| {
                (0..connections / AT_A_TIME).try_for_each(|nth| come_and_go(address, nth))
            })
        };
        let rest = Resources::of(server).context("the server has vanished")?;
        // What the first clients make the server allocate it keeps for the others.
        churn(400)?;
        let before = Footprint::settled(server, &rest)?;
        churn(CONNECTIONS)?;
        let after = Footprint::settled(server, &rest)?;
        let [kilobytes_before, kilobytes] = [&before, &after].map(|f| f.anonymous / 1000);
        figure(
            contestant,
            format!("{kilobytes} kB after {CONNECTIONS} connections, {kilobytes_before} kB before"),
        );
        ensure!(
            after.descriptors == before.descriptors,
            "descriptors after {CONNECTIONS} connections: {:?}, before: {:?}",
            after.descriptors,
            before.descriptors
        );
        ensure!(
            after.anonymous <= before.anonymous + 256 * 1024,
            "memory has grown from {} to {} bytes",
            before.anonymous,
            after.anonymous
        );
        Peer::connect(address)?.echo(b"as ever")
    })
}

/// Half of them leave with an RST, and of each half one in two without a word.
fn come_and_go(address: SocketAddr, nth: usize) -> anyhow::Result<()> {
    let mut peer = Peer::connect(address)?;
    if nth % 4 < 2 {
        peer.echo(b"hello and goodbye")?;
    }
    if nth % 2 == 0 {
        peer.reset();
    }
    Ok(())
}

/// What a server has when nobody is connected.
#[derive(Debug)]
struct Footprint {
    descriptors: Vec<(i32, String)>,
    anonymous: u64,
}

impl Footprint {
    /// Waits until nobody is connected.
    fn settled(server: &ServerProcess, rest: &Resources) -> anyhow::Result<Self> {
        let mut seen = None;
        let settled = eventually("a server without clients", PATIENCE, || {
            seen = Resources::of(server);
            (seen.as_ref() == Some(rest)).then_some(())
        });
        settled.with_context(|| format!("{seen:?}, not {rest:?}"))?;
        Ok(Self {
            descriptors: processes::descriptors(server.pid())?,
            anonymous: memory(server).anonymous,
        })
    }
}

// -- Peers that are idle ------------------------------------------------------------------------

fn idle_peers_are_closed_and_busy_ones_are_not(contestant: &Contestant) -> anyhow::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let server = contestant.talkative().arg("--idle-timeout").arg("1s");
    with(server, |server| {
        let mut peer = Peer::connect(server.address())?;
        let start = Instant::now();
        while start.elapsed() < TIMEOUT * 2 {
            peer.echo(b"tick")?;
            thread::sleep(TIMEOUT / 20);
        }
        // Taken before the last byte moves, so the time measured is never too short.
        let last = Instant::now();
        peer.echo(b"tock")?;
        peer.expect_fin()?;
        let after = last.elapsed();
        ensure!(
            after >= TIMEOUT * 7 / 8,
            "closed after {after:?}, an eighth too early at least"
        );
        ensure!(after <= TIMEOUT * 4, "closed after {after:?} only");
        Ok(())
    })
}

fn a_stuck_peer_is_idle(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().arg("--idle-timeout").arg("1s");
    with(server, |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.send_until_stuck()?;
        // Without reading, which would be progress.
        peer.wait_until_reset()
    })
}

/// It takes what it gets: first so slowly that there is no room for the next write for longer than
/// the timeout, then what the server has written and need not care about any more.
fn a_slow_reader_is_not_idle(contestant: &Contestant) -> anyhow::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    const GULP: u64 = 32 * 1024;
    let server = contestant.talkative().arg("--idle-timeout").arg("1s");
    with(server, |server| {
        for written in [false, true] {
            let mut peer = Peer::connect_with_buffer(server.address(), GULP as usize)?;
            if written {
                peer.send_pattern(40 * GULP)?;
            } else {
                peer.send_until_stuck()?;
            }
            let start = Instant::now();
            while start.elapsed() < TIMEOUT * 2 {
                peer.expect_pattern(GULP)?;
                thread::sleep(TIMEOUT / 10);
            }
            peer.half_close()?;
            peer.expect_rest_and_fin()?;
        }
        Ok(())
    })
}

// -- Thousands ----------------------------------------------------------------------------------

#[test]
fn ten_thousand_idle_connections_fit_in_8_mb_and_all_answer() -> anyhow::Result<()> {
    let name = "ten_thousand_idle_connections_fit_in_8_mb_and_all_answer";
    ten_thousand_fit_and_answer(name, &contestant::REACTOR)
}

#[test]
fn ten_thousand_idle_connections_fit_in_8_mb_of_poll_too() -> anyhow::Result<()> {
    let name = "ten_thousand_idle_connections_fit_in_8_mb_of_poll_too";
    ten_thousand_fit_and_answer(name, &contestant::POLL)
}

/// Each in a process of its own: one may not have descriptors for both.
fn ten_thousand_fit_and_answer(name: &str, contestant: &Contestant) -> anyhow::Result<()> {
    apart::test(name, || thousands_fit_and_answer(name, contestant))
}

fn thousands_fit_and_answer(name: &str, contestant: &Contestant) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 10_000;
    if let Some(why) = no_room_for(CONNECTIONS)? {
        return skip(name, why);
    }
    with(contestant.server(), |server| {
        let mut peers = Vec::new();
        while peers.len() < CONNECTIONS {
            peers.extend(connect_many(server.address(), 500)?);
            // When the last has been answered, all have been accepted: the backlog is empty again.
            let last = peers.len() - 1;
            peers[last].echo(b"idle from now on")?;
        }
        let idle = processes::memory(server.pid()).context("the server has vanished")?;
        figure(
            contestant,
            format!(
                "{} kB resident with {CONNECTIONS} connections",
                idle.rss / 1000
            ),
        );
        ensure!(idle.rss < 8_000_000, "{} bytes are resident", idle.rss);
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

/// Runs `body` in this many threads at once, with the number of each.
fn in_threads(
    count: usize,
    body: impl Fn(usize) -> anyhow::Result<()> + Send + Sync,
) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || body(number)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("it returns its failure"))
    })
}

/// Connections in the listener's queue.
fn waiting(server: &ServerProcess) -> anyhow::Result<u32> {
    let queued = SockDiag::open()?.queued(server.address())?;
    queued.context("nobody listens")
}

/// Of the server and its children.
fn cpu_time(server: &ServerProcess) -> Duration {
    let tree = processes::tree(server.pid());
    tree.iter().filter_map(|p| processes::cpu_time(p.pid)).sum()
}

/// Of the server and its children.
fn memory(server: &ServerProcess) -> Memory {
    let tree = processes::tree(server.pid());
    tree.iter()
        .filter_map(|process| processes::memory(process.pid))
        .fold(Memory::default(), |sum, memory| Memory {
            rss: sum.rss + memory.rss,
            anonymous: sum.anonymous + memory.anonymous,
            pss: sum.pss + memory.pss,
        })
}
