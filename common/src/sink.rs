//! A descriptor that lines are written to without ever blocking, and without dying when nobody
//! reads.
//!
//! A server whose log blocks stops serving, and one reactor that stops, stops for everybody. A
//! writer thread would cure it, but threads and fork do not go together. So pipes and terminals
//! are opened once more, through /proc/self/fd, with `O_NONBLOCK`: the flag belongs to the open file
//! description, and this one is ours alone, so the shell's terminal is left as it was. Sockets
//! take `MSG_DONTWAIT` per call. Where neither works, poll(2) is asked first. A line that does not
//! fit is dropped and counted, never waited for; forked children count where their parent does.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};

/// Where lines go; see the module's head.
#[derive(Debug)]
pub struct Sink {
    way: Way,
    /// In memory that is shared with children.
    dropped: &'static AtomicU64,
    torn: bool,
}

#[derive(Debug)]
enum Way {
    /// A private, non-blocking opening of the same pipe or terminal.
    Reopened(OwnedFd),
    /// A socket.
    Socket(RawFd),
    /// A pipe or terminal that could not be reopened: ask poll first.
    Polled(RawFd),
    /// A file or a device such as /dev/null: writing does not wait for a reader.
    Direct(RawFd),
}

impl Sink {
    /// A sink on top of `fd`, which must stay open for the life of the process (0-2, or one given
    /// by number on the command line). Errors: EBADF if it is not open.
    pub fn over(fd: RawFd) -> nix::Result<Self> {
        is_writable(lasting(fd))?;
        let kind = SFlag::from_bits_truncate(fstat(lasting(fd))?.st_mode) & SFlag::S_IFMT;
        let is_terminal = nix::unistd::isatty(lasting(fd)).unwrap_or(false);
        let way = if kind == SFlag::S_IFSOCK {
            Way::Socket(fd)
        } else if kind == SFlag::S_IFIFO || is_terminal {
            reopen(fd).map_or(Way::Polled(fd), Way::Reopened)
        } else {
            Way::Direct(fd)
        };
        Ok(Self {
            way,
            dropped: shared_counter(),
            torn: false,
        })
    }

    /// Lines dropped since this was last asked; asking starts the count anew.
    pub fn take_dropped(&mut self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }

    /// Counts `lines` as dropped (again): for a report of dropped lines that was dropped itself.
    pub fn count_dropped(&mut self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    /// Writes one line, which ends in a newline, or drops and counts it. Never blocks.
    ///
    /// Errors: why it was dropped. EAGAIN: full; EPIPE: nobody can read it; ENOSPC, EIO ...
    pub fn line(&mut self, line: &[u8]) -> nix::Result<()> {
        let mut rest = line;
        if std::mem::take(&mut self.torn) {
            // The line before was cut off by a full pipe: end it first.
            match self.write(b"\n") {
                Ok(_) => {}
                Err(errno) => {
                    self.torn = true;
                    self.count_dropped(1);
                    return Err(errno);
                }
            }
        }
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    self.torn = rest.len() < line.len();
                    self.count_dropped(1);
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match &self.way {
            Way::Reopened(fd) => without_sigpipe(|| nix::unistd::write(fd, bytes)),
            Way::Socket(fd) => send(*fd, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            Way::Polled(fd) => without_sigpipe(|| write_if_room(lasting(*fd), bytes)),
            Way::Direct(fd) => nix::unistd::write(lasting(*fd), bytes),
        }
    }
}

/// The descriptor behind a number that outlives every sink; see [`Sink::over`].
fn lasting<'fd>(fd: RawFd) -> BorrowedFd<'fd> {
    #[expect(unsafe_code)]
    // SAFETY: by the contract of Sink::over nobody closes it; a wrong number yields EBADF.
    unsafe {
        BorrowedFd::borrow_raw(fd)
    }
}

/// SIGPIPE is not ignored any more, for the sake of the sockets: a broken pipe of ours must not kill
/// the program all the same, nor be counted.
pub fn survive_sigpipe() {
    SIGPIPE_KILLS.store(true, Relaxed);
}

static SIGPIPE_KILLS: AtomicBool = AtomicBool::new(false);

/// Makes a write that tells a broken pipe by EPIPE only: holds the signal back, and takes it off if
/// it has come. It is sent to the thread that writes (pipe(7)).
fn without_sigpipe<T>(write: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
    if !SIGPIPE_KILLS.load(Relaxed) {
        return write();
    }
    let pipe: SigSet = [Signal::SIGPIPE].into_iter().collect();
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = write();
    if result.as_ref().err() == Some(&Errno::EPIPE) {
        let at_once = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        #[expect(unsafe_code)]
        // SAFETY: reads the set and the time; nobody wants to know more about the signal.
        unsafe {
            libc::sigtimedwait(pipe.as_ref(), std::ptr::null_mut(), &raw const at_once);
        }
    }
    before.thread_set_mask()?;
    result
}

/// A counter that forks share, never given back: there are two or three sinks in a program. Without
/// memory for it each process counts for itself. All are in one page, since every fork copies the
/// kernel's books of every mapping.
fn shared_counter() -> &'static AtomicU64 {
    static PAGE: LazyLock<Option<&[AtomicU64; COUNTERS]>> = LazyLock::new(shared_page);
    let counter = PAGE.and_then(|page| {
        // The first one counts those that are taken, by whichever process.
        let nth = page[0].fetch_add(1, Relaxed) as usize + 1;
        page.get(nth)
    });
    counter.unwrap_or_else(|| Box::leak(Box::default()))
}

const COUNTERS: usize = 512;

fn shared_page() -> Option<&'static [AtomicU64; COUNTERS]> {
    const SIZE: NonZeroUsize =
        NonZeroUsize::new(size_of::<[AtomicU64; COUNTERS]>()).expect("not 0");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[expect(unsafe_code)]
    // SAFETY: a fresh mapping, aligned to a page, never unmapped; zeros are valid counters.
    let mapped = unsafe {
        mmap_anonymous(None, SIZE, protection, MapFlags::MAP_SHARED)
            .map(|start| start.cast::<[AtomicU64; COUNTERS]>().as_ref())
    };
    mapped.ok()
}

