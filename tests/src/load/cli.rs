//! The command line of tcpecho-load: what it says, checked; nothing is done here.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use tcpecho_common::{defaults, units};

use crate::load::output;
use crate::load::pattern::PIECE;
use crate::load::plan::{Kind, Plan};
use crate::load::report::{Engine, Load, Mode};

/// The program's name.
pub const PROGRAM: &str = "tcpecho-load";

/// Bytes of a message unless `--size` says otherwise.
const SIZE: u64 = 64;

/// How often figures are told while a run goes on.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often a line on the terminal is.
const REDRAW: Duration = Duration::from_millis(250);

/// The longest message.
const LONGEST: u64 = 64 << 20;

const AFTER_HELP: &str = "\
Examples:
  tcpecho-load localhost                 50 connections, 64 bytes to and fro
  tcpecho-load localhost -c 1 -d 10      the round trip, undisturbed
  tcpecho-load localhost --rate 10k      latency at 10,000 a second
  tcpecho-load localhost --connect-per-request       what a connection costs
  tcpecho-load localhost -c 4 --bulk     throughput, both ways at once
  tcpecho-load localhost --idle 5000     do silent ones cost the others?
  tcpecho-load localhost --never-read 1  does who never reads stop others?
  tcpecho-load localhost --json - | jq .latency

Every byte that comes back is compared, and every connection must end with a FIN after ours.

What counts: an echo counts if it came back while measuring; its time if it began while measuring, \
even if it came back later. Closed loop (the default): from the send to the last byte of the echo; \
whoever waits sends nothing, so a server that stalls is asked less. Open loop (--rate): from the \
moment the message was due.

Times take ms, s or m: 250ms, 5s (or 5), 2m. Sizes take k or M: 64k is 65,536 bytes. Rates: 10k is \
10,000.

Exit codes:
  0  all came back, or nobody reads our stdout any more
  1  errors: told on stderr, one line for each kind
  2  the command line cannot be right
  5  no answer to connect, or host or network unreachable

After Ctrl-C it prints what it has measured and dies of the signal (130); a second one ends it at \
once.";

const LOAD: &str = "Load";
const COMPANY: &str = "Company of the measured connections";
const OUTPUT: &str = "Output";

/// Measures a TCP echo server: sends, waits for the echo, compares every byte, and tells how many came
/// back and how long they took.
#[derive(Clone, Debug, Parser)]
#[command(
    name = PROGRAM,
    version,
    override_usage = "tcpecho-load [OPTIONS] HOST [PORT]",
    after_help = AFTER_HELP,
    max_term_width = 100
)]
#[expect(clippy::struct_excessive_bools, reason = "flags are bools")]
pub struct Cli {
    /// Name or address of the server: localhost, 127.0.0.1, ::1
    host: String,

    /// Port of the server
    #[arg(default_value_t = defaults::PORT, value_parser = units::connect_port)]
    port: u16,

    /// Connections that are measured
    #[arg(short, long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000), help_heading = LOAD)]
    connections: u64,

    /// Bytes of a message [default: 64; with --bulk 256k]
    #[arg(short, long, value_name = "BYTES", value_parser = size, help_heading = LOAD)]
    size: Option<u64>,

    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "5s", value_parser = units::duration, help_heading = LOAD)]
    duration: Duration,

    /// How long the same load runs before that
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = units::duration_or_zero, help_heading = LOAD)]
    warmup: Duration,

    /// Messages under way on each connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000), help_heading = LOAD)]
    depth: u64,

    /// Open loop: so many messages a second, all connections together, whatever comes back
    #[arg(long, value_name = "N", value_parser = rate, help_heading = LOAD)]
    rate: Option<f64>,

    /// Connect, send one message, read the echo, close, and again
    #[arg(long, help_heading = LOAD)]
    connect_per_request: bool,

    /// Send as much as the connection takes, and read at the same time
    #[arg(long, help_heading = LOAD)]
    bulk: bool,

    /// Also the times on the wire, by the kernel's time stamps: tells what the server needs from what the
    /// generator itself and the scheduler need. Costs a system call or two per message
    #[arg(long, help_heading = LOAD)]
    wire: bool,

    /// Threads of the generator; connections are divided among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256), help_heading = LOAD)]
    threads: u64,

    /// By which system calls messages are sent and waited for [default: io-uring for short messages that
    /// follow each other on many connections, if the system has it; else epoll]
    #[arg(long, value_name = "ENGINE", help_heading = LOAD)]
    engine: Option<Engine>,

    /// Who is owed something and gets nothing for so long has failed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration, help_heading = LOAD)]
    timeout: Duration,

    /// Connections that are silent
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000), help_heading = COMPANY)]
    idle: u64,

    /// Connections that send all they can and never read
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000), help_heading = COMPANY)]
    never_read: u64,

    /// Connections that send all they can and read as fast as they can
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000), help_heading = COMPANY)]
    firehose: u64,

    /// Connections that send all they can and read 1 KiB every 10 ms
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000), help_heading = COMPANY)]
    slow: u64,

    /// Write the report as JSON to a file, or instead of the table to stdout (-)
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub json: Option<PathBuf>,

    /// Instead of the table, a line of JSON for each event and each second, and the report in the last
    #[arg(long, help_heading = OUTPUT)]
    pub json_stream: bool,

    /// Write the times to a file, as a HdrHistogram log: runs of several machines can be merged with its tools
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub hdr: Option<PathBuf>,

    /// Before the warm-up, and after measuring, keep the connections open and silent until stdin has a line
    /// or ends: time for whoever reads --json-stream to look at the server. With --connect-per-request
    /// the load goes on until then
    #[arg(long, requires = "json_stream", help_heading = OUTPUT)]
    hold: bool,

    /// No table
    #[arg(short, long, help_heading = OUTPUT)]
    pub quiet: bool,
}

