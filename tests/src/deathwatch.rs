//! kill -9 leaves nothing behind either: a process that outlives us ends what we have started.
//!
//! Who is killed like that cannot clean up. So before anything is started, a process is forked that
//! waits at the end of a line for ours. The kernel hangs up when we die, however we die. Then it looks
//! for what we have started: that has a mark in its environment, and so have its descendants, also those
//! that have left their process group and their session, or have been orphaned. (A signal on the death of
//! the parent, `PR_SET_PDEATHSIG`, reaches children only: not what a shell has started.) A child of ours
//! holds a copy of our end of the line until it executes its program, and then it has the mark: so
//! nobody is missed who was just being started.
//!
//! Who overwrites its own environment is found as long as its parent, or an older ancestor, has the mark;
//! who becomes another user is out of reach. Costs one sleeping process; fork(2), `proc_pid_environ(5)`.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::prctl::set_name;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use crate::observe::processes;
use crate::sweep::Hunt;
use crate::wait::eventually;

/// The variable that marks what we have started.
const VARIABLE: &str = "TCPECHO_STARTED_BY";

/// How long who was killed may take to be gone; who waits for a disk cannot be killed before.
const GONE_WITHIN: Duration = Duration::from_secs(10);

static VALUE: OnceLock<String> = OnceLock::new();

/// While it lives, our death is the death of all that we have started.
#[derive(Debug)]
pub struct DeathWatch {
    line: UnixStream,
}

/// The variable that everything we start must have in its environment, and its value; none without a watch.
pub(crate) fn mark() -> Option<(&'static str, &'static str)> {
    VALUE.get().map(|value| (VARIABLE, value.as_str()))
}

impl DeathWatch {
    /// To be called before this process has a second thread, and before it starts anything. Errors: it
    /// has one; the system refuses a process.
    pub fn begin() -> Result<Self> {
        ensure!(
            fs::read_dir("/proc/self/task")?.count() == 1,
            "a process with several threads cannot fork off a watch"
        );
        let (line, theirs) = UnixStream::pair().context("a pair of sockets")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let value = format!("{}-{}", std::process::id(), now.as_nanos());
        #[expect(unsafe_code)]
        // SAFETY: there is only one thread, so that the child finds no lock taken.
        let forked = unsafe { fork() };
        match forked.context("fork")? {
            ForkResult::Child => {
                drop(line);
                step_aside(theirs, &value)
            }
            ForkResult::Parent { child } => waitpid(child, None)?,
        };
        let _ = VALUE.set(value);
        Ok(Self { line })
    }
}

impl Drop for DeathWatch {
    /// Waits until it has ended, so that nothing of us is left.
    fn drop(&mut self) {
        let _ = self.line.shutdown(Shutdown::Write);
        wait_for_the_end(&mut self.line);
    }
}

/// The watch is nobody's child, in a session of its own: out of reach of what ends us.
fn step_aside(line: UnixStream, value: &str) -> ! {
    let _ = setsid();
    #[expect(unsafe_code)]
    // SAFETY: as above.
    let forked = unsafe { fork() };
    if matches!(forked, Ok(ForkResult::Child)) {
        watch(line, value);
    }
    #[expect(unsafe_code)]
    // SAFETY: it ends this process, which has nothing to clean up: all it has is a copy of its parent's.
    unsafe {
        libc::_exit(0)
    }
}

fn watch(mut line: UnixStream, value: &str) {
    let _ = set_name(c"tcpecho-watch");
    let _ = chdir("/");
    // Whoever waits for the end of our stdout is not to wait for this process.
    if let Ok(null) = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
    wait_for_the_end(&mut line);
    let mark = format!("{VARIABLE}={value}");
    let mut hunt = Hunt::default();
    let _ = eventually("their end", GONE_WITHIN, || {
        hunt.is_over_for(&marked(mark.as_bytes())).then_some(())
    });
}

fn wait_for_the_end(line: &mut UnixStream) {
    loop {
        match line.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Everybody alive who has the mark, and their descendants: in one walk, for there may be thousands.
fn marked(mark: &[u8]) -> Vec<i32> {
    let mut families = HashSet::new();
    let mut found = Vec::new();
    // Each behind its parent.
    for process in processes::tree(1) {
        if families.contains(&process.ppid) || is_marked(process.pid, mark) {
            families.insert(process.pid);
            if process.state != 'Z' {
                found.push(process.pid);
            }
        }
    }
    found
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Command;

    #[test]
    fn who_is_marked_is_found_with_all_descendants_and_nobody_else() {
        let mark = format!("{VARIABLE}=test-{}", std::process::id());
        let value = mark.split_once('=').expect("it has a value").1;
        let script = "env -u TCPECHO_STARTED_BY setsid sleep 60 & exec sleep 60";
        let mut shell = Command::new("sh");
        let mut shell = shell
            .args(["-c", script])
            .env(VARIABLE, value)
            .spawn()
            .expect("sh");
        let mut other = Command::new("sleep");
        let mut other = other
            .arg("60")
            .env(VARIABLE, format!("{value}0"))
            .spawn()
            .expect("sleep");
        let found = eventually("both", GONE_WITHIN, || {
            let names = |pid: &i32| processes::look(*pid).map(|process| process.comm);
            let found = marked(mark.as_bytes());
            let sleeping = found
                .iter()
                .filter_map(names)
                .filter(|name| name == "sleep");
            (sleeping.count() == 2).then_some(found)
        });
        let found = found.expect("a shell and its child");
        for pid in &found {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let _ = (shell.wait(), other.kill(), other.wait());
        assert!(found.contains(&(shell.id() as i32)), "{found:?}");
        assert!(!found.contains(&(other.id() as i32)), "{found:?}");
        assert!(marked(mark.as_bytes()).is_empty());
    }

    /// libtest has a thread for each test.
    #[test]
    fn a_process_with_threads_is_refused() {
        assert!(DeathWatch::begin().is_err());
    }
}
