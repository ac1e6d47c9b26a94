//! Faults, injected and real: whatever a call of the server fails with, the clients it does not
//! concern are served, and the server stays up and accepts again.
//!
//! Calls are made to fail with strace (see `faults/strace.rs`); where there is none, the tests that
//! need it say SKIP and why, or fail if `TCPECHO_STRICT` is 1. `claim::model` is the name of a test.

#[path = "faults/peer.rs"]
mod peer;
#[path = "faults/strace.rs"]
mod strace;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use tcpecho_common::Model;
use tcpecho_common::model::{Serves, Unit};
use tcpecho_lab::limit::{Limit, limit_memory};
use tcpecho_lab::observe::{processes, sockets};
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::wait::eventually;

use peer::Peer;
use strace::{Fault, Traceable};

/// How long anything may take: what is awaited takes milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long the server's use of the processor is measured while accepting rests.
const WINDOW: Duration = Duration::from_millis(700);

const RESTS: &str = "not accepting for now";
const AGAIN: &str = "accepting again";

/// Every model, one in a line, for `$then!($args (models))`.
macro_rules! all {
    ($then:ident $($args:tt)*) => {
        $then! { $($args)* (
            iterative
            fork
            exec
            prefork
            thread
            thread_pool
            select
            poll
            reactor
            r#async
            uring
        ) }
    };
}

macro_rules! names {
    (($($model:ident)*)) => { [$(stringify!($model)),*] };
}

/// `name = claim(arguments): models;` makes a test `name::model` of each, which calls
/// `claim(model, arguments)`.
///
/// `calling` are the models that accept, read and write by system calls, which strace can make fail:
/// all but `uring`, which leaves that to the kernel. What its completions may say it is told by real
/// limits and real peers: here where the claim is for `all`, and in `uring.rs`.
macro_rules! claims {
    ($($name:ident = $claim:ident($($argument:expr),*): $models:tt;)*) => {
        $(mod $name { claims!(@each $claim ($($argument),*) $models); })*
    };
    (@each $claim:ident $arguments:tt all) => {
        all!(claims @each $claim $arguments);
    };
    (@each $claim:ident $arguments:tt calling) => {
        #[allow(unused_imports, reason = "not every claim has an argument")]
        use super::*;
        all!(claims @calling $claim $arguments);
    };
    (@calling $claim:ident $arguments:tt ($($model:ident)*)) => {
        $(claims!(@called $claim $arguments $model);)*
    };
    (@called $claim:ident $arguments:tt uring) => {};
    (@called $claim:ident $arguments:tt $model:ident) => { claims!(@test $claim $arguments $model); };
    (@each $claim:ident $arguments:tt ($($model:ident)*)) => {
        #[allow(unused_imports, reason = "not every claim has an argument")]
        use super::*;
        $(claims!(@test $claim $arguments $model);)*
    };
    (@test $claim:ident ($($argument:expr),*) $model:ident) => {
        #[test]
        fn $model() {
            super::$claim(super::model(stringify!($model)) $(, $argument)*);
        }
    };
}

