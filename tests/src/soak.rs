//! Every model at once, for as long as wanted, under everything that can happen to a server: short
//! and long conversations, peers that stall, reset, leave without a word; signals, stops, lack of
//! descriptors, failing calls, killed children, restarts that owe echoes. Every byte that comes back
//! is compared, nothing may be missing, nothing may be left behind.

use std::fmt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_common::Model;
use tcpecho_common::model::{Serves, Unit};

use crate::chance::Chance;
use crate::contestant::{self, Contestant};
use crate::limit::limit_descriptors;
use crate::observe::processes;
use crate::observe::resources::Resources;
use crate::peer::{PATIENCE, Peer};
use crate::server::ServerProcess;
use crate::wait::eventually;

/// How many clients talk to each server at a time.
const CLIENTS: usize = 4;

/// How long the clients talk before they let go, so that what is left behind can be counted.
const SHIFT: Duration = Duration::from_secs(12);

/// The server is restarted after so many shifts.
const SHIFTS_PER_SERVER: usize = 4;

/// How long a stopping server may take.
const GRACE: Duration = Duration::from_secs(30);

/// How long a server may take to tell what has become of a connection that was lost.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What became of one contestant.
#[derive(Debug)]
pub struct Row {
    contestant: Contestant,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    connections: AtomicU64,
    bytes: AtomicU64,
    faults: AtomicU64,
    restarts: AtomicU64,
    /// Conversations cut because the process that served them was killed.
    cut: AtomicU64,
    leaked: AtomicU64,
    /// The largest growth between the first and the last rest of one server, in bytes: first, last.
    memory: Mutex<Option<(u64, u64)>>,
    losses: Mutex<Vec<String>>,
}

impl Row {
    /// Was nothing lost and nothing left behind?
    pub fn is_clean(&self) -> bool {
        self.losses().is_empty() && self.tally.leaked.load(Relaxed) == 0
    }

    /// The model and its flags.
    pub fn name(&self) -> String {
        let flags = self.contestant.flags.iter().copied();
        let words: Vec<_> = [self.contestant.model.name()]
            .into_iter()
            .chain(flags)
            .collect();
        words.join(" ")
    }

    /// What went wrong.
    pub fn losses(&self) -> Vec<String> {
        lock(&self.tally.losses).clone()
    }
}

/// Runs all contestants of these models at once. Whatever is made up, is made up from `seed`.
pub fn run(models: &[Model], duration: Duration, seed: u64) -> Vec<Row> {
    let end = Instant::now() + duration;
    let rows: Vec<_> = contestant::ALL
        .iter()
        .filter(|contestant| models.contains(&contestant.model))
        .map(|contestant| Row {
            contestant: *contestant,
            tally: Tally::default(),
        })
        .collect();
    thread::scope(|scope| {
        for (number, row) in (1..).zip(&rows) {
            let mut chance = Chance::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
            scope.spawn(move || {
                if let Err(error) = row.soak(end, &mut chance) {
                    // Told first: the others follow from it.
                    lock(&row.tally.losses).insert(0, format!("{error:#}"));
                }
            });
        }
    });
    rows
}

