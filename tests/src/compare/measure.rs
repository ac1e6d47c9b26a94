//! One measurement: starts a server, waits until it accepts and is at rest, puts it under load, looks
//! into its books, stops it, and sees that nothing is left of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, read};

use crate::compare::account::{Books, Look};
use crate::compare::contestant::{Candidate, Running, with_last_words};
use crate::compare::hindered::{Attempt, Late};
use crate::compare::result::{Calls, Round};
use crate::compare::run::{Executor, Job};
use crate::compare::strace::{self, Counted, STRACE};
use crate::load::failure::Kind;
use crate::load::report::{Event, Outcome, Report};
use crate::observe::accounts::{self, Life, Occupied, Roll};
use crate::observe::processes;
use crate::observe::rest::is_at_rest;
use crate::program::{Ends, Program, Recipe, Target, Which};
use crate::sweep;
use crate::wait::eventually;

/// How long a server may go on with what it does after it has begun to accept, before that counts as
/// its rest; and for each connection that is there.
const SETTLED_WITHIN: Duration = Duration::from_millis(500);
const SETTLED_EACH: Duration = Duration::from_millis(5);

/// The load generator has limits of its own for everything; who keeps silent for longer hangs.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);

/// As little as the load generator can measure.
const SHORTEST: Duration = Duration::from_millis(1);

/// Which processors are for whom; empty: all, together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The server's.
    pub server: Vec<usize>,
    /// The load generator's.
    pub load: Vec<usize>,
}

impl Places {
    /// The last for the load generator, all others for the server; with one only, no division.
    pub fn of(processors: &[usize]) -> Self {
        match processors {
            [server @ .., load] if !server.is_empty() => Self {
                server: server.to_vec(),
                load: vec![*load],
            },
            _ => Self::default(),
        }
    }
}

/// Makes the measurements for real.
#[derive(Debug)]
pub struct Bench {
    places: Places,
    duration: Duration,
    descriptors: u64,
    /// What was odd, and made no figure wrong.
    pub warnings: Vec<String>,
}

/// What was counted of a server under strace, and what it echoed meanwhile.
struct Run {
    counted: Counted,
    echoes: u64,
    bytes: u64,
}

/// Fewer echoes than this are too few to say how often each byte is copied: what is under way at the end is
/// copied, and not counted as echo. Of streams that is some megabytes.
const ENOUGH: u64 = 100;
const ENOUGH_OF_STREAMS: u64 = 4096;

impl Bench {
    /// Measures for so long each time; `descriptors` is the limit for both sides.
    pub fn new(places: Places, duration: Duration, descriptors: u64) -> Self {
        Self {
            places,
            duration,
            descriptors,
            warnings: Vec::new(),
        }
    }

    /// Starts it, and ends it. Error: why that cannot be done, in one line.
    pub fn try_out(&mut self, candidate: &Candidate) -> Result<()> {
        let server = candidate.start(&self.places.server, self.descriptors, &[]);
        let ended = server.and_then(|server| self.stop(candidate, &server));
        self.leave_nothing(candidate);
        ended.map(drop)
    }

    fn start(&self, job: &Job<'_>, prefix: &[&str]) -> Result<Running> {
        let candidate = job.candidate.with(job.task.server_flags());
        candidate.start(&self.places.server, self.descriptors, prefix)
    }