claims! {
    accept_fails_with_eintr = an_accept_that_fails_costs_no_client(Errno::EINTR): calling;
    accept_fails_with_eagain = an_accept_that_fails_costs_no_client(Errno::EAGAIN): calling;
    accept_fails_with_emfile = an_accept_that_fails_costs_no_client(Errno::EMFILE): calling;
    accept_fails_with_enfile = an_accept_that_fails_costs_no_client(Errno::ENFILE): calling;
    accept_fails_with_enobufs = an_accept_that_fails_costs_no_client(Errno::ENOBUFS): calling;
    accept_fails_with_econnaborted = an_accept_that_fails_costs_no_client(Errno::ECONNABORTED): calling;
    accept_fails_with_eproto = an_accept_that_fails_costs_no_client(Errno::EPROTO): calling;

    accepting_rests_while_emfile_lasts = while_it_lasts_clients_wait_and_cost_nothing(Errno::EMFILE): calling;
    accepting_rests_while_enfile_lasts = while_it_lasts_clients_wait_and_cost_nothing(Errno::ENFILE): calling;
    accepting_rests_while_enobufs_lasts = while_it_lasts_clients_wait_and_cost_nothing(Errno::ENOBUFS): calling;
    accepting_rests_while_it_is_forbidden = while_it_lasts_clients_wait_and_cost_nothing(Errno::EPERM): calling;
    accepting_rests_at_the_limit_of_descriptors = at_the_limit_clients_wait_and_cost_nothing(): all;
    a_client_that_leaves_makes_room = a_client_that_leaves_makes_room_for_the_next(): (thread thread_pool select poll reactor r#async uring);
    sigterm_at_the_limit_lets_the_queue_in = who_is_queued_at_the_limit_is_answered_at_sigterm(): (iterative thread thread_pool select poll reactor r#async uring);
    a_small_limit_is_served_with_or_complained_about = at_any_limit_it_serves_or_says_why(): all;

    read_is_interrupted = an_interruption_is_not_noticed("read"): calling;
    read_fails_with_econnreset = a_failure_ends_one_connection("read", Errno::ECONNRESET): calling;
    read_fails_with_etimedout = a_failure_ends_one_connection("read", Errno::ETIMEDOUT): calling;
    read_fails_with_epipe = a_failure_ends_one_connection("read", Errno::EPIPE): calling;
    read_fails_with_enobufs = a_failure_ends_one_connection("read", Errno::ENOBUFS): calling;
    write_is_interrupted = an_interruption_is_not_noticed("write"): calling;
    write_fails_with_econnreset = a_failure_ends_one_connection("write", Errno::ECONNRESET): calling;
    write_fails_with_etimedout = a_failure_ends_one_connection("write", Errno::ETIMEDOUT): calling;
    write_fails_with_epipe = a_failure_ends_one_connection("write", Errno::EPIPE): calling;
    write_fails_with_enobufs = a_failure_ends_one_connection("write", Errno::ENOBUFS): calling;

    wait_is_interrupted = no_child_stays_a_zombie_though_wait_is_interrupted(): (fork exec prefork);
    poll_is_interrupted = a_pause_cut_short_is_only_short(): (iterative fork exec prefork thread_pool);
    select_is_interrupted = nobody_waits_longer_though_the_wait_fails("?select,?pselect6", Errno::EINTR): (select);
    poll_of_the_loop_is_interrupted = nobody_waits_longer_though_the_wait_fails("?poll,?ppoll", Errno::EINTR): (poll);
    epoll_wait_is_interrupted = nobody_waits_longer_though_the_wait_fails("?epoll_wait,?epoll_pwait", Errno::EINTR): (reactor r#async);
    io_uring_enter_is_interrupted = nobody_waits_longer_though_the_wait_fails("io_uring_enter", Errno::EINTR): (uring);
    io_uring_enter_fails_with_ebusy = nobody_waits_longer_though_the_wait_fails("io_uring_enter", Errno::EBUSY): (uring);
    io_uring_enter_fails_with_eagain = nobody_waits_longer_though_the_wait_fails("io_uring_enter", Errno::EAGAIN): (uring);

    fork_fails_with_eagain = who_cannot_be_served_is_told(Errno::EAGAIN): (fork exec);
    fork_fails_with_enomem = who_cannot_be_served_is_told(Errno::ENOMEM): (fork exec);
    clone_fails_with_eagain = who_cannot_be_served_is_told(Errno::EAGAIN): (thread);
    clone_fails_with_enomem = who_cannot_be_served_is_told(Errno::ENOMEM): (thread);

    a_panic_ends_one_connection = who_panics_harms_nobody_else(): (fork prefork thread thread_pool);

    clients_reset_while_queued = who_was_reset_in_the_queue_harms_nobody(): all;
    stopped_and_continued = stop_and_continue_change_nothing(&[]): all;
    stopped_and_continued_with_a_timeout = stop_and_continue_change_nothing(&["--idle-timeout", "2m"]): all;
}

/// The model that a test is called after.
fn model(name: &str) -> Model {
    let name = name.trim_start_matches("r#").replace('_', "-");
    let mut models = Model::all().iter();
    *models.find(|model| model.name() == name).expect("a model")
}

#[test]
fn every_model_is_tested() {
    let tested = all!(names).map(model);
    assert_eq!(tested[..], *Model::all());
}

/// Every other accept fails, not only the one that would have found nobody.
fn an_accept_that_fails_costs_no_client(model: Model, errno: Errno) {
    let Some(traced) = Traceable::start(Server::model(model)) else {
        return;
    };
    let server = &traced.server;
    let mut old = bystander(model, server.address());
    // EAGAIN says that nobody is left, and an edge-triggered listener has to believe it: the
    // client hit by it is in the hands of the next one.
    let is_edge_triggered = matches!(model, Model::Reactor | Model::Async);
    let once = errno == Errno::EAGAIN && is_edge_triggered;
    let when = if once { "1" } else { "1+2" };
    traced.inject_each(&acceptors(model, server.pid()), &[accept(errno, when)]);

    let mut clients = vec![waiting(server.address(), "0")];
    traced.wait_for_the_first();
    clients.extend(["1", "2", "3", "4"].map(|name| waiting(server.address(), name)));
    for (name, mut client) in (0..).zip(clients) {
        client.hears(&name.to_string());
    }
    is_well(server, &mut old);
    let least = if once { 1 } else { 3 };
    assert!(traced.injected() >= least, "too few accepts failed");
    let told = server.stderr();
    match errno {
        // While one worker rests the next one accepts: there is nothing to say.
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS if model.serves() == Serves::Workers => {}
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS => {
            assert!(told.contains(&format!("{errno:?}")), "it says nothing");
        }
        _ => assert_eq!(told, "", "nothing worth a line has happened"),
    }
}

fn while_it_lasts_clients_wait_and_cost_nothing(model: Model, errno: Errno) {
    let Some(traced) = Traceable::start(Server::model(model)) else {
        return;
    };
    let server = &traced.server;
    let mut old = bystander(model, server.address());
    traced.inject_each(&acceptors(model, server.pid()), &[accept(errno, "1+")]);
    let queued = ["a", "b", "c"].map(|name| waiting(server.address(), name));
    wait_for_line(server, RESTS);
    rests_cheaply(server);
    for client in &queued {
        client.has_heard_nothing();
    }
    if let Some(old) = &mut old {
        old.is_answered("meanwhile");
    }
    assert!(traced.injected() >= 3, "it has not tried again");
    traced.detach();
    // Without a new client: nobody else knocks. Each leaves when it has been served.
    for (mut client, name) in queued.into_iter().zip(["a", "b", "c"]) {
        client.hears(name);
    }
    one_episode(server);
    is_well(server, &mut old);
}

fn at_the_limit_clients_wait_and_cost_nothing(model: Model) {
    let server = start(Server::model(model));
    let mut old = Vec::new();
    for name in ["1", "2", "3"] {
        let client = served(server.address(), name);
        if model.serves() != Serves::One {
            old.push(client);
        }
    }
    let limit = Limits::of(model, &server);
    let descriptors = match (model.unit(), model.serves()) {
        (Unit::Process, Serves::All) => 0,
        _ => old.len(),
    };
    limit.lower(descriptors, 0);
    let queued = ["4", "5", "6"].map(|name| waiting(server.address(), name));
    wait_for_line(&server, RESTS);
    rests_cheaply(&server);
    for client in &queued {
        client.has_heard_nothing();
    }
    assert_eq!(queue_of(server.address()), Some(3), "they are queued");
    for client in &mut old {
        client.is_answered("meanwhile");
    }
    assert_eq!((lines(&server, RESTS), lines(&server, AGAIN)), (1, 0));

    limit.restore();
    // Without a new client: nobody else knocks. Each leaves when it has been served.
    for (mut client, name) in queued.into_iter().zip(["4", "5", "6"]) {
        client.hears(name);
    }
    for client in &mut old {
        client.is_answered("afterwards");
    }
    one_episode(&server);
}

/// Those that are owed nothing leave, and make room for those that are still in the queue.
fn who_is_queued_at_the_limit_is_answered_at_sigterm(model: Model) {
    let server = start(Server::model(model).arg("--grace").arg("60s"));
    Limits::of(model, &server).lower(0, 1);
    let first = served(server.address(), "first");
    let queued = ["1", "2", "3"].map(|name| waiting(server.address(), name));
    if model.serves() != Serves::One {
        wait_for_line(&server, RESTS);
    }
    server.signal(Signal::SIGTERM).expect("it runs");
    for (mut client, name) in queued.into_iter().zip(["1", "2", "3"]) {
        client.hears(name);
    }
    drop(first);
    let status = server.wait(Duration::from_secs(10)).expect("its end");
    assert!(status.success(), "{status}");
}

fn a_client_that_leaves_makes_room_for_the_next(model: Model) {
    let server = start(Server::model(model));
    Limits::of(model, &server).lower(0, 1);
    let first = served(server.address(), "first");
    let mut queued = waiting(server.address(), "queued");
    let mut behind = waiting(server.address(), "behind");
    wait_for_line(&server, RESTS);
    drop(first);
    queued.hears("queued");
    drop(queued);
    behind.hears("behind");
}

/// From a limit with which it cannot even log to one that leaves a descriptor for a client.
fn at_any_limit_it_serves_or_says_why(model: Model) {
    let mut outcomes = BTreeSet::new();
    for limit in 4..=12 {
        match Server::model(model).limit_descriptors(limit, limit).start() {
            Ok(server) => {
                let client = waiting(server.address(), "hello");
                let outcome = eventually("an answer, or a line", DEADLINE, || {
                    let silent = server.stderr().contains("not one descriptor is left");
                    let ended = server.status().map(|_| "ended after the ready line");
                    let answered = client.has_heard().then_some("served");
                    answered.or(ended).or(silent.then_some("never accepts"))
                });
                let outcome = outcome.expect("it serves or says why");
                assert_ne!(outcome, "ended after the ready line", "limit {limit}");
                outcomes.insert(outcome);
            }
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("ended: exit status: 1"), "{told}");
                assert!(told.contains("EMFILE"), "{told}");
                assert!(told.contains("ulimit -n"), "{told}");
                outcomes.insert("does not start");
            }
        }
    }
    let all = BTreeSet::from(["does not start", "never accepts", "served"]);
    assert_eq!(outcomes, all, "not every case was met");
}

fn an_interruption_is_not_noticed(model: Model, call: &'static str) {
    let Some((traced, mut old, mut victim)) = hit(model, call, Errno::EINTR, "1+2") else {
        return;
    };
    for text in ["one", "two", "three", "four"] {
        victim.is_answered(text);
    }
    assert!(traced.injected() >= 2, "too few calls were interrupted");
    drop(victim);
    is_well(&traced.server, &mut old);
    assert_eq!(traced.server.stderr(), "");
}

fn a_failure_ends_one_connection(model: Model, call: &'static str, errno: Errno) {
    let Some((traced, mut old, mut victim)) = hit(model, call, errno, "1") else {
        return;
    };
    // A blocking read was made to fail before anything has come.
    victim.send_if_possible("fatal");
    victim.is_dropped();
    assert_eq!(traced.injected(), 1);
    is_well(&traced.server, &mut old);
    no_zombies(&traced.server);
    assert_eq!(traced.server.stderr(), "");
}

/// One worker is enough for a pool to serve the next client: it must still be there.
fn who_panics_harms_nobody_else(model: Model) {
    let mut recipe = Server::model(model);
    if model.serves() == Serves::Workers {
        recipe = recipe.args(["--workers", "2"]);
    }
    let Some((traced, task, mut old, mut victim)) = with_a_victim(recipe, model) else {
        return;
    };
    traced.inject_a_lie(task);
    victim.send_if_possible("fatal");
    victim.is_dropped();
    assert!(traced.server.stderr().contains("panicked"));
    is_well(&traced.server, &mut old);
    no_zombies(&traced.server);
    let open = || {
        let server = &traced.server;
        server.signal(Signal::SIGUSR1).ok()?;
        let log = server.stderr();
        let table = log.rsplit("status of ").next()?;
        table.contains("open 1 ").then_some(())
    };
    eventually("that only the bystander is there", DEADLINE, open).expect("it is counted");
}

/// A server that serves a bystander (where it can) and a victim, with the fault aimed at the
/// victim's connection.
fn hit(
    model: Model,
    calls: &'static str,
    errno: Errno,
    when: &'static str,
) -> Option<(Traceable, Option<Peer>, Peer)> {
    let (traced, task, old, victim) = with_a_victim(Server::model(model), model)?;
    traced.inject(task, &[Fault { calls, errno, when }]);
    Some((traced, old, victim))
}

/// Such a server, and the task that serves the victim.
fn with_a_victim(recipe: Server, model: Model) -> Option<(Traceable, i32, Option<Peer>, Peer)> {
    let traced = Traceable::start(recipe)?;
    let server = &traced.server;
    let old = bystander(model, server.address());
    let before = tasks(model, server.pid());
    let victim = served(server.address(), "victim");
    let task = eventually("who serves the victim", DEADLINE, || match model.unit() {
        Unit::Neither => Some(server.pid()),
        // Its workers have been there before.
        _ if model.serves() == Serves::Workers => who_serves(server, &victim),
        _ => tasks(model, server.pid())
            .difference(&before)
            .next()
            .copied(),
    });
    Some((traced, task.expect("somebody does"), old, victim))
}

fn no_child_stays_a_zombie_though_wait_is_interrupted(model: Model) {
    let Some(traced) = Traceable::start(Server::model(model)) else {
        return;
    };
    let server = &traced.server;
    let mut old = bystander(model, server.address());
    let fault = Fault {
        calls: "wait4",
        errno: Errno::EINTR,
        when: "1+2",
    };
    traced.inject(server.pid(), &[fault]);
    let clients = ["1", "2", "3"].map(|name| served(server.address(), name));
    let workers = match model {
        Model::Prefork => clients.each_ref().map(|c| who_serves(server, c)).to_vec(),
        _ => vec![],
    };
    // The workers of a pool do not end with their clients.
    for worker in workers.into_iter().flatten() {
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it serves");
    }
    drop(clients);
    traced.wait_for_the_first();
    no_zombies(server);
    is_well(server, &mut old);
}

fn a_pause_cut_short_is_only_short(model: Model) {
    let Some(traced) = Traceable::start(Server::model(model)) else {
        return;
    };
    let server = &traced.server;
    let mut old = bystander(model, server.address());
    let interrupted = Fault {
        calls: "?poll,ppoll",
        errno: Errno::EINTR,
        when: "1+2",
    };
    let faults = [accept(Errno::EMFILE, "1+2"), interrupted];
    traced.inject_each(&acceptors(model, server.pid()), &faults);
    let clients = ["0", "1", "2", "3"].map(|name| waiting(server.address(), name));
    for (name, mut client) in (0..).zip(clients) {
        client.hears(&name.to_string());
    }
    assert!(traced.injected() >= 6, "both kinds of call failed");
    is_well(server, &mut old);
}

fn nobody_waits_longer_though_the_wait_fails(model: Model, calls: &'static str, errno: Errno) {
    let Some(traced) = Traceable::start(Server::model(model)) else {
        return;
    };
    let server = &traced.server;
    let mut old = bystander(model, server.address());
    let fault = Fault {
        calls,
        errno,
        when: "1+2",
    };
    traced.inject(server.pid(), &[fault]);
    for name in ["1", "2", "3"] {
        served(server.address(), name);
    }
    assert!(traced.injected() >= 3, "too few waits have failed");
    is_well(server, &mut old);
    assert_eq!(server.stderr(), "");
}

/// Every other fork (or thread) fails.
fn who_cannot_be_served_is_told(model: Model, errno: Errno) {
    let Some(traced) = Traceable::start(Server::model(model)) else {
        return;
    };
    let server = &traced.server;
    let mut old = bystander(model, server.address());
    let fault = Fault {
        calls: "clone,?clone3,?fork,?vfork",
        errno,
        when: "1+2",
    };
    traced.inject(server.pid(), &[fault]);

    Peer::connect(server.address()).is_dropped();
    let mut clients = vec![served(server.address(), "second")];
    let mut third = Peer::connect(server.address());
    third.send_if_possible("third");
    third.is_dropped();
    clients.push(served(server.address(), "fourth"));
    Peer::connect(server.address()).is_dropped();
    for client in &mut clients {
        client.is_answered("still here");
    }
    assert_eq!(traced.injected(), 3);
    is_well(server, &mut old);
    // The connection is closed before the line is written.
    let told = || (lines(server, "refused") >= 3).then_some(());
    eventually("a line for each", DEADLINE, told).expect("three lines");
    assert_eq!(lines(server, "refused"), 3, "no more than one for each");
}

fn who_was_reset_in_the_queue_harms_nobody(model: Model) {
    let server = start(Server::model(model));
    let mut old = bystander(model, server.address());
    server.freeze().expect("it runs");
    let reset_ten = || {
        for _ in 0..10 {
            waiting(server.address(), "gone").reset();
        }
    };
    // Before, between and behind the dead ones.
    let mut queued = vec![waiting(server.address(), "a")];
    reset_ten();
    queued.push(waiting(server.address(), "b"));
    reset_ten();
    queued.push(waiting(server.address(), "c"));
    server.thaw().expect("it is stopped");
    for (mut client, name) in queued.into_iter().zip(["a", "b", "c"]) {
        client.hears(name);
    }
    is_well(&server, &mut old);
    no_zombies(&server);
    assert_eq!(server.stderr(), "");
}

fn stop_and_continue_change_nothing(model: Model, args: &[&str]) {
    let recipe = args.iter().fold(Server::model(model), |s, arg| s.arg(*arg));
    let server = start(recipe);
    let mut old = served(server.address(), "old");
    let tree = processes::tree(server.pid());
    for round in ["1", "2", "3"] {
        let pids: Vec<i32> = tree.iter().map(|p| p.pid).collect();
        stop(&server, &pids);
        old.send("sent while it was stopped");
        let new = (model.serves() != Serves::One).then(|| waiting(server.address(), round));
        for pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGCONT).expect("it is stopped");
        }
        old.hears("sent while it was stopped");
        if let Some(mut new) = new {
            new.hears(round);
        }
        old.is_answered("and on it goes");
    }
    drop(old);
    is_well(&server, &mut None);
    no_zombies(&server);
    assert_eq!(server.stderr(), "");
}

