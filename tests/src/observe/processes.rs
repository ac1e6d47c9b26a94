//! Processes as /proc shows them; `proc_pid_stat(5)`, ps(1).
//!
//! A process may vanish between two looks, so vanished is an answer (None), not an error. A look
//! reads three small files one after the other, so that state and wchan may belong to different
//! moments: wait for the pair that you expect. `children` and `tree` read the stat file of every
//! process there is.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// A process at the moment it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgrp: i32,
    /// Its session.
    pub session: i32,
    /// The foreground process group of its terminal; -1 if it has none.
    pub foreground: i32,
    /// `R`unning, `S`leeping, uninterruptible `D`, s`T`opped, `Z`ombie ...
    pub state: char,
    /// The name of the executable, cut off after 15 bytes.
    pub comm: String,
    /// The command line; of a zombie `[comm] <defunct>`, as ps has it.
    pub args: String,
    /// The kernel function it sleeps in; `-` if none.
    pub wchan: String,
    /// Its controlling terminal, as in `pts/3`.
    pub tty: Option<String>,
    /// How many threads it has.
    pub threads: u64,
}

/// One process; None if it has vanished.
pub fn look(pid: i32) -> Option<Process> {
    stat(pid).map(details)
}

/// Its children, by pid.
pub fn children(pid: i32) -> Vec<Process> {
    let mut children: Vec<Process> = all()
        .into_iter()
        .filter(|stat| stat.ppid == pid)
        .map(details)
        .collect();
    children.sort_by_key(|child| child.pid);
    children
}

/// It and all its descendants, each behind its parent.
pub fn tree(pid: i32) -> Vec<Process> {
    stats(pid).into_iter().map(details).collect()
}

/// The same of a few processes, without looking at all others: by the lists of children that the
/// kernel keeps for each thread. None if there are more than `at_most` threads, or no such lists. A child
/// that ends meanwhile may take others out of a list.
pub(super) fn few_stats(pid: i32, at_most: u64) -> Option<Vec<Stat>> {
    let (mut waiting, mut tree, mut threads) = (vec![pid], Vec::new(), 0);
    while let Some(pid) = waiting.pop() {
        // It may have vanished.
        let Some(stat) = stat(pid) else { continue };
        threads += stat.threads;
        if threads > at_most {
            return None;
        }
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = match fs::read_to_string(task.path().join("children")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && task.path().exists() => {
                    return None;
                }
                children => children.unwrap_or_default(),
            };
            waiting.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        tree.push(stat);
    }
    Some(tree)
}

/// The same of any number, without what takes more than one file to read.
pub(super) fn stats(pid: i32) -> Vec<Stat> {
    let mut by_parent: HashMap<i32, Vec<Stat>> = HashMap::new();
    let mut waiting = Vec::new();
    for stat in all() {
        if stat.pid == pid {
            waiting.push(stat);
        } else {
            by_parent.entry(stat.ppid).or_default().push(stat);
        }
    }
    let mut tree = Vec::new();
    while let Some(stat) = waiting.pop() {
        let mut children = by_parent.remove(&stat.pid).unwrap_or_default();
        children.sort_by_key(|child| std::cmp::Reverse(child.pid));
        waiting.extend(children);
        tree.push(stat);
    }
    tree
}

/// Its open descriptors and what they refer to (`socket:[4711]`). A zombie has none left: `NotFound`
/// or an empty list.
pub fn descriptors(pid: i32) -> io::Result<Vec<(i32, String)>> {
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse();
        // It may have been closed since the directory was read.
        if let (Ok(number), Ok(target)) = (number, fs::read_link(entry.path())) {
            descriptors.push((number, target.to_string_lossy().into_owned()));
        }
    }
    descriptors.sort_unstable();
    Ok(descriptors)
}

/// How often it has been taken off its processor. If it was asleep twice with the same number, it
/// has not run in between.
pub fn switches(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let counts = text.lines().filter(|line| line.contains("ctxt_switches"));
    counts
        .map(|line| {
            line.split_ascii_whitespace()
                .next_back()?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

/// How often it has gone to sleep by itself, instead of being taken off its processor.
pub fn voluntary_switches(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// Its threads, by number, which is the order in which they were made (until the kernel's numbers
/// begin anew); None if it has vanished.
pub fn threads(pid: i32) -> Option<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let mut threads: Vec<_> = entries.map(number).collect::<Option<_>>()?;
    threads.sort_unstable();
    Some(threads)
}

/// The states of its threads; None if it has vanished.
pub fn states(pid: i32) -> Option<Vec<char>> {
    let state = |thread| stat(thread).map(|stat| stat.state);
    threads(pid)?.into_iter().map(state).collect()
}

/// The process that traces it, such as strace; None if nobody does, or it has vanished.
pub fn tracer(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|tracer| *tracer != 0)
}

/// The processor time that it and its threads have used, in user and system mode, without its
/// children. The kernel counts in ticks of 10 ms.
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let stat = stat(pid)?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten()? as f64;
    let ticks = stat.user + stat.system;
    Some(Duration::from_secs_f64(ticks as f64 / per_second))
}

/// Its resident memory, in bytes.
pub fn rss(pid: i32) -> Option<u64> {
    let pages = stat(pid)?.resident_pages;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
    Some(pages * page as u64)
}

/// The memory of a process, in bytes; `proc_pid_smaps(5)`. Counted page by page, where the figure
/// of [`rss`] lags behind by some pages per processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, shared pages included.
    pub rss: u64,
    /// What it has written to: stack, heap, data. Of a page shared with n others, such as parent
    /// and child after a fork, it counts 1/n.
    pub anonymous: u64,
    /// Resident, but of each page shared with n others only 1/n.
    pub pss: u64,
}

