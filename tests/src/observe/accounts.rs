//! What a process and its descendants have used so far, those that have ended included, and what they
//! occupy; proc_pid_stat(5), clock_getcpuclockid(3), getrusage(2).
//!
//! Where the processor time comes from:
//! - of a living process, or a zombie, from its clock, in nanoseconds: all its threads, ended ones too;
//! - of children that were waited for, from their parent's account of them. The kernel adds it up in
//!   nanoseconds as well, so thousands of short children are not lost, but shows it in ticks of 10 ms:
//!   user and system mode are cut off once each, at every look, by less than a tick;
//! - how it is divided between user and system mode, from ticks.
//!
//! A child that is waited for while we look may be counted twice (in its own account, then in its
//! parent's) or not at all (the other way round). The parent's count of its children's page faults tells
//! that it has happened; then the look is repeated, some times. Where children end all the time, an
//! error of the few that ended at that moment remains.
//!
//! Context switches are counted per thread, and nobody keeps those of a thread that has ended, but the
//! account that a process leaves behind when it has ended itself: see [`life`].

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::processes::{self, Stat};

/// How often a look is repeated that met the end of a child.
const LOOKS: usize = 4;

/// Of more threads than this all processes that there are take less time to read than lists of children.
const FEW: u64 = 200;

/// Processor time of a tree of processes since it began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// When that was.
    pub at: Instant,
    /// All of it.
    pub cpu: Duration,
    /// In user mode, in ticks.
    user: u64,
    /// In system mode, in ticks.
    system: u64,
}

/// Context switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Because the thread had to wait.
    pub voluntary: u64,
    /// Because another one was given the processor.
    pub involuntary: u64,
}

/// What a process, and all that were waited for among its descendants, have used from beginning to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Processor time.
    pub cpu: Duration,
    /// Context switches of all threads.
    pub switches: Switches,
}

/// What a tree of processes occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Processes, without zombies.
    pub processes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Open descriptors of all of them.
    pub descriptors: u64,
    /// Bytes of memory, each shared page divided among those who share it.
    pub pss: u64,
}

/// What the tree of processes has used until now; None if there is none.
pub fn usage(root: i32) -> Option<Usage> {
    for _ in 1..LOOKS {
        let looked = look(root)?;
        if looked.is_whole() {
            return Some(looked.usage());
        }
    }
    Some(look(root)?.usage())
}

/// The processes of a tree, as they were: where none comes or goes, what they have used is known sooner.
#[derive(Debug)]
pub struct Roll(Vec<Stat>);

/// Calls the roll.
pub fn roll(root: i32) -> Roll {
    Roll(processes::stats(root))
}

impl Roll {
    /// What they have used until now; in which mode, and by whom they have waited for, as it was when the
    /// roll was called. None if one of them has gone since.
    pub fn usage(self) -> Option<Usage> {
        let looked = clocks(self.0)?;
        let all = looked.clocks.iter().all(Option::is_some);
        all.then(|| looked.usage())
    }
}

#[cfg(test)]
impl Usage {
    /// One that nobody has used: in user and system mode, in ticks.
    pub(crate) fn made_up(at: Instant, cpu: Duration, user: u64, system: u64) -> Self {
        Self {
            at,
            cpu,
            user,
            system,
        }
    }
}

impl Usage {
    /// What was used since `earlier`, and how much of that in user mode, from 0 to 1. Where less than
    /// a tick was used nobody knows; then it is 0.
    pub fn since(&self, earlier: &Self) -> (Duration, f64) {
        let user = self.user.saturating_sub(earlier.user) as f64;
        let system = self.system.saturating_sub(earlier.system) as f64;
        let share = user / (user + system).max(1.0);
        (self.cpu.saturating_sub(earlier.cpu), share)
    }
}

/// One look at all processes of a tree.
struct Looked {
    at: Instant,
    stats: Vec<Stat>,
    /// Their clocks; None if one has vanished since its `stat` was read.
    clocks: Vec<Option<Duration>>,
}

fn look(root: i32) -> Option<Looked> {
    clocks(processes::few_stats(root, FEW).unwrap_or_else(|| processes::stats(root)))
}

