//! Pools: client N+1 waits, workers die and are replaced, and nobody is left behind when the parent
//! is killed. What pools promise like everybody else is in the other suites.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use tcpecho_lab::contestant::{Contestant, PREFORK, PREFORK_WITH_ACCEPT_LOCK, THREAD_POOL};
use tcpecho_lab::observe::processes::{self, Process};
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::observe::sockets;
use tcpecho_lab::peer::{PATIENCE, Peer};
use tcpecho_lab::promised;
use tcpecho_lab::server::{Server, ServerProcess, with};
use tcpecho_lab::skip::skip;
use tcpecho_lab::wait::eventually;

promised! { by pools:
    client_n_plus_1_waits_until_one_has_left
    the_shares_of_the_workers_add_up
    who_is_queued_at_sigterm_is_answered_although_all_workers_are_busy
    the_port_is_free_while_workers_drain
    an_unusable_listening_socket_ends_the_server
}

/// Longer than any test waits: only what must not happen takes so long.
const LONG_GRACE: [&str; 2] = ["--grace", "60s"];

const DYING: &str = "workers do not stay alive";
const ALIVE: &str = "workers stay alive again";

// -- Both pools ---------------------------------------------------------------------------------

fn client_n_plus_1_waits_until_one_has_left(contestant: &Contestant) -> anyhow::Result<()> {
    with(contestant.capped(2).arg("-v"), |server| {
        let mut served = [
            Peer::connect(server.address())?,
            Peer::connect(server.address())?,
        ];
        for peer in &mut served {
            peer.echo(b"served")?;
        }
        let mut third = Peer::connect(server.address())?;
        third.send(b"patience")?;
        third.wait_until_delivered()?;
        for peer in &mut served {
            peer.echo(b"still served")?;
        }
        ensure!(!third.has_news(), "the third was served beside two");
        ensure!(queue(server)? == Some(1), "the third is not queued");
        let [first, mut second] = served;
        drop(first);
        third.expect(b"patience")?;
        second.echo(b"undisturbed")
    })
}

fn the_shares_of_the_workers_add_up(contestant: &Contestant) -> anyhow::Result<()> {
    const WORKERS: u64 = 3;
    with(contestant.capped(WORKERS as usize), |server| {
        // At once, so that each worker has one; the others where chance takes them.
        let mut first = Vec::new();
        for _ in 0..WORKERS {
            let mut peer = Peer::connect(server.address())?;
            peer.echo(b"0123456789")?;
            first.push(peer);
        }
        drop(first);
        for _ in WORKERS..20 {
            Peer::connect(server.address())?.echo(b"0123456789")?;
        }
        let mut table = Table::default();
        eventually("a table that adds up", PATIENCE, || {
            table = Table::of(server).ok()?;
            let of = |row: &str, label| table.get(row, label);
            let sum = |label| {
                (0..WORKERS)
                    .map(|n| of(&format!("worker {n}"), label))
                    .sum::<u64>()
            };
            let connections = ["open", "accepted", "closed"].map(|label| of("connections", label));
            let adds_up = connections == [0, 20, 20]
                && (sum("accepted"), sum("received"), sum("echoed")) == (20, 200, 200)
                && (of("bytes", "received"), of("bytes", "echoed")) == (200, 200);
            adds_up.then_some(())
        })
        .with_context(|| format!("{table:?}"))?;
        ensure!(!table.has("worker 3"), "there is no such worker");
        let least = (0..WORKERS)
            .map(|n| table.get(&format!("worker {n}"), "accepted"))
            .min();
        ensure!(least > Some(0), "one had nothing to do: {table:?}");
        Ok(())
    })
}

/// Two workers are stuck with what they owe; whoever comes next must not wait for them.
fn who_is_queued_at_sigterm_is_answered_although_all_workers_are_busy(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    let server = contestant.capped(2).args(LONG_GRACE).arg("-v");
    stopped(server, |server| {
        let mut stuck = all_busy(server, 2)?;
        let mut queued = Vec::new();
        for length in [0, 6, 10_000, 10_000] {
            let mut peer = Peer::connect(server.address())?;
            peer.send_pattern(length)?;
            peer.wait_until_delivered()?;
            queued.push(peer);
        }
        ensure!(queue(server)? == Some(4), "they are not queued");
        server.signal(Signal::SIGTERM)?;
        queued.iter_mut().try_for_each(Peer::expect_rest_and_fin)?;
        ensure!(
            server.status().is_none(),
            "the stuck ones have not been waited for"
        );
        stuck.iter_mut().try_for_each(Peer::expect_rest_and_fin)
    })
}

