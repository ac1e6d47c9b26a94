//! What the server has done so far, for SIGUSR1 and for the last words.
//!
//! The counters live in one shared mapping, so that forked children count where their parent reads:
//! an anonymous one, or, for children that become another program and lose their memory, one of a
//! file that has no name (memfd_create(2)), whose descriptor they keep. Bytes are counted in slots of a cache line each: two children that echo at the
//! same time do not fight over one line.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::ops::Add;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use tcpecho_common::{Model, defaults, logging};

use crate::failure::Failure;
use crate::manager;
use crate::pool::Scoreboard;

/// One per worker; connections of models without workers share them.
const SLOTS: usize = defaults::MAX_WORKERS;

/// The counters of all processes and threads of one server.
#[derive(Debug)]
#[repr(C)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections that have ended.
    pub closed: AtomicU64,
    /// Connections closed at once because there was no process or thread to serve them.
    pub refused: AtomicU64,
    /// Bytes written back that a reset took out of the kernel's hands before the peer had them.
    pub discarded: AtomicU64,
    /// Not a counter: the parent tells its children that the grace is over.
    pub now: AtomicBool,
    /// Not a counter either: what the workers of a pool are doing.
    pub scoreboard: Scoreboard,
    lost_before_stop: AtomicU64,
    tallies: [Tally; SLOTS],
}

/// Some of the connections, and their bytes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Tally {
    connections: AtomicU64,
    received: AtomicU64,
    echoed: AtomicU64,
    lost: AtomicU64,
}

impl Tally {
    /// A connection has been accepted whose bytes are counted here.
    pub fn accepted(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// These bytes were read from a client.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// These bytes were written back.
    pub fn echoed(&self, bytes: usize) {
        self.echoed.fetch_add(bytes as u64, Relaxed);
    }

    /// Whoever read these bytes is gone: what it has not written is lost.
    pub fn give_up(&self) {
        self.lost(self.bytes().pending());
    }

    /// These bytes had been read when the connection ended, and were never written.
    pub fn lost(&self, bytes: u64) {
        self.lost.fetch_add(bytes, Relaxed);
    }

    fn bytes(&self) -> Bytes {
        Bytes {
            received: self.received.load(Relaxed),
            echoed: self.echoed.load(Relaxed),
            lost: self.lost.load(Relaxed),
        }
    }
}

/// Sums of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Read from clients.
    pub received: u64,
    /// Written back.
    pub echoed: u64,
    /// Read from clients that then failed.
    pub lost: u64,
}

impl Bytes {
    /// Read, and still to be written.
    pub fn pending(self) -> u64 {
        self.received
            .saturating_sub(self.echoed)
            .saturating_sub(self.lost)
    }
}

impl Counters {
    /// Maps them; the mapping lives as long as the process. Errors: ENOMEM.
    pub fn shared() -> Result<&'static Self, Failure> {
        #[expect(unsafe_code)]
        // SAFETY: a fresh mapping of the right size, page-aligned, never unmapped; the kernel
        // fills it with zeros, and zeros are valid counters.
        unsafe {
            mmap_anonymous(None, SIZE, PROTECTION, MapFlags::MAP_SHARED)
                .map(|start| start.cast::<Self>().as_ref())
                .map_err(unmapped)
        }
    }

    /// The same, and the descriptor for a program that shall be executed: it stays open over exec.
    /// Errors: EMFILE, ENOMEM.
    pub fn to_hand_on() -> Result<(&'static Self, OwnedFd), Failure> {
        let file = memfd_create("tcpechod counters", MFdFlags::empty()).map_err(unmapped)?;
        ftruncate(&file, SIZE.get() as i64).map_err(unmapped)?;
        Ok((Self::of(&file)?, file))
    }

    /// Those of the server that has executed us. Errors: `file` is something else.
    pub fn of(file: &OwnedFd) -> Result<&'static Self, Failure> {
        // Behind the end of a file that is too short there is no memory, but SIGBUS.
        let size = fstat(file).map_err(unmapped)?.st_size;
        if size != SIZE.get() as i64 {
            return Err(unmapped(Errno::EINVAL).hint("not the counters of this program's server"));
        }
        #[expect(unsafe_code)]
        // SAFETY: as above; and those who write to the file are servers of this program, which
        // leave valid counters in it.
        unsafe {
            mmap(None, SIZE, PROTECTION, MapFlags::MAP_SHARED, file, 0)
                .map(|start| start.cast::<Self>().as_ref())
                .map_err(unmapped)
        }
    }

    /// Where the n-th connection (or worker) counts its bytes.
    pub fn tally(&self, n: u64) -> &Tally {
        &self.tallies[(n % SLOTS as u64) as usize]
    }

    /// Bytes so far, over all slots.
    pub fn bytes(&self) -> Bytes {
        self.tallies
            .iter()
            .fold(Bytes::default(), |sum, tally| sum + tally.bytes())
    }

    /// The server begins to stop.
    pub fn stopping(&self) {
        self.lost_before_stop.store(self.lost(), Relaxed);
        log::info!("stopping, open connections: {}", self.open());
        manager::tell("STOPPING=1");
    }

    /// The server has stopped: says what peers had sent and did not get back, because they did not
    /// take it within the grace, or because a second signal cut the grace short.
    pub fn stopped(&self) {
        let before = self.lost_before_stop.load(Relaxed);
        let lost = self.bytes().pending() + self.lost().saturating_sub(before);
        if lost > 0 {
            log::warn!("stopped: {lost} bytes received were never echoed");
        } else {
            log::info!("stopped");
        }
    }

    /// Bytes that will not come back to whoever sent them.
    fn lost(&self) -> u64 {
        self.bytes().lost + self.discarded.load(Relaxed)
    }

    /// Connections accepted and not ended yet.
    pub fn open(&self) -> u64 {
        self.accepted
            .load(Relaxed)
            .saturating_sub(self.closed.load(Relaxed))
    }
}

