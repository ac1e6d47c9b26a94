//! The stage of the labs in which hosts and networks fail: a client's host, a router, a server's host.
//!
//! ```text
//! client 192.0.2.2 ---- 192.0.2.1 router 198.51.100.1 ---- 198.51.100.2 server
//! ```
//!
//! Each is a network namespace with a TCP of its own. The packets are seen at the client's network
//! card: what it sends, whether or not it gets anywhere, and what arrives. A crash is what it is to
//! everybody else: from one moment to the next the host says nothing more. It comes back with its
//! network card and its addresses, and has forgotten all connections.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tcpecho_common::{Model, defaults};

use crate::client::{Client, ClientProcess};
use crate::labs::pair::{self, End, end_of};
use crate::labs::states::{StateLog, now};
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{Fact, Names, Stage, Unseen, View};
use crate::netns::Isolation;
use crate::netns::host::{Host, Network, Way};
use crate::observe::calls::{CallRecord, Phase};
use crate::observe::icmp::{Ear, Unreachable};
use crate::observe::packets::{Capture, Packet};
use crate::observe::processes;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::{self, State};
use crate::server::{Server, ServerProcess};
use crate::wait::eventually;

/// The server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

const CLIENT: Network = (Ipv4Addr::new(192, 0, 2, 2), 24);
const NEAR: Network = (Ipv4Addr::new(192, 0, 2, 1), 24);
const FAR: Network = (Ipv4Addr::new(198, 51, 100, 1), 24);
const EVERYWHERE: Network = (Ipv4Addr::UNSPECIFIED, 0);

/// The network card of a host.
const CARD: &str = "eth0";
/// The second one of the router, at the server's side.
const SECOND_CARD: &str = "eth1";

/// How long a program may take to do what it does at once.
const PROMPTLY: Duration = Duration::from_secs(10);

/// How long we wait for a kernel that was told to give up within seconds.
const AT_LAST: Duration = Duration::from_secs(20);

/// Three hosts, a server, clients; see the module's head.
pub struct Hosts {
    client_host: Host,
    router: Host,
    server_host: Host,
    server: Option<ServerProcess>,
    talks: Vec<Talk>,
    marks: Vec<(u64, Side, String)>,
    struck_at: Option<u64>,
    /// The client that could not connect.
    vain: Option<ClientProcess>,
    ear: Ear,
    heard: RefCell<Vec<Unreachable>>,
    capture: Capture,
    missed: OnceLock<u64>,
}

/// What happens to the server's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fall {
    /// It loses power: nothing comes from it any more, not even a farewell, and nobody tells.
    Crash,
    /// The network loses everything that is sent to it; it goes on.
    CutOff,
    /// Only the server is killed.
    Killed,
}

impl Fall {
    const fn in_words(self) -> &'static str {
        match self {
            Self::Crash => "its host crashes",
            Self::CutOff => "is cut off",
            Self::Killed => "killed",
        }
    }
}

/// A client and its connection.
struct Talk {
    name: &'static str,
    client: ClientProcess,
    end: End,
    server: SocketAddr,
    typed_at: Option<u64>,
    states: StateLog,
}

impl Hosts {
    /// Three hosts, wired, with nothing running on them.
    pub fn open(place: &Isolation) -> Result<Self> {
        if let Isolation::Plain(why) = place {
            let why = format!("several hosts need namespaces, and there are none: {why}");
            bail!(Unseen(why));
        }
        let [client_host, router, server_host] = [host()?, host()?, host()?];
        client_host.join(CARD, &router, CARD)?;
        server_host.join(CARD, &router, SECOND_CARD)?;
        router.set_up(CARD, NEAR)?;
        router.set_up(SECOND_CARD, FAR)?;
        router.set("ipv4/ip_forward", 1)?;
        client_host.set_up(CARD, CLIENT)?;
        client_host.route(EVERYWHERE, Way::Via(NEAR.0))?;
        connect_server(&server_host)?;
        // It says what it has to say each time, not once a second: none of its messages is of the
        // kinds that are limited.
        router.set("ipv4/icmp_ratemask", 0)?;
        let capture = client_host.run(|| Capture::start_on(CARD))?;
        let ear = client_host.run(Ear::open)?;
        Ok(Self {
            client_host,
            router,
            server_host,
            server: None,
            talks: Vec::new(),
            marks: Vec::new(),
            struck_at: None,
            vain: None,
            ear,
            heard: RefCell::default(),
            capture,
            missed: OnceLock::new(),
        })
    }

