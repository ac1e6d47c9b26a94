//! tcpecho-load against good servers, whose echoes it must count, and bad ones, which it must name.

#[path = "load/bad.rs"]
mod bad;
#[path = "common/schema.rs"]
mod schema;
#[path = "common/stuck.rs"]
mod stuck;
#[path = "load/wire.rs"]
mod wire;

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use nix::unistd::pipe2;
use serde_json::Value;
use tcpecho_common::Model;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::contestant::Contestant;
use tcpecho_lab::load::clock;
use tcpecho_lab::load::report::{Engine, Event, Latency, Outcome, Report};
use tcpecho_lab::observe::processes;
use tcpecho_lab::observe::rest::is_at_rest;
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::skip::{skip, strace_works};
use tcpecho_lab::wait::eventually;
use tcpecho_lab::{netns, promised};

use schema::Schema;
use stuck::{is_stuck, stuck};

/// How long a run may take that has all its time limits in milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long one may take to end that is told to.
const SOON: Duration = Duration::from_secs(5);

/// Enough to see whether something works at all.
const SHORT: &[&str] = &["--duration", "400ms", "--warmup", "50ms", "--timeout", "5s"];
const LONGER: &[&str] = &["--duration", "4s", "--warmup", "50ms", "--timeout", "5s"];

fn load(server: SocketAddr, args: &[&str]) -> Client {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    let program = env!("CARGO_BIN_EXE_tcpecho-load");
    Client::plain(program, [host, port]).args(args)
}

trait Args {
    fn args(self, args: &[&str]) -> Self;
}

impl Args for Client {
    fn args(self, args: &[&str]) -> Self {
        args.iter().fold(self, Self::arg)
    }
}

/// Runs it to its end: exit code, report, which is what the schema says, stderr.
fn run(server: SocketAddr, args: &[&str]) -> Result<(Option<i32>, Report, String)> {
    let client = load(server, args).args(&["--json", "-"]).start()?;
    let code = client.wait(DEADLINE)?.code();
    let report = serde_json::from_slice(&client.stdout());
    let report: Value = report.with_context(|| format!("a report\n{client}"))?;
    Schema::open("load")?.check(&report)?;
    Ok((code, serde_json::from_value(report)?, client.stderr()))
}

/// A machine that is busy makes doubtful figures, not wrong ones.
fn is_warning(line: &str) -> bool {
    line.starts_with("tcpecho-load: warning: ")
}

