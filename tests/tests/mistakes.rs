//! Every mistake: one procedure each, which says whether its symptom is seen. In every model that can
//! make the mistake, it is when the server has been told to, and it is not when it has not.
//!
//! `cargo test --test mistakes wait3_spin` runs both for one mistake.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use tcpecho_common::defaults::SLOW_HANDLER;
use tcpecho_common::model::{Serves, Unit};
use tcpecho_common::{Mistake, Model};
use tcpecho_lab::limit::Limit;
use tcpecho_lab::observe::processes::{self, Process};
use tcpecho_lab::observe::rest::is_at_rest;
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::observe::sockets::State;
use tcpecho_lab::peer::{Ended, PATIENCE, Peer};
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::wait::eventually;

/// `name = Mistake: procedure;` makes the tests `name::is_seen` and `name::is_not_seen_by_default`.
macro_rules! mistakes {
    ($($name:ident = $mistake:ident: $procedure:ident;)*) => {
        $(mod $name {
            #[test]
            fn is_seen() -> anyhow::Result<()> {
                super::look_for(super::Mistake::$mistake, true, super::$procedure)
            }

            #[test]
            fn is_not_seen_by_default() -> anyhow::Result<()> {
                super::look_for(super::Mistake::$mistake, false, super::$procedure)
            }
        })*

        #[test]
        fn every_mistake_is_looked_for() {
            assert_eq!([$(Mistake::$mistake),*], *Mistake::all());
        }
    };
}

mistakes! {
    no_reaper = NoReaper: children_stay_zombies;
    wait_once = WaitOnce: some_children_stay_zombies;
    wait3_spin = Wait3Spin: the_reaper_spins_and_nobody_is_accepted;
    leak_connfd = LeakConnfd: no_fin_comes_and_descriptors_are_left;
    keep_listenfd = KeepListenfd: clients_connect_though_nobody_accepts;
    close_in_loop = CloseInLoop: the_first_echo_is_the_last;
    one_client = OneClient: the_second_client_is_refused;
    fatal_eintr = FatalEintr: a_signal_ends_the_server;
    no_reuseaddr = NoReuseaddr: time_wait_keeps_the_port;
    spin_on_emfile = SpinOnEmfile: without_descriptors_it_spins;
    default_sigpipe = DefaultSigpipe: a_reset_connection_kills_who_writes_to_it;
    die_on_reset = DieOnReset: a_reset_ends_the_server;
    close_on_fin = CloseOnFin: a_half_close_loses_what_is_owed;
    short_write = ShortWrite: a_slow_reader_misses_bytes;
    blocking_write = BlockingWrite: a_never_reader_stalls_the_others;
    read_once = ReadOnce: a_long_message_comes_back_in_part;
    unbounded_buffer = UnboundedBuffer: memory_grows_with_what_is_not_read;
    static_buffer = StaticBuffer: streams_are_mixed;
    slow_handler = SlowHandler: answers_take_their_time;
}

/// Starts what it is given, once or twice, and says whether the symptom is there.
type Procedure = fn(Model, Server) -> Result<bool>;

fn look_for(mistake: Mistake, committed: bool, procedure: Procedure) -> Result<()> {
    let there = |model: &&Model| mistake.models().contains(model);
    for &model in Model::all().iter().filter(there) {
        let server = Server::model(model).args(["-v", "--grace", "1s"]);
        let server = if committed {
            server.mistake(mistake)
        } else {
            server
        };
        let seen = procedure(model, server).with_context(|| format!("{mistake}, {model}"))?;
        ensure!(
            seen == committed,
            "{mistake}, {model}: seen {seen}, committed {committed}"
        );
    }
    Ok(())
}

// -- Children -----------------------------------------------------------------------------------

fn children_stay_zombies(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        for _ in 0..3 {
            Peer::connect(server.address())?.echo(b"hello")?;
        }
        let zombies = zombies_at_rest(server)?;
        ensure!([0, 3].contains(&zombies), "{zombies} of 3 are left");
        Ok(zombies > 0)
    })
}

