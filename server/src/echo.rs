//! The textbook blocking echo of one connection: read, write it back, until the peer's FIN
//! (UNP 5.3, `str_echo`); with what the textbook leaves out: interruption, idleness, and a server
//! that is told to stop.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use tcpecho_common::{Mistake, calls, queues};

use crate::cli::Config;
use crate::counters::Tally;
use crate::end::End;
use crate::{accept, handler, signals, socket};

/// What is read at once, of a client that sends much.
const BUFFER: usize = 64 * 1024;

/// And of a client that sends lines.
const SMALL_BUFFER: usize = 4096;

/// The idle timeout is measured in ticks of this fraction of it.
const IDLE_TICKS: u32 = 8;

/// When a blocking echo gives up waiting.
pub struct Policy<'a> {
    /// Close after this long without a byte moving.
    pub idle: Option<Duration>,
    /// How long what is owed may take once the server has been told to stop.
    pub grace: Duration,
    /// Called when a signal has interrupted a wait.
    pub interrupted: &'a mut dyn FnMut(),
    /// The mistake to make, if it is one that an echo can make.
    pub mistake: Option<Mistake>,
}

impl<'a> Policy<'a> {
    /// The policy of the command line.
    pub fn new(config: &Config, interrupted: &'a mut dyn FnMut()) -> Self {
        Self {
            idle: config.idle_timeout,
            grace: config.grace,
            interrupted,
            mistake: config.mistake,
        }
    }

    fn commits(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

/// Echoes until the connection is over. The caller closes it. Returns why it is over and how many
/// bytes were echoed.
pub fn echo<'a>(stream: BorrowedFd<'a>, policy: Policy<'a>, tally: &'a Tally) -> (End, u64) {
    echo_between(stream, stream, policy, tally)
}

/// The same for a connection that is two descriptors, such as the two pipes of a shell.
pub fn echo_between<'a>(
    stream: BorrowedFd<'a>,
    back: BorrowedFd<'a>,
    policy: Policy<'a>,
    tally: &'a Tally,
) -> (End, u64) {
    let mut echo = Echo {
        stream,
        back,
        policy,
        tally,
        echoed: 0,
        silent_since: None,
        unacknowledged: 0,
    };
    echo.measure_idleness();
    let end = echo.serve(&mut Buffer::new());
    if echo.policy.commits(Mistake::DieOnReset) {
        end.err_sys();
    }
    (end, echo.echoed)
}

/// What a connection reads into: a little on the stack, until a read has filled it. A buffer on the
/// heap costs a forked child its pages (16 faults, and 8 more for the allocator's books). Neither is
/// zeroed: that costs a thread the time, and a child the page that memset(3) is in.
struct Buffer {
    small: [MaybeUninit<u8>; SMALL_BUFFER],
    large: Vec<u8>,
}

impl Buffer {
    const fn new() -> Self {
        Self {
            small: [MaybeUninit::uninit(); SMALL_BUFFER],
            large: Vec::new(),
        }
    }

    fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.large.capacity() == 0 {
            &mut self.small
        } else {
            self.large.spare_capacity_mut()
        }
    }

    /// Where there is no memory for it, the small one does as well.
    fn grow(&mut self) {
        let _ = self.large.try_reserve_exact(BUFFER);
    }
}

struct Echo<'a> {
    stream: BorrowedFd<'a>,
    /// Where echoes are written: the stream.
    back: BorrowedFd<'a>,
    policy: Policy<'a>,
    tally: &'a Tally,
    echoed: u64,
    /// Since when no byte has moved; known from the first tick on, so that a busy connection never
    /// asks for the time.
    silent_since: Option<Instant>,
    /// Bytes that the peer had not acknowledged at the last tick.
    unacknowledged: usize,
}

