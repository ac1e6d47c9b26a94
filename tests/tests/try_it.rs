//! "Try it yourself" is true: every line that a lab shows is typed, in terminals of its own, in
//! namespaces of its own, with the programs in PATH.
//!
//! A line is typed when the one before has come to rest: its command has ended, or whatever has the
//! terminal waits. Commands must exist and end well (`fails`: must not), programs must know their
//! flags, servers must come up, lines must come back (`nothing`: must not), keys must end programs.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::mkdtemp;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::narrate::Lab;
use tcpecho_lab::narrate::try_it::{self, Line, To};
use tcpecho_lab::observe::processes::{self, Process};
use tcpecho_lab::observe::rest;
use tcpecho_lab::skip::skip;
use tcpecho_lab::wait::eventually;
use tcpecho_lab::{binaries, every_lab, labs, netns};

/// How long a line may take: a slow reader needs seconds, and a server that is owed one a grace.
const PATIENCE: Duration = Duration::from_secs(45);

/// Around the exit status in a prompt.
const PROMPT: [char; 2] = ['\u{1e}', '\u{1f}'];

/// A shell that reads nobody's settings.
const SHELL: &str = "#!/bin/sh\nexec bash --norc --noprofile --noediting -i\n";

const OURS: [&str; 3] = ["tcpechod", "tcpecho", "tcpecho-lab"];

/// What a shell says about a command that is not there, is no program, or is used wrongly.
const WRONG: [i32; 3] = [2, 126, 127];

macro_rules! test_each {
    ($($lab:ident)*) => {
        $(
            #[test]
            fn $lab() -> Result<()> {
                netns::test(stringify!($lab), || {
                    let name = stringify!($lab);
                    tried(labs::find(name).context("no such lab")?)
                })
            }
        )*
    };
}

every_lab!(test_each);

fn tried(lab: &Lab) -> Result<()> {
    for act in (lab.acts)() {
        for text in act.try_it() {
            typed(lab.name, text)?;
        }
    }
    Ok(())
}

/// Types lines, on a desk of their own.
fn typed(name: &str, text: &str) -> Result<()> {
    let lines = try_it::lines(text)?;
    let home = Home::new()?;
    for tool in lines
        .iter()
        .filter(|line| line.to == To::Shell)
        .flat_map(|line| tools(line.text))
    {
        if !home.has(tool)? {
            ensure!(!OURS.contains(&tool), "there is no {tool}");
            return skip(name, format!("{tool} is not installed"));
        }
    }
    let mut desk = Desk {
        home: &home,
        terminals: BTreeMap::new(),
    };
    for line in &lines {
        desk.type_line(line)
            .with_context(|| format!("{}{} {}", line.terminal, prompt(line.to), line.text))
            .with_context(|| desk.shown())?;
    }
    desk.clear().with_context(|| desk.shown())
}

fn prompt(to: To) -> char {
    if to == To::Shell { '$' } else { '>' }
}

/// The first word of each command of a line.
fn tools(line: &str) -> impl Iterator<Item = &str> {
    let commands = line.split(['|', ';', '&', '(', ')']);
    let words = commands.filter_map(|command| command.split_whitespace().next());
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
}

/// Does a line start a program that goes on until its user, or somebody else, ends it?
fn stays(line: &str) -> bool {
    let last = tools(line).last();
    last.is_some_and(|tool| OURS.contains(&tool) || ["nohup", "top"].contains(&tool))
}

/// Does a line start a server?
fn serves(line: &str) -> bool {
    let line = line.strip_prefix("nohup ").unwrap_or(line);
    tools(line).any(|tool| tool == "tcpechod")
}

/// A directory for shells, and the environment that they have.
struct Home {
    directory: PathBuf,
    path: String,
}

