//! Programs of other people: superservers that execute `tcpechod --inetd`, clients that drive every
//! model, servers that tcpecho talks to. 3 MB each, byte-exact, with a half-close.
//!
//! Not part of `make test`: `make test-outside` runs them. A program that is missing is a reason to
//! skip, or with `TCPECHO_STRICT=1` to fail; `.ci/run` installs them.
//!
//! Left out, because they judge wrongly or cannot be had:
//! - `ncat -k -e cat`: up to 7.95 it loses the last bytes, or hangs (nmap issue 962);
//! - `curl telnet://`: not byte-exact;
//! - `nc` without -N: never closes its side, so it waits for ever;
//! - `busybox nc -ll -e`: as Debian builds it, it listens on every address of the machine;
//! - tcpkali: not packaged by Debian.

use std::env;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{User, getuid};
use tcpecho_lab::client::Client;
use tcpecho_lab::contestant::{self, Contestant};
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::peer::{PATIENCE, Peer, pattern};
use tcpecho_lab::server::{Launched, Server};
use tcpecho_lab::skip::skip;
use tcpecho_lab::wait::eventually;
use tcpecho_lab::{binaries, netns};

/// How many bytes go there and back.
const LENGTH: u64 = 3_000_000;

/// How long a program may take for that.
const DEADLINE: Duration = Duration::from_secs(60);

// -- Superservers -------------------------------------------------------------------------------

/// The command line of one who executes a program for every connection.
type Superserver = fn(SocketAddr, &[&str]) -> Vec<String>;

const SUPERSERVERS: [Superserver; 7] = [
    openbsd_inetd,
    xinetd,
    systemd_accept,
    socat_fork,
    socat_nofork,
    tcpserver,
    tcpsvd,
];

fn openbsd_inetd(at: SocketAddr, words: &[&str]) -> Vec<String> {
    let (program, user, command) = (words[0], user(), words.join(" "));
    let conf = format!("{at} stream tcp nowait {user} {program} {command}\n");
    strings(["inetd", "-d", &file("inetd.conf", conf)])
}

fn xinetd(at: SocketAddr, words: &[&str]) -> Vec<String> {
    let (program, args) = (words[0], words[1..].join(" "));
    // It refuses to be told that there are none.
    let name = if args.is_empty() { "#" } else { "server_args" };
    let service = format!("type = UNLISTED\nserver = {program}\n{name} = {args}\n");
    xinetd_with(at, &format!("service tcpecho\n{{\n{service}"))
}

/// `service` is still to be closed.
fn xinetd_with(at: SocketAddr, service: &str) -> Vec<String> {
    let (ip, port, user) = (at.ip(), at.port(), user());
    let common = "socket_type = stream\nprotocol = tcp\nwait = no";
    let place = format!("bind = {ip}\nport = {port}\nuser = {user}");
    let conf = file("xinetd.conf", format!("{service}{common}\n{place}\n}}\n"));
    let pid = file("xinetd.pid", "");
    strings(["xinetd", "-dontfork", "-pidfile", &pid, "-f", &conf])
}

fn systemd_accept(at: SocketAddr, words: &[&str]) -> Vec<String> {
    let activate = ["systemd-socket-activate", "--inetd", "-a", "-l"];
    strings(activate.iter().chain([&&*at.to_string()]).chain(words))
}

fn socat_fork(at: SocketAddr, words: &[&str]) -> Vec<String> {
    socat(at, &format!("EXEC:{}", words.join(" ")))
}

/// Without a process between: the program gets the connection itself.
fn socat_nofork(at: SocketAddr, words: &[&str]) -> Vec<String> {
    socat(at, &format!("EXEC:{},nofork", words.join(" ")))
}

/// It waits for the rest after one side has ended; half a second unless told otherwise.
fn socat(at: SocketAddr, exec: &str) -> Vec<String> {
    let (ip, port) = (at.ip(), at.port());
    let listen = format!("TCP-LISTEN:{port},bind={ip},reuseaddr,fork");
    strings(["socat", "-t30", &listen, exec])
}

