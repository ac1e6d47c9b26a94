//! What the loops that wait for readiness promise beyond the promises of all: how few calls they
//! make, that they never spin unless told to, the limit of select, the workers of the reactor; and
//! flags of `tcpechod` that tune connections.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tcpecho_lab::contestant::{Contestant, POLL, REACTOR, REACTOR_WITH_WORKERS, SELECT};
use tcpecho_lab::limit::no_room_for;
use tcpecho_lab::observe::calls::{CallRecord, Phase};
use tcpecho_lab::observe::processes;
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::peer::{PATIENCE, Peer, connect_many};
use tcpecho_lab::promised;
use tcpecho_lab::server::{ServerProcess, with};
use tcpecho_lab::skip::{figure, skip, strace_works};
use tcpecho_lab::wait::eventually;

/// The calls that wait for readiness.
const WAITS: [&str; 3] = ["select", "poll", "epoll_wait"];

/// What one of these loops promises makes a test for each of them.
macro_rules! promised_by_loops {
    ($($promise:ident)+) => { promised_by_loops!(@ $($promise [
        select SELECT,
        poll POLL,
        reactor REACTOR,
        reactor_with_workers REACTOR_WITH_WORKERS,
    ])+); };
    (@ $($promise:ident $contestants:tt)+) => {
        $(mod $promise { promised_by_loops!(@@ $promise $contestants); })+
    };
    (@@ $promise:ident [$($name:ident $contestant:ident,)+]) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            super::$promise(&super::$contestant)
        })+
    };
}

promised_by_loops! {
    an_echo_costs_two_calls_when_all_are_busy
    peers_that_linger_cost_nothing
    a_stopping_server_does_not_wait_for_the_dead
    it_spins_if_told_to
    it_does_not_spin_unless_told_to
    at_the_limit_of_descriptors_it_rests
}

promised! { by every model:
    connections_get_the_congestion_control_that_was_named
    an_unknown_congestion_control_is_refused_with_those_there_are
    signals_at_the_urgent_mark_stall_nothing
}

// -- Signals ------------------------------------------------------------------------------------

/// A read at the urgent mark fails with EAGAIN while a signal is pending, and nothing will make the
/// socket readable again. Here one is in every other read: even ignored ones are, while a tracer
/// might want them. (`uring` does not read; see `tests/uring.rs`.)
fn signals_at_the_urgent_mark_stall_nothing(contestant: &Contestant) -> anyhow::Result<()> {
    if !strace_works() {
        let test = "signals_at_the_urgent_mark_stall_nothing";
        return skip(test, "strace does not work here");
    }
    let signals = "inject=read:signal=SIGWINCH:when=1+2";
    let strace = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", signals];
    with(contestant.server().under(&strace), |server| {
        // Which of the reads is the one at the mark is not known.
        for _ in 0..20 {
            let mut peer = Peer::connect(server.address())?;
            peer.send(b"abc")?;
            peer.send_urgent(b'D')?;
            peer.send(b"efg")?;
            peer.expect(b"abcefg")?;
            peer.half_close()?;
            peer.expect_fin()?;
        }
        Ok(())
    })
}

// -- Calls --------------------------------------------------------------------------------------

/// Fifty messages of 64 bytes wait for it, again and again: a read and a write each, and few waits.
fn an_echo_costs_two_calls_when_all_are_busy(contestant: &Contestant) -> anyhow::Result<()> {
    const PEERS: usize = 50;
    const ROUNDS: usize = 10;
    with(contestant.server().events(), |server| {
        let mut peers = connect_many(server.address(), PEERS)?;
        for peer in &mut peers {
            peer.echo(&[b'0'; 64])?;
        }
        let before = settled(server, PEERS)?.len();
        for _ in 0..ROUNDS {
            server.freeze()?;
            for peer in &mut peers {
                peer.send(&[b'1'; 64])?;
                peer.wait_until_delivered()?;
            }
            server.thaw()?;
            for peer in &mut peers {
                peer.expect(&[b'1'; 64])?;
            }
        }
        let calls = settled(server, PEERS * (ROUNDS + 1))?.split_off(before);
        let made = calls.iter().filter(|call| call.phase == Phase::Return);
        let made = made.count() as f64 / (PEERS * ROUNDS) as f64;
        figure(contestant, format!("{made:.2} calls per echo"));
        ensure!(
            (2.0..=2.2).contains(&made),
            "{made} calls per echo, {} records lost",
            server.calls_lost()
        );
        Ok(())
    })
}

