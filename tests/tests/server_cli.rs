//! How the server behaves towards whoever starts it: what it refuses and in which words, the line it
//! prints when it is ready, and a stdout or stderr that is closed, broken, full or never read.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;

use anyhow::{Context, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use tcpecho_common::{Mistake, Model, ready};
use tcpecho_lab::contestant::{Contestant, REACTOR};
use tcpecho_lab::netns;
use tcpecho_lab::peer::{PATIENCE, Peer};
use tcpecho_lab::promised;
use tcpecho_lab::server::{Launched, Server, ServerProcess, Target};
use tcpecho_lab::skip::skip;
use tcpecho_lab::wait::eventually;

promised! { by every model:
    the_ready_line_names_address_model_and_process
    a_port_in_use_is_refused_with_a_way_out
    a_stderr_that_nobody_reads_stalls_nobody
    a_stderr_that_is_gone_harms_nobody
    a_stdout_that_is_gone_harms_nobody
}

// -- Bad input ----------------------------------------------------------------------------------

/// Exit 2 where the command line alone shows it; nothing is started, one clear line says why.
#[test]
fn what_cannot_be_meant_is_a_usage_error() -> anyhow::Result<()> {
    for (line, named) in [
        ("--no-such-flag", "--no-such-flag"),
        ("65536", "65536"),
        ("-1", "-1"),
        ("+80", "+80"),
        ("eighty", "eighty"),
        ("0 --port 0", "--port"),
        ("0 1", "1"),
        ("0 --model forks", "forks"),
        ("0 --bind nowhere", "nowhere"),
        ("0 --bind 127.0.0.1:80", "127.0.0.1:80"),
        ("0 --backlog 4097", "--backlog"),
        ("0 --max-connections 0", "--max-connections"),
        ("0 --idle-timeout 0", "--idle-timeout"),
        ("0 --idle-timeout 3h", "3h"),
        ("0 --grace -1", "-1"),
        ("0 --mistake no-sleep", "no-sleep"),
        ("0 --mistake no-reaper", "--model"),
        ("0 --model thread --mistake wait-once", "fork"),
        ("0 --model reactor --mistake fatal-eintr", "fork"),
        ("0 --model iterative --max-connections 3", "iterative"),
        ("0 --model prefork --max-connections 3", "--workers"),
        ("0 --model thread-pool --max-connections 3", "--workers"),
        ("0 --model thread-pool --accept-lock", "prefork"),
        ("0 --model prefork --workers 0", "--workers"),
        ("0 --model prefork --workers 1025", "--workers"),
        ("0 --model thread --workers 3", "thread-pool"),
        ("0 -v -q", "--quiet"),
        ("0 --sigpipe maybe", "maybe"),
        ("0 --events-fd -1", "-1"),
        ("0 --port", "--port"),
        ("0 --inetd", "--inetd"),
        ("--inetd --bind ::1", "--bind"),
        ("--inetd --model fork", "--model"),
        ("--inetd --max-connections 3", "--max-connections"),
        ("--log-fd 3", "--inetd"),
    ] {
        let server = Server::with_args(line.split_whitespace()).launch()?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.code() == Some(2), "{line}: {status}\n{server}");
        refused(&server, "tcpechod: ", named).context(line)?;
    }
    Ok(())
}

fn a_port_in_use_is_refused_with_a_way_out(contestant: &Contestant) -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let server = contestant.server().port(port).args(["--bind", "127.0.0.1"]);
    let server = failed(server.launch()?)?;
    refused(
        &server,
        "tcpechod: cannot listen on 127.0.0.1:",
        "EADDRINUSE",
    )?;
    let said = server.stderr();
    // Who has it, and another port.
    ensure!(
        said.contains(&format!("ss -tanp 'sport = :{port}'")),
        "{server}"
    );
    ensure!(said.contains("--port"), "{server}");
    Ok(())
}

#[test]
fn a_port_that_our_own_server_has_is_in_use_too() -> anyhow::Result<()> {
    let first = REACTOR.talkative().start()?;
    let second = REACTOR.server().port(first.address().port()).launch()?;
    refused(
        &failed(second)?,
        "tcpechod: cannot listen on ",
        "EADDRINUSE",
    )?;
    Peer::connect(first.address())?.echo(b"undisturbed")
}

#[test]
fn an_address_of_somebody_else_is_refused_with_a_way_out() -> anyhow::Result<()> {
    // TEST-NET-1 is nobody's.
    let server = failed(REACTOR.server().args(["--bind", "192.0.2.1"]).launch()?)?;
    refused(
        &server,
        "tcpechod: cannot listen on 192.0.2.1:0",
        "EADDRNOTAVAIL",
    )?;
    ensure!(server.stderr().contains("--bind 127.0.0.1"), "{server}");
    Ok(())
}

