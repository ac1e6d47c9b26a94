//! A command line that is answered at once: it cannot be right, told in one line where clap would
//! take a paragraph; or it asks for a text.

use std::io::{self, ErrorKind, Write as _};

use clap::Error;

use crate::{Exit, calls, logging};

/// The words of our command line, to be shown; what is no UTF-8 in them is shown as U+FFFD.
pub fn command_line() -> Vec<String> {
    let words = std::env::args_os();
    words.map(|word| word.to_string_lossy().into()).collect()
}

/// Tells what is wrong with the command line, in one line on stderr; or prints what was asked for,
/// where that is the help or the version.
pub fn explain(program: &str, error: &Error) -> Exit {
    if !error.use_stderr() {
        return printed(program, error.print());
    }
    logging::say(program, told(program, error));
    Exit::Usage
}

/// Prints what was asked for instead of being done. Nobody who reads it to its end is no error, no
/// room for it is one.
pub fn print(program: &str, text: &str) -> Exit {
    printed(program, io::stdout().write_all(text.as_bytes()))
}

fn printed(program: &str, written: io::Result<()>) -> Exit {
    match written.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let errno = calls::errno(&error);
            logging::say(program, format!("cannot write to stdout: {errno}"));
            Exit::Failed
        }
        _ => Exit::Done,
    }
}

/// Adds a text to a table for a terminal of 100 columns, word by word, from this column on, where the
/// table is now.
pub fn fill(table: &mut String, indent: usize, text: &str) {
    const WIDTH: usize = 100;
    let mut column = indent;
    for word in text.split(' ') {
        if column > indent && column + word.len() > WIDTH {
            table.truncate(table.trim_end().len());
            *table += "\n";
            *table += &" ".repeat(indent);
            column = indent;
        }
        *table += word;
        *table += " ";
        column += word.len() + 1;
    }
    table.truncate(table.trim_end().len());
    *table += "\n";
}

/// What is told: the line without the program's name in front.
pub fn told(program: &str, error: &Error) -> String {
    line(program, &error.to_string())
}

/// A list that is longer is left out where a tip names the value that was meant.
const LONG_LIST: usize = 80;

/// What clap says before it repeats the usage: the error, the possible values, a tip.
fn line(program: &str, paragraphs: &str) -> String {
    let mut line = String::new();
    let is_clear = paragraphs.contains("tip: a similar value");
    for part in paragraphs.lines().map(str::trim) {
        if is_clear && part.starts_with("[possible values:") && part.len() > LONG_LIST {
            continue;
        }
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        // For a flag's value that looks like a flag: clap takes it for an argument of its own.
        if part.starts_with("tip: to pass '-") {
            continue;
        }
        if !line.is_empty() && !part.is_empty() {
            line.push_str(if part.starts_with("tip:") { "; " } else { " " });
        }
        line.push_str(part.strip_prefix("error: ").unwrap_or(part));
    }
    format!("{line} (try '{program} --help')")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn refused(arguments: &[&str]) -> String {
        let flag = Arg::new("model")
            .long("model")
            .value_parser(["fork", "thread"]);
        let command = Command::new("x")
            .arg(flag)
            .arg(Arg::new("HOST").required(true));
        let error = command.try_get_matches_from([&["x"], arguments].concat());
        told("x", &error.expect_err("wrong"))
    }

    #[test]
    fn a_long_list_gives_way_to_the_value_that_was_meant() {
        let list = format!(
            "error: invalid value 'x'\n  [possible values: {}]",
            "y".repeat(80)
        );
        let tip = "\n\n  tip: a similar value exists: 'y'\n";
        assert_eq!(line("x", &list).matches('y').count(), 81);
        assert_eq!(
            line("x", &(list + tip)),
            "invalid value 'x'; tip: a similar value exists: 'y' (try 'x --help')"
        );
    }

    #[test]
    fn everything_that_helps_stands_in_one_line() {
        for (arguments, expected) in [
            (
                &["h", "--model", "forks"][..],
                "invalid value 'forks' for '--model <model>' [possible values: fork, thread]; \
                 tip: a similar value exists: 'fork' (try 'x --help')",
            ),
            (
                &["h", "--modle", "fork"],
                "unexpected argument '--modle' found; \
                 tip: a similar argument exists: '--model' (try 'x --help')",
            ),
            (
                &["h", "-1"],
                "unexpected argument '-1' found (try 'x --help')",
            ),
            (
                &[],
                "the following required arguments were not provided: <HOST> (try 'x --help')",
            ),
        ] {
            assert_eq!(refused(arguments), expected);
        }
    }
}