const SIZE: NonZeroUsize = NonZeroUsize::new(size_of::<Counters>()).expect("it has fields");
const PROTECTION: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

fn unmapped(errno: Errno) -> Failure {
    Failure::new("cannot map the shared counters", errno)
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            echoed: self.echoed + other.echoed,
            lost: self.lost + other.lost,
        }
    }
}

/// What a model adds to the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Live {
    /// Bytes of open connections, where they are counted when one closes.
    pub bytes: Bytes,
    /// Children not waited for (alive or zombies) and reaped, where there are children.
    pub children: Option<(usize, u64)>,
    /// Threads serving a connection, where there are threads.
    pub threads: Option<usize>,
    /// Tasks alive, and how often one was polled, where there are tasks.
    pub tasks: Option<(usize, u64)>,
    /// Workers, where there are any: worker n has counted in tally n.
    pub workers: usize,
}

/// Logs the status table (SIGUSR1).
pub fn log_status(model: Model, since: Instant, counters: &Counters, live: Live) {
    logging::table(&table(model, since, counters, live));
}

fn table(model: Model, since: Instant, counters: &Counters, live: Live) -> String {
    let mut text = format!(
        "status of {model}, pid {}, up {:.1} s",
        std::process::id(),
        since.elapsed().as_secs_f64()
    );
    let mut row = |name: &str, figures: &[(&str, u64)]| {
        let _ = write!(text, "\n  {name:<12}");
        for (label, figure) in figures {
            let _ = write!(text, " {label} {figure:<10}");
        }
    };
    let [accepted, closed, refused] =
        [&counters.accepted, &counters.closed, &counters.refused].map(|count| count.load(Relaxed));
    row(
        "connections",
        &[
            ("open", counters.open()),
            ("accepted", accepted),
            ("closed", closed),
            ("refused", refused),
        ],
    );
    let bytes = counters.bytes() + live.bytes;
    row(
        "bytes",
        &[
            ("received", bytes.received),
            ("echoed", bytes.echoed),
            ("pending", bytes.pending()),
            ("lost", counters.lost() + live.bytes.lost),
        ],
    );
    if let Some((alive, reaped)) = live.children {
        row(
            "children",
            &[("unreaped", alive as u64), ("reaped", reaped)],
        );
    }
    if let Some(threads) = live.threads {
        row("threads", &[("serving", threads as u64)]);
    }
    if let Some((alive, polls)) = live.tasks {
        row("tasks", &[("alive", alive as u64), ("polls", polls)]);
    }
    for (n, tally) in counters.tallies.iter().enumerate().take(live.workers) {
        row(
            &format!("worker {n}"),
            &[
                ("accepted", tally.connections.load(Relaxed)),
                ("received", tally.received.load(Relaxed)),
                ("echoed", tally.echoed.load(Relaxed)),
            ],
        );
    }
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}
