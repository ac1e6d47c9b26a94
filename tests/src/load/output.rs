//! Where a run is told: on stdout as a table or JSON, in files, on the terminal while it goes on.
//!
//! Files are created before the load, so that a name that cannot be written is no loss.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Stderr, Write};
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use tcpecho_common::logging;

use crate::load::cli::{Cli, PROGRAM};
use crate::load::hdr::Log;
use crate::load::interrupt;
use crate::load::json;
use crate::load::latency::Recorder;
use crate::load::meter::Slice;
use crate::load::progress::{Now, Progress};
use crate::load::report::{Event, Load, Outcome, Report};
use crate::load::run::Watch;
use crate::load::table::Table;
use crate::stdout::{columns, patiently};

/// All that is to be told, and where.
pub struct Outputs {
    command: Vec<String>,
    load: Load,
    table: bool,
    stream: bool,
    json: Option<File>,
    json_on_stdout: bool,
    hdr: Hdr,
    progress: Progress<Stderr>,
    /// Of all messages so far.
    so_far: Recorder,
}

/// The log of histograms.
enum Hdr {
    /// Not wanted.
    None,
    /// It begins with the measurement.
    Waiting(File),
    Begun(Log<File>),
}

impl Outputs {
    /// As the command line says. Errors: a file that cannot be created.
    pub fn new(cli: &Cli, command: Vec<String>, load: Load) -> Result<Self> {
        let dash = |file: &Path| file.as_os_str() == "-";
        let json_on_stdout = cli.json.as_deref().is_some_and(dash);
        let json = cli.json.as_deref().filter(|file| !dash(file));
        let hdr = cli.hdr.as_deref().map(create).transpose()?;
        Ok(Self {
            command,
            load,
            table: !cli.quiet && !cli.json_stream && !json_on_stdout,
            stream: cli.json_stream,
            json: json.map(create).transpose()?,
            json_on_stdout,
            hdr: hdr.map_or(Hdr::None, Hdr::Waiting),
            progress: Progress::on_stderr(),
            so_far: Recorder::new(),
        })
    }

    /// What there is to say in the end; after a signal only for as long as last words may take. Errors:
    /// it cannot be written.
    pub fn end(&mut self, report: Report, signalled: bool) -> Result<()> {
        self.progress.clear();
        self.complain(&report);
        if let Some(file) = &mut self.json {
            json::report(file, &report).context("cannot write the JSON file")?;
        }
        let mut text = Vec::new();
        if self.json_on_stdout {
            json::report(&mut text, &report)?;
        }
        if self.table && report.measured_s > 0.0 {
            let (report, width) = (&report, columns());
            write!(text, "{}", Table { report, width })?;
        }
        if self.stream {
            let report = Box::new(report);
            json::event(&mut text, &Event::End { report })?;
        }
        self.print(text, move || signalled)
    }

    /// Writes to stdout. Who does not read it even when there is a hurry gets nothing more.
    fn print(&mut self, text: Vec<u8>, hurry: impl Fn() -> bool) -> Result<()> {
        let written = if self.table {
            patiently(move || anstream::stdout().write_all(&text), hurry)
        } else {
            let write = move || {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&text).and_then(|()| stdout.flush())
            };
            patiently(write, hurry)
        };
        match written {
            Err(error) if error.kind() == ErrorKind::TimedOut => self.stream = false,
            written => written?,
        }
        Ok(())
    }

    fn stream(&mut self, event: &Event) -> Result<()> {
        if !self.stream {
            return Ok(());
        }
        let mut line = Vec::new();
        json::event(&mut line, event)?;
        self.print(line, interrupt::is_pending)
    }

    /// On stderr, a line for each kind of error, and (if no table has them) each warning.
    fn complain(&self, report: &Report) {
        for failures in &report.errors {
            let times = match failures.count {
                1 => String::new(),
                n => format!(" ({n} times)"),
            };
            let (kind, first) = (&failures.kind, &failures.first);
            logging::say(PROGRAM, format!("{kind}: {first}{times}"));
        }
        if report.measured_s == 0.0 {
            if report.outcome == Outcome::Interrupted {
                logging::say(PROGRAM, "interrupted before anything was measured");
            }
        } else if !self.table {
            for warning in &report.warnings {
                logging::say(PROGRAM, format!("warning: {warning}"));
            }
        }
    }

    fn show_progress(&mut self, until: Duration, length: Duration, slice: &Slice) {
        self.so_far.merge(&slice.times.latency);
        let now = Now {
            doing: "measuring",
            elapsed: until,
            total: Duration::from_secs_f64(self.load.duration_s),
            rate: slice.echoes as f64 / length.as_secs_f64(),
            p99_us: self.so_far.percentile(99.0),
            errors: 0,
        };
        self.progress.show(Instant::now(), &now);
    }
}

impl Watch for Outputs {
    fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Measuring { .. } => {
                if let Hdr::Waiting(file) = mem::replace(&mut self.hdr, Hdr::None) {
                    let log = Log::begin(file, &self.command, SystemTime::now());
                    self.hdr = Hdr::Begun(log.context(HDR)?);
                }
            }
            Event::Measured { .. } => self.progress.clear(),
            _ => {}
        }
        self.stream(event)
    }

    fn slice(&mut self, from: Duration, length: Duration, slice: &Slice) -> Result<()> {
        let late = length.is_zero();
        if late && slice.times.latency.is_empty() {
            return Ok(());
        }
        if let Hdr::Begun(log) = &mut self.hdr {
            log.interval(from, length, &slice.times).context(HDR)?;
        }
        if late {
            return Ok(());
        }
        self.show_progress(from + length, length, slice);
        self.stream(&slice.event(from, length))
    }
}

const HDR: &str = "cannot write the HdrHistogram log";

/// Is somebody watching how far it is?
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}