    fn round(&self, job: &Job<'_>, server: &Running) -> Result<Measured> {
        settle(server, 0);
        let at_rest = accounts::occupied(server.leader());
        let (before, loaded_since) = (accounts::shares(server.leader()), Instant::now());
        let warmup = job.task.warmup();
        let mut load = self.load(job, server, self.duration, warmup)?;
        let roll = load.begin(job, server)?;
        load.expect("Measuring", |event| {
            matches!(event, Event::Measuring { .. })
        })?;
        let opened = Look::at(server.leader(), load.program.pid(), roll)?;
        let silent = load.expect("Measured", |event| matches!(event, Event::Measured { .. }))?;
        let closed = Look::at(server.leader(), load.program.pid(), None)?;
        let loaded = accounts::occupied(server.leader());
        let generator_waited = accounts::longest_wait(load.program.pid(), &BTreeMap::new());
        let report = load.let_go()?.report()?;
        if report.echoes == 0 {
            let what =
                "nothing came back in the time measured: it hangs, or takes longer (--duration)";
            bail!(Late {
                what: what.into(),
                came: Some((
                    accounts::longest_wait(server.leader(), &before).max(generator_waited),
                    loaded_since.elapsed(),
                )),
            });
        }
        Ok(Measured {
            at_rest,
            opened,
            closed,
            silent,
            loaded,
            report,
        })
    }

    fn load(
        &self,
        job: &Job<'_>,
        server: &Running,
        duration: Duration,
        warmup: Duration,
    ) -> Result<Load> {
        let address = server.address;
        let mut words = vec![address.ip().to_string(), address.port().to_string()];
        words.extend(job.task.arguments(job.point, duration, warmup));
        words.extend(["--json-stream", "--hold"].map(str::to_owned));
        Load::start(&words, &self.places.load, self.descriptors)
    }

    /// Ends it, and everything it has started. What it needed from beginning to end.
    fn stop(&mut self, candidate: &Candidate, server: &Running) -> Result<Option<Life>> {
        let leader = server.leader();
        server.still_lives()?;
        server.tell_to_end()?;
        let ended = server.ended(|| accounts::life(leader));
        if let Err(error) = &ended {
            self.warn(format!("{}: {error}; it was killed", candidate.name));
        } else {
            server.ended(|| server.status())?;
        }
        Ok(ended.ok())
    }

    /// Kills whoever is left of a server, and waits for those who became our children. To be called
    /// however a measurement has gone: who goes into the background outlives a server that fails.
    fn leave_nothing(&mut self, candidate: &Candidate) {
        let own = std::process::id() as i32;
        // A shell may die of SIGTERM before what it has started does.
        let _ = eventually("their end", SETTLED_WITHIN, || {
            let dead = |process: &processes::Process| process.state == 'Z';
            processes::children(own).iter().all(dead).then_some(())
        });
        let left = processes::children(own);
        let mut alive: Vec<_> = left.iter().filter(|process| process.state != 'Z').collect();
        if !alive.is_empty() && !self.is_interrupted() {
            let count = alive.len();
            alive.dedup_by(|a, b| a.comm == b.comm);
            let names: Vec<_> = alive.iter().map(|process| process.comm.as_str()).collect();
            self.warn(format!(
                "{} left processes behind: {} ({count} in all)",
                candidate.name,
                names.join(", ")
            ));
        }
        clear_away(own);
    }

    fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// From its start to its end.
    fn strace(&mut self, job: &Job<'_>, duration: Duration) -> Result<Run> {
        let server = self.start(job, &STRACE)?;
        let mut load = self.load(job, &server, duration, Duration::ZERO)?;
        load.begin(job, &server)?;
        load.expect("Measured", |event| matches!(event, Event::Measured { .. }))?;
        let report = load.let_go()?.report()?;
        server.tell_to_end()?;
        server.ended(|| server.status())?;
        Ok(Run {
            counted: strace::counted(&server.stderr()),
            echoes: report.echoes,
            bytes: report.bytes,
        })
    }

    /// Starts it, measures, and stops it.
    fn measured(&mut self, job: &Job<'_>) -> Result<Round> {
        let attempt = Attempt::begin()?;
        let server = self.start(job, &[])?;
        let measured = self.round(job, &server);
        let measured = match (measured, server.still_lives()) {
            (Ok(measured), _) => measured,
            // Why it has ended is more than what the others noticed of it.
            (Err(_), Err(ended)) => return Err(ended),
            (Err(error), Ok(())) => {
                let error = match attempt.excuse(&error, server.leader()) {
                    Some(hindered) => hindered.into(),
                    None => with_last_words(&format!("{error:#}"), &server),
                };
                self.stop(job.candidate, &server)?;
                return Err(error);
            }
        };
        let life = self.stop(job.candidate, &server)?;
        let books = Books {
            at_rest: measured.at_rest,
            opened: measured.opened,
            closed: measured.closed,
            silent: measured.silent,
            loaded: measured.loaded,
            life,
            connects: job.task.connects(),
        };
        books.round(job.round, measured.report)
    }

