//! Signals, and how a server stops: what it owes to whom, how long that may take, and what is left
//! behind; first what every model does, then what only the forking ones must.

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_common::Model;
use tcpecho_common::model::{Serves, Unit};
use tcpecho_lab::contestant::Contestant;
use tcpecho_lab::observe::processes::{self, Process};
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::peer::{Ended, PATIENCE, Peer};
use tcpecho_lab::promised;
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::wait::eventually;

promised! { by every model:
    sigterm_gives_everybody_what_they_are_owed
    sigint_does_the_same
    who_is_owed_nothing_is_closed_at_once
    the_queue_is_accepted_before_the_listener_closes
    bytes_behind_urgent_data_are_owed_too
    nobody_is_accepted_while_the_server_stops
    a_peer_that_goes_on_sending_does_not_keep_the_server
    at_the_end_of_the_grace_the_stuck_are_reset
    a_second_sigterm_ends_it_now
    sigusr1_logs_the_status_and_nothing_else_happens
    sighup_keeps_its_disposition
    what_the_parent_did_to_signals_does_not_matter
    sigterm_at_start_never_hangs
    after_sigkill_the_port_is_free
}

promised! { by those with a child for each of three:
    sigterm_ends_the_children
    sigterm_for_the_group_lets_children_finish
    sigint_for_the_group_lets_children_finish
}

promised! { by those that fork for each:
    what_a_killed_child_has_not_echoed_is_lost
    a_child_that_has_left_is_reaped_at_once
    a_child_never_escalates_by_itself
    a_child_leaves_sigint_to_its_parent
    a_child_blocks_no_more_signals_than_its_parent
    children_that_do_not_stop_are_killed_after_the_grace
    a_child_that_learns_late_of_the_end_goes_by_its_parents_clock
    children_live_on_when_their_parent_is_killed
}

/// Longer than any test waits: only what must not happen takes so long.
const LONG_GRACE: [&str; 2] = ["--grace", "60s"];

// -- What is owed -------------------------------------------------------------------------------

fn sigterm_gives_everybody_what_they_are_owed(contestant: &Contestant) -> anyhow::Result<()> {
    pays_its_debts(contestant, |server| server.signal(Signal::SIGTERM))
}

fn sigint_does_the_same(contestant: &Contestant) -> anyhow::Result<()> {
    pays_its_debts(contestant, |server| server.signal(Signal::SIGINT))
}

/// Three peers have read nothing of what they sent, and none of it is under way. Of the first, some
/// is in the server's hands and the last in its kernel's, unread. Whom the iterative server has not
/// accepted yet can have sent no more than fits into an untouched socket.
fn pays_its_debts(
    contestant: &Contestant,
    stop: impl Fn(&ServerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut full = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        full.send_until_unread(server.address())?;
        let mut owed = vec![full];
        let more = match contestant.model.serves() {
            Serves::One => [10_000, 10_000],
            Serves::Workers | Serves::All => [10_000, 2_000_000],
        };
        for length in more {
            let mut peer = Peer::connect(server.address())?;
            peer.send_pattern(length)?;
            peer.wait_until_delivered()?;
            owed.push(peer);
        }
        stop(server)?;
        // What is read before the server has noticed could still be echoed as ever.
        wait_until_refused(server)?;
        for peer in &mut owed {
            peer.expect_rest_and_fin()?;
        }
        Ok(())
    })
}

fn who_is_owed_nothing_is_closed_at_once(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut idle = Vec::new();
        for _ in 0..3 {
            idle.push(Peer::connect(server.address())?);
        }
        idle[0].echo(b"nothing is owed after this")?;
        server.signal(Signal::SIGTERM)?;
        idle.iter_mut().try_for_each(Peer::expect_fin)
    })
}

/// Closing the listener resets whoever is in its queue, so the queue is emptied first.
fn the_queue_is_accepted_before_the_listener_closes(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        server.freeze()?;
        let mut queued = Vec::new();
        for _ in 0..3 {
            let mut peer = Peer::connect(server.address())?;
            peer.send_pattern(10_000)?;
            peer.wait_until_delivered()?;
            queued.push(peer);
        }
        server.signal(Signal::SIGTERM)?;
        server.thaw()?;
        queued.iter_mut().try_for_each(Peer::expect_rest_and_fin)
    })
}

