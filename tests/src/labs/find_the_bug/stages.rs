//! The stages of the listings that need more than a server and its clients.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrStorage, accept, bind,
    getsockname, listen, socket,
};
use nix::unistd::pipe2;

use crate::actors::faulty::{CAUGHT, LINES};
use crate::binaries;
use crate::client::{Client, ClientProcess};
use crate::labs::cast::{Cast, begin};
use crate::labs::crowd::{Crowd, contains, fate, in_words, signal_set};
use crate::narrate::{Names, Stage, View};
use crate::netns::Isolation;
use crate::observe::processes::voluntary_switches;
use crate::observe::rest::is_at_rest;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::State;
use crate::output::Output;
use crate::wait::eventually;

/// How long a program may take to do what it does at once.
const PROMPTLY: Duration = Duration::from_secs(20);

/// A server, and a client for whom it may be too late.
pub struct Late {
    pub(super) crowd: Crowd,
    second: Option<ClientProcess>,
}

impl Late {
    pub(super) fn open(place: &Isolation) -> Result<Self> {
        Ok(Self {
            crowd: Crowd::open(place)?,
            second: None,
        })
    }

    /// The second client comes, and need not be connected.
    pub(super) fn come(&mut self) -> Result<()> {
        let client = Client::to(self.crowd.server()?.address());
        self.second = Some(client.on_pty().start()?);
        Ok(())
    }

    pub(super) fn second(&self) -> Result<String> {
        let second = self.second.as_ref().context("it has not come")?;
        fate(second.pid(), second.status())
    }

    pub(super) fn listener(&self) -> Result<&'static str> {
        let queued = SockDiag::open()?.queued(self.crowd.server()?.address())?;
        Ok(queued.map_or("nobody", |_| "somebody"))
    }
}

impl Stage for Late {
    fn names(&self) -> Names {
        self.crowd.names()
    }
}

/// What became of the call in which the `nth` actor waited, once its handler has run: `EINTR`,
/// `asleep`.
pub(super) fn interrupted(cast: &Cast, nth: usize) -> Result<String> {
    let actor = cast.actor(nth)?;
    let ended = actor.status().is_some();
    let said = String::from_utf8_lossy(&actor.stdout()).into_owned();
    ensure!(said.contains("caught"), "its handler has not run");
    if ended {
        return Ok(said.lines().last().unwrap_or_default().to_owned());
    }
    ensure!(is_at_rest(actor.pid()), "it is awake");
    Ok("asleep".into())
}

/// A server, and a client that is an actor with a keyboard.
pub struct Typist {
    pub(super) crowd: Crowd,
    actor: Option<ClientProcess>,
    end: &'static str,
}

impl Typist {
    pub(super) fn open(place: &Isolation) -> Result<Self> {
        Ok(Self {
            crowd: Crowd::open(place)?,
            actor: None,
            end: "not yet",
        })
    }

    pub(super) fn start(&mut self, command: &str) -> Result<()> {
        let port = self.crowd.server()?.address().port().to_string();
        let actor = begin(&command.replace("{port}", &port))?;
        eventually("a client that is connected", PROMPTLY, || {
            (self.crowd.in_state(State::Established).ok()? > 0).then_some(())
        })
        .with_context(|| actor.transcript())?;
        self.actor = Some(actor);
        Ok(())
    }

    pub(super) fn type_line(&self, line: &str) -> Result<()> {
        self.actor()?.type_line(line)
    }

    /// What the server's reads returned, those that brought something.
    pub(super) fn received(&self) -> Result<String> {
        let mut calls = self.crowd.server()?.calls();
        calls.retain(|call| call.call == "read" && call.result > 0);
        Ok(in_words(&calls))
    }

    /// What the client has printed, a line after the other.
    pub(super) fn printed(&self) -> Result<String> {
        let bytes = self.actor()?.stdout();
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().collect::<Vec<_>>().join(", "))
    }

    /// The end of its input: watches until the client has ended, sleeps, or has sent so much that it
    /// would for ever. It is ended then, for it would take a processor until somebody does.
    pub(super) fn end_input(&mut self) -> Result<()> {
        /// As often as nobody types.
        const OFTEN: usize = 100;
        let actor = self.actor.as_ref().context("nobody is at the keyboard")?;
        let messages = || Some(self.received().ok()?.split(", ").count());
        let before = messages().context("the server has vanished")?;
        let sleep = voluntary_switches(actor.pid());
        actor.close_stdin()?;
        self.end = eventually("what becomes of the client", PROMPTLY, || {
            if messages()? >= before + OFTEN {
                return Some("again and again");
            }
            let ended = actor.status().map(|_| "it has ended");
            // It has been woken up by that, and sleeps another sleep; and not because it waits for
            // a server that has something to do.
            let woken = voluntary_switches(actor.pid()) != sleep;
            let sleeps = || woken && self.crowd.rest().is_ok() && is_at_rest(actor.pid());
            ended.or_else(|| sleeps().then_some("asleep"))
        })?;
        if actor.status().is_none() {
            actor.signal(Signal::SIGKILL)?;
        }
        Ok(())
    }

    pub(super) fn end(&self) -> &'static str {
        self.end
    }

    fn actor(&self) -> Result<&ClientProcess> {
        self.actor.as_ref().context("nobody is at the keyboard")
    }
}

