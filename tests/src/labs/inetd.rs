//! A server that runs another program for each client: fork, dup2, exec, getpeername (UNP 4.10, 13.5).
//!
//! First tcpechod with its model `exec`, then a super-server of one page with programs that know
//! nothing of sockets, then `tcpechod --inetd` under a real super-server where one is installed.
//! Asserted are which descriptors are the connection, whose child has them, and who is at their
//! other end.

use std::env;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use tcpecho_common::defaults;

use crate::binaries;
use crate::labs::crowd::{Crowd, in_words};
use crate::labs::pair::PROMPTLY;
use crate::narrate::text::fill;
use crate::narrate::{Act, Chapter, Lab, Names, Scene, Stage, keys, shell};
use crate::netns::Isolation;
use crate::observe::calls::CallRecord;
use crate::observe::processes::{self, Process};
use crate::observe::rest::is_at_rest;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::{self, Socket, State};
use crate::server::{Launched, Server};
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "inetd",
    title: "A program that serves, and knows no socket",
    sections: "4.7, 4.10, 13.5",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[],
    about: "fork makes a copy of the server. exec puts another program in its place: nothing in \
        its memory is left. How does the new program know which descriptor is its client, and who \
        that is? And must it know of sockets at all?",
    acts: || {
        vec![
            Box::new(exec(EXEC)) as Box<dyn Scene>,
            Box::new(cat(CAT)),
            Box::new(stderr(TALKS)),
            Box::new(by_number(NUMBER)),
            Box::new(superserver(None)),
        ]
    },
};

/// The server that executes another for each client.
pub const EXEC: &str = "tcpechod --model exec --bind 127.0.0.1 {port}";
/// Any program.
pub const CAT: &str = "tcpecho-lab actor inetd 127.0.0.1:{port} cat";
/// One that says something on stderr.
pub const TALKS: &str =
    "tcpecho-lab actor inetd 127.0.0.1:{port} \\\n        sh -c 'echo who are you? >&2; exec cat'";
/// One that is told the number, and leaves 0, 1 and 2 alone.
pub const NUMBER: &str =
    "tcpecho-lab actor inetd number 127.0.0.1:{port} \\\n        sh -c 'exec cat <&$0 >&$0' %d";

/// Super-servers that may be installed, and how each is told to run `tcpechod --inetd`. xinetd is not
/// among them: it takes its configuration from a file only, and no file is to be left behind.
const SUPERSERVERS: [(&str, &str); 4] = [
    (
        "inetd",
        "inetd -d /dev/stdin <<END\n\
         127.0.0.1:{port} stream tcp nowait $(id -un) $(command -v tcpechod) tcpechod --inetd\n\
         END",
    ),
    (
        "systemd-socket-activate",
        "systemd-socket-activate --inetd -a -l 127.0.0.1:{port} \\\n        \
         $(command -v tcpechod) --inetd",
    ),
    (
        "tcpserver",
        "tcpserver -HRl0 127.0.0.1 {port} tcpechod --inetd",
    ),
    (
        "socat",
        "socat TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork \\\n        \
         EXEC:'tcpechod --inetd',nofork",
    ),
];
/// What stands in where none is.
const OURS: &str = "tcpecho-lab actor inetd 127.0.0.1:{port} tcpechod --inetd";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const DESCRIPTORS: &str = "ls -l /proc/{child}/fd | grep -o '[0-9]* -> .*'";
const PS: &str = "ps -o pid,ppid,stat,args -p {server} --ppid {server}";
const CONNECTION: &str = "descriptors of it that are the connection";

