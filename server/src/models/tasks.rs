//! A task per client, written like the blocking echo, with awaits in it: compare [`Connection::echo`]
//! with `echo.rs`. Where that sleeps in read, this returns to the executor, which polls whoever was
//! woken (`executor.rs` says what that means; start there).
//!
//! What it costs: no process, no thread and no stack. All that a waiting task consists of is its
//! future, the state machine that the compiler has made of the functions below: no more than 320
//! bytes ([`FUTURE`]). With what is behind its waker and its places in two tables that is 400 bytes
//! for an idle connection. A ready one is polled once, and costs the system calls of the reactor.
//!
//! What it cannot: use more than one processor, or survive a call that blocks; everybody would
//! wait. Nobody takes the processor from a task: one that has much to do must offer it
//! (`yield_now().await`).
//!
//! What the reactor must remember by itself stands here where it belongs, in local variables and
//! in the place to go on: a loop over a remainder, a budget, a pause between two accepts.
//!
//! What to look for: `ps` shows one process with one thread, asleep in epoll_wait, and `strace` the
//! calls of the reactor: no trace of tasks. They are seen in the status table (SIGUSR1): how many
//! there are, and how often one was polled.
//!
//! Limit: descriptors (`ulimit -n`); then accepting rests and the clients it has are served.
//!
//! UNP has no section on it; it is 5.3 (`str_echo`) on top of 6 and 16.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::Interest;
use nix::errno::Errno;
use tcpecho_common::{Mistake, calls, queues};

use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal, accept};
use crate::children;
use crate::cli::Config;
use crate::conn::{IDLE_TICKS, Shared, WINDOW, Wants};
use crate::counters::{Counters, Live, Tally, log_status};
use crate::driver::{Driver, Registration, Woken};
use crate::end::End;
use crate::executor::{Bell, Executor, either, yield_now};
use crate::failure::Failure;
use crate::listener::Listener;
use crate::{handler, signals, socket};

/// Connections accepted before those that are open have their turn again.
const ACCEPTS_PER_TURN: usize = 128;

/// What `await` has turned into: so many bytes has the future of one connection. In it are the
/// variables that are needed across an `await`, and for each function that waits for another one
/// where to go on. A buffer among them would be multiplied by the number of connections.
const FUTURE: usize = size_of_future(&serve_connection);

const _: () = assert!(FUTURE <= 320);

/// Of the future that an `async fn` returns, whose type has no name.
const fn size_of_future<A, F: Future>(_: &impl Fn(A) -> F) -> usize {
    size_of::<F>()
}

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    let failed = |what| move |errno| Failure::new(what, errno);
    // Tasks refer to it until the process ends.
    let executor: &'static _ = Box::leak(Box::new(Executor::new(Driver::new()?)));
    let register = |fd| executor.driver().register(fd, Interest::READABLE);
    server.listener.do_not_block();
    let knocks = register(server.listener.as_fd()).map_err(failed("cannot wait for clients"))?;
    let pipe = signals::pollable().map(register).transpose();
    let pipe = pipe.map_err(failed("cannot wait for signals"))?;
    server.announce();
    log::debug!("a connection's future has {FUTURE} bytes");

    let idle_timeout = server.config.idle_timeout;
    let state: &'static _ = Box::leak(Box::new(State {
        executor,
        shared: RefCell::default(),
        is_stopping: Cell::new(false),
        doorbell: Bell::default(),
        config: server.config,
        counters: server.counters,
        started: Instant::now(),
    }));
    if let Some(pipe) = pipe {
        executor.spawn(watch_signals(state, pipe));
    }
    if let Some(idle) = idle_timeout {
        executor.spawn(tick_idle_clock(state, idle / u32::from(IDLE_TICKS)));
    }
    let door = Door {
        state,
        listener: server.listener,
        knocks,
        exhaustion: Exhaustion::default(),
        in_a_row: 0,
    };
    executor.block_on(door.keep())?
}

/// What all tasks share. They take turns in one thread, so cells will do: what must not be held
/// across an `await` is a borrow.
struct State {
    executor: &'static Executor,
    shared: RefCell<Shared>,
    is_stopping: Cell<bool>,
    /// Rings when a connection has ended, and when the server is to stop.
    doorbell: Bell,
    config: Config,
    counters: &'static Counters,
    started: Instant,
}

impl State {
    fn open(&self) -> usize {
        self.counters.open() as usize
    }