fn some_children_stay_zombies(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let peers = served(server, 5)?;
        // The parent stands still while its children end: five ends, one SIGCHLD.
        server.signal(Signal::SIGSTOP)?;
        drop(peers);
        wait_for_children(server, "five zombies", |all| {
            all.len() == 5 && all.iter().all(is_zombie)
        })?;
        server.signal(Signal::SIGCONT)?;
        let zombies = zombies_at_rest(server)?;
        ensure!([0, 4].contains(&zombies), "{zombies} of 5 are left");
        Peer::connect(server.address())?.echo(b"business as usual")?;
        Ok(zombies > 0)
    })
}

fn the_reaper_spins_and_nobody_is_accepted(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let [staying, leaving] = [(); 2].map(|()| served(server, 1));
        drop(leaving?);
        wait_for_children(server, "one child", |all| all.len() == 1)?;
        let mut next = Peer::connect(server.address())?;
        next.send(b"next")?;
        let spins = spins(server, || next.has_news())?;
        ensure!(
            queued(server)? == u32::from(spins),
            "spins: {spins}, {} in the queue",
            queued(server)?
        );
        drop(staying?);
        next.expect(b"next")?;
        Ok(spins)
    })
}

// -- Descriptors --------------------------------------------------------------------------------

fn no_fin_comes_and_descriptors_are_left(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let mut peers = served(server, 3)?;
        for peer in &mut peers {
            peer.half_close()?;
        }
        // Whoever has reaped the children has done with the clients.
        wait_for_children(server, "no child", <[_]>::is_empty)?;
        let diag = SockDiag::open()?;
        let mut waiting = 0;
        for peer in &peers {
            let state = diag.state(server.address(), peer.local())?;
            waiting += usize::from(state == Some(State::CloseWait) && !peer.has_news());
        }
        let kept = processes::descriptors(server.pid())?;
        let sockets = kept.iter().filter(|(_, to)| to.starts_with("socket:"));
        ensure!(
            sockets.count() == 1 + waiting,
            "{waiting} of 3 wait: {kept:?}"
        );
        match waiting {
            0 => peers.iter_mut().try_for_each(Peer::expect_fin)?,
            3 => {}
            some => bail!("{some} of 3 wait for a FIN"),
        }
        Ok(waiting > 0)
    })
}

fn clients_connect_though_nobody_accepts(_: Model, server: Server) -> Result<bool> {
    // An address of its own: nobody else's connections use this port there.
    let server = server.args(["--bind", "127.0.0.24"]);
    let again = server.clone();
    with(server, |server| {
        let mut old = served(server, 1)?;
        server.signal(Signal::SIGKILL)?;
        server.wait(PATIENCE)?;
        let connects = TcpStream::connect(server.address()).is_ok();
        let refused = is_in_use(again.port(server.address().port()))?;
        ensure!(
            refused == connects,
            "clients connect: {connects}, a restart fails: {refused}"
        );
        old[0].echo(b"still served, by the orphan")?;
        Ok(connects)
    })
}

fn the_first_echo_is_the_last(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let mut peer = served(server, 1)?.remove(0);
        let over = comes(server, || peer.has_news())?;
        if over {
            peer.expect_fin()?;
        } else {
            peer.echo(b"the second")?;
        }
        Ok(over)
    })
}

// -- Accepting ----------------------------------------------------------------------------------

fn the_second_client_is_refused(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let mut peer = served(server, 1)?.remove(0);
        peer.half_close()?;
        peer.expect_fin()?;
        let ended = comes(server, || server.status().is_some())?;
        if ended {
            let second = TcpStream::connect(server.address());
            ensure!(second.is_err(), "who has accepted?");
        } else {
            served(server, 1)?;
        }
        Ok(ended)
    })
}

