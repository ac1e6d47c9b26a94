//! The command line: flags to [`Config`]. Contradictions are rejected here; nothing is done here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::RawFd;
use std::time::Duration;

use clap::builder::{
    NonEmptyStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser,
};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, ValueEnum};
use nix::libc::STDERR_FILENO;
use nix::net::if_::if_nametoindex;
use tcpecho_common::logging::Verbosity;
use tcpecho_common::model::Serves;
use tcpecho_common::{Mistake, Model, defaults, units};

use crate::models;

/// TCP echo server whose concurrency model is a command-line flag
///
/// When it can accept, it prints one line on stdout: `listening on ADDR:PORT ...`. Everything else
/// goes to stderr. SIGTERM or SIGINT lets connections have what they are owed, then ends it; a
/// second one ends it now. SIGUSR1 prints a status table.
#[derive(Debug, Parser)]
#[command(
    name = "tcpechod",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP,
    args_override_self = true
)]
pub struct Cli {
    /// Port to listen on; 0 lets the kernel choose
    #[arg(value_name = "PORT", value_parser = units::listen_port)]
    positional_port: Option<u16>,

    /// Port to listen on, as a flag [default: 9877]
    #[arg(short, long, value_name = "PORT", value_parser = units::listen_port, conflicts_with = "positional_port")]
    port: Option<u16>,

    /// Address to listen on [default: every address of this machine, IPv6 and IPv4]
    #[arg(short, long, value_name = "ADDR", value_parser = address)]
    bind: Option<SocketAddr>,

    /// How many clients are served at once, and by what
    #[arg(short, long, value_parser = models(), default_value_t = Model::Reactor)]
    model: Model,

    /// Completed connections the kernel queues for accept (listen(2); Linux queues one more)
    #[arg(long, value_name = "N", default_value_t = defaults::BACKLOG, value_parser = units::backlog, allow_negative_numbers = true)]
    backlog: u16,

    /// Serve at most N connections at a time; the others wait in the backlog
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// How many processes, threads or reactors serve [default: 8 for prefork and thread-pool, 1 for reactor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=defaults::MAX_WORKERS as i64))]
    workers: Option<u32>,

    /// Before sleeping, look again and again for this long: --spin 50us; reactor, poll, select [default: sleep at once]
    #[arg(long, value_name = "TIME", value_parser = units::short_duration)]
    spin: Option<Duration>,

    /// Congestion control of the connections, such as cubic [default: net.ipv4.tcp_congestion_control]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    congestion: Option<String>,
    /// Of the workers of prefork, only one at a time is in accept: the one that holds a file lock (UNP 30.7)
    #[arg(long)]
    accept_lock: bool,

    /// Close a connection on which no byte has moved either way for this long, give or take an eighth [default: never]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    idle_timeout: Option<Duration>,

    /// After SIGTERM, how long connections may take to get what they are owed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration_or_zero)]
    grace: Duration,

    /// What a write to a connection that was reset does
    #[arg(long, value_enum, default_value_t = Sigpipe::Ignore)]
    sigpipe: Sigpipe,

    /// Serve the connection that is descriptor 0, and nobody else: under inetd, xinetd, systemd, socat
    #[arg(long, conflicts_with_all = ["positional_port", "port", "bind", "model", "backlog", "max_connections", "workers"])]
    inetd: bool,

    #[command(flatten)]
    handed: Handed,

    /// Commit a classic mistake on purpose
    #[arg(long, value_enum, value_name = "NAME")]
    mistake: Option<Mistake>,

    /// Print the mistakes, the models that can make them and what one sees, and exit
    #[arg(long)]
    pub list_mistakes: bool,

    /// Write a record of the same system calls as -vvv to this open descriptor (for tcpecho-lab)
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(0..))]
    events_fd: Option<RawFd>,

    #[command(flatten)]
    verbosity: Verbosity,
}

/// What `--model exec` hands to the program it executes, beside the connection.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// The log, as 2 is the connection
    #[arg(long, hide = true, requires = "inetd", value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
    pub log_fd: Option<RawFd>,

    /// The counters that all processes of the server share
    #[arg(long, hide = true, requires = "inetd", value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
    pub counters_fd: Option<RawFd>,

    /// Which connection this is, counted from 0
    #[arg(
        long,
        hide = true,
        requires = "inetd",
        value_name = "N",
        default_value_t
    )]
    pub nth: u64,
}

