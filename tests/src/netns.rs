//! User, PID, mount and network namespaces of one's own, for any user, without tools.
//!
//! A threaded process cannot unshare its user namespace (EINVAL), and the network namespace
//! is per thread. So the program is run once more, and the namespaces are made between fork
//! and exec, where there is one thread:
//!
//! ```text
//! the program            waits
//! `- keeper              made the namespaces, is outside the PID namespace; passes the status on
//!    `- init             PID 1 inside: mounted /proc, reaps strangers, ends with the program
//!       `- the program   PID 2, with other arguments
//! ```
//!
//! When the waiting program dies, however it dies, the keeper is killed (`PR_SET_PDEATHSIG`),
//! with it init, and with init every process inside. Inside, one is root (uid 0 is mapped to
//! oneself): that brings lo up, mounts /proc and opens packet sockets; outside it gives no right.
//! Costs under 10 ms and two small processes; namespaces(7), `user_namespaces(7)`, `pid_namespaces(7)`.

pub mod host;
mod link;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getgid, getpid, getppid, getuid};

use crate::apart;
use crate::binaries;
use crate::skip::skip;

/// Set inside.
const MARKER: &str = "TCPECHO_NAMESPACES";

/// Turns "cannot run here" into a failure, for machines that are known to be able.
pub const STRICT: &str = "TCPECHO_STRICT";

/// Where an experiment runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In namespaces of its own: it is root there, may capture, and has lo to itself.
    Namespaces,
    /// Among everybody else, because (one line).
    Plain(String),
}

/// What [`isolate`] has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolated {
    /// The caller is where it will run: go on.
    Here(Isolation),
    /// The program ran inside and has ended; the caller passes its status on.
    Done(ExitStatus),
}

/// Is this process in namespaces that [`isolate`] or [`command`] made?
pub fn inside() -> bool {
    env::var_os(MARKER).is_some()
}

/// Runs this program again with `args` (without the program's name) in namespaces of its own.
///
/// To be called first thing in main, from a thread that lives until it returns. Inside, the
/// same call returns `Here(Namespaces)`, with lo up and the programs already built.
pub fn isolate(args: &[OsString]) -> anyhow::Result<Isolated> {
    if inside() {
        arrive()?;
        return Ok(Isolated::Here(Isolation::Namespaces));
    }
    match command(args)?.spawn() {
        Ok(mut child) => Ok(Isolated::Done(child.wait()?)),
        Err(error) => Ok(Isolated::Here(Isolation::Plain(refusal(error)?))),
    }
}

/// For a libtest function called `name` (its path inside the test binary): runs `body` in
/// namespaces, by way of running the test binary again with just this test.
///
/// Where the kernel refuses, says why and succeeds; with `TCPECHO_STRICT=1` that is a failure.
pub fn test(name: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if inside() {
        link::set_up_lo()?;
        return body();
    }
    match apart::just(name, command(&[])?).spawn() {
        Ok(child) => apart::judge(name, child),
        Err(error) => skip(name, refusal(error)?),
    }
}

/// To be called first thing by what [`command`] has started.
pub fn arrive() -> anyhow::Result<()> {
    link::set_up_lo()
}

/// This program with `args`, set up so that it starts in namespaces. Whoever spawns it must be a
/// thread that lives until it has ended. Where the kernel refuses, spawning is an error that
/// [`refusal`] explains.
pub fn command(args: &[OsString]) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe().context("where this program is")?);
    command.args(args).env(MARKER, "1");
    match binaries::directory() {
        Ok(Some(directory)) => drop(command.env(binaries::DIRECTORY, directory)),
        Ok(None) => {}
        // Who needs the programs inside will find them missing; others need not.
        Err(error) => log::warn!("{error:#}"),
    }
    let plan = Plan::new();
    let enter = move || plan.enter().map_err(io::Error::from);
    #[expect(unsafe_code)]
    // SAFETY: everything that `enter` does is system calls on memory prepared before the fork;
    // nothing is allocated, no lock is taken.
    unsafe {
        command.pre_exec(enter);
    }
    Ok(command)
}

/// One line that says why there are no namespaces; an error that is about something else stays one.
pub fn refusal(error: io::Error) -> anyhow::Result<String> {
    let Some(Refused { step, errno }) = Refused::decode(&error) else {
        return Err(anyhow!(error).context("run this program again"));
    };
    let setting =
        |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let cause = if setting(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "AppArmor restricts them: kernel.apparmor_restrict_unprivileged_userns=1"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "kernel.unprivileged_userns_clone=0"
    } else {
        match (step, errno) {
            (Step::Unshare, Errno::ENOSPC) => {
                "user.max_user_namespaces, or the same of net or pid, is used up"
            }
            (Step::Unshare, Errno::EPERM) => {
                "a container's or a sandbox's seccomp filter, or a chroot"
            }
            (Step::Unshare, Errno::EINVAL | Errno::ENOSYS) => "a kernel without them",
            (Step::Proc, Errno::EPERM) => "a container hides parts of /proc",
            _ => "see user_namespaces(7)",
        }
    };
    Ok(format!(
        "no namespaces: {}: {} ({cause})",
        step.name(),
        errno.desc()
    ))
}

/// What may fail between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Unshare = 1,
    Map,
    Guard,
    Fork,
    Proc,
}