fn a_signal_ends_the_server(model: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let peer = served(server, 1)?;
        // The signal must come during accept. The iterative one is there when its client has left.
        if model.unit() == Unit::Process {
            wait_for_rest(server, || true)?;
            drop(peer);
            wait_for_children(server, "no child", <[_]>::is_empty)?;
        } else {
            drop(peer);
            wait_for_rest(server, || true)?;
            server.signal(Signal::SIGUSR1)?;
        }
        let ended = comes(server, || server.status().is_some())?;
        match server.status() {
            Some(status) => ensure!(status.code() == Some(1), "{status}"),
            None => _ = served(server, 1)?,
        }
        Ok(ended)
    })
}

fn time_wait_keeps_the_port(_: Model, server: Server) -> Result<bool> {
    // An address of its own: nobody else's connections use this port there.
    let server = server.args(["--bind", "127.0.0.22"]);
    let again = server.clone();
    with(server, |server| {
        let mut peer = served(server, 1)?.remove(0);
        // Who closes first has the TIME_WAIT: the server.
        server.signal(Signal::SIGTERM)?;
        peer.expect_fin()?;
        let local = peer.local();
        drop(peer);
        let diag = SockDiag::open()?;
        eventually("a connection in TIME_WAIT", PATIENCE, || {
            let state = diag.state(server.address(), local).ok()??;
            (state == State::TimeWait).then_some(())
        })?;
        server.wait(PATIENCE)?;
        is_in_use(again.port(server.address().port()))
    })
}

fn without_descriptors_it_spins(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        wait_for_rest(server, || true)?;
        let tree = processes::tree(server.pid());
        let limits = tree.iter().map(|process| Limit::of(process.pid));
        let limits = limits.collect::<Result<Vec<_>>>()?;
        limits.iter().try_for_each(Limit::lower_to_what_is_in_use)?;
        let mut peer = Peer::connect(server.address())?;
        peer.send(b"hello")?;
        let spins = spins(server, || server.stderr().contains("not accepting for now"))?;
        ensure!(!peer.has_news(), "there was a descriptor after all");
        limits.iter().try_for_each(Limit::restore)?;
        peer.expect(b"hello")?;
        Ok(spins)
    })
}

// -- Peers that vanish --------------------------------------------------------------------------

fn a_reset_connection_kills_who_writes_to_it(model: Model, server: Server) -> Result<bool> {
    const KILLED: &str = "killed by SIGPIPE";
    with(server, |server| {
        let mut peer = served(server, 1)?.remove(0);
        server.freeze()?;
        peer.send(b"nobody waits for this")?;
        peer.wait_until_delivered()?;
        // After a FIN, an RST makes the first write fail with EPIPE; without one it is ECONNRESET.
        let local = peer.local();
        peer.vanish()?;
        server.thaw()?;
        let closed = format!("closed {local}");
        eventually(
            "the end of a connection, or of its server",
            PATIENCE,
            || {
                let told = server.stderr();
                let over = told.contains(&closed) || told.contains(KILLED);
                (over || server.status().is_some()).then_some(())
            },
        )?;
        if model.unit() == Unit::Process {
            served(server, 1)?;
            return Ok(server.stderr().contains(KILLED));
        }
        match server.status() {
            Some(status) => ensure!(status.signal() == Some(Signal::SIGPIPE as i32), "{status}"),
            None => _ = served(server, 1)?,
        }
        Ok(server.status().is_some())
    })
}

fn a_reset_ends_the_server(model: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let many = model.serves() != Serves::One;
        let mut bystanders = served(server, usize::from(many))?;
        let peer = served(server, 1)?.remove(0);
        let closed = format!("closed {}", peer.local());
        peer.reset();
        eventually(
            "the end of a connection, or of its server",
            PATIENCE,
            || {
                let over = server.stderr().contains(&closed) || server.status().is_some();
                over.then_some(())
            },
        )?;
        match server.status() {
            Some(status) => ensure!(status.code() == Some(1), "{status}"),
            None => _ = served(server, 1)?,
        }
        for bystander in &mut bystanders {
            match server.status() {
                Some(_) => _ = bystander.read_to_end()?,
                None => bystander.echo(b"undisturbed")?,
            }
        }
        Ok(server.status().is_some())
    })
}

