//! The stage for one server and several clients: who there is, in which state, holding what, and
//! what becomes of them when signals come.
//!
//! Programs are started by the command line that the class sees, so that what is shown is what
//! runs: `tcpechod ... {port}` and `tcpecho ... 127.0.0.1 {port}`. Clients that need no keyboard
//! may be bare sockets instead ([`Crowd::connect`]). All facts come from /proc, from sock_diag, and
//! from the programs' own records of system calls. The port is the course's 9877 in a network
//! namespace of one's own, one of the kernel's choice elsewhere.

mod timeline;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_common::defaults;

use crate::client::{Client, ClientProcess};
use crate::labs::states::now;
use crate::narrate::ladder::Side;
use crate::narrate::{Act, Names, Stage, Typed, View, keys, shell};
use crate::netns::Isolation;
use crate::observe::calls::{CallRecord, Phase};
use crate::observe::packets::Capture;
use crate::observe::processes::{self, Process};
use crate::observe::rest::is_at_rest;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::{self, State};
use crate::peer::{self, Peer};
use crate::server::{Server, ServerProcess};
use crate::wait::eventually;

/// `ps` of the server and its children; it needs no list of them, so it can be typed at any time.
pub const PS: &str = "ps -o pid,ppid,stat,wchan:20,args -p {server} --ppid {server}";

/// `ss` of the server's port.
pub const SS: &str = "ss -tan | grep -E 'State|:{port} '";

/// How long a program may take to do what it does at once.
const PROMPTLY: Duration = Duration::from_secs(10);

/// A server and its clients; see the module's head.
pub struct Crowd {
    port: u16,
    /// Do the programs record their system calls?
    recorded: bool,
    server: Option<ServerProcess>,
    clients: Vec<Guest>,
    peers: Vec<Peer>,
    /// The server's children when it was last sent a signal: afterwards it may not have them.
    family: Vec<i32>,
    /// When something was last made to happen.
    acted: u64,
    /// What was made to happen, and when.
    marks: Vec<(u64, Side, String)>,
    /// Children that were sent SIGKILL, and when.
    killed: Vec<(i32, u64)>,
    capture: Result<Capture, String>,
    /// Frames that the capture had to drop: if any, it proves nothing.
    missed: Cell<u64>,
}

/// A client, and its end of its (first) connection.
struct Guest {
    process: ClientProcess,
    address: SocketAddr,
    fd: i32,
}

impl Crowd {
    /// An empty stage whose programs record their system calls.
    pub fn open(place: &Isolation) -> Result<Self> {
        let (port, capture) = match place {
            Isolation::Namespaces => (defaults::PORT, Ok(Capture::start()?)),
            Isolation::Plain(_) => (0, Err("packets are seen only in namespaces".into())),
        };
        Ok(Self {
            port,
            recorded: true,
            server: None,
            clients: Vec::new(),
            peers: Vec::new(),
            family: Vec::new(),
            acted: now(),
            marks: Vec::new(),
            killed: Vec::new(),
            capture,
            missed: Cell::new(0),
        })
    }

    /// The same without records: for programs that make more calls than anybody wants to keep.
    pub fn open_unrecorded(place: &Isolation) -> Result<Self> {
        let recorded = false;
        Ok(Self {
            recorded,
            ..Self::open(place)?
        })
    }

    /// The same on this port, where somebody else serves.
    #[must_use]
    pub fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    // -- Making things happen -------------------------------------------------------------------

    /// Starts `tcpechod [FLAGS] {port}`.
    pub fn start_server(&mut self, command: &str) -> Result<()> {
        let words = words(command, "tcpechod", &["{port}"])?;
        self.serve(Server::with_args(words))
    }

    /// Starts a server that needs more than a command line: inherited signals, limits.
    pub fn serve(&mut self, server: Server) -> Result<()> {
        let server = server.port(self.port);
        let server = if self.recorded {
            server.events()
        } else {
            server
        };
        let server = server.start()?;
        self.port = server.address().port();
        self.server = Some(server);
        self.acted = now();
        Ok(())
    }

