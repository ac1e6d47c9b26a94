//! Exit codes: one table for all programs.

use std::process::{ExitCode, Termination};

/// How a program ends. The numbers are part of the interface; scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// Something failed at run time; a line on stderr says what.
    Failed = 1,
    /// The command line cannot be right; nothing was started. clap uses the same number.
    Usage = 2,
    /// The server sent its FIN before it had answered everything.
    Premature = 3,
    /// The connection was reset (RST).
    Reset = 4,
    /// No answer: timed out, or host or network unreachable.
    Unreachable = 5,
}

impl Exit {
    /// The number the shell sees in `$?`.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