    fn counted(&mut self, job: &Job<'_>) -> Result<Calls> {
        let few = self.strace(job, SHORTEST)?;
        let mut run = self.strace(job, self.duration)?.without(&few);
        let enough = if job.task.is_bulk() {
            ENOUGH_OF_STREAMS
        } else {
            ENOUGH
        };
        // Of company nobody knows how many bytes were echoed.
        if !job.task.is_alone() || run.echoes < enough {
            run.counted.copied = None;
        }
        run.calls()
    }
}

/// What a round has brought, as long as the server lives.
struct Measured {
    at_rest: Occupied,
    opened: Look,
    closed: Look,
    silent: Instant,
    loaded: Occupied,
    report: Report,
}

impl Executor for Bench {
    fn measure(&mut self, job: &Job<'_>) -> Result<Round> {
        let round = self.measured(job);
        self.leave_nothing(job.candidate);
        round
    }

    /// What a run of the usual length has more than a very short one: so the start of the server does
    /// not count, nor do connections that are there all the time.
    fn count_calls(&mut self, job: &Job<'_>) -> Result<Calls> {
        let calls = self.counted(job);
        self.leave_nothing(job.candidate);
        calls
    }

    fn is_interrupted(&self) -> bool {
        sweep::interrupted().is_some()
    }
}

/// Waits until it has done what a start, or so many new connections, bring with it: workers are forked,
/// connections accepted. One that never rests is taken as it is.
fn settle(server: &Running, connections: u64) {
    let within = SETTLED_WITHIN + SETTLED_EACH * connections as u32;
    let _ = eventually("rest", within, || is_at_rest(server.leader()).then_some(()));
}

impl Run {
    /// What this one has more than that.
    fn without(mut self, other: &Self) -> Self {
        for (call, count) in &other.counted.calls {
            let more = self.counted.calls.entry(call.clone()).or_default();
            *more = more.saturating_sub(*count);
        }
        let copied = self.counted.copied.zip(other.counted.copied);
        self.counted.copied = copied.map(|(more, less)| more.saturating_sub(less));
        self.echoes = self.echoes.saturating_sub(other.echoes);
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self
    }

    /// Names that take less than a hundredth of an echo are left out.
    fn calls(&self) -> Result<Calls> {
        let counts = &self.counted.calls;
        if self.echoes == 0 || counts.is_empty() {
            bail!("nothing was counted");
        }
        let each = |count: u64| count as f64 / self.echoes as f64;
        let mut by_name: Vec<(String, f64)> = counts
            .iter()
            .map(|(name, count)| (name.clone(), each(*count)))
            .collect();
        by_name.retain(|(_, each)| *each >= 0.01);
        by_name.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let copied = self.counted.copied;
        Ok(Calls {
            per_echo: each(counts.values().sum()),
            by_name,
            copies: copied.map(|copied| copied as f64 / self.bytes as f64),
            echoes: self.echoes,
        })
    }
}

/// Is it about something that did not come in time?
fn is_late(failure: &str) -> bool {
    let kinds = [Kind::Timeout, Kind::NoFin, Kind::Unreachable];
    let of = |kind: &Kind| failure.starts_with(&format!("{}:", kind.name()));
    kinds.iter().any(of)
}

/// The load generator at work.
struct Load {
    program: Program,
    stdin: Option<File>,
    events: OwnedFd,
    unread: Vec<u8>,
    last: Option<Event>,
    clock: Clock,
}

