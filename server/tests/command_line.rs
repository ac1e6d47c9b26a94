//! Whatever is typed: a configuration, help, or a usage error; never a panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::{CommandFactory, Parser};
use proptest::prelude::*;
use tcpechod::cli::Cli;

/// Every flag there is, what may stand behind one, and what may not.
fn word() -> impl Strategy<Value = OsString> {
    let flags: Vec<String> = Cli::command()
        .get_arguments()
        .flat_map(|arg| {
            let long = arg.get_long().map(|long| format!("--{long}"));
            long.into_iter()
                .chain(arg.get_short().map(|short| format!("-{short}")))
        })
        .chain([
            "--help".into(),
            "-h".into(),
            "--version".into(),
            "--".into(),
        ])
        .collect();
    let values: Vec<String> = Cli::command()
        .get_arguments()
        .flat_map(clap::Arg::get_possible_values)
        .map(|value| value.get_name().to_owned())
        .collect();
    let (again, flags) = (flags.clone(), prop::sample::select(flags));
    prop_oneof![
        6 => flags.prop_map(OsString::from),
        3 => prop::sample::select(values).prop_map(OsString::from),
        3 => (-3..70_000_i64).prop_map(|number| number.to_string().into()),
        2 => prop::sample::select(vec![
            "0", "5s", "250ms", "50us", "1e9", "999999999999999999999", "", "+80", "-1", "::1", "[::]",
            "127.0.0.1", "fe80::1%lo", "localhost", "*", "1.5m", "cubic", "18446744073709551616",
        ]).prop_map(OsString::from),
        1 => (prop::sample::select(again), "[a-z0-9=,.%]{0,8}")
            .prop_map(|(flag, value)| format!("{flag}={value}").into()),
        1 => prop::collection::vec(any::<u8>(), 0..12)
            .prop_map(|bytes| OsString::from_vec(bytes.into_iter().filter(|b| *b != 0).collect())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_command_line_is_understood_or_refused(words in prop::collection::vec(word(), 0..8)) {
        let line = std::iter::once(OsString::from("tcpechod")).chain(words);
        match Cli::try_parse_from(line).and_then(Cli::config) {
            Ok(config) => prop_assert!(config.workers > 0 && config.max_connections > 0),
            Err(error) => {
                let code = if error.use_stderr() { 2 } else { 0 };
                prop_assert_eq!(error.exit_code(), code);
            }
        }
    }
}