/// The kernel, asked how much there is to read, counts up to the urgent mark.
fn bytes_behind_urgent_data_are_owed_too(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello")?;
        server.freeze()?;
        peer.send(b"abc")?;
        peer.send_urgent(b'D')?;
        peer.send(b"efg")?;
        peer.wait_until_delivered()?;
        server.signal(Signal::SIGTERM)?;
        server.thaw()?;
        peer.expect(b"abcefg")?;
        peer.expect_fin()
    })
}

fn nobody_is_accepted_while_the_server_stops(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut stuck = Peer::connect(server.address())?;
        stuck.send_until_stuck()?;
        server.signal(Signal::SIGTERM)?;
        wait_until_refused(server)?;
        ensure!(
            server.status().is_none(),
            "it did not wait for the peer it owes"
        );
        // What the kernel has not taken yet is not owed; what comes is right, up to a FIN.
        let (echoed, ended) = stuck.read_to_end()?;
        ensure!(ended == Ended::Fin, "a reset after {echoed} bytes");
        Ok(())
    })
}

fn a_peer_that_goes_on_sending_does_not_keep_the_server(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut peer = Peer::connect(server.address())?;
        let mut sender = peer.half()?;
        thread::scope(|scope| {
            // It ends when the server is gone.
            scope.spawn(move || while sender.send_pattern(100_000).is_ok() {});
            let result = peer.expect_pattern(1_000_000).and_then(|()| {
                server.signal(Signal::SIGTERM)?;
                peer.read_to_end()
            });
            peer.abort();
            let (_, ended) = result?;
            ensure!(
                ended == Ended::Fin,
                "a reset instead of what it is owed and a FIN"
            );
            Ok(())
        })
    })
}

// -- When time is up ----------------------------------------------------------------------------

/// All buffers are full; or the server has written everything, and only its kernel still has it: a
/// server that closes then leaves an orphan behind, and has sent nothing.
const WAYS_TO_BE_STUCK: [fn(&mut Peer) -> anyhow::Result<()>; 2] = [
    |peer| peer.send_until_stuck().map(drop),
    |peer| peer.send_pattern(1_000_000),
];

fn at_the_end_of_the_grace_the_stuck_are_reset(contestant: &Contestant) -> anyhow::Result<()> {
    const GRACE: Duration = Duration::from_millis(500);
    for fill in WAYS_TO_BE_STUCK {
        let server = contestant.talkative().args(["--grace", "500ms"]);
        let server = ended(server, |server| {
            let mut stuck = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
            fill(&mut stuck)?;
            let start = Instant::now();
            server.signal(Signal::SIGTERM)?;
            stuck.wait_until_reset()?;
            let after = start.elapsed();
            ensure!(
                after >= GRACE,
                "reset after {after:?}, before the grace was over"
            );
            Ok(())
        })?;
        says_what_was_lost(&server)?;
    }
    Ok(())
}

fn a_second_sigterm_ends_it_now(contestant: &Contestant) -> anyhow::Result<()> {
    for fill in WAYS_TO_BE_STUCK {
        let server = ended(contestant.talkative().args(LONG_GRACE), |server| {
            let mut stuck = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
            fill(&mut stuck)?;
            server.signal(Signal::SIGTERM)?;
            // Two that arrive together are one.
            wait_until_refused(server)?;
            ensure!(server.status().is_none(), "the first one was enough");
            server.signal(Signal::SIGTERM)?;
            stuck.wait_until_reset()
        })?;
        says_what_was_lost(&server)?;
    }
    Ok(())
}

fn says_what_was_lost(server: &ServerProcess) -> anyhow::Result<()> {
    let log = server.stderr();
    let line = log.lines().find(|line| line.contains("never echoed"));
    let line = line.with_context(|| format!("no word about what was lost\n{server}"))?;
    let lost = line
        .split_whitespace()
        .find_map(|word| word.parse::<u64>().ok());
    // The first number is the time stamp, which is no whole one.
    ensure!(lost.is_some_and(|bytes| bytes > 0), "{line}\n{server}");
    Ok(())
}

// -- Other signals ------------------------------------------------------------------------------