/// The generator's clock, which begins with it, as nearly as is known: what it says is read some time
/// after it has happened.
#[derive(Default)]
struct Clock {
    began: Option<Instant>,
}

impl Clock {
    /// When something happened, so long after the beginning, that is read `now`.
    fn when(&mut self, after: Duration, now: Instant) -> Instant {
        let began = now.checked_sub(after).unwrap_or(now);
        let began = self.began.map_or(began, |earlier| earlier.min(began));
        self.began = Some(began);
        began + after
    }
}

impl Load {
    fn start(words: &[String], processors: &[usize], descriptors: u64) -> Result<Self> {
        let (events, theirs) = Target::pipe()?;
        let mut recipe = Recipe::new(Which::Ours("tcpecho-load"));
        recipe.args = words.iter().map(Into::into).collect();
        recipe.processors = processors.to_vec();
        recipe.descriptors = Some((descriptors, descriptors));
        recipe.given[1] = Some(theirs);
        let program = recipe.start(Ends::Pipes, None)?;
        // Its end of the pipe is the only one now, so that its end is the end of the pipe.
        drop(recipe);
        Ok(Self {
            stdin: program.take_stdin().map(File::from),
            program,
            events,
            unread: Vec::new(),
            last: None,
            clock: Clock::default(),
        })
    }

    /// Waits for an event that says when it happened. Returns that, for it may be read much later: after
    /// a look at thousands of processes, or when others had the processors. Error: the run has ended
    /// without it.
    fn expect(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) -> Result<Instant> {
        while let Some(event) = self.next()? {
            if is_it(&event) {
                return self.when(&event).context("an event without a time");
            }
            self.last = Some(event);
        }
        self.ended_well()?;
        bail!("the load generator has ended without saying {what}")
    }

    /// When this happened.
    fn when(&mut self, event: &Event) -> Option<Instant> {
        let (Event::Connected { at_s } | Event::Measuring { at_s } | Event::Measured { at_s }) =
            event
        else {
            return None;
        };
        let after = Duration::from_secs_f64(*at_s);
        Some(self.clock.when(after, Instant::now()))
    }

    /// Lets the load begin when the server has accepted all connections. Returns its processes, where none
    /// comes or goes from then on.
    fn begin(&mut self, job: &Job<'_>, server: &Running) -> Result<Option<Roll>> {
        self.expect("Connected", |event| {
            matches!(event, Event::Connected { .. })
        })?;
        let mut roll = None;
        if !job.task.connects() {
            settle(server, job.task.all_connections(job.point));
            roll = Some(accounts::roll(server.leader()));
        }
        self.go_on();
        Ok(roll)
    }

    /// A line, for which it waits (`--hold`).
    fn go_on(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            // It may have ended by itself.
            let _ = stdin.write_all(b"\n");
        }
    }

    /// Lets it close its connections, and waits for its end.
    fn let_go(mut self) -> Result<Self> {
        self.go_on();
        while let Some(event) = self.next()? {
            self.last = Some(event);
        }
        Ok(self)
    }

    /// What it has found, if all went well.
    fn report(mut self) -> Result<Report> {
        self.ended_well()?;
        match self.last.take() {
            Some(Event::End { report }) => Ok(*report),
            _ => bail!("the load generator has ended without a report"),
        }
    }

    /// Error: what went wrong, as it says it itself.
    fn ended_well(&self) -> Result<()> {
        let wrong = |report: &Report| {
            let first = report.errors.first();
            let first = first.map(|failure| format!("{}: {}", failure.kind, failure.first));
            first.filter(|_| report.outcome == Outcome::Failed)
        };
        let told = match &self.last {
            Some(Event::End { report }) => wrong(report),
            _ => None,
        };
        let status = self.program.wait(SILENT_AT_MOST)?;
        match told {
            Some(first) if is_late(&first) => Err(Late::never(first).into()),
            Some(first) => Err(anyhow!(first)),
            None if status.success() => Ok(()),
            None => Err(with_last_words(
                &format!("tcpecho-load: {status}"),
                &self.program,
            )),
        }
    }

    /// The next line; None at the end.
    fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .context("what the load generator says is not JSON");
            }
            if self.read()? == 0 {
                return Ok(None);
            }
        }
    }

    fn read(&mut self) -> Result<usize> {
        let patience = PollTimeout::try_from(SILENT_AT_MOST)?;
        let mut buffer = [0; 16 * 1024];
        let mut fds = [PollFd::new(
            std::os::fd::AsFd::as_fd(&self.events),
            PollFlags::POLLIN,
        )];
        if poll(&mut fds, patience)? == 0 {
            bail!(Late::never(format!(
                "the load generator has said nothing for {} s",
                SILENT_AT_MOST.as_secs()
            )));
        }
        match read(&self.events, &mut buffer) {
            Err(Errno::EINTR) => self.read(),
            n => {
                let n = n?;
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(n)
            }
        }
    }
}