const AFTER_HELP: &str = "\
Examples:
  tcpechod                          reactor on port 9877
  tcpechod 8990 --model fork -v     a process per client, and what becomes of each
  tcpechod 0 --bind 127.0.0.1       a free port of the kernel's choice, loopback only
  tcpechod -vvv                     most of the system calls it makes, one per line
  socat TCP-LISTEN:9877,reuseaddr,fork EXEC:'tcpechod --inetd'

Times take ms, s or m: 250ms, 5s, 2m. Exit codes: 0 done, 1 failed, 2 usage.";

/// What to do about SIGPIPE, the signal for writing to a connection that has been reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sigpipe {
    /// The write fails with EPIPE and only that connection ends
    Ignore,
    /// The same, and each process counts its SIGPIPEs and tells of them, those from kill -PIPE too
    Count,
    /// The signal kills the process, as it does any C program that has not thought of it (UNP 5.13)
    Default,
}

/// What the server shall do, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The port to bind; 0 = the kernel's choice, None = [`defaults::PORT`].
    pub port: Option<u16>,
    /// The address to bind, without a port; None = all, dual-stack.
    pub bind: Option<SocketAddr>,
    /// The concurrency model; with `--inetd` the one that executes such programs.
    pub model: Model,
    /// Serve descriptor 0 only.
    pub inetd: Option<Handed>,
    /// Of listen(2).
    pub backlog: u16,
    /// Accept no more than this many at a time.
    pub max_connections: usize,
    /// Look again and again for this long before sleeping.
    pub spin: Duration,
    /// TCP_CONGESTION; None = the system's default.
    pub congestion: Option<String>,
    /// Close connections without progress after this long.
    pub idle_timeout: Option<Duration>,
    /// How long SIGTERM waits.
    pub grace: Duration,
    /// Disposition of SIGPIPE.
    pub sigpipe: Sigpipe,
    /// How many processes, threads or reactors; 1 where the model has none to speak of.
    pub workers: usize,
    /// Do workers take turns in accept?
    pub accept_lock: bool,
    /// The mistake to commit.
    pub mistake: Option<Mistake>,
    /// Where records of system calls go.
    pub events_fd: Option<RawFd>,
    /// How much to log.
    pub verbosity: Verbosity,
    /// Where to.
    pub log_fd: RawFd,
}

impl Config {
    /// Is this mistake to be committed?
    pub fn commits(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The arguments of the program that shall serve one connection as we would: `--inetd`, and of
    /// ours those that say something about a connection.
    pub fn inetd_args(&self, handed: Handed) -> Vec<String> {
        // All fields: whoever adds one has to say whether it is to be handed on.
        let Self {
            idle_timeout,
            grace,
            sigpipe,
            mistake,
            events_fd,
            verbosity,
            // What has been said about the server as a whole.
            port: _,
            bind: _,
            model: _,
            inetd: _,
            backlog: _,
            max_connections: _,
            workers: _,
            accept_lock: _,
            spin: _,
            // Of the listener, and inherited by what it accepts.
            congestion: _,
            log_fd: _,
        } = self;
        let time = |time: &Duration| format!("{}s", time.as_secs_f64());
        let fd = |fd: RawFd| fd.to_string();
        let mut args = vec!["--inetd".to_owned()];
        let mut add = |flag: &str, value: Option<String>| {
            args.extend(value.map(|value| format!("{flag}={value}")));
        };
        add("--log-fd", handed.log_fd.map(fd));
        add("--counters-fd", handed.counters_fd.map(fd));
        add("--nth", Some(handed.nth.to_string()));
        add("--idle-timeout", idle_timeout.as_ref().map(time));
        add("--grace", Some(time(grace)));
        let sigpipe = sigpipe.to_possible_value();
        add("--sigpipe", sigpipe.map(|value| value.get_name().into()));
        add("--mistake", mistake.map(|mistake| mistake.name().into()));
        add("--events-fd", events_fd.map(fd));
        args.extend((0..verbosity.verbose).map(|_| "--verbose".into()));
        args.extend((0..verbosity.quiet).map(|_| "--quiet".into()));
        args
    }
}

impl Cli {
    /// The checked configuration. Errors: flags that contradict each other.
    pub fn config(self) -> Result<Config, clap::Error> {
        self.check()
            .map_err(|text| Self::command().error(ErrorKind::ArgumentConflict, text))?;
        let model = self.model();
        let workers = self.workers.map(|n| n as usize);
        Ok(Config {
            port: self.positional_port.or(self.port),
            bind: self.bind,
            model,
            inetd: self.inetd.then_some(self.handed),
            backlog: self.backlog,
            max_connections: self.max_connections.map_or(usize::MAX, |n| n as usize),
            spin: self.spin.unwrap_or_default(),
            congestion: self.congestion,
            idle_timeout: self.idle_timeout,
            grace: self.grace,
            sigpipe: match self.mistake {
                Some(Mistake::DefaultSigpipe) => Sigpipe::Default,
                _ => self.sigpipe,
            },
            workers: workers.or(model.default_workers()).unwrap_or(1),
            accept_lock: self.accept_lock,
            mistake: self.mistake,
            events_fd: self.events_fd,
            verbosity: self.verbosity,
            log_fd: STDERR_FILENO,
        })
    }

