//! `tcpecho-lab run`: performs labs, and says how they went.
//!
//! This process performs nothing itself. Each lab has a process and namespaces of its own: on this
//! terminal if somebody is to follow it step by step, otherwise side by side with others.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anstream::AutoStream;
use anyhow::Result;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use tcpecho_common::{Exit, logging, usage};

use crate::handout::files::{Files, Writing};
use crate::labs;
use crate::load::progress::Progress;
use crate::narrate::Lab;
use crate::narrate::record::Record;
use crate::runner::all::{News, side_by_side};
use crate::runner::child::{Outcome, Stagehand};
use crate::runner::perform::Manner;
use crate::runner::programs_are_built;
use crate::runner::summary::{self, Summary};
use crate::stdout::columns;
use crate::sweep::{self, Last};

/// What `tcpecho-lab run --help` says at its end.
pub const HELP: &str = "\
A demonstration starts the programs for real, in a network and process table of its own, asks you what will
happen, lets it happen, and compares what the kernel shows with what it must show:

  OK         as expected
  VARIATION  otherwise, for a reason that is known and given
  DIFFERENT  otherwise; the exit code is 1
  SKIP       it cannot be seen here, and why (with --strict the exit code is 1)

On a terminal it waits for you at every step; in a pipe it goes on by itself. Where the kernel
refuses namespaces it says so and runs on the ordinary loopback, without packets. Several
demonstrations that wait for nobody run side by side, and are shown one after the other. Ctrl-C ends
everything that was started.

Examples:
  tcpecho-lab run premature-termination             in class
  tcpecho-lab run premature-termination --auto      without a hand on the keyboard
  tcpecho-lab run premature-termination --full | less      to read
  tcpecho-lab run all --auto=0 --quiet              does everything still hold?

Environment:
  TCPECHO_BIN_DIR    take tcpechod and tcpecho from this directory, and build nothing";

/// All of them, on the command line.
const ALL: &str = "all";

/// How long a page stays that nobody turns, if somebody may be watching: seconds.
const GLANCE: f64 = 2.0;

/// What to perform, and how.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct Run {
    /// Which demonstrations (see `tcpecho-lab list`); `all` of them
    #[arg(value_name = "NAME", required = true, value_parser = names_and_all())]
    pub labs: Vec<String>,

    /// Who turns the pages
    #[command(flatten)]
    pub pace: Pace,

    /// Show only a line for each, and the whole of those that differ; never wait
    #[arg(short, long, conflicts_with = "step")]
    pub quiet: bool,

    /// Show time lines from the first packet on, not only from the event they are about
    #[arg(long)]
    pub full: bool,

    /// Fail if anything cannot be seen here: what is skipped counts as failure
    #[arg(long)]
    pub strict: bool,

    /// Stay out of namespaces: on the host's loopback, without packets
    #[arg(long)]
    pub plain: bool,

    /// Of demonstrations that wait for nobody, run so many side by side [default: three for each
    /// processor, with --plain one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,

    /// What to write
    #[command(flatten)]
    pub files: Files,

    /// Tell there how it went, as JSON: for the menu
    #[arg(long, value_name = "FD", hide = true)]
    pub report_fd: Option<i32>,
}

/// Who turns the pages.
#[derive(Args, Clone, Copy, Debug, Default)]
#[group(multiple = false)]
pub struct Pace {
    /// Wait for Enter at every step, and for your predictions [default on a terminal]
    #[arg(long)]
    pub step: bool,

    /// Go on by itself, after so many seconds at every step [default in a pipe, with 0; without a
    /// number on a terminal 2]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, value_parser = seconds)]
    pub auto: Option<Option<f64>>,
}

fn names_and_all() -> PossibleValuesParser {
    let names = labs::ALL.iter().map(|lab| PossibleValue::new(lab.name));
    PossibleValuesParser::new(names.chain([PossibleValue::new(ALL)]))
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().map_err(|_| "not a number of seconds")?;
    let sensible = (0.0..=3600.0).contains(&number);
    sensible.then_some(number).ok_or("0 to 3600 seconds".into())
}

impl Run {
    /// Performs what was asked for. The exit code is 1 if anything differed.
    pub fn run(&self) -> Result<ExitCode> {
        if let Err(error) = self.files.check(self.pace.step) {
            let text = format!("{error:#} (try 'tcpecho-lab run --help')");
            logging::say("tcpecho-lab", text);
            return Ok(Exit::Usage.into());
        }
        programs_are_built()?;
        let unwritten = Arc::new(Mutex::new(self.files.written_at_the_end()));
        let last_words = last_words(Arc::clone(&unwritten));
        sweep::when_interrupted(Last::Words(Box::new(last_words)))?;
        let result = self.perform(&unwritten);
        // Whatever has come of it, that is because of the signal.
        if let Some(signal) = sweep::interrupted() {
            sweep::follow(signal);
        }
        result
    }