/// Opened again, the master of a pseudo-terminal is another terminal.
fn is_master(fd: RawFd) -> bool {
    let mut number: libc::c_int = 0;
    #[expect(unsafe_code)]
    // SAFETY: TIOCGPTN writes one int.
    let asked = unsafe { libc::ioctl(fd, libc::TIOCGPTN, &raw mut number) };
    asked == 0
}

/// Errors: EBADF if `fd` is open for reading only.
pub fn is_writable(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let mode = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    if mode == OFlag::O_RDONLY {
        Err(Errno::EBADF)
    } else {
        Ok(())
    }
}

/// A private, non-blocking opening, for writing, of the pipe or terminal behind `fd`. Errors: EACCES,
/// ENOENT without /proc, ENXIO for what cannot be opened again.
pub fn reopen(fd: RawFd) -> nix::Result<OwnedFd> {
    if is_master(fd) {
        return Err(Errno::ENXIO);
    }
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(format!("/proc/self/fd/{fd}").as_str(), flags, Mode::empty())
}

/// A pipe that polls writable has room for `PIPE_BUF` bytes; a terminal nearly always.
fn write_if_room(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Err(Errno::EAGAIN);
    }
    nix::unistd::write(fd, &bytes[..bytes.len().min(4096)])
}

impl AsRawFd for Sink {
    fn as_raw_fd(&self) -> RawFd {
        match &self.way {
            Way::Reopened(fd) => fd.as_raw_fd(),
            Way::Socket(fd) | Way::Polled(fd) | Way::Direct(fd) => *fd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{pipe, read};

    #[test]
    fn a_full_pipe_drops_and_counts_and_a_torn_line_is_ended() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut sink = Sink::over(writer.as_raw_fd()).expect("open");
        let line = [b'x'; 1000]
            .iter()
            .copied()
            .chain([b'\n'])
            .collect::<Vec<_>>();
        let mut written = 0;
        while sink.line(&line).is_ok() {
            written += 1;
            assert!(written < 1_000_000, "the pipe never filled");
        }
        assert_eq!(sink.line(&line), Err(Errno::EAGAIN));
        assert_eq!(sink.take_dropped(), 2);
        assert_eq!(sink.take_dropped(), 0);

        let mut all = Vec::new();
        let mut buffer = vec![0; 65536];
        let n = read(&reader, &mut buffer).expect("the lines");
        all.extend_from_slice(&buffer[..n]);
        sink.line(b"after\n").expect("room again");
        drop((sink, writer));
        while let Ok(n @ 1..) = read(&reader, &mut buffer) {
            all.extend_from_slice(&buffer[..n]);
        }
        let text = String::from_utf8(all).expect("ASCII");
        assert!(
            text.lines()
                .all(|l| l == "after" || l.bytes().all(|b| b == b'x'))
        );
        assert!(text.ends_with("\nafter\n"));
    }

    #[test]
    fn nobody_reading_is_an_error_not_a_death() {
        let (reader, writer) = pipe().expect("a pipe");
        let mut sink = Sink::over(writer.as_raw_fd()).expect("open");
        drop(reader);
        assert_eq!(sink.line(b"gone\n"), Err(Errno::EPIPE));
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_refused() {
        assert_eq!(Sink::over(19_999).map(|_| ()), Err(Errno::EBADF));
    }
}
