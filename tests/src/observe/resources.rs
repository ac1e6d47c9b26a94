//! What a server has, by which one sees from outside whether it serves anybody.

use std::fs;

use crate::observe::processes;
use crate::server::ServerProcess;

/// The threads, sockets and children of a server. If they are as many as before the first client,
/// all of them alive, nobody is connected any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    threads: u64,
    sockets: usize,
    children: usize,
    zombies: usize,
}

impl Resources {
    /// As it is now; None if that changed while we looked.
    pub fn of(server: &ServerProcess) -> Option<Self> {
        let tree = processes::tree(server.pid());
        let sockets = |pid| {
            let descriptors = processes::descriptors(pid).ok()?;
            let is_socket = |to: &str| to.starts_with("socket:");
            Some(descriptors.iter().filter(|(_, to)| is_socket(to)).count())
        };
        let alive = || tree.iter().filter(|process| process.state != 'Z');
        Some(Self {
            threads: alive().map(|process| own_threads(process.pid)).sum(),
            sockets: alive()
                .map(|process| sockets(process.pid))
                .sum::<Option<_>>()?,
            children: alive().count().checked_sub(1)?,
            zombies: tree.len() - alive().count(),
        })
    }
}

/// Without those that the kernel makes for io_uring, which come and stay as it likes.
fn own_threads(pid: i32) -> u64 {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let names = entries.into_iter().flatten().filter_map(|entry| {
        // It may have ended.
        fs::read_to_string(entry.ok()?.path().join("comm")).ok()
    });
    names.filter(|name| !name.starts_with("iou-")).count() as u64
}
