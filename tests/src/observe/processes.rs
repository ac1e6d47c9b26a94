//! Processes as /proc shows them; proc(5).

use std::io;
use std::time::Duration;

/// A process at the moment it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgrp: i32,
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
pub fn look(_pid: i32) -> Option<Process> {
    todo!()
}

/// Its children, by pid.
pub fn children(_pid: i32) -> Vec<Process> {
    todo!()
}

/// It and all its descendants, parents first.
pub fn tree(_pid: i32) -> Vec<Process> {
    todo!()
}

/// Its open descriptors and what they refer to (`socket:[4711]`).
pub fn descriptors(_pid: i32) -> io::Result<Vec<(i32, String)>> {
    todo!()
}

/// The processor time it has used (user and system, without children).
pub fn cpu_time(_pid: i32) -> Option<Duration> {
    todo!()
}

/// Its resident memory, in bytes.
pub fn rss(_pid: i32) -> Option<u64> {
    todo!()
}

/// The table that `ps -o pid,ppid,stat,wchan,args` would print.
pub fn ps_view(_processes: &[Process]) -> String {
    todo!()
}
