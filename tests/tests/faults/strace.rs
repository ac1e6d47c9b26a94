//! A server whose system calls can be made to fail: strace(1), `-e inject=`.
//!
//! strace is attached when the server is ready and its clients are where the test wants them, so
//! that a fault hits the call it is meant for and not the dynamic loader's. It counts calls from
//! then on, for each process or thread that it is attached to, and of no other. It has to be the
//! server's parent for that: where the kernel lets nobody trace but ancestors (Yama), any other
//! process would be refused. So a shell starts the server, waits to be told what to inject, and
//! then becomes strace.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::wait::eventually;

use super::DEADLINE;

/// `$0` is the directory of this server, `$@` its command line.
const PARENT: &str = r#"set -f; "$@" & read -r task faults < "$0/faults" && exec strace -q -o "$0/calls" $faults -p "$task" 2> "$0/remarks""#;

/// Calls that every task makes sooner or later: when one of them has been seen, strace is there. A
/// poll that was interrupted by the attaching goes on as restart_syscall. The question mark: where
/// the architecture has it.
const SEEN: &str = "accept4,read,write,restart_syscall,?select,?pselect6,?poll,?ppoll,\
    ?epoll_wait,?epoll_pwait,?io_uring_enter";

/// A failure to inject.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The calls, as strace wants them: with commas.
    pub calls: &'static str,
    /// How they fail.
    pub errno: Errno,
    /// Which ones: `1` the first, `1+2` every other, `1+` all.
    pub when: &'static str,
}

impl Fault {
    fn option(self) -> String {
        let Self { calls, errno, when } = self;
        // As the kernel does it. (For read, which never sends the signal, it is worse than life.)
        let signal = if errno == Errno::EPIPE {
            ":signal=SIGPIPE"
        } else {
            ""
        };
        format!(" -e inject={calls}:error={errno:?}:when={when}{signal}")
    }
}

/// A server, and the shell above it that will become strace.
pub struct Traceable {
    pub server: ServerProcess,
    directory: PathBuf,
    /// The tasks that strace is attached to.
    traced: RefCell<Vec<i32>>,
}

impl Traceable {
    /// Starts it; None if there can be no strace here, and nobody insists.
    pub fn start(server: Server) -> Option<Self> {
        if let Err(why) = works() {
            assert!(
                env::var_os("TCPECHO_STRICT").is_none_or(|value| value != "1"),
                "{why} (TCPECHO_STRICT=1)"
            );
            let test = std::thread::current();
            // Not captured by libtest: what was not tested shall be seen.
            let _ = writeln!(
                std::io::stderr(),
                "SKIP {}: {why}",
                test.name().unwrap_or("?")
            );
            return None;
        }
        let directory = fresh_directory();
        mkfifo(&directory.join("faults"), Mode::S_IRUSR | Mode::S_IWUSR)
            .expect("a pipe to write to");
        let shown = directory.to_str().expect("a path of the project");
        let server = server.under(&["sh", "-c", PARENT, shown]).start();
        Some(Self {
            server: server.expect("a server under a shell"),
            directory,
            traced: RefCell::default(),
        })
    }

    /// From now on these calls of that task (a process or thread) fail. Once per server.
    pub fn inject(&self, task: i32, faults: &[Fault]) {
        self.inject_each(&[task], faults);
    }

    /// From now on these calls of each of these tasks fail, counted for each. Once per server.
    pub fn inject_each(&self, tasks: &[i32], faults: &[Fault]) {
        let calls: String = faults.iter().flat_map(|f| [",", f.calls]).collect();
        let options: String = faults.iter().map(|fault| fault.option()).collect();
        self.attach(tasks, &calls, &options);
    }

    /// The next read of this task is said to have got more than there was room for, which is more than
    /// any program can bear. Once per server.
    pub fn inject_a_lie(&self, task: i32) {
        self.attach(&[task], "", " -e inject=read:retval=1000000:when=1");
    }

    fn attach(&self, tasks: &[i32], calls: &str, options: &str) {
        let numbers: Vec<_> = tasks.iter().map(ToString::to_string).collect();
        let numbers = numbers.join(",");
        let mut pipe = eventually("the shell to read", DEADLINE, || {
            let mut options = File::options();
            let path = self.directory.join("faults");
            options.write(true).custom_flags(O_NONBLOCK).open(path).ok()
        })
        .expect("the shell waits");
        writeln!(pipe, "{numbers} -e trace={SEEN}{calls}{options}").expect("room for a line");
        drop(pipe);
        let seen = || (self.seen() == tasks.len()).then_some(());
        eventually("strace to see a call of each", DEADLINE, seen).expect("strace");
        self.traced.replace(tasks.to_vec());
    }

    /// How many tasks have made a call that strace has seen. It writes their numbers only if there are
    /// several.
    fn seen(&self) -> usize {
        let calls = self.calls();
        let calls = calls.lines().filter(|line| line.contains('('));
        let number = |line: &str| line.split(' ').next()?.parse::<i32>().ok();
        calls.map(number).collect::<BTreeSet<_>>().len()
    }

    /// Waits until a call has been made to fail.
    pub fn wait_for_the_first(&self) {
        let first = || (self.injected() > 0).then_some(());
        eventually("a fault", DEADLINE, first).expect("a call of this kind");
    }

    /// How many calls have been made to fail.
    pub fn injected(&self) -> usize {
        self.calls().matches("(INJECTED)").count()
    }

    /// No more faults.
    pub fn detach(&self) {
        let traced = self.traced.take();
        let strace = tracer(traced[0]);
        assert!(strace > 0, "nobody traces the server");
        kill(Pid::from_raw(strace), Signal::SIGTERM).expect("it is ours");
        let gone = || traced.iter().all(|task| tracer(*task) == 0).then_some(());
        eventually("strace to let go", DEADLINE, gone).expect("strace");
    }

    fn calls(&self) -> String {
        // Not there before strace is.
        fs::read_to_string(self.directory.join("calls")).unwrap_or_default()
    }
}

impl Drop for Traceable {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "libtest shows it with the failure")]
            for call in self.calls().lines() {
                eprintln!("strace | {call}");
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn fresh_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "faults-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Relaxed)
    );
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Left behind by an earlier process of this number that was killed.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory for the trace");
    directory
}

/// Who traces this task; 0 if nobody does.
fn tracer(task: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{task}/status")).expect("a living task");
    let line = status.lines().find_map(|l| l.strip_prefix("TracerPid:"));
    line.and_then(|pid| pid.trim().parse().ok())
        .expect("a number")
}

/// Can strace make a call of its own child fail? If not: why not.
fn works() -> Result<(), String> {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    let attempt = || {
        let everything = "inject=accept4,wait4,?poll,?clone3,?epoll_wait:error=EINTR:when=1+2";
        let output = Command::new("strace")
            .args(["-q", "-o", "/dev/null", "-e", everything, "true"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("strace cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or_default();
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("strace does not work here: {first}"))
        }
    };
    WORKS.get_or_init(attempt).clone()
}