/// Its memory; None if it has vanished.
pub fn memory(pid: i32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(Memory {
        rss: bytes("Rss:")?,
        anonymous: bytes("Pss_Anon:")?,
        pss: bytes("Pss:")?,
    })
}

/// The table that `ps -o pid,ppid,stat,wchan,args` would print.
pub fn ps_view(processes: &[Process]) -> String {
    let mut view = format!(
        "{:>7} {:>7} {:<4} {:<16} COMMAND\n",
        "PID", "PPID", "STAT", "WCHAN"
    );
    for p in processes {
        let stat = stat_column(p);
        // Writing to a String cannot fail.
        let _ = writeln!(
            view,
            "{:>7} {:>7} {stat:<4} {:<16} {}",
            p.pid, p.ppid, p.wchan, p.args
        );
    }
    view
}

/// As ps has it: `s` leads its session, `l` has threads, `+` is in its terminal's foreground.
fn stat_column(p: &Process) -> String {
    let marks = [
        (p.session == p.pid, 's'),
        (p.threads > 1, 'l'),
        (p.foreground == p.pgrp, '+'),
    ];
    let marks = marks.iter().filter_map(|(set, mark)| set.then_some(mark));
    std::iter::once(&p.state).chain(marks).collect()
}

/// What /proc/PID/stat says. Processor time is in ticks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    comm: String,
    pub(super) state: char,
    pub(super) ppid: i32,
    pgrp: i32,
    session: i32,
    tty: u32,
    foreground: i32,
    /// Page faults of the children it has waited for: grows with each of them.
    pub(super) children_faults: u64,
    pub(super) user: u64,
    pub(super) system: u64,
    /// Of the children it has waited for, and theirs.
    pub(super) children_user: u64,
    pub(super) children_system: u64,
    pub(super) threads: u64,
    resident_pages: u64,
}

/// Every process there is.
fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    // ENOENT when it is opened, ESRCH when it is read.
    parse(&String::from_utf8_lossy(
        &fs::read(format!("/proc/{pid}/stat")).ok()?,
    ))
}

/// The name may hold anything, `) R 1 (` included: it ends with the last parenthesis.
fn parse(line: &str) -> Option<Stat> {
    let (pid, rest) = line.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    // Numbered as in the man page, from 3, the state.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        pid: pid.parse().ok()?,
        comm: comm.to_owned(),
        state: field(3)?.chars().next()?,
        ppid: field(4)?.parse().ok()?,
        pgrp: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        tty: field(7)?.parse::<i32>().ok()? as u32,
        foreground: field(8)?.parse().ok()?,
        children_faults: field(11)?.parse().ok()?,
        user: field(14)?.parse().ok()?,
        system: field(15)?.parse().ok()?,
        children_user: field(16)?.parse().ok()?,
        children_system: field(17)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        resident_pages: field(24)?.parse().ok()?,
    })
}

fn details(stat: Stat) -> Process {
    let directory = format!("/proc/{}", stat.pid);
    Process {
        args: args(Path::new(&directory), &stat),
        wchan: wchan(Path::new(&directory)),
        tty: terminal(stat.tty),
        pid: stat.pid,
        ppid: stat.ppid,
        pgrp: stat.pgrp,
        session: stat.session,
        foreground: stat.foreground,
        state: stat.state,
        comm: stat.comm,
        threads: stat.threads,
    }
}

