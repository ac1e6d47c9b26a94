//! The command line of `tcpecho-lab compare`, and what becomes of it: plan, measure, judge, write.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use tcpecho_common::{Exit, Model, logging, units, usage};

use crate::compare::contestant::{self, Candidate, Refused};
use crate::compare::environment::{descriptors, environment, processors};
use crate::compare::export;
use crate::compare::judge::judge;
use crate::compare::measure::{Bench, Places};
use crate::compare::result::{Comparison, FORMAT, Outcome};
use crate::compare::run::{Job, Plan, run};
use crate::compare::schedule;
use crate::compare::strace::STRACE;
use crate::compare::terminal::{Glyphs, terminal};
use crate::compare::workload::{self, Task};
use crate::date::utc;
use crate::deathwatch::DeathWatch;
use crate::file::{can_all_be_written, is_stdout, write};
use crate::stdout::print;
use crate::{binaries, sweep};

/// Who takes part unless told otherwise: all clients in one thread, found at once or by looking at all;
/// a thread for each; a process for each.
const MODELS: [Model; 4] = [Model::Reactor, Model::Poll, Model::Thread, Model::Fork];

/// What they do unless told otherwise: (name, point).
const TASKS: [(&str, Option<u64>); 3] = [
    ("echo-small", None),
    ("idle", Some(1000)),
    ("connect", None),
];

/// How long a comparison may take unless told otherwise.
const BUDGET: Duration = Duration::from_secs(80);
const QUICK_BUDGET: Duration = Duration::from_secs(25);

/// How long is measured at most, and at least.
const LONGEST: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(200);

/// How long a run takes in which system calls are counted, beside the time measured.
const COUNTING: Duration = Duration::from_millis(900);

/// Help behind the flags.
pub const HELP: &str = "\
Every server is started, loaded, accounted for (with its children, those that have ended as \
well), and stopped, in every round, next to the others; in the end sentences say what the figures \
mean. The load generator (tcpecho-load) has a processor to itself, if there is more than one.

Examples:
  tcpecho-lab compare                       four models, three workloads, 90 s
  tcpecho-lab compare --models 'reactor,reactor --workers 2' --workload idle
  tcpecho-lab compare --server 'python3 echo.py {port}'          and yours
  tcpecho-lab compare --models none --server './a {port}' --server './b {port}'
  tcpecho-lab compare --full --export-html report.html           all there is

Exit codes: 0 done (who cannot do something by its nature is no failure), 1 a server failed, \
2 the command line cannot be right, 130 after Ctrl-C, which leaves nothing behind.";

/// Put the models, and other people's servers, under the same loads in turn, and say who needs what.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags are bools")]
pub struct Compare {
    /// Who takes part: models, each with flags of tcpechod behind it; all; none [default: reactor,poll,thread,fork]
    #[arg(long, value_name = "MODEL[ FLAGS],...", value_delimiter = ',')]
    models: Vec<String>,

    /// Another server: a shell command that stays in the foreground, {port} for the port; NAME=CMD names it
    #[arg(long, value_name = "[NAME=]CMD", value_parser = contestant::server)]
    server: Vec<Candidate>,

    /// What they have to do; all (see --list-workloads) [default: echo-small, idle with 1,000 silent connections, connect]
    #[arg(long, visible_alias = "workloads", value_name = "NAME,...", value_delimiter = ',', value_parser = tasks())]
    workload: Vec<String>,

    /// Rounds: how often everybody has everything [default: 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// How long is measured each time [default: as long as all of it takes under 90 s, at most 1s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,

    /// The order of the rounds is drawn from this number [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Three short rounds, under 30 s in all, no system calls counted
    #[arg(long, conflicts_with = "full")]
    quick: bool,

    /// All models, all workloads; says beforehand how long it takes
    #[arg(long)]
    full: bool,

    /// Count system calls (with strace, in runs of their own) in spite of --quick
    #[arg(long)]
    calls: bool,

