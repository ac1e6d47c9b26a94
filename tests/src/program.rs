//! A program under observation, in a process group of its own; what servers and clients share.
//!
//! Nothing it starts outlives it: dropping kills the group, whatever its members are doing, and
//! descendants that left the group. The exit status is reaped by pid only. A failing test
//! prints the transcript. Costs a thread per pipe; setpgid(2), kill(2), setrlimit(2), pty(7).

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, killpg, signal};
use nix::unistd::{Pid, pipe2, setsid};

use crate::binaries;
use crate::deathwatch;
use crate::observe::calls::{self, CallLog, CallRecord};
use crate::observe::processes;
use crate::output::Output;
use crate::sweep;
use crate::wait::eventually;

/// How long a program may take to be started, and to vanish when killed.
pub(crate) const PROMPTLY: Duration = Duration::from_secs(10);

/// How long we look for the end of a dead program's output, which somebody may have inherited.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is kept at least of what a program says on stderr, if that is more than twice as much.
const SAID: usize = 8 << 20;

/// Which program.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    /// One of this project, found by [`binaries`].
    Ours(&'static str),
    /// Any other.
    Foreign(PathBuf),
}

/// How to start a program.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) which: Which,
    pub(crate) prefix: Vec<OsString>,
    pub(crate) args: Vec<OsString>,
    /// Arguments that stand behind all others.
    pub(crate) last_args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) events: bool,
    /// Soft and hard limit of descriptors.
    pub(crate) descriptors: Option<(u64, u64)>,
    /// The processors it may run on; empty: all that we may.
    pub(crate) processors: Vec<usize>,
    pub(crate) inherited: Inherited,
    /// What it gets as descriptors 0, 1 and 2 instead of what is usual.
    pub(crate) given: [Option<Target>; 3],
}

/// What it finds when it starts: signals that whoever started it ignores, or has blocked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) ignored: Vec<Signal>,
    pub(crate) blocked: Vec<Signal>,
}

/// A descriptor that is not one of our pipes.
#[derive(Clone, Debug)]
pub enum Target {
    /// None: it is closed.
    Closed,
    /// This one.
    File(Arc<OwnedFd>),
}

impl Target {
    /// A pipe; the other end is the caller's.
    pub fn pipe() -> anyhow::Result<(OwnedFd, Self)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("a pipe")?;
        Ok((reader, Self::File(Arc::new(writer))))
    }

    /// An existing file or device, to write.
    pub fn open(path: &str) -> anyhow::Result<Self> {
        let file = File::options().write(true).open(path);
        let file = file.with_context(|| format!("open {path}"))?;
        Ok(Self::File(Arc::new(file.into())))
    }
}

/// What a program gets as descriptors 0 and 1.
pub(crate) enum Ends {
    /// Nothing to read, a pipe to write.
    Output,
    /// Two pipes; ours are in the [`Child`].
    Pipes,
    /// This terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

impl Recipe {
    pub(crate) fn new(which: Which) -> Self {
        Self {
            which,
            prefix: Vec::new(),
            args: Vec::new(),
            last_args: Vec::new(),
            env: Vec::new(),
            events: false,
            descriptors: None,
            processors: Vec::new(),
            inherited: Inherited::default(),
            given: [None, None, None],
        }
    }

    /// Starts it. With [`Ends::Terminal`] the caller collects stdout, from the master.
    pub(crate) fn start(&self, ends: Ends, stdout: Option<Output>) -> anyhow::Result<Program> {
        let (calls, calls_end) = self.events.then(calls_pipe).transpose()?.unzip();
        let mut command = self.command(calls_end.as_ref().map(AsRawFd::as_raw_fd))?;
        connect(&mut command, ends)?;
        self.give(&mut command)?;
        prepare(&mut command, calls_end, self.descriptors);
        confine(&mut command, &self.processors)?;
        inherit(&mut command, &self.inherited);
        let mut child = {
            let _starting = sweep::starting()?;
            command
                .spawn()
                .with_context(|| format!("start {}", self.typed()))?
        };
        // It holds our copies of the child's descriptors, without which no pipe would ever end.
        drop(command);
        let stderr = child.stderr.take().map(OwnedFd::from);
        let stdout = match (stdout, child.stdout.take()) {
            (Some(stdout), _) => stdout,
            (None, pipe) => collect(pipe.map(OwnedFd::from), None)?,
        };
        Ok(Program {
            command: self.typed(),
            name: self.name(),
            group: Pid::from_raw(child.id() as i32),
            pid: child.id() as i32,
            state: Mutex::new(State::new(child)),
            stdout,
            stderr: collect(stderr, Some(2 * SAID))?,
            calls: calls.map(Output::collect).transpose()?,
        })
    }