    /// Changes a setting of the client's host: `("ipv4/tcp_retries2", 3)`.
    pub fn set(&self, name: &str, value: u32) -> Result<()> {
        self.client_host.set(name, value)
    }

    /// Starts `tcpechod --model fork --bind 0.0.0.0` on the server's host.
    pub fn start_server(&mut self) -> Result<()> {
        let server = Server::model(Model::Fork).args(["--bind", "0.0.0.0"]);
        let server = server.port(defaults::PORT).events();
        self.server = Some(self.server_host.run(|| server.start())?);
        Ok(())
    }

    /// Starts `tcpecho ARGS 198.51.100.2` on a terminal of the client's host, and waits until it is
    /// connected. It is called `name` from now on.
    pub fn start_client(&mut self, name: &'static str, args: &[&str]) -> Result<()> {
        self.start_client_to(SERVER, name, args)
    }

    /// The same with another address of the server's host.
    pub fn start_client_to(
        &mut self,
        ip: Ipv4Addr,
        name: &'static str,
        args: &[&str],
    ) -> Result<()> {
        let server = SocketAddr::new(ip.into(), defaults::PORT);
        let client = args.iter().fold(Client::to(server), |c, arg| c.arg(*arg));
        let client = client.events().on_pty();
        let talk = self.client_host.run(|| {
            let client = client.start()?;
            let end = eventually("a connection", PROMPTLY, || {
                end_of(client.pid(), |s| s.remote == server)
            });
            let end = end.with_context(|| client.transcript())?;
            let states = StateLog::watch(end.address, server)?;
            Ok(Talk {
                name,
                client,
                end,
                server,
                typed_at: None,
                states,
            })
        })?;
        self.talks.push(talk);
        Ok(())
    }

    /// Types a line at this client's keyboard.
    pub fn type_line(&mut self, name: &str, line: &str) -> Result<()> {
        let at = now();
        let talk = self.talks.iter_mut().find(|talk| talk.name == name);
        let talk = talk.with_context(|| format!("nobody is called {name}"))?;
        talk.typed_at = Some(at);
        talk.client.type_line(line)?;
        self.marks
            .push((at, Side::Client, format!("typed: {line}")));
        Ok(())
    }

    /// The same, and waits until the line is on its way, so that whoever types next is not heard at the
    /// same moment. In one run of 90 the router had said nothing to two of five who were: ip_error() in
    /// net/ipv4/route.c counts the messages it owes a host without a lock, which may be why.
    pub fn type_and_send(&mut self, name: &str, line: &str) -> Result<()> {
        self.type_line(name, line)?;
        eventually("the line on its way", PROMPTLY, || {
            self.transmissions(name)
                .ok()
                .filter(|sent| !sent.is_empty())
        })?;
        Ok(())
    }

    /// Waits until the line that was typed last has been sent this often, but not for ever: it is not
    /// for us to judge.
    pub fn let_it_be_sent(&self, name: &str, times: usize) -> Result<()> {
        self.transmissions(name)?;
        let _ = eventually("sent so often", AT_LAST, || {
            let sent = self.transmissions(name).ok()?;
            (sent.len() >= times).then_some(())
        });
        Ok(())
    }

    /// What happens to the server's host happens.
    pub fn strike(&mut self, fall: Fall) -> Result<()> {
        if fall != Fall::Killed {
            self.tell_router(SERVER, Some(Way::Blackhole))?;
        }
        if fall == Fall::Crash {
            // Its kernel would say FIN for the dead, as that of a crashed host does not; with the
            // card off, nobody hears it.
            self.server_host.set_down(CARD)?;
        }
        self.struck_at = Some(now());
        self.note(Side::Server, fall.in_words());
        if fall != Fall::CutOff {
            self.server = None;
        }
        Ok(())
    }