fn tcpserver(at: SocketAddr, words: &[&str]) -> Vec<String> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let command = ["tcpserver", "-HRl0", &ip, &port];
    strings(command.iter().chain(words))
}

fn tcpsvd(at: SocketAddr, words: &[&str]) -> Vec<String> {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let command = ["tcpsvd", "-l", "localhost", &ip, &port];
    strings(command.iter().chain(words))
}

#[test]
#[ignore = "make test-outside"]
fn under_superservers_every_byte_comes_back_and_nothing_else() -> anyhow::Result<()> {
    const TEST: &str = "under_superservers_every_byte_comes_back_and_nothing_else";
    let tcpechod = ours("tcpechod")?;
    for superserver in SUPERSERVERS {
        let address = free_address()?;
        // With some of them stderr is the connection, too.
        let command = superserver(address, &[&tcpechod, "--inetd", "-vvv"]);
        let Some(server) = listening(TEST, &command, address)? else {
            continue;
        };
        let drive = || {
            let mut idle = Peer::connect(address)?;
            idle.echo(b"hello\n")?;
            Peer::connect(address)?.stream(LENGTH)?;
            idle.echo(b"still here\n")?;
            idle.half_close()?;
            idle.expect_fin()
        };
        drive().with_context(|| server.to_string())?;
    }
    Ok(())
}

/// Every model on a socket that systemd's tool passes.
#[test]
#[ignore = "make test-outside"]
fn every_model_serves_on_a_socket_passed_by_systemd() -> anyhow::Result<()> {
    const TEST: &str = "every_model_serves_on_a_socket_passed_by_systemd";
    let tcpechod = ours("tcpechod")?;
    for contestant in plain() {
        let address = free_address()?;
        let activate = ["systemd-socket-activate", "-l", &address.to_string()];
        let server = [&tcpechod, "--model", contestant.model.name(), "-v"];
        let command = strings(activate.iter().chain(&server));
        let Some(server) = listening(TEST, &command, address)? else {
            return Ok(());
        };
        let drive = || {
            Peer::connect(address)?.stream(LENGTH)?;
            server.signal(Signal::SIGTERM)?;
            let status = server.wait(PATIENCE)?;
            ensure!(status.success(), "{status}");
            Ok(())
        };
        drive().with_context(|| server.to_string())?;
    }
    Ok(())
}

// -- Clients ------------------------------------------------------------------------------------

#[test]
#[ignore = "make test-outside"]
fn ncat_gets_every_byte_back() -> anyhow::Result<()> {
    gets_every_byte_back("ncat_gets_every_byte_back", "ncat", |ip, port| {
        strings(["ncat", ip, port])
    })
}

#[test]
#[ignore = "make test-outside"]
fn nc_gets_every_byte_back() -> anyhow::Result<()> {
    // `nc` may be another one's.
    gets_every_byte_back("nc_gets_every_byte_back", "nc.openbsd", |ip, port| {
        strings(["nc.openbsd", "-N", ip, port])
    })
}

#[test]
#[ignore = "make test-outside"]
fn socat_gets_every_byte_back() -> anyhow::Result<()> {
    gets_every_byte_back("socat_gets_every_byte_back", "socat", |ip, port| {
        strings(["socat", "-t5", "-", &format!("TCP:{ip}:{port}")])
    })
}

#[test]
#[ignore = "make test-outside"]
fn busybox_gets_every_byte_back() -> anyhow::Result<()> {
    gets_every_byte_back("busybox_gets_every_byte_back", "busybox", |ip, port| {
        strings(["busybox", "nc", ip, port])
    })
}

#[test]
#[ignore = "make test-outside"]
fn asyncio_gets_every_byte_back() -> anyhow::Result<()> {
    const CLIENT: &str = "
import asyncio, sys

async def main(host, port):
    reader, writer = await asyncio.open_connection(host, int(port))
    async def send():
        while chunk := sys.stdin.buffer.read(100_000):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    sending = asyncio.create_task(send())
    while chunk := await reader.read(100_000):
        sys.stdout.buffer.write(chunk)
    await sending

asyncio.run(main(*sys.argv[1:]))
";
    gets_every_byte_back("asyncio_gets_every_byte_back", "python3", |ip, port| {
        strings(["python3", "-c", CLIENT, ip, port])
    })
}

