//! The menu for terminals that cannot be drawn on: a numbered list, and a line that is asked for.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use tcpecho_common::Exit;

use super::perform_one;
use super::signals::Signals;
use crate::labs;
use crate::narrate::Lab;
use crate::runner::explain;

/// Lines of an explanation are no longer.
const WIDTH: usize = 80;

/// What somebody has typed.
#[derive(Clone, Copy)]
enum Asked {
    Perform(&'static Lab),
    Explain(&'static Lab),
    List,
    Leave,
    Unknown,
}

/// Performs `first`, and then what is asked for, until that is nothing.
pub(super) fn run(first: &[String]) -> Result<ExitCode> {
    let mut differed = false;
    for name in first {
        differed |= performed(name)?;
    }
    list()?;
    loop {
        let Some(line) = ask()? else { break };
        match understood(&line) {
            Asked::Perform(lab) => differed |= performed(lab.name)?,
            Asked::Explain(lab) => print(&explain::text(lab, WIDTH))?,
            Asked::List => list()?,
            Asked::Leave => break,
            Asked::Unknown => print(&format!("nothing is called '{line}'\n"))?,
        }
    }
    Ok(if differed { Exit::Failed } else { Exit::Done }.into())
}

/// Has it come out otherwise?
fn performed(name: &str) -> Result<bool> {
    let outcome = perform_one(&Signals::catch()?, name)?;
    print(&format!("{name}: {outcome}\n"))?;
    Ok(!outcome.is_good())
}

/// A line; None at the end of input.
fn ask() -> Result<Option<String>> {
    print("\nNumber or name (e NUMBER: explain, l: list, q: leave): ")?;
    let mut line = String::new();
    let length = io::stdin().lock().read_line(&mut line)?;
    if length == 0 {
        print("\n")?;
    }
    Ok((length > 0).then(|| line.trim().to_owned()))
}

fn understood(line: &str) -> Asked {
    let explained = line.strip_prefix("e ").or(line.strip_prefix("explain "));
    match (line, explained) {
        ("" | "l" | "list", _) => Asked::List,
        ("q" | "quit", _) => Asked::Leave,
        (_, Some(name)) => named(name.trim()).map_or(Asked::Unknown, Asked::Explain),
        (name, None) => named(name).map_or(Asked::Unknown, Asked::Perform),
    }
}

fn named(name: &str) -> Option<&'static Lab> {
    let by_number = || {
        let number: usize = name.parse().ok()?;
        labs::ALL.get(number.checked_sub(1)?).copied()
    };
    labs::find(name).or_else(by_number)
}

fn list() -> Result<()> {
    let mut text = String::new();
    let mut chapter = None;
    for (number, lab) in (1..).zip(labs::ALL) {
        if chapter.replace(lab.chapter) != Some(lab.chapter) {
            let _ = writeln!(text, "{}", lab.chapter);
        }
        let _ = writeln!(text, "{number:>3} {}: {}", lab.name, lab.title);
    }
    print(&text)
}

fn print(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_named_by_number_or_name() {
        let performed = |line| match understood(line) {
            Asked::Perform(lab) => lab.name,
            _ => "",
        };
        assert_eq!(performed("2"), labs::ALL[1].name);
        assert_eq!(performed("zombies"), "zombies");
        assert!(matches!(understood("e zombies"), Asked::Explain(lab) if lab.name == "zombies"));
        for nothing in ["0", "9999", "rain", "e rain"] {
            assert!(matches!(understood(nothing), Asked::Unknown), "{nothing}");
        }
        assert!(matches!(understood("q"), Asked::Leave));
    }
}
