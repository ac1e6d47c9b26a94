//! tcpecho-load: the command line of the load generator; see `tcpecho_lab::load`.

use std::env;
use std::fs;
use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::Parser;
use tcpecho_common::{Exit, logging, usage};
use tcpecho_lab::load::cli::{Cli, PROGRAM};
use tcpecho_lab::load::clock;
use tcpecho_lab::load::interrupt;
use tcpecho_lab::load::report::{Event, Outcome, Report};
use tcpecho_lab::load::run::run;

fn main() -> Exit {
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(error) => return usage::explain(PROGRAM, &error),
    };
    measure(&cli).unwrap_or_else(|error| {
        let cause = error.downcast_ref::<io::Error>();
        // Whoever piped us into `head` has read enough.
        if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
            return Exit::Done;
        }
        logging::say(PROGRAM, format!("{error:#}"));
        Exit::Failed
    })
}

fn measure(cli: &Cli) -> Result<Exit> {
    let began = clock::now();
    let mut watch = |event: &Event| if cli.json_stream { line(event) } else { Ok(()) };
    let (report, signal) = run(cli.plan(), env::args().collect(), began, &mut watch)?;
    for failure in &report.errors {
        let more = if failure.count > 1 {
            format!(" ({} times)", failure.count)
        } else {
            String::new()
        };
        logging::say(
            PROGRAM,
            format!("{}: {}{more}", failure.kind, failure.first),
        );
    }
    for warning in &report.warnings {
        logging::say(PROGRAM, format!("warning: {warning}"));
    }
    let exit = exit(&report);
    tell(cli, report)?;
    if let Some(signal) = signal {
        interrupt::die_of(signal);
    }
    Ok(exit)
}

fn exit(report: &Report) -> Exit {
    let unreachable = |kind: &str| kind == "unreachable";
    match report.outcome {
        Outcome::Failed if report.errors.iter().all(|e| unreachable(&e.kind)) => Exit::Unreachable,
        Outcome::Failed => Exit::Failed,
        Outcome::Complete | Outcome::Interrupted => Exit::Done,
    }
}

/// Writes the report to where it is wanted.
fn tell(cli: &Cli, report: Report) -> Result<()> {
    let mut table = !cli.quiet && !cli.json_stream;
    if let Some(file) = &cli.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        if file.as_os_str() == "-" {
            table = false;
            io::stdout().write_all(text.as_bytes())?;
        } else {
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    if table {
        let rate = report.echoes as f64 / report.measured_s;
        writeln!(io::stdout(), "{rate:.0} echoes/s")?;
    }
    if cli.json_stream {
        line(&Event::End {
            report: report.into(),
        })?;
    }
    Ok(())
}

/// One line of `--json-stream`.
fn line(event: &Event) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let text = serde_json::to_string(event)? + "\n";
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}
