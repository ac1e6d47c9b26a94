//! The README is true: its console blocks are run, and its tables name every flag.
//!
//! A block without a name is run in a shell of its own. Blocks of `terminal=N` share one, as in
//! two windows side by side: `$ ` begins a command, `⏎` ends a typed line, the rest is expected.
//! A block with `...` shows some of the lines, in their order. Compared are words; process ids, ephemeral ports and times are not
//! part of the comparison, states, counts and exit codes are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, CommandFactory};
use tcpecho_lab::compare::cli::Compare;
use tcpecho_lab::compare::workload;
use tcpecho_lab::{binaries, labs, netns};

/// How long an expected line may take; `make demo` is the slowest.
const PATIENCE: Duration = Duration::from_secs(60);

const TYPED: char = '⏎';

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

fn readme() -> Result<String> {
    Ok(std::fs::read_to_string(root().join("README.md"))?)
}

#[test]
fn console_blocks_show_what_the_programs_do() -> Result<()> {
    netns::test("console_blocks_show_what_the_programs_do", || {
        ensure!(
            binaries::path("tcpechod")?.starts_with(root().join("target/debug")),
            "the README speaks of target/debug: run without CARGO_TARGET_DIR and --release"
        );
        let mut terminals = BTreeMap::new();
        for block in blocks(&readme()?) {
            match block.terminal {
                None => one_shot(&block)?,
                Some(n) => terminals
                    .entry(n)
                    .or_insert_with(Terminal::open)
                    .show(&block)?,
            }
        }
        for (n, terminal) in terminals {
            terminal
                .close()
                .with_context(|| format!("terminal {n}, at the end"))?;
        }
        Ok(())
    })
}

#[test]
fn every_flag_is_in_its_table() -> Result<()> {
    let readme = readme()?;
    let compare = Compare::augment_args(clap::Command::new("tcpecho-lab compare"));
    for command in [
        tcpechod::cli::Cli::command(),
        tcpecho::cli::Cli::command(),
        tcpecho_lab::load::cli::Cli::command(),
        compare,
    ] {
        let hidden = ["help", "version"];
        // Hidden ones are what our programs say to each other.
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        for flag in shown.filter_map(|arg| arg.get_long()) {
            let named = format!("`--{flag}");
            ensure!(
                hidden.contains(&flag) || readme.contains(&named),
                "{}: no table of the README names --{flag}",
                command.get_name()
            );
        }
    }
    Ok(())
}

#[test]
fn every_model_mistake_lab_workload_and_exit_code_is_in_its_table() -> Result<()> {
    let readme = readme()?;
    let models = tcpecho_common::Model::all().iter().map(|m| m.name());
    let mistakes = tcpecho_common::Mistake::all().iter().map(|m| m.name());
    let labs = labs::ALL.iter().map(|lab| lab.name);
    let workloads = workload::ALL.iter().map(|task| task.name);
    for name in models.chain(mistakes).chain(labs).chain(workloads) {
        ensure!(
            readme.contains(&format!("| `{name}`")),
            "no table names {name}"
        );
    }
    for code in 0..=5 {
        ensure!(
            readme.contains(&format!("\n| {code} | ")),
            "no table names exit code {code}"
        );
    }
    Ok(())
}

/// A fenced block of console output.
struct Block {
    terminal: Option<u32>,
    lines: Vec<String>,
}