    fn give(&self, command: &mut Command) -> anyhow::Result<()> {
        for (number, target) in (0..).zip(&self.given) {
            let stdio = match target {
                None => continue,
                Some(Target::File(fd)) => Stdio::from(fd.try_clone()?),
                Some(Target::Closed) => {
                    close_at_start(command, number);
                    Stdio::null()
                }
            };
            match number {
                0 => command.stdin(stdio),
                1 => command.stdout(stdio),
                _ => command.stderr(stdio),
            };
        }
        Ok(())
    }

    fn command(&self, calls_fd: Option<RawFd>) -> anyhow::Result<Command> {
        let program = match &self.which {
            Which::Ours(name) => binaries::path(name)?.into_os_string(),
            Which::Foreign(path) => path.clone().into_os_string(),
        };
        let mut words = self.prefix.iter().chain([&program]);
        let mut command = Command::new(words.next().expect("at least the program"));
        if let (Which::Ours(name), []) = (&self.which, &*self.prefix) {
            // So that ps shows what one would type.
            command.arg0(name);
        }
        command.args(words).args(&self.args);
        if let Some(fd) = calls_fd {
            command.arg("--events-fd").arg(fd.to_string());
        }
        command.args(&self.last_args);
        command.envs(deathwatch::mark());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// The command line as one would type it.
    fn typed(&self) -> String {
        let program = match &self.which {
            Which::Ours(name) => OsString::from(name),
            Which::Foreign(path) => path.clone().into_os_string(),
        };
        let env = self.env.iter().map(|(name, value)| {
            let value = quoted(value);
            format!("{}={value}", name.to_string_lossy())
        });
        let words = self.prefix.iter().chain([&program]);
        let words = words.chain(&self.args).chain(&self.last_args);
        env.chain(words.map(|word| quoted(word)))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// As the kernel calls the process, which it does in 15 bytes.
    fn name(&self) -> String {
        let name = match &self.which {
            Which::Ours(name) => OsStr::new(name),
            Which::Foreign(path) => path.file_name().unwrap_or_default(),
        };
        let name = name.to_string_lossy();
        name.char_indices()
            .take_while(|(at, c)| at + c.len_utf8() <= 15)
            .map(|(_, c)| c)
            .collect()
    }
}

/// A word in single quotes if the shell would otherwise take it apart.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A pipe for records: our end and the program's, with as much room as an ordinary user may have.
fn calls_pipe() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).context("a pipe for the records of calls")?;
    // Less room is no failure: what finds none is counted.
    let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(1 << 20));
    Ok((ours, theirs))
}

/// What comes out of `pipe`; without one, what the program prints goes elsewhere: nothing.
fn collect(pipe: Option<OwnedFd>, limit: Option<usize>) -> anyhow::Result<Output> {
    let pipe = match pipe {
        Some(pipe) => pipe,
        None => File::open("/dev/null")?.into(),
    };
    Output::collect_last(pipe, limit)
}

fn connect(command: &mut Command, ends: Ends) -> anyhow::Result<()> {
    command.stderr(Stdio::piped());
    match ends {
        Ends::Output => {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            command.process_group(0);
        }
        Ends::Pipes => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.process_group(0);
        }
        Ends::Terminal(slave) => {
            command.stdin(slave.try_clone()?).stdout(slave);
            lead_session(command);
        }
    }
    Ok(())
}