/// A buffer, a stack, what the thread is started with: whatever there is no memory for, it is one
/// client's affair.
#[test]
fn who_has_no_memory_for_another_thread_serves_those_it_has() {
    const SOME: usize = 100;
    const ROOM: u64 = 4 << 20;
    let server = start(Server::model(Model::Thread));
    let mut bystander = bystander(Model::Thread, server.address());
    limit_memory(server.pid(), ROOM).expect("a limit");
    let long = "x".repeat(20_000);
    let mut clients: Vec<_> = (0..SOME).map(|_| Peer::connect(server.address())).collect();
    for client in &mut clients {
        client.send_if_possible(&long);
    }
    wait_for_line(&server, "cannot start a thread");
    let refused = eventually("a word for each", DEADLINE, || {
        let refused = lines(&server, "cannot start a thread");
        // And the main thread, and the bystander's.
        let at_work = threads(&server)?;
        (refused + at_work == SOME + 2).then_some(refused)
    });
    let refused = refused.expect("served, or refused");
    assert!((1..SOME).contains(&refused), "{refused} of {SOME} refused");
    drop(clients);
    let left = || threads(&server).filter(|left| *left == 2);
    eventually("threads that leave", DEADLINE, left).expect("two threads");
    is_well(&server, &mut bystander);
}

