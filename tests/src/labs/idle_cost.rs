//! What silent clients cost a server that waits with select or poll, and one that does not (UNP 6.3,
//! 6.10, 14.9).
//!
//! Three servers with one thread each, and one client each that talks. More and more clients come
//! that say nothing. Asserted is how the processor time that the server needs for an echo grows, from
//! none of them to all; it is the server's own account, so what else the machine does hardly matters.
//! All of them share a processor: what it costs to wake up another one is more than an echo does.
//! Then the calls of an echo, which are as many in both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use tcpecho_common::defaults;

use crate::compare::environment::processors;
use crate::figures;
use crate::labs::crowd::{Crowd, in_words, outcomes};
use crate::limit::{self, no_room_for};
use crate::narrate::{Act, Chapter, Lab, Names, Need, Scene, Stage, Typed, Unseen, View, shell};
use crate::netns::Isolation;
use crate::observe::accounts;
use crate::observe::processes;
use crate::observe::sockets::State;
use crate::peer::{PATIENCE, Peer};
use crate::server::{Server, ServerProcess};
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "idle-cost",
    title: "Thousands who say nothing: who pays for them?",
    sections: "6.3, 6.10, 14.9",
    chapter: Chapter::Concurrency,
    takes: 5,
    needs: &[Need::Descriptors, Need::Calm],
    about: "A server has thousands of clients. All of them are silent, but one. Each line of that \
        one wakes the server. What does it cost to find out who has spoken?",
    acts: || {
        vec![
            Box::new(measured([SELECT, POLL, EPOLL], MOST)) as Box<dyn Scene>,
            Box::new(calls("the calls of one echo: poll", ARRAY, "poll")),
            Box::new(last(calls("the same with epoll", LIST, "epoll_wait"))),
        ]
    },
};

/// The three servers, each on a port of its own.
pub const SELECT: &str = "tcpechod --model select --bind 127.0.0.1 {select}";
/// See [`SELECT`].
pub const POLL: &str = "tcpechod --model poll --bind 127.0.0.1 {poll}";
/// See [`SELECT`].
pub const EPOLL: &str = "tcpechod --model reactor --bind 127.0.0.1 {epoll}";

const ARRAY: &str = "tcpechod --model poll --bind 127.0.0.1 {port}";
const LIST: &str = "tcpechod --model reactor --bind 127.0.0.1 {port}";
const CLIENT: &str = "tcpecho 127.0.0.1 {port}";

/// How they wait, in the order of the commands, and how many connections fit into it: 1024
/// descriptors, less what a server has besides.
const CONTENDERS: [(&str, usize); 3] = [("select", 1000), ("poll", MOST), ("epoll", MOST)];

/// So many silent clients, one after the other; as far as there are descriptors.
const LEVELS: &[usize] = &[0, 500, 1000, 2000, MOST];
const MOST: usize = 4000;

/// How often each server has its turn at each level.
const ROUNDS: usize = 5;
/// A turn takes so long, and has so many echoes at least.
const TURN: Duration = Duration::from_millis(20);
const ECHOES: u32 = 10;

/// An echo that costs so many times what it cost before has become more expensive. Looking at
/// thousands of connections takes a hundred times as long as looking at one.
const CLIMBS: f64 = 5.0;
/// One that costs less than so many times as much has not. Beside others, whose data are in the
/// processor's caches, anything may take twice as long.
const STAYS: f64 = 3.0;

const CHOICES: &[(&str, &str)] = &[
    ("stays", "the same: who says nothing costs nothing"),
    ("climbs", "ever more: it looks at all of them each time"),
];

