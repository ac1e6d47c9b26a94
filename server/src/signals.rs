//! The one table of signals, and how a loop gets to know of them; signal(7), UNP 5.8-5.10.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT | stop: accept what is queued, close the listener, give every connection what it is owed; a second one: now |
//! | SIGCHLD | a child has ended: reap |
//! | SIGUSR1 | log the status table |
//! | SIGPIPE | `--sigpipe`: ignored, counted and told, or kills |
//! | SIGALRM | nothing; it interrupts (see below) |
//! | SIGHUP and the rest | keep the disposition we were started with |
//!
//! A handler only sets a flag and wakes the loop, in one of two ways:
//!
//! - [`Wake::Pipe`] writes a byte into a pipe that the loop waits for beside its sockets: the
//!   self-pipe trick.
//! - [`Wake::Interrupt`] is for loops that block in accept, read or write. No handler is installed
//!   with `SA_RESTART`, so the call returns EINTR and the loop looks at the flags. A signal that
//!   arrives between the look and the call would be missed; so the handler also starts a timer
//!   that interrupts again every [`TICK`] until the loop has looked. Waiting with ppoll before each
//!   call would do as well, and costs a system call per read; this costs nothing until a signal
//!   comes. While the server stops, the timer goes on: it is the clock of the grace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, pthread_sigmask, raise,
    sigaction,
};
use nix::unistd::{Pid, getpid, getppid, pipe2, read};
use tcpecho_common::{calls, sink};

use crate::cli::Sigpipe;
use crate::failure::Failure;

/// How often a blocked call is interrupted until its loop has noticed a signal, and while the
/// server stops.
pub const TICK: Duration = Duration::from_millis(20);

const HANDLED: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGCHLD,
    Signal::SIGUSR1,
    Signal::SIGALRM,
];

/// How long a stop may take without a word.
const SILENT_STOP: Duration = Duration::from_millis(300);

static STOPS: AtomicU32 = AtomicU32::new(0);
static CHILD: AtomicBool = AtomicBool::new(false);
static STATUS: AtomicBool = AtomicBool::new(false);
/// SIGPIPEs of this process, and how many of them have been told.
static SIGPIPES: AtomicU32 = AtomicU32::new(0);
static SIGPIPES_TOLD: AtomicU32 = AtomicU32::new(0);
static TICKING: AtomicBool = AtomicBool::new(false);
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// Where a child looks whether there is no time left; known to servers that have such children.
static PARENT_SAYS_NOW: OnceLock<&'static AtomicBool> = OnceLock::new();
/// The process that has installed the table, if it is a server and nobody's child.
static SERVER: AtomicI32 = AtomicI32::new(0);
static STOPPING_SINCE: OnceLock<Instant> = OnceLock::new();

/// How the handler wakes the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A byte in a pipe: for loops that wait for readiness.
    Pipe,
    /// EINTR: for loops that block.
    Interrupt,
}

/// What has arrived since the loop last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools)]
pub struct Pending {
    /// SIGTERM or SIGINT: stop.
    pub stop: bool,
    /// A second one: stop now.
    pub now: bool,
    /// SIGCHLD.
    pub child: bool,
    /// SIGUSR1.
    pub status: bool,
}

/// Installs the table. Whatever we inherited (a blocked SIGTERM, an ignored SIGCHLD) is undone.
pub fn install(wake: Wake, sigpipe: Sigpipe) -> Result<(), Failure> {
    SERVER.store(getpid().as_raw(), SeqCst);
    install_but(&[], wake, sigpipe)
}

/// Installs the table in a program that another server has started for one connection: if that
/// server has made us ignore SIGINT or SIGUSR1, they are its own affair.
pub fn install_for_one_connection(sigpipe: Sigpipe) -> Result<(), Failure> {
    let kept = [Signal::SIGINT, Signal::SIGUSR1].into_iter();
    let kept: Vec<_> = kept.filter(|signal| is_ignored(*signal)).collect();
    install_but(&kept, Wake::Interrupt, sigpipe)
}

fn install_but(kept: &[Signal], wake: Wake, sigpipe: Sigpipe) -> Result<(), Failure> {
    let install = || {
        if wake == Wake::Pipe {
            open_pipe()?;
        }
        for signal in HANDLED.into_iter().filter(|signal| !kept.contains(signal)) {
            dispose(signal, SigHandler::Handler(arrived))?;
        }
        dispose(Signal::SIGPIPE, disposition(sigpipe))?;
        if sigpipe != Sigpipe::Ignore {
            sink::survive_sigpipe();
        }
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&ours()), None)
    };
    install().map_err(|errno: Errno| Failure::new("cannot install the signal handlers", errno))
}