/// All calls, when it sleeps after that many echoes.
fn settled(server: &ServerProcess, echoes: usize) -> anyhow::Result<Vec<CallRecord>> {
    let mut calls = Vec::new();
    eventually("a loop that sleeps after the last echo", PATIENCE, || {
        let earlier = calls.len();
        calls = server.calls();
        let is_write = |call: &&CallRecord| call.call == "write" && call.result == 64;
        let is_asleep = calls.last()?.phase == Phase::Enter && calls.len() == earlier;
        (is_asleep && calls.iter().filter(is_write).count() >= echoes).then_some(())
    })?;
    Ok(calls)
}

/// The server stops. Both sides have sent their FIN, and these have not read: there is nothing to
/// wait for but the clock.
fn peers_that_linger_cost_nothing(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().args(["--grace", "60s"]).start()?;
    let diag = SockDiag::open()?;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        peer.send_pattern(1_000_000)?;
        peer.wait_until_delivered()?;
        eventually("an empty receive buffer", PATIENCE, || {
            let unread = diag.unread(server.address(), peer.local()).ok()??;
            (unread == 0).then_some(())
        })?;
        peers.push(peer);
    }
    server.signal(Signal::SIGTERM)?;
    eventually("a closed listener", PATIENCE, || {
        let queue = diag.queued(server.address()).ok()?;
        queue.is_none().then_some(())
    })?;
    peers.iter_mut().try_for_each(Peer::half_close)?;
    costs_nothing(&server)?;
    peers.iter_mut().try_for_each(Peer::expect_rest_and_fin)?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status}\n{server}");
    Ok(())
}

/// They have closed before they were answered. Their kernel resets the connection for the answer, and
/// acknowledges nothing any more.
fn a_stopping_server_does_not_wait_for_the_dead(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().args(["--grace", "60s"]).start()?;
    let mut peers = connect_many(server.address(), 5)?;
    for peer in &mut peers {
        peer.echo(b"hello")?;
    }
    server.freeze()?;
    for peer in &mut peers {
        peer.send(b"and goodbye")?;
        peer.wait_until_delivered()?;
    }
    drop(peers);
    server.signal(Signal::SIGTERM)?;
    server.thaw()?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status}\n{server}");
    Ok(())
}

/// Whoever spins has had a third of a processor at least, whatever else runs.
fn costs_nothing(server: &ServerProcess) -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_millis(500);
    let used = || processes::cpu_time(server.pid()).context("it has vanished");
    let before = used()?;
    sleep(WATCHED);
    let used = used()?.saturating_sub(before);
    ensure!(
        used <= WATCHED / 10,
        "{used:?} used in {WATCHED:?} of waiting\n{server}"
    );
    Ok(())
}

// -- Spinning -----------------------------------------------------------------------------------

fn it_spins_if_told_to(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.server().args(["--spin", "20ms"]).events();
    with(server, |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(&[b'0'; 64])?;
        eventually("many waits that found nothing", PATIENCE, || {
            (waits_in_vain(&server.calls()) > 20).then_some(())
        })?;
        settled(server, 1)?;
        costs_nothing(server)
    })
}

fn it_does_not_spin_unless_told_to(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.server().events(), |server| {
        let mut peer = Peer::connect(server.address())?;
        for _ in 0..20 {
            peer.echo(&[b'0'; 64])?;
        }
        let in_vain = waits_in_vain(&settled(server, 20)?);
        // After accept it looks whether somebody else has come.
        ensure!(in_vain <= 2, "{in_vain} waits have found nothing");
        Ok(())
    })
}

fn waits_in_vain(calls: &[CallRecord]) -> usize {
    let in_vain = |call: &&CallRecord| {
        call.phase == Phase::Return && call.result == 0 && WAITS.contains(&call.call.as_str())
    };
    calls.iter().filter(in_vain).count()
}

