//! Servers that somebody else has opened something for: `--inetd`, whose connection is descriptor 0;
//! `--model exec`, which starts such servers itself; a listening socket passed by a service
//! manager (`LISTEN_FDS`), and what that is told (`NOTIFY_SOCKET`).

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{self as local, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use anyhow::{Context, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::pipe2;
use tcpecho_lab::binaries;
use tcpecho_lab::contestant::{Contestant, EXEC};
use tcpecho_lab::observe::processes;
use tcpecho_lab::peer::{PATIENCE, Peer};
use tcpecho_lab::promised;
use tcpecho_lab::server::{Launched, Server, ServerProcess, Target};
use tcpecho_lab::wait::eventually;

promised! { by every model:
    a_listening_socket_that_was_passed_is_served
    the_manager_is_told_when_it_is_ready_and_when_it_stops
}

const LONG_GRACE: [&str; 3] = ["--inetd", "--grace", "60s"];

// -- A connection as descriptor 0 ---------------------------------------------------------------

/// As inetd hands it down: 0, 1 and 2. Were anything said on 2 it would be in the way of the echoes.
#[test]
fn a_connection_is_served_and_nothing_else_is_said_on_it() -> anyhow::Result<()> {
    for loud in ["-q", "-vvv"] {
        let (mut peer, connection) = connection()?;
        let server = Server::with_args(["--inetd", loud])
            .stdin_from(connection.clone())
            .stdout_to(connection.clone())
            .stderr_to(connection)
            .launch()?;
        peer.echo(b"hello\n")?;
        peer.stream(3_000_000)?;
        ends_with(&server, 0)?;
    }
    Ok(())
}

#[test]
fn a_usage_error_is_not_said_on_the_connection() -> anyhow::Result<()> {
    let (mut peer, connection) = connection()?;
    let server = Server::with_args(["--inetd", "--no-such-flag"])
        .stdin_from(connection.clone())
        .stderr_to(connection)
        .launch()?;
    peer.expect_fin()?;
    ends_with(&server, 2)
}

/// As systemd does it: stderr is another thing. The peer is known by its address, and there is no
/// ready line.
#[test]
fn where_stderr_is_another_thing_it_logs_there() -> anyhow::Result<()> {
    let (mut peer, connection) = connection()?;
    let server = Server::with_args(["--inetd", "-v"])
        .stdin_from(connection)
        .launch()?;
    peer.echo(b"hello\n")?;
    peer.half_close()?;
    peer.expect_fin()?;
    ends_with(&server, 0)?;
    let said = server.stderr();
    for part in ["serving", "closed"] {
        let line = format!("{part} {}", peer.local());
        ensure!(said.contains(&line), "not {line:?}\n{server}");
    }
    ensure!(server.stdout().is_empty(), "{server}");
    Ok(())
}

#[test]
fn a_peer_that_resets_ends_it_without_a_word() -> anyhow::Result<()> {
    let (mut peer, connection) = connection()?;
    let server = Server::with_args(["--inetd"])
        .stdin_from(connection)
        .launch()?;
    peer.echo(b"hello\n")?;
    peer.reset();
    ends_with(&server, 0)?;
    ensure!(server.stderr().is_empty(), "{server}");
    Ok(())
}

/// A superserver that waits for readiness itself may leave it so.
#[test]
fn a_connection_that_does_not_wait_is_made_to() -> anyhow::Result<()> {
    let (mut peer, connection) = accepted(|stream| stream.set_nonblocking(true))?;
    let server = Server::with_args(["--inetd"])
        .stdin_from(connection)
        .launch()?;
    peer.echo(b"hello\n")?;
    sleeps(server.pid())?;
    peer.half_close()?;
    peer.expect_fin()?;
    ends_with(&server, 0)
}

/// socat's `EXEC:` makes such a pair.
#[test]
fn a_local_socket_is_served() -> anyhow::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let server = Server::with_args(["--inetd", "-v"])
        .stdin_from(file(theirs))
        .launch()?;
    ours.write_all(b"hello\n")?;
    ours.shutdown(Shutdown::Write)?;
    let mut back = String::new();
    ours.read_to_string(&mut back)?;
    ensure!(back == "hello\n", "{back:?}");
    ends_with(&server, 0)?;
    ensure!(server.stderr().contains("serving unknown"), "{server}");
    Ok(())
}

// -- Signals ------------------------------------------------------------------------------------

#[test]
fn sigterm_gives_the_peer_what_it_is_owed() -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (mut peer, connection) = connection()?;
        let server = Server::with_args(LONG_GRACE)
            .stdin_from(connection)
            .launch()?;
        peer.echo(b"served\n")?;
        peer.send_pattern(2_000_000)?;
        peer.wait_until_delivered()?;
        server.signal(signal)?;
        peer.expect_rest_and_fin()?;
        ends_with(&server, 0)?;
    }
    Ok(())
}

