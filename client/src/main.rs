//! tcpecho: see the library.

use clap::Parser;
use nix::libc::STDERR_FILENO;
use tcpecho::PROGRAM;
use tcpecho::cli::Cli;
use tcpecho_common::{Exit, calls, logging, usage};

fn main() -> Exit {
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(error) => return usage::explain(PROGRAM, &error),
    };
    // Before anything is opened, which might get the very number that the user named by mistake.
    if let Some(fd) = cli.events_fd {
        if let Err(errno) = calls::record_to(fd) {
            let what = format!("cannot write events to descriptor {fd}: {errno}");
            logging::say(PROGRAM, what);
            return Exit::Failed;
        }
    }
    logging::start(cli.verbosity, PROGRAM, STDERR_FILENO);
    tcpecho::run(&cli)
}
