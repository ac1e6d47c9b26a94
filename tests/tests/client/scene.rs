//! A server, a client that talks to it, and what the kernel knows of both; and what bytes go through.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tcpecho_common::Model;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::observe::processes;
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::observe::sockets::{self, Socket, State};
use tcpecho_lab::server::ServerProcess;
use tcpecho_lab::wait::eventually;

use super::basics::{DEADLINE, end, serve, start};

/// A server and a client that are connected.
pub struct Talk {
    pub client: ClientProcess,
    pub server: ServerProcess,
    /// The process that serves the client: the server, or its child.
    pub peer: i32,
    address: OnceCell<SocketAddr>,
    diag: SockDiag,
}

impl Talk {
    /// Both are started, and a line has gone forth and back: the client is in its loop. `how` adds
    /// to the client's command line; its stdin and stdout must be the harness's.
    pub fn start(model: Model, how: impl FnOnce(Client) -> Client) -> Self {
        let server = serve(model);
        let client = start(how(Client::to(server.address())));
        exchange(&client, "hello");
        Self::between(server, client)
    }

    /// A server and a client that it serves already.
    pub fn between(server: ServerProcess, client: ClientProcess) -> Self {
        let peer = peer(&server, address(&client, &server));
        Self {
            client,
            server,
            peer,
            address: OnceCell::new(),
            diag: SockDiag::open().expect("netlink"),
        }
    }

    /// The client's address. Ask while it is connected; then it is known for ever.
    fn address(&self) -> SocketAddr {
        *self
            .address
            .get_or_init(|| address(&self.client, &self.server))
    }

    /// The state of the client's end of the connection.
    pub fn near(&self) -> Option<State> {
        let (near, far) = (self.address(), self.server.address());
        self.diag.state(near, far).expect("an answer")
    }

    /// The state of the server's end.
    pub fn far(&self) -> Option<State> {
        let (near, far) = (self.address(), self.server.address());
        self.diag.state(far, near).expect("an answer")
    }

    /// Waits until the FIN has arrived at the client. A reset that overtakes it would be another
    /// story.
    pub fn wait_for_fin(&self) {
        eventually("the client's socket in CLOSE-WAIT", DEADLINE, || {
            self.near().filter(|state| *state == State::CloseWait)
        })
        .expect("the server's FIN");
    }

    /// Kills the process that serves the client, which gives it no chance to say goodbye.
    pub fn kill_peer(&self) {
        signal(self.peer, Signal::SIGKILL);
    }

    /// Types `line`, which the server does not read, because it is stopped.
    pub fn leave_unread(&self, line: &str) {
        stop(self.peer);
        self.client.type_line(line).expect("typed");
        self.wait_unread(line.len() + 1);
    }

    /// Waits until the server's kernel holds `bytes` that the server has not read.
    pub fn wait_unread(&self, bytes: usize) {
        let (near, far) = (self.address(), self.server.address());
        let what = format!("{bytes} bytes unread at the server");
        eventually(&what, DEADLINE, || {
            let unread = self.diag.unread(far, near).expect("an answer")?;
            (unread as usize >= bytes).then_some(())
        })
        .expect("sent");
    }

    /// Waits for the client's end; its exit code.
    pub fn end(&self) -> i32 {
        end(&self.client)
    }
}

/// Types a line, and sees it again.
pub fn exchange(client: &ClientProcess, line: &str) {
    let before = client.stdout().len();
    client.type_line(line).expect("typed");
    let stdout = client
        .wait_stdout(before + line.len() + 1, DEADLINE)
        .expect("its echo");
    assert_eq!(stdout[before..], *format!("{line}\n").as_bytes());
}

/// The client's address: that of the connection to the server which it has among its descriptors.
fn address(client: &ClientProcess, server: &ServerProcess) -> SocketAddr {
    eventually("the client's connection", DEADLINE, || {
        let descriptors = processes::descriptors(client.pid()).ok()?;
        let is_its = |socket: &&Socket| {
            let name = format!("socket:[{}]", socket.inode);
            descriptors.iter().any(|(_, target)| *target == name)
        };
        let connected = sockets::connected_to(server.address()).ok()?;
        connected.iter().find(|s| is_its(s)).map(|s| s.local)
    })
    .expect("connected")
}

/// The process that serves the one client of `server`: of those that have the connection open the
/// last in the tree, for a parent that has just forked may not have closed its copy yet.
fn peer(server: &ServerProcess, client: SocketAddr) -> i32 {
    eventually("who has the connection", DEADLINE, || {
        let sockets = sockets::connected_to(client).ok()?;
        let connection = sockets
            .iter()
            .find(|s| s.local.port() == server.address().port())?;
        let name = format!("socket:[{}]", connection.inode);
        let has_it = |pid: i32| {
            let descriptors = processes::descriptors(pid).unwrap_or_default();
            descriptors.iter().any(|(_, target)| *target == name)
        };
        let tree = processes::tree(server.pid());
        tree.iter()
            .rev()
            .map(|process| process.pid)
            .find(|pid| has_it(*pid))
    })
    .expect("it is served")
}

pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("one of ours, not yet reaped");
}

/// Stops a process, all threads of it.
pub fn stop(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    eventually(&format!("{pid} stopped"), DEADLINE, || {
        states(pid)?.iter().all(|state| *state == 'T').then_some(())
    })
    .expect("nobody can refuse");
}

/// The states of its threads.
fn states(pid: i32) -> Option<Vec<char>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .map(|thread| {
            let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
            stat.rsplit_once(')')?.1.trim_start().chars().next()
        })
        .collect()
}

/// Both ends of a pipe, inherited by nobody by accident.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    pipe2(OFlag::O_CLOEXEC).expect("a pipe")
}

/// Writes to `pipe` until no byte finds room any more; its flags stay as they were.
pub fn fill(pipe: &OwnedFd) {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL).expect("its flags"));
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).expect("settable");
    for bytes in [&[b'x'; 4096][..], b"x"] {
        let full = loop {
            if let Err(errno) = nix::unistd::write(pipe, bytes) {
                break errno;
            }
        };
        assert_eq!(full, Errno::EAGAIN);
    }
    fcntl(pipe, FcntlArg::F_SETFL(flags)).expect("settable");
}

/// Waits until there is something to read, or the end.
pub fn wait_readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).expect("short enough");
    assert_eq!(poll(&mut fds, timeout), Ok(1), "nothing to read in time");
}

/// Reads `bytes` bytes; the reader never waits longer than the deadline for the next one.
pub fn read_exactly(mut from: &File, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        wait_readable(from);
        let n = from.read(&mut all[filled..]).expect("readable");
        assert!(n > 0, "the end after {filled} of {bytes} bytes");
        filled += n;
    }
    all
}

/// Bytes without a pattern, newlines and zeros among them; always the same.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}
