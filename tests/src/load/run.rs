//! A run, from the first connection to the report: starts the workers, says when the load begins,
//! collects what they tell, and adds it up. It does nothing that the load would feel.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::errno::Errno;
use nix::libc::STDIN_FILENO;
use nix::sys::signal::Signal;
use nix::unistd::read;

use crate::load::clock::{self, seconds};
use crate::load::interrupt::Interrupts;
use crate::load::meter::{Slice, Times};
use crate::load::pattern::Pattern;
use crate::load::plan::Plan;
use crate::load::report::{Event, Report};
use crate::load::source::{Sources, make_room};
use crate::load::stamps;
use crate::load::summary::Summary;
use crate::load::worker::{Note, Outcome, Shared, Teller, Worker};

const WAKE: Token = Token(0);
const SIGNAL: Token = Token(1);
const STDIN: Token = Token(2);

/// More than there is to let go on.
const MANY: usize = usize::MAX / 2;

/// As cold as this makes a processor's caches they stay.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// How long a probe of one of several addresses may take.
const PROBE: Duration = Duration::from_secs(3);

/// Who is told of what happens while it happens. An error ends the run.
pub trait Watch {
    /// Something has happened. (Of [`Event::Interval`]s and the end it is told otherwise.)
    fn event(&mut self, event: &Event) -> Result<()>;

    /// The figures of a slice of the measurement, which began so long after this, if the plan has an
    /// interval. What came back after the end is in the last one, which has no length.
    fn slice(&mut self, from: Duration, length: Duration, slice: &Slice) -> Result<()>;
}

/// Does what is planned. Returns the report, and the signal that has ended it early. `began` is when
/// the program was started.
///
/// Errors: the name has no address, or the system refuses what a run needs; whatever happens to the
/// connections is in the report.
pub fn run(
    plan: Plan,
    command: Vec<String>,
    began: u64,
    watch: &mut dyn Watch,
) -> Result<(Report, Option<Signal>)> {
    let interrupts = Interrupts::catch()?;
    make_room(&plan)?;
    let address = resolve(&plan.host, plan.port)?;
    let apart = || stamps::apart(address.ip(), plan.pause().min(LONGEST_PAUSE));
    let apart = plan.wire.then(apart).flatten();
    let shared = Shared {
        address,
        apart: apart.unwrap_or(0),
        sources: Sources::new(address),
        pattern: Pattern::new(),
        start: AtomicU64::new(0),
        leave: AtomicBool::new(!plan.hold),
        stop: AtomicBool::new(false),
        plan,
    };
    let mut poll = Poll::new().context("epoll_create")?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE).context("eventfd")?);
    let signals = interrupts.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&signals), SIGNAL, Interest::READABLE)?;
    let (sender, notes) = mpsc::channel();
    let teller = Teller { sender, waker };
    // They are to outlive the workers: a wake-up is lost with its descriptor.
    let mut wakers = Vec::new();
    thread::scope(|scope| {
        for number in 0..shared.plan.load.threads {
            let (worker, waker) = Worker::new(&shared, number, teller.clone())?;
            wakers.push(waker);
            let thread = thread::Builder::new().name(format!("worker {number}"));
            thread
                .spawn_scoped(scope, || worker.run())
                .context("start a thread")?;
        }
        let mut conductor =
            Conductor::new(&shared, &mut poll, notes, &wakers, interrupts, began, watch);
        let conducted = conductor.conduct();
        // Whatever happened, they are to end.
        conductor.stop();
        conducted?;
        let signal = conductor.signal;
        conductor.summary.interrupted = signal.is_some();
        Ok((conductor.summary.report(&shared, command), signal))
    })
}

/// The address of the server. Of several, the first that accepts a connection.
fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let addresses = (host, port).to_socket_addrs();
    let addresses: Vec<_> = addresses
        .with_context(|| match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => {
                format!("no address of {host} (the port is an argument of its own: {name} {port})")
            }
            _ => format!("no address of {host}"),
        })?
        .collect();
    let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, PROBE).is_ok();
    match addresses[..] {
        [] => bail!("no address of {host}"),
        [only] => Ok(only),
        [first, ..] => Ok(addresses.iter().find(accepts).copied().unwrap_or(first)),
    }
}

/// What it is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// That all connections are there.
    Connecting,
    /// For a line on stdin (`--hold`).
    Held,
    /// That the warm-up is over.
    WarmingUp(Times),
    /// That the measurement is over.
    Measuring(Times),
    /// That the workers are done.
    Ending,
}

struct Conductor<'a> {
    shared: &'a Shared,
    poll: &'a mut Poll,
    notes: Receiver<Note>,
    wakers: &'a [Waker],
    interrupts: Interrupts,
    began: u64,
    watch: &'a mut dyn Watch,
    stage: Stage,
    connected: usize,
    done: usize,
    signal: Option<Signal>,
    /// Lines that stdin had and that have let nothing go on yet; without `--hold` as if there were many.
    lines: usize,
    /// Slices that not all workers have told of.
    slices: BTreeMap<u64, (usize, Slice)>,
    summary: Summary,
}

impl<'a> Conductor<'a> {
    fn new(
        shared: &'a Shared,
        poll: &'a mut Poll,
        notes: Receiver<Note>,
        wakers: &'a [Waker],
        interrupts: Interrupts,
        began: u64,
        watch: &'a mut dyn Watch,
    ) -> Self {
        Self {
            shared,
            poll,
            notes,
            wakers,
            interrupts,
            began,
            watch,
            stage: Stage::Connecting,
            connected: 0,
            done: 0,
            signal: None,
            lines: if shared.plan.hold { 0 } else { MANY },
            slices: BTreeMap::new(),
            summary: Summary::new(&shared.plan),
        }
    }