impl Home {
    fn new() -> Result<Self> {
        let lab = Path::new(env!("CARGO_BIN_EXE_tcpecho-lab"));
        let lab = lab.parent().context("a directory")?;
        let server = binaries::path("tcpechod")?;
        let server = server.parent().context("a directory")?;
        let path = env::var("PATH").unwrap_or_default();
        // Where root's commands are is not in everybody's path.
        let path = format!(
            "{}:{}:{path}:/usr/sbin:/sbin",
            server.display(),
            lab.display()
        );
        // Process ids are the same in every namespace.
        let directory = mkdtemp(&env::temp_dir().join("tcpecho-try-XXXXXX"))?;
        let home = Self { directory, path };
        let shell = home.directory.join("shell");
        fs::write(&shell, SHELL)?;
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
        Ok(home)
    }

    fn has(&self, tool: &str) -> Result<bool> {
        let status = Command::new("bash")
            .args(["-c", &format!("command -v {tool}")])
            .env("PATH", &self.path)
            .stdout(Stdio::null())
            .status()?;
        Ok(status.success())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Terminals side by side.
struct Desk<'a> {
    home: &'a Home,
    terminals: BTreeMap<usize, Terminal>,
}

impl Desk<'_> {
    fn type_line(&mut self, line: &Line<'_>) -> Result<()> {
        if !self.terminals.contains_key(&line.terminal) {
            let terminal = Terminal::open(self.home)?;
            self.terminals.insert(line.terminal, terminal);
        }
        let terminal = self.terminals.get_mut(&line.terminal);
        terminal.context("it has just been opened")?.type_line(line)
    }

    /// Ends what still runs as its user would.
    fn clear(&mut self) -> Result<()> {
        self.terminals.values_mut().try_for_each(Terminal::clear)
    }

    fn shown(&self) -> String {
        let mut shown = String::new();
        for (number, terminal) in &self.terminals {
            let _ = write!(shown, "--- terminal {number}\n{}", terminal.shell);
        }
        shown
    }
}

/// A terminal with a shell.
struct Terminal {
    shell: ClientProcess,
    /// How many commands it has been given.
    commands: usize,
}

impl Terminal {
    fn open(home: &Home) -> Result<Self> {
        let shell = home.directory.join("shell");
        let shell = Client::plain(&shell, [""; 0])
            .env("PATH", &home.path)
            .env("HOME", &home.directory)
            .env("SHELL", &shell)
            .env("TERM", "xterm")
            .env("PS1", format!("{}$?{}", PROMPT[0], PROMPT[1]))
            .on_pty()
            .start()?;
        let mut terminal = Self { shell, commands: 0 };
        terminal.wait("a prompt", Terminal::is_free)?;
        // What is left in the current directory is left here.
        terminal.command(&format!("cd {}", home.directory.display()))?;
        Ok(terminal)
    }

    fn type_line(&mut self, line: &Line<'_>) -> Result<()> {
        match line.to {
            To::Shell => {
                self.wait("a free shell", Self::is_free)?;
                if line.says("takes") {
                    return self.begin_and_end(line.text);
                }
                self.command(line.text)?;
                if line.says("fails") || !stays(line.text) {
                    self.wait("its end", Self::is_free)?;
                }
                self.judge(line)
            }
            To::Program => {
                ensure!(!self.is_free(), "nothing runs in this terminal");
                self.say(line)
            }
            To::Key(key) => {
                ensure!(!self.is_free(), "nothing runs in this terminal");
                self.press(key)?;
                if !line.says("nothing") {
                    return self.wait("its end", Self::is_free);
                }
                self.settle()?;
                ensure!(!self.is_free(), "it has ended");
                Ok(())
            }
        }
    }

    fn command(&mut self, text: &str) -> Result<()> {
        self.shell.type_line(text)?;
        self.commands += 1;
        self.settle()
    }

    /// Types a command that nobody wants to wait for.
    fn begin_and_end(&mut self, text: &str) -> Result<()> {
        self.shell.type_line(text)?;
        self.commands += 1;
        self.wait("a beginning", |t| t.is_free() || !t.foreground().is_empty())?;
        ensure!(!self.is_free(), "it ended at once");
        self.press('C')?;
        self.wait("its end", Self::is_free)
    }

