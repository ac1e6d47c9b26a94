//! The one place where a system call of ours is observed.
//!
//! Whoever wants to watch a program think can do so in two ways, both off by default:
//!
//! - `-vvv`: a log line per call, `read(5) = 64` or `accept(3) = -1 EAGAIN`; a call that may block
//!   also has a line when it is entered, `read(5) ...`.
//! - `--events-fd N`: the same as records for the laboratory, which puts them on one time line with
//!   the packets. A record is one line of eight fields with tabs between them:
//!   nanoseconds of `CLOCK_REALTIME` (the clock of packet captures), pid, tid, `enter` or `return`,
//!   call, descriptor (-1: none), result (-1: failed; 0 for `enter`), errno name (`-`: none).
//!   A record that finds no room is dropped and counted; the next one is preceded by a record
//!   `lost` with the count as its result.
//!
//! Off costs one branch.

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getpid, gettid};

use crate::sink::Sink;

/// The log target of the trace lines.
pub const TARGET: &str = "calls";

/// Is anybody watching? The one branch.
static WATCHED: AtomicBool = AtomicBool::new(false);
static EVENTS: Mutex<Option<Sink>> = Mutex::new(None);

/// Switches the trace lines on or off; called when the log level is known.
pub fn trace(on: bool) {
    WATCHED.fetch_or(on, Ordering::Relaxed);
}

/// Sends records to `fd` from now on (`--events-fd`). Errors: EBADF if it is not open, or not for
/// writing.
pub fn record_to(fd: RawFd) -> nix::Result<()> {
    let sink = Sink::over(fd)?;
    if !is_open_for_writing(fd)? {
        return Err(Errno::EBADF);
    }
    *events() = Some(sink);
    WATCHED.store(true, Ordering::Relaxed);
    Ok(())
}

fn is_open_for_writing(fd: RawFd) -> nix::Result<bool> {
    #[expect(unsafe_code)]
    // SAFETY: used for one call only; a wrong number yields EBADF.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFL)?;
    let access = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    Ok(access == OFlag::O_WRONLY || access == OFlag::O_RDWR)
}

/// What a call returned, as a number.
pub trait Figure {
    /// The number the man page means: bytes, a descriptor, a process id.
    fn figure(&self) -> i64;
}

impl Figure for () {
    fn figure(&self) -> i64 {
        0
    }
}

impl Figure for usize {
    fn figure(&self) -> i64 {
        *self as i64
    }
}

impl Figure for i32 {
    fn figure(&self) -> i64 {
        i64::from(*self)
    }
}

impl Figure for Pid {
    fn figure(&self) -> i64 {
        i64::from(self.as_raw())
    }
}

impl Figure for OwnedFd {
    fn figure(&self) -> i64 {
        i64::from(self.as_raw_fd())
    }
}

/// A descriptor with what came with it (accept's address).
impl<T> Figure for (OwnedFd, T) {
    fn figure(&self) -> i64 {
        self.0.figure()
    }
}

/// Makes a call that may block, and observes it before and after.
#[inline]
pub fn may_block<T: Figure>(
    call: &'static str,
    fd: RawFd,
    body: impl FnOnce() -> nix::Result<T>,
) -> nix::Result<T> {
    if WATCHED.load(Ordering::Relaxed) {
        entered(call, fd);
    }
    at_once(call, fd, body)
}

/// Makes a call that does not block, and observes its result.
#[inline]
pub fn at_once<T: Figure>(
    call: &'static str,
    fd: RawFd,
    body: impl FnOnce() -> nix::Result<T>,
) -> nix::Result<T> {
    let result = body();
    if WATCHED.load(Ordering::Relaxed) {
        returned(
            call,
            fd,
            result.as_ref().map(Figure::figure).map_err(|errno| *errno),
        );
    }
    result
}

/// read(2) on a blocking descriptor.
#[inline]
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> nix::Result<usize> {
    may_block("read", fd.as_fd().as_raw_fd(), || {
        nix::unistd::read(&fd, buffer)
    })
}

/// The same into memory that nobody has written to: to zero it first would be work for nothing.
/// Returns what was read; nothing at the end of the stream.
#[inline]
#[expect(unsafe_code)]
pub fn read_into(fd: impl AsFd, room: &mut [MaybeUninit<u8>]) -> nix::Result<&mut [u8]> {
    let fd = fd.as_fd().as_raw_fd();
    let n = may_block("read", fd, || {
        // SAFETY: the kernel writes at most as many bytes as there is room for.
        let n = unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) };
        Errno::result(n).map(|n| n as usize)
    })?;
    let read = &mut room[..n];
    // SAFETY: all of them have been written.
    Ok(unsafe { slice::from_raw_parts_mut(read.as_mut_ptr().cast(), read.len()) })
}

/// write(2) on a blocking descriptor.
#[inline]
pub fn write(fd: impl AsFd, bytes: &[u8]) -> nix::Result<usize> {
    may_block("write", fd.as_fd().as_raw_fd(), || {
        nix::unistd::write(&fd, bytes)
    })
}