/// More and more silent clients, `most` in the end.
pub fn measured(servers: [&'static str; 3], most: usize) -> Act<Rack> {
    let open = move |place: &Isolation| Rack::open(place, most);
    let act = Act::open("who pays for the silent ones?", open);
    let act = (0..).zip(servers).fold(act, |act, (nth, command)| {
        act.act(STARTS[nth], shell(command), move |r: &mut Rack| {
            r.start(nth, command)
        })
    });
    act.predict(
        "Each server has one client that talks. Now others connect, thousands, and say nothing. \
         What does an echo cost the server with poll?",
        CHOICES,
    )
    .predict("And the server with epoll?", CHOICES)
    .measure(
        "Processor time that an echo takes the server, in microseconds (the cheapest of five turns):",
        Rack::measure,
    )
    .answer("with poll, the cost of an echo", "climbs", |r| r.course(1))
    .answer("with epoll, the cost of an echo", "stays", |r| r.course(2))
    .expect("with select, the cost of an echo", "climbs", |r| {
        r.course(0)
    })
    .expect(
        "the servers had the silent connections, open",
        "all of them",
        Rack::held,
    )
    .explain(
        "select and poll are told in each call whom to wait for. The kernel asks each of those \
         sockets: is there something? It asks before it sleeps, and once more when it has been \
         woken up. Twice as many sockets, twice as many questions: at least twice the time. Nearly all \
         answers are no.\n\n\
         epoll is told once, when a client comes (epoll_ctl). The kernel leaves a note at the \
         socket. When something arrives there, the socket puts itself on a list. epoll_wait only \
         looks at that list: one entry, however many are silent.\n\n\
         The bars of select end early: a set has no bit for descriptor 1024 (see select-limit).",
    )
}

const STARTS: [&str; 3] = [
    "In terminal 1, a server that waits with select.",
    "In terminal 2, one that waits with poll.",
    "In terminal 3, one that waits with epoll: the reactor.",
];

/// What the server calls for one line, with some silent clients about.
pub fn calls(title: &'static str, server: &'static str, waits: &'static str) -> Act<Crowd> {
    let calls = format!("{waits} = 1, read = 6, write = 6, {waits} ...");
    Act::open(title, Crowd::open)
        .server("In terminal 1, the server.", server)
        .act("Fifty clients come and say nothing.", Typed::Nothing, |c| {
            c.connect(50)
        })
        .client("In terminal 2, one more.", CLIENT)
        .observe(
            "So many connections has the server:",
            "ss -Htn state established sport = :{port} | wc -l",
            |c| Ok(format!("{}\n", c.in_state(State::Established)?)),
        )
        .line("Its user types.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
        .expect("what the server calls for that", calls, |c| {
            c.rest()?;
            Ok(in_words(&outcomes(c.calls_of_parent()?)))
        })
}

fn last(act: Act<Crowd>) -> Act<Crowd> {
    act.explain(
        "The same three calls. So strace shows no difference in their number, and they are not the \
         reason: what differs is how long the first one works.\n\n\
         The book (14.9): the trouble with select and poll is that each call hands over all \
         descriptors; /dev/poll and kqueue are told once. This kernel: the same, by the name of \
         epoll.\n\n\
         Verdict: if nearly all clients talk all the time, poll is as good: one call finds them \
         all. If many are connected and few talk, as is usual, it works for the silent ones.",
    )
    .try_it(
        "1$ tcpechod --model poll\n\
         2$ tcpecho-load -c 1 -d 2s localhost         (p50: there and back)\n\
         2$ tcpecho-load -c 1 -d 2s --idle 4000 localhost\n\
         1> ^C\n\
         1$ tcpechod --model reactor                  (and the same again)\n\
         2$ tcpecho-load -c 1 -d 2s --idle 4000 localhost\n\
         2$ tcpecho-lab compare --workload idle       (takes a while: all of it)",
    )
    .read("Read: UNP 6.3, 6.10, 14.9; poll(2), epoll(7).")
}

/// Three servers side by side, each with one client that talks, and more and more that do not.
pub struct Rack {
    /// The first of their ports; 0: any.
    port: u16,
    levels: Vec<usize>,
    contenders: Vec<Contender>,
}

/// A server that is measured.
struct Contender {
    name: &'static str,
    /// How many silent clients it can have.
    most: usize,
    server: ServerProcess,
    talker: Peer,
    silent: Vec<TcpStream>,
    /// The largest number of connections that it was seen to have.
    held: usize,
    /// For each number of silent clients what an echo cost in each turn, in microseconds.
    costs: BTreeMap<usize, Vec<f64>>,
}

impl Rack {
    fn open(place: &Isolation, most: usize) -> Result<Self> {
        let most = most.min(affordable()?);
        if let Some(why) = no_room_for(connections(most))? {
            return Err(Unseen(why).into());
        }
        Ok(Self {
            port: match place {
                Isolation::Namespaces => defaults::PORT,
                Isolation::Plain(_) => 0,
            },
            levels: LEVELS.iter().copied().filter(|n| *n <= most).collect(),
            contenders: Vec::new(),
        })
    }

    fn start(&mut self, nth: usize, command: &str) -> Result<()> {
        let (name, most) = CONTENDERS[nth];
        let flags = command.strip_prefix("tcpechod ");
        let flags = flags.and_then(|flags| flags.strip_suffix('}'));
        let (flags, _) = flags
            .and_then(|flags| flags.split_once(" {"))
            .with_context(|| format!("not `tcpechod ... {{port}}`: {command}"))?;
        let port = match self.port {
            0 => 0,
            first => first + nth as u16,
        };
        let server = Server::with_args(flags.split(' ')).port(port);
        let server = server.on_processors(&[processor()?]).start()?;
        let mut talker = Peer::connect(server.address())?;
        talker.echo(LINE)?;
        self.contenders.push(Contender {
            name,
            most,
            server,
            talker,
            silent: Vec::new(),
            held: 0,
            costs: BTreeMap::new(),
        });
        Ok(())
    }

    /// From none to all of them, and back to none. At each level the servers take turns.
    fn measure(&mut self, tell: &mut dyn FnMut(&View)) -> Result<View> {
        let _here = Pinned::to(processor()?)?;
        let back_again = self.levels.iter().copied().chain([0]);
        for level in back_again.collect::<Vec<_>>() {
            let fits = |contender: &&mut Contender| level <= contender.most;
            for contender in self.contenders.iter_mut().filter(fits) {
                contender.go_to(level)?;
            }
            for _ in 0..ROUNDS {
                for contender in self.contenders.iter_mut().filter(fits) {
                    contender.turn(level)?;
                }
                tell(&View::Printed(self.chart()));
            }
        }
        Ok(View::Printed(self.chart()))
    }

    fn chart(&self) -> String {
        /// Columns of the longest bar.
        const LONGEST: f64 = 44.0;
        let most = self.contenders.iter().flat_map(Contender::all_least);
        let most = most.map(|(_, cost)| cost).fold(0.0, f64::max);
        let mut chart = format!("{:>6}  {:<8}{:>8}\n", "silent", "", "us");
        for level in &self.levels {
            let mut silent = figures::whole(*level as u64);
            for contender in &self.contenders {
                let Some(cost) = contender.least(*level) else {
                    continue;
                };
                let bar = "#".repeat((cost / most * LONGEST).ceil() as usize);
                let (name, us) = (contender.name, figures::plain(cost));
                // Writing to a String cannot fail.
                let _ = writeln!(chart, "{silent:>6}  {name:<8}{us:>8}  {bar}");
                silent.clear();
            }
        }
        chart + &self.growth()
    }

    /// From the first to the last bar of each: `select 24.1x, poll 127x, epoll 1.10x`.
    fn growth(&self) -> String {
        let growth = |contender: &Contender| {
            let times = figures::ratio(contender.growth()?);
            Some(format!("{} {times}", contender.name))
        };
        let growth: Vec<_> = self.contenders.iter().filter_map(growth).collect();
        match growth.as_slice() {
            [] => String::new(),
            all => format!("From the first bar to the last: {}", all.join(", ")),
        }
    }

    /// What becomes of the cost of an echo: it `climbs`, or `stays`.
    fn course(&self, nth: usize) -> Result<String> {
        let contender = self.contenders.get(nth).context("it was not started")?;
        let growth = contender.growth().context("it was not measured")?;
        Ok(match growth {
            growth if growth >= CLIMBS => "climbs".into(),
            growth if growth < STAYS => "stays".into(),
            growth => format!("becomes {}", figures::ratio(growth)),
        })
    }

    fn held(&self) -> Result<String> {
        let last = self.levels.last().copied().context("no level")?;
        let held = self.contenders.iter().map(|c| c.held);
        let wanted = self.contenders.iter().map(|c| self.fitting(c, last) + 1);
        let (held, wanted): (Vec<_>, Vec<_>) = (held.collect(), wanted.collect());
        Ok(if held == wanted {
            "all of them".into()
        } else {
            format!("{held:?} of {wanted:?}")
        })
    }

    /// The largest number of silent clients, up to `most`, that this one has been measured with.
    fn fitting(&self, contender: &Contender, most: usize) -> usize {
        let levels = self.levels.iter().copied();
        let fitting = levels.filter(|level| *level <= contender.most.min(most));
        fitting.max().unwrap_or(0)
    }
}

/// What the client that talks says.
const LINE: &[u8] = b"hello\n";

impl Contender {
    /// Has so many silent clients from now on.
    fn go_to(&mut self, level: usize) -> Result<()> {
        /// No more than fit into the queue for accept.
        const AT_ONCE: usize = 500;
        self.silent.truncate(level);
        while self.silent.len() < level {
            let missing = (level - self.silent.len()).min(AT_ONCE);
            let address = self.server.address();
            let came = (0..missing).map(|_| silent(address));
            self.silent.append(&mut came.collect::<Result<_>>()?);
            self.wait_for(self.silent.len())?;
        }
        self.wait_for(level)?;
        self.held = self.held.max(self.connected()?);
        Ok(())
    }

    /// Waits until the server has so many silent clients, and no others.
    fn wait_for(&self, silent: usize) -> Result<()> {
        eventually("as many connections at the server", PATIENCE, || {
            (self.connected().ok()? == silent + 1).then_some(())
        })
    }

    /// How many connections the server has.
    fn connected(&self) -> Result<usize> {
        let descriptors = processes::descriptors(self.server.pid())?;
        let sockets = descriptors
            .iter()
            .filter(|(_, to)| to.starts_with("socket:"));
        // One of them listens.
        sockets.count().checked_sub(1).context("it does not listen")
    }

    /// Some echoes, and what each of them has cost the server.
    fn turn(&mut self, level: usize) -> Result<()> {
        let pid = self.server.pid();
        let used = || accounts::clock(pid).context("the server has ended");
        let (began, before, mut echoes) = (Instant::now(), used()?, 0);
        while echoes < ECHOES || began.elapsed() < TURN {
            self.talker.echo(LINE)?;
            echoes += 1;
        }
        let cost = used()?.saturating_sub(before) / echoes;
        ensure!(!cost.is_zero(), "the kernel keeps no account of its time");
        let costs = self.costs.entry(level).or_default();
        costs.push(cost.as_secs_f64() * 1e6);
        Ok(())
    }

    fn all_least(&self) -> impl Iterator<Item = (usize, f64)> {
        let levels = self.costs.keys().copied();
        levels.filter_map(|level| Some((level, self.least(level)?)))
    }

    /// What an echo cost in the cheapest of the turns: whatever else the machine does can only add.
    fn least(&self, level: usize) -> Option<f64> {
        self.costs
            .get(&level)?
            .iter()
            .copied()
            .min_by(f64::total_cmp)
    }

    /// How many times what it cost without silent clients an echo costs with the most.
    fn growth(&self) -> Option<f64> {
        let (last, cost) = self.all_least().last()?;
        (last > 0).then_some(cost / self.least(0)?)
    }
}

/// The one processor for all who are measured.
fn processor() -> Result<usize> {
    let ours = processors();
    ours.first().copied().context("no processor")
}

/// This thread runs on one processor, until this is dropped.
struct Pinned {
    before: CpuSet,
}

impl Pinned {
    fn to(processor: usize) -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let mut only = CpuSet::new();
        only.set(processor)?;
        sched_setaffinity(this, &only)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

/// A client that says nothing, and leaves with an RST: its port is free at once.
fn silent(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &now)?;
    Ok(stream)
}

/// How many connections of ours there are with so many silent clients at each server that can have
/// them.
fn connections(silent: usize) -> usize {
    CONTENDERS
        .iter()
        .map(|(_, most)| silent.min(*most) + 1)
        .sum()
}

/// The highest of the levels for which there may be descriptors enough.
fn affordable() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let fits = |level: &&usize| (connections(**level) as u64 + limit::OTHERS) <= hard;
    let highest = LEVELS[1..].iter().rev().find(fits);
    Ok(highest.copied().unwrap_or(LEVELS[1]))
}

impl Stage for Rack {
    fn names(&self) -> Names {
        let port = |nth: usize| {
            let contender = self.contenders.get(nth);
            let chosen = self.port + if self.port > 0 { nth as u16 } else { 0 };
            contender.map_or(chosen, |contender| contender.server.address().port())
        };
        let names = CONTENDERS.iter().enumerate();
        names
            .map(|(nth, (name, _))| (*name, port(nth).to_string()))
            .collect()
    }
}