impl Echo<'_> {
    fn serve(&mut self, buffer: &mut Buffer) -> End {
        while !signals::stopping() {
            let room = buffer.room();
            let size = room.len();
            match calls::read_into(self.stream, room) {
                Ok([]) => return End::Fin,
                Ok(bytes) => {
                    let is_full = bytes.len() == size;
                    if self.policy.commits(Mistake::StaticBuffer) {
                        take_through_static_buffer(bytes);
                    }
                    if let Err(end) = self.answer(bytes) {
                        return end;
                    }
                    if is_full {
                        buffer.grow();
                    }
                    if self.policy.commits(Mistake::CloseInLoop) {
                        // The read that follows finds out.
                        let fd = self.stream.as_raw_fd();
                        let _ = calls::at_once("close", fd, || nix::unistd::close(fd));
                    }
                }
                Err(errno) => {
                    if let Err(end) = self.waited(errno) {
                        return end;
                    }
                }
            }
        }
        self.last_words(buffer.room())
    }

    #[inline]
    fn answer(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.silent_since = None;
        self.tally.received(bytes.len());
        if self.policy.commits(Mistake::SlowHandler) {
            handler::query();
        }
        let before = self.echoed;
        self.write_all(bytes)
            .inspect_err(|_| self.tally.lost(bytes.len() as u64 - (self.echoed - before)))
    }

    /// UNP 3.9, `writen`: a write may take less than it was given.
    #[inline]
    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while !bytes.is_empty() {
            match calls::write(self.back, bytes) {
                Ok(n) => {
                    self.echoed += n as u64;
                    self.tally.echoed(n);
                    self.silent_since = None;
                    bytes = &bytes[n..];
                }
                Err(errno) => self.waited(errno)?,
            }
        }
        Ok(())
    }

    /// The server stops: the peer gets what it had sent by now, then our FIN, and is listened to
    /// until it has everything. Closing with input unread, which may come at any moment, would send
    /// an RST instead, which destroys echoes on their way.
    fn last_words(&mut self, room: &mut [MaybeUninit<u8>]) -> End {
        let mut owed = queues::unread(self.stream);
        while owed > 0 {
            let most = owed.min(room.len());
            match calls::read_into(self.stream, &mut room[..most]) {
                Ok([]) => break,
                Ok(bytes) => {
                    owed -= bytes.len();
                    if let Err(end) = self.answer(bytes) {
                        return end;
                    }
                }
                Err(errno) => {
                    if let Err(end) = self.waited(errno) {
                        return end;
                    }
                }
            }
        }
        let all_arrived = socket::unacknowledged(self.stream) == 0;
        socket::shutdown_write(self.stream);
        if all_arrived {
            return End::Stopped;
        }
        self.linger(room)
    }

    fn linger(&mut self, room: &mut [MaybeUninit<u8>]) -> End {
        while socket::unacknowledged(self.stream) > 0 {
            match calls::read_into(self.stream, room) {
                // Its side is closed, its kernel has not taken everything, and no call waits for
                // that: look again when the timer of a stopping server ticks.
                Ok([]) => {
                    accept::pause();
                    (self.policy.interrupted)();
                }
                Ok(_) => self.silent_since = None,
                Err(errno) => {
                    if let Err(end) = self.waited(errno) {
                        return end;
                    }
                }
            }
            // A peer that never ends its stream must not keep us past the grace.
            if !signals::in_time(self.policy.grace) {
                return End::Stuck;
            }
        }
        End::Stopped
    }

    /// A wait ended without a byte: by a signal, by the tick of the idle timeout, or by an error.
    fn waited(&mut self, errno: Errno) -> Result<(), End> {
        match errno {
            Errno::EINTR => (self.policy.interrupted)(),
            Errno::EAGAIN => {}
            _ => return Err(End::Failed(errno)),
        }
        if !signals::in_time(self.policy.grace) {
            return Err(End::Stuck);
        }
        let Some(idle) = self.policy.idle else {
            return Ok(());
        };
        let now = Instant::now();
        // A peer that takes what the kernel holds for it is not idle.
        let unacknowledged = socket::unacknowledged(self.stream);
        if unacknowledged < std::mem::replace(&mut self.unacknowledged, unacknowledged) {
            self.silent_since = Some(now);
        }
        let since = *self.silent_since.get_or_insert(now);
        // The tick that has just passed was silent, too.
        if now.duration_since(since) + idle / IDLE_TICKS >= idle {
            Err(End::Idle)
        } else {
            Ok(())
        }
    }

    /// Reads and writes return EAGAIN after a tick, so that idleness is noticed (socket(7),
    /// `SO_RCVTIMEO`).
    fn measure_idleness(&self) {
        let Some(idle) = self.policy.idle else { return };
        let tick = (idle / IDLE_TICKS).max(Duration::from_millis(1));
        let tick = TimeVal::new(tick.as_secs() as i64, tick.subsec_micros().into());
        let set = setsockopt(&self.stream, sockopt::ReceiveTimeout, &tick)
            .and_then(|()| setsockopt(&self.stream, sockopt::SendTimeout, &tick));
        if let Err(errno) = set {
            log::debug!("no idle timeout on this connection: {errno}");
        }
    }
}

/// `--mistake static-buffer`: `static char buf[]`, one for all threads. Rust insists on a lock before
/// it lets two threads touch it, but not on holding it until the bytes have been used: so this is a
/// race, though no data race.
fn take_through_static_buffer(bytes: &mut [u8]) {
    static SHARED: Mutex<[u8; BUFFER]> = Mutex::new([0; BUFFER]);
    let shared = || SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared()[..bytes.len()].copy_from_slice(bytes);
    // Another thread may run at any moment: for instance now.
    yield_now();
    bytes.copy_from_slice(&shared()[..bytes.len()]);
}