    /// Did the command do what it should, so far?
    fn judge(&self, line: &Line<'_>) -> Result<()> {
        let status = self.is_free().then(|| self.statuses().pop()).flatten();
        match (status, line.says("fails")) {
            (Some(0) | None, true) => bail!("it does not fail"),
            (Some(1..), false) => bail!("it fails"),
            _ => {}
        }
        if serves(line.text) && !line.says("fails") {
            self.wait("a server", Terminal::has_server)?;
        }
        let stderr = self.shell.stderr();
        for complaint in [
            "unrecognized",
            "invalid option",
            "unknown option",
            "unexpected argument",
        ] {
            ensure!(!stderr.contains(complaint), "{complaint}");
        }
        Ok(())
    }

    /// Types a line to the program; does it come back?
    fn say(&self, line: &Line<'_>) -> Result<()> {
        let before = self.shell.stdout().len();
        self.shell.type_line(line.text)?;
        let echo = format!("{}\n", line.text);
        let is_back = |t: &Self| {
            let stdout = t.shell.stdout();
            String::from_utf8_lossy(&stdout[before..]).contains(&echo)
        };
        if !line.says("nothing") {
            return self.wait("its echo", is_back);
        }
        self.settle()?;
        ensure!(!is_back(self), "it comes back");
        Ok(())
    }

    fn press(&self, key: char) -> Result<()> {
        self.shell.write(&[key as u8 - b'@'])
    }

    fn clear(&mut self) -> Result<()> {
        if !self.is_free() {
            self.press('C')?;
            self.wait("an end after ^C", Self::is_free)?;
        }
        let statuses = self.statuses();
        let wrong = statuses.iter().find(|status| WRONG.contains(status));
        ensure!(wrong.is_none(), "exit status {wrong:?}");
        Ok(())
    }

    /// Waits until the command has ended, or everybody who has the terminal sleeps.
    fn settle(&self) -> Result<()> {
        self.wait("rest", |t| t.is_free() || t.rests())
    }

    fn rests(&self) -> bool {
        let programs = self.foreground();
        // sleep(1) is no place to rest.
        let asleep = |p: &Process| p.state == 'Z' || p.comm != "sleep" && rest::is_at_rest(p.pid);
        !programs.is_empty() && programs.iter().all(asleep) && !self.is_free()
    }

    /// Those whom the terminal belongs to; the shell itself does not count.
    fn foreground(&self) -> Vec<Process> {
        let tree = processes::tree(self.shell.pid());
        let group = tree.first().map_or(0, |shell| shell.foreground);
        let shells = |process: &Process| process.comm == "bash" && process.pid == process.pgrp;
        let mut programs = tree;
        programs.retain(|process| process.pgrp == group && !shells(process));
        programs
    }

    /// Is there a server among its processes that waits for clients?
    fn has_server(&self) -> bool {
        let tree = processes::tree(self.shell.pid());
        let has_socket = |process: &Process| {
            let descriptors = processes::descriptors(process.pid).unwrap_or_default();
            descriptors
                .iter()
                .any(|(_, target)| target.starts_with("socket:"))
        };
        tree.iter()
            .any(|p| p.comm == "tcpechod" && p.state != 'Z' && has_socket(p))
    }

    /// Does the shell wait for a command?
    fn is_free(&self) -> bool {
        self.statuses().len() > self.commands
    }

    /// How the commands ended, in their order; the first is from before all of them.
    fn statuses(&self) -> Vec<i32> {
        let stderr = self.shell.stderr();
        let prompts = stderr.split(PROMPT[0]).skip(1);
        let statuses = prompts.filter_map(|text| text.split(PROMPT[1]).next()?.parse().ok());
        statuses.collect()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        eventually(what, PATIENCE, || is_so(self).then_some(()))
    }
}
