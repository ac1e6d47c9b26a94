//! Servers that do one thing wrong, each in a thread of this test, and what tcpecho-load calls it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Result, ensure};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use tcpecho_common::{Mistake, Model};
use tcpecho_lab::load::report::{Event, Failures, Outcome};
use tcpecho_lab::server::Server;

use super::{DEADLINE, is_warning, last_report, load, run, wait_for};

/// The ways that messages can go. Time stamps make edges that are like those of errors.
const WAYS: [&[&str]; 3] = [
    &["--engine", "epoll"],
    &["--engine", "io-uring"],
    &["--wire"],
];

/// Serves every connection with `serve` in a thread; the threads end with the connections, the
/// listener with the test.
fn bad_server(serve: fn(TcpStream) -> std::io::Result<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

/// Echoes; each read goes through `change`, which knows where in the stream it begins.
fn echo(mut stream: TcpStream, change: fn(u64, &mut Vec<u8>)) -> std::io::Result<()> {
    let mut position = 0;
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        let mut bytes = buffer[..n].to_vec();
        change(position, &mut bytes);
        stream.write_all(&bytes)?;
        position += n as u64;
    }
}

/// The byte at this position of the stream, if it is among these.
fn index(position: u64, bytes: &[u8], wanted: u64) -> Option<usize> {
    let index = wanted.checked_sub(position)? as usize;
    (index < bytes.len()).then_some(index)
}

/// What is told of a server, by kind, whatever way the messages go; the run must fail, and stderr must
/// say the same.
fn told(server: SocketAddr, way: &[&str]) -> Result<Vec<Failures>> {
    let plan = ["-c", "2", "-d", "400ms", "--warmup", "0", "--timeout", "1s"];
    let (code, report, stderr) = run(server, &[&plan, way].concat())?;
    ensure!(
        code == Some(1) && report.outcome == Outcome::Failed,
        "{code:?} {report:?}"
    );
    let errors = stderr.lines().filter(|line| !is_warning(line));
    ensure!(errors.count() == report.errors.len(), "{stderr}");
    for failures in &report.errors {
        ensure!(stderr.contains(&failures.first), "{stderr}");
    }
    Ok(report.errors)
}

/// All the errors are of this kind, one for each connection, and the first says this.
fn is_told(server: SocketAddr, kind: &str, words: &str) -> Result<()> {
    for way in WAYS {
        let errors = told(server, way)?;
        let [only] = &errors[..] else {
            anyhow::bail!("{way:?}: more than one kind: {errors:?}");
        };
        ensure!(only.kind == kind && only.count == 2, "{way:?}: {only:?}");
        ensure!(only.first.contains(words), "{way:?}: {only:?}");
    }
    Ok(())
}

#[test]
fn a_wrong_byte() -> Result<()> {
    let server = bad_server(|stream| {
        echo(stream, |position, bytes| {
            if let Some(index) = index(position, bytes, 1000) {
                bytes[index] ^= 1;
            }
        })
    })?;
    is_told(server, "wrong-bytes", "at position 1000")
}

#[test]
fn a_byte_that_is_lost() -> Result<()> {
    let server = bad_server(|stream| {
        echo(stream, |position, bytes| {
            if let Some(index) = index(position, bytes, 1000) {
                bytes.remove(index);
            }
        })
    })?;
    is_told(
        server,
        "missing-bytes",
        "1 bytes are missing at position 1000",
    )
}

#[test]
fn a_last_byte_that_is_lost() -> Result<()> {
    let server = bad_server(|stream| {
        echo(stream, |position, bytes| {
            if let Some(index) = index(position, bytes, 1023) {
                bytes.remove(index);
            }
        })
    })?;
    is_told(server, "timeout", "nothing more after 1023 of 1024 bytes")
}

#[test]
fn a_byte_that_comes_twice() -> Result<()> {
    let server = bad_server(|stream| {
        echo(stream, |position, bytes| {
            if let Some(index) = index(position, bytes, 1000) {
                bytes.insert(index, bytes[index]);
            }
        })
    })?;
    is_told(server, "extra-bytes", "1 bytes come again at position 1001")
}

#[test]
fn a_byte_too_many_behind_a_message() -> Result<()> {
    let server = bad_server(|stream| {
        echo(stream, |position, bytes| {
            if position == 640 {
                bytes.push(b'!');
            }
        })
    })?;
    is_told(
        server,
        "extra-bytes",
        "1 bytes more than the 704 that were sent",
    )
}

