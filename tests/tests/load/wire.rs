//! Times on the wire, by the kernel's time stamps: held against what the server is known to need, and
//! against what the program has seen.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tcpecho_common::Model;
use tcpecho_lab::load::report::{Latency, Report, Stamps};
use tcpecho_lab::server::Server;

use super::{DEADLINE, is_measuring, last_report, load, run, wait_for};

/// What the server needs at least.
const DELAY: Duration = Duration::from_millis(20);

/// Echoes what each read brings after [`DELAY`].
fn late(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        // The server's time itself, not a wait for something.
        thread::sleep(DELAY);
        stream.write_all(&buffer[..n])?;
    }
}

/// A thread for each connection; the threads end with the connections, the listener with the test.
fn late_server(address: impl Into<IpAddr>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((address.into(), 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || late(stream));
        }
    });
    Ok(address)
}

/// Times on the wire and the program's of the same messages: from the call that sends.
fn both(report: &Report) -> Result<(&Latency, &Latency)> {
    let seen = report.service.as_ref().or(report.latency.as_ref());
    let wire = report.wire.as_ref().context("times on the wire")?;
    Ok((wire, seen.context("times")?))
}

/// Every message has both stamps, and none was longer on the wire than the program has seen.
fn is_complete(report: &Report) -> Result<()> {
    let (wire, seen) = both(report)?;
    let stamps = report.stamps.context("stamps")?;
    let expected = Stamps {
        both: seen.count,
        shared: stamps.shared,
        apart_us: stamps.apart_us,
        ..Stamps::default()
    };
    ensure!(stamps == expected && wire.count == seen.count, "{report:?}");
    ensure!(stamps.apart_us > 0.0, "this was loopback: {stamps:?}");
    ensure!(
        wire.min_us <= seen.min_us && wire.mean_us <= seen.mean_us && wire.max_us <= seen.max_us,
        "{report:?}"
    );
    for (wire, seen) in wire.percentiles.iter().zip(&seen.percentiles) {
        ensure!(wire.us <= seen.us, "{report:?}");
    }
    Ok(())
}

#[test]
fn on_the_wire_is_what_the_server_needs_and_no_more_than_is_seen() -> Result<()> {
    let closed = &["-c", "3"][..];
    let open = &["-c", "3", "--threads", "2", "--rate", "60"];
    let time = ["-d", "900ms", "--warmup", "200ms", "--wire"];
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        let server = late_server(address)?;
        for load in [closed, open] {
            let (code, report, stderr) = run(server, &[load, &time].concat())?;
            ensure!(code == Some(0), "{stderr}");
            is_complete(&report)?;
            let (wire, _) = both(&report)?;
            // The smallest is the lower end of its bucket.
            ensure!(wire.min_us * 1.001 >= DELAY.as_secs_f64() * 1e6, "{wire:?}");
        }
    }
    Ok(())
}

/// Of many packets, sent in several calls and read in many pieces.
#[test]
fn long_messages_have_both_stamps() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    for size in ["4k", "200k", "3M"] {
        let plan = ["-c", "2", "-s", size, "-d", "600ms", "--wire"];
        let (code, report, stderr) = run(server.address(), &plan)?;
        ensure!(code == Some(0), "{stderr}");
        is_complete(&report)?;
    }
    Ok(())
}

/// That is what the row is for.
#[test]
fn a_stall_of_the_generator_is_not_on_the_wire() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-c", "4", "-d", "2s", "--json-stream", "--wire"];
    let client = load(server.address(), &plan).start()?;
    wait_for(&client, "the measurement", is_measuring)?;
    client.signal(Signal::SIGSTOP)?;
    // The stall itself, not a wait for something.
    thread::sleep(Duration::from_secs(1));
    client.signal(Signal::SIGCONT)?;
    ensure!(client.wait(DEADLINE)?.success(), "{client}");
    let report = last_report(&client)?;
    is_complete(&report)?;
    let (wire, seen) = both(&report)?;
    ensure!(seen.max_us > 0.9e6, "{seen:?}");
    ensure!(wire.max_us < seen.max_us - 0.5e6, "{wire:?}");
    Ok(())
}

#[test]
fn the_table_and_the_histogram_log_have_it_where_it_is_wanted() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let file = format!(
        "{}/wire-{}.hdr",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    for (flags, is_wanted) in [(&["--wire"][..], true), (&[], false)] {
        let plan = ["-c", "1", "-d", "300ms", "--hdr", &file];
        let client = load(server.address(), &[&plan[..], flags].concat()).start()?;
        ensure!(client.wait(DEADLINE)?.success(), "{client}");
        let table = String::from_utf8(client.stdout())?;
        for part in ["\non the wire  ", "\nTime stamps: all ", "kernel's"] {
            ensure!(table.contains(part) == is_wanted, "{part}:\n{client}");
        }
        let log = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        ensure!(log.contains("\nTag=wire,") == is_wanted, "{log}");
    }
    Ok(())
}
