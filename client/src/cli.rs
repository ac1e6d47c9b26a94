//! The command line: what it says, checked; nothing is done here.

use std::os::fd::RawFd;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use tcpecho_common::logging::Verbosity;
use tcpecho_common::{defaults, units};

use crate::connect::Terms;
use crate::mistake::Mistake;
use crate::rate::ReadRate;
use crate::session::Farewell;
use crate::sigpipe::Sigpipe;
use crate::socket::{Keepalive, Options};
use crate::talk::Manner;

const AFTER_HELP: &str = "\
Examples:
  tcpecho localhost                     type lines; ^D ends (half-close), ^C interrupts
  tcpecho ::1 7 < file | cmp - file     a whole file through the server and back, compared
  tcpecho --mode blocking localhost     kill the server now: nothing is said until you type
  tcpecho --connections 5 localhost     ^D: five FINs at once, five children end (UNP 5.10)
  tcpecho --mode blocking --split-write 1000 --sigpipe default localhost
                                        kill the server, type a line: killed by SIGPIPE (UNP 5.13)
  tcpecho -vvv localhost                most of the system calls it makes, one by one

stdout has the bytes that came back and nothing else; all else goes to stderr. Times take ms, s or
m: 250ms, 5s (or 5), 2m. Rates take k, M or G: 20k is 20,000 bytes a second.

Exit codes:
  0  stdin ended and as many bytes came back as were sent, or nobody reads our stdout any more
  1  something failed: the connection was refused, the name is unknown, stdin or stdout failed,
     or there are fewer connections than --connections wanted
  2  the command line cannot be right
  3  the server terminated prematurely: its FIN came before ours, or bytes are unanswered; or its
     FIN came on a held connection
  4  the server reset the connection (RST), or a held one
  5  no answer: timed out, gave up (-i, -q), or the host or network is unreachable";

const CONNECTION: &str = "Connection";
const EXPERIMENTS: &str = "Course experiments";
const OUTPUT: &str = "Output";

/// Sends stdin to a TCP echo server and writes to stdout what comes back.
///
/// When stdin ends, it closes its half of the connection, waits for the remaining echoes, and
/// counts them: as many bytes must have come back as were sent. It does not compare them. When the
/// server ends first, it says so at once, with how much is missing: it waits for stdin and the
/// socket at the same time.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    override_usage = "tcpecho [OPTIONS] HOST [PORT]",
    after_help = AFTER_HELP,
    max_term_width = 100,
    mut_arg("verbose", |arg| arg.help_heading(OUTPUT)),
    // -q is what netcat's users expect it to be.
    mut_arg("quiet", |arg| arg.short(None).help_heading(OUTPUT).help(QUIET)),
)]
pub struct Cli {
    /// The server.
    #[arg(
        value_parser = host,
        required_unless_present = "list_mistakes",
        help = "Name or address of the server: localhost, 127.0.0.1, ::1, fe80::1%eth0"
    )]
    pub host: Option<String>,

    /// Port of the server
    #[arg(value_name = "PORT", value_parser = units::connect_port)]
    positional_port: Option<u16>,

    /// How to wait for stdin and the server
    #[arg(long, value_enum, default_value_t = Mode::Multiplexed)]
    pub mode: Mode,

    /// Port of the server, as a flag [default: 9877]
    #[arg(short, long, value_name = "PORT", value_parser = units::connect_port, conflicts_with = "positional_port", help_heading = CONNECTION)]
    port: Option<u16>,

    /// Give up on an address after this time: 500ms, 5s, 2m
    #[arg(
        short = 'w',
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = units::duration,
        help_heading = CONNECTION
    )]
    pub connect_timeout: Duration,

    /// Give up when no byte has moved for this long, in either direction [default: never]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration, help_heading = CONNECTION)]
    idle_timeout: Option<Duration>,

    /// Give up this long after the end of stdin, even if the server has not finished [default: never]
    #[arg(short, long, value_name = "SECS", value_parser = units::duration_or_zero, help_heading = CONNECTION)]
    quit_after: Option<Duration>,

    /// Do not half-close at the end of stdin; read until the server closes (or -q is over)
    #[arg(long, help_heading = CONNECTION)]
    no_shutdown: bool,

    /// Ask a silent server for a sign of life: after IDLE, then every INTERVAL, COUNT times (SO_KEEPALIVE; the system's: 2 h, 75 s, 9)
    #[arg(long, value_name = "IDLE[,INTERVAL,COUNT]", value_parser = keepalive, help_heading = CONNECTION)]
    keepalive: Option<Keepalive>,

    /// Give up when what was sent stays unacknowledged for this long (TCP_USER_TIMEOUT). A server that lives and only does not read for as long is given up as well
    #[arg(long, value_name = "TIME", value_parser = units::duration, help_heading = CONNECTION)]
    user_timeout: Option<Duration>,

    /// Open N connections, talk on the first and hold the others; at the end all close at once (UNP 5.10). What happens to a held one is told at once, in blocking mode and stdio mode at the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = EXPERIMENTS)]
    pub connections: u32,

    /// Send the first byte of each line, wait MS milliseconds (or 1s), send the rest: if the server has gone, the second write meets the RST that the first brought back (UNP 5.13)
    #[arg(long, value_name = "MS", value_parser = milliseconds, help_heading = EXPERIMENTS)]
    split_write: Option<Duration>,

    /// Take no more than so many bytes a second from the connection; 0: never read
    #[arg(long, value_name = "RATE", value_parser = units::rate, help_heading = EXPERIMENTS)]
    read_rate: Option<u64>,

    /// End with an RST instead of a FIN, however it ends (SO_LINGER with 0 s): at the end of stdin, when all echoes have come
    #[arg(long, help_heading = EXPERIMENTS)]
    reset: bool,

    /// What SIGPIPE does, the signal for a write to a connection that was reset (UNP 5.13)
    #[arg(long, value_enum, default_value_t = Sigpipe::Ignore, help_heading = EXPERIMENTS)]
    pub sigpipe: Sigpipe,

    /// Commit a classic mistake on purpose
    #[arg(long, value_enum, value_name = "NAME", help_heading = EXPERIMENTS)]
    mistake: Option<Mistake>,

    /// List the mistakes, the modes in which they can be made, and what one sees
    #[arg(long, help_heading = EXPERIMENTS)]
    pub list_mistakes: bool,

    /// Write a record of the same system calls as -vvv to this open descriptor (for tcpecho-lab)
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(0..), help_heading = OUTPUT)]
    pub events_fd: Option<RawFd>,

    /// -v and --quiet.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