/// Makes the child the leader of a session (and so of a group) whose terminal is its stdin.
fn lead_session(command: &mut Command) {
    let take_terminal = || {
        setsid()?;
        #[expect(unsafe_code)]
        // SAFETY: TIOCSCTTY takes an integer and touches no memory of ours.
        let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) };
        Errno::result(result).map(drop)?;
        Ok(())
    };
    #[expect(unsafe_code)]
    // SAFETY: two system calls, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(take_terminal);
    }
}

/// Lets the child keep `inherited` (open in `command` until that is dropped), and limits it.
fn prepare(command: &mut Command, inherited: Option<OwnedFd>, limit: Option<(u64, u64)>) {
    let settle = move || {
        if let Some((soft, hard)) = limit {
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
        }
        if let Some(fd) = &inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    #[expect(unsafe_code)]
    // SAFETY: two system calls, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(settle);
    }
}

/// Lets it run on these processors only.
fn confine(command: &mut Command, processors: &[usize]) -> anyhow::Result<()> {
    if processors.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor)?;
    }
    let confine = move || Ok(sched_setaffinity(Pid::from_raw(0), &set)?);
    #[expect(unsafe_code)]
    // SAFETY: one system call, which is async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(confine);
    }
    Ok(())
}

fn close_at_start(command: &mut Command, number: RawFd) {
    let close = move || {
        nix::unistd::close(number)?;
        Ok(())
    };
    #[expect(unsafe_code)]
    // SAFETY: one system call, which is async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(close);
    }
}

/// Hands down the signals as a shell at a terminal does, whatever we got ourselves (nohup ignores
/// SIGHUP, a job in the background of a script SIGINT and SIGQUIT) or have blocked for a while; and
/// then what a careless parent hands down.
fn inherit(command: &mut Command, inherited: &Inherited) {
    let Inherited { ignored, blocked } = inherited.clone();
    let blocked: SigSet = blocked.into_iter().collect();
    let ordinary = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];
    let set = move || {
        let ordinary = ordinary.iter().map(|signal| (signal, SigHandler::SigDfl));
        let ignored = ignored.iter().map(|signal| (signal, SigHandler::SigIgn));
        for (number, disposition) in ordinary.chain(ignored) {
            #[expect(unsafe_code)]
            // SAFETY: no handler is installed, and none was.
            unsafe { signal(*number, disposition) }?;
        }
        blocked.thread_set_mask()?;
        Ok(())
    };
    #[expect(unsafe_code)]
    // SAFETY: two kinds of system calls, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(set);
    }
}

/// A program that was started. Server and client are this, and more.
#[derive(Debug)]
pub struct Program {
    command: String,
    name: String,
    group: Pid,
    pid: i32,
    state: Mutex<State>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    calls: Option<Output>,
}

#[derive(Debug)]
struct State {
    child: Child,
    status: Option<ExitStatus>,
    /// Was anybody left in the group when its leader had been reaped? If not, its number
    /// may by now be somebody else's.
    group_survives: bool,
}

impl State {
    fn new(child: Child) -> Self {
        Self {
            child,
            status: None,
            group_survives: true,
        }
    }

    fn reap(&mut self, group: Pid) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            self.group_survives = self.status.is_none() || killpg(group, None).is_ok();
        }
        Ok(self.status)
    }
}

impl Program {
    /// Its process; where it runs under another program, that of the program itself.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// It turned out to be this process.
    pub(crate) fn is_process(&mut self, pid: i32) {
        self.pid = pid;
    }

    /// The command line, as one would type it.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// What it has printed on stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The lines of stderr so far, each with its time of arrival (`CLOCK_REALTIME` ns).
    pub fn stderr_lines(&self) -> Vec<(u64, String)> {
        self.stderr.lines()
    }

    /// The stdin of a program that was started with [`Ends::Pipes`]; once.
    pub(crate) fn take_stdin(&self) -> Option<OwnedFd> {
        self.state().child.stdin.take().map(OwnedFd::from)
    }

    /// The process that we started: the program, or what it runs under.
    pub(crate) fn leader(&self) -> i32 {
        self.group.as_raw()
    }