    /// Write the comparison with all raw figures to a file; - is stdout
    #[arg(long, value_name = "FILE")]
    export_json: Option<PathBuf>,

    /// Write a line for each round
    #[arg(long, value_name = "FILE")]
    export_csv: Option<PathBuf>,

    /// Write the tables
    #[arg(long, value_name = "FILE")]
    export_markdown: Option<PathBuf>,

    /// Write a page with pictures, which needs nothing else
    #[arg(long, value_name = "FILE")]
    export_html: Option<PathBuf>,

    /// List the workloads and what each shows, and exit
    #[arg(long)]
    list_workloads: bool,
}

fn tasks() -> PossibleValuesParser {
    let names = workload::ALL
        .iter()
        .map(|task| PossibleValue::new(task.name));
    PossibleValuesParser::new(names.chain([PossibleValue::new("all")]))
}

type Format = fn(&Comparison) -> Result<String>;

impl Compare {
    /// Does it. Whatever is wrong with the command line is told in one line, with exit code 2.
    pub fn run(&self, width: usize) -> Result<Exit> {
        if self.list_workloads {
            list()?;
            return Ok(Exit::Done);
        }
        let watch = DeathWatch::begin()?;
        // Whatever the signal, no file is left.
        sweep::when_interrupted(sweep::Last::Caller)?;
        let candidates = match self
            .candidates()
            .and_then(|all| self.check_exports().map(|()| all))
        {
            Ok(candidates) => candidates,
            Err(error) => {
                logging::say(
                    "tcpecho-lab",
                    format!("{error:#} (try 'tcpecho-lab compare --help')"),
                );
                return Ok(Exit::Usage);
            }
        };
        binaries::path("tcpecho-load").context("the load generator is not built: make compare")?;
        let done = self.compare(candidates, width);
        drop(watch);
        sweep::die();
        match done {
            Err(error) if error.is::<Refused>() => {
                logging::say("tcpecho-lab", error);
                Ok(Exit::Usage)
            }
            done => done,
        }
    }

    fn candidates(&self) -> Result<Vec<Candidate>> {
        let words: Vec<&str> = self.models.iter().map(|text| text.trim()).collect();
        let models: Result<Vec<Candidate>, String> = match words[..] {
            [] if self.full => Ok(Model::all()
                .iter()
                .copied()
                .map(contestant::plain)
                .collect()),
            [] => Ok(MODELS.iter().copied().map(contestant::plain).collect()),
            ["all"] => Ok(Model::all()
                .iter()
                .copied()
                .map(contestant::plain)
                .collect()),
            ["none"] => Ok(Vec::new()),
            _ => words.iter().map(|text| contestant::model(text)).collect(),
        };
        let mut all = match models {
            Ok(models) => models,
            Err(why) => bail!("--models: {why}"),
        };
        all.extend(self.server.iter().cloned());
        if all.is_empty() {
            bail!("nobody takes part: --models, or --server");
        }
        Ok(contestant::unique(all))
    }

    /// Each with the points that it is to have.
    fn tasks(&self) -> Vec<(Task, Vec<Option<u64>>)> {
        let all = |task: &Task| (*task, task.points());
        let names = &self.workload;
        if self.full && names.is_empty() || names.iter().any(|name| name == "all") {
            return workload::ALL.iter().map(all).collect();
        }
        if names.is_empty() {
            let found = TASKS
                .iter()
                .map(|(name, point)| Some((*workload::find(name)?, vec![*point])));
            return found.flatten().collect();
        }
        let wanted = |task: &&Task| names.iter().any(|name| name == task.name);
        workload::ALL.iter().filter(wanted).map(all).collect()
    }

