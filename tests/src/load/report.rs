//! What a run of the load generator has to say: what `--json` prints, and what a comparison reads.
//!
//! Times are in seconds where the name ends in `_s`, in microseconds where it ends in `_us`. A figure
//! that was not measured is absent, never 0.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The number of this format; it grows when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// The address that was connected to, as in `127.0.0.1:9877`.
    pub target: String,
    /// What was to be done.
    pub load: Load,
    /// How it ended.
    pub outcome: Outcome,
    /// How long was measured, without the warm-up.
    pub measured_s: f64,
    /// Whole messages that came back while measuring.
    pub echoes: u64,
    /// Bytes that came back while measuring; each was compared.
    pub bytes: u64,
    /// Connections that were established while measuring (all of them with `--connect-per-request`).
    pub connects: u64,
    /// Of one message: closed loop, from the call that sends it; open loop, from the moment it was due.
    pub latency: Option<Latency>,
    /// With `--wire`, of messages that have both of the kernel's time stamps: from when the last packet
    /// of the call that sent it left until the last packet of its echo arrived.
    pub wire: Option<Latency>,
    /// With `--wire`: how many have both, and what the others have not.
    pub stamps: Option<Stamps>,
    /// Open loop only: from the call that sends it, which leaves out what it waited for before that.
    pub service: Option<Latency>,
    /// From connect to established, of the connections counted in `connects`.
    pub connect: Option<Latency>,
    /// With `--connect-per-request`: from connect to the whole first echo.
    pub first_echo: Option<Latency>,
    /// How the echoes were shared among the connections.
    pub shares: Shares,
    /// The company of the measured connections (`--firehose`, `--slow`, `--never-read`, `--idle`).
    pub company: Vec<Company>,
    /// Was the warm-up long enough?
    pub warmup: Warmup,
    /// What the generator itself needed.
    pub generator: Generator,
    /// What went wrong, by kind; empty in a good run.
    pub errors: Vec<Failures>,
    /// What makes a figure doubtful, and what to do about it; one sentence each.
    pub warnings: Vec<String>,
}

/// What was to be done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Load {
    /// How messages follow each other.
    pub mode: Mode,
    /// Measured connections.
    pub connections: u64,
    /// Bytes of a message.
    pub size: u64,
    /// How long to measure.
    pub duration_s: f64,
    /// How long before that.
    pub warmup_s: f64,
    /// Threads of the generator.
    pub threads: u64,
}

/// How messages follow each other on a connection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Mode {
    /// The next one when the first of `depth` has come back.
    Closed {
        /// Messages under way on a connection.
        depth: u64,
    },
    /// When they are due, whatever has come back.
    Open {
        /// Messages per second, all connections together.
        rate: f64,
    },
    /// Connect, one message, close, and again.
    ConnectPerRequest,
    /// As much as the connection takes, both ways at once.
    Bulk,
}

/// By which system calls messages are sent and echoes waited for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// A send and a recv for each, and one epoll_wait for all that are ready
    Epoll,
    /// One io_uring_enter for many
    IoUring,
}

impl Engine {
    /// As the kernel's manual calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// After the time it was to take, and without errors.
    Complete,
    /// By a signal; the figures are those until then.
    Interrupted,
    /// With errors.
    Failed,
}

/// Times in microseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// How many there are.
    pub count: u64,
    /// The smallest.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// The largest.
    pub max_us: f64,
    /// Those percentiles beyond which at least ten of them lie, ascending.
    pub percentiles: Vec<Percentile>,
    /// All of them: a HdrHistogram of nanoseconds, V2 compressed, base64.
    pub histogram: String,
}

/// So many percent of all were at most so long.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Percentile {
    /// 50, 90, 99, 99.9, 99.99.
    pub percent: f64,
    /// Microseconds.
    pub us: f64,
}

/// Messages by what the kernel's time stamps say of them, of those that `latency` counts and that came back.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Stamps {
    /// They have both; `wire` counts them.
    pub both: u64,
    /// Of these: later ones were sent by the same call or have come back in the same read, so that the
    /// stamp is that of the last of them.
    pub shared: u64,
    /// Nothing says when they left.
    pub no_departure: u64,
    /// Nothing says when their echoes arrived.
    pub no_arrival: u64,
    /// Their stamps cannot be: the clock was set meanwhile.
    pub no_order: u64,
    /// Taken off each time: what is between both stamps of one packet where it leaves and arrives at once, on
    /// loopback; elsewhere 0.
    pub apart_us: f64,
}

impl Stamps {
    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.both += other.both;
        self.shared += other.shared;
        self.no_departure += other.no_departure;
        self.no_arrival += other.no_arrival;
        self.no_order += other.no_order;
    }

    /// Messages of any kind.
    pub fn all(&self) -> u64 {
        self.both + self.no_departure + self.no_arrival + self.no_order
    }
}

/// Echoes per measured connection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Shares {
    /// Of the connection that got fewest.
    pub fewest: u64,
    /// Of the connection that got most.
    pub most: u64,
    /// Jain's index, `(sum x)^2 / (n * sum x^2)`: 1 = all alike, 1/n = one has everything.
    pub fairness: f64,
}

/// Connections of one kind beside the measured ones.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Company {
    /// `idle`, `never-read`, `firehose`, `slow`.
    pub kind: String,
    /// How many.
    pub connections: u64,
    /// Bytes they sent while measuring.
    pub sent: u64,
    /// Bytes they read while measuring; each was compared.
    pub read: u64,
}

/// The rate in the last part of the warm-up against the rate measured.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Warmup {
    /// Echoes per second in the second half of the warm-up; absent without one.
    pub warm_rate: Option<f64>,
    /// Echoes per second in the first quarter of the measurement.
    pub first_rate: f64,
    /// Echoes per second in the last quarter of the measurement.
    pub last_rate: f64,
    /// First and last quarter are within a tenth of each other, or so few echoes apart that it may be chance.
    pub steady: bool,
}

/// What the generator itself needed while measuring.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Generator {
    /// How messages were sent and echoes waited for.
    pub engine: Engine,
    /// CPU time in user mode.
    pub user_s: f64,
    /// CPU time in the kernel.
    pub system_s: f64,
    /// CPU time of the busiest of its threads, of the time measured; 1 = all of a processor.
    pub busiest_thread: f64,
    /// It had no processor time left: a faster server would not show.
    pub bottleneck: bool,
}

/// Failures of one kind.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Failures {
    /// `refused`, `reset`, `closed`, `wrong-bytes`, `extra-bytes`, `missing-bytes`, `no-fin`, `timeout`, ...
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The first of them in words, with the connection and the position in its stream.
    pub first: String,
}

/// A line of `--json-stream`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// All connections are there, the warm-up begins.
    Connected {
        /// Since the program began.
        at_s: f64,
    },
    /// The warm-up is over: from now on it counts.
    Measuring {
        /// Since the program began.
        at_s: f64,
    },
    /// The figures of one interval.
    Interval {
        /// Its end, since the measurement began.
        at_s: f64,
        /// Its length.
        length_s: f64,
        /// Whole messages that came back in it.
        echoes: u64,
        /// Bytes that came back in it.
        bytes: u64,
        /// Of the messages that came back in it.
        latency: Option<Latency>,
        /// With `--wire`: of these, on the wire.
        wire: Option<Latency>,
    },
    /// The measurement is over; what follows (the connections' end) does not count.
    Measured {
        /// Since the program began.
        at_s: f64,
    },
    /// The last line.
    End {
        /// All of it.
        report: Box<Report>,
    },
}