/// What a run with `--json-stream` has said so far.
fn events(client: &ClientProcess) -> Result<Vec<Event>> {
    let text = String::from_utf8(client.stdout())?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// Waits until such an event has come.
fn wait_for(client: &ClientProcess, what: &str, is_it: fn(&Event) -> bool) -> Result<()> {
    eventually(what, DEADLINE, || {
        let events = events(client).ok()?;
        events.iter().any(is_it).then_some(())
    })
    .with_context(|| client.to_string())
}

fn is_measuring(event: &Event) -> bool {
    matches!(event, Event::Measuring { .. })
}

/// The report at the end of `--json-stream`, of which every line is what the schema says.
fn last_report(client: &ClientProcess) -> Result<Report> {
    let schema = Schema::open("load")?;
    for line in String::from_utf8(client.stdout())?.lines() {
        schema.check(&serde_json::from_str(line)?)?;
    }
    match events(client)?.pop() {
        Some(Event::End { report }) => Ok(*report),
        other => anyhow::bail!("no report: {other:?}\n{client}"),
    }
}

promised! { by those that serve many at once:
    every_kind_of_load_comes_back_whole
}

fn every_kind_of_load_comes_back_whole(contestant: &Contestant) -> Result<()> {
    let server = contestant.server().start()?;
    for load in [
        &["-c", "6", "--engine", "epoll"][..],
        &["-c", "6", "--engine", "io-uring"],
        &[
            "-c",
            "6",
            "--engine",
            "io-uring",
            "-s",
            "4k",
            "--threads",
            "2",
        ],
        &["-c", "6", "--depth", "5", "--threads", "2", "-s", "3000"],
        &["-c", "6", "--rate", "500"],
        &["-c", "3", "--connect-per-request"],
        &["-c", "3", "--bulk"],
        &[
            "-c",
            "2",
            "--firehose",
            "1",
            "--slow",
            "1",
            "--idle",
            "5",
            "--never-read",
            "1",
            "--engine",
            "io-uring",
        ],
    ] {
        let report = whole(&server, load)?;
        let bytes = report.echoes * report.load.size;
        ensure!(
            report.echoes > 0 && report.shares.most > 0,
            "{load:?}: {report:?}"
        );
        // Of the last message there may be a part.
        let parts = report.load.connections * report.load.size;
        ensure!(
            report.bytes.abs_diff(bytes) <= parts,
            "{load:?}: {report:?}"
        );
        let latency = report.latency.context("times")?;
        ensure!(
            latency.min_us > 0.0 && latency.max_us < 5e6,
            "{load:?}: {latency:?}"
        );
    }
    Ok(())
}

/// What a short run has brought back, or a longer one: on a busy machine nothing may come back in 0.4 s.
fn whole(server: &ServerProcess, load: &[&str]) -> Result<Report> {
    let mut longer = [SHORT, LONGER].into_iter();
    loop {
        let time = longer.next().context("nothing comes back")?;
        let (code, report, stderr) = run(server.address(), &[load, time].concat())?;
        ensure!(
            code == Some(0) && stderr.lines().all(is_warning),
            "{load:?}: {stderr}\n{server}"
        );
        ensure!(report.outcome == Outcome::Complete, "{load:?}: {report:?}");
        if report.echoes > 0 {
            return Ok(report);
        }
    }
}

#[test]
fn messages_go_through_io_uring_where_that_is_worth_it() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let many = whole(&server, &["-c", "50"])?;
    assert_eq!(many.generator.engine, Engine::IoUring);
    for other in [
        &["-c", "1"][..],
        &["-c", "50", "--engine", "epoll"],
        &["-c", "50", "-s", "5000"],
        &["-c", "50", "--depth", "2"],
        &["-c", "50", "--rate", "500"],
    ] {
        let report = whole(&server, other)?;
        assert_eq!(report.generator.engine, Engine::Epoll, "{other:?}");
    }
    Ok(())
}

#[test]
fn where_io_uring_is_forbidden_epoll_does_it() -> Result<()> {
    const TEST: &str = "where_io_uring_is_forbidden_epoll_does_it";
    if !strace_works() {
        return skip(TEST, "strace does not work here");
    }
    let server = Server::model(Model::Reactor).start()?;
    for inject in [
        "inject=io_uring_setup:error=EPERM",
        "inject=io_uring_setup:error=EINVAL",
        "inject=io_uring_register:error=ENOMEM",
    ] {
        // With -f, for it is not the first thread that asks.
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject];
        let run = |flags: &[&str]| -> Result<_> {
            let client = load(server.address(), &[flags, SHORT].concat());
            let client = client.args(&["--json", "-"]).under(&strace).start()?;
            let code = client.wait(DEADLINE)?.code();
            Ok((code, client))
        };
        let (code, client) = run(&[])?;
        ensure!(code == Some(0), "{inject}: {client}");
        let report: Report = serde_json::from_slice(&client.stdout())?;
        assert_eq!(report.generator.engine, Engine::Epoll, "{inject}");
        let (code, client) = run(&["--engine", "io-uring"])?;
        ensure!(code == Some(1), "{inject}: {client}");
        ensure!(
            client.stderr().contains("--engine epoll"),
            "{inject}: {client}"
        );
    }
    Ok(())
}