    /// Starts `tcpecho [FLAGS] 127.0.0.1 {port}` on a terminal, and waits until it has a connection,
    /// be it one that is not answered yet, and nothing to do but to wait. That it is served is
    /// another question.
    pub fn start_client(&mut self, command: &str) -> Result<()> {
        self.enter(self.client_by(command)?.on_pty(), b"")
    }

    /// The same for `... | tcpecho`: a client on pipes, that finds these bytes in its stdin.
    pub fn pipe_into_client(&mut self, command: &str, bytes: &[u8]) -> Result<()> {
        self.enter(self.client_by(command)?, bytes)
    }

    /// The same for `tcpecho ... < FILE`.
    pub fn feed_client(&mut self, command: &str) -> Result<()> {
        let (_, path) = command.rsplit_once("< ").context("not `... < FILE`")?;
        let file = File::open(path).with_context(|| format!("open {path}"))?;
        self.enter(self.client_by(command)?.stdin(file), b"")
    }

    /// Starts a client that finds these bytes in its stdin.
    fn enter(&mut self, client: Client, bytes: &[u8]) -> Result<()> {
        let address = self.address();
        self.acted = now();
        let client = client.start()?;
        if !bytes.is_empty() {
            client.write(bytes)?;
        }
        let (fd, address) = eventually("a client that is connected", PROMPTLY, || {
            let first = ends_of(client.pid(), address).ok()?.into_iter().next();
            first.filter(|_| is_at_rest(client.pid()))
        })
        .with_context(|| client.transcript())?;
        self.clients.push(Guest {
            process: client,
            address,
            fd,
        });
        Ok(())
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// How to start `[...| ]tcpecho [FLAGS] 127.0.0.1 {port}[ < FILE]`.
    fn client_by(&self, command: &str) -> Result<Client> {
        let command = command.rsplit("| ").next().unwrap_or_default();
        let command = command.split(" <").next().unwrap_or_default();
        let words = words(command, "tcpecho", &["127.0.0.1", "{port}"])?;
        let client = words
            .into_iter()
            .fold(Client::to(self.address()), Client::arg);
        Ok(if self.recorded {
            client.events()
        } else {
            client
        })
    }

    /// Connects as many bare sockets, and waits until each has been answered once.
    pub fn connect(&mut self, count: usize) -> Result<()> {
        self.acted = now();
        let mut peers = peer::connect_many(self.server()?.address(), count)?;
        peers
            .iter_mut()
            .try_for_each(|peer| peer.echo(b"hello\n"))?;
        self.peers.append(&mut peers);
        Ok(())
    }

    /// Types a line at the `nth` client's keyboard.
    pub fn type_line(&mut self, nth: usize, line: &str) -> Result<()> {
        self.mark(Side::Client, format!("typed: {line}"));
        self.client(nth)?.type_line(line)
    }

    /// Types ^D: the `nth` client says goodbye and ends.
    pub fn end_input(&mut self, nth: usize) -> Result<()> {
        self.mark(Side::Client, "typed: ^D");
        self.client(nth)?.close_stdin()
    }

    /// Closes all bare sockets, one after the other.
    pub fn disconnect(&mut self) {
        self.acted = now();
        self.peers.clear();
    }

    /// Sends the server's parent process a signal.
    pub fn signal_server(&mut self, signal: Signal) -> Result<()> {
        self.family = self.child_pids()?;
        self.mark(Side::Server, format!("{signal} to the parent"));
        self.server()?.signal(signal)
    }

    /// Stops the server where it waits: it is there, and does nothing until it is sent SIGCONT.
    pub fn stop_server(&mut self) -> Result<()> {
        // Its calls of before must not be told as those of afterwards.
        eventually("a server that waits", PROMPTLY, || self.rest().ok())?;
        self.mark(Side::Server, "stopped");
        self.server()?.freeze()
    }

    /// Sends the server's `nth` child a signal; a zombie takes any.
    pub fn signal_child(&mut self, nth: usize, signal: Signal) -> Result<()> {
        let child = self.child(nth)?.pid;
        self.mark(Side::Server, format!("{signal} to the child"));
        if signal == Signal::SIGKILL {
            self.killed.push((child, self.acted));
        }
        // An unreaped child's pid is nobody else's.
        kill(Pid::from_raw(child), signal).with_context(|| format!("{signal} to child {child}"))
    }

    /// Sends one thread of the server a signal, the `nth` that it has made; tgkill(2).
    #[expect(unsafe_code)]
    pub fn signal_thread(&mut self, nth: usize, signal: Signal) -> Result<()> {
        let server = self.server()?.pid();
        let threads = processes::threads(server).context("the server is gone")?;
        let made = threads.get(nth + 1);
        let thread = *made.context("the server has no such thread")?;
        self.mark(Side::Server, format!("{signal} to a thread"));
        // SAFETY: it takes three numbers. The server has not been reaped, so the first is nobody
        // else's; and a thread of another process is not found with it.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, server, thread, signal as i32) };
        Errno::result(sent).with_context(|| format!("{signal} to thread {thread}"))?;
        Ok(())
    }

    /// Sends the `nth` client a signal.
    pub fn signal_client(&mut self, nth: usize, signal: Signal) -> Result<()> {
        self.mark(Side::Client, signal.to_string());
        self.client(nth)?.signal(signal)
    }

    // -- Who there is ---------------------------------------------------------------------------

    /// The server's children, zombies included, oldest first.
    pub fn children(&self) -> Result<Vec<Process>> {
        Ok(processes::children(self.server()?.pid()))
    }

    /// How many children the server has, zombies included, once nothing moves any more.
    pub fn children_at_rest(&self) -> Result<usize> {
        self.rest()?;
        Ok(self.children()?.len())
    }

    /// How many zombies the server has, once nothing moves any more.
    pub fn zombies_at_rest(&self) -> Result<usize> {
        self.rest()?;
        let children = self.children()?;
        Ok(children.iter().filter(|child| child.state == 'Z').count())
    }

    /// The states of the server and its children: `parent S, children S Z`.
    pub fn census(&self) -> Result<String> {
        let server = self.server()?;
        let parent = match server.status() {
            Some(_) => "gone".into(),
            None => processes::look(server.pid()).map_or("gone".into(), |p| p.state.to_string()),
        };
        let states: Vec<_> = self
            .children()?
            .iter()
            .map(|child| child.state.to_string())
            .collect();
        Ok(match states.as_slice() {
            [] => format!("parent {parent}"),
            [child] => format!("parent {parent}, child {child}"),
            states => format!("parent {parent}, children {}", states.join(" ")),
        })
    }

    /// Of the children that the server had when it was last sent a signal: how many are still in
    /// the process table, and whose they are now.
    pub fn family_now(&self) -> Result<String> {
        if self.family.is_empty() {
            bail!("the server had no children");
        }
        let left: Vec<_> = self
            .family
            .iter()
            .filter_map(|pid| processes::look(*pid))
            .collect();
        let server = self.server()?.pid();
        if left.iter().any(|child| child.ppid == server) {
            return Ok(format!("{} with the same parent", left.len()));
        }
        Ok(
            match left.iter().filter(|child| child.state == 'Z').count() {
                0 if left.is_empty() => "gone".into(),
                0 => "alive, with another parent".into(),
                _ => "zombies of another parent".into(),
            },
        )
    }

    /// What ps shows of the server and its children.
    pub fn ps(&self) -> Result<String> {
        Ok(processes::ps_view(&processes::tree(self.server()?.pid())))
    }

    /// Everybody's state, and how often they have run: if it is the same later, nobody has moved in
    /// between. An error as long as somebody runs.
    pub fn moment(&self) -> Result<String> {
        let server = processes::tree(self.server()?.pid()).into_iter();
        let clients = self.clients.iter();
        let clients = clients.filter_map(|guest| processes::look(guest.process.pid()));
        let mut moment = String::new();
        for process in server.chain(clients) {
            let Process { pid, state, .. } = process;
            if matches!(state, 'R' | 'D') {
                bail!("process {pid} is awake (state {state})");
            }
            // Writing to a String cannot fail.
            let _ = write!(moment, "{pid} {state} {:?}, ", processes::switches(pid));
        }
        Ok(moment)
    }

    /// How a program of the stage has ended, or how it is: see [`fate`].
    pub fn fate_of_server(&self) -> Result<String> {
        let server = self.server()?;
        fate(server.pid(), server.status())
    }

    /// The same for the `nth` client.
    pub fn fate_of_client(&self, nth: usize) -> Result<String> {
        let client = self.client(nth)?;
        fate(client.pid(), client.status())
    }

    /// Lets the server's parent process work until it has used so much processor time; not if it has
    /// nothing to do.
    pub fn burn(&self, much: Duration) -> Result<Burnt> {
        let pid = self.server()?.pid();
        let used = || processes::cpu_time(pid).context("the server has ended");
        let slept = || processes::voluntary_switches(pid).context("the server has ended");
        let (began, before, slept_before) = (Instant::now(), used()?, slept()?);
        eventually("processor time", Duration::from_secs(20), || {
            let enough = used().is_ok_and(|now| now.saturating_sub(before) >= much);
            (enough || is_at_rest(pid)).then_some(())
        })?;
        Ok(Burnt {
            elapsed: began.elapsed(),
            used: used()?.saturating_sub(before),
            slept: slept()? - slept_before,
        })
    }

    // -- Who holds and waits for what -------------------------------------------------------------

    /// Who has the server's end of the `nth` connection (clients first, then bare sockets):
    /// `parent`, `child`, `parent and child`, `nobody`.
    pub fn holders(&self, nth: usize) -> Result<String> {
        let near = self.near_end(nth)?;
        let far = sockets::find(self.server()?.address(), near);
        let inode = far.map_or(0, |socket| socket.inode);
        let mut names = Vec::new();
        for process in processes::tree(self.server()?.pid()) {
            if inode > 0 && holds(process.pid, inode) {
                let is_parent = process.pid == self.server()?.pid();
                names.push(if is_parent { "parent" } else { "child" });
            }
        }
        Ok(if names.is_empty() {
            "nobody".into()
        } else {
            names.join(" and ")
        })
    }

    /// The states of the two sockets of the `nth` connection, the server's first: `ESTAB / ESTAB`.
    pub fn states(&self, nth: usize) -> Result<String> {
        let (near, far) = (self.near_end(nth)?, self.server()?.address());
        let diag = SockDiag::open()?;
        let state = |from, to| -> Result<String> {
            let state = diag.state(from, to)?;
            Ok(state.map_or("gone".into(), |s| s.to_string()))
        };
        Ok(format!("{} / {}", state(far, near)?, state(near, far)?))
    }

    /// How many clients are connected and not yet accepted.
    pub fn queued(&self) -> Result<usize> {
        let queued = SockDiag::open()?.queued(self.server()?.address())?;
        Ok(queued.context("nobody listens")? as usize)
    }

    /// How many bytes wait at the server's end of the `nth` connection for somebody to read them.
    pub fn unread(&self, nth: usize) -> Result<usize> {
        let (near, far) = (self.near_end(nth)?, self.server()?.address());
        let unread = SockDiag::open()?.unread(far, near)?;
        Ok(unread.context("the server has no such socket")? as usize)
    }

    /// How many bytes of the `nth` client's its kernel keeps, since nobody has acknowledged them.
    pub fn unacknowledged(&self, nth: usize) -> Result<usize> {
        let (near, far) = (self.near_end(nth)?, self.server()?.address());
        let bytes = SockDiag::open()?.unacknowledged(near, far)?;
        Ok(bytes.context("the client has no such socket")? as usize)
    }

    /// How often in a row the `nth` client's kernel has sent the same again.
    pub fn sent_again(&self, nth: usize) -> Result<usize> {
        let (near, far) = (self.near_end(nth)?, self.server()?.address());
        let times = SockDiag::open()?.sent_again(near, far)?;
        Ok(times.context("the client has no such socket")?.into())
    }

    /// How long the listener's queue may become.
    pub fn backlog(&self) -> Result<usize> {
        let backlog = SockDiag::open()?.backlog(self.server()?.address())?;
        Ok(backlog.context("nobody listens")? as usize)
    }

    /// How many segments the listener has dropped.
    pub fn dropped(&self) -> Result<usize> {
        let dropped = SockDiag::open()?.dropped(self.server()?.address())?;
        Ok(dropped.context("nobody listens")? as usize)
    }

    /// The state of the `nth` client's own socket.
    pub fn state_at_client(&self, nth: usize) -> Result<State> {
        let pid = self.client(nth)?.pid();
        let sockets = sockets::connected_to(self.server()?.address())?;
        let own = sockets.iter().find(|s| holds(pid, s.inode));
        own.map(|socket| socket.state).context("it has no socket")
    }

    /// How many of the server's sockets are in this state, whoever has them.
    pub fn in_state(&self, state: State) -> Result<usize> {
        let sockets = sockets::tcp()?.into_iter();
        let own = sockets.filter(|s| s.local.port() == self.port && s.state == state);
        Ok(own.count())
    }

    /// What ss shows of the server's port.
    pub fn ss(&self) -> Result<String> {
        let mut sockets = sockets::with_port(&sockets::tcp()?, self.port);
        let diag = SockDiag::open()?;
        for socket in sockets.iter_mut().filter(|s| s.state == State::Listen) {
            // The table of /proc does not say how long the queue may become, ss does.
            let backlog = diag.backlog(socket.local)?;
            socket.send_q = backlog.map_or(socket.send_q, u64::from);
        }
        Ok(sockets::ss_view(&sockets))
    }

    /// What came back to the `nth` client, when it has nothing to do any more.
    pub fn echoed_at_rest(&self, nth: usize) -> Result<String> {
        self.rest()?;
        if !is_at_rest(self.client(nth)?.pid()) {
            bail!("client {nth} does not come to rest");
        }
        self.echoed(nth)
    }

    /// The call in which the server's parent process sleeps: `read ...`.
    pub fn server_sleeps_in(&self) -> Result<String> {
        self.rest()?;
        let server = self.server()?;
        let mut calls = server.calls();
        calls.retain(|call| call.pid == server.pid());
        Ok(in_words(&calls[calls.len().saturating_sub(1)..]))
    }

    /// What came back on the `nth` client's terminal, lines joined by spaces.
    pub fn echoed(&self, nth: usize) -> Result<String> {
        let bytes = self.client(nth)?.stdout();
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end().replace('\n', " "))
    }