/// All workers have the listening socket, and some will for long.
fn the_port_is_free_while_workers_drain(contestant: &Contestant) -> anyhow::Result<()> {
    let place = ["--bind", "127.0.0.24"];
    let server = contestant.capped(2).args(place).args(LONG_GRACE).arg("-v");
    stopped(server, |server| {
        let mut stuck = all_busy(server, 2)?;
        server.signal(Signal::SIGTERM)?;
        wait_until_nobody_listens(server)?;
        let next = contestant
            .capped(2)
            .args(place)
            .port(server.address().port());
        let next = next.start()?;
        Peer::connect(next.address())?.echo(b"the next server")?;
        ensure!(server.status().is_none(), "it has not waited");
        stuck.iter_mut().try_for_each(Peer::expect_rest_and_fin)
    })
}

/// A worker finds out, and the leader must.
fn an_unusable_listening_socket_ends_the_server(contestant: &Contestant) -> anyhow::Result<()> {
    const TEST: &str = "an_unusable_listening_socket_ends_the_server";
    let server = contestant.capped(2).args(LONG_GRACE);
    let Some(server) = strace(TEST, server, "accept4:error=EBADF:when=2+")? else {
        return Ok(());
    };
    let server = server.start()?;
    Peer::connect(server.address())?.echo(b"the first is served")?;
    let status = eventually("the end of the server", PATIENCE, || {
        // With the lock, another worker must come first.
        let _ = TcpStream::connect(server.address());
        server.status()
    });
    let status = status.with_context(|| server.transcript())?;
    ensure!(status.code() == Some(1), "{status}\n{server}");
    let said = server.stderr();
    ensure!(
        said.contains("tcpechod: cannot accept") && said.contains("EBADF"),
        "{server}"
    );
    ensure!(said.lines().count() == 1, "{server}");
    Ok(())
}

// -- Workers that die ---------------------------------------------------------------------------

#[test]
fn a_killed_worker_is_replaced_and_the_others_are_undisturbed() -> anyhow::Result<()> {
    with(PREFORK.capped(3), |server| {
        let mut victim = Peer::connect(server.address())?;
        victim.echo(b"0123456789")?;
        let worker = who_serves(server, &victim)?;
        let mut others = [
            Peer::connect(server.address())?,
            Peer::connect(server.address())?,
        ];
        for peer in &mut others {
            peer.echo(b"before")?;
        }
        kill(Pid::from_raw(worker), Signal::SIGKILL)?;
        victim.expect_fin()?;
        // Both others still have their worker, so this is the new one.
        let mut next = Peer::connect(server.address())?;
        next.echo(b"after")?;
        let new = who_serves(server, &next)?;
        ensure!(new != worker, "the dead serve");
        for peer in &mut others {
            peer.echo(b"undisturbed")?;
        }
        let children = processes::children(server.pid());
        ensure!(children.len() == 3, "{}", processes::ps_view(&children));
        // The dead one could not say that its connection is over.
        let mut table = Table::default();
        eventually("a table that knows of it", PATIENCE, || {
            table = Table::of(server).ok()?;
            let figures = [
                ("connections", "open", 3),
                ("connections", "accepted", 4),
                ("connections", "closed", 1),
                ("bytes", "pending", 0),
                ("children", "unreaped", 3),
                ("children", "reaped", 1),
            ];
            let right = |(row, label, figure)| table.get(row, label) == figure;
            figures.into_iter().all(right).then_some(())
        })
        .with_context(|| format!("{table:?}"))
    })
}

/// Somebody may tell a single worker to stop: it does, politely, and is replaced.
#[test]
fn a_worker_that_is_told_to_stop_gives_its_client_what_it_is_owed() -> anyhow::Result<()> {
    with(PREFORK.capped(1).args(LONG_GRACE), |server| {
        let mut owed = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        owed.send_until_unread(server.address())?;
        let worker = who_serves(server, &owed)?;
        let mut next = Peer::connect(server.address())?;
        next.send(b"next")?;
        kill(Pid::from_raw(worker), Signal::SIGTERM)?;
        owed.expect_rest_and_fin()?;
        // It was queued, and the listening socket is not that worker's alone.
        next.expect(b"next")?;
        ensure!(who_serves(server, &next)? != worker, "it goes on");
        Ok(())
    })
}

