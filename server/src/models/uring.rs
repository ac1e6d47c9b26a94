//! All clients in one thread that waits for completions instead of readiness: io_uring (io_uring(7);
//! younger than UNP, which tells of its ancestor in 6.2, "asynchronous I/O model").
//!
//! A readiness loop asks "can I read?", and then reads; here the kernel is asked to read, and says
//! when it has. Requests and completions pass through two queues shared with the kernel (see
//! `uring/ring.rs`), so one system call hands over whatever was asked for and fetches whatever has
//! been done, for all clients together. The accept is multishot, asked for once and completed many
//! times. Bytes arrive in provided buffers (`uring/buffers.rs`), which belong to nobody until
//! something has arrived.
//!
//! The recv could be multishot as well, and is not, because of urgent data. A recv that has come to
//! the urgent mark fails with EAGAIN while a signal is pending, or a stop, whatever is behind the
//! mark. A recv asked for once looks whether there is something to read before it waits; a multishot
//! one waits for the next bytes to arrive, and the peer may be waiting for us. It is handed over
//! together with the send, so to ask for each costs no system call.
//!
//! What is asked for is not in our hands until it is complete. So: a completion without F_MORE has
//! ended its request, whatever else it says, and the request is made again if it is still wanted;
//! memory being sent stays as it is until then; and a connection with a request under way is
//! cancelled and waited for, then closed. To close its descriptor alone would send no FIN, for the
//! request holds on to the connection.
//!
//! What arrives is sent at once from the buffer it is in, without waiting for room; what the peer
//! does not take is copied into a remainder of the connection's own, and the buffer is free again
//! within one round. Messages are received while others are being sent, 2 KiB at a time; as soon as
//! one fills its buffer, the connection is received from as a stream, one large buffer at a time, the
//! next when everything has been sent; until little comes. So a peer that does not read costs 128 KiB
//! at most, and holds none of the buffers.
//!
//! What it costs: an entry of 80 bytes per connection, and what the kernel keeps for its recv; for
//! all of them together, buffers of 0.6 MB, and when those are too few 6 MB at most; per echo of 64
//! bytes with 50 busy clients, 0.05 of a system call. What it cannot: use more than one processor;
//! raise SIGPIPE (the kernel suppresses it); give back the port at the instant it is killed by SIGKILL
//! (the kernel tears the ring down some milliseconds later; after SIGTERM there is nothing left to
//! tear down).
//!
//! What to look for: `ps` shows one process with one thread, asleep in io_uring_enter (wchan
//! io_cqring_wait); `ss` the same sockets as ever; `strace -c` io_uring_enter and hardly anything else. With
//! `-vvv` (and in the records of `--events-fd`) io_uring_enter is a call, while accept, recv and
//! send are completions, told when we see them, with no line for their beginning; io_uring never
//! tells the address of a client, so getpeername is asked where `-v` wants it.
//!
//! Limits: Linux 6.1, and a system that does not forbid io_uring, as many containers do; descriptors
//! (`ulimit -n`): then accepting rests and the clients it has are served. A multishot accept takes
//! whoever is queued, so with `--max-connections` each accept is for one client.

mod buffers;
mod ring;

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use slab::Slab;
use tcpecho_common::{Mistake, calls, queues};

use self::buffers::{Buffer, Buffers, Size};
use self::ring::{Completion, Ring, Token, What};
use super::Server;
use crate::accept::{self, Blocking, Exhaustion, Peer, Refusal};
use crate::children;
use crate::cli::Config;
use crate::counters::{Bytes, Counters, Live, log_status};
use crate::end::End;
use crate::failure::Failure;
use crate::listener::Listener;
use crate::{handler, signals, socket};

/// A connection with a larger remainder is read from no more.
const FULL: usize = 64 * 1024;

/// Remainders of all connections together, from which on each is received one buffer at a time, and
/// only when it has nothing unsent.
const HELD_IN_FULL: usize = 64 * 1024 * 1024;