impl Row {
    /// One server after the other, until the time is over.
    fn soak(&self, end: Instant, chance: &mut Chance) -> anyhow::Result<()> {
        loop {
            let server = self
                .contestant
                .talkative()
                .args(["--grace", "10s"])
                .start()?;
            let rest = Resources::of(&server).context("the server has vanished")?;
            let mut first = None;
            for _ in 0..SHIFTS_PER_SERVER {
                self.shift(&server, end, chance)?;
                let memory = self.at_rest(&server, &rest, &mut first)?;
                let start = first.as_ref().map_or(memory, |first: &AtRest| first.memory);
                let mut most = lock(&self.tally.memory);
                if most.is_none_or(|(a, b)| memory.saturating_sub(start) >= b.saturating_sub(a)) {
                    *most = Some((start, memory));
                }
                drop(most);
                if Instant::now() >= end {
                    break;
                }
            }
            self.restart(&server)?;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Clients talk, and things happen, for a while.
    fn shift(
        &self,
        server: &ServerProcess,
        end: Instant,
        chance: &mut Chance,
    ) -> anyhow::Result<()> {
        let over = end.min(Instant::now() + SHIFT);
        let (done, cuts) = (AtomicBool::new(false), Cuts::default());
        let tasks: Vec<_> = (0..CLIENTS).map(|_| Chance::new(chance.number())).collect();
        thread::scope(|scope| {
            for mut chance in tasks {
                let (done, cuts) = (&done, &cuts);
                scope.spawn(move || {
                    while !done.load(Relaxed) {
                        let before = cuts.so_far();
                        let talk = Talk::pick(self.contestant, &mut chance);
                        let result = self.talk(server, &talk, &mut chance);
                        match result {
                            Ok(()) => {}
                            Err(_) if cuts.complete() > before => {
                                self.tally.cut.fetch_add(1, Relaxed);
                            }
                            Err(error) => self.lost(format!("{talk:?}: {error:#}")),
                        }
                    }
                });
            }
            let mut happened = Ok(());
            while Instant::now() < over && happened.is_ok() {
                thread::sleep(Duration::from_millis(chance.up_to(600)));
                happened = self.let_something_happen(server, &cuts, chance);
            }
            done.store(true, Relaxed);
            happened
        })
    }

    fn talk(&self, server: &ServerProcess, talk: &Talk, chance: &mut Chance) -> anyhow::Result<()> {
        let mut peer = Peer::connect(server.address())?;
        self.tally.connections.fetch_add(1, Relaxed);
        let result = talk.hold(&mut peer, chance).with_context(|| {
            let name = peer.local().to_string();
            let lines = lines_about(server, &name);
            format!("the server says of {name} {lines:#?}")
        });
        self.tally.bytes.fetch_add(peer.received(), Relaxed);
        if result.is_ok() && matches!(talk, Talk::Reset { .. }) {
            peer.reset();
        }
        result
    }

    fn let_something_happen(
        &self,
        server: &ServerProcess,
        cuts: &Cuts,
        chance: &mut Chance,
    ) -> anyhow::Result<()> {
        let pause = Duration::from_millis(20 + chance.up_to(200));
        match chance.up_to(7) {
            0 => {
                server.signal_group(Signal::SIGSTOP)?;
                thread::sleep(pause);
                server.signal_group(Signal::SIGCONT)?;
            }
            1 => {
                const HARMLESS: [Signal; 5] = [
                    Signal::SIGUSR1,
                    Signal::SIGCHLD,
                    Signal::SIGALRM,
                    Signal::SIGWINCH,
                    Signal::SIGPIPE,
                ];
                let signal = HARMLESS[chance.up_to(HARMLESS.len() as u64) as usize];
                for _ in 0..20 {
                    server.signal(signal)?;
                }
            }
            // The program that a child executes needs descriptors to be loaded at all.
            2 if self.contestant.model == Model::Exec => {}
            2 => lack_of_descriptors(server, pause),
            3 => kill_one(server, self.contestant, cuts, chance),
            _ => failing_calls(server, self.contestant.model, pause, chance)?,
        }
        self.tally.faults.fetch_add(1, Relaxed);
        if let Some(status) = server.status() {
            bail!("the server has ended: {status}\n{}", last_words(server));
        }
        Ok(())
    }

    /// Nobody is connected: is anything left behind? Returns the memory in use.
    fn at_rest(
        &self,
        server: &ServerProcess,
        rest: &Resources,
        first: &mut Option<AtRest>,
    ) -> anyhow::Result<u64> {
        let mut seen = None;
        eventually("a server without clients", PATIENCE, || {
            seen = Resources::of(server);
            (seen.as_ref() == Some(rest)).then_some(())
        })
        .with_context(|| format!("{seen:?}, not {rest:?}\n{}", last_words(server)))?;
        let now = AtRest::of(server)?;
        let before = first.get_or_insert_with(|| now.clone());
        let leaked = now.descriptors.saturating_sub(before.descriptors);
        self.tally.leaked.fetch_add(leaked as u64, Relaxed);
        Ok(now.memory)
    }

    /// SIGTERM while echoes are owed: all of them come, then a FIN.
    fn restart(&self, server: &ServerProcess) -> anyhow::Result<()> {
        let mut owed = Vec::new();
        // What is not being read must fit into the kernel's buffers.
        let lengths = match self.contestant.model.serves() {
            Serves::One => [1000, 10_000, 30_000, 10],
            Serves::Workers | Serves::All => [1000, 100_000, 300_000, 10],
        };
        for length in lengths {
            let mut peer = Peer::connect(server.address())?;
            peer.send_pattern(length)?;
            peer.wait_until_delivered()?;
            owed.push(peer);
        }
        server.signal(Signal::SIGTERM)?;
        for peer in &mut owed {
            peer.expect_rest_and_fin()
                .with_context(|| last_words(server))?;
            self.tally.connections.fetch_add(1, Relaxed);
            self.tally.bytes.fetch_add(peer.received(), Relaxed);
        }
        let status = server.wait(GRACE)?;
        ensure!(status.success(), "{status}\n{}", last_words(server));
        self.tally.restarts.fetch_add(1, Relaxed);
        Ok(())
    }

    fn lost(&self, what: String) {
        lock(&self.tally.losses).push(what);
    }
}

/// What the server has printed of a client, after a while in which it may tell of its end.
fn lines_about(server: &ServerProcess, name: &str) -> Vec<String> {
    let lines = || -> Vec<String> {
        let told = server.stderr();
        let lines = told.lines().filter(|line| line.contains(name));
        lines.map(str::to_owned).collect()
    };
    let ended = || {
        let told = lines();
        (told.len() > 1).then_some(told)
    };
    eventually("the server's account", LAST_WORDS, ended).unwrap_or_else(|_| lines())
}

/// The end of what it has printed: it has said much by then.
fn last_words(server: &ServerProcess) -> String {
    const LINES: usize = 20;
    let transcript = server.transcript();
    let lines: Vec<_> = transcript.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// What a server has when nobody is connected.
#[derive(Clone, Debug)]
struct AtRest {
    descriptors: usize,
    memory: u64,
}

impl AtRest {
    fn of(server: &ServerProcess) -> anyhow::Result<Self> {
        let tree = processes::tree(server.pid());
        let memory = tree.iter().filter_map(|p| processes::memory(p.pid));
        Ok(Self {
            descriptors: processes::descriptors(server.pid())?.len(),
            memory: memory.map(|memory| memory.anonymous).sum(),
        })
    }
}

/// One conversation.
#[derive(Clone, Copy, Debug)]
enum Talk {
    Pings { count: u64 },
    Stream { length: u64 },
    Stall { pause: Duration },
    HalfClose { length: u64 },
    Urgent,
    Reset { length: u64 },
    Silent,
}

impl Talk {
    fn pick(contestant: Contestant, chance: &mut Chance) -> Self {
        match chance.up_to(12) {
            0..4 => Self::Pings {
                count: 1 + chance.up_to(40),
            },
            4..6 => Self::Stream {
                length: chance.up_to(2_000_000),
            },
            // The others would wait for as long.
            6 if contestant.model.serves() != Serves::One => Self::Stall {
                pause: Duration::from_millis(chance.up_to(300)),
            },
            7 => Self::Urgent,
            8..10 => Self::Reset {
                length: chance.up_to(50_000),
            },
            10 => Self::Silent,
            _ => Self::HalfClose {
                length: chance.up_to(300_000),
            },
        }
    }

    fn hold(&self, peer: &mut Peer, chance: &mut Chance) -> anyhow::Result<()> {
        match *self {
            Self::Pings { count } => {
                for _ in 0..count {
                    let length = 1 + chance.up_to(3000);
                    peer.send_pattern(length)?;
                    peer.expect_pattern(length)?;
                }
                peer.half_close()?;
                peer.expect_fin()
            }
            Self::Stream { length } => peer.stream(length),
            Self::Stall { pause } => {
                peer.send_until_stuck()?;
                thread::sleep(pause);
                peer.half_close()?;
                peer.expect_rest_and_fin()
            }
            Self::HalfClose { length } => {
                peer.send_pattern(length)?;
                peer.half_close()?;
                peer.expect_rest_and_fin()
            }
            Self::Urgent => {
                peer.send(b"abc")?;
                peer.send_urgent(b'D')?;
                peer.send(b"efg")?;
                peer.expect(b"abcefg")?;
                peer.half_close()?;
                peer.expect_fin()
            }
            Self::Reset { length } => peer.send_pattern(length),
            Self::Silent => Ok(()),
        }
    }
}

/// Nobody can open anything for a while; who is queued waits.
fn lack_of_descriptors(server: &ServerProcess, pause: Duration) {
    let limited: Vec<_> = processes::tree(server.pid())
        .iter()
        .filter_map(|process| {
            // Processes come and go: one that has gone cannot be limited.
            let before = limit_descriptors(process.pid, None).ok()?;
            limit_descriptors(process.pid, Some((3, before.1))).ok()?;
            Some((process.pid, before))
        })
        .collect();
    thread::sleep(pause);
    for (pid, before) in limited {
        let _ = limit_descriptors(pid, Some(before));
    }
}

/// Kills a child, if there are any: whoever it serves is cut off.
fn kill_one(server: &ServerProcess, contestant: Contestant, cuts: &Cuts, chance: &mut Chance) {
    if contestant.model.unit() != Unit::Process {
        return;
    }
    let children = processes::children(server.pid());
    if let Some(child) = children.get(chance.up_to(children.len() as u64) as usize) {
        cuts.while_one_is_killed(|| {
            // It may have ended; nobody but the server waits for it, and its pid is not given away so
            // soon.
            let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
            // Until it has run again to die, it may accept another.
            let _ = eventually("its death", PATIENCE, || {
                let dead = processes::look(child.pid).is_none_or(|process| process.state == 'Z');
                dead.then_some(())
            });
        });
    }
}

/// Counts how often somebody who serves has been killed.
#[derive(Default)]
struct Cuts {
    count: AtomicU64,
    killing: Mutex<()>,
}

impl Cuts {
    /// To be asked before a conversation begins.
    fn so_far(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// To be asked when one has failed: whoever is being killed at this moment is dead first.
    fn complete(&self) -> u64 {
        let _nobody = lock(&self.killing);
        self.so_far()
    }

    fn while_one_is_killed(&self, kill: impl FnOnce()) {
        let _killing = lock(&self.killing);
        self.count.fetch_add(1, Relaxed);
        kill();
        // Again, for conversations that have begun in between.
        self.count.fetch_add(1, Relaxed);
    }
}

/// Calls fail, every third: with strace, if it is there and may.
fn failing_calls(
    server: &ServerProcess,
    model: Model,
    pause: Duration,
    chance: &mut Chance,
) -> anyhow::Result<()> {
    const FAULTS: [&str; 7] = [
        "inject=accept4:error=EMFILE",
        "inject=accept4:error=ENOBUFS",
        "inject=accept4:error=ECONNABORTED",
        "inject=accept4:error=EPROTO",
        "inject=accept4:error=EINTR",
        "inject=read:error=EINTR",
        "inject=write:error=EINTR",
    ];
    // The loader of the program that a child executes does not expect to be interrupted.
    let suited = if model == Model::Exec {
        5
    } else {
        FAULTS.len()
    };
    let fault = FAULTS[chance.up_to(suited as u64) as usize];
    let strace = Command::new("strace")
        .args(["-qq", "-f", "-o", "/dev/null", "-e"])
        .arg(format!("{fault}:when=1+3"))
        .args(["-p", &server.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut strace) = strace else {
        return Ok(());
    };
    // Before that it tries out what ptrace can do on a child of its own, which it would leave behind.
    let ready = eventually("strace attached", PATIENCE, || {
        let ended = matches!(strace.try_wait(), Ok(Some(_)) | Err(_));
        (ended || attached_to(server, &strace)).then_some(ended)
    });
    match ready {
        Ok(false) => thread::sleep(pause),
        // It may not trace.
        Ok(true) => return Ok(()),
        Err(error) => {
            let _ = strace.kill();
            let _ = strace.wait();
            return Err(error);
        }
    }
    detach(server, strace)
}

fn attached_to(server: &ServerProcess, strace: &Child) -> bool {
    processes::tracer(server.pid()) == Some(strace.id() as i32)
}

/// Lets strace go while the server stands still: a call that is being made to fail when strace lets
/// go of it fails with ENOSYS. A thread stands still for strace as well, in the middle of such a
/// call; so strace must have slept, with nothing to do, while all were looked at.
fn detach(server: &ServerProcess, mut strace: Child) -> anyhow::Result<()> {
    let tracer = strace.id() as i32;
    server.signal_group(Signal::SIGSTOP)?;
    eventually("a server that stands still", PATIENCE, || {
        let sleep = nap(tracer)?;
        let tree = processes::tree(server.pid());
        let still = |states: Vec<char>| states.iter().all(|state| "TtZ".contains(*state));
        let mut states = tree
            .iter()
            .filter_map(|process| processes::states(process.pid));
        (states.all(still) && nap(tracer) == Some(sleep)).then_some(())
    })?;
    // The kernel lets go of what it has traced.
    strace.kill()?;
    strace.wait()?;
    server.signal_group(Signal::SIGCONT)
}

/// Which of its sleeps the process is in, if it sleeps.
fn nap(pid: i32) -> Option<u64> {
    let before = processes::voluntary_switches(pid)?;
    let sleeps = processes::look(pid)?.state == 'S';
    let after = processes::voluntary_switches(pid)?;
    (sleeps && before == after).then_some(after)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table, and below it what went wrong.
pub struct Table<'a>(pub &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34} {:>11} {:>9} {:>6} {:>8} {:>5} {:>5} {:>11} {:>9} {:>8}",
            "server",
            "connections",
            "MB same",
            "faults",
            "restarts",
            "cut",
            "lost",
            "descriptors",
            "memory kB",
            "then kB"
        )?;
        for row in self.0 {
            let name = row.name();
            let tally = &row.tally;
            let count = |figure: &AtomicU64| figure.load(Relaxed);
            let memory = *lock(&tally.memory);
            let [first, last] =
                memory.map_or([0; 2], |(first, last)| [first, last].map(|b| b / 1000));
            writeln!(
                f,
                "{name:<34} {:>11} {:>9} {:>6} {:>8} {:>5} {:>5} {:>11} {first:>9} {last:>8}",
                count(&tally.connections),
                count(&tally.bytes) / 1_000_000,
                count(&tally.faults),
                count(&tally.restarts),
                count(&tally.cut),
                row.losses().len(),
                count(&tally.leaked),
            )?;
        }
        for row in self.0 {
            for loss in row.losses().iter().take(5) {
                writeln!(f, "\nLOST by {}: {loss}", row.name())?;
            }
        }
        Ok(())
    }
}