// -- Limits -------------------------------------------------------------------------------------

/// Room for some of them: the others wait, at no cost, until one leaves; at SIGTERM all are let in.
fn at_the_limit_of_descriptors_it_rests(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().args(["--grace", "60s"]);
    let server = server.limit_descriptors(30, 30).start()?;
    let mut peers = connect_many(server.address(), 40)?;
    for peer in &mut peers {
        peer.send(b"any room?")?;
    }
    eventually("a pause", PATIENCE, || {
        let told = server.stderr().contains("not accepting for now");
        told.then_some(())
    })?;
    costs_nothing(&server)?;
    let (lucky, waiting): (Vec<_>, Vec<_>) = peers.into_iter().partition(Peer::has_news);
    ensure!(lucky.len() >= 5, "{} are served", lucky.len());
    ensure!(waiting.len() >= 10, "{} wait", waiting.len());
    // As many as leave have room now; the others have to wait for the signal.
    let mut next = waiting;
    let mut last = next.split_off(lucky.len().min(next.len() / 2));
    drop(lucky);
    for peer in &mut next {
        peer.expect(b"any room?")?;
    }
    server.signal(Signal::SIGTERM)?;
    for peer in &mut last {
        peer.expect(b"any room?")?;
        peer.expect_fin()?;
    }
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status}\n{server}");
    Ok(())
}

/// What select cannot take is closed with a FIN and counted; the others do not notice.
#[test]
fn select_refuses_who_does_not_fit() -> anyhow::Result<()> {
    const TEST: &str = "select_refuses_who_does_not_fit";
    const PEERS: usize = 1030;
    if let Some(why) = no_room_for(PEERS)? {
        return skip(TEST, why);
    }
    with(SELECT.talkative(), |server| {
        let mut peers = connect_many(server.address(), 1000)?;
        for peer in &mut peers {
            peer.echo(b"fits")?;
        }
        let mut refused = 0;
        while peers.len() + refused < PEERS {
            let mut peer = Peer::connect(server.address())?;
            eventually("an answer or a line", PATIENCE, || {
                let log = server.stderr();
                let answered = log.matches("accepted ").count() + log.matches("refused ").count();
                (answered > peers.len() + refused).then_some(())
            })?;
            if server.stderr().matches("refused ").count() > refused {
                peer.expect_fin()?;
                refused += 1;
            } else {
                peer.echo(b"fits")?;
                peers.push(peer);
            }
        }
        ensure!(
            (1000..1024).contains(&peers.len()),
            "{} are served",
            peers.len()
        );
        let why = "its descriptor would be 1024";
        ensure!(server.stderr().contains(why), "no reason is given");
        for peer in &mut peers {
            peer.echo(b"still here")?;
        }
        eventually("a table that says so", PATIENCE, || {
            server.signal(Signal::SIGUSR1).ok()?;
            let log = server.stderr();
            let table = log.split("status of ").last()?;
            let wanted = format!("refused {refused}");
            let mut lines = table.lines();
            lines.any(|line| line.ends_with(&wanted)).then_some(())
        })?;
        let mut leaving = peers.remove(500);
        leaving.half_close()?;
        leaving.expect_fin()?;
        Peer::connect(server.address())?.echo(b"in its place")
    })
}

/// More descriptors are open than select can take, before anything is done.
#[test]
fn select_does_not_start_where_its_listener_does_not_fit() -> anyhow::Result<()> {
    const TEST: &str = "select_does_not_start_where_its_listener_does_not_fit";
    const OPEN_MANY: &str =
        r#"for i in {3..1030}; do eval "exec $i< /dev/null"; done; exec "$0" "$@""#;
    if let Some(why) = no_room_for(1100)? {
        return skip(TEST, why);
    }
    let server = SELECT.server().under(&["bash", "-c", OPEN_MANY]);
    let server = match server.launch() {
        Ok(server) => server,
        Err(error) => return skip(TEST, format!("no bash: {error:#}")),
    };
    let status = server.wait(PATIENCE)?;
    ensure!(status.code() == Some(1), "{status}\n{server}");
    let said = server.stderr();
    ensure!(said.contains("the listening socket"), "{server}");
    ensure!(said.contains("FD_SETSIZE is 1024"), "{server}");
    ensure!(server.stdout().is_empty(), "it was ready\n{server}");
    Ok(())
}