/// A connection is idle when this many ticks in a row have passed without a byte.
const IDLE_TICKS: u8 = 8;

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    let (ring, buffers) = Ring::new()?;
    server.announce();
    Uring::new(ring, buffers, server).run()
}

struct Uring {
    /// Before the rest in the order of destruction: it refers to memory of the connections.
    ring: Ring,
    buffers: Buffers,
    /// None once the server stops and has accepted whoever was queued.
    listener: Option<Listener>,
    door: Door,
    connections: Slab<Connection>,
    generation: u32,
    /// Connections whose recv found no buffer.
    hungry: VecDeque<Token>,
    /// Bytes in the remainders of all connections.
    held: usize,
    /// More than [`HELD_IN_FULL`] is held, or was until recently.
    frugal: bool,
    stopping: bool,
    counters: &'static Counters,
    config: Config,
    started: Instant,
    /// When to look for idle connections; only with `--idle-timeout`.
    idle_tick: Option<Instant>,
    /// When to look for connections that have had all they were owed; only while stopping.
    stop_tick: Option<Instant>,
}

#[derive(Default)]
struct Door {
    accept: Accept,
    /// Out of descriptors or memory: try again then, or when a connection closes.
    rests_until: Option<Instant>,
    exhaustion: Exhaustion,
}

/// The request to accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Accept {
    #[default]
    None,
    Waiting,
    Cancelled,
}

/// One client; at most 80 bytes, for there may be many of them.
struct Connection {
    stream: OwnedFd,
    /// Tells this connection's completions from those of an earlier one at the same index.
    generation: u32,
    peer: Peer,
    phase: Phase,
    recv: Recv,
    send: Send,
    /// The peer's FIN has come.
    ended: bool,
    /// It is on the list of those whose recv found no buffer.
    hungry: bool,
    /// It has filled a buffer: much more may come.
    streams: bool,
    /// What the peer has not taken at once.
    remainder: Option<Box<Remainder>>,
    /// Bytes received and not sent, wherever they are.
    unsent: u32,
    echoed: u64,
    /// Ticks of the idle clock since a byte moved.
    quiet: u8,
    /// Bytes that the peer had not acknowledged at the last tick, if it was a quiet one.
    unacknowledged: u32,
}

const _: () = assert!(size_of::<Connection>() <= 80);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Echoing,
    /// The server stops: when the recv that was under way is over, we know what is owed.
    Stopping,
    /// So much of what the kernel has received is still to be echoed.
    Owed(u32),
    /// Our FIN is sent; what comes is thrown away until the peer has everything.
    Lingering,
    /// It is closed when no request is under way any more.
    Closing(End),
}

/// The request to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recv {
    None,
    /// It waits for bytes, for one buffer of this size.
    Waiting(Size),
    /// It wanted buffers of this size.
    Cancelled(Size),
}

/// The request to send; there is never more than one, or bytes might overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Send {
    None,
    /// So many bytes of this provided buffer, as far as they go at once.
    Provided {
        buffer: Buffer,
        length: u32,
    },
    /// The rest of the remainder, as soon as there is room for some of it.
    Remainder,
    /// The same, cancelled.
    Cancelled,
}

#[derive(Debug, Default)]
struct Remainder {
    /// Being sent: these bytes must not move. So what arrives meanwhile is put elsewhere.
    sending: Vec<u8>,
    sent: usize,
    next: Vec<u8>,
}

impl Remainder {
    fn kept(&self) -> usize {
        self.sending.len() + self.next.len()
    }
}

