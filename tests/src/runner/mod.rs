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
use nix::libc;

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

/// What whoever started us has open beside stdin, stdout and stderr (a shell, cargo, make) is not for the
/// programs that we start: a demonstration would show it as theirs.
pub(crate) fn keep_descriptors_to_ourselves() {
    #[expect(unsafe_code)]
    // SAFETY: it changes a flag of descriptors and closes none; numbers that are not open are passed over.
    // Where the kernel is too old for it (before 5.11) they are seen, that is all.
    let _ = unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        )
    };
}

/// How a program ended, as the shell would see it.
fn passed_on(status: ExitStatus) -> ExitCode {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    ExitCode::from(code as u8)
}