fn threads(server: &ServerProcess) -> Option<usize> {
    Some(processes::states(server.pid())?.len())
}

fn start(server: Server) -> ServerProcess {
    server.start().expect("a server that is ready")
}

fn accept(errno: Errno, when: &'static str) -> Fault {
    Fault {
        calls: "accept4",
        errno,
        when,
    }
}

/// A client that has had an answer.
fn served(address: SocketAddr, text: &str) -> Peer {
    let mut client = Peer::connect(address);
    client.is_answered(text);
    client
}

/// A client that has said something and waits for the answer.
fn waiting(address: SocketAddr, text: &str) -> Peer {
    let mut client = Peer::connect(address);
    client.send(text);
    client
}

/// A client that is being served before the fault, and must not notice it; None where it would
/// keep everybody else from being served.
fn bystander(model: Model, address: SocketAddr) -> Option<Peer> {
    (model.serves() != Serves::One).then(|| served(address, "bystander"))
}

/// The fault is over, or has hit another: the bystander is still served, and so is a new client.
fn is_well(server: &ServerProcess, bystander: &mut Option<Peer>) {
    if let Some(peer) = bystander {
        peer.is_answered("still here");
    }
    served(server.address(), "new");
}

/// The processes or threads that accept.
fn acceptors(model: Model, pid: i32) -> Vec<i32> {
    if model.serves() != Serves::Workers {
        return vec![pid];
    }
    let mut workers = tasks(model, pid);
    // The main thread of a pool only waits.
    workers.remove(&pid);
    workers.into_iter().collect()
}

