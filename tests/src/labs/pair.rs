//! The stage of most labs: a server, one client on a terminal, and everything that can be seen of
//! the two.
//!
//! What the programs do comes from their own records of system calls, what their kernel does from
//! the packets on lo and from /proc; all of it has the same clock. The port is the course's 9877
//! in a network namespace of one's own, one of the kernel's choice elsewhere.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_common::{Model, defaults};

use crate::client::{Client, ClientProcess};
use crate::labs::states::{StateLog, now};
use crate::narrate::ladder::{self, Ladder, Side};
use crate::narrate::{Fact, Names, Stage, Unseen, View};
use crate::netns::Isolation;
use crate::observe::calls::{CallRecord, Phase};
use crate::observe::packets::{Capture, Packet};
use crate::observe::processes::{self, Process};
use crate::observe::rest::is_at_rest;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::{self, Socket, State};
use crate::peer::Peer;
use crate::server::{Program, Server, ServerProcess, wait_for_state};
use crate::wait::eventually;

/// How long a program may take to do what it does at once.
pub(super) const PROMPTLY: Duration = Duration::from_secs(10);

/// An acknowledgement that took this long was held back by the kernel on purpose.
const DELAYED: Duration = Duration::from_millis(20);

/// A server, its child, a client; see the module's head.
pub struct Pair {
    began: u64,
    port: u16,
    server: Option<ServerProcess>,
    /// Servers that have died, whose children may live on.
    former: Vec<ServerProcess>,
    restart: &'static str,
    client: Option<ClientProcess>,
    connection: Option<Connection>,
    marks: Vec<Mark>,
    states: Option<StateLog>,
    capture: Result<Capture, String>,
    /// Frames that the capture had to drop: if any, it proves nothing.
    missed: Cell<u64>,
}

/// Who talks to whom over which sockets.
#[derive(Clone, Copy, Debug)]
struct Connection {
    client: End,
    server: End,
}

/// One end of a connection: the process that has it, its descriptor there, its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) pid: i32,
    pub(super) fd: i32,
    pub(super) address: SocketAddr,
}

/// Something that we did, and when.
struct Mark {
    at: u64,
    side: Side,
    what: String,
}

impl Pair {
    /// An empty stage, with the capture running where captures are possible.
    pub fn open(place: &Isolation) -> Result<Self> {
        let (port, capture) = match place {
            Isolation::Namespaces => (defaults::PORT, Ok(Capture::start()?)),
            Isolation::Plain(_) => (0, Err("packets are seen only in namespaces".into())),
        };
        Ok(Self {
            began: now(),
            port,
            server: None,
            former: Vec::new(),
            restart: "not tried",
            client: None,
            connection: None,
            marks: Vec::new(),
            states: None,
            capture,
            missed: Cell::new(0),
        })
    }

    /// The same with a port that the kernel chooses when the server starts: for what leaves a port in
    /// use.
    pub fn open_on_any_port(place: &Isolation) -> Result<Self> {
        let pair = Self::open(place)?;
        Ok(Self { port: 0, ..pair })
    }

    /// Starts `tcpechod --model MODEL --bind 127.0.0.1 PORT`.
    pub fn start_server(&mut self, model: Model) -> Result<()> {
        self.start_server_with(model, &[])
    }

    /// The same with these arguments.
    pub fn start_server_with(&mut self, model: Model, args: &[&str]) -> Result<()> {
        let loopback = Ipv4Addr::LOCALHOST.to_string();
        let server = Server::model(model).arg("--bind").arg(loopback);
        let server = server.args(args.iter().copied());
        let server = server.port(self.port).events().start()?;
        self.port = server.address().port();
        self.server = Some(server);
        Ok(())
    }