impl Uring {
    fn new(ring: Ring, buffers: Buffers, server: Server) -> Self {
        let Server {
            listener,
            config,
            counters,
        } = server;
        let started = Instant::now();
        Self {
            ring,
            buffers,
            listener: Some(listener),
            door: Door::default(),
            connections: Slab::new(),
            generation: 0,
            hungry: VecDeque::new(),
            held: 0,
            frugal: false,
            stopping: false,
            counters,
            started,
            idle_tick: config
                .idle_timeout
                .map(|idle| started + idle / u32::from(IDLE_TICKS)),
            stop_tick: None,
            config,
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let mut completions = Vec::new();
        self.await_signal();
        self.open_door();
        while self.listener.is_some() || !self.connections.is_empty() {
            self.wait()?;
            self.ring.take(&mut completions);
            if completions.is_empty() {
                // Interrupted, or it is time for something. An accept under way knows the limit of
                // descriptors as it was when it was asked for. That may have changed: ask anew.
                self.cancel_accept();
            }
            for completion in &completions {
                self.complete(completion)?;
            }
            self.feed_hungry();
            self.be_frugal();
            self.look_at_clock();
            self.open_door();
        }
        self.counters.stopped();
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let timeout = self.timeout();
        match self.ring.wait(timeout) {
            // EINTR: a signal, or a stop and continue.
            Ok(()) | Err(Errno::EINTR) => Ok(()),
            // Too much at once, or no memory for more requests: first see what is done already.
            Err(Errno::EBUSY | Errno::EAGAIN) => {
                accept::pause();
                Ok(())
            }
            Err(errno) => Err(Failure::new("cannot wait for completions", errno)),
        }
    }

    /// None: until something happens.
    fn timeout(&self) -> Option<Duration> {
        let next = [self.door.rests_until, self.idle_tick, self.stop_tick]
            .into_iter()
            .flatten()
            .min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    fn complete(&mut self, completion: &Completion) -> Result<(), Failure> {
        let token = completion.token;
        match token.what {
            What::Accept => return self.accepted(completion),
            What::Signals => {
                self.look_at_signals();
                self.await_signal();
            }
            What::Recv => self.received(completion),
            What::Send => self.sent(token, completion.result),
            // The request was just changing its place in the kernel, where it is found next time.
            What::CancelAccept | What::CancelRecv | What::CancelSend
                if completion.result == Err(Errno::ENOENT) =>
            {
                self.cancel_again(token);
            }
            // The cancelled request has a completion of its own.
            What::CancelAccept | What::CancelRecv | What::CancelSend => {}
        }
        Ok(())
    }

    fn cancel_again(&mut self, token: Token) {
        let target = |what| Token { what, ..token };
        let connection = self.find(token);
        let recv = connection.as_ref().map(|c| c.recv);
        let send = connection.map(|c| c.send);
        match token.what {
            What::CancelAccept if self.door.accept == Accept::Cancelled => {
                self.ring.cancel(target(What::Accept), token);
            }
            What::CancelRecv if matches!(recv, Some(Recv::Cancelled(_))) => {
                self.ring.cancel(target(What::Recv), token);
            }
            What::CancelSend if send == Some(Send::Cancelled) => {
                self.ring.cancel(target(What::Send), token);
            }
            _ => {}
        }
    }

    fn find(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections
            .get_mut(token.index)
            .filter(|connection| connection.generation == token.generation)
    }

    // -- Accept ---------------------------------------------------------------------------------

    /// Asks for clients, where there is none of the reasons not to.
    fn open_door(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        if self.stopping {
            return self.let_in_the_last();
        }
        let max = self.config.max_connections;
        if self.door.accept == Accept::None
            && self.door.rests_until.is_none()
            && self.connections.len() < max
        {
            let fd = listener.as_fd().as_raw_fd();
            self.ring.accept(fd, max == usize::MAX);
            self.door.accept = Accept::Waiting;
        }
    }

    fn cancel_accept(&mut self) {
        if self.door.accept == Accept::Waiting {
            let [accept, cancel] = [What::Accept, What::CancelAccept].map(Token::only);
            self.ring.cancel(accept, cancel);
            self.door.accept = Accept::Cancelled;
        }
    }

    fn accepted(&mut self, completion: &Completion) -> Result<(), Failure> {
        if !completion.more {
            self.door.accept = Accept::None;
        }
        if completion.result == Err(Errno::ECANCELED) {
            return Ok(());
        }
        let listener = self.listener.as_ref().map_or(-1, |l| l.as_fd().as_raw_fd());
        let accepted = calls::at_once("accept", listener, || completion.result);
        #[expect(unsafe_code)]
        // SAFETY: a descriptor the kernel has just given us has no other owner.
        let accepted = accepted.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        match accept::sort(accepted) {
            Ok(stream) => {
                self.door.exhaustion.ended();
                // Only the log asks.
                let peer = if log::log_enabled!(log::Level::Info) {
                    Peer::of(&stream)
                } else {
                    Peer::UNKNOWN
                };
                self.admit(stream, peer);
            }
            Err(Refusal::Nobody | Refusal::Interrupted | Refusal::Lost) => {}
            Err(Refusal::Exhausted(errno)) => self.rest(errno),
            Err(Refusal::Fatal(errno)) => return Err(accept::failure(errno)),
        }
        Ok(())
    }

    fn rest(&mut self, errno: Errno) {
        self.door.exhaustion.began(errno, self.connections.len());
        self.door.rests_until = Some(Instant::now() + accept::PAUSE);
    }

    fn admit(&mut self, stream: OwnedFd, peer: Peer) {
        self.counters.accepted.fetch_add(1, Relaxed);
        self.generation = self.generation.wrapping_add(1);
        let index = self.connections.insert(Connection {
            stream,
            generation: self.generation,
            peer,
            phase: if self.stopping {
                Phase::Stopping
            } else {
                Phase::Echoing
            },
            recv: Recv::None,
            send: Send::None,
            ended: false,
            hungry: false,
            streams: false,
            remainder: None,
            unsent: 0,
            echoed: 0,
            quiet: 0,
            unacknowledged: 0,
        });
        log::info!("accepted {peer}");
        self.settle(index);
    }

    // -- One connection -------------------------------------------------------------------------

    fn received(&mut self, completion: &Completion) {
        let token = completion.token;
        let Some(connection) = self.find(token) else {
            return;
        };
        let size = match connection.recv {
            Recv::None => Size::Small,
            Recv::Waiting(size) | Recv::Cancelled(size) => size,
        };
        let buffer = completion.buffer.map(|id| Buffers::taken(size, id));
        connection.recv = Recv::None;
        let fd = connection.stream.as_raw_fd();
        let received = calls::at_once("recv", fd, || completion.result);
        match (received, buffer) {
            (Ok(n @ 1..), Some(buffer)) => {
                // Whoever has more to say is listened to in large pieces, until it says less.
                connection.streams = n as usize >= Size::Small.bytes();
                self.answer(token.index, buffer, n as u32);
            }
            (Ok(_), _) => connection.ended = true,
            // No buffer was free. They will be, when what is in them has been sent.
            (Err(Errno::ENOBUFS), _) => {
                log::debug!("no buffer for {}", connection.peer);
                connection.hungry = true;
                if self.hungry.is_empty() {
                    self.buffers.double(size);
                }
                self.hungry.push_back(token);
            }
            (Err(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN), _) => {}
            (Err(errno), _) => self.close(token.index, End::Failed(errno)),
        }
        self.settle(token.index);
    }

    /// Sends what is in the buffer; or puts it behind what is being sent.
    fn answer(&mut self, index: usize, buffer: Buffer, length: u32) {
        let connection = &mut self.connections[index];
        let bytes = self.buffers.bytes(buffer, length as usize);
        match &mut connection.phase {
            Phase::Lingering => return self.buffers.give_back(buffer),
            Phase::Owed(owed) => *owed = owed.saturating_sub(length),
            _ => {}
        }
        connection.quiet = 0;
        connection.unsent += length;
        if matches!(connection.phase, Phase::Closing(_)) {
            // Received, and lost.
            return self.buffers.give_back(buffer);
        }
        if self.config.commits(Mistake::SlowHandler) {
            handler::query();
        }
        if connection.send == Send::None && connection.remainder.is_none() {
            connection.send = Send::Provided { buffer, length };
            let (fd, token) = (
                connection.stream.as_raw_fd(),
                connection.token(index, What::Send),
            );
            #[expect(unsafe_code)]
            // SAFETY: the buffer is given back when this request is complete.
            unsafe {
                self.ring.send(fd, bytes, libc::MSG_DONTWAIT, token);
            }
        } else {
            let remainder = connection.remainder.get_or_insert_default();
            remainder.next.extend_from_slice(bytes);
            self.held += bytes.len();
            self.buffers.give_back(buffer);
        }
    }

    fn sent(&mut self, token: Token, result: nix::Result<i32>) {
        let index = token.index;
        let Some(connection) = self.find(token) else {
            return;
        };
        let send = std::mem::replace(&mut connection.send, Send::None);
        let fd = connection.stream.as_raw_fd();
        let (n, failed) = match calls::at_once("send", fd, || result) {
            Ok(n) => (n as usize, None),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECANCELED) => (0, None),
            Err(errno) => (0, Some(errno)),
        };
        if n > 0 {
            connection.quiet = 0;
        }
        connection.echoed += n as u64;
        connection.unsent -= n as u32;
        if let Send::Provided { buffer, length } = send {
            let rest = &self.buffers.bytes(buffer, length as usize)[n..];
            if !rest.is_empty() {
                // What has arrived meanwhile, if anything, is behind it.
                let connection = &mut self.connections[index];
                connection.remainder.get_or_insert_default().sending = rest.into();
                self.held += rest.len();
            }
            self.buffers.give_back(buffer);
        } else if let Some(remainder) = &mut connection.remainder {
            remainder.sent += n;
        }
        if let Some(errno) = failed {
            self.close(index, End::Failed(errno));
        }
        self.settle(index);
    }

    /// Sends the remainder, unless something is being sent.
    fn send_remainder(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.send != Send::None {
            return;
        }
        let token = connection.token(index, What::Send);
        let Some(remainder) = &mut connection.remainder else {
            return;
        };
        if remainder.sent == remainder.sending.len() {
            self.held -= remainder.sent;
            remainder.sending.clear();
            remainder.sent = 0;
            std::mem::swap(&mut remainder.sending, &mut remainder.next);
        }
        if remainder.sending.is_empty() {
            connection.remainder = None;
            return;
        }
        connection.send = Send::Remainder;
        #[expect(unsafe_code)]
        // SAFETY: nothing touches `sending` before this request is complete.
        unsafe {
            let bytes = &remainder.sending[remainder.sent..];
            self.ring
                .send(connection.stream.as_raw_fd(), bytes, 0, token);
        }
    }

    /// Something has changed: asks for what is to be done next, and for what is missing.
    fn settle(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if let Phase::Closing(end) = connection.phase {
            if connection.recv == Recv::None && connection.send == Send::None {
                self.finish(index, end);
            }
            return;
        }
        self.send_remainder(index);
        let connection = &mut self.connections[index];
        let all_sent = connection.unsent == 0;
        match connection.phase {
            Phase::Echoing if connection.ended && all_sent => self.close(index, End::Fin),
            Phase::Echoing if connection.takes_more(self.frugal) => self.recv(index),
            Phase::Stopping if connection.recv == Recv::None => {
                let owed = queues::unread(&connection.stream);
                connection.phase = Phase::Owed(u32::try_from(owed).unwrap_or(u32::MAX));
                self.settle(index);
            }
            Phase::Stopping => self.cancel_recv(index),
            Phase::Owed(owed) if all_sent => {
                if owed == 0 || connection.ended {
                    self.say_goodbye(index);
                } else {
                    self.recv(index);
                }
            }
            Phase::Lingering => {
                if socket::unacknowledged(&connection.stream) == 0 {
                    self.close(index, End::Stopped);
                } else {
                    self.recv(index);
                }
            }
            _ => {}
        }
    }

    fn recv(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.recv != Recv::None || connection.ended || connection.hungry {
            return;
        }
        let (fd, token) = (
            connection.stream.as_raw_fd(),
            connection.token(index, What::Recv),
        );
        let most = match connection.phase {
            Phase::Owed(owed) => owed,
            _ => u32::MAX,
        };
        let is_message = connection.phase == Phase::Echoing && !connection.streams;
        let size = if is_message || self.frugal {
            Size::Small
        } else {
            Size::Large
        };
        connection.recv = Recv::Waiting(size);
        self.ring.recv(fd, size, most, token);
    }

    fn cancel_recv(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if let Recv::Waiting(size) = connection.recv {
            connection.recv = Recv::Cancelled(size);
            let [of, token] =
                [What::Recv, What::CancelRecv].map(|what| connection.token(index, what));
            self.ring.cancel(of, token);
        }
    }

    /// The server stops, and the peer has been sent what it is owed.
    fn say_goodbye(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let all_arrived = socket::unacknowledged(&connection.stream) == 0;
        // Closing with input unread, which may come at any moment, sends an RST instead of a FIN:
        // so the FIN first. And an RST destroys echoes that are under way: so listen until they
        // have arrived.
        socket::shutdown_write(&connection.stream);
        if all_arrived {
            self.close(index, End::Stopped);
        } else {
            connection.phase = Phase::Lingering;
            self.settle(index);
        }
    }

    /// Closes a connection as soon as none of its requests is under way. A send from a provided
    /// buffer needs no cancelling, for it waits for nothing.
    fn close(&mut self, index: usize, end: End) {
        let connection = &mut self.connections[index];
        if !matches!(connection.phase, Phase::Closing(_)) {
            connection.phase = Phase::Closing(end);
            let [of, token] =
                [What::Send, What::CancelSend].map(|what| connection.token(index, what));
            if connection.send == Send::Remainder {
                connection.send = Send::Cancelled;
                self.ring.cancel(of, token);
            }
            self.cancel_recv(index);
            self.settle(index);
        }
    }

    fn finish(&mut self, index: usize, end: End) {
        let connection = self.connections.remove(index);
        self.held -= connection.remainder.map_or(0, |r| r.kept());
        let (echoed, lost) = (connection.echoed, u64::from(connection.unsent));
        let tally = self.counters.tally(0);
        tally.received((echoed + lost) as usize);
        tally.echoed(echoed as usize);
        tally.lost(lost);
        self.counters.closed.fetch_add(1, Relaxed);
        let discarded = socket::prepare_close(&connection.stream, end);
        self.counters.discarded.fetch_add(discarded, Relaxed);
        calls::close(connection.stream);
        end.log(connection.peer, echoed);
        // There is a descriptor for the next one.
        self.door.rests_until = None;
    }

    // -- All connections ------------------------------------------------------------------------

    /// What was in the buffers is being sent; one wait later they are free again.
    fn feed_hungry(&mut self) {
        for _ in 0..self.hungry.len() {
            let Some(token) = self.hungry.pop_front() else {
                return;
            };
            if let Some(connection) = self.find(token) {
                connection.hungry = false;
                self.settle(token.index);
            }
        }
    }

    /// Where too much is held, all receive little. What has been asked for before comes on top.
    fn be_frugal(&mut self) {
        let at_most = if self.frugal {
            HELD_IN_FULL / 2
        } else {
            HELD_IN_FULL
        };
        let frugal = self.held > at_most;
        if frugal && !self.frugal {
            log::debug!("{} bytes held: from now on one buffer at a time", self.held);
        }
        self.frugal = frugal;
    }

    fn await_signal(&mut self) {
        if let Some(pipe) = signals::pollable() {
            self.ring.poll(pipe.as_raw_fd(), Token::only(What::Signals));
        }
    }

    fn look_at_signals(&mut self) {
        signals::drain_pipe();
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            let bytes = self
                .connections
                .iter()
                .fold(Bytes::default(), |sum, (_, connection)| Bytes {
                    received: sum.received + connection.echoed + u64::from(connection.unsent),
                    echoed: sum.echoed + connection.echoed,
                    ..sum
                });
            log_status(
                self.config.model,
                self.started,
                self.counters,
                Live {
                    bytes,
                    ..Live::default()
                },
            );
        }
        if pending.stop && !self.stopping {
            self.stop();
        }
        if pending.now {
            self.for_each(|uring, index| uring.close(index, End::Stuck));
        }
    }