    fn tally(&self) -> &'static Tally {
        self.counters.tally(0)
    }

    fn driver(&self) -> &'static Driver {
        self.executor.driver()
    }

    /// The first signal to stop: everybody looks at what he is owed by now.
    fn stop(&'static self) {
        self.counters.stopping();
        self.is_stopping.set(true);
        self.driver().nudge();
        self.doorbell.ring();
        self.executor.spawn(tick_while_stopping(self));
    }
}

// -- Accepting ----------------------------------------------------------------------------------

/// The main task. The server ends with it.
struct Door {
    state: &'static State,
    listener: Listener,
    knocks: Registration,
    exhaustion: Exhaustion,
    in_a_row: usize,
}

impl Door {
    async fn keep(mut self) -> Result<(), Failure> {
        self.accept_all().await?;
        self.let_the_queue_in().await;
        self.listener.close();
        while self.state.open() > 0 {
            self.state.doorbell.heard().await;
        }
        self.state.counters.stopped();
        Ok(())
    }

    /// Until the server is to stop.
    async fn accept_all(&mut self) -> Result<(), Failure> {
        let state = self.state;
        while !state.is_stopping.get() {
            if state.open() >= state.config.max_connections {
                state.doorbell.heard().await;
                continue;
            }
            match self.accept_one().await {
                Ok(()) | Err(Refusal::Interrupted | Refusal::Lost) => {}
                Err(Refusal::Nobody) => {
                    self.knocks.clear(Wants::READ);
                    self.knocks.ready(Wants::READ).await;
                }
                // Whoever waits stays in the queue, and no event tells of him again. When a
                // connection closes there is a descriptor for him.
                Err(Refusal::Exhausted(errno)) => {
                    self.exhaustion.began(errno, state.open());
                    let pause = state.driver().sleep(accept::PAUSE);
                    either(pause, state.doorbell.heard()).await;
                }
                Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
            }
        }
        Ok(())
    }

    /// Takes in whom the kernel has accepted for us, past the cap: all they get is what they have
    /// sent by now.
    async fn let_the_queue_in(&mut self) {
        let state = self.state;
        while signals::in_time(state.config.grace) {
            match self.accept_one().await {
                Ok(()) | Err(Refusal::Interrupted | Refusal::Lost) => {}
                // Those that are owed nothing leave at once, and make room.
                Err(Refusal::Exhausted(_)) if state.open() > 0 => {
                    let pause = state.driver().sleep(signals::TICK);
                    either(pause, state.doorbell.heard()).await;
                }
                Err(_) => break,
            }
        }
    }

    /// In a crowd, those that are in have their turn now and then.
    async fn accept_one(&mut self) -> Result<(), Refusal> {
        self.in_a_row += 1;
        if self.in_a_row > ACCEPTS_PER_TURN {
            self.in_a_row = 1;
            yield_now().await;
        }
        let (stream, peer) = accept(&self.listener, Blocking::No)?;
        self.exhaustion.ended();
        admit(self.state, stream, peer);
        Ok(())
    }
}

/// The one registration of a connection. What has arrived already makes its first event.
fn admit(state: &'static State, stream: OwnedFd, peer: Peer) {
    let place = Place::take(state);
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
    match state.driver().register(stream.as_fd(), interest) {
        Ok(events) => {
            log::info!("accepted {peer}");
            state.executor.spawn(serve_connection(Connection {
                state,
                place,
                stream,
                events,
                peer,
                echoed: 0,
                share: WINDOW as u32,
                owed: None,
                quiet: 0,
                unacknowledged: 0,
            }));
        }
        Err(errno) => {
            state.counters.refused.fetch_add(1, Relaxed);
            log::warn!("refused {peer}: cannot register it: {errno}");
        }
    }
}

/// One of the connections that are open, until it is dropped: also by a panic.
struct Place(&'static State);

impl Place {
    fn take(state: &'static State) -> Self {
        state.counters.accepted.fetch_add(1, Relaxed);
        Self(state)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counters.closed.fetch_add(1, Relaxed);
        self.0.doorbell.ring();
    }
}

// -- A connection -------------------------------------------------------------------------------

/// One client, and what its task remembers of it.
struct Connection {
    state: &'static State,
    place: Place,
    stream: OwnedFd,
    events: Registration,
    peer: Peer,
    echoed: u64,
    /// How many bytes it may still move before the others have their turn.
    share: u32,
    /// Once the server stops: this much is still to be read and echoed.
    owed: Option<u32>,
    /// Ticks of the idle clock since a byte moved.
    quiet: u8,
    /// Bytes that the peer had not acknowledged at the last tick, if it was a quiet one.
    unacknowledged: u32,
}

/// The task.
#[expect(
    clippy::manual_async_fn,
    reason = "that keeps its argument twice: as it came, and as the variable it is moved to"
)]
fn serve_connection(mut connection: Connection) -> impl Future<Output = ()> {
    async move {
        let end = match connection.echo().await {
            Ok(()) if connection.owed == Some(0) => connection.last_words().await,
            Ok(()) => End::Fin,
            Err(end) => end,
        };
        connection.close(end);
    }
}