/// Killed as soon as they are seen, again and again.
#[test]
fn workers_that_die_at_once_are_started_ever_less_often() -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_millis(1500);
    const WORKERS: usize = 2;
    with(PREFORK.capped(WORKERS), |server| {
        let clock = clock_getcpuclockid(Pid::from_raw(server.pid()))?;
        let (start, used_before) = (Instant::now(), Duration::from(clock.now()?));
        let mut killed = BTreeSet::new();
        while start.elapsed() < WATCHED {
            for child in processes::children(server.pid()) {
                if child.state != 'Z' && killed.insert(child.pid) {
                    kill_and_wait(child.pid)?;
                }
            }
            sleep(Duration::from_millis(1));
        }
        let used = Duration::from(clock.now()?).saturating_sub(used_before);
        // 10 ms later, 20 ms, 40 ms ...: at the eighth attempt more than a second has passed.
        let attempts = killed.len() / WORKERS;
        ensure!(
            (4..=9).contains(&attempts),
            "{attempts} attempts in {WATCHED:?}"
        );
        ensure!(
            used < WATCHED / 10,
            "{used:?} of processor time in {WATCHED:?}"
        );
        ensure!(lines(server, DYING) == 1, "not one line for the episode");

        // It has not given up.
        Peer::connect(server.address())?.echo(b"here again")?;
        eventually(ALIVE, PATIENCE, || {
            (lines(server, ALIVE) == 1).then_some(())
        })?;
        ensure!(lines(server, DYING) == 1, "not one line for the episode");
        ensure!(
            processes::children(server.pid()).len() == WORKERS,
            "some are missing"
        );
        Ok(())
    })
}

#[test]
fn who_is_killed_with_the_accept_lock_does_not_keep_it() -> anyhow::Result<()> {
    with(PREFORK_WITH_ACCEPT_LOCK.capped(3), |server| {
        for _ in 0..3 {
            let holder = lock_holder(server)?;
            kill_and_wait(holder)?;
            let mut peer = Peer::connect(server.address())?;
            peer.echo(b"whose turn is it?")?;
            ensure!(lock_holder(server)? != holder, "the dead have the lock");
        }
        Ok(())
    })
}

/// The one in accept; the other two wait behind it.
fn lock_holder(server: &ServerProcess) -> anyhow::Result<i32> {
    eventually(
        "one worker with the lock, and others that wait",
        PATIENCE,
        || {
            let children = processes::children(server.pid());
            let locks = fs::read_to_string("/proc/locks").ok()?;
            // `1: POSIX  ADVISORY  WRITE 4711 00:01:5 0 EOF`; of those that wait `1: -> POSIX ...`.
            let holders = locks.lines().filter(|line| !line.contains("->"));
            let pids =
                holders.filter_map(|line| line.split_whitespace().nth(4)?.parse::<i32>().ok());
            let mut ours = pids.filter(|pid| children.iter().any(|child| child.pid == *pid));
            let waiting = children
                .iter()
                .filter(|child| child.wchan.starts_with("fcntl"));
            let holder = ours.next()?;
            (ours.next().is_none() && waiting.count() > 0).then_some(holder)
        },
    )
}

// -- A parent that is killed --------------------------------------------------------------------

#[test]
fn without_clients_no_worker_outlives_its_parent() -> anyhow::Result<()> {
    for contestant in [PREFORK, PREFORK_WITH_ACCEPT_LOCK] {
        let server = contestant.capped(8).start()?;
        let workers = processes::children(server.pid());
        ensure!(workers.len() == 8, "they are not there");
        server.signal(Signal::SIGKILL)?;
        server.wait(PATIENCE)?;
        wait_until_gone(&workers)?;
        wait_until_nobody_listens(&server)?;
    }
    Ok(())
}

/// Those that serve end as after SIGTERM, and stop listening at once.
#[test]
fn with_clients_workers_end_as_after_sigterm_when_their_parent_is_killed() -> anyhow::Result<()> {
    for contestant in [PREFORK, PREFORK_WITH_ACCEPT_LOCK] {
        let server = contestant.capped(3).args(LONG_GRACE).start()?;
        let mut idle = Peer::connect(server.address())?;
        idle.echo(b"before")?;
        let mut owed = all_busy(&server, 1)?.remove(0);
        let busy = processes::look(who_serves(&server, &owed)?).context("it serves")?;
        let workers = processes::children(server.pid());
        server.signal(Signal::SIGKILL)?;
        server.wait(PATIENCE)?;
        idle.expect_fin()?;
        wait_until_nobody_listens(&server)?;
        ensure!(is_alive(&busy), "it has not delivered what it owes");
        owed.expect_rest_and_fin()?;
        wait_until_gone(&workers)?;
    }
    Ok(())
}