const QUIET: &str = "\
Say less: --quiet errors only, twice no log lines at all; the reason for a failure is always said";

/// How the client waits. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// For both at once, with mio: the server's end is noticed when it happens (UNP 6.4)
    Multiplexed,
    /// For one after the other, as the textbook does first: while it waits for a line from stdin, it is deaf to the server (UNP 5.5)
    Blocking,
    /// For both at once, with poll, and then with fgets, whose buffer poll cannot see: of several lines that come at once only the first is sent. A mistake, shown (UNP 6.5)
    Stdio,
}

impl Mode {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multiplexed => "multiplexed",
            Self::Blocking => "blocking",
            Self::Stdio => "stdio",
        }
    }
}

impl Cli {
    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.positional_port.or(self.port).unwrap_or(defaults::PORT)
    }

    /// How to connect.
    pub fn terms(&self) -> Terms {
        Terms {
            timeout: self.connect_timeout,
            options: Options {
                keepalive: self.keepalive,
                user_timeout: self.user_timeout,
                reset: self.reset,
                receive_buffer: self.read_rate.and_then(ReadRate::receive_buffer),
            },
        }
    }

    /// How to talk.
    pub fn manner(&self) -> Manner {
        let farewell = if self.mistake == Some(Mistake::CloseOnEof) {
            Farewell::CloseSent
        } else if self.reset {
            Farewell::CloseAnswered
        } else if self.no_shutdown {
            Farewell::Stay
        } else {
            Farewell::HalfClose
        };
        Manner {
            farewell,
            split_write: self.split_write,
            read_rate: self.read_rate,
            idle_timeout: self.idle_timeout,
            quit_after: self.quit_after,
            mistake: self.mistake,
        }
    }

    /// The same, if it can be meant. Errors: flags that contradict each other.
    pub fn checked(self) -> Result<Self, clap::Error> {
        match self.check() {
            Ok(()) => Ok(self),
            Err(text) => Err(Self::command().error(ErrorKind::ArgumentConflict, text)),
        }
    }

    fn check(&self) -> Result<(), String> {
        let mode = self.mode;
        let not_stdio = &[Mode::Multiplexed, Mode::Blocking][..];
        let only_multiplexed = &not_stdio[..1];
        for (flag, is_given, modes) in [
            ("--split-write", self.split_write.is_some(), not_stdio),
            ("--read-rate", self.read_rate.is_some(), only_multiplexed),
            ("--quit-after", self.quit_after.is_some(), only_multiplexed),
            ("--no-shutdown", self.no_shutdown, only_multiplexed),
        ] {
            if is_given && !modes.contains(&mode) {
                return Err(format!(
                    "{flag} makes no sense with --mode {}: add {}",
                    mode.name(),
                    choice(modes)
                ));
            }
        }
        if let Some(mistake) = self.mistake.filter(|m| !m.modes().contains(&mode)) {
            return Err(format!(
                "--mistake {mistake} is not one that --mode {} can make: add {}",
                mode.name(),
                choice(mistake.modes())
            ));
        }
        let closes_on_eof = self.mistake == Some(Mistake::CloseOnEof);
        for (is_contradiction, text) in [
            (
                self.no_shutdown && self.reset,
                "--no-shutdown leaves the end to the server, --reset does not: choose one",
            ),
            (
                self.no_shutdown && closes_on_eof,
                "--no-shutdown leaves the end to the server, --mistake close-on-eof does not: choose one",
            ),
            (
                self.quit_after.is_some() && closes_on_eof,
                "--quit-after makes no sense with --mistake close-on-eof, which waits for nothing",
            ),
        ] {
            if is_contradiction {
                return Err(text.into());
            }
        }
        Ok(())
    }
}