/// In namespaces, where the limit is 1024 whatever it is outside; and without any right over them.
#[test]
fn a_privileged_port_is_refused_with_a_way_out() -> anyhow::Result<()> {
    const TEST: &str = "a_privileged_port_is_refused_with_a_way_out";
    netns::test(TEST, || {
        let nobody = ["unshare", "--user"];
        let server = Server::with_args(["80", "--bind", "127.0.0.1"]).under(&nobody);
        let server = match server.launch() {
            Ok(server) => failed(server)?,
            Err(error) => return skip(TEST, format!("no unshare(1): {error:#}")),
        };
        refused(&server, "tcpechod: cannot listen on 127.0.0.1:80", "EACCES")?;
        ensure!(server.stderr().contains("--port 9877"), "{server}");
        Ok(())
    })
}

#[test]
fn a_descriptor_that_is_not_open_cannot_take_events() -> anyhow::Result<()> {
    let server = failed(REACTOR.server().args(["--events-fd", "4711"]).launch()?)?;
    refused(&server, "tcpechod: ", "4711")
}

/// It failed at run time.
fn failed(server: Launched) -> anyhow::Result<Launched> {
    let status = server.wait(PATIENCE)?;
    ensure!(status.code() == Some(1), "{status}\n{server}");
    Ok(server)
}

/// One line beginning like this says why, and nothing was started.
fn refused(server: &Launched, beginning: &str, named: &str) -> anyhow::Result<()> {
    ensure!(
        server.stdout().is_empty(),
        "something was started\n{server}"
    );
    let said = server.stderr();
    ensure!(
        said.starts_with(beginning) && said.lines().count() == 1,
        "not one line beginning with {beginning:?}\n{server}"
    );
    ensure!(said.contains(named), "{named:?} is not mentioned\n{server}");
    ensure!(!said.contains("panicked"), "{server}");
    Ok(())
}

// -- Asked for ----------------------------------------------------------------------------------

/// Every mistake with its models, and nothing else: no server, no other flag needed.
#[test]
fn the_mistakes_are_listed() -> anyhow::Result<()> {
    let server = Server::with_args(["--list-mistakes"]).launch()?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success() && server.stderr().is_empty(), "{server}");
    let table = server.stdout();
    // What is too long for a line goes on in the column of the models.
    let table = table.replace(&format!("\n{}", " ".repeat(29)), " ");
    let line_of = |name: &str| {
        table
            .lines()
            .find(|line| line.split(' ').next() == Some(name))
    };
    for mistake in Mistake::all() {
        let line = line_of(mistake.name()).with_context(|| format!("{mistake}\n{server}"))?;
        let shown = |model: &Model| line.split([' ', ',']).any(|word| word == model.name());
        for model in Model::all() {
            let can = mistake.models().contains(model);
            ensure!(shown(model) == can, "{model}: {line}");
        }
        ensure!(line.contains(mistake.section()), "{line}");
    }
    Ok(())
}

/// `| head -1`, and `> /dev/full`.
#[test]
fn a_list_that_is_not_read_is_no_failure_and_one_that_is_lost_is() -> anyhow::Result<()> {
    let (reader, broken) = Target::pipe()?;
    drop(reader);
    for (target, code, said) in [(broken, 0, ""), (Target::open("/dev/full")?, 1, "ENOSPC")] {
        let server = Server::with_args(["--list-mistakes"]);
        let server = server.stdout_to(target).launch()?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.code() == Some(code), "{status}\n{server}");
        ensure!(server.stderr().contains(said), "{server}");
        ensure!(server.stderr().is_empty() == said.is_empty(), "{server}");
    }
    Ok(())
}

// -- The ready line -----------------------------------------------------------------------------

fn the_ready_line_names_address_model_and_process(contestant: &Contestant) -> anyhow::Result<()> {
    for (bind, shown) in [
        (None, "[::]:"),
        (Some("127.0.0.1"), "127.0.0.1:"),
        (Some("[::1]"), "[::1]:"),
    ] {
        let server = match bind {
            Some(address) => contestant.server().args(["--bind", address]),
            None => contestant.server(),
        };
        let server = server.start()?;
        let line = server.ready_line();
        let wanted = format!(" model={} pid={}", contestant.model, server.pid());
        ensure!(line.starts_with(&format!("listening on {shown}")), "{line}");
        ensure!(line.ends_with(&wanted), "{line}");
        ensure!(
            ready::address(line).is_some_and(|at| at.port() != 0),
            "{line}"
        );
        // Whoever has read it can connect.
        Peer::connect(server.address())?.echo(b"hello")?;
        ensure!(server.stdout().lines().count() == 1, "{server}");
        ensure!(
            server.stderr().is_empty(),
            "nothing was asked for\n{server}"
        );
    }
    Ok(())
}