/// read(2) on a descriptor that does not block (`O_NONBLOCK`, or known to be ready).
#[inline]
pub fn try_read(fd: impl AsFd, buffer: &mut [u8]) -> nix::Result<usize> {
    at_once("read", fd.as_fd().as_raw_fd(), || {
        nix::unistd::read(&fd, buffer)
    })
}

/// write(2) on a descriptor that does not block.
#[inline]
pub fn try_write(fd: impl AsFd, bytes: &[u8]) -> nix::Result<usize> {
    at_once("write", fd.as_fd().as_raw_fd(), || {
        nix::unistd::write(&fd, bytes)
    })
}

/// splice(2) between a pipe and a socket that do not block. Of the two, the socket is observed.
#[inline]
pub fn splice(
    from: impl AsFd,
    to: impl AsFd,
    socket: BorrowedFd<'_>,
    most: usize,
) -> nix::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    at_once("splice", socket.as_raw_fd(), || {
        nix::fcntl::splice(&from, None, &to, None, most, flags)
    })
}

/// close(2). The descriptor is gone whatever it returns.
pub fn close(fd: OwnedFd) {
    let number = fd.as_raw_fd();
    // Linux reports errors of earlier writes here, which a socket has reported before.
    let _ = at_once("close", number, || nix::unistd::close(fd));
}

#[cold]
fn entered(call: &str, fd: RawFd) {
    log::trace!(target: TARGET, "{call}({}) ...", Descriptor(fd));
    record("enter", call, fd, Ok(0));
}

#[cold]
fn returned(call: &str, fd: RawFd, result: nix::Result<i64>) {
    match result {
        Ok(figure) => log::trace!(target: TARGET, "{call}({}) = {figure}", Descriptor(fd)),
        Err(errno) => log::trace!(target: TARGET, "{call}({}) = -1 {errno:?}", Descriptor(fd)),
    }
    record("return", call, fd, result);
}

fn record(phase: &str, call: &str, fd: RawFd, result: nix::Result<i64>) {
    let mut guard = events();
    let Some(sink) = guard.as_mut() else { return };
    let lost = sink.take_dropped();
    if lost > 0
        && sink
            .line(line("return", "lost", -1, Ok(lost as i64)).as_bytes())
            .is_err()
    {
        // The failed report counted itself; it stands for the ones it would have reported.
        sink.count_dropped(lost);
        return;
    }
    // If it does not fit it has been counted.
    let _ = sink.line(line(phase, call, fd, result).as_bytes());
}

fn events() -> MutexGuard<'static, Option<Sink>> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(phase: &str, call: &str, fd: RawFd, result: nix::Result<i64>) -> String {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| {
        i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec())
    });
    let (figure, errno) = match result {
        Ok(figure) => (figure, String::from("-")),
        Err(errno) => (-1, format!("{errno:?}")),
    };
    let mut line = String::with_capacity(80);
    let _ = writeln!(
        line,
        "{now}\t{}\t{}\t{phase}\t{call}\t{fd}\t{figure}\t{errno}",
        getpid(),
        gettid()
    );
    line
}

/// Prints a descriptor; nothing where a call has none.
struct Descriptor(RawFd);

impl std::fmt::Display for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 < 0 { Ok(()) } else { self.0.fmt(f) }
    }
}

/// Turns an [`std::io::Error`] of a library's system call into its errno; EIO if it has none.
pub fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_eight_fields() {
        let line = line("return", "accept", 3, Err(Errno::EMFILE));
        let fields: Vec<_> = line.trim_end().split('\t').collect();
        assert_eq!(fields.len(), 8);
        assert!(
            fields[0]
                .parse::<u128>()
                .is_ok_and(|ns| ns > 1_600_000_000_000_000_000)
        );
        assert_eq!(fields[3..], ["return", "accept", "3", "-1", "EMFILE"]);
    }

    #[test]
    fn a_descriptor_that_cannot_be_written_to_is_refused() {
        let (reader, _writer) = nix::unistd::pipe().expect("a pipe");
        let null = std::fs::File::open("/dev/null").expect("there");
        for fd in [reader.as_raw_fd(), null.as_raw_fd(), 19_999] {
            assert_eq!(record_to(fd), Err(Errno::EBADF), "{fd}");
        }
    }

    #[test]
    fn what_is_lost_is_counted_and_told() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        record_to(writer.as_raw_fd()).expect("open");
        for _ in 0..5000 {
            record("return", "read", 5, Ok(1));
        }
        let mut buffer = vec![0; 1 << 20];
        let n = nix::unistd::read(&reader, &mut buffer).expect("records");
        let first = String::from_utf8_lossy(&buffer[..n])
            .lines()
            .filter(|l| l.split('\t').count() == 8)
            .count();
        record("return", "read", 5, Ok(1));
        let n = nix::unistd::read(&reader, &mut buffer).expect("records");
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let lost = text
            .lines()
            .find(|l| l.contains("\tlost\t"))
            .expect("a lost record");
        let count: usize = lost
            .split('\t')
            .nth(6)
            .expect("a count")
            .parse()
            .expect("a number");
        let torn = 5000 - first - count;
        assert!(torn <= 1, "{first} read, {count} lost");
        *events() = None;
    }
}