#[test]
fn a_second_sigterm_ends_it_now_and_says_what_is_lost() -> anyhow::Result<()> {
    let (mut peer, connection) = connection()?;
    let server = Server::with_args(LONG_GRACE)
        .stdin_from(connection)
        .launch()?;
    peer.send_until_stuck()?;
    server.signal(Signal::SIGTERM)?;
    // Two that arrive together are one. It says why it waits.
    eventually("word of waiting", PATIENCE, || {
        server.stderr().contains("waiting up to").then_some(())
    })
    .with_context(|| server.to_string())?;
    server.signal(Signal::SIGTERM)?;
    peer.wait_until_reset()?;
    ends_with(&server, 0)?;
    ensure!(server.stderr().contains("never echoed"), "{server}");
    Ok(())
}

/// Whoever has started it so leads, and does with the terminal's Ctrl-C what is to be done.
#[test]
fn an_ignored_sigint_stays_ignored() -> anyhow::Result<()> {
    let (mut peer, connection) = connection()?;
    let server = Server::with_args(["--inetd"])
        .stdin_from(connection)
        .ignoring(Signal::SIGINT)
        .ignoring(Signal::SIGUSR1)
        .launch()?;
    peer.echo(b"before\n")?;
    server.signal(Signal::SIGINT)?;
    server.signal(Signal::SIGUSR1)?;
    // Were it to stop, what had come by then would still be echoed.
    for _ in 0..3 {
        peer.echo(b"after\n")?;
    }
    ensure!(server.stderr().is_empty(), "{server}");
    server.signal(Signal::SIGTERM)?;
    peer.expect_fin()?;
    ends_with(&server, 0)
}

#[test]
fn sigusr1_logs_the_status_of_the_one_connection() -> anyhow::Result<()> {
    let (mut peer, connection) = connection()?;
    let server = Server::with_args(["--inetd"])
        .stdin_from(connection)
        .launch()?;
    peer.echo(b"hello\n")?;
    // The peer may have its echo before the server has counted it.
    eventually("a table", PATIENCE, || {
        server.signal(Signal::SIGUSR1).ok()?;
        let table = server.stderr();
        ["open 1 ", "accepted 1 ", "received 6 ", "echoed 6 "]
            .iter()
            .all(|part| table.contains(part))
            .then_some(())
    })
    .with_context(|| server.to_string())?;
    peer.half_close()?;
    peer.expect_fin()?;
    ends_with(&server, 0)
}

// -- Other things as descriptor 0 ---------------------------------------------------------------

/// `... | tcpechod --inetd | ...`
#[test]
fn pipes_are_read_from_0_and_written_to_1() -> anyhow::Result<()> {
    let (input, output) = pipe2(OFlag::O_CLOEXEC)?;
    let server = Server::with_args(["--inetd"])
        .stdin_from(file(input))
        .launch()?;
    let text = "hello\n".repeat(100_000);
    let mut writer = fs::File::from(output);
    writer.write_all(text.as_bytes())?;
    drop(writer);
    ends_with(&server, 0)?;
    ensure!(server.stdout() == text, "not what was written\n");
    ensure!(server.stderr().is_empty(), "{server}");
    Ok(())
}