impl Cli {
    /// The same, if it can be meant. Errors: flags that contradict each other.
    pub fn checked(self) -> Result<Self, clap::Error> {
        match self.check() {
            Ok(()) => Ok(self),
            Err(text) => Err(Self::command().error(ErrorKind::ArgumentConflict, text)),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.check_modes()?;
        self.check_rate()?;
        if self.engine == Some(Engine::IoUring) {
            let suits = self.plan().suits_ring();
            suits.map_err(|what| {
                format!("--engine io-uring cannot do {what}: leave one of them out")
            })?;
        }
        if self.threads > self.connections {
            return Err(format!(
                "{} threads have nothing to do with {} connections: --threads {} at most, or more -c",
                self.threads, self.connections, self.connections
            ));
        }
        let on_stdout = self
            .json
            .as_ref()
            .is_some_and(|file| file.as_os_str() == "-");
        if self.json_stream && on_stdout {
            return Err("--json-stream and --json - both want stdout: --json FILE".into());
        }
        Ok(())
    }

    fn check_modes(&self) -> Result<(), String> {
        let modes = [
            ("--rate", self.rate.is_some()),
            ("--connect-per-request", self.connect_per_request),
            ("--bulk", self.bulk),
            ("--depth", self.depth > 1),
        ];
        let given = modes.iter().filter(|(_, is_given)| *is_given);
        let given: Vec<_> = given.map(|(flag, _)| *flag).collect();
        match given[..] {
            [one] if self.wire && one != "--rate" => Err(format!(
                "--wire tells when single messages leave and come back: drop {one}"
            )),
            [one, other, ..] => Err(format!(
                "{one} and {other} say two things about when to send: choose one"
            )),
            _ => Ok(()),
        }
    }

    /// Is anything due in the time measured? Message n is, n / rate after the load has begun.
    fn check_rate(&self) -> Result<(), String> {
        let Some(rate) = self.rate else { return Ok(()) };
        let (warmup, duration) = (self.warmup.as_secs_f64(), self.duration.as_secs_f64());
        let first = (warmup * rate).ceil();
        if first < (warmup + duration) * rate {
            return Ok(());
        }
        Err(format!(
            "at --rate {rate} no message is due in the {duration} s that are measured: -d {:.0}, or --rate {}",
            rate.recip().ceil(),
            (1000.0 / duration).ceil() / 1000.0,
        ))
    }

    fn mode(&self) -> Mode {
        match self.rate {
            Some(rate) => Mode::Open { rate },
            None if self.bulk => Mode::Bulk,
            None if self.connect_per_request => Mode::ConnectPerRequest,
            None => Mode::Closed { depth: self.depth },
        }
    }

    /// How often somebody wants figures while it runs.
    fn interval(&self) -> Option<Duration> {
        if self.json_stream || self.hdr.is_some() {
            Some(INTERVAL)
        } else {
            output::is_watched().then_some(REDRAW)
        }
    }

    /// What is to be done.
    pub fn plan(&self) -> Plan {
        let usual = if self.bulk { PIECE as u64 } else { SIZE };
        let company = [
            (Kind::Idle, self.idle),
            (Kind::NeverRead, self.never_read),
            (Kind::Firehose, self.firehose),
            (Kind::Slow, self.slow),
        ];
        Plan {
            host: self.host.clone(),
            port: self.port,
            load: Load {
                mode: self.mode(),
                connections: self.connections,
                size: self.size.unwrap_or(usual),
                duration_s: self.duration.as_secs_f64(),
                warmup_s: self.warmup.as_secs_f64(),
                threads: self.threads,
            },
            company: company
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            engine: self.engine,
            timeout: self.timeout,
            interval: self.interval(),
            hold: self.hold,
            wire: self.wire,
        }
    }
}

/// Bytes of a message: `64`, `4k` (4096), `1M`; 1 to 64M.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return Err(format!("unknown unit '{unit}': use k or M, as in 64k")),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    bytes
        .filter(|bytes| (1..=LONGEST).contains(bytes))
        .ok_or_else(|| "a size is a number of bytes from 1 to 64M, such as 64 or 16k".into())
}

