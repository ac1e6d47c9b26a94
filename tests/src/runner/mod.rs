//! The laboratory's command line, as far as it is about the demonstrations.
//!
//! [`list`] says what there is, [`explain`] tells one of them, [`doctor`] whether it can be seen here, and
//! from the [`menu`] one is chosen. [`run`] has it performed: [`child`] is a process for each lab, seen from
//! here, and [`perform`] seen from inside; [`all`] has several at a time, [`summary`] says how it went.
//! [`guard`] does where there are no namespaces what they do: it leaves nothing behind.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;

use crate::binaries;
use crate::labs;

pub mod all;
pub mod child;
pub mod doctor;
pub mod explain;
pub mod guard;
pub mod list;
pub mod menu;
pub mod perform;
pub mod run;
pub mod summary;

/// The names of the labs: an unknown one is answered with the most similar one and the list of all.
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(labs::ALL.iter().map(|lab| lab.name))
}

/// Fails if the programs are missing, before anything starts.
pub fn programs_are_built() -> Result<()> {
    for program in ["tcpechod", "tcpecho"] {
        if let Err(error) = binaries::path(program) {
            let error = format!("{error:#}");
            let why = error.lines().next().unwrap_or_default();
            bail!("{program} is not built: run `cargo build --bins` or `make demo` ({why})");
        }
    }
    Ok(())
}

/// How a program ended, as the shell would see it.
fn passed_on(status: ExitStatus) -> ExitCode {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    ExitCode::from(code as u8)
}