    /// The end of what [`strike`](Self::strike) began; nobody has noticed if nobody has sent.
    pub fn recover(&mut self, fall: Fall) -> Result<()> {
        if fall == Fall::Crash {
            // The same card, the same address, another kernel.
            let reborn = host()?;
            self.server_host.give(CARD, &reborn)?;
            connect_server(&reborn)?;
            self.server_host = reborn;
        }
        if fall != Fall::CutOff {
            self.start_server()?;
        }
        if fall != Fall::Killed {
            self.tell_router(SERVER, None)?;
        }
        self.note(Side::Server, "is up again");
        Ok(())
    }

    /// The client's host loses power.
    pub fn crash_client_host(&mut self) -> Result<()> {
        self.tell_router(CLIENT.0, Some(Way::Blackhole))?;
        self.client_host.set_down(CARD)?;
        self.struck_at = Some(now());
        self.talks
            .iter()
            .try_for_each(|talk| talk.client.signal(Signal::SIGKILL))
    }

    /// What the router does with packets to `ip`; None: it forgets that it ever knew better than
    /// for others.
    pub fn tell_router(&self, ip: Ipv4Addr, way: Option<Way>) -> Result<()> {
        match way {
            Some(way) => self.router.route((ip, 32), way),
            None => self.router.forget_route((ip, 32)),
        }
    }

    /// The server's host has this address as well, and the router knows.
    pub fn add_address(&self, ip: Ipv4Addr) -> Result<()> {
        self.server_host.set_up(CARD, (ip, 32))?;
        self.tell_router(ip, Some(Way::Via(SERVER)))
    }

    /// The server's host is dead, and nothing hides it from the router.
    pub fn unplug_server_host(&mut self) -> Result<()> {
        self.server_host.set_down(CARD)?;
        self.struck_at = Some(now());
        self.note(Side::Server, "is unplugged");
        Ok(())
    }

    /// Starts a client that will not be connected, and waits until it has ended.
    pub fn connect_in_vain(&mut self, ip: Ipv4Addr) -> Result<()> {
        let client = Client::to(SocketAddr::new(ip.into(), defaults::PORT)).events();
        let client = self.client_host.run(|| client.start())?;
        client.wait(AT_LAST)?;
        self.vain = Some(client);
        Ok(())
    }

    /// How it ended.
    pub fn vain_end(&self) -> Result<String> {
        Ok(pair::fate(self.vain()?))
    }

    /// How long it waited for its connection.
    pub fn vain_for(&self) -> Result<Duration> {
        let calls = self.vain()?.calls();
        let connect = calls.iter().find(|c| c.call == "connect");
        let told = calls
            .iter()
            .rev()
            .find(|c| matches!(&*c.call, "connect" | "poll"));
        let (connect, told) = connect.zip(told).context("it has not called connect")?;
        Ok(Duration::from_nanos(told.at - connect.at))
    }

    /// What it said.
    pub fn vain_says(&self) -> Result<View> {
        Ok(View::Printed(self.vain()?.stderr()))
    }

    fn vain(&self) -> Result<&ClientProcess> {
        self.vain.as_ref().context("nobody has tried")
    }

    /// Waits until this client has ended, however long its kernel tries.
    pub fn wait_for_end(&self, name: &str) -> Result<()> {
        self.talk(name)?.client.wait(AT_LAST).map(drop)
    }

    /// Notes what happened at one side, for the time line.
    pub fn note(&mut self, side: Side, what: &str) {
        self.marks.push((now(), side, what.into()));
    }