#[test]
fn nobody_is_left_after_the_grace_when_the_parent_is_killed() -> anyhow::Result<()> {
    const GRACE: Duration = Duration::from_millis(500);
    let server = PREFORK.capped(2).args(["--grace", "500ms"]).start()?;
    let stuck = all_busy(&server, 1)?.remove(0);
    let workers = processes::children(server.pid());
    let killed = Instant::now();
    server.signal(Signal::SIGKILL)?;
    stuck.wait_until_reset()?;
    let after = killed.elapsed();
    ensure!(after >= GRACE, "cut off after {after:?}");
    wait_until_gone(&workers)
}

/// The worker asks to be told of its parent's end when that has come already.
#[test]
fn a_parent_killed_in_the_first_moment_leaves_no_worker() -> anyhow::Result<()> {
    const TEST: &str = "a_parent_killed_in_the_first_moment_leaves_no_worker";
    let Some(server) = strace(TEST, PREFORK.capped(3), "prctl:delay_enter=500000")? else {
        return Ok(());
    };
    let server = server.start()?;
    let workers = processes::children(server.pid());
    ensure!(workers.len() == 3, "they are not there");
    kill(Pid::from_raw(server.pid()), Signal::SIGKILL)?;
    wait_until_gone(&workers)
}

// -- Workers that cannot be started -------------------------------------------------------------

const CLONE: &str = "clone,?clone3,?fork,?vfork:error=EAGAIN";

#[test]
fn a_pool_without_a_single_worker_does_not_start() -> anyhow::Result<()> {
    const TEST: &str = "a_pool_without_a_single_worker_does_not_start";
    for (contestant, what) in [
        (PREFORK, "cannot fork"),
        (THREAD_POOL, "cannot start a thread"),
    ] {
        let Some(server) = strace(TEST, contestant.server(), &format!("{CLONE}:when=1+"))? else {
            return Ok(());
        };
        let server = server.launch()?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.code() == Some(1), "{status}\n{server}");
        let said = server.stderr();
        ensure!(said.starts_with(&format!("tcpechod: {what}")), "{server}");
        ensure!(
            said.contains("EAGAIN") && said.lines().count() == 1,
            "{server}"
        );
        ensure!(
            server.stdout().is_empty(),
            "it said that it listens\n{server}"
        );
    }
    Ok(())
}

#[test]
fn a_pool_with_fewer_threads_than_wanted_serves_with_those() -> anyhow::Result<()> {
    const TEST: &str = "a_pool_with_fewer_threads_than_wanted_serves_with_those";
    let Some(server) = strace(TEST, THREAD_POOL.server(), &format!("{CLONE}:when=3+"))? else {
        return Ok(());
    };
    with(server, |server| {
        ensure!(lines(server, "2 of 8 threads") == 1, "it does not say so");
        let mut peers = [
            Peer::connect(server.address())?,
            Peer::connect(server.address())?,
        ];
        for peer in &mut peers {
            peer.echo(b"served")?;
        }
        let mut third = Peer::connect(server.address())?;
        third.send(b"patience")?;
        third.wait_until_delivered()?;
        ensure!(queue(server)? == Some(1), "by whom is it served?");
        drop(peers);
        third.expect(b"patience")
    })
}

#[test]
fn workers_that_cannot_be_forked_are_forked_later() -> anyhow::Result<()> {
    const TEST: &str = "workers_that_cannot_be_forked_are_forked_later";
    let Some(server) = strace(TEST, PREFORK.server(), &format!("{CLONE}:when=3..6"))? else {
        return Ok(());
    };
    with(server, |server| {
        Peer::connect(server.address())?.echo(b"served")?;
        eventually("all workers", PATIENCE, || {
            (processes::children(server.pid()).len() == 8).then_some(())
        })?;
        eventually(ALIVE, PATIENCE, || {
            (lines(server, ALIVE) == 1).then_some(())
        })?;
        ensure!(lines(server, DYING) == 1, "not one line for the episode");
        ensure!(server.stderr().contains("EAGAIN"), "it does not say why");
        Ok(())
    })
}

// -- Helpers ------------------------------------------------------------------------------------

/// Starts a server, and expects it to end with 0 after `body`.
fn stopped(
    server: Server,
    body: impl FnOnce(&ServerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let server = server.start()?;
    body(&server).with_context(|| server.transcript())?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status} instead of 0\n{server}");
    Ok(())
}