    fn conduct(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(8);
        if self.shared.plan.hold {
            self.listen();
        }
        while self.done < self.wakers.len() {
            let polled = self.poll.poll(&mut events, self.patience());
            if let Err(error) = polled {
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error).context("epoll_wait");
                }
            }
            self.on_time()?;
            for event in &events {
                match event.token() {
                    SIGNAL => self.interrupted(),
                    STDIN => self.hear(),
                    _ => {}
                }
            }
            while let Ok(note) = self.notes.try_recv() {
                self.note(note)?;
            }
        }
        self.last_slices()
    }

    fn patience(&self) -> Option<Duration> {
        let next = match self.stage {
            Stage::WarmingUp(times) => times.begin,
            Stage::Measuring(times) => times.end,
            Stage::Connecting | Stage::Held | Stage::Ending => return None,
        };
        Some(Duration::from_nanos(next.saturating_sub(clock::now())))
    }

    fn on_time(&mut self) -> Result<()> {
        let now = clock::now();
        match self.stage {
            Stage::WarmingUp(times) if now >= times.begin => {
                self.stage = Stage::Measuring(times);
                let at_s = self.at_s(times.begin);
                self.watch.event(&Event::Measuring { at_s })
            }
            Stage::Measuring(times) if now >= times.end => self.measured(times),
            _ => Ok(()),
        }
    }

    /// Not when we got round to it, but when it was: so much later than the program's beginning.
    fn at_s(&self, time: u64) -> f64 {
        seconds(time - self.began)
    }

    fn measured(&mut self, times: Times) -> Result<()> {
        self.stage = Stage::Ending;
        let at_s = self.at_s(times.end);
        self.watch.event(&Event::Measured { at_s })?;
        self.go_on();
        Ok(())
    }

    fn listen(&mut self) {
        let mut stdin = SourceFd(&STDIN_FILENO);
        let registry = self.poll.registry();
        let listens = registry.register(&mut stdin, STDIN, Interest::READABLE);
        if listens.is_err() {
            // A file or /dev/null cannot be polled, and never has to be waited for.
            self.lines = MANY;
        }
    }

    /// Lines on stdin, or its end, after which nothing is held any more.
    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        match read(io::stdin(), &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(n @ 1..) => self.lines += buffer[..n].split(|byte| *byte == b'\n').count() - 1,
            Ok(_) | Err(_) => self.lines = MANY,
        }
        self.go_on();
    }

    /// To what has been held, if it is not to be held (any more).
    fn go_on(&mut self) {
        if self.lines == 0 {
            return;
        }
        match self.stage {
            Stage::Held => {
                self.lines -= 1;
                self.start();
            }
            Stage::Ending => {
                self.shared.leave.store(true, Ordering::Release);
                self.wake();
            }
            _ => {}
        }
    }

    fn interrupted(&mut self) {
        if let Some(signal) = self.interrupts.come() {
            self.signal = Some(signal);
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.stage = Stage::Ending;
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        for waker in self.wakers {
            // A worker that has ended needs no waking.
            let _ = waker.wake();
        }
    }

    fn note(&mut self, note: Note) -> Result<()> {
        match note {
            Note::Connected => {
                self.connected += 1;
                if self.connected == self.wakers.len() && self.stage == Stage::Connecting {
                    self.begin()?;
                }
                Ok(())
            }
            Note::Slice(number, slice) => self.slice(number, &slice),
            Note::Done(outcome) => {
                self.done(*outcome?);
                Ok(())
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        let at_s = self.at_s(clock::now());
        self.watch.event(&Event::Connected { at_s })?;
        self.stage = Stage::Held;
        self.go_on();
        Ok(())
    }

    fn start(&mut self) {
        let start = clock::now();
        let times = Times::of(&self.shared.plan, start);
        self.summary.times = times;
        self.stage = Stage::WarmingUp(times);
        self.shared.start.store(start, Ordering::Release);
        self.wake();
    }

    /// One worker's slice; when it is the last worker's, the slice is complete.
    fn slice(&mut self, number: u64, slice: &Slice) -> Result<()> {
        let plan = &self.shared.plan;
        let (count, whole) = self
            .slices
            .entry(number)
            .or_insert_with(|| (0, Slice::of(plan.load.mode, plan.wire)));
        *count += 1;
        whole.merge(slice);
        if *count < self.wakers.len() {
            return Ok(());
        }
        let Some((_, whole)) = self.slices.remove(&number) else {
            return Ok(());
        };
        self.whole_slice(number, &whole)
    }

    fn whole_slice(&mut self, number: u64, slice: &Slice) -> Result<()> {
        self.summary.slice(slice);
        if self.shared.plan.interval.is_none() {
            return Ok(());
        }
        let (from, length) = self.summary.times().slice(number);
        self.watch.slice(from, length, slice)
    }

    /// What was cut off by the end.
    fn last_slices(&mut self) -> Result<()> {
        for (number, (_, slice)) in mem::take(&mut self.slices) {
            self.whole_slice(number, &slice)?;
        }
        Ok(())
    }

    fn done(&mut self, outcome: Outcome) {
        self.done += 1;
        if matches!(self.stage, Stage::Connecting | Stage::Held) {
            // There is no load without all of them.
            self.stop();
        }
        self.summary.outcome(outcome);
    }
}