/// Looks at what has arrived, once for each arrival.
pub fn pending() -> Pending {
    if TICKING.load(SeqCst) && !stopping() {
        // In this order, and before the flags are read: a signal in between finds the timer still
        // marked as running and starts none, but its flag is seen below.
        set_timer(Duration::ZERO);
        TICKING.store(false, SeqCst);
    }
    tell_sigpipes();
    let stop = stopping();
    if stop {
        STOPPING_SINCE.get_or_init(Instant::now);
        if PIPE.load(SeqCst) < 0 {
            tick();
        }
    }
    Pending {
        stop,
        now: now(),
        child: CHILD.swap(false, SeqCst),
        status: STATUS.swap(false, SeqCst),
    }
}

/// Has the server been told to stop? Costs a load.
pub fn stopping() -> bool {
    STOPS.load(SeqCst) > 0
}

/// Has it been told twice? A child does not count: one SIGTERM to the process group and one from
/// its parent are two as well. It believes its parent, which tells it through shared memory.
pub fn now() -> bool {
    let parent_says = || PARENT_SAYS_NOW.get().is_some_and(|now| now.load(SeqCst));
    stopping()
        && if is_child() {
            parent_says()
        } else {
            STOPS.load(SeqCst) > 1
        }
}

/// Is this process a server's child? From the first moment after fork on, and without a flag that
/// every child would have to set: the page it is in would be copied for that.
fn is_child() -> bool {
    PARENT_SAYS_NOW.get().is_some() && SERVER.load(SeqCst) != getpid().as_raw()
}

/// When the grace ends, once the server has been told to stop; at the second signal it has ended.
pub fn deadline(grace: Duration) -> Option<Instant> {
    let since = || *STOPPING_SINCE.get_or_init(Instant::now);
    stopping().then(|| if now() { since() } else { since() + grace })
}

/// Is there time left: is the server not stopping, or its grace not over?
pub fn in_time(grace: Duration) -> bool {
    deadline(grace).is_none_or(|deadline| Instant::now() < deadline)
}

/// Tells, once, why a server that was told to stop is still there. Called at every tick; most
/// servers have stopped before it is time to say anything.
pub fn tell_why_waiting(open: usize, grace: Duration) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let waiting = STOPPING_SINCE
        .get()
        .map_or(Duration::ZERO, Instant::elapsed);
    if open > 0 && waiting > SILENT_STOP && !now() && !TOLD.swap(true, SeqCst) {
        let connections = if open == 1 {
            "connection"
        } else {
            "connections"
        };
        log::warn!(
            "waiting up to {grace:?} for {open} {connections} to take what is owed; \
             a second signal stops now"
        );
    }
}

/// Tells of SIGPIPEs that have not been told of (`--sigpipe count`). A write that causes one returns
/// EPIPE, so this is called at the end of every connection, too.
pub fn tell_sigpipes() {
    let all = SIGPIPES.load(SeqCst);
    if all == SIGPIPES_TOLD.load(SeqCst) {
        return;
    }
    for number in SIGPIPES_TOLD.fetch_max(all, SeqCst)..all {
        log::warn!(
            "SIGPIPE number {} in process {}",
            number + 1,
            std::process::id()
        );
    }
}

/// The pipe a readiness loop waits for; see [`Wake::Pipe`].
pub fn pollable() -> Option<BorrowedFd<'static>> {
    READER.get().map(AsFd::as_fd)
}

/// Empties the pipe, so that the next signal makes it readable again.
pub fn drain_pipe() {
    if let Some(reader) = pollable() {
        let mut bytes = [0; 64];
        while read(reader, &mut bytes).is_ok_and(|n| n == bytes.len()) {}
    }
}

/// Waits for a signal, for whoever has nothing else to do; not longer than `at_most`.
pub fn wait(at_most: Option<Duration>) {
    let timeout = at_most.map_or(PollTimeout::NONE, |time| {
        // Rounded up, so that it is over when it ends.
        let milliseconds = time.as_millis().saturating_add(1);
        PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
    });
    // EINTR is what it waits for.
    let _ = calls::may_block("poll", -1, || poll(&mut [], timeout));
}

/// Of a worker thread: makes the main thread look, as the end of a child does.
pub fn wake_main_thread() {
    // We may send ourselves any signal.
    let _ = kill(Pid::this(), Signal::SIGCHLD);
}

/// Keeps signals away from a worker thread, which has no business with them; SIGALRM stays, with
/// it the main thread interrupts the worker's blocked call ([`interrupt`]).
pub fn leave_to_main_thread() {
    let theirs: SigSet = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGCHLD,
        Signal::SIGUSR1,
    ]
    .into_iter()
    .collect();
    // It fails for a wrong argument only.
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&theirs), None);
}

/// The calling thread, for [`interrupt`].
pub fn this_thread() -> libc::pthread_t {
    nix::sys::pthread::pthread_self()
}

/// Interrupts the blocked call of a thread that is known to be alive.
pub fn interrupt(thread: libc::pthread_t) {
    #[expect(unsafe_code)]
    // SAFETY: the caller knows that the thread has not ended.
    unsafe {
        libc::pthread_kill(thread, libc::SIGALRM);
    }
}