    fn perform(&self, unwritten: &Mutex<Vec<String>>) -> Result<ExitCode> {
        let began = Instant::now();
        let labs = self.chosen();
        let command = usage::command_line();
        let mut files = self.files.begin(size(), &command.join(" "))?;
        let stagehand = self.stagehand(&files);
        let records = if self.is_collected(&labs) {
            self.collected(&stagehand, &labs, &mut files)?
        } else {
            aloud(&stagehand, &labs, &mut files)?
        };
        // What escaped its keeper or its guard: those are children of ours now.
        sweep::clear_away();
        let mut out = files.shown(anstream::stdout())?;
        let whole = files.finish(command, &records)?;
        lock(unwritten).clear();
        self.report(&records)?;
        let summary = Summary::of(&records, began.elapsed(), self.strict);
        if labs.len() > 1 || self.quiet {
            summary.write(&mut out, columns())?;
        } else if self.strict && summary.skips() {
            summary::strictly(&mut out)?;
        }
        out.flush()?;
        let passed = summary.passed() && (whole || !self.strict);
        Ok(if passed { Exit::Done } else { Exit::Failed }.into())
    }

    /// Is what the labs show collected, and shown when they have ended?
    fn is_collected(&self, labs: &[&Lab]) -> bool {
        self.quiet || self.files.have_stdout() || (labs.len() > 1 && !self.is_followed())
    }

    /// Tells the menu how it went.
    fn report(&self, records: &[Record]) -> Result<()> {
        // Who has been interrupted has seen nothing that counts.
        let (Some(fd), None) = (self.report_fd, sweep::interrupted()) else {
            return Ok(());
        };
        let reports: Vec<_> = records.iter().map(|record| &record.report).collect();
        let end = File::options().write(true).open(format!("/dev/fd/{fd}"))?;
        Ok(serde_json::to_writer(end, &reports)?)
    }

    /// The labs that were named, each once, in the given order; all in that of the course.
    fn chosen(&self) -> Vec<&'static Lab> {
        if self.labs.iter().any(|name| name == ALL) {
            return labs::ALL.to_vec();
        }
        let mut chosen: Vec<&Lab> = Vec::new();
        for lab in self.labs.iter().filter_map(|name| labs::find(name)) {
            if chosen.iter().all(|other| other.name != lab.name) {
                chosen.push(lab);
            }
        }
        chosen
    }

    fn stagehand(&self, files: &Writing<'_>) -> Stagehand {
        let stdout = io::stdout();
        let colored = AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        let (width, height) = size();
        Stagehand {
            manner: Manner {
                step: self.steps(),
                pause: self.pause(),
                full: self.full,
                color: colored,
                width,
                height,
            },
            plain: self.plain.then(|| "as --plain asks".into()),
            live: files.live(),
            packets: files.want_packets(),
        }
    }

    /// Does it wait for Enter?
    fn steps(&self) -> bool {
        let unless_told = is_watched() && self.pace.auto.is_none() && !self.quiet;
        self.pace.step || unless_told
    }

    /// The seconds it waits at every step.
    fn pause(&self) -> f64 {
        match self.pace.auto {
            _ if self.quiet => 0.0,
            Some(Some(seconds)) => seconds,
            Some(None) if is_watched() => GLANCE,
            _ => 0.0,
        }
    }

    /// Does somebody follow it at the speed at which it is shown?
    fn is_followed(&self) -> bool {
        self.steps() || self.pause() > 0.0
    }

    fn collected(
        &self,
        stagehand: &Stagehand,
        labs: &[&'static Lab],
        files: &mut Writing<'_>,
    ) -> Result<Vec<Record>> {
        let mut out = files.shown(AutoStream::auto(io::stdout()))?;
        let mut progress = Progress::on_stderr();
        let outcomes = side_by_side(stagehand, labs, self.jobs(), |news| {
            match news {
                News::Complete(lab, outcome) => {
                    progress.clear();
                    if self.quiet {
                        summary::line(&mut out, lab, outcome)?;
                    } else {
                        writeln!(out, "{}", outcome.text)?;
                    }
                    out.flush()?;
                    files.performed(&outcome.record, &outcome.packets, false)?;
                }
                News::Running(done, names) => progress.say(Instant::now(), || {
                    let all = labs.len();
                    format!("{done} of {all} done, running: {}", names.join(", "))
                }),
            }
            Ok(())
        })?;
        Ok(outcomes.into_iter().map(|o| o.record).collect())
    }

    /// Most of the time a lab waits. On the host's loopback it also looks through everybody's sockets
    /// and processes.
    fn jobs(&self) -> usize {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let by_default = if self.plain {
            processors
        } else {
            3 * processors
        };
        self.jobs.map_or(by_default, usize::from)
    }
}

/// What is said when we are interrupted.
fn last_words(unwritten: Arc<Mutex<Vec<String>>>) -> impl FnOnce() {
    move || {
        Progress::on_stderr().give_up();
        let files = lock(&unwritten).join(", ");
        if !files.is_empty() {
            let text = format!("interrupted before this was written: {files}");
            logging::say("tcpecho-lab", text);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One after the other, on this terminal, until the audience has had enough.
fn aloud(
    stagehand: &Stagehand,
    labs: &[&'static Lab],
    files: &mut Writing<'_>,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for lab in labs {
        let outcome = stagehand.aloud(lab)?;
        if let Some(why) = outcome.broken_off() {
            logging::say("tcpecho-lab", why);
        }
        let Outcome {
            record, packets, ..
        } = outcome;
        files.performed(&record, &packets, true)?;
        let enough = record.report.quit;
        records.push(record);
        if enough {
            break;
        }
    }
    Ok(records)
}

/// Columns and lines of the terminal.
fn size() -> (usize, usize) {
    let stdout = io::stdout();
    let lines = terminal_size::terminal_size_of(&stdout).map(|(_, lines)| usize::from(lines.0));
    (columns(), lines.unwrap_or(24))
}

fn is_watched() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}