    /// The same as the class sees it: `tcpechod --model fork [FLAGS] --bind 127.0.0.1 {port}`.
    pub fn start_server_as(&mut self, command: &'static str) -> Result<()> {
        let flags = command.strip_prefix("tcpechod --model fork ");
        let flags = flags.and_then(|flags| flags.strip_suffix("--bind 127.0.0.1 {port}"));
        let flags = flags.with_context(|| format!("not tcpechod on {{port}}: {command}"))?;
        let flags: Vec<_> = flags.split_whitespace().collect();
        self.start_server_with(Model::Fork, &flags)
    }

    /// Starts `tcpecho --mode MODE 127.0.0.1 PORT` on a terminal, and waits until it is served.
    pub fn start_client(&mut self, mode: &str) -> Result<()> {
        self.start_client_with(&["--mode", mode])
    }

    /// The same with these arguments.
    pub fn start_client_with(&mut self, args: &[&str]) -> Result<()> {
        let server = self.server()?;
        let client = Client::to(server.address()).events().on_pty();
        let client = args.iter().fold(client, |client, arg| client.arg(*arg));
        let client = client.start()?;
        let connection = eventually("a connection that is served", PROMPTLY, || {
            let near = end_of(client.pid(), |s| s.remote == server.address())?;
            let parent = server.pid();
            let processes = processes::tree(parent);
            let mut ends = processes
                .iter()
                .filter_map(|p| end_of(p.pid, |s| s.remote == near.address));
            let far = ends.next_back()?;
            // Where the server is still busy, it may be about to fork.
            (far.pid != parent || is_at_rest(parent)).then_some(Connection {
                client: near,
                server: far,
            })
        });
        let connection = connection.with_context(|| client.transcript())?;
        let (near, far) = (connection.client.address, connection.server.address);
        self.states = Some(StateLog::watch(near, far)?);
        self.client = Some(client);
        self.connection = Some(connection);
        Ok(())
    }

    /// The same as the class sees it: `tcpecho [FLAGS] 127.0.0.1 {port}`.
    pub fn start_client_as(&mut self, command: &'static str) -> Result<()> {
        let flags = command.strip_prefix("tcpecho ");
        let flags = flags.and_then(|flags| flags.strip_suffix("127.0.0.1 {port}"));
        let flags = flags.with_context(|| format!("not tcpecho on {{port}}: {command}"))?;
        self.start_client_with(&flags.split_whitespace().collect::<Vec<_>>())
    }

