//! `tcpecho-lab run`: performs labs.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tcpecho_common::Exit;

use crate::labs;
use crate::narrate::terminal::Terminal;
use crate::netns::{self, Isolated, Isolation};
use crate::runner::{columns, names, passed_on, programs_are_built};
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
refuses namespaces it says so and runs on the ordinary loopback, without packets. Ctrl-C ends
everything that was started.

Examples:
  tcpecho-lab run premature-termination             in class
  tcpecho-lab run premature-termination --auto      all of it, in a few seconds
  tcpecho-lab run premature-termination --full | less      to read

Environment:
  TCPECHO_BIN_DIR    take tcpechod and tcpecho from this directory, and build nothing";

/// What to perform, and how.
#[derive(Args, Debug)]
pub struct Run {
    /// Which demonstrations (see `tcpecho-lab list`)
    #[arg(value_name = "NAME", required = true, value_parser = names())]
    pub labs: Vec<String>,

    #[command(flatten)]
    pub pace: Pace,

    /// Show time lines from the first packet on, not only from the event they are about
    #[arg(long)]
    pub full: bool,

    /// Fail if anything cannot be seen here: what is skipped counts as failure
    #[arg(long)]
    pub strict: bool,

    /// Stay out of namespaces: on the host's loopback, without packets
    #[arg(long)]
    pub plain: bool,
}

/// Who turns the pages.
#[derive(Args, Clone, Copy, Debug)]
#[group(multiple = false)]
pub struct Pace {
    /// Wait for Enter at every step, and for your predictions [default on a terminal]
    #[arg(long)]
    pub step: bool,

    /// Go on without waiting [default in a pipe]
    #[arg(long)]
    pub auto: bool,
}

impl Run {
    /// Runs this program again in namespaces, unless it is to stay here or is there already.
    pub fn isolated(self) -> Result<ExitCode> {
        if !netns::inside() {
            programs_are_built()?;
        }
        let args: Vec<OsString> = env::args_os().skip(1).collect();
        let place = if self.plain {
            Isolated::Here(Isolation::Plain("as --plain asks".into()))
        } else {
            netns::isolate(&args)?
        };
        match place {
            Isolated::Here(place) => {
                if place != Isolation::Namespaces {
                    sweep::when_interrupted(Last::Signal)?;
                }
                self.perform(&place)
            }
            Isolated::Done(status) => Ok(passed_on(status)),
        }
    }

    fn perform(&self, place: &Isolation) -> Result<ExitCode> {
        let mut page = self.page();
        let (mut passed, mut skipped) = (true, false);
        for lab in self.labs.iter().filter_map(|name| labs::find(name)) {
            let report = lab.perform(place, &mut page)?;
            passed &= report.passed(self.strict);
            skipped |= !report.skipped.is_empty();
            if report.quit {
                break;
            }
        }
        if self.strict && skipped {
            page.remark("--strict: skipped counts as failure")?;
        }
        Ok(if passed { Exit::Done } else { Exit::Failed }.into())
    }

    fn page(&self) -> Terminal<impl Write> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let watched = stdin.is_terminal() && stdout.is_terminal();
        let width = columns(&stdout);
        let out = anstream::AutoStream::auto(stdout);
        let page = if self.pace.step || (watched && !self.pace.auto) {
            Terminal::stepwise(out, width, stdin.lock()).typed_ahead(stdin_is_readable)
        } else {
            Terminal::automatic(out, width)
        };
        page.full(self.full).live(watched)
    }
}

/// Has a line been typed that nobody has read yet?
fn stdin_is_readable() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
