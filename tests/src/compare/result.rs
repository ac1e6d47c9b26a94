//! What a comparison has found: what `--export-json` writes, and what every other form is made from.
//!
//! Times are in seconds where the name ends in `_s`, in microseconds where it ends in `_us`. What was
//! not measured is absent, never 0.

use serde::{Deserialize, Serialize};

/// The number of this format; it grows when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// All of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Comparison {
    /// [`FORMAT`].
    pub format: u32,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// When it began, as in `2026-11-21T16:00:00Z`.
    pub began: String,
    /// How long it took.
    pub took_s: f64,
    /// Where it ran.
    pub environment: Environment,
    /// The order of the rounds was made from this number.
    pub seed: u64,
    /// How often each contestant had each workload.
    pub rounds: u32,
    /// How long each of these was measured.
    pub duration_s: f64,
    /// It was interrupted: what is missing was not measured.
    pub interrupted: bool,
    /// Who took part, in the order given.
    pub contestants: Vec<Contestant>,
    /// What they had to do, in the order of the table.
    pub workloads: Vec<Workload>,
    /// One for each contestant, workload and point.
    pub cells: Vec<Cell>,
    /// Pairs, from rounds that were next to each other.
    pub ratios: Vec<Ratio>,
    /// What the figures say, in words.
    pub conclusions: Vec<String>,
    /// What makes them doubtful, and what to do about it.
    pub warnings: Vec<String>,
}

/// Where it ran.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Environment {
    /// As `uname -sr` says.
    pub system: String,
    /// The processor's name.
    pub processor: String,
    /// Processors this program may use.
    pub processors: usize,
    /// Those the servers ran on.
    pub server_processors: Vec<usize>,
    /// Those the load generator ran on.
    pub load_processors: Vec<usize>,
    /// Bytes of memory.
    pub memory: u64,
    /// Soft limit of descriptors.
    pub descriptors: u64,
    /// `release` or `debug`.
    pub build: String,
    /// The version of this program.
    pub version: String,
    /// Settings of the kernel that matter, by name (`net.ipv4.tcp_congestion_control`, ...).
    pub sysctls: Vec<(String, String)>,
}

/// A server, and what it is made of.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Contestant {
    /// As in the tables; unique.
    pub name: String,
    /// How it was started.
    pub command: String,
    /// A server that is not of this project.
    pub foreign: bool,
    /// In a few words, as in "one thread, epoll".
    pub structure: String,
    /// Workers of a pool, reactors of a reactor; absent where that means nothing.
    pub workers: Option<u64>,
    /// What it reads into, as in "256 KiB, shared"; "unknown" of a foreign server.
    pub buffers: String,
    /// The largest number of connections it serves at a time; absent if nothing limits it.
    pub serves: Option<u64>,
}

/// A load, and what it is to show.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Workload {
    /// As in `--workload`.
    pub name: String,
    /// In a few words, as in "50 connections, 64 bytes".
    pub title: String,
    /// What one learns from it.
    pub shows: String,
    /// What its points are, as in "idle connections"; absent if it has only one.
    pub points: Option<String>,
    /// The command line of the load generator (of the last point), with PORT for the port.
    pub command: String,
}

/// One contestant under one workload at one point.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cell {
    /// [`Contestant::name`].
    pub contestant: String,
    /// [`Workload::name`].
    pub workload: String,
    /// For a workload with several: which.
    pub point: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// The rounds, in the order in which they ran.
    pub rounds: Vec<Round>,
    /// Their medians; absent without rounds.
    pub summary: Option<Summary>,
    /// For each measurement that was thrown away, because nothing came back while others had the
    /// processors: their part of all processor time, 0 to 1.
    pub hindered: Vec<f64>,
    /// Counted in a run of its own, which is not measured otherwise.
    pub calls: Option<Calls>,
}

/// What became of a cell.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Outcome {
    /// Its rounds were measured.
    Measured,
    /// The contestant cannot do this, by its nature.
    Cannot {
        /// Why, in words.
        why: String,
    },
    /// It should have, and did not.
    Failed {
        /// What happened, in one line.
        why: String,
    },
    /// Nobody knows: whenever it was measured, others had the processors.
    Hindered {
        /// Who had them, in words.
        why: String,
    },
    /// The comparison was interrupted before.
    NotReached,
}