impl Connection {
    /// The echo of the textbook (UNP 5.3): read, write it back, until no more comes.
    async fn echo(&mut self) -> Result<(), End> {
        while let Some(received) = self.read().await? {
            if self.state.config.commits(Mistake::SlowHandler) {
                // No `await`: the executor is asleep in it, too.
                handler::query();
            }
            self.write_all(received).await?;
        }
        Ok(())
    }

    /// What the peer has sent. None at its FIN; or, when the server stops, when nothing more is owed.
    async fn read(&mut self) -> Result<Option<Received>, End> {
        loop {
            if self.state.is_stopping.get() && self.owed.is_none() {
                let unread = queues::unread(&self.stream);
                self.owed = Some(u32::try_from(unread).unwrap_or(u32::MAX));
            }
            if self.owed == Some(0) {
                return Ok(None);
            }
            self.take_turns().await;
            if !self.ready(Wants::READ).await? {
                continue;
            }
            let most = self.owed.map_or(usize::MAX, |owed| owed as usize);
            match self.try_read(most) {
                Ok(received) if received.is_empty() => return Ok(None),
                Ok(received) => {
                    self.state.tally().received(received.len());
                    self.owed = self.owed.map(|owed| owed - received.len() as u32);
                    return Ok(Some(received));
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(End::Failed(errno)),
            }
        }
    }

    /// UNP 3.9, `writen`: a write may take less than it was given. At once from the buffer of all;
    /// only what the peer does not take is kept, in a buffer of its own, and until that is gone
    /// nothing more is read.
    async fn write_all(&mut self, received: Received) -> Result<(), End> {
        let Some(mut rest) = self.write_now(received)? else {
            return Ok(());
        };
        while rest.written < rest.bytes.len() {
            if self.ready(Wants::WRITE).await? {
                self.try_write(&rest.bytes, &mut rest.written)?;
            }
        }
        Ok(())
    }

    /// A firehose has had its share: first the others.
    async fn take_turns(&mut self) {
        if self.share == 0 {
            self.share = WINDOW as u32;
            yield_now().await;
        }
    }

    /// Waits for one of these. False: woken for another reason, which has been seen to.
    async fn ready(&mut self, wants: Wants) -> Result<bool, End> {
        match self.events.ready(wants).await {
            Woken::Ready(news) => {
                if !news.is_empty() {
                    log::debug!("ready {}:{news}", self.peer);
                }
                Ok(true)
            }
            Woken::Nudged => self.tick().map(|()| false),
        }
    }

    /// A clock has ticked: the one of the idle timeout, or that of the grace. Or the server is to
    /// stop.
    fn tick(&mut self) -> Result<(), End> {
        if self.state.is_stopping.get() {
            let in_time = signals::in_time(self.state.config.grace);
            return if in_time { Ok(()) } else { Err(End::Stuck) };
        }
        // A peer that takes what the kernel holds for it is not quiet. Where a byte has moved since
        // the last tick there is nothing to ask the kernel.
        let before = self.unacknowledged;
        self.unacknowledged = if self.quiet == 0 {
            0
        } else {
            socket::unacknowledged(&self.stream) as u32
        };
        self.quiet = if self.unacknowledged < before {
            1
        } else {
            self.quiet + 1
        };
        if self.quiet >= IDLE_TICKS {
            return Err(End::Idle);
        }
        Ok(())
    }

    /// The server stops, and nothing more is owed: our FIN, and listening until the peer has
    /// everything. Why not simply close: see `last_words` in `echo.rs`.
    async fn last_words(&mut self) -> End {
        let all_arrived = socket::unacknowledged(&self.stream) == 0;
        socket::shutdown_write(&self.stream);
        if all_arrived {
            return End::Stopped;
        }
        self.linger().await.err().unwrap_or(End::Stopped)
    }

    async fn linger(&mut self) -> Result<(), End> {
        let mut wants = Wants::READ;
        while socket::unacknowledged(&self.stream) > 0 {
            self.take_turns().await;
            if !self.ready(wants).await? {
                continue;
            }
            match self.try_read(usize::MAX).map(|received| received.len()) {
                Ok(0) => wants = Wants::NOTHING,
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(End::Failed(errno)),
            }
        }
        Ok(())
    }

    /// Reads into the buffer of all.
    fn try_read(&mut self, most: usize) -> nix::Result<Received> {
        let mut shared = self.state.shared.borrow_mut();
        let window = shared.window(most);
        let size = window.len();
        let length = calls::try_read(&self.stream, window).inspect_err(|errno| {
            if *errno == Errno::EAGAIN && !self.is_at_mark() {
                self.events.clear(Wants::READ);
            }
        })?;
        self.quiet = 0;
        let is_drained = length < size && self.events.clear_after_short_read();
        self.share = if is_drained {
            WINDOW as u32
        } else {
            self.share.saturating_sub(length as u32)
        };
        Ok(Received { shared, length })
    }

    /// After EAGAIN: was it a signal at the urgent mark, and not the end? See [`queues::unread`].
    fn is_at_mark(&self) -> bool {
        let expects_more = self.events.hints_at_more() || self.owed.is_some();
        expects_more && queues::unread(&self.stream) > 0
    }

    /// Returns what the peer does not take.
    fn write_now(&mut self, mut received: Received) -> Result<Option<Rest>, End> {
        let (length, mut written) = (received.len(), 0);
        let result = self.try_write(&received, &mut written);
        let left = length - written;
        if result.is_err() {
            self.state.tally().lost(left as u64);
        }
        result?;
        Ok((left > 0).then(|| {
            received.shared.hold(left);
            Rest {
                state: self.state,
                bytes: Box::from(&received[written..]),
                written: 0,
            }
        }))
    }

    /// Writes as much as goes.
    fn try_write(&mut self, bytes: &[u8], written: &mut usize) -> Result<(), End> {
        while *written < bytes.len() {
            match calls::try_write(&self.stream, &bytes[*written..]) {
                Ok(n) => {
                    *written += n;
                    self.echoed += n as u64;
                    self.state.tally().echoed(n);
                    self.quiet = 0;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.events.clear(Wants::WRITE);
                    break;
                }
                Err(errno) => return Err(End::Failed(errno)),
            }
        }
        Ok(())
    }

    fn close(self, end: End) {
        let discarded = socket::prepare_close(&self.stream, end);
        self.state.counters.discarded.fetch_add(discarded, Relaxed);
        calls::close(self.stream);
        drop((self.events, self.place));
        end.log(self.peer, self.echoed);
    }
}

/// What a read has brought, still in the buffer of all. Whoever has it must write it, or keep what is
/// left of it, before he awaits something that may have to wait: another task's read would find the
/// buffer borrowed, and panic.
struct Received {
    shared: RefMut<'static, Shared>,
    length: usize,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.shared.filled(self.length)
    }
}