    fn exports(&self) -> [(Option<&PathBuf>, Format); 4] {
        [
            (self.export_json.as_ref(), export::json::json),
            (self.export_csv.as_ref(), |found| {
                Ok(export::csv::csv(found))
            }),
            (self.export_markdown.as_ref(), |found| {
                Ok(export::markdown::markdown(found))
            }),
            (self.export_html.as_ref(), |found| {
                Ok(export::html::html(found))
            }),
        ]
    }

    /// Files can be written where they are wanted, and stdout is wanted once.
    fn check_exports(&self) -> Result<()> {
        let exports = self.exports();
        let files = exports
            .iter()
            .filter_map(|(file, _)| file.map(PathBuf::as_path));
        can_all_be_written(&files.collect::<Vec<_>>())
    }

    /// Is stdout somebody's export?
    fn has_stdout(&self) -> bool {
        self.exports()
            .iter()
            .any(|(file, _)| file.is_some_and(|file| is_stdout(file)))
    }

    fn compare(&self, candidates: Vec<Candidate>, width: usize) -> Result<Exit> {
        let began = (Instant::now(), SystemTime::now());
        let places = Places::of(&processors());
        let mut remarks = Vec::new();
        let tasks = self.tasks();
        let count_calls = match strace_refuses() {
            _ if self.quick && !self.calls => false,
            Some(why) => {
                remarks.push(format!("System calls were not counted: {why}."));
                false
            }
            None => true,
        };
        let (rounds, duration) = self.extent(&tasks, candidates.len(), count_calls);
        let mut bench = Bench::new(places.clone(), duration, descriptors()?);
        let plan = Plan {
            candidates: tried_out(candidates, &mut bench)?,
            tasks,
            rounds,
            seed: self
                .seed
                .unwrap_or(began.1.duration_since(SystemTime::UNIX_EPOCH)?.as_secs()),
            descriptors: descriptors()?,
            count_calls,
        };
        if cfg!(debug_assertions) {
            let text = "a debug build, whose figures say nothing about the models: make compare";
            logging::say("tcpecho-lab", text);
        }
        let status = Status::new();
        let cells = run(&plan, &mut bench, &mut |job, done, total| {
            status.show(job, done, total);
        });
        status.clear();
        remarks.extend(bench.warnings.iter().cloned());
        let mut found = Comparison {
            format: FORMAT,
            command: usage::command_line(),
            began: utc(began.1.duration_since(SystemTime::UNIX_EPOCH)?.as_secs()),
            took_s: began.0.elapsed().as_secs_f64(),
            environment: environment(&places, plan.descriptors),
            seed: plan.seed,
            rounds,
            duration_s: duration.as_secs_f64(),
            interrupted: sweep::interrupted().is_some(),
            contestants: plan
                .candidates
                .iter()
                .map(|(one, _)| one.described())
                .collect(),
            workloads: plan
                .tasks
                .iter()
                .map(|(task, points)| task.described(points, duration))
                .collect(),
            cells,
            ratios: Vec::new(),
            conclusions: Vec::new(),
            warnings: Vec::new(),
        };
        judge(&mut found);
        found.warnings.splice(0..0, remarks);
        self.tell(&found, width)
    }

    /// How often, and how long each time.
    fn extent(
        &self,
        tasks: &[(Task, Vec<Option<u64>>)],
        candidates: usize,
        calls: bool,
    ) -> (u32, Duration) {
        let once = if calls { COUNTING } else { Duration::ZERO };
        let effort = |task: &Task, point: &Option<u64>| schedule::Effort {
            cells: candidates as u32,
            each: task.overhead(*point),
            once,
        };
        let efforts: Vec<_> = tasks
            .iter()
            .flat_map(|(task, points)| points.iter().map(move |point| effort(task, point)))
            .collect();
        let wanted = schedule::Plan {
            rounds: self.rounds.unwrap_or(if self.quick { 3 } else { 7 }),
            duration: self.duration.unwrap_or(LONGEST),
        };
        let budget = if self.quick { QUICK_BUDGET } else { BUDGET };
        let plan = match (self.duration, self.full) {
            (None, false) => wanted.within(budget, &efforts, SHORTEST, wanted.rounds),
            (None, true) => schedule::Plan {
                duration: LONGEST.mul_f64(0.6),
                ..wanted
            },
            (Some(_), _) => wanted,
        };
        let takes = plan.takes(&efforts);
        if self.full || takes > BUDGET || Status::new().watched {
            let text = format!(
                "this takes about {}; Ctrl-C ends it early, and what was measured is told",
                about(takes)
            );
            logging::say("tcpecho-lab", text);
        }
        (plan.rounds, plan.duration)
    }

