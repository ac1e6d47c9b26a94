//! `--workers N`: a reactor in each of N threads; the main thread accepts, and deals the clients out
//! to them.
//!
//! Why not a listener for each, with SO_REUSEPORT? The kernel deals by a hash of the addresses then:
//! of four clients, one time in eight all go to the same of two workers. Who is queued at a worker
//! that leaves is reset (unless net.ipv4.tcp_migrate_req is set), who is queued at one that has much
//! to do waits although another has time, and a second server starts on the same port without a
//! word. Why not one listener in the epoll of each? All wake up for each client, and nearly always
//! the same one is the first. Here there is one queue, and each client goes to the worker that has
//! the fewest. It costs one more thread, and a wake-up per client where the worker sleeps.
//!
//! What they share: an inbox each, a number that the worker writes (how many of its clients have
//! left), and a flag that the main thread sets when it waits for somebody to leave. A connection
//! belongs to one thread, and no echo takes a lock.
//!
//! A worker that panics loses the one connection it had in hand; the others are where they were, and
//! are all looked at again, because the events that it had taken are lost. Its inbox does not belong
//! to it alone, so nobody in there is lost either.
//!
//! What to look for: `ps -L` shows the threads, `worker 0` and so on; SIGUSR1 the share of each.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Token, Waker};
use tcpecho_common::calls;

use super::super::Server;
use super::{EVENTS, Epoll, LISTENER, SIGNALS, ready};
use crate::accept::Peer;
use crate::children;
use crate::cli::Config;
use crate::counters::{Counters, Live, log_status};
use crate::door::{ACCEPTS_PER_ROUND, Door};
use crate::failure::Failure;
use crate::signals;
use crate::table::Table;

/// Something is in the worker's inbox; or, for the main thread, a worker has news.
const NEWS: Token = Token(usize::MAX - 3);

pub(super) fn serve(server: Server) -> Result<(), Failure> {
    let epoll = Epoll::open(Duration::ZERO)?;
    epoll.wait_for(&server.listener, LISTENER, "cannot wait for clients")?;
    if let Some(pipe) = signals::pollable() {
        epoll.wait_for(&pipe, SIGNALS, "cannot wait for signals")?;
    }
    let news = Arc::new(News {
        waker: waker(&epoll)?,
        is_wanted: AtomicBool::new(false),
    });
    let hired = (0..server.config.workers).map(|nth| hire(nth, &server, &news));
    let crew = hired.collect::<Result<_, _>>()?;
    server.announce();
    let Server {
        listener,
        config,
        counters,
    } = server;
    let dealer = Dealer {
        epoll,
        door: Door::new(listener, config.max_connections),
        crew,
        next: 0,
        news,
        stopping: false,
        config,
        counters,
        started: Instant::now(),
    };
    dealer.run()
}

/// From the workers to the main thread.
struct News {
    waker: Waker,
    /// The main thread waits for somebody to leave.
    is_wanted: AtomicBool,
}

/// From the main thread to a worker, and what the worker tells of itself.
struct Desk {
    inbox: Mutex<Inbox>,
    waker: Waker,
    /// How many of those that were dealt to it have left.
    left: AtomicUsize,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Inbox {
    clients: Vec<(OwnedFd, Peer)>,
    /// The server stops.
    stop: bool,
    /// Nobody will come any more.
    last: bool,
}

impl Desk {
    fn put(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.lock();
        let wakes_already = !inbox.clients.is_empty();
        change(&mut inbox);
        drop(inbox);
        if !wakes_already {
            wake(&self.waker);
        }
    }

