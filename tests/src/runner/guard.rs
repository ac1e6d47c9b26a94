//! What namespaces do where there are none: nothing that a lab has started outlives it, or the runner.
//!
//! ```text
//! the runner             waits
//! `- guard               in a process group of its own, out of reach of the terminal and of kill -9 %1
//!    `- the performer    in the runner's group: it has the terminal
//!       `- programs      in groups of their own
//! ```
//!
//! Whoever loses its parent becomes the guard's child (`PR_SET_CHILD_SUBREAPER`). When the performer
//! ends, and when the runner does, however it does (`PR_SET_PDEATHSIG`), the guard kills what is left.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, getppid, setpgid};

use crate::binaries;
use crate::runner::passed_on;
use crate::sweep;

/// Whom to start, and for whom.
#[derive(Args, Debug)]
pub struct Guard {
    /// The process whose end ends everything
    #[arg(value_name = "PID")]
    runner: i32,

    /// The arguments of this program
    #[arg(
        value_name = "ARGUMENT",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    args: Vec<OsString>,
}

/// This program with `args`, to be started under guard by a thread that lives until it has ended.
pub fn command(args: &[OsString]) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("where this program is")?);
    command.arg("guard").arg(getpid().to_string()).args(args);
    if let Some(directory) = binaries::directory()? {
        command.env(binaries::DIRECTORY, directory);
    }
    Ok(command)
}

impl Guard {
    /// Starts the performer and waits for its end, or the runner's.
    pub fn run(&self) -> Result<ExitCode> {
        let mut news = SigSet::empty();
        news.extend([
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ]);
        news.thread_block()?;
        set_child_subreaper(true)?;
        set_pdeathsig(Signal::SIGTERM)?;
        let group = getpgrp();
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        // Whoever died before we asked to be told.
        if getppid().as_raw() != self.runner {
            return Ok(ExitCode::FAILURE);
        }
        let status = self.wait(group, &news);
        sweep::clear_away();
        status.map(passed_on)
    }

    fn wait(&self, group: Pid, news: &SigSet) -> Result<ExitStatus> {
        let performer = Command::new(env::current_exe()?)
            .args(&self.args)
            .process_group(group.as_raw())
            .spawn()
            .context("start the performer")?;
        let performer = Pid::from_raw(performer.id() as i32);
        loop {
            let signal = news.wait()?;
            if signal != Signal::SIGCHLD {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            if let Some(status) = reap(performer) {
                return Ok(status);
            }
        }
    }
}

/// Reaps whoever has ended; the status of this one, if it is among them.
fn reap(performer: Pid) -> Option<ExitStatus> {
    let mut own = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == performer => {
                own = Some(ExitStatus::from_raw(code << 8));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == performer => {
                own = Some(ExitStatus::from_raw(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return own,
            Ok(_) => {}
        }
    }
}