    // -- What the programs did --------------------------------------------------------------------

    /// The calls that the server's parent process has made since something was last made to happen.
    pub fn calls_of_parent(&self) -> Result<Vec<CallRecord>> {
        let server = self.server()?;
        let mut calls = server.calls();
        calls.retain(|call| call.pid == server.pid() && call.at >= self.acted);
        Ok(calls)
    }

    /// The calls of all the server's processes since then.
    pub fn calls_of_server(&self) -> Result<Vec<CallRecord>> {
        let mut calls = self.server()?.calls();
        calls.retain(|call| call.at >= self.acted);
        Ok(calls)
    }

    /// The calls of the `nth` client since then.
    pub fn calls_of_client(&self, nth: usize) -> Result<Vec<CallRecord>> {
        let mut calls = self.client(nth)?.calls();
        calls.retain(|call| call.at >= self.acted);
        Ok(calls)
    }

    /// The lines that the server has logged so far and that contain `word`.
    pub fn logged(&self, word: &str) -> Result<Vec<String>> {
        let text = self.server()?.stderr();
        let lines = text.lines().filter(|line| line.contains(word));
        Ok(lines.map(str::to_owned).collect())
    }

    /// What the server says of itself when it gets SIGUSR1.
    pub fn status_table(&self) -> Result<View> {
        let server = self.server()?;
        let before = server.stderr().len();
        server.signal(Signal::SIGUSR1)?;
        let table = eventually("a status table", PROMPTLY, || {
            let text = server.stderr();
            let table = text.get(before..)?;
            (table.contains("bytes") && is_at_rest(server.pid())).then(|| table.to_owned())
        })?;
        Ok(View::Printed(table))
    }

