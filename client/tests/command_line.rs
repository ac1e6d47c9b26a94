//! A fuzz of the command line: whatever stands there, it is understood or refused, in a moment, with the
//! exit code that stands for it, and in one line.
//!
//! Words are flags, values that some flag takes, values that hardly any takes, and bytes that are no
//! text. What is understood can also be carried out: how to connect and how to talk come out of it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use proptest::prelude::*;
use proptest::test_runner::Config;
use tcpecho::cli::{Cli, Mode};
use tcpecho::mistake::Mistake;
use tcpecho_common::{Exit, usage};

const LINES: u32 = 10_000;

/// Every flag there is, by the names that it has.
fn flags() -> Vec<String> {
    let command = Cli::command();
    let flags = command.get_arguments().flat_map(|arg| {
        let long = arg.get_long().map(|name| format!("--{name}"));
        let short = arg.get_short().map(|name| format!("-{name}"));
        long.into_iter().chain(short)
    });
    flags
        .chain(["-h", "--help", "-V"].map(String::from))
        .collect()
}

const VALUES: [&str; 46] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "[::1]",
    "h",
    "fe80::1%lo",
    "7",
    "9877",
    "0",
    "1",
    "2",
    "-1",
    "65535",
    "65536",
    "1000000",
    "4294967296",
    "18446744073709551616",
    "250ms",
    "5s",
    "2m",
    "1.5s",
    "1440m",
    "99999h",
    "0.0001",
    "20k",
    "1.5M",
    "1000G",
    "1e300",
    "nan",
    "inf",
    "10,1,5",
    "10,1",
    "1,1,1,1",
    ",,",
    "32768",
    "multiplexed",
    "blocking",
    "stdio",
    "ignore",
    "count",
    "default",
    "close-on-eof",
    "ignore-write-errors",
    "",
    "--",
    "-",
];

const RIGHT: [&str; 24] = [
    "--mode blocking",
    "--mode stdio",
    "-w 5s",
    "-p 7",
    "-i 2m",
    "-q 0",
    "--no-shutdown",
    "--keepalive 10",
    "--keepalive 10s,1s,5",
    "--user-timeout 250ms",
    "--connections 1000000",
    "--split-write 1000",
    "--split-write 1.5s",
    "--read-rate 0",
    "--read-rate 1.5M",
    "--reset",
    "--sigpipe count",
    "--sigpipe default",
    "--mistake close-on-eof",
    "--mistake ignore-write-errors",
    "--events-fd 9",
    "-vvv",
    "--quiet --quiet",
    "--list-mistakes",
];

fn word() -> impl Strategy<Value = OsString> {
    let flags = flags();
    (any::<u16>(), prop::collection::vec(any::<u8>(), 0..6)).prop_map(move |(number, bytes)| {
        let index = usize::from(number / 8);
        let flag = &flags[index % flags.len()];
        let value = VALUES[index % VALUES.len()];
        match number % 8 {
            0..3 => flag.into(),
            3..6 => value.into(),
            6 => format!("{flag}={value}").into(),
            _ => OsString::from_vec(bytes),
        }
    })
}

/// As [`main`](../src/main.rs) does it. None: understood.
fn refused(line: &[OsString]) -> Option<Exit> {
    let words = std::iter::once("tcpecho".into()).chain(line.iter().cloned());
    let error = match Cli::try_parse_from(words).and_then(Cli::checked) {
        Ok(cli) => {
            assert!(cli.list_mistakes || cli.host.as_ref().is_some_and(|host| !host.is_empty()));
            assert!(cli.port() > 0 && cli.connections > 0);
            let (terms, manner) = (cli.terms(), cli.manner());
            assert!(!terms.timeout.is_zero());
            assert!(cli.mode == Mode::Multiplexed || manner.read_rate.is_none());
            let closes = manner.mistake == Some(Mistake::CloseOnEof);
            assert!(cli.mode == Mode::Multiplexed || !closes);
            return None;
        }
        Err(error) => error,
    };
    let told = usage::told("tcpecho", &error);
    if error.use_stderr() {
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.ends_with("(try 'tcpecho --help')"), "{told}");
        Some(Exit::Usage)
    } else {
        Some(Exit::Done)
    }
}

proptest! {
    #![proptest_config(Config {
        cases: LINES,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn every_line_is_understood_or_refused_in_one_line(
        line in prop::collection::vec(word(), 0..9),
    ) {
        if refused(&line) == Some(Exit::Done) {
            // Only for whoever asked, if in one word with other short flags.
            let asks = |word: &OsString| {
                let word = word.as_bytes();
                let is_short = word.starts_with(b"-") && !word.starts_with(b"--");
                let is_asked_for = word.contains(&b'h') || word.contains(&b'V');
                word == b"--help" || word == b"--version" || is_short && is_asked_for
            };
            prop_assert!(line.iter().any(asks));
        }
    }

    /// Of flags that are right each by itself, only a contradiction can make something wrong.
    #[test]
    fn right_flags_can_only_contradict_each_other(
        chosen in prop::collection::vec(0..RIGHT.len(), 0..7),
    ) {
        let flags = chosen.iter().flat_map(|index| RIGHT[*index].split(' '));
        let line = ["tcpecho", "localhost"].into_iter().chain(flags);
        if let Err(error) = Cli::try_parse_from(line).and_then(Cli::checked) {
            prop_assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{}", error);
        }
    }
}