#[test]
fn a_file_or_a_device_is_read_to_its_end() -> anyhow::Result<()> {
    let path = scratch("a-file");
    fs::write(&path, "some text")?;
    for (path, text) in [(path.as_ref(), "some text"), (Path::new("/dev/null"), "")] {
        let server = Server::with_args(["--inetd"])
            .stdin_from(file(fs::File::open(path)?))
            .launch()?;
        ends_with(&server, 0)?;
        ensure!(server.stdout() == text, "{server}");
        ensure!(server.stderr().is_empty(), "{server}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() -> anyhow::Result<()> {
    let listening = TcpListener::bind("127.0.0.1:0")?;
    let inet = AddressFamily::Inet;
    let unconnected = socket(inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let datagrams = UdpSocket::bind("127.0.0.1:0")?;
    for (target, named) in [
        (file(listening), "nowait"),
        (file(unconnected), "not a connection"),
        (file(datagrams), "not a stream"),
        (file(fs::File::open("/")?), "EISDIR"),
        (Target::open("/dev/null")?, "EBADF"),
    ] {
        let server = Server::with_args(["--inetd"]).stdin_from(target).launch()?;
        refused(&server, named).context(named)?;
    }
    let path = scratch("full");
    fs::write(&path, "some text")?;
    let server = Server::with_args(["--inetd"])
        .stdin_from(file(fs::File::open(&path)?))
        .stdout_to(Target::open("/dev/full")?)
        .launch()?;
    refused(&server, "ENOSPC")
}

#[test]
fn what_was_not_handed_on_is_missed_in_one_line() -> anyhow::Result<()> {
    for flag in ["--log-fd", "--counters-fd"] {
        let server = Server::with_args(["--inetd", flag, "77"]).launch()?;
        refused(&server, "77")?;
    }
    // A descriptor that is something else.
    let server = Server::with_args(["--inetd", "--counters-fd", "9"]);
    let server = server.under(&["sh", "-c", "exec 9<&0; exec \"$@\"", "sh"]);
    refused(&server.launch()?, "counters")
}

// -- The model that executes it -----------------------------------------------------------------

/// With -vvv the most is said between fork and exec; a file is written to through the very number
/// that becomes the connection.
#[test]
fn logs_and_records_go_past_the_connection() -> anyhow::Result<()> {
    let (log, records) = (scratch("log"), scratch("records"));
    let write = |path: &Scratch| anyhow::Ok(file(fs::File::create(path)?));
    let server = EXEC
        .server()
        .args(["-vvv", "--events-fd", "1"])
        .stdout_to(write(&records)?)
        .stderr_to(write(&log)?);
    let server = server.under(&["sh", "-c", "\"$@\"; :", "sh"]).launch()?;
    let address = eventually("a ready line", PATIENCE, || {
        let log = fs::read_to_string(&log).ok()?;
        let ready = &log[log.find("listening on ")?..];
        let ready = ready.lines().next()?;
        tcpecho_common::ready::address(ready)
    })
    .with_context(|| server.to_string())?;
    let mut peer = Peer::connect(SocketAddr::new("127.0.0.1".parse()?, address.port()))?;
    peer.echo(b"hello\n")?;
    peer.half_close()?;
    peer.expect_fin()?;
    let said = fs::read_to_string(&log)?;
    for call in ["dup2(", "execve() ...", "getpeername(0) = 0"] {
        ensure!(said.contains(call), "no {call} in the log\n{said}");
    }
    let recorded = fs::read_to_string(&records)?;
    for call in ["\tdup2\t", "\texecve\t", "\tgetpeername\t0\t0\t"] {
        ensure!(recorded.contains(call), "no {call:?} recorded\n{recorded}");
    }
    Ok(())
}

/// A file without the right to be executed, as far as anybody has it, root too.
#[test]
fn where_exec_fails_the_client_is_refused_and_the_server_goes_on() -> anyhow::Result<()> {
    let program = scratch("a-program");
    copy(&binaries::path("tcpechod")?, &program)?;
    let mode = |mode| fs::set_permissions(&program, fs::Permissions::from_mode(mode));
    mode(0o755)?;
    let server = Server::plain(program.as_ref(), ["--model", "exec", "0"]).start()?;
    Peer::connect(server.address())?.echo(b"as ever")?;
    mode(0o644)?;
    Peer::connect(server.address())?.expect_fin()?;
    mode(0o755)?;
    Peer::connect(server.address())?.echo(b"as ever")?;
    let said = server.stderr();
    ensure!(
        said.contains("cannot execute /proc/self/exe: EACCES"),
        "{server}"
    );
    ensure!(said.lines().count() == 1, "{server}");
    server.signal(Signal::SIGUSR1)?;
    eventually("it in the table", PATIENCE, || {
        server.stderr().contains("refused 1\n").then_some(())
    })
    .with_context(|| server.to_string())
}

/// What runs is executed, not what lies in its place meanwhile.
#[test]
fn a_program_that_was_replaced_serves_on() -> anyhow::Result<()> {
    let program = scratch("replaced");
    copy(&binaries::path("tcpechod")?, &program)?;
    let server = Server::plain(program.as_ref(), ["--model", "exec", "0"]).start()?;
    fs::remove_file(&program)?;
    let mut peer = Peer::connect(server.address())?;
    peer.echo(b"as ever")?;
    let children = processes::children(server.pid());
    ensure!(
        children.iter().all(|child| child.comm == "tcpechod"),
        "{children:?}"
    );
    Ok(())
}

/// What it has is the connection, its log, and the descriptor for records.
#[test]
fn the_program_gets_no_descriptor_that_is_not_meant_for_it() -> anyhow::Result<()> {
    let server = EXEC.talkative().start()?;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"served")?;
        peers.push(peer);
    }
    let inherited: Vec<_> = processes::descriptors(std::process::id() as i32)?;
    for child in processes::children(server.pid()) {
        let has = processes::descriptors(child.pid)?;
        let sockets = has.iter().filter(|(_, to)| to.starts_with("socket:"));
        let sockets: Vec<_> = sockets
            .filter(|(fd, to)| !inherited.contains(&(*fd, to.clone())))
            .map(|(fd, _)| *fd)
            .collect();
        ensure!(sockets == [0, 1], "{has:?}");
        ensure!(!has.iter().any(|(_, to)| to.contains("memfd")), "{has:?}");
    }
    Ok(())
}

// -- Service managers ---------------------------------------------------------------------------

/// As systemd starts it, `$$` being its pid; the socket comes as descriptor 0 and goes to 3.
const MANAGER: &str = r#"exec 3<&0 < /dev/null; export LISTEN_PID=$$ LISTEN_FDS; exec "$@""#;

fn managed(server: Server, socket: Target, passed: u32) -> Server {
    server
        .stdin_from(socket)
        .env("LISTEN_FDS", passed.to_string())
        .under(&["sh", "-c", MANAGER, "sh"])
}

fn a_listening_socket_that_was_passed_is_served(contestant: &Contestant) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // As it may come.
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    // Whoever comes before the server is there waits in the queue.
    let mut early = Peer::connect(address)?;
    early.send(b"early")?;
    let socket = file(listener);
    let start = || {
        let mut args = vec!["-v", "--model", contestant.model.name()];
        args.extend(contestant.flags);
        let server = managed(Server::with_args(args), socket.clone(), 1);
        // Nothing of it is for those that a server starts.
        server.env("LISTEN_FDNAMES", "echo").start()
    };
    let server = start()?;
    ensure!(server.address() == address, "{server}");
    early.expect(b"early")?;
    early.half_close()?;
    early.expect_fin()?;
    let mut peer = Peer::connect(address)?;
    peer.echo(b"hello\n")?;
    // A forked child shows the environment that its parent was started with.
    if contestant.model == EXEC.model {
        for child in processes::children(server.pid()) {
            // Who has left meanwhile has none.
            let variables = fs::read(format!("/proc/{}/environ", child.pid));
            let variables = String::from_utf8_lossy(&variables.unwrap_or_default()).into_owned();
            ensure!(!variables.contains("LISTEN_"), "{variables:?}");
        }
    }
    peer.half_close()?;
    peer.expect_fin()?;
    sleeps(server.pid())?;
    stop(&server)?;
    // The socket is the manager's: it stays as it was, and the next server gets whoever has come
    // meanwhile.
    if let Target::File(fd) = &socket {
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        ensure!(flags.contains(OFlag::O_NONBLOCK), "its flags have changed");
    }
    let mut between = Peer::connect(address)?;
    between.send(b"between")?;
    let server = start()?;
    between.expect(b"between")?;
    drop(between);
    stop(&server)
}