    /// What the `nth` client has said on stderr.
    pub fn client_says(&self, nth: usize) -> Result<String> {
        Ok(self.client(nth)?.stderr().trim_end().to_owned())
    }

    // -- Access -----------------------------------------------------------------------------------

    /// The server.
    pub fn server(&self) -> Result<&ServerProcess> {
        let server = self.server.as_ref();
        server.context("the server has not been started")
    }

    /// The `nth` client.
    pub fn client(&self, nth: usize) -> Result<&ClientProcess> {
        Ok(&self.guest(nth)?.process)
    }

    fn guest(&self, nth: usize) -> Result<&Guest> {
        let guest = self.clients.get(nth);
        guest.with_context(|| format!("client {nth} has not been started"))
    }

    /// The bare sockets.
    pub fn peers(&mut self) -> &mut Vec<Peer> {
        &mut self.peers
    }

    /// The server's `nth` child.
    pub fn child(&self, nth: usize) -> Result<Process> {
        let child = self.children()?.into_iter().nth(nth);
        child.with_context(|| format!("the server has no child {nth}"))
    }

    /// An error as long as the server or one of its children has something to do.
    pub fn rest(&self) -> Result<()> {
        if is_at_rest(self.server()?.pid()) {
            return Ok(());
        }
        bail!("the server does not come to rest")
    }

