//! The classic mistakes that the server commits on request, so that their symptoms can be seen.
//!
//! A mistake is one small branch at the place where it is made. This file only knows their names,
//! the models in which they can be made, and what one sees.

use std::fmt;

use clap::ValueEnum;

use crate::Model;

/// An error to commit on purpose. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Mistake {
    /// An interrupted accept ends the server (UNP 5.9)
    FatalEintr,
    /// Children are not waited for while the server runs: each leaves a zombie (UNP 5.9)
    NoReaper,
    /// Bind without `SO_REUSEADDR`: no restart while `TIME_WAIT` lasts (UNP 7.5)
    NoReuseaddr,
    /// One wait per SIGCHLD, although signals do not queue: some zombies stay (UNP 5.10)
    WaitOnce,
}

impl Mistake {
    /// All mistakes, in the order of the tables.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FatalEintr => "fatal-eintr",
            Self::NoReaper => "no-reaper",
            Self::NoReuseaddr => "no-reuseaddr",
            Self::WaitOnce => "wait-once",
        }
    }

    /// The models in which it can be made.
    pub fn models(self) -> &'static [Model] {
        match self {
            Self::FatalEintr => &[Model::Iterative, Model::Fork, Model::Exec, Model::Thread],
            Self::NoReaper | Self::WaitOnce => &[Model::Fork, Model::Exec],
            Self::NoReuseaddr => Model::all(),
        }
    }

    /// What one sees when it has been made.
    pub const fn symptom(self) -> &'static str {
        match self {
            Self::FatalEintr => {
                "the server exits when a signal arrives during accept: for fork and exec, when the first child ends"
            }
            Self::NoReaper => "ps shows a <defunct> child for every client that has left",
            Self::NoReuseaddr => "a restart fails with EADDRINUSE for the 60 s of TIME_WAIT",
            Self::WaitOnce => {
                "when several clients leave at once, ps shows some <defunct> children"
            }
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for mistake in Mistake::all() {
            let value = mistake.to_possible_value().expect("no mistake is hidden");
            assert_eq!(value.get_name(), mistake.name());
            assert!(!mistake.models().is_empty());
        }
    }
}