impl Stage for Typist {
    fn names(&self) -> Names {
        self.crowd.names()
    }
}

/// A program that prints into a pipe, and somebody at its other end who does not read yet.
pub struct Pipeline {
    reader: Option<OwnedFd>,
    actor: Option<ClientProcess>,
    came: String,
}

impl Pipeline {
    pub(super) fn open(_: &Isolation) -> Self {
        Self {
            reader: None,
            actor: None,
            came: String::new(),
        }
    }

    /// Starts it, and waits until the pipe is full and it sleeps.
    pub(super) fn start(&mut self, command: &str) -> Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        let words = command.strip_prefix("tcpecho-lab ").context("no actor")?;
        let client = words.split_whitespace().fold(Client::lab(), Client::arg);
        let actor = client.stdout(writer).start()?;
        eventually("a pipe that is full", PROMPTLY, || {
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let holds_something = poll(&mut fds, PollTimeout::ZERO).ok()? > 0;
            (holds_something && is_at_rest(actor.pid())).then_some(())
        })
        .with_context(|| actor.transcript())?;
        self.reader = Some(reader);
        self.actor = Some(actor);
        Ok(())
    }

    pub(super) fn signal(&self) -> Result<()> {
        self.actor()?.signal(Signal::SIGUSR1)
    }

    /// Where it sleeps: the kernel blocks a signal while its handler runs.
    pub(super) fn sleeps_in(&self) -> Result<&'static str> {
        let pid = self.actor()?.pid();
        let blocked = signal_set(pid, "SigBlk")?;
        ensure!(is_at_rest(pid), "it is awake");
        Ok(if contains(blocked, Signal::SIGUSR1) {
            "in its handler"
        } else {
            "in main"
        })
    }

    pub(super) fn blocked(&self) -> Result<String> {
        let blocked = signal_set(self.actor()?.pid(), "SigBlk")?;
        Ok(format!("SigBlk: {blocked:016x}\n"))
    }

    /// Reads to the end.
    pub(super) fn read(&mut self) -> Result<()> {
        let reader = self.reader.take().context("there is no pipe")?;
        let output = Output::collect(reader)?;
        self.actor()?.wait(PROMPTLY)?;
        output.wait_end(PROMPTLY);
        self.came = output.text();
        Ok(())
    }

    /// How often each line has come: what the handler said does not count.
    pub(super) fn arrived(&self) -> &'static str {
        let lines = self.came.replacen(CAUGHT, "", 1);
        let right = (1..=LINES).fold(String::new(), |mut text, n| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "line {n:06}");
            text
        });
        match lines.len() {
            0 => "nothing",
            _ if lines == right => "each line once",
            more if more > right.len() => "some lines twice",
            _ => "not all lines",
        }
    }

    /// The sum, and what came in which order about the place where the handler spoke.
    pub(super) fn place(&self) -> Result<View> {
        let lines: Vec<_> = self.came.lines().collect();
        let said = lines.iter().position(|line| line.contains("a child"));
        let said = said.context("the handler said nothing")?;
        let some = &lines[said.saturating_sub(3)..lines.len().min(said + 4)];
        let printed = CAUGHT.len() + LINES * "line 000000\n".len();
        let arrived = self.came.len();
        Ok(View::Printed(format!(
            "printed {printed:>8} bytes\narrived {arrived:>8} bytes\n\n...\n{}\n...",
            some.join("\n")
        )))
    }

    fn actor(&self) -> Result<&ClientProcess> {
        self.actor.as_ref().context("it has not been started")
    }
}

impl Stage for Pipeline {
    fn names(&self) -> Names {
        let actor = self.actor.iter().map(|a| ("actor", a.pid().to_string()));
        actor.collect()
    }
}

/// Bare sockets, and what the last call said.
#[derive(Default)]
pub struct Bare {
    listener: Option<OwnedFd>,
    client: Option<TcpStream>,
    port: u16,
    said: String,
}