    /// Writes it where it is wanted; what was interrupted to the terminal only.
    fn tell(&self, found: &Comparison, width: usize) -> Result<Exit> {
        let text = terminal(found, width, glyphs());
        match (self.has_stdout(), found.interrupted) {
            (false, _) => print(move || anstream::stdout().write_all(text.as_bytes()))?,
            (true, true) => print(move || anstream::stderr().write_all(text.as_bytes()))?,
            (true, false) => {}
        }
        let exports = self.exports().into_iter();
        let exports = exports.filter_map(|(file, format)| Some((file?, format)));
        if found.interrupted {
            let files: Vec<_> = exports
                .map(|(file, _)| file.display().to_string())
                .collect();
            if !files.is_empty() {
                let text = format!("interrupted: not written: {}", files.join(", "));
                logging::say("tcpecho-lab", text);
            }
        } else {
            for (file, format) in exports {
                write(file, format(found)?)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        let mut failed = Exit::Done;
        for cell in &found.cells {
            let (who, at) = (&cell.contestant, &cell.workload);
            let text = match &cell.outcome {
                Outcome::Failed { why } => format!("{who} failed at {at}: {why}"),
                Outcome::Hindered { why } => {
                    format!("{who} was not measured at {at}: {why}; end them and compare again")
                }
                _ => continue,
            };
            logging::say("tcpecho-lab", text);
            failed = Exit::Failed;
        }
        Ok(failed)
    }
}

/// Starts and ends each of ours once, so that a flag that it does not know is told of before anything
/// takes time. A system may forbid io_uring: then that one cannot take part.
fn tried_out(
    candidates: Vec<Candidate>,
    bench: &mut Bench,
) -> Result<Vec<(Candidate, Option<String>)>> {
    let mut tried = Vec::new();
    for candidate in candidates {
        let absent = match candidate.model() {
            None => None,
            Some(model) => match bench.try_out(&candidate) {
                Ok(()) => None,
                Err(error) if model == Model::Uring => Some(format!("{error:#}")),
                Err(error) if error.is::<Refused>() => return Err(error),
                Err(error) => bail!("{}: {error:#}", candidate.name),
            },
        };
        tried.push((candidate, absent));
    }
    Ok(tried)
}

/// In minutes if there are several, else in seconds.
fn about(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.0} min", seconds / 60.0),
    }
}

/// Why strace cannot be used, if it cannot.
fn strace_refuses() -> Option<String> {
    let [strace, flags @ ..] = STRACE;
    let mut command = Command::new(strace);
    command.args(flags).arg("true").stdin(Stdio::null());
    let output = match sweep::starting() {
        Err(interrupted) => return Some(interrupted.to_string()),
        Ok(_starting) => command.output(),
    };
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("there is no strace".into()),
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(said.lines().next().unwrap_or("strace failed").to_owned())
        }
    }
}

fn list() -> Result<()> {
    let width = workload::ALL
        .iter()
        .map(|task| task.name.len())
        .max()
        .unwrap_or(0);
    let mut out = anstream::stdout().lock();
    for Task {
        name, title, shows, ..
    } in workload::ALL
    {
        writeln!(out, "{name:<width$}  {title}\n{:width$}  {shows}", "")?;
    }
    Ok(())
}