    /// The program itself, below what it runs under (strace forks, nice does not).
    pub(crate) fn find(&self) -> anyhow::Result<i32> {
        let what = format!("a process called {} under {}", self.name, self.command);
        eventually(&what, PROMPTLY, || {
            let mut tree = processes::tree(self.leader()).into_iter();
            tree.find(|process| process.comm == self.name)
                .map(|process| process.pid)
        })
        .with_context(|| self.transcript())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // While the lock is held nobody reaps it, so that the pid stays its own.
        let mut state = self.state();
        if let Some(status) = state.reap(self.group)? {
            bail!("{signal} to {}: it has ended ({status})", self.command);
        }
        kill(Pid::from_raw(self.pid), signal)
            .with_context(|| format!("{signal} to {} (pid {})", self.command, self.pid))
    }

    /// A signal for all of its process group, as from a terminal or `kill -- -PGID`.
    pub fn signal_group(&self, signal: Signal) -> anyhow::Result<()> {
        let mut state = self.state();
        if let Some(status) = state.reap(self.group)? {
            bail!("{signal} to {}: it has ended ({status})", self.command);
        }
        killpg(self.group, signal)
            .with_context(|| format!("{signal} to the group of {}", self.command))
    }

    /// Has it ended, and how?
    pub fn status(&self) -> Option<ExitStatus> {
        // An error of wait for our own, unreaped child: there is none.
        self.state().reap(self.group).ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("end of {}", self.command);
        eventually(&what, deadline, || self.status())
            .map_err(|error| anyhow!("{error}\n{}", self.transcript()))
    }

    /// The system calls so far; empty unless they are recorded.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.call_log().records
    }

    /// How many records of calls are missing.
    pub fn calls_lost(&self) -> u64 {
        self.call_log().lost
    }

    fn call_log(&self) -> CallLog {
        self.calls
            .as_ref()
            .map(|calls| calls::parse(&calls.text()))
            .unwrap_or_default()
    }

    /// Command, status and everything printed.
    pub fn transcript(&self) -> String {
        let mut text = format!("$ {}\n", self.command);
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            for line in output.text().lines() {
                let _ = writeln!(text, "{name} | {line}");
            }
        }
        let pid = self.leader();
        match self.status() {
            Some(status) => text + &format!("[{pid}] ended: {status}\n"),
            None => text + &format!("[{pid}] still running\n"),
        }
    }

    /// Kills everything that the program consists of.
    fn kill(&self) {
        let mut state = self.state();
        if state.reap(self.group).is_ok_and(|status| status.is_some()) {
            if state.group_survives {
                let _ = killpg(self.group, Signal::SIGKILL);
            }
            return;
        }
        let tree = processes::tree(self.leader());
        let _ = killpg(self.group, Signal::SIGKILL);
        let strays = tree.iter().filter(|p| p.pgrp != self.group.as_raw());
        for stray in strays {
            let _ = kill(Pid::from_raw(stray.pid), Signal::SIGKILL);
        }
        drop(state);
        let _ = eventually("the killed program's end", PROMPTLY, || self.status());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        self.stderr.wait_end(LAST_WORDS);
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "libtest shows it with the failure")]
            {
                eprintln!("{}", self.transcript());
            }
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.transcript())
    }
}

/// Writes everything to a pipe or terminal whose reader may be slow, but not for ever.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> anyhow::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    // Our end is an open file description of its own: the program's stdin stays as it was.
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    while !bytes.is_empty() {
        let written =
            eventually(
                "room in the program's stdin",
                PROMPTLY,
                || match nix::unistd::write(fd.as_fd(), bytes) {
                    Err(Errno::EAGAIN | Errno::EINTR) => None,
                    result => Some(result),
                },
            )?;
        bytes = &bytes[written.context("write to the program's stdin")?..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_what_one_would_type() {
        let mut recipe = Recipe::new(Which::Ours("tcpechod"));
        recipe.args = vec!["--bind".into(), "::1".into(), "a b".into(), "it's".into()];
        recipe.last_args = vec!["0".into()];
        recipe.env = vec![("RUST_LOG".into(), "mio=trace".into())];
        recipe.events = true;
        assert_eq!(
            recipe.typed(),
            r"RUST_LOG=mio=trace tcpechod --bind ::1 'a b' 'it'\''s' 0"
        );
    }
}
