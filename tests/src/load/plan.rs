//! What is to be done: the command line, checked and in numbers.

use std::time::Duration;

use crate::load::pattern::PIECE;
use crate::load::report::{Engine, Load, Mode};
use crate::load::ring;

/// A run of the load generator.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What the report repeats.
    pub load: Load,
    /// What the measured connections are to go through, if it matters.
    pub engine: Option<Engine>,
    /// The company of the measured connections, by kind.
    pub company: Vec<(Kind, u64)>,
    /// Who is owed something and gets nothing for so long has failed.
    pub timeout: Duration,
    /// How often figures are wanted while it runs; never, if none.
    pub interval: Option<Duration>,
    /// Before the warm-up, and after measuring, keep the connections silent until stdin has a line or ends.
    pub hold: bool,
    /// The measured connections' messages are to be stamped by the kernel.
    pub wire: bool,
}

/// What a connection is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is measured.
    Measured,
    /// Connects, and is silent.
    Idle,
    /// Sends as much as the connection takes, and never reads.
    NeverRead,
    /// Sends as much as the connection takes, and reads as fast as it can.
    Firehose,
    /// Sends as much as the connection takes, and reads [`SLOW_PIECE`] bytes every [`SLOW_PAUSE`].
    Slow,
}

/// What a slow one reads at once.
pub const SLOW_PIECE: usize = 1024;

/// How often it does so.
pub const SLOW_PAUSE: Duration = Duration::from_millis(10);

impl Kind {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Idle => "idle",
            Self::NeverRead => "never-read",
            Self::Firehose => "firehose",
            Self::Slow => "slow",
        }
    }

    /// How it reads.
    pub fn reads(self) -> Reads {
        match self {
            Self::NeverRead => Reads::Nothing,
            Self::Slow => Reads::Slowly,
            _ => Reads::All,
        }
    }
}

/// How a connection reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// As fast as it can.
    All,
    /// A little now and then.
    Slowly,
    /// Never.
    Nothing,
}

/// When a connection sends its next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// So many at the beginning, then one for each that came back.
    Answers(u64),
    /// When they are due.
    Scheduled,
    /// One, and that is all.
    Once,
    /// As soon as the connection takes more.
    Always,
    /// Never.
    Nothing,
}

impl Plan {
    /// When a connection of this kind sends.
    pub fn sends(&self, kind: Kind) -> Sends {
        match (kind, self.load.mode) {
            (Kind::Measured, Mode::Closed { depth }) => Sends::Answers(depth),
            (Kind::Measured, Mode::Open { .. }) => Sends::Scheduled,
            (Kind::Measured, Mode::ConnectPerRequest) => Sends::Once,
            (Kind::Idle, _) => Sends::Nothing,
            _ => Sends::Always,
        }
    }

    /// The bytes of a message of this kind.
    pub fn message(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Measured => self.load.size,
            _ => PIECE as u64,
        }
    }

    /// How much time passes between two messages of a worker, if that is planned.
    pub fn pause(&self) -> Duration {
        match self.load.mode {
            Mode::Open { rate } => Duration::from_secs_f64(self.load.threads as f64 / rate),
            _ => Duration::ZERO,
        }
    }

    /// Can the messages go through io_uring? Errors: why not.
    pub fn suits_ring(&self) -> Result<(), String> {
        match self.load.mode {
            _ if self.wire => Err("--wire".into()),
            Mode::Closed { depth: 1 } if self.load.size <= ring::LONGEST => Ok(()),
            Mode::Closed { depth: 1 } => {
                Err(format!("messages of more than {} bytes", ring::LONGEST))
            }
            Mode::Closed { .. } => Err("--depth".into()),
            Mode::Open { .. } => Err("--rate".into()),
            Mode::ConnectPerRequest => Err("--connect-per-request".into()),
            Mode::Bulk => Err("--bulk".into()),
        }
    }

    /// Does each message have a connection of its own?
    pub fn connects_per_request(&self) -> bool {
        self.load.mode == Mode::ConnectPerRequest
    }

    /// Connections of all kinds.
    pub fn all_connections(&self) -> u64 {
        let company = self.company.iter().map(|(_, count)| count);
        self.load.connections + company.sum::<u64>()
    }

    /// The connections of one of the workers, by number: it has every so-manieth, company as well.
    pub fn share(&self, worker: u64) -> Vec<(u64, Kind)> {
        let measured = (0..self.load.connections).map(|_| Kind::Measured);
        let company = self.company.iter();
        let company = company.flat_map(|(kind, count)| (0..*count).map(|_| *kind));
        let all = (0..).zip(measured.chain(company));
        all.filter(|(number, _)| number % self.load.threads == worker)
            .collect()
    }
}
