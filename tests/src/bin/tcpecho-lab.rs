//! tcpecho-lab: the command line of the laboratory.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use tcpecho_common::{Exit, Model, calls, logging, usage};
use tcpecho_lab::actors;
use tcpecho_lab::compare::cli::{self, Compare};
use tcpecho_lab::file;
use tcpecho_lab::handout::book::Book;
use tcpecho_lab::labs;
use tcpecho_lab::runner::doctor;
use tcpecho_lab::runner::explain::Explain;
use tcpecho_lab::runner::guard::Guard;
use tcpecho_lab::runner::list;
use tcpecho_lab::runner::menu::{self, Menu};
use tcpecho_lab::runner::perform::Perform;
use tcpecho_lab::runner::programs_are_built;
use tcpecho_lab::runner::run::{self, Run};
use tcpecho_lab::soak;
use tcpecho_lab::stdout::columns;
use tcpecho_lab::sweep::{self, Last};

const AFTER_HELP: &str = "\
Begin with:
  tcpecho-lab                               a menu, on a terminal
  tcpecho-lab doctor                        can all be seen here?
  tcpecho-lab list                          what there is to see
  tcpecho-lab run premature-termination     the server dies: who notices, and when?
  tcpecho-lab compare                       which model needs how much, and why?

Environment:
  TCPECHO_BIN_DIR    take tcpechod and tcpecho from this directory, and build nothing

Nothing here needs root, tcpdump, ss or ip. Exit codes: 0 every fact was as expected,
1 something differed, 2 the command line cannot be right.";

/// Demonstrations with a TCP echo server and its clients that show, tell and check themselves
#[derive(Debug, Parser)]
#[command(name = "tcpecho-lab", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the demonstrations: chapter by chapter, how long each takes, what it needs
    List,
    /// Tell what a demonstration does, asks and expects, without performing it
    Explain(Explain),
    /// Choose demonstrations from a list, by keys [default on a terminal]
    #[command(after_help = menu::HELP)]
    Menu(Menu),
    /// Find out what can be seen on this machine, and how to mend what cannot
    #[command(after_help = doctor::HELP)]
    Doctor,
    /// Perform demonstrations
    #[command(after_help = run::HELP)]
    Run(Run),
    /// Perform all demonstrations and write them as one page
    Book(Book),
    /// Measure the models, and other people's servers, side by side
    #[command(after_help = cli::HELP)]
    Compare(Compare),
    /// Every model at once, for a long time, under everything that can happen to a server
    Soak(Soak),
    /// Play a part in a demonstration: a small program that waits for signals
    Actor(Part),
    /// Perform one demonstration, for the runner
    #[command(hide = true)]
    Perform(Perform),
    /// Start a performance, and end whatever it leaves behind
    #[command(hide = true)]
    Guard(Guard),
}

#[derive(Args, Debug)]
struct Part {
    /// Which part
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(actors::ALL.iter().map(|actor| PossibleValue::new(actor.name).help(actor.about))))]
    name: String,

    /// What it is told
    #[arg(
        value_name = "ARGUMENT",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<String>,
}

/// Clients of all kinds talk to every model at once: some compare long streams, some stall, some
/// reset or leave without a word; meanwhile the servers are stopped and continued, get signals, run
/// out of descriptors, have calls fail (if strace is there) and children killed, and are restarted
/// while they owe echoes. Every byte that comes back is compared. Exit code 1 if anything was lost
/// or left behind.
#[derive(Args, Debug)]
struct Soak {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,

    /// Only these models [default: all]
    #[arg(long, value_name = "MODEL,...", value_delimiter = ',', value_enum)]
    models: Vec<Model>,

    /// What is made up at random is made up from this number [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explained(&error).into(),
    };
    if let Err(error) = file::outgrow_limits() {
        logging::say("tcpecho-lab", in_words(&error));
    }
    let result = match cli.command {
        None if menu::is_watched() => Menu::default().run(),
        None => teach(),
        Some(Command::Menu(menu)) => menu.run(),
        Some(Command::Doctor) => doctor::run(columns()),
        Some(Command::List) => list(),
        Some(Command::Explain(explain)) => explain.run(columns()),
        Some(Command::Run(run)) => run.run(),
        Some(Command::Book(book)) => book.run(),
        Some(Command::Compare(compare)) => compare.run(columns()).map(ExitCode::from),
        Some(Command::Soak(soak)) => soak.run(),
        Some(Command::Perform(one)) => one.run(),
        Some(Command::Guard(guard)) => guard.run(),
        Some(Command::Actor(part)) => {
            actors::perform(&part.name, &part.args).map(|()| Exit::Done.into())
        }
    };
    result.unwrap_or_else(|error| {
        // Whoever piped us into `head` has read enough.
        if is_broken_pipe(&error) {
            return Exit::Done.into();
        }
        let _ = writeln!(anstream::stderr(), "tcpecho-lab: {}", in_words(&error));
        Exit::Failed.into()
    })
}