/// The bytes and the FIN behind them arrive at once.
fn a_half_close_loses_what_is_owed(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let mut peer = served(server, 1)?.remove(0);
        server.freeze()?;
        peer.send_pattern(50_000)?;
        peer.half_close()?;
        peer.wait_until_delivered()?;
        server.thaw()?;
        let (came, ended) = peer.read_to_end()?;
        let lost = came < peer.sent();
        ensure!(lost || ended == Ended::Fin, "{came} bytes, then {ended:?}");
        Ok(lost)
    })
}

// -- Bytes --------------------------------------------------------------------------------------

/// More than the buffers of the kernel hold between a server and a client that does not read.
const MORE_THAN_FITS: u64 = 48_000_000;

fn a_slow_reader_misses_bytes(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        let writing = flood(&peer)?;
        // All of it is under way and nothing has been read: then some of it is nowhere.
        let vanished = happens(server, || writing.is_finished(), || stuck(server, &peer))?;
        let came = peer.read_to_end();
        let wrote = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
        let missing = match came {
            Ok((came, _)) => came < MORE_THAN_FITS,
            Err(error) => is_wrong(error).map(|()| true)?,
        };
        ensure!(
            missing == vanished,
            "missing {missing}, vanished {vanished}"
        );
        // It may find the connection closed, with what it had still to say.
        ensure!(missing || wrote.is_ok(), "{wrote:?}");
        Ok(missing)
    })
}

fn a_never_reader_stalls_the_others(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let mut other = served(server, 1)?.remove(0);
        let never_reads = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        let writing = flood(&never_reads)?;
        wait_for_rest(server, || stuck(server, &never_reads))?;
        other.send(b"and I?")?;
        let answered = comes(server, || other.has_news())?;
        // It cannot have said everything.
        never_reads.abort();
        drop(never_reads);
        let wrote = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
        ensure!(wrote.is_err(), "the server has taken everything");
        other.expect(b"and I?")?;
        Ok(!answered)
    })
}

/// It arrives at once, which is one edge.
fn a_long_message_comes_back_in_part(_: Model, server: Server) -> Result<bool> {
    const LENGTH: u64 = 50_000;
    with(server, |server| {
        let mut peer = served(server, 1)?.remove(0);
        server.freeze()?;
        peer.send_pattern(LENGTH)?;
        peer.wait_until_delivered()?;
        server.thaw()?;
        let diag = SockDiag::open()?;
        let came = || {
            let came = diag.unread(peer.local(), server.address());
            came.ok().flatten().map_or(0, u64::from)
        };
        let whole = comes(server, || came() == LENGTH)?;
        ensure!(came() > 0, "nothing has come back");
        peer.expect_pattern(came())?;
        Ok(!whole)
    })
}

fn memory_grows_with_what_is_not_read(_: Model, server: Server) -> Result<bool> {
    with(server, |server| {
        let memory = || processes::memory(server.pid()).map_or(0, |memory| memory.anonymous);
        let mut peer = Peer::connect_with_buffer(server.address(), 32 * 1024)?;
        let before = memory();
        let writing = flood(&peer)?;
        let large = before + MORE_THAN_FITS / 2;
        let grown = happens(server, || memory() > large, || stuck(server, &peer))?;
        // The mistake is about memory only.
        let (came, ended) = peer.read_to_end()?;
        ensure!(
            (came, ended) == (MORE_THAN_FITS, Ended::Fin),
            "{came} bytes, then {ended:?}"
        );
        writing
            .join()
            .map_err(|_| anyhow!("the writer panicked"))??;
        Ok(grown)
    })
}