    /// Takes in whom the kernel has accepted for us, stops listening, and lets every connection
    /// have what it is owed.
    fn stop(&mut self) {
        self.counters.stopping();
        self.stopping = true;
        self.idle_tick = None;
        self.stop_tick = Some(Instant::now() + signals::TICK);
        self.door.rests_until = None;
        self.cancel_accept();
        self.for_each(|uring, index| {
            let connection = &mut uring.connections[index];
            if connection.phase == Phase::Echoing {
                connection.phase = Phase::Stopping;
                uring.settle(index);
            }
        });
    }

    /// While the server stops: once no request to accept is under way, those still queued are
    /// accepted the old way, past the cap if need be: all they get is what they have sent by now.
    fn let_in_the_last(&mut self) {
        if self.door.accept != Accept::None {
            return;
        }
        let Some(listener) = self.listener.take() else {
            return;
        };
        listener.do_not_block();
        while signals::in_time(self.config.grace) {
            match accept::accept(&listener, Blocking::Yes) {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(Refusal::Interrupted | Refusal::Lost) => {}
                // Those who take what they are owed are about to make room.
                Err(Refusal::Exhausted(_)) if self.somebody_leaves() => {
                    self.listener = Some(listener);
                    return;
                }
                Err(Refusal::Nobody | Refusal::Exhausted(_) | Refusal::Fatal(_)) => break,
            }
        }
        listener.close();
    }

