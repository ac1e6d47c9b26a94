//! The concurrency models and what is characteristic of each.

use std::fmt;

use clap::ValueEnum;

use crate::defaults;

/// How the server serves many clients. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Model {
    /// One client at a time; the others wait in the backlog (UNP 1.5)
    Iterative,

    /// A process per client: fork, and a reaper for SIGCHLD (UNP 5.2-5.10)
    Fork,

    /// A process per client, as inetd does it: fork, dup2, exec of a program that serves descriptor 0 (UNP 13.5)
    Exec,

    /// --workers processes, forked in advance, each in accept (UNP 30.6-30.8); client N+1 waits
    Prefork,

    /// A thread per client (UNP 26.4)
    Thread,

    /// --workers threads, created in advance, each in accept (UNP 30.11); client N+1 waits
    ThreadPool,

    /// All clients in one thread, waiting for readiness with select (UNP 6.8); descriptors below 1024 only
    Select,

    /// All clients in one thread, waiting for readiness with poll (UNP 6.11); each call looks at all
    Poll,

    /// All clients in one thread, waiting for readiness with mio (UNP 6, 16); --workers N: in N threads
    Reactor,

    /// A task per client, written like the blocking echo, on a small executor over mio
    Async,

    /// All clients in one thread that waits for completions instead of readiness: io_uring (Linux 6.1)
    Uring,
}

/// How many clients a model serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// One; the next is served when it has gone.
    One,
    /// As many as there are workers; the next is served when one has gone.
    Workers,
    /// All of them.
    All,
}

/// What a model spends on each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A process of its own, for as long as it lasts.
    Process,
    /// A thread of its own, for as long as it lasts.
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
            Self::Exec => "exec",
            Self::Prefork => "prefork",
            Self::Thread => "thread",
            Self::ThreadPool => "thread-pool",
            Self::Select => "select",
            Self::Poll => "poll",
            Self::Reactor => "reactor",
            Self::Async => "async",
            Self::Uring => "uring",
        }
    }

    /// How many clients it serves at once.
    pub const fn serves(self) -> Serves {
        match self {
            Self::Iterative => Serves::One,
            Self::Prefork | Self::ThreadPool => Serves::Workers,
            Self::Fork
            | Self::Exec
            | Self::Thread
            | Self::Select
            | Self::Poll
            | Self::Reactor
            | Self::Async
            | Self::Uring => Serves::All,
        }
    }

    /// What it spends on each connection.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Fork | Self::Exec | Self::Prefork => Unit::Process,
            Self::Thread | Self::ThreadPool => Unit::Thread,
            Self::Iterative
            | Self::Select
            | Self::Poll
            | Self::Reactor
            | Self::Async
            | Self::Uring => Unit::Neither,
        }
    }

    /// How many workers it has unless told otherwise; None where there are none to speak of.
    pub const fn default_workers(self) -> Option<usize> {
        match self {
            Self::Prefork | Self::ThreadPool => Some(defaults::POOL),
            Self::Reactor => Some(1),
            _ => None,
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