fn streams_are_mixed(_: Model, server: Server) -> Result<bool> {
    const ROUNDS: usize = 20;
    with(server, |server| {
        for _ in 0..ROUNDS {
            let mut peers = served(server, 2)?;
            // So that they do not say the same at the same time.
            peers[0].send_pattern(30_000)?;
            peers[0].expect_pattern(30_000)?;
            let streams = thread::scope(|scope| {
                let streams = peers
                    .iter_mut()
                    .map(|peer| scope.spawn(|| peer.stream(4_000_000)));
                let streams: Vec<_> = streams.collect();
                let ended = streams
                    .into_iter()
                    .map(|stream| stream.join().expect("no panic"));
                ended.collect::<Vec<_>>()
            });
            if let Some(error) = streams.into_iter().find_map(Result::err) {
                return is_wrong(error).map(|()| true);
            }
        }
        Ok(false)
    })
}

// -- Answering ----------------------------------------------------------------------------------

/// All send at once. Everybody waits for everybody, or only for himself, according to the model.
///
/// Sleep never ends before its time, so the fastest round shows what had to be waited for, however busy
/// the machine is.
fn answers_take_their_time(model: Model, server: Server) -> Result<bool> {
    const ROUNDS: usize = 5;
    with(server, |server| {
        // Fewer than a pool has workers.
        let together = if model.serves() == Serves::One { 1 } else { 6 };
        let mut peers = served(server, together)?;
        let rounds = (0..ROUNDS).map(|_| round(&mut peers));
        let rounds = rounds.collect::<Result<Vec<_>>>()?;
        let fastest = |time: fn(&(Duration, Duration)) -> Duration| {
            rounds.iter().map(time).min().unwrap_or_default()
        };
        let (first, last) = (fastest(|(first, _)| *first), fastest(|(_, last)| *last));
        let slow = first >= SLOW_HANDLER;
        let one_by_one = last >= SLOW_HANDLER * together as u32;
        ensure!(
            one_by_one == (slow && model.unit() == Unit::Neither),
            "one by one: {one_by_one}, the last of {together} is back after {last:?}"
        );
        Ok(slow)
    })
}

/// After what time the first of them has its echo, and when all have.
fn round(peers: &mut [Peer]) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    for peer in peers.iter_mut() {
        peer.send(b"at once")?;
    }
    let back = |peer: &mut Peer| peer.expect(b"at once").map(|()| began.elapsed());
    let back = peers.iter_mut().map(back).collect::<Result<Vec<_>>>()?;
    let first = back.iter().min().context("nobody")?;
    Ok((*first, began.elapsed()))
}

// -- Helpers ------------------------------------------------------------------------------------

/// Starts a server; what goes wrong then is reported with everything it has printed. Whatever its
/// mistake: if it has not ended, SIGTERM ends it.
fn with(server: Server, body: impl FnOnce(&ServerProcess) -> Result<bool>) -> Result<bool> {
    let server = server.start()?;
    let seen = body(&server).with_context(|| server.transcript())?;
    if server.status().is_none() {
        server.signal(Signal::SIGTERM)?;
        let status = server.wait(PATIENCE)?;
        ensure!(status.success(), "{status} instead of 0\n{server}");
    }
    Ok(seen)
}

/// Clients that have had an answer.
fn served(server: &ServerProcess, count: usize) -> Result<Vec<Peer>> {
    let connect = |_| {
        let mut peer = Peer::connect(server.address())?;
        peer.echo(b"hello")?;
        Ok(peer)
    };
    (0..count).map(connect).collect()
}

/// Sends, beside us, more than fits, and then a FIN.
fn flood(peer: &Peer) -> Result<JoinHandle<Result<()>>> {
    let mut writer = peer.half()?;
    Ok(thread::spawn(move || {
        writer.send_pattern(MORE_THAN_FITS)?;
        writer.half_close()
    }))
}

