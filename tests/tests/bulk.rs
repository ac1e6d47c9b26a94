//! Streams through the loops that wait for readiness: whoever sends much at once is echoed by splice,
//! and whatever the peers, the signals and the calls do to that, each byte comes back, in order, and
//! nothing stalls.
//!
//! `TCPECHO_BULK_RUNS=100` makes a hundred runs of what is otherwise run three times.

use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use tcpecho_lab::contestant::{Contestant, POLL, REACTOR, REACTOR_WITH_WORKERS, SELECT};
use tcpecho_lab::limit::Limit;
use tcpecho_lab::observe::calls::{CallRecord, Phase};
use tcpecho_lab::observe::processes;
use tcpecho_lab::peer::{PATIENCE, Peer};
use tcpecho_lab::server::{Server, ServerProcess, with};
use tcpecho_lab::skip::{skip, strace_works};
use tcpecho_lab::wait::eventually;

/// So much at once is spliced the next time, and fits into the smallest of the kernel's buffers.
const MUCH: u64 = 60_000;

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
    much_at_once_is_spliced_and_little_is_not
    peers_of_all_kinds_get_every_byte
    urgent_data_amid_a_stream_stalls_nothing
    a_reset_amid_a_stream_ends_that_connection_only
    a_death_amid_a_stream_raises_one_sigpipe
    a_stopping_server_echoes_what_has_come
    signals_amid_a_stream_stall_nothing
    without_descriptors_for_a_pipe_bytes_are_copied
    a_splice_that_fails_is_not_noticed
    an_error_that_splice_tells_ends_that_connection_only
}

fn runs() -> u32 {
    let runs = std::env::var("TCPECHO_BULK_RUNS").ok();
    runs.and_then(|text| text.parse().ok()).unwrap_or(3)
}

// -- Which way they go --------------------------------------------------------------------------

fn much_at_once_is_spliced_and_little_is_not(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.server().events(), |server| {
        let mut peer = Peer::connect(server.address())?;
        for (length, expected) in [
            (MUCH, ["read", "write"]),
            (MUCH, ["splice", "splice"]),
            // What came before was much.
            (1000, ["splice", "splice"]),
            (1000, ["read", "write"]),
        ] {
            let before = server.calls().len();
            at_once(server, &mut peer, length)?;
            peer.expect_pattern(length)?;
            let moved = |call: &CallRecord| {
                call.phase == Phase::Return && call.result == i64::try_from(length).unwrap_or(-1)
            };
            eventually("both calls", PATIENCE, || {
                let calls = server.calls().split_off(before);
                let names: Vec<_> = calls.into_iter().filter(moved).map(|c| c.call).collect();
                (names == expected).then_some(())
            })
            .with_context(|| format!("{length} bytes: {:?}", server.calls()))?;
        }
        Ok(())
    })
}

/// The server, which has done all that was to be done, finds all of it when it looks.
fn at_once(server: &ServerProcess, peer: &mut Peer, length: u64) -> anyhow::Result<()> {
    eventually("a server that sleeps", PATIENCE, || {
        let states = processes::states(server.pid())?;
        states.iter().all(|state| *state == 'S').then_some(())
    })?;
    server.freeze()?;
    peer.send_pattern(length)?;
    peer.wait_until_delivered()?;
    server.thaw()
}

/// Its next bytes are spliced, if they are there before it has looked again.
fn served_in_bulk(server: &ServerProcess) -> anyhow::Result<Peer> {
    let mut peer = Peer::connect(server.address())?;
    exchange_much(server, &mut peer)?;
    Ok(peer)
}

fn exchange_much(server: &ServerProcess, peer: &mut Peer) -> anyhow::Result<()> {
    at_once(server, peer, MUCH)?;
    peer.expect_pattern(MUCH)
}

// -- Peers --------------------------------------------------------------------------------------

/// At once: two that send and read all they can, one that reads little at a time, one that stops reading
/// and goes on, one that never reads, one that is reset, and one that says little.
fn peers_of_all_kinds_get_every_byte(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut first = Peer::connect(server.address())?;
        first.echo(b"ready")?;
        let before = descriptors(server)?;
        for run in 0..runs() {
            a_crowd(server).with_context(|| format!("run {run}"))?;
        }
        // A pipe for each loop, however many its connections are.
        let loops = if contestant.flags.is_empty() { 1 } else { 2 };
        eventually("no descriptors but those of pipes", PATIENCE, || {
            let more = descriptors(server).ok()?.checked_sub(before)?;
            (more == 2 || more == 2 * loops).then_some(())
        })
    })
}