/// The program sends a file to every model, closes its side, and prints what comes back.
fn gets_every_byte_back(
    test: &str,
    name: &str,
    command: impl Fn(&str, &str) -> Vec<String>,
) -> anyhow::Result<()> {
    let Some(program) = tool(name) else {
        return skip(test, missing(name));
    };
    let bytes = bytes();
    let path = file(test, &bytes);
    for contestant in plain() {
        let server = contestant.talkative().start()?;
        let (ip, port) = (server.address().ip(), server.address().port());
        let command = command(&ip.to_string(), &port.to_string());
        let client = Client::plain(&program, &command[1..]);
        let client = client.stdin(File::open(&path)?).start()?;
        let judge = || {
            let status = client.wait(DEADLINE)?;
            ensure!(status.success(), "{status}");
            same(&client.stdout(), &bytes)
        };
        judge().with_context(|| format!("{name} and {}\n{server}", contestant.model))?;
    }
    Ok(())
}

// -- Servers ------------------------------------------------------------------------------------

#[test]
#[ignore = "make test-outside"]
fn the_client_and_cat_under_superservers() -> anyhow::Result<()> {
    const TEST: &str = "the_client_and_cat_under_superservers";
    let cat = tool("cat").context("no cat")?;
    let cat = cat.to_string_lossy();
    for superserver in SUPERSERVERS {
        let address = free_address()?;
        let Some(server) = listening(TEST, &superserver(address, &[&cat]), address)? else {
            continue;
        };
        the_client_gets_every_byte_back(TEST, address).with_context(|| server.to_string())?;
    }
    Ok(())
}

/// Its port is 7, whatever one would like.
#[test]
#[ignore = "make test-outside"]
fn the_client_and_the_echo_inside_inetd() -> anyhow::Result<()> {
    const TEST: &str = "the_client_and_the_echo_inside_inetd";
    netns::test(TEST, || {
        let address = "127.0.0.1:7".parse()?;
        let conf = file(
            "echo.conf",
            "127.0.0.1:echo stream tcp nowait root internal\n",
        );
        let Some(inetd) = listening(TEST, &strings(["inetd", "-d", &conf]), address)? else {
            return Ok(());
        };
        the_client_gets_every_byte_back(TEST, address).with_context(|| inetd.to_string())
    })
}

#[test]
#[ignore = "make test-outside"]
fn the_client_and_the_echo_inside_xinetd() -> anyhow::Result<()> {
    const TEST: &str = "the_client_and_the_echo_inside_xinetd";
    let address = free_address()?;
    let service = "service echo\n{\ntype = INTERNAL UNLISTED\nid = echo-stream\n";
    let Some(server) = listening(TEST, &xinetd_with(address, service), address)? else {
        return Ok(());
    };
    the_client_gets_every_byte_back(TEST, address).with_context(|| server.to_string())
}

#[test]
#[ignore = "make test-outside"]
fn the_client_and_asyncio() -> anyhow::Result<()> {
    const TEST: &str = "the_client_and_asyncio";
    const SERVER: &str = "
import asyncio

async def echo(reader, writer):
    while chunk := await reader.read(100_000):
        writer.write(chunk)
        await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(echo, '127.0.0.1', 0)
    host, port = server.sockets[0].getsockname()
    print(f'listening on {host}:{port}', flush=True)
    await server.serve_forever()

asyncio.run(main())
";
    let Some(python) = tool("python3") else {
        return skip(TEST, missing("python3"));
    };
    let server = Server::plain(python, ["-c", SERVER]).start()?;
    the_client_gets_every_byte_back(TEST, server.address()).with_context(|| server.to_string())
}

