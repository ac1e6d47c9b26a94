//! TCP echo server: parse, log, listen, signals, serve, exit code.

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tcpecho_common::{Exit, Mistake, calls, logging, usage};
use tcpechod::cli::{Cli, Config};
use tcpechod::counters::Counters;
use tcpechod::failure::Failure;
use tcpechod::listener::Listener;
use tcpechod::models::{self, Server};
use tcpechod::{inetd, manager, signals};

fn main() -> Exit {
    let is_inetd = std::env::args_os().any(|word| word == "--inetd");
    if is_inetd && inetd::keep_stderr_off_the_connection().is_err() {
        return Exit::Failed;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) if cli.list_mistakes => return usage::print("tcpechod", &Mistake::table()),
        other => other,
    };
    let config = match cli.and_then(Cli::config) {
        Ok(config) => config,
        Err(error) => return usage::explain("tcpechod", &error),
    };
    match run(config) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            logging::say("tcpechod", failure);
            Exit::Failed
        }
    }
}

fn run(mut config: Config) -> Result<(), Failure> {
    // In both cases what was opened for us comes first: nothing of ours may get its number.
    if let Some(handed) = config.inetd {
        let counters = inetd::take(handed)?;
        start_logs(&config, "inetd")?;
        return inetd::serve(&config, handed.nth, counters);
    }
    let passed = manager::take()?;
    models::prepare(&mut config)?;
    start_logs(&config, config.model.name())?;
    raise_descriptor_limit();
    let listener = match passed {
        Some(socket) => Listener::passed(socket, &config)?,
        None => Listener::open(&config)?,
    };
    let counters = Counters::shared()?;
    signals::install(models::wake(config.model), config.sigpipe)?;
    models::serve(Server {
        listener,
        config,
        counters,
    })
}

fn start_logs(config: &Config, tag: &'static str) -> Result<(), Failure> {
    // Before anything is opened, which might get the very number that was named by mistake.
    if let Some(fd) = config.events_fd {
        let what = format!("cannot write events to descriptor {fd}");
        calls::record_to(fd).map_err(|errno| Failure::new(what, errno))?;
    }
    logging::start(config.verbosity, tag, config.log_fd);
    Ok(())
}

/// Soft limit up to the hard one: a server's connections are descriptors.
fn raise_descriptor_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        log::debug!("raised the limit of descriptors from {soft} to {hard}");
    } else {
        log::debug!("at most {soft} descriptors");
    }
}