    /// The lines that came back on this client's terminal.
    pub fn echoed(&self, name: &str) -> Result<String> {
        let bytes = self.talk(name)?.client.stdout();
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end().replace('\n', " "))
    }

    /// The state of this client's socket: `ESTAB`, `gone`.
    pub fn state(&self, name: &str) -> Result<String> {
        let Talk { end, server, .. } = self.talk(name)?;
        let diag = self.client_host.run(SockDiag::open)?;
        let state = diag.state(end.address, *server)?;
        Ok(state.map_or("gone".into(), |state| state.to_string()))
    }

    /// The state of the server's socket for this client.
    pub fn state_at_server(&self, name: &str) -> Result<String> {
        let Talk { end, server, .. } = self.talk(name)?;
        let diag = self.server_host.run(SockDiag::open)?;
        let state = diag.state(*server, end.address)?;
        Ok(state.map_or("none".into(), |state| state.to_string()))
    }

    /// How many children the server has, zombies included.
    pub fn children(&self) -> Result<usize> {
        let server = self.server.as_ref().context("there is no server")?;
        Ok(processes::children(server.pid()).len())
    }

    /// What the server's kernel will do about this client's connection if nothing happens: `probe`
    /// it, or `nothing`.
    pub fn plans_of_server(&self, name: &str) -> Result<&'static str> {
        let Talk { end, server, .. } = self.talk(name)?;
        let diag = self.server_host.run(SockDiag::open)?;
        let probe = diag.next_probe(*server, end.address)?;
        Ok(probe.map_or("nothing", |_| "probe"))
    }

    /// What ss shows on the server's host.
    pub fn ss_at_server(&self) -> Result<String> {
        let sockets = self.server_host.run(sockets::tcp)?;
        let mut sockets = sockets::with_port(&sockets, defaults::PORT);
        sockets.retain(|socket| socket.state != State::Listen);
        Ok(sockets::ss_view(&sockets))
    }

    /// What ss shows on the client's host.
    pub fn ss_at_client(&self) -> Result<String> {
        let sockets = self.client_host.run(sockets::tcp)?;
        Ok(sockets::ss_view(&sockets))
    }

    /// How this client is: `asleep`, or how it ended: `exit status 5`.
    pub fn fate(&self, name: &str) -> Result<String> {
        Ok(pair::fate(&self.talk(name)?.client))
    }

    /// How this client's kernel told it of the end: `read = -1 ETIMEDOUT`.
    pub fn told_by(&self, name: &str) -> Result<String> {
        Ok(pair::in_words(&self.last_word(name)?))
    }

    /// What this client's write of the line that was typed last said: `write = 15`.
    pub fn wrote(&self, name: &str) -> Result<String> {
        let Talk {
            client,
            end,
            typed_at,
            ..
        } = self.talk(name)?;
        let calls = client.calls();
        let mut writes = calls
            .iter()
            .filter(|c| c.phase == Phase::Return && c.call == "write");
        let write = writes.find(|c| c.fd == end.fd && Some(c.at) >= *typed_at);
        Ok(pair::in_words(write.context("it has not written yet")?))
    }

    /// How long after its line was typed (or, if none was, after the crash) it was told.
    pub fn told_after(&self, name: &str) -> Result<Duration> {
        let since = self.origin(self.talk(name)?);
        let told = self.last_word(name)?.at.saturating_sub(since);
        Ok(Duration::from_nanos(told))
    }

    /// The call that returned the end of the connection.
    fn last_word(&self, name: &str) -> Result<CallRecord> {
        let Talk { client, end, .. } = self.talk(name)?;
        let mut calls = client.calls().into_iter();
        let ends = |c: &CallRecord| {
            let bad = c.result < 0 && c.errno.as_deref() != Some("EAGAIN");
            c.phase == Phase::Return && c.fd == end.fd && (bad || c.call == "read" && c.result == 0)
        };
        // Not the connect, which need not have been done when it returned.
        let mut calls = calls.by_ref().filter(|c| c.call != "connect");
        calls.find(ends).context("it has not been told yet")
    }

    /// What this client has said on stderr.
    pub fn says(&self, name: &str) -> Result<View> {
        let client = &self.talk(name)?.client;
        if client.stderr_lines().is_empty() {
            bail!("it says nothing");
        }
        Ok(View::Printed(client.stderr()))
    }

    /// The packets of this client's connection, as its network card saw them.
    pub fn packets(&self, name: &str) -> Result<Vec<Packet>> {
        let address = self.talk(name)?.end.address;
        let mut packets = self.capture.packets_so_far();
        if let Ok(missed @ 1..) = self.capture.take_dropped() {
            // Once missed, missed for good.
            let _ = self.missed.set(missed);
        }
        if let Some(missed) = self.missed.get() {
            bail!("the capture missed {missed} frames");
        }
        packets.retain(|p| p.from == address || p.to == address);
        Ok(packets)
    }

    /// What the router has said of this client's connection.
    fn hints(&self, name: &str) -> Result<Vec<Unreachable>> {
        let address = self.talk(name)?.end.address;
        let mut heard = self.heard.borrow_mut();
        heard.extend(self.ear.heard()?);
        Ok(heard
            .iter()
            .filter(|said| said.from == address)
            .copied()
            .collect())
    }

    /// The first that the router has said of this client's connection: `host unreachable`.
    pub fn first_hint(&self, name: &str) -> Result<String> {
        let hints = self.hints(name)?;
        let first = hints.first().context("nobody has said anything")?;
        Ok(first.to_string())
    }

    /// The packets since this client's line was typed, in words: `client PSH,ACK - server RST`.
    pub fn exchange(&self, name: &str) -> Result<String> {
        let typed = self.talk(name)?.typed_at;
        self.exchange_since(name, typed.context("nothing has been typed")?)
    }

    /// The same since a host was struck.
    pub fn exchange_since_strike(&self, name: &str) -> Result<String> {
        self.exchange_since(name, self.struck_at.context("nothing has happened")?)
    }

    fn exchange_since(&self, name: &str, since: u64) -> Result<String> {
        let client = self.talk(name)?.end.address;
        let mut packets = self.packets(name)?;
        packets.retain(|packet| packet.at >= since);
        Ok(pair::exchange(client, &packets))
    }

    /// When the line that was typed last left the client's network card, and when it did again.
    pub fn transmissions(&self, name: &str) -> Result<Vec<u64>> {
        let talk = self.talk(name)?;
        let since = talk.typed_at.context("nothing has been typed")?;
        let packets = self.packets(name)?.into_iter();
        let lines = packets.filter(|p| p.from == talk.end.address && p.len > 0 && p.at >= since);
        Ok(lines.map(|p| p.at).collect())
    }

    /// The story of this client on one time line, from its line (or the crash) on.
    pub fn ladder(&self, name: &str) -> Result<View> {
        let talk = self.talk(name)?;
        let (packets, origin) = (self.packets(name)?, self.origin(talk));
        let mut calls = talk.client.calls();
        calls.retain(|c| {
            c.call == "epoll_wait" || pair::moves_data(c) && (c.fd == 0 || c.fd == talk.end.fd)
        });
        let calls = pair::without_vain_returns(pair::without_glances(calls));
        let mut ladder = Ladder::new(origin)
            .prologue("connection and first echo")
            .packets(talk.end.address, &packets)
            .calls(Side::Client, &calls)
            .descriptor(Side::Client, 0, "the keyboard")
            .descriptor(Side::Client, talk.end.fd, "the connection")
            .remark("The packets are those at the client's network card.");
        if let Some(call) = calls.iter().find(|c| c.call == "epoll_wait") {
            ladder = ladder.descriptor(Side::Client, call.fd, "the epoll that watches both");
        }
        for (at, side, what) in &self.marks {
            if *side == Side::Server || Some(*at) == talk.typed_at {
                ladder = ladder.note(*at, *side, &**what);
            }
        }
        for said in self.hints(name)? {
            ladder = ladder.note(said.at, Side::Server, format!("router: {said}"));
        }
        for (at, line) in talk.client.stderr_lines() {
            ladder = ladder.outcome(at, line);
        }
        // The server's socket is on another host.
        let changes = talk.states.changes().into_iter();
        for change in changes.filter(|change| change.side == Side::Client) {
            let state = change.state.map_or("gone".into(), |s| s.to_string());
            ladder = ladder.state(change.at(talk.end.address, &packets), Side::Client, state);
        }
        Ok(View::Ladder(ladder))
    }

    /// Where the story of this client begins.
    fn origin(&self, talk: &Talk) -> u64 {
        let first = talk
            .typed_at
            .filter(|typed| self.struck_at.is_none_or(|c| c < *typed));
        first.or(self.struck_at).unwrap_or(0)
    }

    fn talk(&self, name: &str) -> Result<&Talk> {
        let mut talks = self.talks.iter();
        let talk = talks.find(|talk| talk.name == name);
        talk.with_context(|| format!("nobody is called {name}"))
    }
}