/// Runs `body` with the signals of the table held back; for the moment of a fork whose child becomes
/// another program. The others are not ours to hold: a terminal's SIGTSTP, SIGQUIT and SIGHUP are for
/// the children too.
pub fn held<T>(body: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    // Both calls fail for wrong arguments only.
    let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ours()), Some(&mut before));
    let result = body();
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    result
}

/// Tells a server, before it forks, where it will tell its children that there is no time left; or a
/// program that a server has executed for a connection, where that server will tell it.
pub fn believe(now: &'static AtomicBool) {
    // It fails the second time only.
    let _ = PARENT_SAYS_NOW.set(now);
}

/// In a forked child. It has no status to tell, and leaves a terminal's SIGINT to its parent: its
/// SIGTERM comes from there, and the word that there is no time left.
///
/// It keeps its parent's handler, which knows where it runs. To block signals over the fork, and then
/// to ignore some of them, would be six system calls for every child. And memory is written to only
/// where it has to be: what a child does not write to is not copied.
pub fn become_child() {
    if SIGPIPES.load(SeqCst) > 0 {
        SIGPIPES.store(0, SeqCst);
        SIGPIPES_TOLD.store(0, SeqCst);
    }
    if stopping() {
        tick();
    }
}

/// In a forked child that is about to become another program: the signals that are held back stay
/// so over exec, until that program has handlers for them; what is ignored stays ignored. So
/// SIGPIPE is not, which no program expects to be (signal(7), execve(2)).
pub fn hand_on() {
    for signal in [Signal::SIGINT, Signal::SIGUSR1] {
        let _ = dispose(signal, SigHandler::SigIgn);
    }
    let _ = dispose(Signal::SIGPIPE, SigHandler::SigDfl);
}

/// In a forked child that shall not outlive its parent: from now on the parent's end, whatever
/// brings it about, is a SIGTERM for the child. A pipe that ends with the parent would do for a
/// loop that polls; who is blocked in accept or read has to be interrupted.
pub fn end_with_parent(parent: Pid) {
    // It fails for a wrong argument only.
    let _ = set_pdeathsig(Signal::SIGTERM);
    if getppid() != parent {
        // It has ended meanwhile.
        let _ = raise(Signal::SIGTERM);
    }
}

/// The signals of the table.
fn ours() -> SigSet {
    HANDLED.into_iter().chain([Signal::SIGPIPE]).collect()
}

fn disposition(sigpipe: Sigpipe) -> SigHandler {
    match sigpipe {
        Sigpipe::Ignore => SigHandler::SigIgn,
        Sigpipe::Count => SigHandler::Handler(arrived),
        Sigpipe::Default => SigHandler::SigDfl,
    }
}

#[expect(unsafe_code)]
fn dispose(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_NOCLDSTOP, SigSet::empty());
    // SAFETY: `arrived`, the only handler, keeps to what signal-safety(7) allows.
    unsafe { sigaction(signal, &action) }.map(drop)
}

fn is_ignored(signal: Signal) -> bool {
    #[expect(unsafe_code)]
    // SAFETY: all zeros is a valid sigaction; asked only, and one struct is written.
    let now = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut now);
        now
    };
    now.sa_sigaction == libc::SIG_IGN
}

static READER: OnceLock<OwnedFd> = OnceLock::new();

fn open_pipe() -> nix::Result<()> {
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    if READER.set(reader).is_ok() {
        PIPE.store(writer.as_raw_fd(), SeqCst);
        // The handler may need it until the last moment.
        std::mem::forget(writer);
    }
    Ok(())
}

/// The handler: a flag, and a wake-up. Only calls that signal-safety(7) allows, or that are a bare
/// system call on Linux (setitimer).
extern "C" fn arrived(signal: libc::c_int) {
    let errno = Errno::last_raw();
    match signal {
        // Of no concern to a child; see `become_child`.
        libc::SIGINT | libc::SIGUSR1 if is_child() => return,
        libc::SIGTERM | libc::SIGINT => _ = STOPS.fetch_add(1, SeqCst),
        libc::SIGCHLD => CHILD.store(true, SeqCst),
        libc::SIGUSR1 => STATUS.store(true, SeqCst),
        libc::SIGPIPE => _ = SIGPIPES.fetch_add(1, SeqCst),
        _ => return,
    }
    let pipe = PIPE.load(SeqCst);
    if pipe < 0 {
        tick();
    } else {
        #[expect(unsafe_code)]
        // SAFETY: one byte from a static; the descriptor is never closed. If the pipe is full, a
        // wake-up is under way already.
        unsafe {
            while libc::write(pipe, b"!".as_ptr().cast(), 1) < 0 && Errno::last() == Errno::EINTR {}
        }
    }
    Errno::set_raw(errno);
}

/// Starts the timer, unless it runs. A child may have inherited that it runs, but no timer is.
fn tick() {
    if !TICKING.swap(true, SeqCst) || is_child() {
        set_timer(TICK);
    }
}

fn set_timer(every: Duration) {
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: every.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    #[expect(unsafe_code)]
    // SAFETY: reads one struct; no old value is asked for.
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}
