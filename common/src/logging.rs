//! Where diagnostics go: stderr (or what stands in for it), through log and `env_logger`, in lines that never block the program.
//!
//! `info` is the life of connections and children, `debug` readiness, `trace` the system
//! calls that go through [`calls`]. `RUST_LOG` wins over `-v` and `-q`; `RUST_LOG=mio=trace` shows mio's registrations.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::RawFd;
use std::sync::LazyLock;
use std::time::Instant;

use clap::Args;
use env_logger::{DEFAULT_FILTER_ENV, Target, WriteStyle};
use log::{Level, LevelFilter, Record};
use nix::libc::STDERR_FILENO;

use crate::calls;
use crate::sink::Sink;

/// Log target of tables that the user asked for (SIGUSR1): shown unless `-qq`.
pub const STATUS: &str = "status";

/// `-v` and `-q`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Verbosity {
    /// Say more on stderr: -v connections (and children), -vv readiness, -vvv most of the system calls it makes (`RUST_LOG` overrides)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Say less: -q errors only, -qq no log lines at all; the reason for a failure is always said
    #[arg(short, long, action = clap::ArgAction::Count, global = true, conflicts_with = "verbose")]
    pub quiet: u8,
}

impl Verbosity {
    fn level(self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (2.., _) => LevelFilter::Off,
            (1, _) => LevelFilter::Error,
            (0, 0) => LevelFilter::Warn,
            (0, 1) => LevelFilter::Info,
            (0, 2) => LevelFilter::Debug,
            (0, 3..) => LevelFilter::Trace,
        }
    }

    fn filter(self) -> String {
        match self.level() {
            LevelFilter::Off => "off".into(),
            level => format!("{level},mio=warn,{STATUS}=info"),
        }
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Starts logging to `fd`, which stays open; `tag` (the model, or the program) stands in every line.
/// Call once, before any thread is started.
pub fn start(verbosity: Verbosity, tag: &'static str, fd: RawFd) {
    LazyLock::force(&START);
    let wanted = std::env::var(DEFAULT_FILTER_ENV).ok();
    let wanted = wanted.filter(|filters| !filters.trim().is_empty());
    let mut builder = env_logger::Builder::new();
    match &wanted {
        None => builder.parse_filters(&verbosity.filter()),
        Some(filters) if filters.trim() == "off" => builder.parse_filters(filters),
        Some(filters) => builder.parse_filters(&format!("{filters},{STATUS}=info")),
    };
    if let Ok(sink) = Sink::over(fd) {
        builder.target(Target::Pipe(Box::new(Lines(sink))));
    }
    builder
        .write_style(if colours_wanted() {
            WriteStyle::Always
        } else {
            WriteStyle::Never
        })
        .format(move |out, record| {
            let ms = START.elapsed().as_secs_f64() * 1000.0;
            let (pid, level) = (std::process::id(), record.level());
            let style = out.default_level_style(level);
            writeln!(
                out,
                "{ms:>10.3} ms {pid} {tag} {style}{level:<5}{style:#} {}",
                record.args()
            )
        })
        .init();
    if wanted.is_none() {
        // The filter lets the tables through at `info`, so env_logger would want to see every line of
        // that level. A line that nobody has asked for shall cost a load.
        log::set_max_level(verbosity.level());
    }
    calls::trace(log::log_enabled!(target: calls::TARGET, Level::Trace));
}

/// Logs a table that the user asked for; see [`STATUS`].
pub fn table(text: &str) {
    let record = &mut Record::builder();
    log::logger().log(
        &record
            .target(STATUS)
            .level(Level::Info)
            .args(format_args!("{text}"))
            .build(),
    );
}

/// Writes `program: text` on stderr, whatever the log level; for errors and outcomes. Never
/// blocks; if stderr is gone, so is the line.
pub fn say(program: &str, text: impl std::fmt::Display) {
    if let Ok(mut sink) = Sink::over(STDERR_FILENO) {
        // An error here has nowhere to be told.
        let _ = sink.line(format!("{program}: {text}\n").as_bytes());
    }
}

fn colours_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// The sink as env_logger wants it: every call of `write` brings one whole line.
struct Lines(Sink);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = self.0.take_dropped();
        if dropped > 0 {
            let mut report = String::new();
            let _ = writeln!(
                report,
                "({dropped} log lines dropped: nobody read them in time)"
            );
            if self.0.line(report.as_bytes()).is_err() {
                self.0.count_dropped(dropped);
                return Ok(line.len());
            }
        }
        // A line that does not fit has been counted; there is nothing else to do about it.
        let _ = self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