/// None if there are no processes.
fn clocks(stats: Vec<Stat>) -> Option<Looked> {
    let began = Instant::now();
    let clocks: Vec<_> = stats.iter().map(|stat| clock(stat.pid)).collect();
    (!stats.is_empty()).then_some(Looked {
        // The clocks were read one after the other, some before and some after this.
        at: began + began.elapsed() / 2,
        stats,
        clocks,
    })
}

impl Looked {
    /// Has nobody been waited for meanwhile?
    fn is_whole(&self) -> bool {
        let same = |stat: &&Stat| {
            let now = processes::stat(stat.pid);
            now.is_some_and(|now| now.children_faults == stat.children_faults)
        };
        self.clocks.iter().all(Option::is_some) && self.parents().iter().all(same)
    }

    fn parents(&self) -> Vec<&Stat> {
        let parents: HashSet<i32> = self.stats.iter().map(|stat| stat.ppid).collect();
        let is_parent = |stat: &&Stat| stat.children_faults > 0 || parents.contains(&stat.pid);
        self.stats.iter().filter(is_parent).collect()
    }

    fn usage(&self) -> Usage {
        let ticks = |of: fn(&Stat) -> u64| self.stats.iter().map(of).sum::<u64>();
        let reaped = ticks(|stat| stat.children_user + stat.children_system);
        let living: Duration = self.clocks.iter().flatten().sum();
        Usage {
            at: self.at,
            cpu: living + duration(reaped),
            user: ticks(|stat| stat.user + stat.children_user),
            system: ticks(|stat| stat.system + stat.children_system),
        }
    }
}

/// The processor time of a process, all its threads together; None if it has vanished.
pub fn clock(pid: i32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    clock.now().ok().map(Duration::from)
}

fn duration(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    Duration::from_secs_f64(ticks as f64 / per_second.unwrap_or(100) as f64)
}

/// What a thread has of its processor; proc(5), /proc/PID/schedstat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How long it has run.
    pub ran: Duration,
    /// How long it has waited for a processor while it could have run, without the wait it is in.
    pub waited: Duration,
    /// It could run now, or does.
    pub runnable: bool,
}

/// Those of all threads of a tree that live now, by number.
pub fn shares(root: i32) -> BTreeMap<i32, Share> {
    let tasks = |stat: Stat| fs::read_dir(format!("/proc/{}/task", stat.pid));
    let stats = processes::stats(root).into_iter();
    let tasks = stats.flat_map(tasks).flatten().flatten();
    let share = |task: fs::DirEntry| {
        let number = task.file_name().to_str()?.parse().ok()?;
        let (ran, waited) = shared(&fs::read_to_string(task.path().join("schedstat")).ok()?)?;
        let share = Share {
            ran,
            waited,
            runnable: processes::stat(number)?.state == 'R',
        };
        Some((number, share))
    };
    tasks.filter_map(share).collect()
}

/// The first two of three numbers, in nanoseconds.
fn shared(schedstat: &str) -> Option<(Duration, Duration)> {
    let mut numbers = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
    let mut time = || Some(Duration::from_nanos(numbers.next()?.ok()?));
    Some((time()?, time()?))
}

/// The longest that one of the threads has waited for a processor since these were its [`shares`]; where
/// it had none, since it was started.
pub fn longest_wait(root: i32, before: &BTreeMap<i32, Share>) -> Duration {
    let waits = shares(root).into_iter().map(|(number, after)| {
        let waited = before
            .get(&number)
            .map_or(Duration::ZERO, |share| share.waited);
        after.waited.saturating_sub(waited)
    });
    waits.max().unwrap_or_default()
}

/// The longest that one of the threads waits for a processor in the time that comes now.
pub fn longest_wait_in(root: i32, time: Duration) -> Duration {
    let before = shares(root);
    std::thread::sleep(time);
    let waits = shares(root).into_iter().filter_map(|(number, after)| {
        let before = before.get(&number)?;
        if before.runnable && after.runnable && before.ran == after.ran {
            return Some(time);
        }
        Some(after.waited.saturating_sub(before.waited))
    });
    waits.max().unwrap_or_default()
}

/// The context switches of all threads that live now.
pub fn switches(root: i32) -> Switches {
    let mut all = Switches::default();
    for stat in processes::stats(root) {
        let process = PathBuf::from(format!("/proc/{}", stat.pid));
        if stat.threads == 1 {
            all = all + switches_of(&process);
            continue;
        }
        let tasks = fs::read_dir(process.join("task"));
        for task in tasks.into_iter().flatten().flatten() {
            all = all + switches_of(&task.path());
        }
    }
    all
}