/// tcpechod and what it executes.
pub fn exec(server: &'static str) -> Act<Crowd> {
    Act::open("fork, dup2, exec", Crowd::open)
        .server(
            "In terminal 1, a server that runs a program for each client.",
            server,
        )
        .client("In terminal 2, a client.", CLIENT)
        .look("The child has another command line: it is another program.")
        .predict(
            "Parent and child each have some sockets. Who has the listening socket now?",
            &[
                ("parent", "the parent alone"),
                ("parent and child", "both: nobody has closed it"),
            ],
        )
        .answer("who has the listening socket", "parent", |c| {
            let server = c.server()?;
            let listens = |s: &Socket| s.local == server.address() && s.state == State::Listen;
            let listening = sockets::tcp()?.into_iter().find(listens);
            let inode = listening.context("nobody listens")?.inode;
            let tree = processes::tree(server.pid()).into_iter();
            let holders = tree.filter(|p| !copies(p.pid, inode).is_empty());
            let name = |p: Process| {
                if p.pid == server.pid() {
                    "parent"
                } else {
                    "child"
                }
            };
            Ok(holders.map(name).collect::<Vec<_>>().join(" and "))
        })
        .expect(CONNECTION, "0 1", |c| {
            connection_of(c.child(0)?.pid, c.server()?.address())
        })
        .observe("What the child has open:", DESCRIPTORS, |c| {
            open_files(c.child(0)?.pid)
        })
        .expect(
            "the child's calls after fork",
            "dup2 = 0, dup2 = 1, dup2 = 2, execve ..., getpeername = 0",
            |c| Ok(in_words(&becoming(c)?)),
        )
        .explain(
            "Nobody has to close anything: the listening socket is marked close-on-exec, and exec \
             closes it. The copies that dup2 makes are not marked, so 0, 1 and 2 stay. (2 was the \
             connection, too. The first thing that tcpechod does is to put its log there again.)",
        )
        .show("The story on one time line:", |c| {
            c.ladder(0, "the server waits")
        })
        .line("The user types.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
        .expect(
            "at the other end of its descriptor 0 is",
            "the client",
            |c| other_end(c.child(0)?.pid, c.server()?.address(), c.client(0)?.pid()),
        )
        .explain(
            "accept has told the parent who the client is. That was in memory, and is lost. The \
             new program asks its descriptor 0: getpeername (UNP 4.10).",
        )
        .goodbye("The client's goodbye.", 0)
        .expect("left is", "parent S", Crowd::census)
}

/// A program that knows nothing of sockets.
pub fn cat(command: &'static str) -> Act<Super> {
    Act::open("a server named cat", Super::open)
        .explain(
            "cat reads descriptor 0 and writes descriptor 1. It is older than sockets, and knows \
             of no network. Here is a super-server of one page (tests/src/actors/inetd.rs): \
             accept, fork, dup2, exec.",
        )
        .superserver("In terminal 1, the super-server.", command)
        .predict(
            "A client connects, and its user types hello. What comes back?",
            &[
                ("hello", "hello: cat is an echo server"),
                ("nothing", "nothing: cat has no socket"),
            ],
        )
        .client("In terminal 2, a client.", CLIENT)
        .line("The user types.", "hello")
        .answer("what came back", "hello", Super::echoed)
        .expect("the program that serves is", "cat", Super::program)
        .expect(CONNECTION, "0 1 2", Super::connection)
        .observe("What cat has open:", DESCRIPTORS, |s| {
            open_files(s.child()?.pid)
        })
        .goodbye("The client's goodbye: cat reads 0 bytes, and ends.")
        .expect("programs that serve", 0, Super::children)
        .explain(
            "No call of cat's was written for the network: read and write do for a socket what \
             they do for a file. That is the idea of inetd: one process waits for the clients of \
             many services, and whoever can read and write can serve.",
        )
}

/// A program that says something where it does not belong.
pub fn stderr(command: &'static str) -> Act<Super> {
    Act::open("a word on descriptor 2", Super::open)
        .superserver(
            "The same super-server. Its program first says a word on stderr.",
            command,
        )
        .predict(
            "A client connects. Where is that word to be read?",
            &[
                ("nowhere", "in terminal 1, where errors are shown"),
                ("who are you?", "at the client"),
            ],
        )
        .client("A client. Nothing is typed.", CLIENT)
        .answer("what came to the client", "who are you?", Super::echoed)
        .explain(
            "Descriptor 2 is the client as well. A program under inetd must not log to stderr; \
             `tcpechod --inetd` looks first whether 2 is the socket, and puts /dev/null there.",
        )
}

/// The other way to tell the program.
pub fn by_number(command: &'static str) -> Act<Super> {
    Act::open("the other way: a number among the arguments", Super::open)
        .explain(
            "The book (4.10) knows two ways to tell a program which descriptor it is to serve. \
             One is the convention: 0, 1 and 2. The other: its number is an argument.",
        )
        .superserver(
            "The super-server writes the number in the place of %d; no dup2. Its program is a \
             shell, which then does the dup2 itself.",
            command,
        )
        .client("A client.", CLIENT)
        .line("The user types.", "hello")
        .expect("what came back", "hello", Super::echoed)
        .expect("descriptor 2 is", "not the connection", |s| {
            let all = s.connection()?;
            let is_it = all.split(' ').any(|fd| fd == "2");
            Ok(if is_it {
                "the connection"
            } else {
                "not the connection"
            })
        })
        .observe("What the program has open:", DESCRIPTORS, |s| {
            open_files(s.child()?.pid)
        })
}

/// tcpechod under a super-server: this one, or the first that is installed, or ours.
pub fn superserver(command: Option<&'static str>) -> Act<Super> {
    Act::open("the same program under a real super-server", move |place| {
        Ok(Super::open(place)?.choose(command))
    })
    .explain(
        "Super-servers: inetd, systemd-socket-activate, tcpserver, socat. The first of them \
         that is installed here is taken; where none is, our own.",
    )
    .superserver("In terminal 1: {choice}.", "{command}")
    .client("In terminal 2, a client.", CLIENT)
    .line("The user types.", "hello")
    .expect("what came back", "hello", Super::echoed)
    .observe("Who there is:", PS, |s| {
        Ok(processes::ps_view(&processes::tree(s.server()?.pid())))
    })
    .expect("the program that serves is", "tcpechod", Super::program)
    .predict(
        "Which descriptors are the connection here?",
        &[
            ("0 1", "0 and 1"),
            ("0 1 2", "0, 1 and 2"),
            ("3", "3, or whatever accept has returned"),
        ],
    )
    .answer(CONNECTION, "0 1", Super::connection)
    .expect(
        "at the other end of its descriptor 0 is",
        "the client",
        |s| other_end(s.child()?.pid, s.address(), s.crowd.client(0)?.pid()),
    )
    .goodbye("The client's goodbye.")
    .expect("programs that serve", 0, Super::children)
    .explain(
        "The program is the same in both cases, byte by byte: `tcpechod --model exec` executes \
         itself with --inetd, and a super-server does so, too.\n\n\
         The book (13.5): inetd does what every daemon would have to do, and waits for all of \
         them with one select. It costs a fork and an exec for each client. This kernel: the \
         same. Today systemd does it (Accept=yes), and mostly it is done for what is rarely \
         needed.\n\n\
         Verdict: after exec nothing is left but descriptors. 0 is the client, getpeername(0) \
         says who that is, and nothing may be said on 2.",
    )
    .try_it(
        "1$ tcpechod --model exec\n\
         2$ tcpecho 127.0.0.1\n\
         2> hello\n\
         3$ ps -f --ppid $(pgrep -o tcpechod)\n\
         3$ ls -l /proc/$(pgrep -n tcpechod)/fd\n\
         1> ^C\n\
         1$ tcpecho-lab actor inetd 127.0.0.1:9877 cat\n\
         2$ tcpecho 127.0.0.1\n\
         2> hello\n\
         3$ ls -l /proc/$(pgrep -n cat)/fd\n\
         2> ^D\n\
         1> ^C\n\
         1$ tcpecho-lab actor inetd 127.0.0.1:9877 tcpechod --inetd",
    )
    .read(
        "Read: UNP 4.7, 4.10, 13.5; dup2(2), execve(2) on close-on-exec, \
         getpeername(2), inetd(8), systemd.socket(5).",
    )
}

/// What the first child has done to become another program, and to learn whom it serves.
fn becoming(crowd: &Crowd) -> Result<Vec<CallRecord>> {
    let child = crowd.child(0)?.pid;
    let mut calls = crowd.server()?.calls();
    calls.retain(|call| {
        let matters = matches!(&*call.call, "dup2" | "execve" | "getpeername");
        matters && call.pid == child
    });
    Ok(calls)
}

/// The server's end of the one connection to it.
fn connection(server: SocketAddr) -> Result<Socket> {
    let connected = |s: &Socket| s.local == server && s.remote.port() > 0 && s.inode > 0;
    let socket = sockets::tcp()?.into_iter().find(connected);
    socket.context("nobody has a connection")
}

/// The descriptors of a process that are this socket.
fn copies(pid: i32, inode: u64) -> Vec<String> {
    let name = format!("socket:[{inode}]");
    let descriptors = processes::descriptors(pid).unwrap_or_default().into_iter();
    let same = descriptors.filter(|(_, target)| *target == name);
    same.map(|(fd, _)| fd.to_string()).collect()
}

/// The descriptors of a process that are the connection, in words: `0 1`.
fn connection_of(pid: i32, server: SocketAddr) -> Result<String> {
    Ok(copies(pid, connection(server)?.inode).join(" "))
}

/// Who has the other end of this process's descriptor 0?
fn other_end(pid: i32, server: SocketAddr, client: i32) -> Result<&'static str> {
    let near = connection(server)?;
    let is_it = copies(pid, near.inode).iter().any(|fd| fd == "0");
    ensure!(is_it, "descriptor 0 is not the connection");
    let far = sockets::find(near.remote, near.local).context("it has no other end")?;
    Ok(if copies(client, far.inode).is_empty() {
        "somebody else"
    } else {
        "the client"
    })
}