fn a_crowd(server: &ServerProcess) -> anyhow::Result<()> {
    let at = server.address();
    let mut never_reads = Peer::connect(at)?;
    never_reads.send_until_stuck()?;
    let mut is_reset = Peer::connect(at)?;
    is_reset.send_until_stuck()?;
    let streams = || Peer::connect(at)?.stream(20_000_000);
    let reads_slowly = || {
        let mut peer = Peer::connect_with_buffer(at, 16 * 1024)?;
        let mut writer = peer.half()?;
        thread::scope(|scope| {
            let writing = scope.spawn(move || {
                writer.send_pattern(1_000_000)?;
                writer.half_close()
            });
            let read = (0..200).try_for_each(|_| {
                thread::sleep(Duration::from_millis(1));
                peer.expect_pattern(5_000)
            });
            if read.is_err() {
                peer.abort();
            }
            let wrote = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
            read.and(wrote)?;
            peer.expect_fin()
        })
    };
    let pauses = || {
        let mut peer = Peer::connect(at)?;
        for _ in 0..3 {
            peer.send_until_stuck()?;
            thread::sleep(Duration::from_millis(20));
            peer.expect_pattern(peer.sent() - peer.received())?;
        }
        peer.send_until_stuck()?;
        peer.half_close()?;
        peer.expect_rest_and_fin()
    };
    let says_little = || {
        let mut peer = Peer::connect(at)?;
        (0..100).try_for_each(|_| peer.echo(b"hello"))
    };
    let all: [&(dyn Fn() -> anyhow::Result<()> + Sync); 5] =
        [&streams, &streams, &reads_slowly, &pauses, &says_little];
    thread::scope(|scope| {
        let all = all.map(|one| scope.spawn(one));
        is_reset.reset();
        all.into_iter().try_for_each(|one| match one.join() {
            Ok(result) => result,
            Err(_) => bail!("one has panicked"),
        })
    })?;
    never_reads.half_close()?;
    never_reads.expect_rest_and_fin()
}

fn descriptors(server: &ServerProcess) -> anyhow::Result<usize> {
    Ok(processes::descriptors(server.pid())?.len())
}

/// What comes before the mark is spliced; a splice goes no further, and a read does.
fn urgent_data_amid_a_stream_stalls_nothing(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        for _ in 0..10 {
            let mut peer = served_in_bulk(server)?;
            server.freeze()?;
            peer.send(b"abc")?;
            peer.send_urgent(b'D')?;
            peer.send_pattern(MUCH / 2)?;
            peer.wait_until_delivered()?;
            server.thaw()?;
            peer.expect(b"abc")?;
            peer.expect_pattern(MUCH / 2)?;
            peer.echo(b"and on")?;
            peer.half_close()?;
            peer.expect_fin()?;
        }
        Ok(())
    })
}

fn a_reset_amid_a_stream_ends_that_connection_only(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.talkative(), |server| {
        let mut other = served_in_bulk(server)?;
        for _ in 0..10 {
            let mut peer = served_in_bulk(server)?;
            server.freeze()?;
            peer.send_pattern(MUCH)?;
            peer.wait_until_delivered()?;
            peer.reset();
            server.thaw()?;
            // Nothing of it comes to anybody else.
            exchange_much(server, &mut other)?;
        }
        eventually("ten resets", PATIENCE, || {
            (server.stderr().matches("ECONNRESET").count() == 10).then_some(())
        })
    })
}

/// Its FIN and its RST come before the echo of what it has sent: the splice that would echo it raises the
/// signal, as a write does, and there is no write after it that would raise another.
fn a_death_amid_a_stream_raises_one_sigpipe(contestant: &Contestant) -> anyhow::Result<()> {
    let counting = contestant.talkative().args(["--sigpipe", "count"]);
    with(counting, |server| {
        let told = || server.stderr().matches("SIGPIPE number ").count();
        for number in 1..=5 {
            let mut peer = served_in_bulk(server)?;
            server.freeze()?;
            peer.send_pattern(MUCH)?;
            peer.wait_until_delivered()?;
            peer.vanish()?;
            server.thaw()?;
            eventually("the end of that connection", PATIENCE, || {
                (server.stderr().matches("EPIPE").count() == number).then_some(())
            })?;
            eventually("the signal", PATIENCE, || (told() >= number).then_some(()))?;
            ensure!(told() == number, "{} signals for {number}", told());
        }
        served_in_bulk(server).map(drop)
    })
}