    fn take(&self) -> Inbox {
        let mut inbox = self.lock();
        Inbox {
            clients: std::mem::take(&mut inbox.clients),
            ..*inbox
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// -- The main thread ----------------------------------------------------------------------------

/// Accepts, and deals.
struct Dealer {
    epoll: Epoll,
    door: Door,
    crew: Vec<Member>,
    /// Who is asked first whether it has the fewest.
    next: usize,
    news: Arc<News>,
    stopping: bool,
    config: Config,
    counters: &'static Counters,
    started: Instant,
}

/// A worker, as the main thread sees it.
struct Member {
    desk: Arc<Desk>,
    dealt: usize,
    /// None once it has ended.
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Member {
    fn clients(&self) -> usize {
        self.dealt - self.desk.left.load(SeqCst)
    }
}

impl Dealer {
    fn run(mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(EVENTS);
        while self.crew.iter().any(|member| member.thread.is_some()) {
            let timeout = self.timeout();
            self.epoll.wait(&mut events, timeout)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.door.knock(),
                    SIGNALS => self.look_at_signals(),
                    _ => self.door.try_again(),
                }
            }
            self.door.look_at_clock();
            self.accept_some()?;
            self.stop_listening();
            self.look_after_the_crew()?;
        }
        self.counters.stopped();
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if self.door.has_knocked() && !self.door.may_accept(self.open()) {
            // Who has left before that has not told: so look again, below.
            self.news.is_wanted.store(true, SeqCst);
        }
        if self.door.may_accept(self.open()) {
            return Some(Duration::ZERO);
        }
        let rest = |until: Instant| until.saturating_duration_since(Instant::now());
        let tick = (self.stopping && self.door.is_open()).then_some(signals::TICK);
        self.door
            .rests_until()
            .map(rest)
            .into_iter()
            .chain(tick)
            .min()
    }

    /// Connections of all workers.
    fn open(&self) -> usize {
        self.crew.iter().map(Member::clients).sum()
    }

    fn accept_some(&mut self) -> Result<(), Failure> {
        for _ in 0..ACCEPTS_PER_ROUND {
            let open = self.open();
            if !self.door.may_accept(open) {
                break;
            }
            if let Some(client) = self.door.accept(open)? {
                self.deal(client);
            }
        }
        Ok(())
    }

    /// To the one that has the fewest; among equals, in turn.
    fn deal(&mut self, client: (OwnedFd, Peer)) {
        let count = self.crew.len();
        let in_turn = (0..count).map(|n| (self.next + n) % count);
        let Some(nth) = in_turn.min_by_key(|nth| self.crew[*nth].clients()) else {
            return;
        };
        self.next = nth + 1;
        let member = &mut self.crew[nth];
        member.dealt += 1;
        member.desk.put(|inbox| inbox.clients.push(client));
    }

    fn look_at_signals(&mut self) {
        signals::drain_pipe();
        let pending = signals::pending();
        if pending.child {
            children::reap_strangers();
        }
        if pending.status {
            let live = Live {
                workers: self.crew.len(),
                ..Live::default()
            };
            log_status(self.config.model, self.started, self.counters, live);
        }
        if pending.stop && !self.stopping {
            self.stopping = true;
            self.counters.stopping();
            // Those that are owed nothing close at once, and make room where descriptors are out.
            // At a second signal the workers look at the clock anyway.
            self.tell_all(|inbox| inbox.stop = true);
            self.door.let_everybody_in();
        }
    }

    /// While the server stops: closes the listener when its queue is empty, or time is up.
    fn stop_listening(&mut self) {
        let done = !self.door.has_knocked() || !signals::in_time(self.config.grace);
        if self.stopping && self.door.is_open() && done {
            self.door.close();
            self.tell_all(|inbox| inbox.last = true);
        }
    }

    fn tell_all(&self, what: impl Fn(&mut Inbox)) {
        for member in &self.crew {
            member.desk.put(&what);
        }
    }

    /// A worker that has ended before it was told to takes the server with it.
    fn look_after_the_crew(&mut self) -> Result<(), Failure> {
        for (nth, member) in self.crew.iter_mut().enumerate() {
            if !member.desk.has_ended.load(SeqCst) {
                continue;
            }
            if let Some(thread) = member.thread.take() {
                let ended = thread.join();
                ended.map_err(|_| Failure::plain(format!("worker {nth} has panicked")))??;
            }
        }
        Ok(())
    }
}

fn hire(nth: usize, server: &Server, news: &Arc<News>) -> Result<Member, Failure> {
    let epoll = Epoll::open(server.config.spin)?;
    let desk = Arc::new(Desk {
        inbox: Mutex::default(),
        waker: waker(&epoll)?,
        left: AtomicUsize::new(0),
        has_ended: AtomicBool::new(false),
    });
    let worker = Worker {
        table: Table::new(epoll, &server.config, server.counters, nth),
        desk: Arc::clone(&desk),
        news: Arc::clone(news),
        taken: 0,
        last: false,
    };
    let thread = thread::Builder::new()
        .name(format!("worker {nth}"))
        .spawn(move || worker.work())
        .map_err(|error| Failure::new("cannot start a worker", calls::errno(&error)))?;
    Ok(Member {
        desk,
        dealt: 0,
        thread: Some(thread),
    })
}

fn waker(epoll: &Epoll) -> Result<Waker, Failure> {
    Waker::new(epoll.poll.registry(), NEWS)
        .map_err(|error| Failure::new("cannot make a waker", calls::errno(&error)))
}

fn wake(waker: &Waker) {
    // An interrupted write is none, and nobody else would wake it. Otherwise: an eventfd that cannot
    // be written to, and there is none.
    while waker
        .wake()
        .is_err_and(|error| error.kind() == ErrorKind::Interrupted)
    {}
}

// -- A worker -----------------------------------------------------------------------------------

/// A reactor without a listener.
struct Worker {
    table: Table<Epoll>,
    desk: Arc<Desk>,
    news: Arc<News>,
    /// Clients taken out of the inbox.
    taken: usize,
    last: bool,
}

impl Worker {
    fn work(mut self) -> Result<(), Failure> {
        signals::leave_to_main_thread();
        let _farewell = Farewell(Arc::clone(&self.desk), Arc::clone(&self.news));
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.run())) {
                Ok(result) => return result,
                Err(_) if self.table.drop_in_hand() => {
                    log::error!("panicked; the connection it had in hand is closed");
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        let mut events = Events::with_capacity(EVENTS);
        // After a panic the events that had been taken are lost; otherwise there is nobody.
        self.look_at_inbox();
        self.table.turn_all();
        while !(self.last && self.table.is_empty()) {
            let timeout = self.timeout();
            self.table.interest.wait(&mut events, timeout)?;
            for event in &events {
                match event.token() {
                    NEWS => self.look_at_inbox(),
                    _ => ready(&mut self.table, event),
                }
            }
            self.table.run_queued();
            self.table.look_at_clock();
            self.tell_who_has_left();
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if self.table.has_queued() {
            return Some(Duration::ZERO);
        }
        let next = self.table.next_tick();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    fn look_at_inbox(&mut self) {
        let inbox = self.desk.take();
        for (stream, peer) in inbox.clients {
            self.taken += 1;
            self.table.admit(stream, peer);
        }
        if inbox.stop {
            self.table.stop();
        }
        self.last = inbox.last;
    }

    fn tell_who_has_left(&mut self) {
        if !self.table.has_made_room() {
            return;
        }
        self.desk.left.store(self.taken - self.table.len(), SeqCst);
        if self.news.is_wanted.swap(false, SeqCst) {
            wake(&self.news.waker);
        }
    }
}

/// Left behind by a worker that ends, however it does.
struct Farewell(Arc<Desk>, Arc<News>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let Self(desk, news) = self;
        desk.has_ended.store(true, SeqCst);
        wake(&news.waker);
    }
}