#[test]
fn an_iterative_server_serves_one() -> Result<()> {
    let server = Server::model(Model::Iterative).start()?;
    let (code, report, _) = run(server.address(), &[&["-c", "1"], SHORT].concat())?;
    assert_eq!((code, report.outcome), (Some(0), Outcome::Complete));
    // The others' connections are established, and never answered.
    let waiting = ["-c", "2", "-d", "100ms", "--timeout", "300ms"];
    let (code, report, stderr) = run(server.address(), &waiting)?;
    assert_eq!((code, report.outcome), (Some(1), Outcome::Failed));
    assert_eq!(
        stderr,
        "tcpecho-load: timeout: connection 1: nothing more after 0 of 64 bytes\n"
    );
    Ok(())
}

#[test]
fn company_sends_and_reads_as_its_kind_does() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let company = [
        "--idle",
        "2",
        "--never-read",
        "1",
        "--firehose",
        "1",
        "--slow",
        "1",
    ];
    let (code, report, _) = run(
        server.address(),
        &[&["-c", "1"], &company[..], SHORT].concat(),
    )?;
    assert_eq!(code, Some(0));
    let of = |kind: &str| {
        let one = report.company.iter().find(|company| company.kind == kind);
        one.map(|one| (one.connections, one.sent, one.read))
    };
    assert_eq!(of("idle"), Some((2, 0, 0)));
    assert!(
        matches!(of("never-read"), Some((1, _, 0))),
        "{:?}",
        report.company
    );
    assert!(
        matches!(of("firehose"), Some((1, 1_000_000.., 1_000_000..))),
        "{:?}",
        report.company
    );
    // 1 KiB every 10 ms for 400 ms.
    assert!(
        matches!(of("slow"), Some((1, _, 1..=43_008))),
        "{:?}",
        report.company
    );
    Ok(())
}

#[test]
fn the_schedule_of_an_open_loop_is_kept() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-c", "7", "--rate", "900", "-d", "1s", "--threads", "2"];
    let (code, report, _) = run(server.address(), &plan)?;
    assert_eq!(code, Some(0));
    // One more or less at either end.
    let count = report.latency.context("times")?.count;
    assert!((899..=901).contains(&count), "{count}");
    assert!(report.service.is_some_and(|service| service.count == count));
    assert!(
        report.shares.most - report.shares.fewest <= 2,
        "{:?}",
        report.shares
    );
    Ok(())
}

/// The stall that is the point of an open loop: a server that stands still for a second delays all
/// messages that were due then, and that must show.
#[test]
fn a_stall_of_the_server_shows_in_an_open_loop() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-c", "10", "--rate", "1000", "-d", "3s", "--json-stream"];
    let client = load(server.address(), &plan).start()?;
    wait_for(&client, "the measurement", is_measuring)?;
    let stall = stalled(&server, Duration::from_secs(1))?;
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    let latency = last_report(&client)?.latency.context("times")?;
    ensure!(
        latency.max_us >= 0.99 * stall.as_secs_f64() * 1e6,
        "{client}"
    );
    let p99 = latency.percentile(99.0).context("the 99th percentile")?;
    ensure!(p99 >= 0.9 * stall.as_secs_f64() * 1e6, "{p99}");
    // Every message that was due in the first nine tenths of it waited for a tenth of it or more.
    let late = latency
        .recorder()?
        .count_from((stall / 10).as_nanos() as u64);
    let due = (stall.as_secs_f64() * 0.9 * 1000.0) as u64;
    ensure!(late >= due - 2, "{late} were late, of {due}");
    Ok(())
}

/// Far more than any server takes: it ends in time all the same, nothing is left out, and what waits
/// to be sent takes no memory.
#[test]
fn an_overload_ends_in_time_and_in_little_memory() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-c", "2", "--rate", "10M", "-d", "1s", "--json-stream"];
    let began = Instant::now();
    let client = load(server.address(), &[&plan[..], &["--hold"]].concat()).start()?;
    // It waits for a line before and after.
    client.write(b"\n")?;
    wait_for(&client, "the end of the measurement", |event| {
        matches!(event, Event::Measured { .. })
    })?;
    let memory = processes::memory(client.pid()).context("its memory")?;
    client.close_stdin()?;
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    ensure!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
    ensure!(memory.rss < 40 << 20, "{memory:?}");
    let report = last_report(&client)?;
    let latency = report.latency.context("times")?;
    // One more or less on each connection and at either end.
    ensure!(latency.count.abs_diff(10_000_000) <= 4, "{}", latency.count);
    ensure!(latency.max_us > 1e5, "{}", latency.max_us);
    ensure!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("could not even be sent"))
    );
    Ok(())
}