/// A host on which what a crash leaves behind (our kernel goes on, and says FIN for the dead) does
/// not last.
fn host() -> Result<Host> {
    let host = Host::new()?;
    host.set("ipv4/tcp_orphan_retries", 1)?;
    Ok(host)
}

/// Puts the server's host at its end of the wire.
fn connect_server(host: &Host) -> Result<()> {
    host.set_up(CARD, (SERVER, 24))?;
    host.route(EVERYWHERE, Way::Via(FAR.0))
}

/// Of gaps that are [`growth`]: a timer was late.
pub const ALIKE_BUT_ONE: &str = "all alike but one";

/// The time between each and the next.
pub fn gaps(times: &[u64]) -> Vec<Duration> {
    let pairs = times.windows(2);
    pairs.map(|t| Duration::from_nanos(t[1] - t[0])).collect()
}

/// How the gaps grow, the first left out (a tail loss probe ends it): `each twice the one before`,
/// `all alike`, [`ALIKE_BUT_ONE`], or else their ratios.
pub fn growth(times: &[u64]) -> String {
    let gaps = gaps(times);
    let late = gaps.get(1..).unwrap_or_default();
    let ratios: Vec<_> = late
        .windows(2)
        .map(|pair| pair[1].as_secs_f64() / pair[0].as_secs_f64())
        .collect();
    // The kernel's timers are late, the more so where the processor is busy.
    let doubled = ratios.iter().all(|ratio| (1.5..2.7).contains(ratio));
    let (least, most) = (late.iter().min(), late.iter().max());
    let alike = least
        .zip(most)
        .is_some_and(|(least, most)| *most < *least * 2);
    let longer = |least: &Duration| late.iter().filter(|gap| **gap > *least * 3 / 2).count();
    match ratios.len() {
        2.. if doubled => "each twice the one before".into(),
        2.. if alike => "all alike".into(),
        2.. if least.map(longer) == Some(1) => ALIKE_BUT_ONE.into(),
        _ => format!("ratios {ratios:.1?}"),
    }
}