fn sigusr1_logs_the_status_and_nothing_else_happens(contestant: &Contestant) -> anyhow::Result<()> {
    // Not a talkative one: the table is shown because it was asked for.
    stopped(contestant.server(), |server| {
        let mut peer = Peer::connect(server.address())?;
        for round in 1..=3_u64 {
            peer.echo(b"0123456789")?;
            let mut expected = vec![
                format!("{}, pid {}", contestant.model, server.pid()),
                "open 1 ".to_owned(),
                "accepted 1 ".to_owned(),
                format!("received {} ", round * 10),
                format!("echoed {} ", round * 10),
                "pending 0 ".to_owned(),
            ];
            if (contestant.model.unit(), contestant.model.serves()) == (Unit::Process, Serves::All)
            {
                expected.push("unreaped 1 ".to_owned());
            }
            // The peer may have its echo before the server has counted it.
            eventually(&format!("a table with {expected:?}"), PATIENCE, || {
                server.signal(Signal::SIGUSR1).ok()?;
                let log = server.stderr();
                let table = log.split("status of ").last()?;
                expected
                    .iter()
                    .all(|part| table.contains(part))
                    .then_some(())
            })?;
        }
        server.signal(Signal::SIGTERM)?;
        peer.expect_fin()
    })
}

fn sighup_keeps_its_disposition(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().start()?;
    server.signal(Signal::SIGHUP)?;
    let status = server.wait(PATIENCE)?;
    ensure!(
        status.signal() == Some(Signal::SIGHUP as i32),
        "{status}\n{server}"
    );

    // As nohup starts it.
    stopped(contestant.talkative().ignoring(Signal::SIGHUP), |server| {
        server.signal(Signal::SIGHUP)?;
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"still here")?;
        server.signal_group(Signal::SIGHUP)?;
        peer.echo(b"and here")?;
        server.signal(Signal::SIGTERM)?;
        peer.expect_fin()
    })
}

fn what_the_parent_did_to_signals_does_not_matter(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant
        .talkative()
        .ignoring(Signal::SIGCHLD)
        .ignoring(Signal::SIGTERM)
        .blocking(Signal::SIGTERM)
        .blocking(Signal::SIGCHLD)
        .blocking(Signal::SIGUSR1)
        .blocking(Signal::SIGALRM);
    stopped(server, |server| {
        // The workers of a pool are there before the first client.
        let at_rest = processes::children(server.pid()).len();
        for _ in 0..3 {
            let mut peer = Peer::connect(server.address())?;
            peer.echo(b"served")?;
            peer.half_close()?;
            peer.expect_fin()?;
            wait_for_children(server, at_rest)?;
        }
        let mut idle = Peer::connect(server.address())?;
        idle.echo(b"served")?;
        server.signal(Signal::SIGTERM)?;
        idle.expect_fin()
    })
}

/// The signal comes at every moment of the first milliseconds: before the handlers are installed
/// it kills, afterwards it stops.
fn sigterm_at_start_never_hangs(contestant: &Contestant) -> anyhow::Result<()> {
    for step in 0..100 {
        let server = contestant.talkative().launch()?;
        // Not a wait for anything: it moves the moment of the signal.
        thread::sleep(Duration::from_micros(step * 50));
        // It cannot have ended by itself.
        server.signal(Signal::SIGTERM)?;
        let status = server.wait(PATIENCE)?;
        ensure!(
            status.success() || status.signal() == Some(Signal::SIGTERM as i32),
            "{status}\n{server}"
        );
    }
    Ok(())
}

// -- The port -----------------------------------------------------------------------------------

fn after_sigkill_the_port_is_free(contestant: &Contestant) -> anyhow::Result<()> {
    let place = ["--bind", "127.0.0.23"];
    let server = contestant.talkative().args(place).start()?;
    let mut peer = Peer::connect(server.address())?;
    peer.echo(b"connected")?;
    server.signal(Signal::SIGKILL)?;
    server.wait(PATIENCE)?;
    if matches!(contestant.model, Model::Prefork | Model::Uring) {
        // Workers listen, too, and their end comes after that of their parent; an accept that is
        // under way in a ring the kernel ends some milliseconds after the process.
        wait_until_refused(&server)?;
    }
    let again = contestant
        .talkative()
        .args(place)
        .port(server.address().port());
    let again = again.start().with_context(|| server.transcript())?;
    Peer::connect(again.address())?.echo(b"here again")
}

// -- Children -----------------------------------------------------------------------------------

fn a_child_that_has_left_is_reaped_at_once(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative(), |server| {
        let mut peers = Vec::new();
        for _ in 0..10 {
            let mut peer = Peer::connect(server.address())?;
            peer.echo(b"hello")?;
            peers.push(peer);
        }
        wait_for_children(server, 10)?;
        // All at once: ten children, and perhaps one SIGCHLD.
        server.freeze()?;
        for peer in &mut peers[..5] {
            peer.half_close()?;
        }
        server.thaw()?;
        wait_for_children(server, 5)?;
        drop(peers);
        wait_for_children(server, 0)?;
        server.signal(Signal::SIGTERM)
    })
}