/// The same where it is the generator that stands still: what was due meanwhile is sent too late, and
/// counts from when it was due.
#[test]
fn what_is_sent_too_late_counts_from_when_it_was_due() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-c", "10", "--rate", "1000", "-d", "2s", "--json-stream"];
    let client = load(server.address(), &plan).start()?;
    wait_for(&client, "the measurement", is_measuring)?;
    client.signal(Signal::SIGSTOP)?;
    let began = clock::now();
    // The stall itself, not a wait for something.
    std::thread::sleep(Duration::from_millis(500));
    let stall = (clock::now() - began) as f64 / 1e3;
    client.signal(Signal::SIGCONT)?;
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    let report = last_report(&client)?;
    let p99 = |latency: Option<Latency>| latency.and_then(|times| times.percentile(99.0));
    let (latency, service) = (p99(report.latency), p99(report.service));
    ensure!(latency.is_some_and(|us| us > 0.8 * stall), "{latency:?}");
    ensure!(service.is_some_and(|us| us < 0.5 * stall), "{service:?}");
    Ok(())
}

/// Stops the server for so long at least; returns how long it was.
fn stalled(server: &ServerProcess, at_least: Duration) -> Result<Duration> {
    server.freeze()?;
    let began = clock::now();
    // The stall itself, not a wait for something.
    std::thread::sleep(at_least);
    let stall = clock::now() - began;
    server.thaw()?;
    Ok(Duration::from_nanos(stall))
}

#[test]
fn more_than_the_server_takes_is_told_and_ends_in_time() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-c", "4", "--rate", "2M", "-s", "4k", "-d", "500ms"];
    let (code, report, stderr) = run(server.address(), &plan)?;
    assert_eq!((code, report.outcome), (Some(0), Outcome::Complete));
    assert!(stderr.contains("could not even be sent"), "{stderr}");
    let latency = report.latency.context("times")?;
    assert!(
        (990_000..=1_000_001).contains(&latency.count),
        "{}",
        latency.count
    );
    assert!(latency.max_us > 100_000.0);
    Ok(())
}

#[test]
fn ctrl_c_prints_what_was_measured() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let client = load(server.address(), &["-d", "10m", "--json-stream"]).start()?;
        wait_for(&client, "an interval", |event| {
            matches!(event, Event::Interval { .. })
        })?;
        client.signal(signal)?;
        let status = client.wait(DEADLINE)?;
        ensure!(status.signal() == Some(signal as i32), "{status}\n{client}");
        let report = last_report(&client)?;
        ensure!(report.outcome == Outcome::Interrupted, "{client}");
        ensure!(
            report.echoes > 0 && (1.0..600.0).contains(&report.measured_s),
            "{client}"
        );
        let told = events(&client)?;
        let told = told.iter().map(|event| match event {
            Event::Interval { echoes, .. } => *echoes,
            _ => 0,
        });
        ensure!(
            told.sum::<u64>() == report.echoes,
            "all of it is in intervals\n{client}"
        );
    }
    Ok(())
}

#[test]
fn ctrl_c_prints_the_table() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let client = load(server.address(), &["-d", "10m", "--warmup", "0"]).start()?;
    eventually("echoes", DEADLINE, || {
        processes::cpu_time(server.pid()).filter(|time| *time > Duration::from_millis(100))
    })?;
    client.signal(Signal::SIGINT)?;
    let status = client.wait(DEADLINE)?;
    ensure!(
        status.signal() == Some(Signal::SIGINT as i32),
        "{status}\n{client}"
    );
    let stdout = String::from_utf8(client.stdout())?;
    ensure!(
        stdout.contains("Interrupted:") && stdout.contains("echoes"),
        "{client}"
    );
    Ok(())
}

