//! The concurrency models and what is characteristic of each.

use std::fmt;

use clap::ValueEnum;

/// How the server serves many clients. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Model {
    /// One client at a time; the others wait in the backlog (UNP 1.5)
    Iterative,
    /// A process per client: fork, and a reaper for SIGCHLD (UNP 5.2-5.10)
    Fork,
    /// A thread per client (UNP 26.4)
    Thread,
    /// All clients in one thread, waiting for readiness with mio (UNP 6, 16)
    Reactor,
}

/// How many clients a model serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// One; the next is served when it has gone.
    One,
    /// All of them.
    All,
}

/// What a model spends on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A process of its own.
    Process,
    /// A thread of its own.
    Thread,
    /// Neither: an entry in a table, or nothing.
    Neither,
}

impl Model {
    /// All models, in the order of the tables.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iterative => "iterative",
            Self::Fork => "fork",
            Self::Thread => "thread",
            Self::Reactor => "reactor",
        }
    }

    /// How many clients it serves at once.
    pub const fn serves(self) -> Serves {
        match self {
            Self::Iterative => Serves::One,
            Self::Fork | Self::Thread | Self::Reactor => Serves::All,
        }
    }

    /// What it spends on each connection.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Fork => Unit::Process,
            Self::Thread => Unit::Thread,
            Self::Iterative | Self::Reactor => Unit::Neither,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for model in Model::all() {
            let value = model.to_possible_value().expect("no model is hidden");
            assert_eq!(value.get_name(), model.name());
        }
    }
}