fn sigterm_ends_the_children(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut peers = Vec::new();
        for _ in 0..3 {
            let mut peer = Peer::connect(server.address())?;
            peer.echo(b"hello")?;
            peers.push(peer);
        }
        let children = wait_for_children(server, 3)?;
        server.signal(Signal::SIGTERM)?;
        peers.iter_mut().try_for_each(Peer::expect_fin)?;
        server.wait(PATIENCE)?;
        for child in children {
            // Reaped before the server ended: not even a zombie is left.
            ensure!(is_gone(&child), "child {} has survived", child.pid);
        }
        Ok(())
    })
}

/// `kill -TERM -PGID`: every child gets one signal from the group and one from its parent, which
/// are not two for it.
fn sigterm_for_the_group_lets_children_finish(contestant: &Contestant) -> anyhow::Result<()> {
    group_signal_lets_children_finish(contestant, Signal::SIGTERM)
}

/// Ctrl-C: the terminal signals the group, the parent leads.
fn sigint_for_the_group_lets_children_finish(contestant: &Contestant) -> anyhow::Result<()> {
    group_signal_lets_children_finish(contestant, Signal::SIGINT)
}

fn group_signal_lets_children_finish(
    contestant: &Contestant,
    signal: Signal,
) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut peers = Vec::new();
        for _ in 0..3 {
            let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
            peer.send_until_unread(server.address())?;
            peers.push(peer);
        }
        let children = wait_for_children(server, 3)?;
        server.signal_group(signal)?;
        wait_until_refused(server)?;
        peers.iter_mut().try_for_each(Peer::expect_rest_and_fin)?;
        server.wait(PATIENCE)?;
        ensure!(children.iter().all(is_gone), "a child has survived");
        Ok(())
    })
}

/// It cannot count that itself.
fn what_a_killed_child_has_not_echoed_is_lost(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.send_until_stuck()?;
        let child = wait_for_children(server, 1)?.remove(0);
        kill(Pid::from_raw(child.pid), Signal::SIGKILL)?;
        let reaped = format!("reaped child {}", child.pid);
        eventually(&reaped, PATIENCE, || {
            server.stderr().contains(&reaped).then_some(())
        })?;
        server.signal(Signal::SIGUSR1)?;
        let table = eventually("a status table", PATIENCE, || {
            let told = server.stderr();
            let bytes = told
                .lines()
                .find(|line| line.trim_start().starts_with("bytes "))?;
            Some(
                bytes
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        })?;
        let figure = |name: &str| {
            let at = table.iter().position(|word| word == name)?;
            table.get(at + 1)?.parse::<u64>().ok()
        };
        ensure!(figure("pending") == Some(0), "{table:?}");
        ensure!(figure("lost") > Some(0), "{table:?}");
        server.signal(Signal::SIGTERM)
    })
}

fn a_child_never_escalates_by_itself(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative().args(LONG_GRACE), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.send_until_stuck()?;
        let child = wait_for_children(server, 1)?.remove(0);
        server.signal(Signal::SIGTERM)?;
        wait_until_refused(server)?;
        for _ in 0..3 {
            kill(Pid::from_raw(child.pid), Signal::SIGTERM)?;
            kill(Pid::from_raw(child.pid), Signal::SIGINT)?;
            // They have arrived when none is pending.
            eventually("delivery of the signals", PATIENCE, || {
                no_signal_is_pending(child.pid).then_some(())
            })?;
        }
        let (echoed, ended) = peer.read_to_end()?;
        ensure!(
            ended == Ended::Fin && echoed > 0,
            "{ended:?} after {echoed} bytes"
        );
        Ok(())
    })
}

fn a_child_leaves_sigint_to_its_parent(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"before")?;
        let child = wait_for_children(server, 1)?.remove(0);
        kill(Pid::from_raw(child.pid), Signal::SIGINT)?;
        peer.echo(b"after")?;
        server.signal(Signal::SIGINT)?;
        peer.expect_fin()
    })
}

/// Ctrl-Z, Ctrl-\ and a hangup are for the whole job.
fn a_child_blocks_no_more_signals_than_its_parent(contestant: &Contestant) -> anyhow::Result<()> {
    stopped(contestant.talkative(), |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello")?;
        let child = wait_for_children(server, 1)?.remove(0);
        eventually("the same blocked signals", PATIENCE, || {
            let blocked = [server.pid(), child.pid].map(|pid| signals(pid, "SigBlk:"));
            (blocked[0] == blocked[1]).then_some(())
        })
        .with_context(|| signals(child.pid, "SigBlk:"))?;
        server.signal(Signal::SIGTERM)
    })
}