/// Clients that have sent and not read, until their workers cannot go on.
fn all_busy(server: &ServerProcess, workers: usize) -> anyhow::Result<Vec<Peer>> {
    let mut busy = Vec::new();
    for _ in 0..workers {
        let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        peer.send_until_unread(server.address())?;
        busy.push(peer);
    }
    Ok(busy)
}

/// Connections that wait to be accepted; None if nobody listens.
fn queue(server: &ServerProcess) -> anyhow::Result<Option<u32>> {
    SockDiag::open()?.queued(server.address())
}

fn wait_until_nobody_listens(server: &ServerProcess) -> anyhow::Result<()> {
    let diag = SockDiag::open()?;
    eventually("a socket that does not listen any more", PATIENCE, || {
        diag.queued(server.address()).ok()?.is_none().then_some(())
    })
}

/// A worker that is about to die may still accept a client, and take it along.
fn kill_and_wait(worker: i32) -> anyhow::Result<()> {
    let process = processes::look(worker).context("it was there a moment ago")?;
    kill(Pid::from_raw(worker), Signal::SIGKILL)?;
    wait_until_gone(&[process])
}

/// Whoever adopts it may not have waited for it yet, and a pid may have gone to somebody else.
fn is_alive(worker: &Process) -> bool {
    processes::look(worker.pid).is_some_and(|now| now.pgrp == worker.pgrp && now.state != 'Z')
}

fn wait_until_gone(workers: &[Process]) -> anyhow::Result<()> {
    eventually("the end of all workers", PATIENCE, || {
        (!workers.iter().any(is_alive)).then_some(())
    })
    .with_context(|| processes::ps_view(workers))
}

/// The worker process that has the connection of this client.
fn who_serves(server: &ServerProcess, client: &Peer) -> anyhow::Result<i32> {
    eventually("a worker with this connection", PATIENCE, || {
        // Not all that are connected to this client's address are the server's: ports are used again.
        let mut sockets = sockets::connected_to(client.local()).ok()?.into_iter();
        let socket = sockets.find(|socket| socket.local == server.address())?;
        let name = format!("socket:[{}]", socket.inode);
        let has_it = |pid| {
            let descriptors = processes::descriptors(pid).unwrap_or_default();
            descriptors.iter().any(|(_, to)| *to == name)
        };
        let mut children = processes::children(server.pid()).into_iter();
        children
            .find(|child| has_it(child.pid))
            .map(|child| child.pid)
    })
}

fn lines(server: &ServerProcess, part: &str) -> usize {
    server.stderr().matches(part).count()
}

/// Under strace, from the first moment, with this fault. None if that cannot be here, and nobody
/// insists.
fn strace(test: &str, server: Server, fault: &str) -> anyhow::Result<Option<Server>> {
    let inject = format!("inject={fault}");
    let command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
    let works = Command::new(command[0])
        .args(&command[1..])
        .arg("true")
        .output();
    if works.is_ok_and(|output| output.status.success()) {
        return Ok(Some(server.under(&command)));
    }
    skip(test, "strace cannot inject faults here").map(|()| None)
}

/// The status table, by row and label.
#[derive(Debug, Default)]
struct Table(BTreeMap<String, BTreeMap<String, u64>>);

impl Table {
    /// Asks for it.
    fn of(server: &ServerProcess) -> anyhow::Result<Self> {
        let before = lines(server, "status of ");
        server.signal(Signal::SIGUSR1)?;
        eventually("the table", PATIENCE, || {
            (lines(server, "status of ") > before).then_some(())
        })?;
        let log = server.stderr();
        let table = log.rsplit("status of ").next().unwrap_or_default();
        Ok(Self(table.lines().skip(1).map(row).collect()))
    }

    fn has(&self, row: &str) -> bool {
        self.0.contains_key(row)
    }

    fn get(&self, row: &str, label: &str) -> u64 {
        let figure = self.0.get(row).and_then(|figures| figures.get(label));
        figure.copied().unwrap_or(u64::MAX / 64)
    }
}

/// `  worker 0     accepted 2   received 20   echoed 20`
fn row(line: &str) -> (String, BTreeMap<String, u64>) {
    let (name, figures) = line.trim_start().split_at_checked(12).unwrap_or((line, ""));
    let words: Vec<_> = figures.split_whitespace().collect();
    let pairs = words.chunks_exact(2);
    let figures = pairs.filter_map(|pair| Some((pair[0].to_owned(), pair[1].parse().ok()?)));
    (name.trim_end().to_owned(), figures.collect())
}