    /// Types a line at the client's keyboard.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.mark(Side::Client, format!("typed: {line}"));
        self.client()?.type_line(line)
    }

    /// Types ^D: the client's input ends.
    pub fn end_input(&mut self) -> Result<()> {
        self.mark(Side::Client, "typed: ^D".into());
        self.client()?.close_stdin()
    }

    /// Kills the process that serves the client, so that it cannot do anything about it.
    pub fn kill_child(&mut self) -> Result<()> {
        let child = self.connection()?.server.pid;
        if child == self.server()?.pid() {
            bail!("the server serves this client itself, there is no child to kill");
        }
        self.mark(Side::Server, "killed".into());
        kill(Pid::from_raw(child), Signal::SIGKILL).context("kill the child")
    }

    /// Sends the server this signal, and its children none.
    pub fn signal_server(&mut self, signal: Signal) -> Result<()> {
        self.mark(Side::Server, format!("{signal} to the parent"));
        self.server()?.signal(signal)
    }

    /// Starts the server again, on the same port; the children of the one before may still be there.
    /// Says how that went: `listening` or `EADDRINUSE`.
    pub fn restart_server(&mut self, model: Model) -> Result<()> {
        self.restart_by(|pair| pair.start_server(model))
    }

    /// The same with the command as the class sees it.
    pub fn restart_server_as(&mut self, command: &'static str) -> Result<()> {
        self.restart_by(|pair| pair.start_server_as(command))
    }

    fn restart_by(&mut self, start: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.former.extend(self.server.take());
        self.restart = match start(self) {
            Err(error) if format!("{error:#}").contains("EADDRINUSE") => "EADDRINUSE",
            result => result.map(|()| "listening")?,
        };
        Ok(())
    }

    /// How the last [`restart_server`](Self::restart_server) went.
    pub fn restarted(&self) -> Result<&'static str> {
        Ok(self.restart)
    }

    /// How the server is: `asleep`, or how it ended.
    pub fn fate_of_server(&self) -> Result<String> {
        Ok(fate(self.server()?))
    }

    /// Who is the parent of the process that serves the client: `the server` or `another`.
    pub fn parent_of_child(&self) -> Result<&'static str> {
        let child = processes::look(self.connection()?.server.pid);
        let child = child.filter(|child| child.state != 'Z');
        let is_its = child.context("it is gone")?.ppid == self.server()?.pid();
        Ok(if is_its { "the server" } else { "another" })
    }

    /// Does anybody listen on the port? `somebody` or `nobody`.
    pub fn listener(&self) -> Result<&'static str> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port);
        let queued = SockDiag::open()?.queued(address)?;
        Ok(queued.map_or("nobody", |_| "somebody"))
    }

    /// Another client: what it gets back for its hello.
    pub fn next_client(&self) -> Result<&'static str> {
        Peer::connect(self.server()?.address())?.echo(b"hello\n")?;
        Ok("hello")
    }

    /// Stops the process that serves the client: it is there, and does nothing.
    pub fn stop_child(&mut self) -> Result<()> {
        let child = self.connection()?.server.pid;
        self.mark(Side::Server, "stopped".into());
        kill(Pid::from_raw(child), Signal::SIGSTOP).context("stop the child")?;
        // Until it has stopped, it may still take what comes.
        wait_for_state(child, 'T')
    }

    /// Lets the stopped child go on.
    pub fn go_on_child(&mut self) -> Result<()> {
        let child = self.connection()?.server.pid;
        self.mark(Side::Server, "goes on".into());
        kill(Pid::from_raw(child), Signal::SIGCONT).context("let the child go on")
    }

    /// How many bytes wait at the server's socket for somebody to read them.
    pub fn unread_at_server(&self) -> Result<usize> {
        let Connection { client, server } = self.connection()?;
        let unread = SockDiag::open()?.unread(server.address, client.address)?;
        Ok(unread.context("the server has no such socket")? as usize)
    }

    /// How many bytes of the client's the server's kernel has not acknowledged.
    pub fn unacknowledged(&self) -> Result<usize> {
        let Connection { client, server } = self.connection()?;
        let bytes = SockDiag::open()?.unacknowledged(client.address, server.address)?;
        Ok(bytes.context("the client has no such socket")? as usize)
    }

    /// The lines that came back on the client's terminal.
    pub fn echoed(&self) -> Result<String> {
        let bytes = self.client()?.stdout();
        Ok(String::from_utf8_lossy(&bytes)
            .trim_end()
            .replace('\n', " "))
    }

    /// The states of the connection's two sockets, the server's first: `ESTAB / ESTAB`.
    pub fn states(&self) -> Result<String> {
        let Connection { client, server } = self.connection()?;
        let diag = SockDiag::open()?;
        let state = |from: End, to: End| -> Result<String> {
            let state = diag.state(from.address, to.address)?;
            Ok(state.map_or("gone".into(), |s| s.to_string()))
        };
        let (server, client) = (state(server, client)?, state(client, server)?);
        Ok(format!("{server} / {client}"))
    }

    /// How the client is: `asleep`, or how it ended: `exit status 3`.
    pub fn fate(&self) -> Result<String> {
        Ok(fate(self.client()?))
    }

    /// How many children the server has, zombies included.
    pub fn children(&self) -> Result<usize> {
        Ok(processes::children(self.server()?.pid()).len())
    }

    /// What the client's program reads from or writes to its end of the connection, as strace
    /// would write it without the descriptor: the first such call from `at` on that `matters`.
    pub fn call_after(&self, at: u64, matters: impl Fn(&CallRecord) -> bool) -> Result<CallRecord> {
        let fd = self.connection()?.client.fd;
        let mut calls = self.client()?.calls().into_iter();
        calls
            .find(|c| c.phase == Phase::Return && c.at >= at && c.fd == fd && matters(c))
            .context("no such call yet")
    }

    /// The same for the process that serves the client, all of them.
    pub fn calls_of_child(&self, at: u64) -> Result<Vec<CallRecord>> {
        let End { pid, fd, .. } = self.connection()?.server;
        let mut calls = self.server()?.calls();
        calls.retain(|c| c.phase == Phase::Return && c.at >= at && (c.pid, c.fd) == (pid, fd));
        Ok(calls)
    }

    /// How many bytes the client has read from its keyboard since `at`.
    pub fn read_from_keyboard(&self, at: u64) -> Result<usize> {
        let calls = self.client()?.calls();
        let from_keyboard = calls
            .iter()
            .filter(|c| c.phase == Phase::Return && c.call == "read" && c.fd == 0 && c.at >= at);
        Ok(from_keyboard.map(|c| c.result.max(0) as usize).sum())
    }

    /// The packets of the connection since `at`.
    pub fn packets_since(&self, at: u64) -> Result<Vec<Packet>> {
        let client = self.connection()?.client.address;
        let capture = self.capture.as_ref().map_err(|why| Unseen(why.clone()))?;
        let mut packets = capture.packets_so_far();
        self.missed.set(self.missed.get() + capture.take_dropped()?);
        if self.missed.get() > 0 {
            bail!("the capture missed {} frames", self.missed.get());
        }
        packets.retain(|p| p.at >= at && (p.from == client || p.to == client));
        Ok(packets)
    }

    /// The packets since `at`, in words: `server FIN,ACK - client ACK`.
    pub fn exchange_since(&self, at: u64) -> Result<String> {
        let client = self.connection()?.client.address;
        Ok(exchange(client, &self.packets_since(at)?))
    }

    /// How many bytes the client's kernel was sent behind its own FIN.
    pub fn bytes_after_fin(&self) -> Result<usize> {
        let client = self.connection()?.client.address;
        let packets = self.packets_since(0)?.into_iter();
        let after = packets.skip_while(|p| p.from != client || !p.flags.fin());
        let late = after.filter(|p| p.to == client);
        Ok(late.map(|p| p.len).sum())
    }

    /// What had been sent when accept returned: `client SYN - server SYN,ACK - client ACK`.
    pub fn sent_before_accept(&self) -> Result<String> {
        let mut packets = self.packets_since(0)?;
        let calls = self.server()?.calls();
        let accepted = |c: &&CallRecord| c.call == "accept" && c.result > 0;
        let accept = calls.iter().find(accepted).context("no accept yet")?;
        packets.retain(|p| p.at <= accept.at);
        // The client may have gone on by then.
        packets.truncate(3);
        Ok(exchange(self.connection()?.client.address, &packets))
    }

    /// The first packet since something was last done at the server's side: `server FIN,ACK`.
    pub fn first_since(&self) -> Result<String> {
        let all = self.exchange_since(self.killed_at()?)?;
        Ok(all.split(" - ").next().unwrap_or_default().to_owned())
    }

    /// Which came first after the last line was typed: `the RST`, or `the read` of the client.
    pub fn rst_or_read(&self) -> Result<&'static str> {
        let (typed, fd) = (self.typed_at()?, self.connection()?.client.fd);
        let packets = self.packets_since(typed)?;
        let rst = packets
            .iter()
            .find(|p| p.flags.rst())
            .context("no RST yet")?;
        let calls = self.client()?.calls();
        let mut reads = calls.iter().filter(|c| c.call == "read" && c.fd == fd);
        let read = reads.find(|c| c.at >= typed).context("no read yet")?;
        Ok(if rst.at < read.at {
            "the RST"
        } else {
            "the read"
        })
    }

    /// When the child was killed.
    pub fn killed_at(&self) -> Result<u64> {
        self.marked(Side::Server)
    }

    /// When the last line was typed.
    pub fn typed_at(&self) -> Result<u64> {
        self.marked(Side::Client)
    }

    /// When the server's FIN was sent; without packets, when the child was killed.
    pub fn fin_at(&self) -> Result<u64> {
        let killed = self.killed_at()?;
        let Ok(packets) = self.packets_since(killed) else {
            return Ok(killed);
        };
        let server = self.connection()?.server.address;
        let fin = packets.iter().find(|p| p.from == server && p.flags.fin());
        fin.map(|p| p.at).context("no FIN yet")
    }

    /// The first thing that the client says on stderr, and when.
    pub fn said(&self) -> Result<(u64, String)> {
        let lines = self.client()?.stderr_lines();
        lines.into_iter().next().context("it says nothing")
    }

    /// How long after the FIN the client says its first word.
    pub fn said_after_fin(&self) -> Result<Duration> {
        let since = self.said()?.0.saturating_sub(self.fin_at()?);
        Ok(Duration::from_nanos(since))
    }

    /// What the client has said on stderr, for a class to read.
    pub fn client_says(&self) -> Result<View> {
        self.said()?;
        Ok(View::Printed(self.client()?.stderr()))
    }

    /// Who sleeps in which call: `server accept, child read(connection), client read(keyboard)`.
    /// An error as long as one of them is awake.
    pub fn who_sleeps_where(&self) -> Result<String> {
        let calls = [self.server()?.calls(), self.client()?.calls()].concat();
        let names = ["server", "child", "client"];
        let mut all = Vec::new();
        for (name, pid) in names.into_iter().zip(self.pids()?) {
            let Some(process) = processes::look(pid) else {
                continue;
            };
            // A call that is under way and a process that sleeps: it sleeps in this call.
            let last = calls.iter().rev().find(|call| call.pid == pid);
            match last.filter(|call| call.phase == Phase::Enter) {
                Some(call) if process.state == 'S' => {
                    all.push(format!("{name} {}", self.in_call(call)?));
                }
                _ => bail!("the {name} is awake (state {})", process.state),
            }
        }
        Ok(all.join(", "))
    }

    /// The call, and what its descriptor is.
    fn in_call(&self, call: &CallRecord) -> Result<String> {
        let Connection { client, server } = self.connection()?;
        let what = match (call.pid == client.pid, call.fd) {
            (true, 0) => "(keyboard)",
            (true, fd) if fd == client.fd => "(connection)",
            (false, fd) if fd == server.fd && call.pid == server.pid => "(connection)",
            _ => "",
        };
        Ok(format!("{}{what}", call.call))
    }

    /// All are asleep, in these calls, and have run this often: if it is the same later, nobody
    /// has moved in between.
    pub fn moment(&self) -> Result<String> {
        let asleep = self.who_sleeps_where()?;
        let switches: Vec<_> = self.pids()?.into_iter().map(processes::switches).collect();
        Ok(format!("{asleep} {switches:?}"))
    }

    /// What ps shows of the server, its child and the client.
    pub fn ps(&self) -> Result<String> {
        let bare = |pid| {
            processes::look(pid).map(|p| Process {
                args: p.comm.clone(),
                ..p
            })
        };
        let processes: Vec<_> = self.pids()?.into_iter().filter_map(bare).collect();
        Ok(processes::ps_view(&processes))
    }

    /// What ps shows of the process that serves the client.
    pub fn ps_of_child(&self) -> Result<String> {
        let child = processes::look(self.connection()?.server.pid);
        Ok(processes::ps_view(&child.into_iter().collect::<Vec<_>>()))
    }

    /// What ss shows of the server's port.
    pub fn ss(&self) -> Result<String> {
        let sockets = sockets::with_port(&sockets::tcp()?, self.port);
        let diag = SockDiag::open()?;
        let mut sockets = sockets;
        for socket in sockets.iter_mut().filter(|s| s.state == State::Listen) {
            // The table of /proc does not say how long the queue may become, ss does.
            let backlog = diag.backlog(socket.local)?;
            socket.send_q = backlog.map_or(socket.send_q, u64::from);
        }
        Ok(sockets::ss_view(&sockets))
    }

    /// How long the client's socket is in TIME-WAIT, to the nearest 5 seconds: as long as it has
    /// been, and as long as its timer still has to run.
    pub fn time_wait(&self) -> Result<String> {
        let Connection { client, server } = self.connection()?;
        let packets = self.packets_since(0).unwrap_or_default();
        let mut changes = self.states.iter().flat_map(StateLog::changes);
        let began = changes.find(|c| c.side == Side::Client && c.state == Some(State::TimeWait));
        let began = began.context("it has not been in TIME-WAIT")?;
        let left = SockDiag::open()?.time_wait_left(client.address, server.address)?;
        let left = left.context("it is not in TIME-WAIT any more")?;
        let been = now().saturating_sub(began.at(client.address, &packets));
        let seconds = (left + Duration::from_nanos(been)).as_secs_f64();
        Ok(format!("{} s", (seconds / 5.0).round() * 5.0))
    }

    /// What ss shows of the client's socket while it is in TIME-WAIT, with its timer.
    pub fn ss_of_time_wait(&self) -> Result<String> {
        let Connection { client, server } = self.connection()?;
        let left = SockDiag::open()?.time_wait_left(client.address, server.address)?;
        let left = left.context("it is not in TIME-WAIT")?.as_secs();
        let (client, server) = (client.address, server.address);
        Ok(format!(
            "Recv-Q Send-Q Local Address:Port Peer Address:Port\n\
             0      0      {client:>18} {server:>17} timer:(timewait,{left}sec,0)\n"
        ))
    }

    /// The whole conversation so far as one drawing; what was before the last thing done at the
    /// server's side may be summed up.
    pub fn ladder(&self) -> Result<View> {
        let ladder = Ladder::new(self.killed_at().unwrap_or(self.began));
        let ladder = ladder.prologue("connection and first echo");
        let last = self.marks.iter().rfind(|mark| mark.side == Side::Server);
        let remark = last.map(|last| match &*last.what {
            "killed" => "Time 0 is the kill.".into(),
            what => format!("Time 0: {what}."),
        });
        self.draw_on(remark.into_iter().fold(ladder, Ladder::remark))
    }

    /// The same with time 0 where the child was stopped.
    pub fn ladder_since_stop(&self) -> Result<View> {
        let stopped = self.marks.iter().find(|mark| mark.what == "stopped");
        let stopped = stopped.context("the child has not been stopped")?.at;
        let ladder = Ladder::new(stopped).prologue("connection and first echo");
        self.draw_on(ladder)
    }

    /// The same from the first packet on, nothing summed up.
    pub fn life(&self) -> Result<View> {
        let packets = self.packets_since(0).unwrap_or_default();
        let origin = packets.first().map_or(self.began, |first| first.at);
        self.draw_on(Ladder::new(origin))
    }

    fn draw_on(&self, ladder: Ladder) -> Result<View> {
        let Connection { client, server } = self.connection()?;
        let packets = self.packets_since(0).unwrap_or_default();
        let (of_client, of_server) = (self.client_calls()?, self.server_calls()?);
        let mut ladder = ladder
            .packets(client.address, &packets)
            .calls(Side::Client, &of_client)
            .calls(Side::Server, &of_server)
            .descriptor(Side::Client, 0, "the keyboard")
            .descriptor(Side::Client, client.fd, "the connection")
            .descriptor(Side::Server, server.fd, "the connection");
        if let Some(call) = of_client.iter().find(|c| c.call == "epoll_wait") {
            ladder = ladder.descriptor(Side::Client, call.fd, "the epoll that watches both");
        }
        if let Some(call) = of_server.iter().find(|c| c.call == "accept") {
            ladder = ladder.descriptor(Side::Server, call.fd, "the listening socket of the parent");
        }
        if let Some(delay) = self.fin_acknowledged_after().filter(|d| *d >= DELAYED) {
            ladder = ladder.remark(format!(
                "The FIN was acknowledged {} after it came: a delayed ACK. The kernel waits about \
                 40 ms for data that could carry it along.",
                Fact::Time(delay)
            ));
        }
        for mark in &self.marks {
            ladder = ladder.note(mark.at, mark.side, &*mark.what);
        }
        for (at, line) in self.client()?.stderr_lines() {
            ladder = ladder.outcome(at, line);
        }
        for change in self.states.iter().flat_map(StateLog::changes) {
            let state = change.state.map_or("gone".into(), |s| s.to_string());
            ladder = ladder.state(change.at(client.address, &packets), change.side, state);
        }
        Ok(View::Ladder(ladder))
    }

    /// How long the client's kernel took to acknowledge the server's FIN, if it did so before it
    /// sent anything else.
    fn fin_acknowledged_after(&self) -> Option<Duration> {
        let server = self.connection().ok()?.server.address;
        let packets = self.packets_since(self.killed_at().ok()?).ok()?;
        let fin = packets
            .iter()
            .position(|p| p.from == server && p.flags.fin())?;
        let (fin, answer) = (packets.get(fin)?, packets.get(fin + 1)?);
        let plain = answer.from != server && answer.len == 0 && !answer.flags.fin();
        plain.then(|| Duration::from_nanos(answer.at - fin.at))
    }

    /// What the client does with the keyboard and the connection, and where it waits for both.
    fn client_calls(&self) -> Result<Vec<CallRecord>> {
        let fd = self.connection()?.client.fd;
        let mut calls = self.client()?.calls();
        calls.retain(|c| c.call == "epoll_wait" || moves_data(c) && (c.fd == 0 || c.fd == fd));
        Ok(without_vain_returns(without_glances(calls)))
    }

    /// What the child does with the connection, and what the parent's accept returns.
    fn server_calls(&self) -> Result<Vec<CallRecord>> {
        let End { pid, fd, .. } = self.connection()?.server;
        let mut calls = self.server()?.calls();
        calls.retain(|c| {
            let accepted = c.call == "accept" && c.phase == Phase::Return;
            accepted || c.pid == pid && c.fd == fd && moves_data(c)
        });
        Ok(calls)
    }

    fn server(&self) -> Result<&ServerProcess> {
        self.server
            .as_ref()
            .context("the server has not been started")
    }

    fn client(&self) -> Result<&ClientProcess> {
        self.client
            .as_ref()
            .context("the client has not been started")
    }

    fn connection(&self) -> Result<Connection> {
        self.connection.context("there is no connection yet")
    }

    fn pids(&self) -> Result<Vec<i32>> {
        let child = self.connection()?.server.pid;
        Ok(vec![self.server()?.pid(), child, self.client()?.pid()])
    }

    fn mark(&mut self, side: Side, what: String) {
        let at = now();
        self.marks.push(Mark { at, side, what });
    }

    fn marked(&self, side: Side) -> Result<u64> {
        let mut marks = self.marks.iter().rev();
        let mark = marks.find(|mark| mark.side == side);
        mark.map(|mark| mark.at)
            .context("that has not happened yet")
    }
}