fn children_that_do_not_stop_are_killed_after_the_grace(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    let server = contestant.talkative().args(["--grace", "300ms"]);
    let server = ended(server, |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello")?;
        let child = wait_for_children(server, 1)?.remove(0);
        // Deaf to everything but KILL.
        kill(Pid::from_raw(child.pid), Signal::SIGSTOP)?;
        server.signal(Signal::SIGTERM)?;
        server.wait(PATIENCE)?;
        ensure!(is_gone(&child), "the child has survived");
        Ok(())
    })?;
    ensure!(
        server.stderr().contains("that had not stopped: 1"),
        "it does not say so\n{server}"
    );
    Ok(())
}

/// Its own clock would end the grace when it has been killed for a second.
fn a_child_that_learns_late_of_the_end_goes_by_its_parents_clock(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    const LATE: Duration = Duration::from_millis(1500);
    let server = contestant.talkative().args(["--grace", "3s"]);
    let server = ended(server, |server| {
        let mut peer = Peer::connect(server.address())?;
        peer.send_until_stuck()?;
        let child = wait_for_children(server, 1)?.remove(0);
        kill(Pid::from_raw(child.pid), Signal::SIGSTOP)?;
        server.signal(Signal::SIGTERM)?;
        wait_until_refused(server)?;
        // Not a wait for anything: so late it learns.
        thread::sleep(LATE);
        kill(Pid::from_raw(child.pid), Signal::SIGCONT)?;
        peer.wait_until_reset()
    })?;
    ensure!(
        !server.stderr().contains("that had not stopped"),
        "it was not told\n{server}"
    );
    says_what_was_lost(&server)
}

fn children_live_on_when_their_parent_is_killed(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().start()?;
    let mut peer = Peer::connect(server.address())?;
    peer.echo(b"before")?;
    let child = wait_for_children(&server, 1)?.remove(0);
    server.signal(Signal::SIGKILL)?;
    server.wait(PATIENCE)?;
    peer.echo(b"after")?;
    ensure!(!is_gone(&child), "who has answered?");
    ensure!(
        TcpStream::connect(server.address()).is_err(),
        "a child has kept the listening socket\n{server}"
    );
    peer.half_close()?;
    peer.expect_fin()?;
    eventually("the end of the child", PATIENCE, || {
        is_gone(&child).then_some(())
    })
}

// -- Helpers ------------------------------------------------------------------------------------

/// Starts a server, and expects it to end with 0 after `body`; what goes wrong is reported with
/// everything it has printed.
fn stopped(
    server: Server,
    body: impl FnOnce(&ServerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    ended(server, body).map(drop)
}

/// The same, for who wants to know what it has said.
fn ended(
    server: Server,
    body: impl FnOnce(&ServerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<ServerProcess> {
    let server = server.start()?;
    body(&server).with_context(|| server.transcript())?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status} instead of 0\n{server}");
    Ok(server)
}

/// Until the listening socket is closed: the server has noticed that it shall stop.
fn wait_until_refused(server: &ServerProcess) -> anyhow::Result<()> {
    let diag = SockDiag::open()?;
    eventually("a refused connection", PATIENCE, || {
        // Not by trying: who is accepted at the last moment would have to be served.
        let queue = diag.queued(server.address()).ok()?;
        queue.is_none().then_some(())
    })?;
    ensure!(
        TcpStream::connect(server.address()).is_err(),
        "it still accepts"
    );
    Ok(())
}

fn wait_for_children(server: &ServerProcess, count: usize) -> anyhow::Result<Vec<Process>> {
    let mut seen = Vec::new();
    eventually(&format!("{count} children"), PATIENCE, || {
        seen = processes::children(server.pid());
        (seen.len() == count).then_some(())
    })
    .with_context(|| processes::ps_view(&processes::children(server.pid())))?;
    Ok(seen)
}

/// A pid may have gone to somebody else.
fn is_gone(child: &Process) -> bool {
    processes::look(child.pid).is_none_or(|now| now.pgrp != child.pgrp)
}

fn no_signal_is_pending(pid: i32) -> bool {
    let pending = ["ShdPnd:", "SigPnd:"].map(|kind| signals(pid, kind));
    pending.iter().all(|set| set.trim_matches('0').is_empty())
}

/// A set of signals, as /proc shows it: hexadecimal, SIGHUP last.
fn signals(pid: i32, kind: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix(kind));
    set.unwrap_or_default().trim().to_owned()
}