#[test]
fn a_socket_that_was_passed_to_somebody_else_is_not_ours() -> anyhow::Result<()> {
    let server = Server::with_args(["0"])
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "1")
        .start()?;
    Peer::connect(server.address())?.echo(b"hello\n")
}

#[test]
fn what_cannot_be_listened_on_is_refused_with_a_way_out() -> anyhow::Result<()> {
    let path = scratch("socket");
    let (_peer, connection) = connection()?;
    let listener = || anyhow::Ok(file(TcpListener::bind("127.0.0.1:0")?));
    for (line, socket, passed, named) in [
        ("", listener()?, 2, "ListenStream="),
        ("", connection, 1, "--inetd"),
        ("", file(UdpSocket::bind("127.0.0.1:0")?), 1, "UDP"),
        ("", file(UnixListener::bind(&path)?), 1, "a path means"),
        ("", file(fs::File::open("/dev/null")?), 1, "ENOTSOCK"),
        ("", Target::Closed, 1, "EBADF"),
        ("0", listener()?, 1, "LISTEN_FDS"),
        ("--port 8990", listener()?, 1, "--port"),
        ("--bind ::1", listener()?, 1, "--bind"),
    ] {
        let server = Server::with_args(line.split_whitespace());
        let server = match socket {
            Target::Closed => server.env("LISTEN_FDS", "1").under(&[
                "sh",
                "-c",
                "export LISTEN_PID=$$; exec 3<&- \"$@\"",
                "sh",
            ]),
            socket @ Target::File(_) => managed(server, socket, passed),
        };
        refused(&server.launch()?, named).context(named)?;
    }
    Ok(())
}