/// What is wrong with the command line; help and version are no error.
fn explained(error: &clap::Error) -> Exit {
    let args: Vec<String> = usage::command_line().split_off(1);
    match meant(&args).filter(|_| error.use_stderr()) {
        Some(line) => {
            logging::say("tcpecho-lab", format!("did you mean '{line}'?"));
            Exit::Usage
        }
        None => usage::explain("tcpecho-lab", error),
    }
}

/// The command line with the `run` that was forgotten.
fn meant(args: &[String]) -> Option<String> {
    labs::find(args.first()?)?;
    Some(format!("tcpecho-lab run {}", args.join(" ")))
}

fn teach() -> Result<ExitCode> {
    write!(
        anstream::stdout(),
        "{}",
        Cli::command().render_help().ansi()
    )?;
    Ok(Exit::Done.into())
}

fn list() -> Result<ExitCode> {
    list::table(&mut anstream::stdout().lock())?;
    Ok(Exit::Done.into())
}

impl Soak {
    fn run(&self) -> Result<ExitCode> {
        programs_are_built()?;
        sweep::when_interrupted(Last::Signal)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let seed = self.seed.unwrap_or(now.as_secs());
        let minutes = self.minutes;
        let mut out = anstream::stdout().lock();
        writeln!(out, "every model for {minutes} min, seed {seed}")?;
        out.flush()?;
        let models = match self.models.as_slice() {
            [] => Model::all(),
            some => some,
        };
        let rows = soak::run(models, Duration::from_secs(60 * minutes), seed);
        write!(out, "{}", soak::Table(&rows))?;
        let failed: Vec<_> = rows
            .iter()
            .filter(|row| !row.is_clean())
            .map(soak::Row::name)
            .collect();
        if failed.is_empty() {
            return Ok(Exit::Done.into());
        }
        writeln!(
            out,
            "\nFAILED: {}; the same again: --seed {seed}",
            failed.join(", ")
        )?;
        Ok(Exit::Failed.into())
    }
}

/// What was tried, and the errno by its name.
fn in_words(error: &anyhow::Error) -> String {
    let errno = |cause: &io::Error| cause.raw_os_error().map(|_| calls::errno(cause));
    let cause = |cause: &(dyn std::error::Error + 'static)| {
        let errno = cause.downcast_ref().and_then(errno);
        errno.map_or_else(|| cause.to_string(), |errno| errno.to_string())
    };
    let words: Vec<_> = error.chain().map(cause).collect();
    let full = |error: &io::Error| {
        use io::ErrorKind::{FileTooLarge, StorageFull};
        matches!(error.kind(), StorageFull | FileTooLarge)
    };
    // Whoever writes to a file says to which.
    let is_stdout = words.len() == 1 && error.downcast_ref().is_some_and(full);
    let tried = if is_stdout {
        "cannot write to stdout: "
    } else {
        ""
    };
    format!("{tried}{}", words.join(": "))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_tried_and_which_it_was() {
        let full = || io::Error::from_raw_os_error(28);
        let words = |error| in_words(&error);
        let stdout = "cannot write to stdout: ENOSPC: No space left on device";
        assert_eq!(words(anyhow::Error::new(full())), stdout);
        let file = anyhow::Error::new(full()).context("cannot write x.html");
        let told = "cannot write x.html: ENOSPC: No space left on device";
        assert_eq!(words(file), told);
        assert_eq!(words(anyhow::anyhow!("no room")), "no room");
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_lab_is_answered_with_a_similar_one_and_all() {
        let line = ["tcpecho-lab", "run", "premature-terminaton"];
        let error = Cli::try_parse_from(line).expect_err("no such lab");
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("similar"), "{text}");
        assert!(text.matches("premature-termination").count() > 1, "{text}");
    }

    #[test]
    fn a_demonstration_without_run_is_understood() {
        let args = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            meant(&args("premature-termination --auto")).as_deref(),
            Some("tcpecho-lab run premature-termination --auto")
        );
        assert_eq!(meant(&args("rain")), None);
        assert_eq!(meant(&[]), None);
    }

    #[test]
    fn step_and_auto_exclude_each_other() {
        let line = "tcpecho-lab run premature-termination --step --auto";
        let error = Cli::try_parse_from(line.split(' ')).expect_err("contradiction");
        assert_eq!(error.exit_code(), 2);
    }
}