// -- Logs ---------------------------------------------------------------------------------------

/// The pipe is full after a hundred connections. Nobody waits for it, and what is dropped is counted.
fn a_stderr_that_nobody_reads_stalls_nobody(contestant: &Contestant) -> anyhow::Result<()> {
    let (reader, writer) = Target::pipe()?;
    let server = contestant.server().arg("-vvv").stderr_to(writer).start()?;
    for _ in 0..1000 {
        come_and_go(&server)?;
    }
    // Now there is room again.
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut said = File::from(reader);
    let mut text = vec![0; 1 << 20];
    let n = said.read(&mut text).context("the first lines")?;
    ensure!(n > 10_000, "only {n} bytes were written");
    come_and_go(&server)?;
    let mut told = String::new();
    eventually("word of dropped lines", PATIENCE, || {
        let n = said.read(&mut text).ok()?;
        told.push_str(&String::from_utf8_lossy(&text[..n]));
        told.contains("log lines dropped").then_some(())
    })?;
    ends_well(&server)
}

fn a_stderr_that_is_gone_harms_nobody(contestant: &Contestant) -> anyhow::Result<()> {
    let (reader, broken) = Target::pipe()?;
    drop(reader);
    for target in [Target::Closed, Target::open("/dev/full")?, broken] {
        let what = format!("{target:?}");
        let server = contestant.server().arg("-vvv").stderr_to(target).start()?;
        serves(&server).context(what)?;
    }
    Ok(())
}

fn a_stdout_that_is_gone_harms_nobody(contestant: &Contestant) -> anyhow::Result<()> {
    let (reader, broken) = Target::pipe()?;
    drop(reader);
    for target in [Target::Closed, Target::open("/dev/full")?, broken] {
        let what = format!("{target:?}");
        let server = contestant.talkative().stdout_to(target).start()?;
        serves(&server).context(what)?;
    }
    Ok(())
}

/// A ready line that nobody can read is worth a warning.
#[test]
fn a_ready_line_that_cannot_be_printed_is_said_to_be_lost() -> anyhow::Result<()> {
    let server = REACTOR
        .talkative()
        .stdout_to(Target::open("/dev/full")?)
        .start()?;
    let warned = |line: &str| line.contains("WARN") && line.contains("ENOSPC");
    eventually("a warning", PATIENCE, || {
        server.stderr().lines().any(warned).then_some(())
    })
    .with_context(|| server.transcript())
}

// -- Helpers ------------------------------------------------------------------------------------

fn come_and_go(server: &ServerProcess) -> anyhow::Result<()> {
    let mut peer = Peer::connect(server.address())?;
    peer.echo(b"hello")?;
    peer.half_close()?;
    peer.expect_fin()
}

/// Clients, the status table, the end.
fn serves(server: &ServerProcess) -> anyhow::Result<()> {
    for _ in 0..20 {
        come_and_go(server)?;
    }
    server.signal(Signal::SIGUSR1)?;
    come_and_go(server)?;
    ends_well(server)
}

fn ends_well(server: &ServerProcess) -> anyhow::Result<()> {
    server.signal(Signal::SIGTERM)?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status}\n{server}");
    Ok(())
}

/// Whoever asks for the table gets it, whatever else is to be logged; but where nothing is.
#[test]
fn the_status_table_is_shown_whatever_rust_log_says() -> anyhow::Result<()> {
    for filters in ["", "warn", "mio=trace", "tcpechod=debug", "off"] {
        let server = Server::model(Model::Reactor).env("RUST_LOG", filters);
        let server = server.start()?;
        server.signal(Signal::SIGUSR1)?;
        let shown = || server.stderr().contains("status of reactor").then_some(());
        if filters == "off" {
            server.signal(Signal::SIGTERM)?;
            server.wait(PATIENCE)?;
            ensure!(shown().is_none(), "RUST_LOG={filters}\n{server}");
        } else {
            eventually("the table", PATIENCE, shown)
                .with_context(|| format!("RUST_LOG={filters}\n{server}"))?;
        }
    }
    Ok(())
}