// -- Workers ------------------------------------------------------------------------------------

#[test]
fn clients_are_dealt_out_evenly() -> anyhow::Result<()> {
    with(REACTOR.server().args(["--workers", "3"]), |server| {
        let mut peers = connect_many(server.address(), 12)?;
        for peer in &mut peers {
            peer.echo(b"0123456789")?;
        }
        let share = |workers: &[&str]| {
            let wanted: Vec<_> = (0..).zip(workers).collect();
            eventually(&format!("the shares {workers:?}"), PATIENCE, || {
                server.signal(Signal::SIGUSR1).ok()?;
                let log = server.stderr();
                let table = log.split("status of ").last()?;
                let is_there = |(n, share): &(i32, &&str)| {
                    let row = format!("worker {n}");
                    table
                        .lines()
                        .any(|line| line.contains(&row) && line.contains(**share))
                };
                wanted.iter().all(is_there).then_some(())
            })
        };
        share(&["accepted 4 ", "accepted 4 ", "accepted 4 "])?;
        share(&["received 40 ", "received 40 ", "received 40 "])?;
        // Whoever comes next is served by the one that has the fewest.
        for number in [10, 7, 4, 1] {
            let mut leaving = peers.remove(number);
            leaving.half_close()?;
            leaving.expect_fin()?;
        }
        eventually("four that have left", PATIENCE, || {
            server.signal(Signal::SIGUSR1).ok()?;
            let log = server.stderr();
            let table = log.split("status of ").last()?;
            table.contains("closed 4 ").then_some(())
        })?;
        for peer in &mut connect_many(server.address(), 4)? {
            peer.echo(b"0123456789")?;
        }
        share(&["accepted 4 ", "accepted 8 ", "accepted 4 "])
    })
}

#[test]
fn one_worker_is_the_main_thread() -> anyhow::Result<()> {
    for (workers, threads) in [("1", 1), ("2", 3), ("5", 6)] {
        with(REACTOR.server().args(["--workers", workers]), |server| {
            let process = processes::look(server.pid()).context("it has vanished")?;
            let seen = process.threads;
            ensure!(
                seen == threads,
                "{seen} threads instead of {threads} with --workers {workers}"
            );
            Peer::connect(server.address())?.echo(b"hello")
        })?;
    }
    Ok(())
}

// -- Congestion control -------------------------------------------------------------------------

fn connections_get_the_congestion_control_that_was_named(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    const TEST: &str = "connections_get_the_congestion_control_that_was_named";
    let default = names("tcp_congestion_control")?.remove(0);
    let allowed = names("tcp_allowed_congestion_control")?;
    let Some(other) = allowed.iter().find(|name| **name != default) else {
        return skip(TEST, format!("only {default} is allowed here"));
    };
    with(contestant.talkative(), |server| {
        ensure!(used(server)? == default, "it is not the default");
        Ok(())
    })?;
    with(
        contestant.talkative().args(["--congestion", other]),
        |server| {
            let used = used(server)?;
            ensure!(used == *other, "{used} instead of {other}");
            Ok(())
        },
    )
}

/// By the socket that serves a client.
fn used(server: &ServerProcess) -> anyhow::Result<String> {
    let mut peer = Peer::connect(server.address())?;
    peer.echo(b"hello")?;
    let used = SockDiag::open()?.congestion(server.address(), peer.local())?;
    used.context("no such connection")
}

fn an_unknown_congestion_control_is_refused_with_those_there_are(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    let server = contestant
        .server()
        .args(["--congestion", "snail"])
        .launch()?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.code() == Some(1), "{status}\n{server}");
    let said = server.stderr();
    ensure!(said.lines().count() == 1, "{server}");
    ensure!(said.contains("snail"), "{server}");
    for name in names("tcp_available_congestion_control")? {
        ensure!(said.contains(&name), "{name} is not mentioned\n{server}");
    }
    Ok(())
}

fn names(file: &str) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{file}"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

// -- Helpers ------------------------------------------------------------------------------------