    fn child_pids(&self) -> Result<Vec<i32>> {
        Ok(self.children()?.iter().map(|child| child.pid).collect())
    }

    /// The client's end of the `nth` connection.
    fn near_end(&self, nth: usize) -> Result<SocketAddr> {
        if let Some(peer) = nth
            .checked_sub(self.clients.len())
            .and_then(|n| self.peers.get(n))
        {
            return Ok(peer.local());
        }
        Ok(self.guest(nth)?.address)
    }
}

/// What a process has done with its time.
#[derive(Clone, Copy, Debug)]
pub struct Burnt {
    /// How long it was watched.
    pub elapsed: Duration,
    /// The processor time that it used.
    pub used: Duration,
    /// How often it has gone to sleep.
    pub slept: u64,
}

impl Burnt {
    /// Its share of one processor, in percent.
    pub fn percent(&self) -> f64 {
        100.0 * self.used.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// How a process has ended (`exit status 3`, `killed by SIGPIPE`), or how it is: `asleep`,
/// `stopped`, `running`, `a zombie`.
pub fn fate(pid: i32, status: Option<ExitStatus>) -> Result<String> {
    use std::os::unix::process::ExitStatusExt as _;
    if let Some(status) = status {
        return Ok(match status.signal().map(Signal::try_from) {
            Some(Ok(signal)) => format!("killed by {signal}"),
            _ => status.to_string().replace("exit status: ", "exit status "),
        });
    }
    let process = processes::look(pid).context("it has just vanished")?;
    Ok(match process.state {
        'S' => "asleep".into(),
        'T' => "stopped".into(),
        'R' => "running".into(),
        'Z' => "a zombie".into(),
        other => format!("in state {other}"),
    })
}

/// The calls in words, one after the other, without their descriptors: `accept = -1 EINTR, waitpid
/// = 4711`. Those that wait end in `...`.
pub fn in_words(calls: &[CallRecord]) -> String {
    let word = |call: &CallRecord| match (call.phase, &call.errno) {
        (Phase::Enter, _) => format!("{} ...", call.call),
        (Phase::Return, Some(errno)) => format!("{} = -1 {errno}", call.call),
        (Phase::Return, None) => format!("{} = {}", call.call, call.result),
    };
    calls.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Leaves out where a call began, if it has returned: what is left in `...` never did.
pub fn outcomes(calls: Vec<CallRecord>) -> Vec<CallRecord> {
    let mut kept: Vec<CallRecord> = Vec::new();
    for call in calls {
        let began = |last: &CallRecord| last.phase == Phase::Enter && last.tid == call.tid;
        if kept.last().is_some_and(began) {
            kept.pop();
        }
        kept.push(call);
    }
    kept
}

/// A distribution as a class reads it: for each value how many times, as a bar and a number.
pub fn distribution(what: &str, times: &str, values: &[usize]) -> String {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let most = values.iter().copied().max().unwrap_or(0);
    for value in (0..=most).chain(values.iter().copied()) {
        *counts.entry(value).or_default() += 1;
    }
    let mut text = format!("{what:>9}  {times}\n");
    for (value, count) in counts {
        // Each was put in once more than it was seen, so that none is missing in between.
        let count = count - 1;
        let bar = "#".repeat(count);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{value:>9}  {bar}{}{count}",
            if count > 0 { " " } else { "" }
        );
    }
    text
}

/// What signals a process has caught, ignored, blocked, or waiting: a line of /proc/PID/status
/// (`SigCgt`, `SigIgn`, `SigBlk`, `ShdPnd`, `SigPnd`), as a set of numbers: bit 0 is signal 1.
pub fn signal_set(pid: i32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has vanished"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let digits = line.with_context(|| format!("the kernel says nothing of {name}"))?;
    Ok(u64::from_str_radix(digits.trim(), 16)?)
}

/// Is this signal in the set?
pub fn contains(set: u64, signal: Signal) -> bool {
    set & (1 << (signal as u32 - 1)) != 0
}

/// The names of the signals in the set: `SIGINT, SIGTERM`; `none`.
pub fn signals_in(set: u64) -> String {
    let names = Signal::iterator().filter(|signal| contains(set, *signal));
    let names: Vec<_> = names.map(Signal::as_str).collect();
    match names.as_slice() {
        [] => "none".into(),
        names => names.join(", "),
    }
}

/// The descriptors of a process that are connected to `remote`, with their local addresses.
fn ends_of(pid: i32, remote: SocketAddr) -> Result<Vec<(i32, SocketAddr)>> {
    let sockets = sockets::connected_to(remote)?;
    let ends = processes::descriptors(pid)?
        .into_iter()
        .filter_map(|(fd, to)| {
            let inode = to.strip_prefix("socket:[")?.strip_suffix(']')?;
            let inode: u64 = inode.parse().ok()?;
            let socket = sockets.iter().find(|socket| socket.inode == inode)?;
            Some((fd, socket.local))
        });
    Ok(ends.collect())
}

fn holds(pid: i32, inode: u64) -> bool {
    let name = format!("socket:[{inode}]");
    let descriptors = processes::descriptors(pid).unwrap_or_default();
    descriptors.iter().any(|(_, target)| *target == name)
}

/// The flags of a command line that begins with `program` and ends with `tail`.
fn words<'a>(command: &'a str, program: &'a str, tail: &[&'a str]) -> Result<Vec<&'a str>> {
    let words: Vec<_> = command.split_whitespace().collect();
    let flags = words.strip_prefix(&[program]);
    let flags = flags.and_then(|words| words.strip_suffix(tail));
    let flags = flags.with_context(|| format!("not `{program} ... {}`", tail.join(" ")))?;
    Ok(flags.to_vec())
}