// -- Signals ------------------------------------------------------------------------------------

/// In the middle of a stream, with bytes in the server and in the kernel's buffers on both sides.
fn a_stopping_server_echoes_what_has_come(contestant: &Contestant) -> anyhow::Result<()> {
    for _ in 0..runs() {
        let server = contestant.talkative().args(["--grace", "60s"]).start()?;
        let mut peers = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
            exchange_much(&server, &mut peer)?;
            peer.send_until_unread(server.address())?;
            peers.push(peer);
        }
        server.signal(Signal::SIGTERM)?;
        let echoed = peers.iter_mut().try_for_each(Peer::expect_rest_and_fin);
        echoed.with_context(|| server.to_string())?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.success(), "{status}\n{server}");
    }
    Ok(())
}

fn signals_amid_a_stream_stall_nothing(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.server(), |server| {
        let mut peer = Peer::connect(server.address())?;
        thread::scope(|scope| {
            let streaming = scope.spawn(|| peer.stream(50_000_000));
            while !streaming.is_finished() {
                server.signal(Signal::SIGUSR1)?;
                thread::sleep(Duration::from_micros(300));
            }
            let streamed = streaming.join();
            streamed.map_err(|_| anyhow!("the stream panicked"))?
        })
    })
}

// -- Calls that fail ----------------------------------------------------------------------------

fn without_descriptors_for_a_pipe_bytes_are_copied(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.server().events(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello")?;
        let limit = Limit::of(server.pid())?;
        limit.lower_to_what_is_in_use()?;
        for _ in 0..3 {
            exchange_much(server, &mut peer)?;
        }
        let is_spliced = || server.calls().iter().any(|call| call.call == "splice");
        ensure!(!is_spliced(), "there was no pipe");
        limit.restore()?;
        // It tries again when much comes at once.
        for _ in 0..3 {
            exchange_much(server, &mut peer)?;
        }
        ensure!(is_spliced(), "it never tried again");
        Ok(())
    })
}

/// Of the calls, some say that they would block though nothing is in the way, or are interrupted; or
/// from some on none can be had.
fn a_splice_that_fails_is_not_noticed(contestant: &Contestant) -> anyhow::Result<()> {
    let faults = [
        "EAGAIN:when=3+2",
        "EAGAIN:when=2+3",
        "EINTR:when=1+2",
        "EINVAL:when=3+",
        "ENOSYS:when=4+",
    ];
    for fault in faults {
        let Some(server) = failing(contestant, fault)? else {
            return Ok(());
        };
        with(server, |server| {
            let mut stuck = Peer::connect(server.address())?;
            stuck.send_until_stuck()?;
            for _ in 0..3 {
                Peer::connect(server.address())?.stream(4_000_000)?;
            }
            stuck.half_close()?;
            stuck.expect_rest_and_fin()
        })
        .context(fault)?;
    }
    Ok(())
}

/// A socket tells of its error once. If splice is told of it, a read would say: the end.
fn an_error_that_splice_tells_ends_that_connection_only(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    for fault in ["ECONNRESET:when=1", "ETIMEDOUT:when=2"] {
        let Some(server) = failing(contestant, fault)? else {
            return Ok(());
        };
        with(server, |server| {
            let mut other = Peer::connect(server.address())?;
            other.echo(b"hello")?;
            let streamed = Peer::connect(server.address())?.stream(4_000_000);
            ensure!(streamed.is_err(), "it has survived");
            let (errno, _) = fault.split_once(':').context("an errno")?;
            eventually(errno, PATIENCE, || {
                server.stderr().contains(errno).then_some(())
            })?;
            other.echo(b"still here")
        })
        .context(fault)?;
    }
    Ok(())
}

/// A server whose calls of splice fail like this, as strace has it; None: not here.
fn failing(contestant: &Contestant, fault: &str) -> anyhow::Result<Option<Server>> {
    if !strace_works() {
        skip("splice fails", "strace does not work here")?;
        return Ok(None);
    }
    let fault = format!("inject=splice:error={fault}");
    let strace = [
        "strace",
        "-qq",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=splice",
        "-e",
        &fault,
    ];
    Ok(Some(contestant.talkative().under(&strace)))
}