/// It prints what the client sends, answers nothing and leaves: every byte has arrived, and the
/// client says that none has come back.
#[test]
#[ignore = "make test-outside"]
fn the_client_and_an_ncat_that_answers_nothing() -> anyhow::Result<()> {
    const TEST: &str = "the_client_and_an_ncat_that_answers_nothing";
    let address = free_address()?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    // With --recv-only it would send its FIN at once, and what the client sees first would be chance.
    let command = strings(["ncat", "-l", "--sh-exec", "cat >&2", &ip, &port]);
    let Some(server) = listening(TEST, &command, address)? else {
        return Ok(());
    };
    let text = "a line of text\n".repeat(10_000);
    let stdin = File::open(file("text", &text))?;
    let client = Client::to(address).stdin(stdin).start()?;
    let status = client.wait(DEADLINE)?;
    let said = client.transcript();
    ensure!(status.code() == Some(3), "{said}\n{server}");
    ensure!(said.contains("150000 bytes unanswered"), "{said}");
    server.wait(PATIENCE)?;
    ensure!(server.stderr() == text, "{} bytes", server.stderr().len());
    Ok(())
}

/// tcpecho sends a file and prints it.
fn the_client_gets_every_byte_back(test: &str, server: SocketAddr) -> anyhow::Result<()> {
    let bytes = bytes();
    let path = file(test, &bytes);
    let client = Client::to(server).stdin(File::open(path)?).start()?;
    let status = client.wait(DEADLINE)?;
    ensure!(status.success(), "{status}\n{}", client.stderr());
    same(&client.stdout(), &bytes)
}

// -- Helpers ------------------------------------------------------------------------------------

/// The models, with no flags.
fn plain() -> impl Iterator<Item = &'static Contestant> {
    let all = contestant::ALL.iter();
    all.filter(|contestant| contestant.flags.is_empty())
}

/// Starts what will listen there and waits until it does; None if the program is missing, and nobody
/// insists.
fn listening(
    test: &str,
    command: &[String],
    address: SocketAddr,
) -> anyhow::Result<Option<Launched>> {
    let Some(program) = tool(&command[0]) else {
        skip(test, missing(&command[0]))?;
        return Ok(None);
    };
    let server = Server::plain(program, &command[1..]).launch()?;
    wait_for_listener(&server, address)?;
    Ok(Some(server))
}

/// None of them says when it is ready. Not found out by connecting: some serve one client only.
fn wait_for_listener(server: &Launched, address: SocketAddr) -> anyhow::Result<()> {
    let diag = SockDiag::open()?;
    eventually("a listening socket", PATIENCE, || {
        diag.queued(address).ok()?.map(drop)
    })
    .with_context(|| server.to_string())
}

/// None of them can be given port 0 and asked which it was. So it is one that nobody gets by chance:
/// an address that nothing else uses, below the ephemeral ports.
fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 500) as u16 * 40;
    for _ in 0..100 {
        let port = 10_000 + (first + NEXT.fetch_add(1, Relaxed)) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 77], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("a hundred ports of 127.0.0.77 are taken")
}

/// In PATH, or where daemons live, which is not in everybody's PATH.
fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(daemons)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

fn missing(name: &str) -> String {
    format!("no {name} here")
}

fn ours(name: &str) -> anyhow::Result<String> {
    let path = binaries::path(name)?;
    let path = path.to_str().context("a path without odd characters")?;
    Ok(path.to_owned())
}

fn user() -> String {
    let user = User::from_uid(getuid()).expect("a table of users");
    user.expect("a user with a name").name
}

fn strings<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> Vec<String> {
    let words = words.into_iter();
    words.map(|word| word.as_ref().to_owned()).collect()
}

/// What goes there and back.
fn bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < LENGTH as usize {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(pattern(at, LENGTH - at));
    }
    bytes
}

/// A file with this in it; another one at every call.
fn file(name: &str, content: impl AsRef<[u8]>) -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside");
    fs::create_dir_all(&directory).expect("a directory for files");
    let path = directory.join(format!("{}-{name}", NEXT.fetch_add(1, Relaxed)));
    fs::write(&path, content).expect("room for a file");
    path.to_str().expect("a path of the project").to_owned()
}

fn same(came: &[u8], expected: &[u8]) -> anyhow::Result<()> {
    let at = came.iter().zip(expected).position(|(a, b)| a != b);
    ensure!(
        came == expected,
        "{} bytes came of {}, the first wrong one at {at:?}",
        came.len(),
        expected.len()
    );
    Ok(())
}