impl Act<Crowd> {
    /// A server is started by this command.
    #[must_use]
    pub fn server(self, what: &'static str, command: &'static str) -> Self {
        self.act(what, shell(command), move |c| c.start_server(command))
    }

    /// A client is started by this command.
    #[must_use]
    pub fn client(self, what: &'static str, command: &'static str) -> Self {
        self.act(what, shell(command), move |c| c.start_client(command))
    }

    /// A client is started by this command, which pipes these bytes into it.
    #[must_use]
    pub fn piped_client(
        self,
        what: &'static str,
        command: &'static str,
        bytes: &'static [u8],
    ) -> Self {
        self.act(what, shell(command), move |c| {
            c.pipe_into_client(command, bytes)
        })
    }

    /// Somebody types a line at the keyboard of client `nth`.
    #[must_use]
    pub fn line(self, what: &'static str, nth: usize, line: &'static str) -> Self {
        self.act(what, keys(line), move |c| c.type_line(nth, line))
    }

    /// Somebody types ^D at the keyboard of client `nth`.
    #[must_use]
    pub fn goodbye(self, what: &'static str, nth: usize) -> Self {
        self.act(what, keys("^D"), move |c| c.end_input(nth))
    }

    /// The server's parent process is sent a signal.
    #[must_use]
    pub fn signal(self, what: &'static str, typed: Typed, signal: Signal) -> Self {
        self.act(what, typed, move |c| c.signal_server(signal))
    }