/// The worker, a process or a thread, which has the connection of this client, or waits for it.
fn who_serves(server: &ServerProcess, client: &Peer) -> Option<i32> {
    let pid = server.pid();
    // Not all that are connected to this client's address are the server's: ports are used again.
    let mut sockets = sockets::connected_to(client.local()).ok()?.into_iter();
    let socket = sockets.find(|socket| socket.local == server.address())?;
    let name = format!("socket:[{}]", socket.inode);
    let descriptor = |pid| {
        let descriptors = processes::descriptors(pid).ok()?;
        let mut descriptors = descriptors.into_iter();
        descriptors.find_map(|(fd, to)| (to == name).then_some(fd))
    };
    let Some(fd) = descriptor(pid) else {
        let mut children = processes::children(pid).into_iter();
        return children.find_map(|child| descriptor(child.pid).map(|_| child.pid));
    };
    // `0 0x5 ...`: call and arguments.
    let waits = |task: &i32| {
        let call = fs::read_to_string(format!("/proc/{task}/syscall")).unwrap_or_default();
        call.split(' ').nth(1) == Some(&format!("{fd:#x}"))
    };
    tasks(Model::ThreadPool, pid).into_iter().find(waits)
}

/// The processes or threads that serve a connection each.
fn tasks(model: Model, pid: i32) -> BTreeSet<i32> {
    match model.unit() {
        Unit::Process => processes::children(pid).iter().map(|p| p.pid).collect(),
        Unit::Thread => fs::read_dir(format!("/proc/{pid}/task"))
            .expect("a living process")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
        Unit::Neither => BTreeSet::new(),
    }
}