#[test]
fn before_the_measurement_ctrl_c_says_that_there_is_nothing() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let client = load(server.address(), &["--warmup", "10m", "--json-stream"]).start()?;
    wait_for(&client, "the load", |event| {
        matches!(event, Event::Connected { .. })
    })?;
    client.signal(Signal::SIGINT)?;
    let status = client.wait(DEADLINE)?;
    ensure!(
        status.signal() == Some(Signal::SIGINT as i32),
        "{status}\n{client}"
    );
    ensure!(
        client.stderr().contains("before anything was measured"),
        "{client}"
    );
    Ok(())
}

#[test]
fn connections_are_held_until_stdin_has_a_line_or_its_end() -> Result<()> {
    let server = Server::model(Model::Fork).start()?;
    let plan = ["-c", "5", "-d", "100ms", "--json-stream", "--hold"];
    let client = load(server.address(), &plan).start()?;
    wait_for(&client, "all connections", |event| {
        matches!(event, Event::Connected { .. })
    })?;
    eventually("rest", DEADLINE, || is_at_rest(client.pid()).then_some(()))?;
    ensure!(!events(&client)?.iter().any(is_measuring), "{client}");
    client.write(b"\n")?;
    wait_for(&client, "the end", |event| {
        matches!(event, Event::Measured { .. })
    })?;
    ensure!(
        processes::children(server.pid()).len() == 5,
        "one for each\n{server}"
    );
    ensure!(client.status().is_none(), "{client}");
    client.close_stdin()?;
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    ensure!(
        last_report(&client)?.outcome == Outcome::Complete,
        "{client}"
    );
    Ok(())
}

#[test]
fn the_histogram_log_has_every_time() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let file = format!(
        "{}/load-{}.hdr",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    let (code, report, _) = run(
        server.address(),
        &["-c", "3", "-d", "1200ms", "--hdr", &file],
    )?;
    assert_eq!(code, Some(0));
    let log = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    let times = log
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let lengths: Vec<_> = times.filter_map(|line| line.split(',').nth(1)).collect();
    assert!(lengths.starts_with(&["1.000", "0.200"]), "{log}");
    assert!(
        report
            .latency
            .is_some_and(|latency| latency.count >= report.echoes)
    );
    Ok(())
}

#[test]
fn nobody_there_is_told_in_one_line() -> Result<()> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let client = load(port, &[]).start()?;
    ensure!(client.wait(DEADLINE)?.code() == Some(1), "{client}");
    let stderr = client.stderr();
    ensure!(
        stderr.contains("refused") && stderr.contains("ECONNREFUSED"),
        "{client}"
    );
    ensure!(
        stderr.lines().count() == 1 && client.stdout().is_empty(),
        "{client}"
    );
    Ok(())
}

/// The queue of its listener is full, and nobody accepts: the kernel drops what comes.
#[test]
fn who_does_not_answer_to_connect_is_given_up_in_time() -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    listen(&listener, Backlog::new(0)?)?;
    let address: SockaddrIn = getsockname(listener.as_raw_fd())?;
    let address = SocketAddr::from((address.ip(), address.port()));
    let _queued = TcpStream::connect(address)?;
    let client = load(address, &["-c", "2", "--timeout", "300ms"]).start()?;
    ensure!(client.wait(DEADLINE)?.code() == Some(5), "{client}");
    ensure!(client.stderr().contains("no answer to connect"), "{client}");
    Ok(())
}

#[test]
fn too_few_descriptors_are_told_before_anything_is_started() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let client = load(server.address(), &["-c", "100"]);
    let client = client.under(&["prlimit", "--nofile=64:64"]).start()?;
    ensure!(client.wait(DEADLINE)?.code() == Some(1), "{client}");
    let stderr = client.stderr();
    ensure!(
        stderr.contains("ulimit -n 1") && stderr.lines().count() == 1,
        "{client}"
    );
    // The soft limit alone is no obstacle.
    let client = load(server.address(), &[&["-c", "100"], SHORT].concat());
    let client = client.under(&["prlimit", "--nofile=64:200"]).start()?;
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    Ok(())
}