/// What ls would show of a process's descriptors.
fn open_files(pid: i32) -> Result<String> {
    let descriptors = processes::descriptors(pid)?.into_iter();
    let lines = descriptors.map(|(fd, to)| format!("{fd} -> {to}"));
    Ok(lines.collect::<Vec<_>>().join(
        "
",
    ))
}

/// A super-server, and one client of it.
pub struct Super {
    crowd: Crowd,
    port: u16,
    /// What it is called, and the command that starts it.
    choice: (String, String),
    server: Option<Launched>,
}

impl Super {
    fn open(place: &Isolation) -> Result<Self> {
        let port = match place {
            Isolation::Namespaces => defaults::PORT,
            Isolation::Plain(_) => free_port()?,
        };
        Ok(Self {
            crowd: Crowd::open(place)?.on_port(port),
            port,
            choice: Default::default(),
            server: None,
        })
    }

    /// Decides which super-server it will be.
    fn choose(self, command: Option<&'static str>) -> Self {
        let mut installed = SUPERSERVERS.iter().filter(|(name, _)| is_installed(name));
        let (name, command) = match (command, installed.next()) {
            (Some(command), _) => ("one that somebody has chosen", command),
            (None, Some((name, command))) => (*name, *command),
            (None, None) => ("our own", OURS),
        };
        let port = self.port.to_string();
        let choice = (name.to_owned(), command.replace("{port}", &port));
        Self { choice, ..self }
    }

