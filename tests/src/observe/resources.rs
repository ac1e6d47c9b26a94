//! What a server has, by which one sees from outside whether it serves anybody.

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
            threads: alive().map(|process| process.threads).sum(),
            sockets: alive()
                .map(|process| sockets(process.pid))
                .sum::<Option<_>>()?,
            children: alive().count().checked_sub(1)?,
            zombies: tree.len() - alive().count(),
        })
    }
}
