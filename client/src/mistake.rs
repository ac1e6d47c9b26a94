//! The classic mistakes that the client commits on request, so that their symptoms can be seen.
//!
//! A mistake is one small branch at the place where it is made. This file only knows their names,
//! the modes in which they can be made, and what one sees.

use std::fmt::{self, Write as _};

use clap::ValueEnum;
use tcpecho_common::usage::fill;

use crate::cli::Mode;

/// An error to commit on purpose. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Mistake {
    /// Close when stdin ends, without waiting for the echoes that are still to come (UNP 6.6)
    CloseOnEof,
    /// Take a write for done whatever it returned (UNP 5.13)
    IgnoreWriteErrors,
}

impl Mistake {
    /// All mistakes, in the order of the tables.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CloseOnEof => "close-on-eof",
            Self::IgnoreWriteErrors => "ignore-write-errors",
        }
    }

    /// The modes in which it can be made. The multiplexed one hears of a reset from epoll, not
    /// from a write; the others have every answer they want when stdin ends, or half-close.
    pub fn modes(self) -> &'static [Mode] {
        match self {
            Self::CloseOnEof => &[Mode::Multiplexed],
            Self::IgnoreWriteErrors => &[Mode::Blocking, Mode::Stdio],
        }
    }

    /// What one sees when it has been made.
    pub const fn symptom(self) -> &'static str {
        match self {
            Self::CloseOnEof => {
                "of a file sent through it, the last echoes are missing, and the exit code is 0"
            }
            Self::IgnoreWriteErrors => {
                "a reset (exit 4) is told as a FIN (exit 3): the failed write has used up the \
                 socket's error; and the next write is hit by SIGPIPE"
            }
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The table of `--list-mistakes`.
pub fn list() -> String {
    let mut table = format!("{:<21}MODES\n", "MISTAKE");
    for mistake in Mistake::all() {
        let modes: Vec<_> = mistake.modes().iter().map(|mode| mode.name()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{:<21}{}", mistake.name(), modes.join(", "));
        table += &" ".repeat(21);
        fill(&mut table, 21, mistake.symptom());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for mistake in Mistake::all() {
            let value = mistake.to_possible_value().expect("no mistake is hidden");
            assert_eq!(value.get_name(), mistake.name());
            assert!(!mistake.modes().is_empty());
        }
    }

    #[test]
    fn the_list_fits_and_leaves_nothing_out() {
        let list = list();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for mistake in Mistake::all() {
            assert!(words(&list).contains(mistake.symptom()), "{mistake}");
        }
        assert!(list.lines().all(|line| line.len() <= 100), "{list}");
    }
}
