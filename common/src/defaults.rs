//! Figures that more than one program, or the help text, must name.

use std::time::Duration;

/// The port of the course's examples: above 5000, below Linux's ephemeral range (32768 ...), so
/// that no client gets it by chance. UNP calls it `SERV_PORT`.
pub const PORT: u16 = 9877;

/// How many completed connections the kernel queues for `accept`; listen(2). Linux queues one
/// more than this, and never more than `net.core.somaxconn`.
pub const BACKLOG: u16 = 1024;

/// Workers of a pool (prefork, thread-pool) unless `--workers` says otherwise.
pub const POOL: usize = 8;

/// The most workers there can be.
pub const MAX_WORKERS: usize = 1024;

/// How long SIGTERM lets connections have what they are owed before they are reset.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long a handler takes to find an answer that has been made slow (`--mistake slow-handler`): about
/// what a query of a database takes that must go to its disk.
pub const SLOW_HANDLER: Duration = Duration::from_millis(10);

/// How long the client waits for each address to accept its connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