/// Does it happen, or is the server at rest and `never` true?
fn happens(
    server: &ServerProcess,
    mut it: impl FnMut() -> bool,
    mut never: impl FnMut() -> bool,
) -> Result<bool> {
    eventually("one or the other", PATIENCE, || {
        if it() {
            return Some(true);
        }
        (is_at_rest(server.pid()) && never() && !it()).then_some(false)
    })
}

/// Does it happen before the server has nothing more to do?
fn comes(server: &ServerProcess, it: impl FnMut() -> bool) -> Result<bool> {
    happens(server, it, || true)
}

fn wait_for_rest(server: &ServerProcess, condition: impl FnMut() -> bool) -> Result<()> {
    happens(server, || false, condition).map(drop)
}

/// Does it use the processor all the time, or does it sleep, and sleep again? It is not expected to
/// before `idle` is true. (On a busy machine a pause of its own may be shorter than it takes to see
/// that all of it rests.)
fn spins(server: &ServerProcess, mut idle: impl FnMut() -> bool) -> Result<bool> {
    const MUCH: Duration = Duration::from_millis(200);
    const AGAIN: u64 = 5;
    let used = || {
        let tree = processes::tree(server.pid());
        let times = tree.iter().filter_map(|p| processes::cpu_time(p.pid));
        times.sum::<Duration>()
    };
    let before = used();
    let mut slept = None;
    eventually("one or the other", PATIENCE, || {
        if used() >= before + MUCH {
            return Some(true);
        }
        if !idle() {
            return None;
        }
        let now = sleeps(server);
        let again = now >= *slept.get_or_insert(now) + AGAIN;
        (again || is_at_rest(server.pid())).then_some(false)
    })
}

/// How often its threads have gone to sleep, all together.
fn sleeps(server: &ServerProcess) -> u64 {
    let tree = processes::tree(server.pid());
    let threads = tree.iter().flat_map(|process| {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.pid));
        tasks.into_iter().flatten().flatten()
    });
    let of = |status: String| {
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse::<u64>().ok()
    };
    threads
        .filter_map(|task| of(fs::read_to_string(task.path().join("status")).ok()?))
        .sum()
}

/// Has the server's kernel bytes of this peer that the server does not read?
fn stuck(server: &ServerProcess, peer: &Peer) -> bool {
    let unread = || SockDiag::open()?.unread(server.address(), peer.local());
    unread().is_ok_and(|unread| unread.is_some_and(|bytes| bytes > 0))
}

/// Connections in the listener's queue.
fn queued(server: &ServerProcess) -> Result<u32> {
    let queued = SockDiag::open()?.queued(server.address())?;
    queued.context("nobody listens")
}

/// Does it fail to start because the address is in use?
fn is_in_use(server: Server) -> Result<bool> {
    match server.start() {
        Ok(_) => Ok(false),
        Err(error) if error.to_string().contains("EADDRINUSE") => Ok(true),
        Err(error) => Err(error),
    }
}

/// Bytes came that are not the right ones; any other error is one.
fn is_wrong(error: anyhow::Error) -> Result<()> {
    if format!("{error:#}").contains("wrong echo") {
        return Ok(());
    }
    Err(error)
}

fn is_zombie(child: &Process) -> bool {
    child.state == 'Z'
}

/// How many zombies it has when no child is alive and it has nothing more to do.
fn zombies_at_rest(server: &ServerProcess) -> Result<usize> {
    let children = || processes::children(server.pid());
    wait_for_rest(server, || children().iter().all(is_zombie))?;
    Ok(children().len())
}

fn wait_for_children(
    server: &ServerProcess,
    what: &str,
    condition: impl Fn(&[Process]) -> bool,
) -> Result<()> {
    let children = || processes::children(server.pid());
    eventually(what, PATIENCE, || condition(&children()).then_some(()))
        .with_context(|| processes::ps_view(&children()))
}