#[test]
fn a_byte_too_many_at_the_end() -> Result<()> {
    let server = bad_server(|mut stream| {
        echo(stream.try_clone()?, |_, _| ())?;
        stream.write_all(b"!")
    })?;
    is_told(server, "extra-bytes", "1 bytes more than the ")
}

#[test]
fn an_end_that_comes_too_early() -> Result<()> {
    let server = bad_server(|mut stream| {
        let mut bytes = [0; 640];
        for message in bytes.chunks_mut(64) {
            stream.read_exact(message)?;
            stream.write_all(message)?;
        }
        // All of it is read, so that it is a FIN and no RST.
        stream.read_exact(&mut bytes[..64])
    })?;
    is_told(server, "closed", "FIN after 640 of 704 bytes, before ours")
}

#[test]
fn a_reset() -> Result<()> {
    let server = bad_server(|mut stream| {
        let mut bytes = [0; 64];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &linger)?;
        Ok(())
    })?;
    is_told(server, "reset", "after 64 of 128 bytes: ECONNRESET")
}

#[test]
fn no_answer() -> Result<()> {
    let server =
        bad_server(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop))?;
    is_told(server, "timeout", "nothing more after 0 of 64 bytes")
}

#[test]
fn no_answer_because_nobody_accepts() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    is_told(
        listener.local_addr()?,
        "timeout",
        "nothing more after 0 of 64 bytes",
    )
}

#[test]
fn no_fin() -> Result<()> {
    let server = bad_server(|stream| {
        let held = stream.try_clone()?;
        echo(stream, |_, _| ())?;
        // Never closed; it is gone with the test.
        std::mem::forget(held);
        Ok(())
    })?;
    is_told(server, "no-fin", "no FIN after ours")
}

#[test]
fn an_echo_in_many_pieces_is_no_error() -> Result<()> {
    let server = bad_server(|stream| {
        stream.set_nodelay(true)?;
        let mut bytes = [0; 4096];
        let (mut from, mut to) = (stream.try_clone()?, stream);
        loop {
            let n = from.read(&mut bytes)?;
            if n == 0 {
                return Ok(());
            }
            for byte in bytes[..n].chunks(16) {
                to.write_all(byte)?;
            }
        }
    })?;
    for way in WAYS {
        let plan = ["-c", "20", "-s", "4k", "-d", "400ms"];
        let (code, report, stderr) = run(server, &[&plan, way].concat())?;
        ensure!(code == Some(0) && report.echoes > 0, "{way:?}: {stderr}");
    }
    Ok(())
}

#[test]
fn other_peoples_bytes() -> Result<()> {
    let server = Server::model(Model::Thread)
        .mistake(Mistake::StaticBuffer)
        .start()?;
    let plan = ["-c", "20", "-d", "5s", "-s", "4k", "--timeout", "2s"];
    let (code, report, stderr) = run(server.address(), &plan)?;
    ensure!(code == Some(1), "{stderr}");
    let wrong = report
        .errors
        .iter()
        .find(|failures| failures.kind == "wrong-bytes");
    ensure!(
        wrong.is_some_and(|wrong| wrong.first.contains("instead of")),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn a_server_that_dies() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let client = load(server.address(), &["-d", "10m", "--json-stream"]).start()?;
    wait_for(&client, "the measurement", |event| {
        matches!(event, Event::Measuring { .. })
    })?;
    server.signal(Signal::SIGKILL)?;
    // Nobody is left to send to: it does not wait for the ten minutes.
    ensure!(client.wait(DEADLINE)?.code() == Some(1), "{client}");
    let report = last_report(&client)?;
    let kinds: Vec<_> = report
        .errors
        .iter()
        .map(|failures| failures.kind.as_str())
        .collect();
    ensure!(
        kinds.iter().all(|kind| ["closed", "reset"].contains(kind)),
        "{client}"
    );
    let count: u64 = report.errors.iter().map(|failures| failures.count).sum();
    ensure!(
        count == 50 && report.echoes > 0 && report.measured_s < 60.0,
        "{client}"
    );
    Ok(())
}

#[test]
fn a_server_that_dies_between_two_connections() -> Result<()> {
    let server = Server::model(Model::Reactor).start()?;
    let plan = ["-d", "10m", "--json-stream", "--connect-per-request"];
    let client = load(server.address(), &plan).start()?;
    wait_for(
        &client,
        "an interval with echoes",
        |event| matches!(event, Event::Interval { echoes, .. } if *echoes > 0),
    )?;
    server.signal(Signal::SIGKILL)?;
    ensure!(client.wait(DEADLINE)?.code() == Some(1), "{client}");
    let report = last_report(&client)?;
    ensure!(!report.errors.is_empty() && report.echoes > 0, "{client}");
    Ok(())
}
