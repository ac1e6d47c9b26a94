//! `tcpecho-lab menu`, and `tcpecho-lab` alone: choose a demonstration, watch it, choose the next.
//!
//! `list` is what is shown and what keys do to it, `screen` the terminal, `keys` and `signals`
//! what comes from there, `prompt` the same for terminals that are no screen. A demonstration is
//! performed by a child process, which has the terminal to itself meanwhile: it enters namespaces,
//! and may end in any way.

mod keys;
mod list;
mod prompt;
pub mod screen;
pub mod signals;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tcpecho_common::Exit;

use crate::labs;
use crate::narrate::Report;
use crate::output::Output;
use crate::runner::{list as table, names, passed_on};
use keys::Key;
use list::{List, Wish};
use screen::{Event, Screen, Size};
use signals::Signals;

/// How long a report may take of a lab that has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A smaller window is no screen for a list.
const SMALLEST: Size = Size {
    columns: 40,
    rows: 10,
};

/// What `tcpecho-lab menu --help` says at its end.
pub const HELP: &str = "\
The list shows the demonstrations by chapter. Keys:

  arrows, j k, PgUp PgDn, Home End     choose
  a number                             choose by number
  /                                    show only those with these words
  Enter                                perform: step by step, with your predictions
  Space, e                             read what it does, without performing it
  q, Esc, Ctrl-C                       leave

Beside a demonstration stands how it came out. Where the terminal cannot be drawn on (TERM=dumb, fewer
than 40 columns or 10 lines) there is a numbered list and a prompt. Exit code 1 if anything differed or
failed.";

/// Which demonstrations to begin with.
#[derive(Args, Debug, Default)]
pub struct Menu {
    /// Perform these first
    #[arg(value_name = "NAME", value_parser = names())]
    labs: Vec<String>,
}

/// How a demonstration came out, as far as the menu knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as expected.
    Held,
    /// So was what could be seen here; so many things could not.
    Skipped(usize),
    /// Something differed.
    Different,
    /// Somebody had seen enough before its end.
    Left,
    /// It was ended from outside.
    Interrupted,
    /// It could not be performed.
    Failed,
}

impl Outcome {
    fn of(status: ExitStatus, report: Option<&Report>) -> Self {
        // 128 and a signal: how a shell says it.
        let interrupted = status.code().is_none_or(|code| code > 128);
        match report {
            Some(report) if !report.passed(false) => Self::Different,
            Some(report) if report.quit => Self::Left,
            Some(report) if !report.passed(true) => Self::Skipped(report.skipped.len()),
            Some(_) => Self::Held,
            None if interrupted => Self::Interrupted,
            None => Self::Failed,
        }
    }