/// A call of the client in words, without its descriptor: `read = 0`, `write = -1 EPIPE`.
pub fn in_words(call: &CallRecord) -> String {
    ladder::result(call)
        .replace(&format!("({})", call.fd), "")
        .replace(" (EOF)", "")
}

/// How a program is: `asleep`, or how it ended: `exit status 3`.
pub fn fate(program: &Program) -> String {
    match (program.status(), processes::look(program.pid())) {
        (Some(status), _) => status.to_string().replace("exit status: ", "exit status "),
        (None, Some(process)) if process.state == 'S' => "asleep".into(),
        (None, process) => format!("in state {}", process.map_or('?', |p| p.state)),
    }
}

/// The packets of a connection in words: `server FIN,ACK - client ACK`.
pub fn exchange(client: SocketAddr, packets: &[Packet]) -> String {
    let told = |p: &Packet| {
        let who = if p.from == client { "client" } else { "server" };
        format!("{who} {}", p.flags.names())
    };
    if packets.is_empty() {
        return "silence".into();
    }
    packets.iter().map(told).collect::<Vec<_>>().join(" - ")
}

/// Does it carry bytes or bad news? EAGAIN only says that there is nothing more.
pub(super) fn moves_data(call: &CallRecord) -> bool {
    matches!(call.call.as_str(), "read" | "write") && call.errno.as_deref() != Some("EAGAIN")
}