fn args(directory: &Path, stat: &Stat) -> String {
    if stat.state == 'Z' {
        return format!("[{}] <defunct>", stat.comm);
    }
    let bytes = fs::read(directory.join("cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
    match words.trim_end() {
        // A kernel thread, or one that vanishes at this moment.
        "" => format!("[{}]", stat.comm),
        words => words.to_owned(),
    }
}

/// The kernel function that the main thread sleeps in; as ps, `-` where the kernel says 0 (it runs,
/// is a zombie, or is not ours to know).
fn wchan(directory: &Path) -> String {
    match fs::read_to_string(directory.join("wchan")).as_deref() {
        Ok("0" | "") | Err(_) => "-".to_owned(),
        Ok(function) => function.to_owned(),
    }
}

/// A device number as ps prints it. 136 to 143 are the pseudo-terminals; the minor number's bits
/// stand around the major's.
fn terminal(device: u32) -> Option<String> {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    match major {
        0 => None,
        4 if minor < 64 => Some(format!("tty{minor}")),
        4 => Some(format!("ttyS{}", minor - 64)),
        136..=143 => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        _ => Some(format!("{major}:{minor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    use crate::wait::eventually;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let line =
            "42 (s) R 1 (x) S 7 40 40 34818 42 4194560 90 0 0 0 12 30 5 6 20 0 3 0 99 1000 55 1";
        let stat = parse(line).expect("a stat line");
        assert_eq!(stat.comm, "s) R 1 (x");
        assert_eq!((stat.pid, stat.ppid, stat.pgrp), (42, 7, 40));
        assert_eq!((stat.state, stat.threads), ('S', 3));
        assert_eq!((stat.user, stat.system), (12, 30));
        assert_eq!((stat.children_user, stat.children_system), (5, 6));
        assert_eq!(stat.resident_pages, 55);
        assert_eq!(terminal(stat.tty).as_deref(), Some("pts/2"));
        assert_eq!(parse(""), None);
        assert_eq!(parse("42 (cut"), None);
    }

    #[test]
    fn a_process_is_seen_asleep_then_as_a_zombie_then_no_more() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id() as i32;
        // It also sleeps while its pages are read in, so the kernel function is part of the wait.
        let asleep = eventually("sleep to sleep", SOON, || {
            look(pid).filter(|p| p.state == 'S' && p.wchan.contains("nanosleep"))
        });
        let asleep = asleep.expect("it sleeps");
        assert_eq!(asleep.ppid, std::process::id() as i32);
        assert_eq!((asleep.args.as_str(), asleep.threads), ("sleep 60", 1));
        assert!(rss(pid).is_some_and(|bytes| bytes > 4096));
        assert!(descriptors(pid).expect("its descriptors").len() >= 3);

        child.kill().expect("it is ours");
        let zombie = eventually("a zombie", SOON, || look(pid).filter(|p| p.state == 'Z'));
        let zombie = zombie.expect("not yet waited for");
        assert_eq!(zombie.args, "[sleep] <defunct>");
        assert_eq!(zombie.wchan, "-");
        assert!(descriptors(pid).unwrap_or_default().is_empty());

        child.wait().expect("its status");
        assert_eq!(look(pid), None);
        assert_eq!(cpu_time(pid), None);
        assert!(descriptors(pid).is_err());
    }

    #[test]
    fn a_tree_has_parents_before_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60 & wait"])
            .stdin(Stdio::null())
            .spawn()
            .expect("sh");
        let pid = shell.id() as i32;
        let both = eventually("two children", SOON, || {
            Some(children(pid)).filter(|c| c.iter().filter(|p| p.comm == "sleep").count() == 2)
        });
        let both = both.expect("sh has started them");
        let tree = tree(pid);
        for child in &both {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .expect("it is ours");
        }
        shell.wait().expect("its status");
        let pids: Vec<i32> = tree.iter().map(|p| p.pid).collect();
        assert_eq!(pids, [pid, both[0].pid, both[1].pid]);
        assert_eq!(tree[1].ppid, pid);
    }

    #[test]
    fn processor_time_grows_while_it_is_used() {
        let me = std::process::id() as i32;
        let before = cpu_time(me).expect("alive");
        eventually("30 ms of processor time", SOON, || {
            std::hint::black_box((0..100_000).fold(0_u64, u64::wrapping_add));
            cpu_time(me).filter(|now| *now >= before + Duration::from_millis(30))
        })
        .expect("it was used");
    }

    #[test]
    fn the_view_has_the_columns_of_ps() {
        let process = Process {
            pid: 19130,
            ppid: 19129,
            pgrp: 19129,
            session: 19129,
            foreground: -1,
            state: 'Z',
            comm: "tcpechod".into(),
            args: "[tcpechod] <defunct>".into(),
            wchan: "-".into(),
            tty: None,
            threads: 1,
        };
        let view = ps_view(&[process]);
        assert_eq!(
            view,
            "    PID    PPID STAT WCHAN            COMMAND\n  19130   19129 Z    -                [tcpechod] <defunct>\n"
        );
    }

    #[test]
    fn the_state_is_marked_as_ps_marks_it() {
        let marked = |pid, session, pgrp, foreground, threads| {
            stat_column(&Process {
                pid,
                ppid: 1,
                pgrp,
                session,
                foreground,
                state: 'S',
                comm: String::new(),
                args: String::new(),
                wchan: String::new(),
                tty: None,
                threads,
            })
        };
        assert_eq!(marked(7, 7, 7, 7, 1), "Ss+");
        assert_eq!(marked(7, 3, 7, -1, 1), "S");
        assert_eq!(marked(7, 3, 7, 7, 2), "Sl+");
    }

    #[test]
    fn who_sleeps_is_not_switched() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id() as i32;
        eventually("sleep to sleep", SOON, || {
            look(pid).filter(|p| p.state == 'S' && p.wchan.contains("nanosleep"))
        })
        .expect("it sleeps");
        let before = switches(pid);
        assert!(before.is_some_and(|n| n > 0));
        assert_eq!(switches(pid), before);
        child.kill().expect("it is ours");
        child.wait().expect("its status");
        assert_eq!(switches(pid), None);
    }
}
