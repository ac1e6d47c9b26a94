//! The command line: what it says, checked; nothing is done here.

use std::os::fd::RawFd;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tcpecho_common::logging::Verbosity;
use tcpecho_common::{defaults, units};

const AFTER_HELP: &str = "\
Examples:
  tcpecho localhost                     type lines; ^D ends (half-close), ^C interrupts
  tcpecho ::1 7 < file | cmp - file     a whole file through the server and back, compared
  tcpecho --mode blocking localhost     kill the server now: nothing is said until you type
  tcpecho -vvv localhost                every system call, as it is made

stdout has the bytes that came back and nothing else; all else goes to stderr.

Exit codes:
  0  stdin ended and every byte came back, or nobody reads our stdout any more
  1  something failed: the connection was refused, the name is unknown, stdin or stdout failed
  2  the command line cannot be right
  3  the server terminated prematurely: its FIN came before ours, or bytes are unanswered
  4  the server reset the connection (RST)
  5  no answer: timed out, or the host or network is unreachable";

/// Sends stdin to a TCP echo server and writes to stdout what comes back.
///
/// When stdin ends, it closes its half of the connection, waits for the remaining echoes, and
/// checks that every byte was answered. When the server ends first, it says so at once, with what
/// is missing: it waits for stdin and the socket at the same time.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// The server.
    #[arg(value_parser = host, help = "Name or address of the server: localhost, 127.0.0.1, ::1, fe80::1%eth0")]
    pub host: String,

    /// Port of the server
    #[arg(default_value_t = defaults::PORT, value_parser = units::connect_port)]
    pub port: u16,

    /// How to wait for stdin and the server
    #[arg(long, value_enum, default_value_t = Mode::Multiplexed)]
    pub mode: Mode,

    /// Give up on an address after this time: 500ms, 5s, 2m
    #[arg(
        short = 'w',
        long,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = units::duration
    )]
    pub connect_timeout: Duration,

    /// Write a record of every system call to file descriptor N, for the laboratory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub events_fd: Option<RawFd>,

    /// -v and -q.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// How the client waits. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// For both at once, with mio: the server's end is noticed when it happens (UNP 6.4)
    Multiplexed,
    /// For one after the other, as the textbook does first: while it waits for a line from stdin, it is deaf to the server (UNP 5.5)
    Blocking,
}

/// A host as getaddrinfo takes it. `[::1]`, as in URLs, is `::1`.
fn host(text: &str) -> Result<String, String> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or(
            "a bracket is opened and not closed: write [::1] or ::1, then a space, then the port",
        )?,
        None => text,
    };
    if bare.is_empty() {
        return Err("a host has a name or an address".into());
    }
    match bare.split_once(':') {
        Some((name, port)) if !port.contains(':') => {
            Err(format!("the port is an argument of its own: {name} {port}"))
        }
        _ => Ok(bare.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["tcpecho"], arguments].concat())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_host_is_enough() {
        let cli = parse(&["localhost"]).expect("valid");
        assert_eq!((cli.host.as_str(), cli.port), ("localhost", 9877));
        assert_eq!(cli.mode, Mode::Multiplexed);
        assert_eq!(cli.connect_timeout, defaults::CONNECT_TIMEOUT);
        assert_eq!(cli.events_fd, None);
    }

    #[test]
    fn everything_can_be_said() {
        let line = "-vv -w 250ms --mode blocking --events-fd 9 [::1] 7";
        let cli = parse(&line.split(' ').collect::<Vec<_>>()).expect("valid");
        assert_eq!((cli.host.as_str(), cli.port), ("::1", 7));
        assert_eq!(cli.mode, Mode::Blocking);
        assert_eq!(cli.connect_timeout, Duration::from_millis(250));
        assert_eq!(cli.events_fd, Some(9));
        assert_eq!(cli.verbosity.verbose, 2);
    }

    #[test]
    fn hosts_are_taken_as_getaddrinfo_takes_them() {
        for good in ["127.0.0.1", "127.1", "::1", "::", "fe80::1%lo", "a.example"] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for bad in [
            &[][..],
            &[""],
            &["[]"],
            &["[::1"],
            &["localhost:7"],
            &["h", "0"],
            &["h", "65536"],
            &["h", "+80"],
            &["h", "http"],
            &["h", "7", "8"],
            &["h", "-w", "0"],
            &["h", "-w", "5h"],
            &["h", "--mode", "async"],
            &["h", "--events-fd", "-1"],
            &["h", "--events-fd", "x"],
        ] {
            let error = parse(bad).expect_err("cannot be right");
            assert_eq!(error.exit_code(), 2, "{bad:?}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{bad:?}");
        }
    }
}
