//! `tcpecho-lab doctor`: what can be seen on this machine, and how to mend what cannot.
//!
//! Each thing is found out by doing it: namespaces are entered, packets captured, hosts wired, programs
//! run, threads started. Settings are read only to say why something was refused, and for the few
//! things that nobody can try: how many ports there are, which kernel it is.

mod besides;
mod needed;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use tcpecho_common::Exit;

use crate::labs;
use crate::narrate::text::wrap;
use crate::narrate::{Lab, Need};
use crate::netns::{self, Isolated, Isolation};
use crate::runner::passed_on;
use crate::sweep::{self, Last};

/// What `tcpecho-lab doctor --help` says at its end.
pub const HELP: &str = "\
  OK        it is there and works
  LOW       there is not enough of it
  MISSING   it is not installed, or not built
  REFUSED   the system forbids it
  UNTRIED   nobody has tried it; it may work

Exit code 0: every demonstration can be seen whole (whatever else is missing); 1: of some of them
something would be skipped, and which is said.";

/// How long a packet on loopback may take to be seen.
const SOON: Duration = Duration::from_secs(5);

/// Where the columns begin: what it is, what was seen.
const NAME: usize = 10;
const SEEN: usize = 24;

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// How a look came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Low,
    Missing,
    Refused,
    Untried,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Low => "LOW",
            Self::Missing => "MISSING",
            Self::Refused => "REFUSED",
            Self::Untried => "UNTRIED",
        }
    }

    const fn style(self) -> Style {
        match self {
            Self::Ok => GOOD,
            Self::Low | Self::Untried => DOUBTFUL,
            Self::Missing | Self::Refused => BAD,
        }
    }
}

/// What was found, and the line that mends it.
struct Finding {
    state: State,
    seen: String,
    mend: String,
}

impl Finding {
    fn ok(seen: impl Into<String>) -> Self {
        Self::new(State::Ok, seen, "")
    }

    fn new(state: State, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        let (seen, mend) = (seen.into(), mend.into());
        Self { state, seen, mend }
    }
}

/// Something to look at.
struct Check {
    name: &'static str,
    /// The demonstrations that have one of these needs, or all, lack something without it.
    labs: Concerned,
    /// What else is lost.
    lost: &'static str,
    look: fn(&Isolation) -> Finding,
}

/// Which demonstrations need something.
enum Concerned {
    All,
    Need(Need),
    Nobody,
}

impl Concerned {
    fn labs(&self) -> impl Iterator<Item = &'static Lab> {
        labs::ALL.iter().copied().filter(move |lab| match self {
            Self::All => true,
            Self::Need(need) => lab.needs.contains(need),
            Self::Nobody => false,
        })
    }
}

/// Looks at everything, in namespaces where there are any, and writes tables of at most 80 columns.
pub fn run(width: usize) -> Result<ExitCode> {
    let width = width.clamp(60, 80);
    let code = match netns::isolate(&[OsString::from("doctor")])? {
        Isolated::Done(status) => passed_on(status),
        Isolated::Here(place) => {
            if place != Isolation::Namespaces {
                sweep::when_interrupted(Last::Signal)?;
            }
            let code = for_labs(&place, width)?;
            if place == Isolation::Namespaces {
                return Ok(code);
            }
            code
        }
    };
    besides(width)?;
    Ok(code)
}

fn for_labs(place: &Isolation, width: usize) -> Result<ExitCode> {
    let mut table = Table {
        out: anstream::stdout().lock(),
        width,
    };
    table.heading("What the demonstrations need")?;
    let mut lacking: Vec<&Lab> = Vec::new();
    for check in needed::CHECKS {
        if !table.row(check, place)? {
            lacking.extend(check.labs.labs());
        }
    }
    let whole = |lab: &&&Lab| !lacking.iter().any(|it| it.name == lab.name);
    let count = labs::ALL.iter().filter(whole).count();
    let all = labs::ALL.len();
    let verdict = if count == all {
        format!("All {all} demonstrations can be seen whole.")
    } else {
        format!(
            "{count} of {all} demonstrations can be seen whole, {} in part or not at all.",
            all - count
        )
    };
    table.heading(&verdict)?;
    Ok(if count == all {
        Exit::Done
    } else {
        Exit::Failed
    }
    .into())
}

fn besides(width: usize) -> Result<()> {
    let mut table = Table {
        out: anstream::stdout().lock(),
        width,
    };
    writeln!(table.out)?;
    table.heading("What comparing, testing and trying by hand need besides")?;
    let here = Isolation::Plain(String::new());
    for check in besides::CHECKS {
        table.row(check, &here)?;
    }
    Ok(())
}

struct Table<W> {
    out: W,
    width: usize,
}

impl<W: Write> Table<W> {
    fn heading(&mut self, text: &str) -> Result<()> {
        for line in wrap(text, self.width) {
            writeln!(self.out, "{HEADING}{line}{HEADING:#}")?;
        }
        Ok(())
    }

    /// Looks, and writes what was found. True if nothing is lost.
    fn row(&mut self, check: &Check, place: &Isolation) -> Result<bool> {
        let finding = (check.look)(place);
        let (style, word) = (finding.state.style(), finding.state.word());
        let mut head = format!("{style}{word}{style:#}{:pad$}", "", pad = NAME - word.len());
        let _ = write!(head, "{:<w$}", check.name, w = SEEN - NAME);
        let mut lines = wrap(&finding.seen, self.width - SEEN).into_iter();
        writeln!(self.out, "{head}{}", lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(self.out, "{:SEEN$}{line}", "")?;
        }
        let good = finding.state == State::Ok;
        if !good {
            self.note("lost: ", &lost(check))?;
            self.note("mend: ", &finding.mend)?;
        }
        self.out.flush()?;
        Ok(good)
    }

    fn note(&mut self, mark: &str, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let room = self.width - SEEN - mark.len();
        for (i, line) in wrap(text, room).iter().enumerate() {
            let mark = if i == 0 { mark } else { "      " };
            writeln!(self.out, "{:SEEN$}{mark}{line}", "")?;
        }
        Ok(())
    }
}

/// What cannot be seen without it.
fn lost(check: &Check) -> String {
    let names: Vec<_> = check.labs.labs().map(|lab| lab.name).collect();
    let labs = match (&check.labs, names.len()) {
        (_, 0) => String::new(),
        (Concerned::All, _) => "every demonstration.".into(),
        (Concerned::Need(Need::Namespaces), _) => format!("all of {}.", names.join(", ")),
        _ => format!("something of {}.", names.join(", ")),
    };
    format!("{labs} {}", check.lost).trim().into()
}

/// Runs the first of these programs that is installed; it must end well.
fn tool(names: &[&str], args: &[&str], package: &str) -> Finding {
    for name in names {
        match said(name, args) {
            Ok(line) => return Finding::ok(line),
            Err(error) if error.is::<std::io::Error>() => {}
            Err(error) => {
                return Finding::new(
                    State::Refused,
                    first_line(&error),
                    format!("sudo apt install {package}"),
                );
            }
        }
    }
    Finding::new(
        State::Missing,
        "not installed",
        format!("sudo apt install {package}"),
    )
}

/// The first line that the program prints. An `io::Error`: it cannot be started.
fn said(name: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let first = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    };
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, first(&output.stderr));
    }
    Ok(first(&output.stdout))
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}
