//! What a student may type, in a form that a test can type as well.
//!
//! A line begins with the number of a terminal, and what follows says to whom: `$` (or `#`, where one is
//! root) to the shell, `>` to the program that runs in it, where `^C` and `^D` are keys:
//!
//! ```text
//! 1$ tcpechod
//! 2$ tcpecho localhost
//! 2> hello                   (it comes back)
//! 2> ^D
//! ```
//!
//! Two spaces and a bracket begin a remark. Of a remark the test reads only the first word:
//!
//! - `nothing`: a line does not come back, a key does not end the program; otherwise they must
//! - `fails`: the command ends, and says that it has failed; otherwise, if it ends, it must have worked
//! - `takes`: the command goes on for long; the test sees it begin, and ends it with ^C

use anyhow::{Context, Result, ensure};

/// The longest line that a terminal of 80 columns shows where the labs show it.
pub const WIDTH: usize = 76;

/// Whom a line is typed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The shell: a command.
    Shell,
    /// The program that has the terminal: a line.
    Program,
    /// The same: a key, as in `^C`.
    Key(char),
}

/// A line to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// In which terminal; they are counted from 1.
    pub terminal: usize,
    /// To whom.
    pub to: To,
    /// What.
    pub text: &'a str,
    /// What to look at, without its brackets; may be empty.
    pub remark: &'a str,
}

impl Line<'_> {
    /// Does the remark begin with this word?
    pub fn says(&self, word: &str) -> bool {
        let first = self.remark.split(|c: char| !c.is_alphanumeric()).next();
        first == Some(word)
    }
}

/// Reads lines, one each. The error says which one nobody could type.
pub fn lines(text: &str) -> Result<Vec<Line<'_>>> {
    let lines = text.lines().map(str::trim_end);
    lines
        .map(|text| line(text).with_context(|| format!("cannot be typed: {text}")))
        .collect()
}

fn line(text: &str) -> Result<Line<'_>> {
    ensure!(text.chars().count() <= WIDTH, "longer than {WIDTH} columns");
    let number = text.find(|c: char| !c.is_ascii_digit());
    let (terminal, rest) = text.split_at(number.context("it has no prompt")?);
    let terminal = terminal.parse().context("it has no terminal")?;
    ensure!(terminal > 0, "terminals are counted from 1");
    let (typed, remark) = match rest.split_once("  ") {
        None => (rest, ""),
        Some((typed, remark)) => (typed, in_brackets(remark.trim_start())?),
    };
    let (prompt, text) = typed.split_once(' ').context("nothing is typed")?;
    let to = match (prompt, key(text)) {
        ("$" | "#", None) if !text.starts_with('^') => To::Shell,
        (">", None) => To::Program,
        (">", Some(key)) => To::Key(key),
        _ => anyhow::bail!("after the number comes $, # or >, and keys are typed to programs"),
    };
    Ok(Line {
        terminal,
        to,
        text,
        remark,
    })
}

fn in_brackets(remark: &str) -> Result<&str> {
    let inside = remark.strip_prefix('(').and_then(|r| r.strip_suffix(')'));
    inside.context("two spaces begin a remark, which is in brackets")
}

/// `^C` and its like.
fn key(text: &str) -> Option<char> {
    let key = text.strip_prefix('^')?.parse().ok();
    key.filter(char::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_to_whom_what_and_why() {
        let text = "1$ ss -tan | grep 9877      (who has it?)\n12> hello\n2> ^D\n3# ip link";
        let lines = lines(text).expect("good lines");
        let line = |terminal, to, text, remark| Line {
            terminal,
            to,
            text,
            remark,
        };
        assert_eq!(
            lines,
            [
                line(1, To::Shell, "ss -tan | grep 9877", "who has it?"),
                line(12, To::Program, "hello", ""),
                line(2, To::Key('D'), "^D", ""),
                line(3, To::Shell, "ip link", ""),
            ]
        );
    }

    #[test]
    fn what_nobody_could_type_is_refused() {
        for wrong in [
            "",
            "tcpechod",
            "$ tcpechod",
            "0$ tcpechod",
            "1$",
            "1: tcpechod",
            "1$ ^C",
            "1$ ^C, and once more",
            "1$ tcpecho localhost      type a line",
            "1$ tcpecho localhost      (type a line",
        ] {
            let wrong = format!("{wrong}\n");
            assert!(lines(&wrong).is_err(), "{wrong:?}");
        }
        assert!(lines(&format!("1$ {}", "x".repeat(WIDTH))).is_err());
    }

    #[test]
    fn only_the_first_word_of_a_remark_counts() {
        let says = |text| lines(text).expect("a good line")[0].says("nothing");
        assert!(says("2> hello   (nothing comes)"));
        assert!(says("2> hello   (nothing: it waits)"));
        assert!(!says("2> hello   (and nothing more)"));
        assert!(!says("2> hello"));
    }
}
