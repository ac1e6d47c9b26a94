//! What can go wrong with a connection, by kind, with the first of each in words.

use std::collections::BTreeMap;
use std::io;

use nix::errno::Errno;
use tcpecho_common::calls;

use crate::load::report::Failures;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nobody listens there.
    Refused,
    /// No way to there, or no answer from there.
    Unreachable,
    /// No local port is left.
    NoPorts,
    /// RST.
    Reset,
    /// A FIN, before ours.
    Closed,
    /// Not what was sent.
    WrongBytes,
    /// The FIN came, and something had not come back; or what came back has a gap.
    MissingBytes,
    /// More than was sent, or twice.
    ExtraBytes,
    /// All came back, and no FIN after ours.
    NoFin,
    /// Something is owed, and nothing came for too long.
    Timeout,
    /// Anything else that the system said.
    System,
}

impl Kind {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoPorts => "no-ports",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::WrongBytes => "wrong-bytes",
            Self::MissingBytes => "missing-bytes",
            Self::ExtraBytes => "extra-bytes",
            Self::NoFin => "no-fin",
            Self::Timeout => "timeout",
            Self::System => "system",
        }
    }

    fn of(errno: Errno) -> Self {
        match errno {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ECONNRESET | Errno::EPIPE => Self::Reset,
            Errno::EADDRNOTAVAIL => Self::NoPorts,
            Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ETIMEDOUT => Self::Unreachable,
            _ => Self::System,
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

impl Failure {
    /// Of this kind, in these words.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    /// What a system call said.
    pub fn system(error: &io::Error) -> Self {
        let errno = calls::errno(error);
        Self::new(Kind::of(errno), errno.to_string())
    }

    /// The same, with this in front of the words.
    #[must_use]
    pub fn of(self, who: &str) -> Self {
        let text = format!("{who}: {}", self.text);
        Self { text, ..self }
    }
}

/// How many of each kind, and the first: when it happened, and the words.
#[derive(Clone, Debug, Default)]
pub struct Ledger(BTreeMap<Kind, (u64, u64, String)>);

impl Ledger {
    /// One more, at this moment.
    pub fn add(&mut self, failure: Failure, at: u64) {
        let first = || (0, at, failure.text);
        self.0.entry(failure.kind).or_insert_with(first).0 += 1;
    }

    /// All that `other` has.
    pub fn merge(&mut self, other: Self) {
        for (kind, (count, at, text)) in other.0 {
            let entry = self.0.entry(kind).or_insert_with(|| (0, at, text.clone()));
            entry.0 += count;
            if at < entry.1 {
                (entry.1, entry.2) = (at, text);
            }
        }
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is there anything besides this kind?
    pub fn is_only(&self, kind: Kind) -> bool {
        self.0.keys().all(|other| *other == kind)
    }

    /// For the report.
    pub fn report(self) -> Vec<Failures> {
        let failures = self.0.into_iter();
        failures
            .map(|(kind, (count, _, first))| Failures {
                kind: kind.name().into(),
                count,
                first,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_in_time_is_the_one_that_is_told() {
        let (mut one, mut other) = (Ledger::default(), Ledger::default());
        one.add(Failure::new(Kind::Reset, "second"), 20);
        one.add(Failure::new(Kind::Reset, "third"), 30);
        other.add(Failure::new(Kind::Reset, "first"), 10);
        other.add(Failure::new(Kind::Closed, "closed"), 40);
        one.merge(other);
        let told: Vec<_> = one
            .report()
            .into_iter()
            .map(|f| (f.kind, f.count, f.first))
            .collect();
        let expected = [("reset", 3, "first"), ("closed", 1, "closed")];
        assert_eq!(
            told,
            expected.map(|(k, n, f)| (k.to_owned(), n, f.to_owned()))
        );
    }
}