fn the_manager_is_told_when_it_is_ready_and_when_it_stops(
    contestant: &Contestant,
) -> anyhow::Result<()> {
    let own = contestant.to_string().replace(' ', "");
    let name = format!("tcpecho-lab-{}-{own}", std::process::id());
    let hidden = local::SocketAddr::from_abstract_name(&name)?;
    let path = scratch(&format!("notify-{own}"));
    for (manager, place) in [
        (UnixDatagram::bind_addr(&hidden)?, format!("@{name}")),
        (UnixDatagram::bind(&path)?, path.0.display().to_string()),
    ] {
        manager.set_read_timeout(Some(PATIENCE))?;
        let told = || {
            let mut buffer = [0; 1000];
            let n = manager.recv(&mut buffer).context("word from the server")?;
            anyhow::Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
        };
        let server = contestant.server().env("NOTIFY_SOCKET", &place).start()?;
        ensure!(told()? == "READY=1", "{server}");
        // Who has been told so can connect; a child has nothing to tell.
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello\n")?;
        peer.half_close()?;
        peer.expect_fin()?;
        server.signal(Signal::SIGTERM)?;
        ensure!(told()? == "STOPPING=1", "{server}");
        let status = server.wait(PATIENCE)?;
        ensure!(status.success(), "{status}\n{server}");
        manager.set_nonblocking(true)?;
        ensure!(told().is_err(), "it says more\n{server}");
        ensure!(server.stderr().is_empty(), "{server}");
    }
    Ok(())
}

