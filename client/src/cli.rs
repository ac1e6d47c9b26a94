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
  tcpecho -vvv localhost                most of the system calls it makes, one by one

stdout has the bytes that came back and nothing else; all else goes to stderr.

Exit codes:
  0  stdin ended and as many bytes came back as were sent, or nobody reads our stdout any more
  1  something failed: the connection was refused, the name is unknown, stdin or stdout failed
  2  the command line cannot be right
  3  the server terminated prematurely: its FIN came before ours, or bytes are unanswered
  4  the server reset the connection (RST)
  5  no answer: timed out, or the host or network is unreachable";

/// Sends stdin to a TCP echo server and writes to stdout what comes back.
///
/// When stdin ends, it closes its half of the connection, waits for the remaining echoes, and
/// counts them: as many bytes must have come back as were sent. It does not compare them. When the
/// server ends first, it says so at once, with how much is missing: it waits for stdin and the
/// socket at the same time.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// The server.
    #[arg(value_parser = host, help = "Name or address of the server: localhost, 127.0.0.1, ::1, fe80::1%eth0")]
    pub host: String,

    /// Port of the server
    #[arg(value_name = "PORT", value_parser = units::connect_port)]
    positional_port: Option<u16>,

    /// Port of the server, as a flag [default: 9877]
    #[arg(short, long, value_name = "PORT", value_parser = units::connect_port, conflicts_with = "positional_port")]
    port: Option<u16>,

    /// How to wait for stdin and the server
    #[arg(long, value_enum, default_value_t = Mode::Multiplexed)]
    pub mode: Mode,

    /// Give up on an address after this time: 500ms, 5s, 2m
    #[arg(
        short = 'w',
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = units::duration
    )]
    pub connect_timeout: Duration,

    /// Write a record of the same system calls as -vvv to this open descriptor (for tcpecho-lab)
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(0..))]
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

impl Cli {
    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.positional_port.or(self.port).unwrap_or(defaults::PORT)
    }
}

/// A host as getaddrinfo takes it, but not as a bare number, which it takes for an IPv4 address.
/// `[::1]`, as in URLs, is `::1`.
fn host(text: &str) -> Result<String, String> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number {
        return Err(match units::connect_port(text) {
            Ok(port) => {
                format!("'{port}' is a port; the host comes first: tcpecho localhost {port}")
            }
            Err(_) => "a number is neither a name nor an address".into(),
        });
    }
    let (bare, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((bare, "")) => (bare, None),
            Some((bare, port)) => (bare, Some(port.trim_start_matches(':'))),
            None => return Err("a bracket is opened and not closed: write ::1 or [::1]".into()),
        },
        None => match text.split_once(':') {
            Some((bare, port)) if !port.contains(':') => (bare, Some(port)),
            _ => (text, None),
        },
    };
    if bare.is_empty() {
        return Err("a host has a name or an address".into());
    }
    port.map_or(Ok(bare.into()), |port| {
        let line = format!("tcpecho {bare} {port}");
        Err(format!(
            "the port is an argument of its own: {}",
            line.trim_end()
        ))
    })
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
        assert_eq!((cli.host.as_str(), cli.port()), ("localhost", 9877));
        assert_eq!(cli.mode, Mode::Multiplexed);
        assert_eq!(cli.connect_timeout, defaults::CONNECT_TIMEOUT);
        assert_eq!(cli.events_fd, None);
    }

    #[test]
    fn everything_can_be_said() {
        let line = "-vv -w 250ms --mode blocking --events-fd 9 [::1] 7";
        let cli = parse(&line.split(' ').collect::<Vec<_>>()).expect("valid");
        assert_eq!((cli.host.as_str(), cli.port()), ("::1", 7));
        assert_eq!(cli.mode, Mode::Blocking);
        assert_eq!(cli.connect_timeout, Duration::from_millis(250));
        assert_eq!(cli.events_fd, Some(9));
        assert_eq!(cli.verbosity.verbose, 2);
    }

    #[test]
    fn the_port_may_be_a_flag_but_not_both() {
        for line in ["h 7", "h -p 7", "--port 7 h"] {
            let cli = parse(&line.split(' ').collect::<Vec<_>>()).expect("valid");
            assert_eq!(cli.port(), 7, "{line}");
        }
        let error = parse(&["h", "7", "-p", "7"]).expect_err("said twice");
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_host_that_cannot_be_one_is_told_what_would_be_right() {
        let own = "the port is an argument of its own: tcpecho";
        for (bad, told) in [
            (
                "8990",
                "'8990' is a port; the host comes first: tcpecho localhost 8990".into(),
            ),
            (
                "2130706433",
                "a number is neither a name nor an address".into(),
            ),
            ("localhost:28990", format!("{own} localhost 28990")),
            ("localhost:", format!("{own} localhost")),
            ("[::1]:28990", format!("{own} ::1 28990")),
            (
                "[::1",
                "a bracket is opened and not closed: write ::1 or [::1]".into(),
            ),
            (":7", "a host has a name or an address".into()),
        ] {
            assert_eq!(host(bad), Err(told));
        }
    }

    #[test]
    fn the_help_promises_what_is_done() {
        let help = Cli::command().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for promise in [
            "It does not compare them",
            "-v connections (and children), -vv readiness, -vvv most of the system calls it makes",
            "-q errors only, -qq no log lines at all; the reason for a failure is always said",
            "--connect-timeout <TIME>",
            "--events-fd <FD>",
        ] {
            assert!(help.contains(promise), "{promise}: {help}");
        }
        assert!(!help.contains("every system call"), "{help}");
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