fn no_zombies(server: &ServerProcess) {
    eventually("no zombie", DEADLINE, || {
        let children = processes::children(server.pid());
        children.iter().all(|c| c.state != 'Z').then_some(())
    })
    .expect("every child that has ended is waited for");
}

/// Stops these processes of the server and waits until they are.
fn stop(server: &ServerProcess, pids: &[i32]) {
    for &pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is ours, and alive");
        eventually("a stopped process", DEADLINE, || {
            processes::look(pid).filter(|p| p.state == 'T')
        })
        .unwrap_or_else(|error| panic!("{error}\n{server}"));
    }
}

fn wait_for_line(server: &ServerProcess, part: &str) {
    let told = || server.stderr().contains(part).then_some(());
    eventually(part, DEADLINE, told).expect("a line of the log");
}

fn lines(server: &ServerProcess, part: &str) -> usize {
    server.stderr().matches(part).count()
}

/// However often it has tried, it has said it once.
fn one_episode(server: &ServerProcess) {
    wait_for_line(server, AGAIN);
    assert_eq!((lines(server, RESTS), lines(server, AGAIN)), (1, 1));
}

/// Less than 10 ms of processor time per second. The one place where time has to pass.
fn rests_cheaply(server: &ServerProcess) {
    let clocks: Vec<_> = processes::tree(server.pid())
        .iter()
        .map(|p| clock_getcpuclockid(Pid::from_raw(p.pid)).expect("a living process"))
        .collect();
    let used = || -> Duration {
        let times = clocks.iter().map(|clock| clock.now().expect("it lives"));
        times.map(Duration::from).sum()
    };
    let (since, before) = (Instant::now(), used());
    sleep(WINDOW);
    let (passed, used) = (since.elapsed(), used().saturating_sub(before));
    #[expect(clippy::print_stdout, reason = "libtest shows it on demand")]
    {
        println!("{used:?} of processor time in {passed:?}");
    }
    assert!(
        used * 100 < passed,
        "{used:?} of processor time in {passed:?}"
    );
}