/// Kills all descendants and waits for them. Who dies leaves its children to us, so look again until
/// there is nobody; each look is one for all, because there may be thousands.
fn clear_away(own: i32) {
    loop {
        let tree = processes::tree(own);
        if tree.len() < 2 {
            return;
        }
        for process in tree.iter().skip(1) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        for process in tree.iter().filter(|process| process.ppid == own) {
            let _ = waitpid(Pid::from_raw(process.pid), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_processor_is_for_the_load() {
        let places = Places::of(&[0, 2, 3]);
        assert_eq!((places.server, places.load), (vec![0, 2], vec![3]));
        assert_eq!(Places::of(&[5]), Places::default());
        assert_eq!(Places::of(&[]), Places::default());
    }

    #[test]
    fn what_is_read_late_has_not_happened_late() {
        const MS: Duration = Duration::from_millis(1);
        let began = Instant::now();
        let mut clock = Clock::default();
        let mut when = |after: u32, read: u32| clock.when(MS * after, began + MS * read) - began;
        assert_eq!(when(100, 130), MS * 130, "nothing better is known");
        assert_eq!(when(200, 201), MS * 201, "now it is known better");
        assert_eq!(when(400, 900), MS * 401);
    }

    /// A run with so many echoes of 10 bytes.
    fn run(calls: &[(&str, u64)], copied: Option<u64>, echoes: u64) -> Run {
        let calls = calls
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        Run {
            counted: Counted {
                calls: calls.collect(),
                copied,
            },
            echoes,
            bytes: 10 * echoes,
        }
    }

    #[test]
    fn what_counts_is_what_a_long_run_has_more_than_a_short_one() {
        let few = run(&[("read", 30), ("mmap", 20)], Some(700), 5);
        let many = run(
            &[("read", 2030), ("epoll_wait", 40), ("mmap", 20)],
            Some(20_700),
            1005,
        );
        let calls = many.without(&few).calls().expect("some");
        assert!((calls.per_echo - 2.04).abs() < 1e-9);
        let expected = [("read".to_owned(), 2.0), ("epoll_wait".to_owned(), 0.04)];
        assert_eq!(calls.by_name, expected);
        assert_eq!((calls.copies, calls.echoes), (Some(2.0), 1000));
    }

    #[test]
    fn what_was_not_counted_is_not_told() {
        assert!(run(&[("read", 2000)], None, 0).calls().is_err());
        assert!(run(&[], None, 1000).calls().is_err());
        let copies = |copied, echoes| run(&[("read", 2000)], copied, echoes).calls();
        let copies = |copied, echoes| copies(copied, echoes).expect("some").copies;
        assert_eq!(copies(None, 1000), None);
        assert_eq!(copies(Some(20_000), 1000), Some(2.0));
        let unknown = run(&[("read", 2)], None, 1);
        let known = run(&[("read", 2000)], Some(20_000), 1000);
        assert_eq!(known.without(&unknown).calls().expect("some").copies, None);
    }
}
