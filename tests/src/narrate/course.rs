//! Where a lab stands in the course, and what it needs.

use std::fmt;

/// The chapters of the course, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chapter {
    /// Life and death of a connection.
    Life,
    /// Concurrency.
    Concurrency,
    /// Signals.
    Signals,
    /// When things go wrong.
    Trouble,
    /// I/O.
    InputOutput,
}

impl Chapter {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Life,
        Self::Concurrency,
        Self::Signals,
        Self::Trouble,
        Self::InputOutput,
    ];

    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Life => "Life and death of a connection",
            Self::Concurrency => "Concurrency",
            Self::Signals => "Signals",
            Self::Trouble => "When things go wrong",
            Self::InputOutput => "I/O",
        }
    }
}

impl fmt::Display for Chapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// What a lab needs beside the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Namespaces for all of it: without them there is nothing to see.
    Namespaces,
    /// Namespaces for some of it: without them that is skipped.
    Packets,
    /// More than a thousand descriptors: with a lower limit some of it is skipped.
    Descriptors,
    /// strace(1): without it some is skipped.
    Strace,
    /// A machine that does nothing else meanwhile: it measures times, or keeps a processor busy.
    Calm,
}

impl Need {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Namespaces,
        Self::Packets,
        Self::Descriptors,
        Self::Strace,
        Self::Calm,
    ];

    /// The letter that stands for it in a table.
    pub const fn mark(self) -> char {
        match self {
            Self::Namespaces => 'N',
            Self::Packets => 'n',
            Self::Descriptors => 'd',
            Self::Strace => 's',
            Self::Calm => 'c',
        }
    }

    /// What it is, and what becomes of the lab without.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces, without which there is nothing to see",
            Self::Packets => "namespaces, without which some of it is skipped: packets, mostly",
            Self::Descriptors => "more than a thousand descriptors: ulimit -Hn",
            Self::Strace => "strace, without which some of it is skipped",
            Self::Calm => "no other demonstration beside it: it measures",
        }
    }
}