/// Of a thread, none if it has ended.
fn switches_of(task: &Path) -> Switches {
    switches_in(&fs::read_to_string(task.join("status")).unwrap_or_default())
}

fn switches_in(status: &str) -> Switches {
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
    };
    Switches {
        voluntary: number("voluntary_ctxt_switches:"),
        involuntary: number("nonvoluntary_ctxt_switches:"),
    }
}

impl std::ops::Add for Switches {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            voluntary: self.voluntary + other.voluntary,
            involuntary: self.involuntary + other.involuntary,
        }
    }
}

/// What the tree of processes occupies now. Costs a walk through the page tables of each.
pub fn occupied(root: i32) -> Occupied {
    let mut all = Occupied::default();
    for stat in processes::stats(root) {
        if stat.state == 'Z' {
            continue;
        }
        let entries = fs::read_dir(format!("/proc/{}/fd", stat.pid));
        all.processes += 1;
        all.threads += stat.threads;
        all.descriptors += entries.into_iter().flatten().count() as u64;
        all.pss += processes::memory(stat.pid).map_or(0, |memory| memory.pss);
    }
    all
}

/// The life of our child that has ended; None as long as it lives. Whoever waits for it still can.
#[expect(unsafe_code)]
pub fn life(child: i32) -> Option<Life> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
    // SAFETY: it fills one siginfo_t and one rusage, which are ours. The function of libc does not
    // take the latter.
    let done = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PID,
            child,
            info.as_mut_ptr(),
            options,
            usage.as_mut_ptr(),
        )
    };
    Errno::result(done).ok()?;
    // SAFETY: all zeros are a siginfo_t and a rusage too; waitid leaves them so if nobody has ended.
    let (pid, usage) = unsafe { (info.assume_init().si_pid(), usage.assume_init()) };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    (pid == child).then(|| Life {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        switches: Switches {
            voluntary: usage.ru_nvcsw as u64,
            involuntary: usage.ru_nivcsw as u64,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use nix::sys::signal::{Signal, kill};

    use crate::wait::eventually;

    const SOON: Duration = Duration::from_secs(20);

    /// A bash that does what it reads.
    struct Bash(Child);

    impl Bash {
        fn start() -> Self {
            let bash = Command::new("bash")
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            Self(bash.expect("bash"))
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }

        fn does(&mut self, line: &str) {
            let stdin = self.0.stdin.as_mut().expect("a pipe");
            writeln!(stdin, "{line}").expect("it reads");
        }

        fn uses(&self, wanted: Duration) -> Usage {
            let used = || usage(self.pid()).filter(|usage| usage.cpu >= wanted);
            eventually("processor time", SOON, used).expect("it is used")
        }
    }

    impl Drop for Bash {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            let _ = self.0.wait();
        }
    }

    /// A child that runs in user mode for more than 50 ms, and ends.
    const BURN: &str = "(for i in {1..200000}; do :; done)";

    #[test]
    fn a_child_that_was_waited_for_still_counts() {
        let mut bash = Bash::start();
        let before = bash.uses(Duration::ZERO);
        bash.does(BURN);
        let fifty = Duration::from_millis(50);
        let after = bash.uses(before.cpu + fifty);
        // Until nobody but the shell is left.
        let alone = || (processes::stats(bash.pid()).len() == 1).then_some(());
        eventually("the child's end", SOON, alone).expect("it ends by itself");
        let own = clock(bash.pid()).expect("alive");
        let all = usage(bash.pid()).expect("alive");
        let tick = Duration::from_millis(20);
        assert!(own < fifty, "the shell itself has used {own:?}");
        assert!(all.cpu + tick >= after.cpu, "{all:?} after {after:?}");
        let (used, share) = all.since(&before);
        assert!(used + tick >= fifty && share > 0.5, "{used:?}, {share}");
    }

    #[test]
    fn many_short_children_add_up() {
        let mut bash = Bash::start();
        bash.does("for i in {1..300}; do (:); done; exit");
        let whole = eventually("its end", SOON, || life(bash.pid())).expect("it ends");
        assert!(whole.switches.voluntary >= 300, "{whole:?}");
        assert!(whole.cpu >= Duration::from_millis(30), "{whole:?}");
    }

    #[test]
    fn a_thread_that_has_ended_still_counts() {
        let me = std::process::id() as i32;
        let before = usage(me).expect("alive");
        let burnt = std::thread::spawn(|| {
            let begin = Instant::now();
            let mut rounds = 0_u64;
            while begin.elapsed() < Duration::from_millis(50) {
                rounds = std::hint::black_box(rounds + 1);
            }
            let mut time = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            #[expect(unsafe_code)]
            // SAFETY: it fills one timespec.
            unsafe {
                libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
            }
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        });
        let burnt = burnt.join().expect("no panic");
        let (used, _) = usage(me).expect("alive").since(&before);
        assert!(used >= burnt, "{used:?} < {burnt:?}");
    }

    #[test]
    fn a_tree_occupies_what_its_processes_occupy() {
        let mut bash = Bash::start();
        let alone = occupied(bash.pid());
        bash.does("(read -r line < <(sleep 60)) & wait");
        let grown = || Some(occupied(bash.pid())).filter(|all| all.processes >= 3);
        let all = eventually("three processes", SOON, grown).expect("they are started");
        assert_eq!(all.threads, all.processes);
        assert!(all.pss > alone.pss, "{all:?}, {alone:?}");
        assert!(all.descriptors >= alone.descriptors + 6, "{all:?}");
        for child in processes::tree(bash.pid()).iter().skip(1) {
            let _ =
                nix::sys::signal::kill(Pid::from_raw(child.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    #[test]
    fn few_processes_are_found_by_the_lists_of_children() {
        let mut bash = Bash::start();
        bash.does("(sleep 60 & sleep 60 & wait) & wait");
        let pids = |stats: Vec<Stat>| stats.iter().map(|stat| stat.pid).collect::<HashSet<_>>();
        let grown = || Some(processes::stats(bash.pid())).filter(|stats| stats.len() == 4);
        let all = pids(eventually("four processes", SOON, grown).expect("they are started"));
        let few = processes::few_stats(bash.pid(), 4).expect("not more than four");
        assert!(
            processes::few_stats(bash.pid(), 3).is_none(),
            "four are too many"
        );
        for child in processes::tree(bash.pid()).iter().skip(1) {
            let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
        }
        assert_eq!(pids(few), all);
    }

    /// Two who want the same processor have half of it each; who sleeps wants none.
    #[test]
    fn who_waits_for_a_processor_is_told_from_who_waits_for_something_else() {
        let busy = [
            "-c",
            "0",
            "bash",
            "-c",
            "(while :; do :; done) & while :; do :; done",
        ];
        let idle = ["-c", "0", "sleep", "60"];
        let start = |args: &[&str]| Command::new("taskset").args(args).spawn().expect("taskset");
        let (mut busy, mut idle) = (start(&busy), start(&idle));
        let (waits, sleeps) = (busy.id() as i32, idle.id() as i32);
        let long = || {
            Some(longest_wait(waits, &BTreeMap::new()))
                .filter(|wait| *wait > Duration::from_millis(200))
        };
        let waited = eventually("a long wait", SOON, long);
        let slept = longest_wait(sleeps, &BTreeMap::new());
        let still = |pid| longest_wait_in(pid, Duration::from_millis(400));
        let (waits_still, sleeps_still) = (still(waits), still(sleeps));
        for process in processes::tree(waits) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        let _ = (busy.wait(), idle.kill(), idle.wait());
        let waited = waited.expect("they share a processor");
        assert!(slept < waited / 4, "{slept:?}, {waited:?}");
        assert!(waits_still > Duration::from_millis(100), "{waits_still:?}");
        assert_eq!(sleeps_still, Duration::ZERO);
        let nanos = Duration::from_nanos;
        assert_eq!(shared("1 75871 3\n"), Some((nanos(1), nanos(75_871))));
        assert_eq!(shared(""), None);
    }

    #[test]
    fn switches_are_read_by_name() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        let wanted = Switches {
            voluntary: 12,
            involuntary: 3,
        };
        assert_eq!(switches_in(status), wanted);
        assert_eq!(switches_in(""), Switches::default());
    }
}