#[test]
fn ports_of_loopback_do_not_run_out() -> Result<()> {
    netns::test("ports_of_loopback_do_not_run_out", || {
        let server = Server::model(Model::Reactor).port(9877).start()?;
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40019")?;
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0")?;
        for load in [&["-c", "50"][..], &["-c", "2", "--connect-per-request"]] {
            let (code, report, stderr) = run(server.address(), &[load, SHORT].concat())?;
            ensure!(code == Some(0), "{stderr}");
            ensure!(report.echoes > 50, "{report:?}");
        }
        // There is one ::1 only.
        let there = "[::1]:9877".parse()?;
        let (code, _, stderr) = run(there, &[&["-c", "50"], SHORT].concat())?;
        ensure!(code == Some(1), "{stderr}");
        ensure!(
            stderr.contains("all 20 ports") && stderr.lines().count() == 1,
            "{stderr}"
        );
        Ok(())
    })
}

#[test]
fn the_command_line_is_refused_in_one_line() -> Result<()> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    for args in [
        &["--rate", "1", "--bulk"][..],
        &["--wire", "--depth", "2"],
        &["-c", "0"],
        &["--rat", "1"],
        &["--rate", "0.001"],
    ] {
        let client = load(nowhere, args).start()?;
        ensure!(client.wait(DEADLINE)?.code() == Some(2), "{client}");
        ensure!(client.stderr().lines().count() == 1, "{client}");
    }
    Ok(())
}

#[test]
fn whoever_reads_no_more_is_no_error() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    let mut ours = File::from(ours);
    let client = load(server.address(), &["-d", "10m", "--json-stream"])
        .stdout(theirs)
        .start()?;
    ours.read_exact(&mut [0; 10])?;
    drop(ours);
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    ensure!(client.stderr().is_empty(), "{client}");
    Ok(())
}

/// The first one: nobody knows that there should be a second.
#[test]
fn a_signal_ends_a_run_whose_stream_nobody_reads() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (_ours, theirs) = stuck()?;
        let client = load(server.address(), &["-d", "10m", "--json-stream"]);
        let client = client.stdout(theirs).start()?;
        eventually("a write that hangs", DEADLINE, || {
            is_stuck(client.pid()).then_some(())
        })?;
        client.signal(signal)?;
        let status = client.wait(SOON)?;
        ensure!(status.signal() == Some(signal as i32), "{status}");
    }
    Ok(())
}

#[test]
fn a_signal_ends_a_run_whose_table_nobody_will_read() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let (_ours, theirs) = stuck()?;
    let client = load(server.address(), &["-d", "10m", "--warmup", "0"]);
    let client = client.stdout(theirs).start()?;
    eventually("echoes", DEADLINE, || {
        processes::cpu_time(server.pid()).filter(|time| *time > Duration::from_millis(100))
    })?;
    client.signal(Signal::SIGINT)?;
    let status = client.wait(SOON)?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}");
    Ok(())
}

#[test]
fn a_signal_ends_it_while_nobody_reads_its_table() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let (_ours, theirs) = stuck()?;
    // The table comes after the file, which is there when the run is over.
    let file = std::env::temp_dir().join(format!("tcpecho-load-{}.json", std::process::id()));
    let name = file.to_str().context("a name")?;
    let client = load(server.address(), &["-d", "100ms", "--json", name])
        .stdout(theirs)
        .start()?;
    let written = eventually("the report", DEADLINE, || {
        let text = fs::read_to_string(&file).ok()?;
        text.ends_with("}\n").then_some(())
    });
    let removed = fs::remove_file(&file);
    written?;
    removed?;
    client.signal(Signal::SIGTERM)?;
    let status = client.wait(DEADLINE)?;
    ensure!(status.signal() == Some(Signal::SIGTERM as i32), "{status}");
    Ok(())
}
