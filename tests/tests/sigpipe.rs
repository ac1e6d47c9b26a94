//! What `--sigpipe` makes of SIGPIPE, the signal for writing to a connection that was reset after its
//! FIN (UNP 5.13).

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_lab::contestant::Contestant;
use tcpecho_lab::observe::processes;
use tcpecho_lab::peer::{PATIENCE, Peer};
use tcpecho_lab::promised;
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::wait::eventually;

promised! { by every model:
    ignored_it_ends_that_connection_only
}

promised! { by those that write by themselves:
    counted_it_is_told_and_ends_that_connection_only
    by_default_it_kills_who_writes
    a_signal_sent_by_hand_is_counted_too
}

fn ignored_it_ends_that_connection_only(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().start()?;
    leave_owing_a_write(&server, served(&server)?)?;
    eventually("the end of that connection", PATIENCE, || {
        server.stderr().contains("EPIPE").then_some(())
    })?;
    ensure!(!server.stderr().contains("SIGPIPE"), "{server}");
    Peer::connect(server.address())?.echo(b"next")
}

fn counted_it_is_told_and_ends_that_connection_only(contestant: &Contestant) -> anyhow::Result<()> {
    let server = counting(contestant).start()?;
    for number in 1..=2 {
        let peer = served(&server)?;
        let writer = who_serves(&server)?;
        leave_owing_a_write(&server, peer)?;
        // Every child counts its own.
        let number = if writer == server.pid() { number } else { 1 };
        eventually("the end of that connection", PATIENCE, || {
            (told(&server, writer) == number).then_some(())
        })?;
        if writer != server.pid() {
            let others = told(&server, server.pid());
            ensure!(others == 0, "the parent counts its children's\n{server}");
        }
    }
    Peer::connect(server.address())?.echo(b"next")
}

fn by_default_it_kills_who_writes(contestant: &Contestant) -> anyhow::Result<()> {
    let server = contestant.talkative().args(["--sigpipe", "default"]);
    let server = server.start()?;
    let peer = served(&server)?;
    let writer = who_serves(&server)?;
    leave_owing_a_write(&server, peer)?;
    if writer == server.pid() {
        let status = server.wait(PATIENCE)?;
        let killer = std::os::unix::process::ExitStatusExt::signal(&status);
        ensure!(killer == Some(Signal::SIGPIPE as i32), "{status}\n{server}");
        return Ok(());
    }
    let line = format!("reaped child {writer}: killed by SIGPIPE");
    eventually(&line, PATIENCE, || {
        server.stderr().contains(&line).then_some(())
    })?;
    Peer::connect(server.address())?.echo(b"next")
}

/// As the course does it: kill -PIPE, to the server and to the child that serves.
fn a_signal_sent_by_hand_is_counted_too(contestant: &Contestant) -> anyhow::Result<()> {
    let server = counting(contestant).start()?;
    let mut peer = served(&server)?;
    let writer = who_serves(&server)?;
    for number in 1..=2 {
        for pid in [writer, server.pid()] {
            let before = told(&server, pid);
            kill(Pid::from_raw(pid), Signal::SIGPIPE)?;
            eventually(&format!("number {number}"), PATIENCE, || {
                (told(&server, pid) > before).then_some(())
            })?;
        }
    }
    let expected = if writer == server.pid() { 4 } else { 2 };
    ensure!(told(&server, writer) == expected, "{server}");
    ensure!(told(&server, server.pid()) == expected, "{server}");
    peer.echo(b"still served")
}

fn counting(contestant: &Contestant) -> Server {
    contestant.talkative().args(["--sigpipe", "count"])
}

fn served(server: &ServerProcess) -> anyhow::Result<Peer> {
    let mut peer = Peer::connect(server.address())?;
    peer.echo(b"served")?;
    Ok(peer)
}

/// The client sends, and is gone before the server writes. Its FIN came before its RST, so that the
/// write fails with EPIPE; without a FIN it would be ECONNRESET, and no signal.
fn leave_owing_a_write(server: &ServerProcess, mut peer: Peer) -> anyhow::Result<()> {
    server.freeze()?;
    peer.send(b"nobody waits for this")?;
    peer.wait_until_delivered()?;
    peer.vanish()?;
    server.thaw()
}

/// The process that serves the one client there is.
fn who_serves(server: &ServerProcess) -> anyhow::Result<i32> {
    let children = || processes::children(server.pid());
    eventually("one client", Duration::from_secs(20), || {
        // A child of an earlier client may still be leaving.
        (children().len() <= 1).then_some(())
    })?;
    Ok(children().first().map_or(server.pid(), |child| child.pid))
}

/// How many SIGPIPEs this process has told of; they are numbered.
fn told(server: &ServerProcess, pid: i32) -> usize {
    let text = server.stderr();
    let lines = text.lines().filter(|line| {
        line.contains("SIGPIPE number ") && line.ends_with(&format!(" in process {pid}"))
    });
    lines.count()
}