fn glyphs() -> Glyphs {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| set(name));
    Glyphs::of_locale(&locale.unwrap_or_default())
}

/// One line on stderr that is written over again, where somebody watches.
struct Status {
    watched: bool,
}

impl Status {
    fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            watched: io::stderr().is_terminal() && !dumb,
        }
    }

    fn show(&self, job: &Job<'_>, done: usize, total: usize) {
        let Job {
            candidate,
            task,
            point,
            round,
        } = job;
        let point = point.map(|point| format!(" {point}")).unwrap_or_default();
        let text = format!(
            "{:>3} %, round {}: {} under {}{point}",
            100 * done / total.max(1),
            round + 1,
            candidate.name,
            task.name,
        );
        self.line(&text);
    }

    fn clear(&self) {
        self.line("");
    }

    fn line(&self, text: &str) {
        if self.watched {
            // Who watches no more misses nothing.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        compare: Compare,
    }

    fn parsed(words: &[&str]) -> Compare {
        let line = ["compare"].iter().chain(words);
        Cli::try_parse_from(line).expect("a good line").compare
    }

    fn names(compare: &Compare) -> Vec<String> {
        let all = compare.candidates().expect("some");
        all.into_iter().map(|candidate| candidate.name).collect()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn who_takes_part() {
        assert_eq!(names(&parsed(&[])), ["reactor", "poll", "thread", "fork"]);
        assert_eq!(names(&parsed(&["--full"])).len(), Model::all().len());
        let flags = [
            "--models",
            "reactor, reactor --workers 2",
            "--server",
            "x {port}",
        ];
        assert_eq!(
            names(&parsed(&flags)),
            ["reactor", "reactor --workers 2", "x"]
        );
        assert_eq!(
            names(&parsed(&["--models", "none", "--server", "a=x {port}"])),
            ["a"]
        );
        assert!(parsed(&["--models", "none"]).candidates().is_err());
        let wrong = parsed(&["--models", "fork,reacto"])
            .candidates()
            .expect_err("no such model");
        assert!(wrong.to_string().contains("'reacto'"), "{wrong}");
    }

    #[test]
    fn what_they_do() {
        let tasks = parsed(&[]).tasks();
        let points: Vec<_> = tasks
            .iter()
            .map(|(task, points)| (task.name, points.len()))
            .collect();
        assert_eq!(points, [("echo-small", 1), ("idle", 1), ("connect", 1)]);
        let tasks = parsed(&["--workload", "idle,latency"]).tasks();
        let points: Vec<_> = tasks
            .iter()
            .map(|(task, points)| (task.name, points.len()))
            .collect();
        assert_eq!(points, [("latency", 1), ("idle", 5)]);
        assert_eq!(
            parsed(&["--workloads", "all"]).tasks().len(),
            workload::ALL.len()
        );
    }

    #[test]
    fn it_takes_as_long_as_it_may() {
        let compare = parsed(&[]);
        let (rounds, duration) = compare.extent(&compare.tasks(), 4, true);
        assert_eq!(rounds, 7);
        assert!(duration >= SHORTEST && duration <= LONGEST, "{duration:?}");
        let quick = parsed(&["--quick"]);
        let (rounds, shorter) = quick.extent(&quick.tasks(), 4, false);
        assert_eq!(rounds, 3);
        assert!(shorter >= SHORTEST && shorter <= LONGEST, "{shorter:?}");
        let exact = parsed(&["--rounds", "2", "--duration", "100ms"]);
        assert_eq!(
            exact.extent(&exact.tasks(), 4, true),
            (2, Duration::from_millis(100))
        );
    }

    #[test]
    fn stdout_is_for_one() {
        assert!(parsed(&["--export-json", "-"]).check_exports().is_ok());
        let twice = parsed(&["--export-json", "-", "--export-csv", "-"]).check_exports();
        assert!(twice.expect_err("two").to_string().contains("twice"));
    }
}