/// The modes as a choice between flags.
fn choice(modes: &[Mode]) -> String {
    let names = modes.iter().map(|mode| format!("--mode {}", mode.name()));
    names.collect::<Vec<_>>().join(" or ")
}

/// Milliseconds, as a bare number, or a time with its unit.
fn milliseconds(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return units::duration_or_zero(&format!("{text}ms"));
    }
    units::duration_or_zero(text)
}

/// `IDLE` or `IDLE,INTERVAL,COUNT`, in the kernel's limits.
fn keepalive(text: &str) -> Result<Keepalive, String> {
    let seconds = |text| {
        let time = units::duration(text)?;
        let is_whole = time.subsec_nanos() == 0 && (1..=32_767).contains(&time.as_secs());
        is_whole
            .then_some(time.as_secs() as u32)
            .ok_or_else(|| "the kernel takes whole seconds, 1 to 32767".to_owned())
    };
    let (idle, probes) = match text.split(',').collect::<Vec<_>>()[..] {
        [idle] => (idle, None),
        [idle, interval, count] => {
            let count = count.parse().ok().filter(|count| (1..=127).contains(count));
            let count = count.ok_or("COUNT is a number from 1 to 127")?;
            (idle, Some((seconds(interval)?, count)))
        }
        _ => return Err("it is IDLE or IDLE,INTERVAL,COUNT, such as 10s or 10s,1s,5".into()),
    };
    Ok(Keepalive {
        idle: seconds(idle)?,
        probes,
    })
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
        Cli::try_parse_from([&["tcpecho"], arguments].concat())?.checked()
    }

    /// Arguments for host `h`.
    fn with(line: &str) -> Result<Cli, clap::Error> {
        let words: Vec<_> = line.split_whitespace().chain(["h"]).collect();
        parse(&words)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_host_is_enough() {
        let cli = parse(&["localhost"]).expect("valid");
        assert_eq!((cli.host.as_deref(), cli.port()), (Some("localhost"), 9877));
        assert_eq!(cli.mode, Mode::Multiplexed);
        assert_eq!(cli.connect_timeout, defaults::CONNECT_TIMEOUT);
        assert_eq!(cli.events_fd, None);
        assert_eq!(cli.manner(), Manner::default());
        assert_eq!(cli.terms().options, Options::default());
        assert_eq!((cli.connections, cli.sigpipe), (1, Sigpipe::Ignore));
    }

    #[test]
    fn how_to_talk_is_what_the_flags_say() {
        let manner = |line| with(line).expect("valid").manner();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(manner("--split-write 250").split_write, ms(250));
        assert_eq!(manner("--split-write 1s").split_write, ms(1000));
        assert_eq!(manner("--split-write 0").split_write, ms(0));
        assert_eq!(manner("--read-rate 20k").read_rate, Some(20_000));
        assert_eq!(manner("-i 2").idle_timeout, ms(2000));
        assert_eq!(manner("-q 2").quit_after, ms(2000));
        assert_eq!(manner("--quit-after 0").quit_after, ms(0));
        for (line, farewell) in [
            ("", Farewell::HalfClose),
            ("--no-shutdown", Farewell::Stay),
            ("--reset", Farewell::CloseAnswered),
            ("--mistake close-on-eof", Farewell::CloseSent),
            ("--mistake close-on-eof --reset", Farewell::CloseSent),
        ] {
            assert_eq!(manner(line).farewell, farewell, "{line}");
        }
    }

    #[test]
    fn socket_options_are_what_the_flags_say() {
        let options = |line| with(line).expect("valid").terms().options;
        let keepalive = |idle, probes| Some(Keepalive { idle, probes });
        assert_eq!(options("--keepalive 10").keepalive, keepalive(10, None));
        assert_eq!(
            options("--keepalive 2m,1s,5").keepalive,
            keepalive(120, Some((1, 5)))
        );
        let timeout = options("--user-timeout 1.5s").user_timeout;
        assert_eq!(timeout, Some(Duration::from_millis(1500)));
        assert!(options("--reset").reset);
        assert_eq!(options("--read-rate 0").receive_buffer, Some(4096));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for (line, told) in [
            (
                "--mode blocking --read-rate 1k",
                "--read-rate makes no sense with --mode blocking: add --mode multiplexed",
            ),
            ("--mode blocking -q 1", "--quit-after makes no sense"),
            ("--mode stdio --no-shutdown", "--no-shutdown makes no sense"),
            (
                "--mode stdio --split-write 1",
                "--split-write makes no sense with --mode stdio: \
                 add --mode multiplexed or --mode blocking",
            ),
            (
                "--mistake ignore-write-errors",
                "--mode multiplexed can make: add --mode blocking or --mode stdio",
            ),
            (
                "--mode blocking --mistake close-on-eof",
                "--mode blocking can make: add --mode multiplexed",
            ),
            ("--no-shutdown --reset", "choose one"),
            ("--no-shutdown --mistake close-on-eof", "choose one"),
            ("-q 1 --mistake close-on-eof", "waits for nothing"),
            ("-v --quiet", "cannot be used with"),
        ] {
            let error = with(line).expect_err(line);
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{line}");
            assert!(error.to_string().contains(told), "{line}: {error}");
        }
        for line in [
            "--mode stdio --connections 3 -i 5 --reset --sigpipe count",
            "--mode blocking --mistake ignore-write-errors --split-write 5 --sigpipe default",
            "--no-shutdown -q 2 --read-rate 1k --split-write 5 --keepalive 5 --user-timeout 2",
        ] {
            assert!(with(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_list_needs_no_host() {
        let cli = parse(&["--list-mistakes"]).expect("valid");
        assert!(cli.list_mistakes && cli.host.is_none());
    }

    #[test]
    fn quiet_has_no_short_form_here() {
        assert_eq!(with("--quiet --quiet").expect("valid").verbosity.quiet, 2);
        assert!(with("-qq").is_err());
    }

    #[test]
    fn everything_can_be_said() {
        let line = "-vv -w 250ms --mode blocking --events-fd 9 [::1] 7";
        let cli = parse(&line.split(' ').collect::<Vec<_>>()).expect("valid");
        assert_eq!((cli.host.as_deref(), cli.port()), (Some("::1"), 7));
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
            "--quiet errors only, twice no log lines at all; the reason for a failure is always said",
            "--connect-timeout <TIME>",
            "--events-fd <FD>",
            "-q, --quit-after <SECS>",
            "-i, --idle-timeout <TIME>",
            "Course experiments: --connections <N>",
        ] {
            assert!(help.contains(promise), "{promise}: {help}");
        }
        assert!(!help.contains("-q, --quiet"), "{help}");
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
            &["h", "--connections", "0"],
            &["h", "--connections", "1000001"],
            &["h", "--split-write", "-1"],
            &["h", "--split-write", "slowly"],
            &["h", "--read-rate", "fast"],
            &["h", "--keepalive", "0"],
            &["h", "--keepalive", "1.5"],
            &["h", "--keepalive", "10,1"],
            &["h", "--keepalive", "10,1,0"],
            &["h", "--keepalive", "10,1,128"],
            &["h", "--keepalive", "10,1,5,5"],
            &["h", "--keepalive", "32768"],
            &["h", "--user-timeout", "0"],
            &["h", "-i", "0"],
            &["h", "-q"],
            &["h", "-q", "-1"],
            &["h", "--sigpipe", "maybe"],
            &["h", "--mistake", "no-sleep"],
        ] {
            let error = parse(bad).expect_err("cannot be right");
            assert_eq!(error.exit_code(), 2, "{bad:?}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{bad:?}");
        }
    }
}