/// How many clients wait to be accepted.
fn queue_of(address: SocketAddr) -> Option<u64> {
    let sockets = sockets::tcp().expect("the table of sockets");
    let listens = |s: &&sockets::Socket| {
        s.state == sockets::State::Listen && s.local.port() == address.port()
    };
    sockets.iter().find(listens).map(|s| s.recv_q)
}

/// The limits of descriptors of a running server: of each process that accepts.
struct Limits(Vec<(i32, Limit)>);

impl Limits {
    fn of(model: Model, server: &ServerProcess) -> Self {
        let pids = match model.unit() {
            Unit::Process => acceptors(model, server.pid()),
            Unit::Thread | Unit::Neither => vec![server.pid()],
        };
        let limit = |pid| (pid, Limit::of(pid).expect("it lives"));
        Self(pids.into_iter().map(limit).collect())
    }

    /// While it has this many connections: of the descriptors that are free, so many can be had, and
    /// no more.
    fn lower(&self, connections: usize, room: usize) {
        // A client may have its answer before a forking parent has closed its copy.
        eventually("as many connections", DEADLINE, || {
            let used = self.0.iter().map(|(pid, _)| processes::descriptors(*pid));
            let used = used.collect::<Result<Vec<_>, _>>().ok()?;
            let all = used.iter().flatten();
            let sockets = all.filter(|(_, to)| to.starts_with("socket:")).count();
            // Each has the listener.
            (sockets == used.len() + connections).then_some(())
        })
        .expect("the listener and the connections");
        for (_, limit) in &self.0 {
            limit.lower(room).expect("it lives");
        }
    }

    fn restore(&self) {
        for (_, limit) in &self.0 {
            limit.restore().expect("it lives");
        }
    }
}