impl Step {
    const ALL: [Self; 5] = [
        Self::Unshare,
        Self::Map,
        Self::Guard,
        Self::Fork,
        Self::Proc,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Unshare => "unshare",
            Self::Map => "write uid_map and gid_map",
            Self::Guard => "prctl",
            Self::Fork => "fork",
            Self::Proc => "mount /proc",
        }
    }

    fn on(self, errno: Errno) -> Refused {
        Refused { step: self, errno }
    }
}

/// A step that failed. Command brings one number back from the child, so both are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    step: Step,
    errno: Errno,
}

impl From<Refused> for io::Error {
    fn from(Refused { step, errno }: Refused) -> Self {
        Self::from_raw_os_error(((step as i32) << 16) | errno as i32)
    }
}

impl Refused {
    fn decode(error: &io::Error) -> Option<Self> {
        let code = error.raw_os_error()?;
        let step = Step::ALL
            .into_iter()
            .find(|step| *step as i32 == code >> 16)?;
        Some(step.on(Errno::from_raw(code & 0xffff)))
    }
}

/// Everything the child needs, made before the fork.
struct Plan {
    starter: Pid,
    uid_map: String,
    gid_map: String,
}

impl Plan {
    fn new() -> Self {
        Self {
            starter: getpid(),
            uid_map: format!("0 {} 1", getuid()),
            gid_map: format!("0 {} 1", getgid()),
        }
    }

    /// Returns in the process that is to be the program; the others stay in here.
    fn enter(&self) -> Result<(), Refused> {
        let all = CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS;
        unshare(all).map_err(|errno| Step::Unshare.on(errno))?;
        self.map().map_err(|errno| Step::Map.on(errno))?;
        // After unshare: a change of credentials would undo it.
        set_pdeathsig(Signal::SIGKILL).map_err(|errno| Step::Guard.on(errno))?;
        if getppid() != self.starter {
            end(1);
        }
        // Names show in ps, and exec replaces the last; a failure would not matter.
        let _ = set_name(c"tcpecho-keeper");
        let keeper = own_pidfd();
        if let ForkResult::Parent { child } = forked()? {
            keep(child);
        }
        start_as_init(keeper.as_ref())
    }

    fn map(&self) -> nix::Result<()> {
        // Without this, an ordinary user may not map a group.
        put("/proc/self/setgroups", "deny")?;
        put("/proc/self/uid_map", &self.uid_map)?;
        put("/proc/self/gid_map", &self.gid_map)
    }
}

/// PID 1: returns in PID 2, and otherwise ends when that has ended.
fn start_as_init(keeper: Option<&OwnedFd>) -> Result<(), Refused> {
    set_pdeathsig(Signal::SIGKILL).map_err(|errno| Step::Guard.on(errno))?;
    if keeper.is_some_and(has_ended) {
        end(1);
    }
    let _ = set_name(c"tcpecho-init");
    mount_proc().map_err(|errno| Step::Proc.on(errno))?;
    match forked()? {
        ForkResult::Child => Ok(()),
        ForkResult::Parent { child } => keep(child),
    }
}

/// Nothing that is mounted here must be seen outside, so sharing is ended first.
fn mount_proc() -> nix::Result<()> {
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, nothing)
}

/// Waits for `child`, reaps whoever else has lost its parent, and ends as the child did
/// (128 + signal, as a shell has it: a process cannot kill itself in the name of another).
fn keep(child: Pid) -> ! {
    // The write end of Command's pipe is among them: it must be closed by the program's exec.
    close_all_but_stdio();
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => end(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => end(128 + signal as i32),
            Err(Errno::ECHILD) => end(1),
            Ok(_) | Err(_) => {}
        }
    }
}

fn forked() -> Result<ForkResult, Refused> {
    #[expect(unsafe_code)]
    // SAFETY: this process has one thread, since it was forked itself.
    let result = unsafe { fork() };
    result.map_err(|errno| Step::Fork.on(errno))
}

fn put(path: &str, text: &str) -> nix::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, text.as_bytes()).map(drop)
}

/// A descriptor that polls readable when this process has ended; None before Linux 5.3.
fn own_pidfd() -> Option<OwnedFd> {
    #[expect(unsafe_code)]
    // SAFETY: pidfd_open takes two integers and returns a descriptor that nobody else knows.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn close_all_but_stdio() {
    #[expect(unsafe_code)]
    // SAFETY: this process will not return to the code that owned the descriptors.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) != 0 {
            // Before Linux 5.9.
            for fd in 3..1024 {
                libc::close(fd);
            }
        }
    }
}

/// Ends this process without running anything of the program it was forked from.
fn end(code: i32) -> ! {
    #[expect(unsafe_code)]
    // SAFETY: _exit does not return and touches no memory.
    unsafe {
        libc::_exit(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_and_errno_come_back_as_one_number() {
        for step in Step::ALL {
            let refused = step.on(Errno::EPERM);
            assert_eq!(Refused::decode(&refused.into()), Some(refused));
        }
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(Refused::decode(&missing), None);
        assert!(refusal(missing).is_err());
    }

    #[test]
    fn a_refusal_names_its_cause_in_one_line() {
        let why = refusal(Step::Unshare.on(Errno::ENOSPC).into()).expect("a refusal");
        assert!(why.contains("unshare") && !why.contains('\n'), "{why}");
    }
}