/// One measurement. Per echo: divided by the echoes counted by the load generator in the same time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Round {
    /// Which round, from 0; contestants with the same number ran next to each other.
    pub round: u32,
    /// How long was measured.
    pub measured_s: f64,
    /// Whole messages that came back.
    pub echoes: u64,
    /// Bytes that came back.
    pub bytes: u64,
    /// The server's CPU time, all its processes and threads together, those that have ended and were
    /// reaped as well.
    pub cpu: Cpu,
    /// The load generator's.
    pub generator_cpu: Cpu,
    /// It had no processor time left.
    pub generator_bottleneck: bool,
    /// Of one message; with one connection per request, from connect to the echo.
    pub latency: Option<crate::load::report::Latency>,
    /// How the echoes were shared among the connections; 1 = all alike.
    pub fairness: f64,
    /// Times a thread of the server gave up its processor because it had to wait. None where that was
    /// looked at too late: there were too many threads, or others had the processors.
    pub voluntary_switches: Option<u64>,
    /// Times one was taken off it.
    pub involuntary_switches: Option<u64>,
    /// While the load was on.
    pub footprint: Footprint,
    /// The server's footprint before the first connection.
    pub at_rest: Footprint,
    /// Processor time that others than server and generator used, of all there was; 0 to 1.
    pub foreign_load: f64,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Cpu {
    /// In user mode.
    pub user_s: f64,
    /// In the kernel.
    pub system_s: f64,
}

impl Cpu {
    /// Both together, in seconds.
    pub fn total_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

/// What a server occupies, its whole tree of processes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Footprint {
    /// Processes.
    pub processes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Open descriptors of all of them.
    pub descriptors: u64,
    /// Bytes of memory, each shared page divided among those who share it (`Pss` of proc_pid_smaps(5)).
    pub pss: u64,
}

/// What the rounds of a cell have in common.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    /// The server's CPU time per echo, in microseconds. In a bulk workload per 64 KiB.
    pub cpu_us: Estimate,
    /// The generator's, likewise.
    pub generator_cpu_us: Estimate,
    /// Echoes per second; in a bulk workload MB per second (10^6 bytes).
    pub rate: Estimate,
    /// Percentiles of all rounds together, as far as there are enough samples.
    pub latency: Option<crate::load::report::Latency>,
    /// Median latency of the rounds, in microseconds.
    pub p50_us: Option<Estimate>,
    /// 99th percentile of the rounds, in microseconds.
    pub p99_us: Option<Estimate>,
    /// Context switches per echo, both kinds; if they are known.
    pub switches: Option<Estimate>,
    /// Bytes of memory per connection beyond what the server needs at rest; where there are enough to tell.
    pub pss_per_connection: Option<Estimate>,
    /// As in [`Round`].
    pub fairness: Estimate,
    /// The largest of the rounds.
    pub footprint: Footprint,
}

/// A median and how far the rounds lie apart.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// Of how many.
    pub n: u32,
}

/// System calls of a server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Calls {
    /// All, per echo.
    pub per_echo: f64,
    /// The most frequent ones, per echo, most frequent first.
    pub by_name: Vec<(String, f64)>,
    /// Bytes that calls read and wrote for each byte that was echoed: how often a byte is copied between
    /// kernel and program. Absent where that cannot be told from calls.
    pub copies: Option<f64>,
    /// Echoes they were counted over.
    pub echoes: u64,
}

/// How one contestant's CPU time per echo stands to another's under the same workload, made from pairs of
/// rounds with the same number.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ratio {
    /// [`Workload::name`].
    pub workload: String,
    /// As in [`Cell`].
    pub point: Option<u64>,
    /// What is compared.
    pub measure: Measure,
    /// Above the line.
    pub contestant: String,
    /// Below the line: the one with the least.
    pub reference: String,
    /// The middle of the pairs' ratios.
    pub ratio: f64,
    /// The interval that contains the true one with `confidence`; absent with too few rounds.
    pub interval: Option<(f64, f64)>,
    /// As in 0.95.
    pub confidence: f64,
    /// Pairs.
    pub pairs: u32,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// CPU time per echo; less is better.
    Cpu,
    /// Echoes per second; more is better.
    Rate,
    /// 99th percentile of latency; less is better.
    P99,
}