#[test]
fn a_manager_that_cannot_be_told_is_worth_a_warning() -> anyhow::Result<()> {
    for (place, named) in [
        ("/nowhere/at/all", "ENOENT"),
        ("@tcpecho-lab-nobody", "ECONNREFUSED"),
        ("relative", "EAFNOSUPPORT"),
        ("vsock:2:1234", "EAFNOSUPPORT"),
    ] {
        let server = Server::with_args(["0"])
            .env("NOTIFY_SOCKET", place)
            .start()?;
        Peer::connect(server.address())?.echo(b"hello\n")?;
        let said = server.stderr();
        ensure!(said.lines().count() == 1, "{server}");
        for part in ["WARN", "READY=1", place, named] {
            ensure!(said.contains(part), "{part:?} is not mentioned\n{server}");
        }
    }
    Ok(())
}

// -- Helpers ------------------------------------------------------------------------------------

/// It has nothing to do, and sleeps: who asks again and again never does.
fn sleeps(pid: i32) -> anyhow::Result<()> {
    eventually("sleep", PATIENCE, || {
        processes::look(pid).filter(|process| process.state == 'S')
    })
    .map(drop)
}

/// A connection: the peer, and what the superserver has accepted.
fn connection() -> anyhow::Result<(Peer, Target)> {
    accepted(|_| Ok(()))
}

fn accepted(
    prepare: impl FnOnce(&TcpStream) -> std::io::Result<()>,
) -> anyhow::Result<(Peer, Target)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = Peer::connect(listener.local_addr()?)?;
    let (stream, _) = listener.accept()?;
    prepare(&stream)?;
    Ok((peer, file(stream)))
}

fn file(fd: impl Into<OwnedFd>) -> Target {
    Target::File(Arc::new(fd.into()))
}

/// A name for a file, which is not there; removed in the end.
fn scratch(name: &str) -> Scratch {
    let name = format!("inetd-{}-{name}", std::process::id());
    Scratch(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
}

/// By a process of its own: were the file open for writing here, every child that another test forks
/// meanwhile would have it open, too, and nobody can execute it then (ETXTBSY).
fn copy(program: &Path, to: &Scratch) -> anyhow::Result<()> {
    let status = Command::new("cp").arg(program).arg(&to.0).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

struct Scratch(PathBuf);

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test may have removed it itself.
        let _ = fs::remove_file(&self.0);
    }
}

fn ends_with(server: &Launched, code: i32) -> anyhow::Result<()> {
    let status: ExitStatus = server.wait(PATIENCE)?;
    ensure!(status.code() == Some(code), "{status}\n{server}");
    Ok(())
}

/// It fails at run time, and says why in one line.
fn refused(server: &Launched, named: &str) -> anyhow::Result<()> {
    ends_with(server, 1)?;
    let said = server.stderr();
    ensure!(
        said.starts_with("tcpechod: ") && said.lines().count() == 1,
        "not one line\n{server}"
    );
    ensure!(said.contains(named), "{named:?} is not mentioned\n{server}");
    ensure!(server.stdout().is_empty(), "{server}");
    Ok(())
}

fn stop(server: &ServerProcess) -> anyhow::Result<()> {
    server.signal(Signal::SIGTERM)?;
    let status = server.wait(PATIENCE)?;
    ensure!(status.success(), "{status}\n{server}");
    Ok(())
}