    fn model(&self) -> Model {
        if self.inetd { Model::Exec } else { self.model }
    }

    fn check(&self) -> Result<(), String> {
        let model = self.model();
        if let Some(why) = models::missing(model) {
            return Err(format!("--model {model} cannot be had: {why}"));
        }
        if model.serves() == Serves::One && self.max_connections.is_some() {
            return Err(format!(
                "--max-connections makes no sense with --model {model}, which serves one client at a time"
            ));
        }
        if model == Model::Uring && self.sigpipe == Sigpipe::Default {
            return Err(format!(
                "--sigpipe default makes no sense with --model {model}: the kernel raises no SIGPIPE for what it sends from a ring"
            ));
        }
        if self.workers.is_some() && model.default_workers().is_none() {
            return Err(format!(
                "--workers makes no sense with --model {model}: use --model {}",
                names(|model| model.default_workers().is_some())
            ));
        }
        if self.spin.is_some() && !spins(model) {
            return Err(format!(
                "--spin makes no sense with --model {model}: use --model {}",
                names(spins)
            ));
        }
        if model.serves() == Serves::Workers && self.max_connections.is_some() {
            return Err(format!(
                "--max-connections makes no sense with --model {model}, which serves as many as it has workers: add --workers N instead"
            ));
        }
        if self.accept_lock && model != Model::Prefork {
            return Err(format!(
                "--accept-lock makes no sense with --model {model}: use --model {}",
                names(|model| model == Model::Prefork)
            ));
        }
        if let Some(mistake) = self
            .mistake
            .filter(|mistake| !mistake.models().contains(&model))
        {
            return Err(format!(
                "--mistake {mistake} is not one that --model {model} can make: use --model {}",
                names(|model| mistake.models().contains(&model))
            ));
        }
        Ok(())
    }
}

/// Is there one wait for all connections, which can be done without sleeping?
fn spins(model: Model) -> bool {
    matches!(model, Model::Select | Model::Poll | Model::Reactor)
}

/// The models; those that cannot be had are listed all the same, with the reason.
fn models() -> impl TypedValueParser<Value = Model> {
    let listed = |model: &Model| {
        let value = model.to_possible_value()?;
        Some(match (models::missing(*model), value.get_help()) {
            (Some(why), Some(help)) => {
                let help = format!("{help}; {why}");
                PossibleValue::new(model.name()).help(help)
            }
            _ => value,
        })
    };
    let values: Vec<_> = Model::all().iter().filter_map(listed).collect();
    PossibleValuesParser::new(values).try_map(|name| Model::from_str(&name, false))
}

/// The models of which `is` is true, as a choice between flags.
fn names(is: impl Fn(Model) -> bool) -> String {
    let models = Model::all().iter().filter(|model| is(**model));
    let models: Vec<_> = models.map(|model| model.name()).collect();
    models.join(" or --model ")
}

/// An address, with or without the brackets of a URL, with the interface where it needs one.
fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    let (ip, interface) = bare
        .split_once('%')
        .map_or((bare, None), |(ip, name)| (ip, Some(name)));
    let ip = match ip {
        "localhost" => Ok(IpAddr::from(Ipv4Addr::LOCALHOST)),
        "*" => Ok(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        _ => ip.parse().map_err(|_| wrong_address(text)),
    }?;
    match (ip, interface) {
        (IpAddr::V6(ip), Some(name)) => {
            let index =
                if_nametoindex(name).map_err(|_| format!("no interface is called {name}"))?;
            Ok(SocketAddrV6::new(ip, 0, 0, index).into())
        }
        (IpAddr::V6(ip), None) if ip.segments()[0] & 0xffc0 == 0xfe80 => Err(format!(
            "a link-local address needs its interface: {ip}%eth0"
        )),
        _ => Ok(SocketAddr::new(ip, 0)),
    }
}

fn wrong_address(text: &str) -> String {
    match text.parse::<SocketAddr>() {
        Ok(both) => format!(
            "the port is separate: --bind {} --port {}",
            both.ip(),
            both.port()
        ),
        Err(_) => "an IP address of this machine is needed, such as 127.0.0.1 or ::1".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(line: &str) -> Result<Config, clap::Error> {
        Cli::try_parse_from(std::iter::once("tcpechod").chain(line.split_whitespace()))?.config()
    }

    #[test]
    fn the_declaration_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_port_may_be_positional_or_a_flag_but_not_both() {
        let port = |line| config(line).expect(line).port;
        assert_eq!(port(""), None);
        assert_eq!(port("0"), Some(0));
        assert_eq!(port("-p 8990"), Some(8990));
        assert!(config("1 --port 2").is_err());
        assert!(config("65536").is_err());
        assert!(config("+80").is_err());
    }

    #[test]
    fn a_model_that_is_not_in_this_build_is_listed_and_refused() {
        let help = Cli::command().render_long_help().to_string();
        let models = Model::all().iter();
        for model in models {
            assert!(help.contains(&format!("- {model}:")), "{help}");
            let refused = config(&format!("--model {model}")).err();
            let why = models::missing(*model);
            assert_eq!(refused.as_ref().map(clap::Error::exit_code), why.map(|_| 2));
            if let (Some(error), Some(why)) = (refused, why) {
                assert!(error.to_string().contains(why), "{error}");
                assert!(help.contains(why), "{help}");
            }
        }
    }

    #[test]
    fn the_grace_shown_in_help_is_the_default() {
        assert_eq!(config("").map(|c| c.grace).ok(), Some(defaults::GRACE));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for line in [
            "--model iterative --max-connections 3",
            "--mistake no-reaper",
            "--model thread --mistake wait-once",
            "--model prefork --max-connections 3",
            "--model thread-pool --accept-lock",
            "--model uring --sigpipe default",
            "--backlog 4097",
            "--max-connections 0",
            "--idle-timeout 0",
            "--model poll --workers 2",
            "--workers 0",
            "--model thread --spin 50us",
            "--spin 2s",
            "-v -q",
            "--inetd 8990",
            "--inetd --port 8990",
            "--inetd --bind ::1",
            "--inetd --model fork",
            "--inetd --model reactor",
            "--inetd --max-connections 3",
            "--inetd --backlog 3",
            "--inetd --workers 3",
            "--log-fd 3",
            "--inetd --counters-fd 2",
        ] {
            let error = config(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert!(config("--model select --spin 50us").is_ok());
        assert!(config("--workers 2 --spin 0").is_ok());
        assert!(config("--model fork --mistake no-reaper --max-connections 3").is_ok());
    }

    #[test]
    fn who_serves_one_connection_is_told_all_about_it() {
        let handed = Handed {
            log_fd: Some(3),
            counters_fd: Some(4),
            nth: 17,
        };
        for line in [
            "",
            "-vvv --idle-timeout 0.0015 --grace 0 --sigpipe default --events-fd 9",
            "-qq --grace 250ms --mistake no-reaper --model exec",
        ] {
            let ours = config(line).expect(line);
            let theirs = config(&ours.inetd_args(handed).join(" ")).expect(line);
            assert_eq!(theirs.inetd, Some(handed));
            let of_a_connection = |config: &Config| {
                let Verbosity { verbose, quiet } = config.verbosity;
                let times = (config.idle_timeout, config.grace);
                let rest = (config.sigpipe, config.mistake, config.events_fd);
                (verbose, quiet, times, rest)
            };
            assert_eq!(of_a_connection(&theirs), of_a_connection(&ours), "{line}");
        }
    }

    #[test]
    fn addresses_may_have_brackets_and_interfaces() {
        let bind = |line| config(line).ok().and_then(|c| c.bind).map(|bind| bind.ip());
        assert_eq!(bind("--bind [::1]"), "::1".parse().ok());
        assert_eq!(bind("--bind fe80::1%lo"), "fe80::1".parse().ok());
        for wrong in ["nowhere", "fe80::1", "fe80::1%nowhere", "127.0.0.1:80"] {
            assert!(config(&format!("--bind {wrong}")).is_err(), "{wrong}");
        }
    }
}