    /// What ps shows of the server and its children, when nothing moves.
    #[must_use]
    pub fn look(self, what: &'static str) -> Self {
        self.observe_still(what, PS, Crowd::ps, Crowd::moment)
    }
}

impl Stage for Crowd {
    fn names(&self) -> Names {
        let list = |pids: &[i32]| {
            let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
            pids.join(",")
        };
        let mut names = vec![("port", self.port.to_string())];
        if let Some(server) = &self.server {
            names.push(("server", server.pid().to_string()));
            let children = self.child_pids().unwrap_or_default();
            if let Some(child) = children.first() {
                names.push(("child", child.to_string()));
                names.push(("children", list(&children)));
            }
        }
        if let Some(client) = self.clients.last() {
            names.push(("client", client.process.pid().to_string()));
            let clients = self
                .clients
                .iter()
                .map(|client| client.process.pid().to_string());
            names.push(("clients", clients.collect::<Vec<_>>().join(" ")));
        }
        if !self.family.is_empty() {
            names.push(("family", list(&self.family)));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_apart_as_they_are_typed() {
        let flags = words("tcpechod --model fork {port}", "tcpechod", &["{port}"]);
        assert_eq!(flags.expect("a command"), ["--model", "fork"]);
        assert!(words("tcpecho {port}", "tcpechod", &["{port}"]).is_err());
        assert!(words("tcpechod --model fork", "tcpechod", &["{port}"]).is_err());
    }

    #[test]
    fn a_distribution_shows_also_what_never_happened() {
        let text = distribution("zombies", "runs", &[3, 1, 3]);
        let lines: Vec<_> = text.lines().map(str::trim_start).collect();
        assert_eq!(
            lines,
            ["zombies  runs", "0  0", "1  # 1", "2  0", "3  ## 2"]
        );
    }

    #[test]
    fn signals_are_found_in_the_sets_of_the_kernel() {
        // SIGPIPE is 13: bit 12.
        assert!(contains(0x1000, Signal::SIGPIPE));
        assert!(!contains(0x1000, Signal::SIGALRM));
        // The Rust runtime ignores it.
        let own = signal_set(std::process::id() as i32, "SigIgn").expect("alive");
        assert!(contains(own, Signal::SIGPIPE));
    }
}