fn blocks(readme: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```console") {
            let terminal = info
                .trim()
                .strip_prefix("terminal=")
                .and_then(|n| n.parse().ok());
            let lines = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .map(str::to_owned)
                .collect();
            blocks.push(Block { terminal, lines });
        }
    }
    blocks
}

/// Runs the only command of a block and compares all it prints.
fn one_shot(block: &Block) -> Result<()> {
    let (command, expected) = block.lines.split_first().context("an empty block")?;
    let command = command
        .strip_prefix("$ ")
        .context("a block begins with a command")?;
    let output = Command::new("bash")
        .args(["-c", &format!("{command} 2>&1")])
        .env("COLUMNS", "100")
        .current_dir(root())
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command}: {}\n{printed}",
        output.status
    );
    let mut actual = printed.lines();
    let any = expected.iter().any(|line| line == "...");
    for line in expected.iter().filter(|line| *line != "...") {
        let found = if any {
            actual.any(|actual| alike(actual, line))
        } else {
            actual.next().is_some_and(|actual| alike(actual, line))
        };
        ensure!(
            found,
            "{command}: the README shows, in this order\n{line}\nbut it printed\n{printed}"
        );
    }
    ensure!(
        any || actual.next().is_none(),
        "{command} prints more than the README shows:\n{printed}"
    );
    Ok(())
}

/// A shell that goes on from block to block.
struct Terminal {
    shell: Child,
    lines: Receiver<String>,
    shown: String,
}

impl Terminal {
    fn open() -> Self {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let shell = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .current_dir(root())
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().expect("a second end"))
            .stderr(writer)
            .spawn()
            .expect("bash");
        Self {
            shell,
            lines: lines_of(reader),
            shown: String::new(),
        }
    }

    fn show(&mut self, block: &Block) -> Result<()> {
        for line in &block.lines {
            if let Some(command) = line.strip_prefix("$ ") {
                self.type_line(command)?;
            } else if let Some(typed) = line.strip_suffix(TYPED) {
                self.type_line(typed.trim_end())?;
            } else {
                self.expect(line)?;
            }
        }
        Ok(())
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        self.shown.extend(["$ ", line, "\n"]);
        let stdin = self.shell.stdin.as_mut().context("it is open")?;
        writeln!(stdin, "{line}").context("the shell has gone")
    }

    fn expect(&mut self, line: &str) -> Result<()> {
        let actual = self
            .lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| "(nothing)".into());
        self.shown.extend([&actual, "\n"]);
        if !alike(&actual, line) {
            bail!(
                "the README shows\n{line}\nbut it was\n{actual}\nin\n{}",
                self.shown
            );
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        drop(self.shell.stdin.take());
        let more: Vec<_> = self.lines.iter().collect();
        self.shell.wait()?;
        ensure!(
            more.is_empty(),
            "more than the README shows: {more:?}, after\n{}",
            self.shown
        );
        Ok(())
    }
}

fn lines_of(reader: OwnedFd) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(File::from(reader)).lines();
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    receiver
}

/// Do two lines say the same, but for process ids, ephemeral ports and times?
fn alike(actual: &str, shown: &str) -> bool {
    essence(actual) == essence(shown)
}

fn essence(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let mut essence = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |at| words[at]);
        essence.push(match (before, *word) {
            (_, "s" | "ms")
                if words
                    .get(at + 1)
                    .is_some_and(|next| next.starts_with("ago")) =>
            {
                continue;
            }
            ("pid" | "child" | "ms", pid) if number(pid) => "PID".into(),
            (_, time) if time.contains('.') && time.parse::<f64>().is_ok() => "TIME".into(),
            (_, age)
                if number(age)
                    && words
                        .get(at + 2)
                        .is_some_and(|word| word.starts_with("ago")) =>
            {
                "TIME".into()
            }
            (_, word) => variable_tail(word),
        });
    }
    essence.join(" ")
}

fn number(word: &str) -> bool {
    let digits = word.trim_end_matches([':', ',']);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// `pid=N`, and a port of 127.0.0.1 that the kernel chose.
fn variable_tail(word: &str) -> String {
    if word.starts_with("pid=") {
        return "pid=PID".into();
    }
    let port = word
        .strip_prefix("127.0.0.1:")
        .map(|port| port.trim_end_matches(':'));
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(32768..) => "127.0.0.1:PORT".into(),
        _ => word.into(),
    }
}

#[test]
fn only_process_ids_ports_and_times_may_differ() {
    assert!(alike(
        "  12.3 ms 7 fork INFO  accepted 127.0.0.1:50001: child 8",
        "5815.000 ms 4711 fork INFO accepted 127.0.0.1:47676: child 4712",
    ));
    assert!(alike(
        "(FIN) 3 ms ago, 12 bytes",
        "(FIN) 4.2 s ago, 12 bytes"
    ));
    assert!(!alike(
        "(FIN) 3 ms ago, 12 bytes",
        "(FIN) 3 ms ago, 13 bytes"
    ));
    assert!(!alike("accepted 2  closed 2", "accepted 2  closed 1"));
    assert!(!alike("State: S (sleeping)", "State: Z (zombie)"));
    assert!(!alike("listening on [::]:9877", "listening on [::]:9878"));
}
