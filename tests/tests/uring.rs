//! What only the model `uring` can get wrong: a kernel that forbids io_uring, buffers and completions
//! that run out, requests that outlive what they were made for.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tcpecho_lab::contestant::URING;
use tcpecho_lab::limit::no_room_for;
use tcpecho_lab::observe::processes;
use tcpecho_lab::peer::{PATIENCE, Peer, connect_many, round_trips};
use tcpecho_lab::server::ServerProcess;
use tcpecho_lab::skip::{figure, skip, strace_works};
use tcpecho_lab::wait::eventually;

// -- A kernel that says no ----------------------------------------------------------------------

/// Sysctl and seccomp make the setup fail like this, old kernels too, and so does a small limit of
/// locked memory.
#[test]
fn where_io_uring_cannot_be_had_one_line_says_why_and_what_else_to_do() -> anyhow::Result<()> {
    const TEST: &str = "where_io_uring_cannot_be_had_one_line_says_why_and_what_else_to_do";
    if !strace_works() {
        return skip(TEST, "strace does not work here");
    }
    for (call, errno, why) in [
        ("io_uring_setup", "EPERM", "kernel.io_uring_disabled"),
        ("io_uring_setup", "ENOSYS", "Linux 6.1"),
        ("io_uring_setup", "EINVAL", "Linux 6.1"),
        ("io_uring_setup", "ENOMEM", "ulimit -l"),
        ("io_uring_setup", "EMFILE", "ulimit -n"),
        ("io_uring_register", "EINVAL", "Linux 6.1"),
        ("io_uring_register", "ENOMEM", "ulimit -l"),
    ] {
        let fault = format!("inject={call}:error={errno}");
        let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &fault];
        let server = URING.server().under(&strace).launch()?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.code() == Some(1), "{status}\n{server}");
        ensure!(server.stdout().is_empty(), "it said it was ready\n{server}");
        let said = server.stderr();
        ensure!(said.lines().count() == 1, "not one line\n{server}");
        for part in ["tcpechod: cannot", "io_uring", errno, why] {
            ensure!(said.contains(part), "{part} is not mentioned\n{server}");
        }
        if errno != "EMFILE" {
            ensure!(said.contains("--model reactor"), "{server}");
        }
    }
    Ok(())
}

// -- Things that run out ------------------------------------------------------------------------

/// Far more has arrived than there are buffers for: 6 MB, in pieces that fill thousands.
#[test]
fn more_bytes_than_buffers_only_take_longer() -> anyhow::Result<()> {
    with(&["-vv"], |server| {
        let mut peers = connect_many(server.address(), 100)?;
        for peer in &mut peers {
            peer.echo(b"accepted")?;
        }
        server.freeze()?;
        for peer in &mut peers {
            peer.send_pattern(60_000)?;
            peer.wait_until_delivered()?;
        }
        server.thaw()?;
        for peer in &mut peers {
            peer.expect_pattern(60_000)?;
        }
        let told = server.stderr();
        ensure!(told.contains("no buffer for"), "there were enough buffers");
        // Nobody's recv was forgotten.
        for peer in &mut peers {
            peer.echo(b"and again")?;
            peer.half_close()?;
            peer.expect_fin()?;
        }
        Ok(())
    })
}

/// Three times as many clients connect, and speak, as there is room for completions.
#[test]
fn more_completions_than_fit_are_not_lost() -> anyhow::Result<()> {
    const TEST: &str = "more_completions_than_fit_are_not_lost";
    const CLIENTS: usize = 3000;
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn")?;
    if limit.trim().parse::<usize>()? < CLIENTS {
        return skip(TEST, format!("net.core.somaxconn is {}", limit.trim()));
    }
    if let Some(why) = no_room_for(CLIENTS)? {
        return skip(TEST, why);
    }
    with(&["-vv", "--backlog", "4000"], |server| {
        server.freeze()?;
        let mut peers = connect_many(server.address(), CLIENTS)?;
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(format!("number {number}").as_bytes())?;
        }
        server.thaw()?;
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.expect(format!("number {number}").as_bytes())?;
        }
        let told = server.stderr();
        ensure!(
            told.contains("more completions than fit"),
            "there was room for all"
        );
        // The accept that has been ended by it was asked for again, and so was every recv.
        Peer::connect(server.address())?.echo(b"one more")?;
        for peer in &mut peers {
            peer.send(b"still there?")?;
        }
        peers
            .iter_mut()
            .try_for_each(|peer| peer.expect(b"still there?"))
    })
}