    fn somebody_leaves(&self) -> bool {
        self.connections.iter().any(|(_, c)| c.remainder.is_none())
    }

    fn look_at_clock(&mut self) {
        if self.door.rests_until.is_none() && self.idle_tick.is_none() && self.stop_tick.is_none() {
            return;
        }
        let now = Instant::now();
        let due = |timer: Option<Instant>| timer.is_some_and(|timer| timer <= now);
        if due(self.door.rests_until) {
            self.door.rests_until = None;
        }
        if due(self.idle_tick) {
            self.idle_tick = self
                .config
                .idle_timeout
                .map(|idle| now + idle / u32::from(IDLE_TICKS));
            self.for_each(|uring, index| {
                if uring.connections[index].tick() >= IDLE_TICKS {
                    uring.close(index, End::Idle);
                }
            });
        }
        if due(self.stop_tick) {
            self.stop_tick = Some(now + signals::TICK);
            let over = !signals::in_time(self.config.grace);
            signals::tell_why_waiting(self.connections.len(), self.config.grace);
            self.for_each(|uring, index| {
                if over {
                    uring.close(index, End::Stuck);
                } else {
                    // No completion tells that the peer has acknowledged everything.
                    uring.settle(index);
                }
            });
        }
    }

    /// For the rare occasions that concern all connections; `body` may close the one it is given.
    fn for_each(&mut self, mut body: impl FnMut(&mut Self, usize)) {
        let indices: Vec<_> = self.connections.iter().map(|(index, _)| index).collect();
        for index in indices {
            body(self, index);
        }
    }
}

impl Connection {
    fn token(&self, index: usize, what: What) -> Token {
        Token {
            what,
            index,
            generation: self.generation,
        }
    }

    /// Shall more be received? Where much comes, or much is held, not before everything is sent.
    fn takes_more(&self, frugal: bool) -> bool {
        let kept = self.remainder.as_ref().map_or(0, |r| r.kept());
        self.unsent == 0 || !self.streams && !frugal && kept <= FULL
    }

    /// A tick of the idle clock. Returns for how many ticks in a row no byte has moved either way.
    /// A peer that takes what the kernel holds for it moves bytes too, though we cannot see it
    /// otherwise: the kernel tells of room only when there is much of it.
    fn tick(&mut self) -> u8 {
        let before = self.unacknowledged;
        // Where a byte has moved since the last tick there is nothing to ask the kernel.
        self.unacknowledged = if self.quiet == 0 {
            0
        } else {
            u32::try_from(socket::unacknowledged(&self.stream)).unwrap_or(u32::MAX)
        };
        self.quiet = if self.unacknowledged < before {
            1
        } else {
            self.quiet.saturating_add(1)
        };
        self.quiet
    }
}