/// Messages per second: `500`, `10k`, `0.5`; at most 10 million.
fn rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        _ => return Err(format!("unknown unit '{unit}': use k or M, as in 10k")),
    };
    let rate = number.parse::<f64>().ok().map(|number| number * factor);
    rate.filter(|rate| (0.001..=1e7).contains(rate))
        .ok_or_else(|| {
            "a rate is a number of messages a second up to 10M, such as 500 or 10k".into()
        })
}

/// Number and unit.
fn split(text: &str) -> (&str, &str) {
    let is_unit = |c: char| !c.is_ascii_digit() && c != '.';
    text.split_at(text.find(is_unit).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpecho_common::usage;

    fn parsed(line: &str) -> Result<Cli, String> {
        let words = [PROGRAM].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).and_then(Cli::checked);
        cli.map_err(|error| usage::told(PROGRAM, &error))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_plan_is_what_was_said() {
        let plan = parsed("h 7 -c 3 -s 4k -d 2 --rate 1.5k --idle 9")
            .expect("good")
            .plan();
        assert_eq!((plan.host.as_str(), plan.port), ("h", 7));
        assert_eq!(plan.load.mode, Mode::Open { rate: 1500.0 });
        assert_eq!((plan.load.connections, plan.load.size), (3, 4096));
        assert_eq!(plan.company, [(Kind::Idle, 9)]);
        assert_eq!(plan.all_connections(), 12);
        let plan = parsed("h").expect("good").plan();
        assert_eq!((plan.port, plan.load.size), (defaults::PORT, 64));
        assert_eq!(parsed("h --bulk").expect("good").plan().load.size, 262_144);
    }

    #[test]
    fn times_on_the_wire_are_told_of_one_message_or_of_a_rate() {
        for line in ["h --wire", "h --wire --depth 1", "h --rate 5 --wire"] {
            assert!(parsed(line).expect("good").plan().wire, "{line}");
        }
        assert!(!parsed("h").expect("good").plan().wire);
    }

    /// The first message is due when the load begins, the second 1.43 s later.
    #[test]
    fn a_rate_is_low_enough_for_the_time_if_one_message_falls_into_it() {
        for line in ["h --rate 0.7 -d 1s", "h --rate 0.7 -d 1ms --warmup 0"] {
            assert!(parsed(line).is_ok(), "{line}");
        }
        for line in ["h --rate 0.7 -d 900ms", "h --rate 0.7 -d 1s --warmup 200ms"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn contradictions_are_told_in_one_line_with_a_way_out() {
        for (line, way_out) in [
            ("h --rate 5 --bulk", "choose one"),
            ("h --rate 5 --connect-per-request", "choose one"),
            ("h --depth 2 --rate 5", "choose one"),
            ("h --wire --bulk", "drop --bulk"),
            ("h --wire --depth 2", "drop --depth"),
            (
                "h --connect-per-request --wire",
                "drop --connect-per-request",
            ),
            ("h -c 2 --threads 3", "--threads 2"),
            ("h --json - --json-stream", "--json FILE"),
            ("h --hold", "--json-stream"),
            ("h -s 0", "16k"),
            ("h -s 4g", "64k"),
            ("h --rate 0", "10k"),
            ("h --rate 0.001", "-d 1000, or --rate 0.2"),
            ("h --rate 0.7 -d 500ms", "-d 2, or --rate 2"),
            ("", "HOST"),
        ] {
            let told = parsed(line).expect_err(line);
            assert!(
                told.contains(way_out) && !told.contains('\n'),
                "{line}: {told}"
            );
        }
    }
}