/// More of them than there are large buffers.
#[test]
fn never_readers_keep_no_buffer_from_anybody() -> anyhow::Result<()> {
    with(&["-vv"], |server| {
        let address = server.address();
        let stuck = thread::scope(|scope| {
            let fill = || {
                let mut peer = Peer::connect_with_buffer(address, 32 * 1024)?;
                peer.send_until_stuck()?;
                anyhow::Ok(peer)
            };
            let filling: Vec<_> = (0..40).map(|_| scope.spawn(fill)).collect();
            let filled = filling.into_iter().map(std::thread::ScopedJoinHandle::join);
            filled
                .map(|peer| peer.expect("it returns its failure"))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut peer = Peer::connect(address)?;
        for length in [10, 1_000_000] {
            peer.send_pattern(length)?;
            peer.expect_pattern(length)?;
        }
        for mut peer in stuck {
            peer.half_close()?;
            peer.expect_rest_and_fin()?;
        }
        Ok(())
    })
}

/// Each of them is sent back what it sends as fast as it can; that goes on while the other talks.
#[test]
fn firehoses_leave_room_for_others() -> anyhow::Result<()> {
    const HOSES: usize = 8;
    const PINGS: usize = 100;
    with(&[], |server| {
        let address = server.address();
        let mut pinging = Peer::connect(address)?;
        let hoses = connect_many(address, HOSES)?;
        let running = Barrier::new(HOSES + 1);
        let beside = thread::scope(|scope| {
            for hose in &hoses {
                let (mut sender, mut reader) = (hose.half()?, hose.half()?);
                // Both end when the connection does.
                scope.spawn(move || while sender.send_pattern(1_000_000).is_ok() {});
                let running = &running;
                scope.spawn(move || {
                    let first = reader.expect_pattern(1_000_000);
                    running.wait();
                    first
                        .is_ok()
                        .then(|| while reader.expect_pattern(1_000_000).is_ok() {})
                });
            }
            running.wait();
            let times = round_trips(&mut pinging, PINGS);
            hoses.iter().for_each(Peer::abort);
            times
        })?;
        let median = beside[PINGS / 2];
        figure(
            URING,
            format!("a round trip beside {HOSES} firehoses: {median:?}"),
        );
        ensure!(
            median <= Duration::from_millis(100),
            "{median:?} for a round trip"
        );
        Ok(())
    })
}

// -- Signals ------------------------------------------------------------------------------------

/// A recv at the urgent mark fails with EAGAIN while a signal is pending. Here one is in every call:
/// even ignored ones are, while a tracer might want them.
#[test]
fn a_signal_does_not_make_a_recv_forget_what_is_behind_the_urgent_mark() -> anyhow::Result<()> {
    const TEST: &str = "a_signal_does_not_make_a_recv_forget_what_is_behind_the_urgent_mark";
    if !strace_works() {
        return skip(TEST, "strace does not work here");
    }
    let signal = "inject=io_uring_enter:signal=SIGWINCH";
    let strace = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", signal];
    let server = URING.server().under(&strace).start()?;
    let mut peer = Peer::connect(server.address())?;
    peer.send(b"abc")?;
    peer.send_urgent(b'D')?;
    peer.send(b"efg")?;
    peer.expect(b"abcefg")?;
    peer.send_urgent(b'H')?;
    peer.send(b"ijk")?;
    peer.expect(b"ijk")?;
    peer.half_close()?;
    peer.expect_fin()
}

// -- Many ---------------------------------------------------------------------------------------

#[test]
fn ten_thousand_connections_cost_an_entry_each_and_all_answer() -> anyhow::Result<()> {
    const TEST: &str = "ten_thousand_connections_cost_an_entry_each_and_all_answer";
    const CONNECTIONS: usize = 10_000;
    if let Some(why) = no_room_for(CONNECTIONS)? {
        return skip(TEST, why);
    }
    with(&[], |server| {
        let memory = || processes::memory(server.pid()).context("the server has vanished");
        let mut peers = connect_many(server.address(), 500)?;
        peers.iter_mut().try_for_each(|peer| peer.echo(b"first"))?;
        let before = memory()?;
        while peers.len() < CONNECTIONS {
            peers.extend(connect_many(server.address(), 500)?);
            // When the last has been answered, all have been accepted: the backlog is empty again.
            let last = peers.len() - 1;
            peers[last].echo(b"idle from now on")?;
        }
        let idle = memory()?;
        let each = idle.anonymous.saturating_sub(before.anonymous) / (CONNECTIONS as u64 - 500);
        figure(
            URING,
            format!(
                "{} kB resident with {CONNECTIONS} connections, {each} bytes for each",
                idle.rss / 1000
            ),
        );
        // A table that grows is copied to where there is room for twice as many.
        ensure!(each <= 256, "{each} bytes for each idle connection");
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(format!("number {number}").as_bytes())?;
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.expect(format!("number {number}").as_bytes())?;
        }
        Ok(())
    })
}

// -- The end ------------------------------------------------------------------------------------

/// A request that is under way keeps its socket open, also after the process: at the end there must
/// be none.
#[test]
fn when_it_has_ended_the_port_is_free_at_once() -> anyhow::Result<()> {
    let place = ["--bind", "127.0.0.24"];
    let mut port = 0;
    for round in 0..60 {
        let server = URING.talkative().args(place).port(port).start();
        let server = server.with_context(|| format!("restart {round}"))?;
        port = server.address().port();
        let mut idle = Peer::connect(server.address())?;
        idle.echo(b"hello")?;
        server.signal(Signal::SIGTERM)?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.success(), "{status}\n{server}");
        idle.expect_fin()?;
    }
    Ok(())
}

// -- What it shows ------------------------------------------------------------------------------

#[test]
fn completions_are_told_like_calls() -> anyhow::Result<()> {
    with(&["-vvv"], |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello")?;
        let shown = ["io_uring_enter(", "accept(", "recv(", "send("];
        eventually("a line for each", PATIENCE, || {
            let told = server.stderr();
            let five = |call: &str| {
                told.lines()
                    .any(|l| l.contains(call) && l.ends_with(") = 5"))
            };
            let all = shown.iter().all(|call| told.contains(call));
            (all && five("recv(") && five("send(")).then_some(())
        })
    })
}

// -- Helpers ------------------------------------------------------------------------------------

/// Starts a server; what goes wrong then is reported with what it has printed. It must still be
/// there at the end.
fn with(
    flags: &[&str],
    body: impl FnOnce(&ServerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let server = URING.server().args(flags.iter().copied()).start()?;
    let outcome = body(&server).and_then(|()| {
        let ended = server.status();
        ensure!(ended.is_none(), "the server has ended: {ended:?}");
        Ok(())
    });
    // With -vv and thousands of clients, all of it would be too much.
    outcome.with_context(|| {
        let log = server.stderr();
        let last: Vec<_> = log.lines().rev().take(30).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    })
}