impl Bare {
    /// socket and bind, as listed: to port 0.
    pub(super) fn bind(&mut self) -> Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        bind(listener.as_raw_fd(), &SockaddrStorage::from(anywhere))?;
        self.listener = Some(listener);
        self.port = self.name()?.port();
        Ok(())
    }

    /// Its address; the port that the kernel chose is called PORT.
    pub(super) fn own(&self) -> Result<String> {
        let name = self.name()?;
        Ok(match name.port() {
            0 => name.to_string(),
            _ => format!("{}:PORT", name.ip()),
        })
    }

    fn name(&self) -> Result<SockaddrIn> {
        Ok(getsockname(self.listener()?.as_raw_fd())?)
    }

    pub(super) fn listen(&self) -> Result<()> {
        Ok(listen(self.listener()?, Backlog::new(1)?)?)
    }

    pub(super) fn accept(&mut self) -> Result<()> {
        self.said = match accept(self.listener()?.as_raw_fd()) {
            Ok(fd) => {
                #[expect(unsafe_code)]
                // SAFETY: accept has just made it, and nobody else has it.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
                "a connection".into()
            }
            Err(errno) => format!("accept = -1 {errno:?}"),
        };
        Ok(())
    }

    /// What the last call said.
    pub(super) fn said(&self) -> String {
        self.said.clone()
    }

    /// A client connects: `connected`, or why not.
    pub(super) fn connect(&mut self) -> Result<()> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        self.said = match TcpStream::connect_timeout(&to, PROMPTLY) {
            Ok(client) => {
                self.client = Some(client);
                "connected".into()
            }
            Err(error) => {
                let number = error.raw_os_error().context("it takes too long")?;
                format!("{:?}", Errno::from_raw(number))
            }
        };
        Ok(())
    }

    /// accept as listed: if `mixed`, one pointer for the address and for its length.
    pub(super) fn accept_into(&mut self, mixed: bool) -> Result<()> {
        let mut words = [0_u32; 4];
        let mut length = size_of_val(&words) as libc::socklen_t;
        let address = words.as_mut_ptr();
        let size = if mixed { address } else { &raw mut length };
        let listener = self.listener()?.as_raw_fd();
        #[expect(unsafe_code)]
        // SAFETY: the length that the kernel finds is 0 or that of the array, so it writes no more than
        // that; a length fits into a word.
        let fd = Errno::result(unsafe { libc::accept(listener, address.cast(), size) })?;
        #[expect(unsafe_code)]
        // SAFETY: accept has just made it, and nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        let [a, b, c, d] = words[0].to_ne_bytes();
        let (family, port) = (u16::from_ne_bytes([a, b]), u16::from_be_bytes([c, d]));
        let client = self.client.as_ref().context("nobody has connected")?;
        self.said = if port == client.local_addr()?.port() {
            format!("family {family}, the client's port")
        } else {
            format!("family {family}, port {port}")
        };
        Ok(())
    }

    fn listener(&self) -> Result<&OwnedFd> {
        self.listener.as_ref().context("no socket yet")
    }
}

impl Stage for Bare {
    fn names(&self) -> Names {
        vec![("port", self.port.to_string())]
    }
}

/// Which of these names of errors the C library knows.
pub(super) fn known(names: &[&str]) -> String {
    let known: Vec<_> = (1..=200)
        .map(|n| format!("{:?}", Errno::from_raw(n)))
        .collect();
    let known = names.iter().filter(|name| known.iter().any(|k| k == *name));
    known.copied().collect::<Vec<_>>().join(", ")
}

/// A program with a stack of a size of ours.
#[derive(Default)]
pub struct Stacked {
    actor: Option<ClientProcess>,
}

impl Stacked {
    /// Starts it by a shell that says `ulimit -s KIB` before. It leaves no core.
    pub(super) fn start(&mut self, kib: u32) -> Result<()> {
        let script = format!("ulimit -c 0; ulimit -s {kib}; exec \"$0\" actor faulty locals");
        let lab = binaries::path("tcpecho-lab")?.into_os_string();
        let words = ["-c".into(), script.into(), lab];
        self.actor = Some(Client::plain("sh", words).start()?);
        Ok(())
    }

    /// How it ended, or how it is once it has said that it begins.
    pub(super) fn fate(&self) -> Result<String> {
        let actor = self.actor()?;
        let ended = actor.status();
        ensure!(
            !actor.stdout().is_empty(),
            "it has not come to the function: {}",
            actor.transcript()
        );
        ensure!(ended.is_some() || is_at_rest(actor.pid()), "it is awake");
        fate(actor.pid(), ended)
    }

    /// The line of /proc/PID/status about its stack.
    pub(super) fn stack(&self) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.actor()?.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmStk"));
        Ok(format!("{}\n", line.context("the kernel does not say")?))
    }

    /// Has its stack more than this?
    pub(super) fn has_more_than(&self, kib: u32) -> Result<&'static str> {
        let line = self.stack()?;
        let number = line.split_whitespace().nth(1);
        let number: u32 = number.context("no number")?.parse()?;
        Ok(if number > kib { "yes" } else { "no" })
    }

    fn actor(&self) -> Result<&ClientProcess> {
        self.actor.as_ref().context("it has not been started")
    }
}

impl Stage for Stacked {
    fn names(&self) -> Names {
        let actor = self.actor.iter().map(|a| ("actor", a.pid().to_string()));
        actor.collect()
    }
}