/// Leaves out where a program asked epoll in passing, without being willing to wait.
pub(super) fn without_glances(calls: Vec<CallRecord>) -> Vec<CallRecord> {
    let mut waiting = false;
    let worth = |call: &CallRecord| {
        if call.call != "epoll_wait" {
            return true;
        }
        let worth = waiting || call.phase == Phase::Enter;
        waiting = call.phase == Phase::Enter;
        worth
    };
    calls
        .into_iter()
        .filter({
            let mut worth = worth;
            move |call| worth(call)
        })
        .collect()
}

/// Leaves out where epoll woke the program and nothing came of it: it goes on waiting.
pub(super) fn without_vain_returns(calls: Vec<CallRecord>) -> Vec<CallRecord> {
    let mut kept: Vec<CallRecord> = Vec::new();
    for call in calls {
        let waits = call.call == "epoll_wait" && call.phase == Phase::Enter;
        let vain = |last: &CallRecord| last.call == "epoll_wait" && last.phase == Phase::Return;
        if waits && kept.len() > 1 && kept.last().is_some_and(vain) {
            kept.pop();
        } else {
            kept.push(call);
        }
    }
    kept
}

/// The end that `pid` has of the connection whose socket `is_it`.
pub(super) fn end_of(pid: i32, is_it: impl Fn(&Socket) -> bool) -> Option<End> {
    let descriptors = processes::descriptors(pid).ok()?;
    let sockets = sockets::tcp().ok()?.into_iter();
    let mut sockets = sockets.filter(|s| s.remote.port() > 0 && s.inode > 0 && is_it(s));
    sockets.find_map(|socket| {
        let name = format!("socket:[{}]", socket.inode);
        let (fd, _) = descriptors.iter().find(|(_, target)| *target == name)?;
        Some(End {
            pid,
            fd: *fd,
            address: socket.local,
        })
    })
}

impl Stage for Pair {
    fn names(&self) -> Names {
        let mut names = vec![("port", self.port.to_string())];
        if let Some(server) = &self.server {
            names.push(("server", server.pid().to_string()));
        }
        if let Ok(pids) = self.pids() {
            let all = pids.iter().map(ToString::to_string).collect::<Vec<_>>();
            names.push(("child", all[1].clone()));
            names.push(("pids", all.join(",")));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_up_in_vain_is_not_told() {
        let call = |phase, call: &str| CallRecord {
            at: 0,
            pid: 1,
            tid: 1,
            phase,
            call: call.into(),
            fd: 3,
            result: 1,
            errno: None,
        };
        let (enter, back) = (Phase::Enter, Phase::Return);
        let calls = vec![
            call(enter, "epoll_wait"),
            call(back, "epoll_wait"),
            call(enter, "epoll_wait"),
            call(back, "epoll_wait"),
            call(back, "read"),
            call(back, "epoll_wait"),
            call(enter, "epoll_wait"),
        ];
        let told = without_vain_returns(without_glances(calls));
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        let waits = "epoll_wait(3) ...";
        assert_eq!(told, [waits, "epoll_wait(3) = 1", "read(3) = 1", waits]);
    }
}