/// What a peer has not taken yet. What is left of it when it is dropped is lost.
struct Rest {
    state: &'static State,
    bytes: Box<[u8]>,
    written: usize,
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.state.shared.borrow_mut().release(self.bytes.len());
        let lost = self.bytes.len() - self.written;
        self.state.tally().lost(lost as u64);
    }
}

// -- Signals and clocks -------------------------------------------------------------------------

async fn watch_signals(state: &'static State, pipe: Registration) {
    loop {
        if pipe.ready(Wants::READ).await == Woken::Nudged {
            continue;
        }
        // In this order: a signal that comes in between makes the next event.
        pipe.clear(Wants::READ);
        signals::drain_pipe();
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            let live = Live {
                tasks: Some((state.executor.tasks(), state.executor.polls())),
                ..Live::default()
            };
            log_status(state.config.model, state.started, state.counters, live);
        }
        if pending.stop && !state.is_stopping.get() {
            state.stop();
        }
        if pending.now {
            state.driver().nudge();
        }
    }
}

async fn tick_idle_clock(state: &'static State, every: Duration) {
    while !state.is_stopping.get() {
        state.driver().sleep(every).await;
        state.driver().nudge();
    }
}

/// The clock of the grace. It also makes those look whose peer has acknowledged everything, of
/// which no event tells.
async fn tick_while_stopping(state: &'static State) {
    loop {
        state.driver().sleep(signals::TICK).await;
        signals::tell_why_waiting(state.open(), state.config.grace);
        state.driver().nudge();
    }
}
