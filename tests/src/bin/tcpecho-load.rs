//! tcpecho-load: the command line of the load generator; see `tcpecho_lab::load`.

use std::io;

use anyhow::Result;
use clap::Parser;
use tcpecho_common::{Exit, logging, usage};
use tcpecho_lab::load::cli::{Cli, PROGRAM};
use tcpecho_lab::load::output::Outputs;
use tcpecho_lab::load::report::{Outcome, Report};
use tcpecho_lab::load::run::run;
use tcpecho_lab::load::{clock, interrupt};

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
    let command = usage::command_line();
    let plan = cli.plan();
    let mut outputs = Outputs::new(cli, command.clone(), plan.load.clone())?;
    let (report, signal) = run(plan, command, began, &mut outputs)?;
    let exit = exit(&report);
    outputs.end(report, signal.is_some())?;
    if let Some(signal) = signal {
        interrupt::die_of(signal);
    }
    Ok(exit)
}

fn exit(report: &Report) -> Exit {
    let unreachable = report.errors.iter().all(|e| e.kind == "unreachable");
    match report.outcome {
        Outcome::Failed if unreachable => Exit::Unreachable,
        Outcome::Failed => Exit::Failed,
        Outcome::Complete | Outcome::Interrupted => Exit::Done,
    }
}