    const fn is_good(self) -> bool {
        !matches!(self, Self::Different | Self::Failed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("OK"),
            Self::Skipped(some) => write!(f, "OK, {some} SKIP"),
            Self::Different => f.write_str("DIFFERENT"),
            Self::Left => f.write_str("left early"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

/// Is there somebody at a terminal who could choose?
pub fn is_watched() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Menu {
    /// Shows the menu until somebody leaves it. Where nobody watches, performs what it should begin
    /// with, or lists what there is.
    pub fn run(&self) -> Result<ExitCode> {
        if !is_watched() {
            return self.unwatched();
        }
        if is_a_screen() {
            Session::open()?.run(&self.labs)
        } else {
            prompt::run(&self.labs)
        }
    }

    fn unwatched(&self) -> Result<ExitCode> {
        if self.labs.is_empty() {
            table::table(&mut anstream::stdout().lock())?;
            return Ok(Exit::Done.into());
        }
        let signals = Signals::catch()?;
        let names: Vec<_> = self.labs.iter().map(String::as_str).collect();
        perform(&signals, &names).map(|(status, _)| passed_on(status))
    }
}

/// Can the terminal be drawn on?
fn is_a_screen() -> bool {
    let terminal = env::var("TERM").unwrap_or_default();
    let size = Size::now();
    !["", "dumb"].contains(&&*terminal)
        && size.is_some_and(|it| it.columns >= SMALLEST.columns && it.rows >= SMALLEST.rows)
}

/// What to do next.
enum Next {
    GoOn,
    Leave,
    /// To die of this.
    Die(Signal),
}

/// The menu on a screen.
struct Session {
    screen: Screen,
    list: List,
    colour: bool,
    differed: bool,
}

impl Session {
    fn open() -> Result<Self> {
        let choice = anstream::AutoStream::choice(&io::stdout());
        Ok(Self {
            screen: Screen::open()?,
            list: List::new(labs::ALL),
            colour: choice != anstream::ColorChoice::Never,
            differed: false,
        })
    }

    fn run(mut self, first: &[String]) -> Result<ExitCode> {
        let mut next = Next::GoOn;
        for name in first {
            if matches!(next, Next::GoOn) {
                next = self.perform(name)?;
            }
        }
        if matches!(next, Next::GoOn) {
            self.screen.take()?;
        }
        while matches!(next, Next::GoOn) {
            self.draw()?;
            next = self.turn()?;
        }
        self.screen.give_back();
        if let Next::Die(signal) = next {
            self.screen.signals().obey(signal);
        }
        Ok(if self.differed {
            Exit::Failed
        } else {
            Exit::Done
        }
        .into())
    }

    fn draw(&mut self) -> Result<()> {
        let size = Size::now().unwrap_or(SMALLEST);
        self.screen.draw(&self.list.draw(size, self.colour))
    }

    /// Waits for something to happen, and does what it means.
    fn turn(&mut self) -> Result<Next> {
        match self.screen.event()? {
            Event::Closed => Ok(Next::Leave),
            Event::Signal(signal) => self.signal(signal),
            Event::Keys(keys) => {
                for key in keys {
                    match self.list.press(key) {
                        Wish::Nothing => {}
                        Wish::Leave => return Ok(Next::Leave),
                        // Keys behind it were not meant for what comes now.
                        Wish::Perform(lab) => return self.perform_and_return(lab.name),
                    }
                }
                Ok(Next::GoOn)
            }
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<Next> {
        match signal {
            Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM | Signal::SIGHUP => {
                return Ok(Next::Die(signal));
            }
            Signal::SIGTSTP => {
                self.screen.suspend();
                self.screen.take()?;
            }
            // Whoever let us go on may have left the terminal in any state.
            Signal::SIGCONT => self.screen.take()?,
            // A new size; the end of a child that somebody has waited for.
            _ => {}
        }
        Ok(Next::GoOn)
    }

    fn perform_and_return(&mut self, name: &str) -> Result<Next> {
        let next = self.perform(name)?;
        if matches!(next, Next::GoOn) {
            self.screen.take()?;
        }
        Ok(next)
    }

    /// Performs a lab on the terminal as it was, and waits until its end has been read.
    fn perform(&mut self, name: &str) -> Result<Next> {
        self.screen.give_back();
        let outcome = perform_one(self.screen.signals(), name)?;
        self.differed |= !outcome.is_good();
        self.list.performed(name, outcome);
        self.wait_for_reader()
    }

    /// The menu would hide what has been shown.
    fn wait_for_reader(&mut self) -> Result<Next> {
        let ask = || {
            self.screen.take_keys()?;
            let mut stdout = io::stdout().lock();
            write!(stdout, "\r\n[Enter] to the menu   [q] leave ")?;
            Ok::<_, anyhow::Error>(stdout.flush()?)
        };
        ask()?;
        // What was typed for the demonstration is not for us.
        self.screen.forget_keys()?;
        let next = loop {
            match self.screen.event()? {
                Event::Keys(keys) if keys.contains(&Key::Enter) => break Next::GoOn,
                Event::Keys(keys) if keys.iter().copied().any(leaves) => break Next::Leave,
                Event::Keys(_) | Event::Signal(Signal::SIGWINCH | Signal::SIGCHLD) => {}
                Event::Closed => break Next::Leave,
                Event::Signal(Signal::SIGTSTP) => {
                    self.screen.suspend();
                    ask()?;
                }
                Event::Signal(Signal::SIGCONT) => self.screen.take_keys()?,
                Event::Signal(signal) => break Next::Die(signal),
            }
        };
        writeln!(io::stdout())?;
        self.screen.give_back();
        Ok(next)
    }
}

fn leaves(key: Key) -> bool {
    matches!(key, Key::Char('q' | 'Q') | Key::Escape)
}

/// Performs a lab in a child of ours.
fn perform_one(signals: &Signals, name: &str) -> Result<Outcome> {
    let (status, reports) = perform(signals, &[name])?;
    Ok(Outcome::of(status, reports.first()))
}

/// Performs labs in a child of ours, as `tcpecho-lab run` does: how that ended, and how the labs went
/// that came to their end.
fn perform(signals: &Signals, labs: &[&str]) -> Result<(ExitStatus, Vec<Report>)> {
    let (reports, reports_end) = pipe2(OFlag::O_CLOEXEC).context("a pipe")?;
    let mut command = Command::new(env::current_exe().context("where this program is")?);
    command.arg("run").args(labs);
    command.arg(format!("--report-fd={}", reports_end.as_raw_fd()));
    let set = signals.set();
    let prepare = move || {
        fcntl(&reports_end, FcntlArg::F_SETFD(FdFlag::empty()))?;
        // Whatever becomes of the menu, nothing goes on behind it.
        set_pdeathsig(Signal::SIGTERM)?;
        Ok(Signals::release(set)?)
    };
    #[expect(unsafe_code)]
    // SAFETY: three system calls, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(prepare);
    }
    let child = command.spawn().context("run this program again")?;
    // It holds our copy of the other end.
    drop(command);
    let reports = Output::collect(reports)?;
    let status = await_end(signals, child)?;
    reports.wait_end(LAST_WORDS);
    let reports = serde_json::from_slice(&reports.bytes());
    Ok((status, reports.unwrap_or_default()))
}

/// ^C and ^Z are for the child, which is in our group and gets them, too; who stops it stops us, and who
/// ends us ends it first.
fn await_end(signals: &Signals, mut child: Child) -> Result<ExitStatus> {
    let mut last = None;
    loop {
        if let Some(status) = child.try_wait()? {
            if let Some(signal) = last {
                signals.obey(signal);
            }
            return Ok(status);
        }
        match signals.wait()? {
            Signal::SIGTSTP => signals.obey(Signal::SIGTSTP),
            signal @ (Signal::SIGTERM | Signal::SIGHUP) => {
                last = Some(signal);
                let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            }
            _ => {}
        }
    }
}