    /// Starts it by a shell that finds our programs, and waits until somebody listens.
    fn start(&mut self, command: &str) -> Result<()> {
        let command = fill(command, &self.names())?;
        let server = Server::plain("sh", ["-c".into(), format!("exec {command}")]);
        let server = server.env("PATH", path()?).launch()?;
        let (diag, address) = (SockDiag::open()?, self.address());
        eventually("a listening socket", PROMPTLY, || {
            diag.queued(address).ok()?.map(drop)
        })
        .with_context(|| server.to_string())?;
        self.server = Some(server);
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn server(&self) -> Result<&Launched> {
        self.server.as_ref().context("it has not been started")
    }

    /// The process that serves the client.
    fn child(&self) -> Result<Process> {
        let mut children = processes::children(self.server()?.pid()).into_iter();
        children.next().context("nobody serves")
    }

    fn children(&self) -> Result<usize> {
        Ok(processes::children(self.server()?.pid()).len())
    }

    fn program(&self) -> Result<String> {
        Ok(self.child()?.comm)
    }

    fn connection(&self) -> Result<String> {
        let child = self.child()?.pid;
        // It may still be about to become what it is to be.
        ensure!(is_at_rest(child), "it does not come to rest");
        connection_of(child, self.address())
    }

    fn echoed(&self) -> Result<String> {
        let echoed = self.crowd.echoed(0)?;
        Ok(if echoed.is_empty() {
            "nothing".into()
        } else {
            echoed
        })
    }
}

/// A port that nobody has, below those that the kernel gives away: no super-server can be told to
/// take any.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 500) as u16 * 40;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    // Another one at every call: who has been given it may not have taken it yet.
    let mut ports = (0..100).map(|_| 10_000 + (first + NEXT.fetch_add(1, Relaxed)) % 20_000);
    ports.find(is_free).context("a hundred ports are taken")
}

/// Our programs, then what is in PATH, then where daemons live, which not everybody has in it.
fn path() -> Result<OsString> {
    let ours = ["tcpechod", "tcpecho-lab"].map(|name| -> Result<_> {
        let path = binaries::path(name)?;
        Ok(path
            .parent()
            .context("a program in no directory")?
            .to_owned())
    });
    let mut places = ours.into_iter().collect::<Result<Vec<_>>>()?;
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    Ok(env::join_paths(places)?)
}

fn is_installed(name: &str) -> bool {
    let places = path().unwrap_or_default();
    env::split_paths(&places).any(|place| place.join(name).is_file())
}

impl Act<Super> {
    /// The super-server is started by this command.
    fn superserver(self, what: &'static str, command: &'static str) -> Self {
        self.act(what, shell(command), move |s| s.start(command))
    }

    /// A client is started by this command.
    fn client(self, what: &'static str, command: &'static str) -> Self {
        self.act(what, shell(command), move |s| s.crowd.start_client(command))
    }

    /// Its user types a line.
    fn line(self, what: &'static str, line: &'static str) -> Self {
        self.act(what, keys(line), move |s| s.crowd.type_line(0, line))
    }

    /// Its user types ^D.
    fn goodbye(self, what: &'static str) -> Self {
        self.act(what, keys("^D"), |s| s.crowd.end_input(0))
    }
}

impl Stage for Super {
    fn names(&self) -> Names {
        let mut names = self.crowd.names();
        let (choice, command) = self.choice.clone();
        names.extend([("choice", choice), ("command", command)]);
        if let Some(server) = &self.server {
            names.push(("server", server.pid().to_string()));
            let child = self
                .child()
                .map_or_else(|_| "?".into(), |c| c.pid.to_string());
            names.push(("child", child));
        }
        names
    }
}