/// The gaps drawn to scale, one a line.
pub fn gaps_view(times: &[u64]) -> View {
    const PER_SECOND: f64 = 10.0;
    let mut text = String::from("sent again after   gap\n");
    let mut since = Duration::ZERO;
    for gap in gaps(times) {
        since += gap;
        let bar = "#".repeat((gap.as_secs_f64() * PER_SECOND).round() as usize);
        let (at, gap) = (Fact::Time(since).to_string(), Fact::Time(gap).to_string());
        let _ = writeln!(text, "{at:>16} {gap:>7}  {bar}");
    }
    View::Printed(text)
}

impl Stage for Hosts {
    fn names(&self) -> Names {
        let mut names = Names::new();
        if let Some(server) = &self.server {
            names.push(("server_host", format!("nsenter -n -t {}", server.pid())));
        }
        if let Some(talk) = self
            .talks
            .iter()
            .find(|talk| talk.client.status().is_none())
        {
            let pid = talk.client.pid();
            names.push(("client_host", format!("nsenter -n -t {pid}")));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_growth_of_gaps_is_told_in_words() {
        let growth = |gaps: &[u64]| {
            let mut times = vec![0];
            for gap in gaps {
                times.push(times.last().unwrap_or(&0) + gap);
            }
            growth(&times)
        };
        let twice = "each twice the one before";
        assert_eq!(growth(&[207, 208, 440, 832, 1667]), twice);
        assert_eq!(growth(&[232, 208, 204, 204]), "all alike");
        assert_eq!(growth(&[207, 208, 390, 230]), "all alike");
        assert_eq!(growth(&[205, 209, 677, 205]), ALIKE_BUT_ONE);
        assert_eq!(growth(&[207, 208, 208, 832]), ALIKE_BUT_ONE);
        assert!(growth(&[207, 208, 208, 500, 500]).starts_with("ratios"));
        assert!(growth(&[207, 208, 440]).starts_with("ratios"), "too few");
        assert!(growth(&[]).starts_with("ratios"));
    }
}
