//! Workers that are there before the clients: who is served, who waits, who serves whom, and what
//! if one dies (UNP 30.6, 30.11).
//!
//! Processes and threads. Asserted are the workers, the queue of the listener, what comes back, and
//! how many connections each worker has accepted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::labs::crowd::{Crowd, PS, SS};
use crate::narrate::{Act, Chapter, Lab, Scene, View, shell};
use crate::observe::calls::Phase;
use crate::observe::processes;
use crate::observe::sockets::State;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "pools",
    title: "Workers in advance: who waits, who serves whom?",
    sections: "30.6, 30.11",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[],
    about: "To start a process for each client takes time. So start some in advance, and let all \
        of them wait in accept. What if there are more clients than workers? Which worker gets \
        which client? And what if a worker dies?",
    acts: || {
        vec![
            Box::new(processes_in_advance(PREFORK)) as Box<dyn Scene>,
            Box::new(threads_in_advance(THREADS)),
            Box::new(turns(FOUR)),
        ]
    },
};

/// Three processes in advance.
pub const PREFORK: &str = "tcpechod --model prefork --workers 3 --bind 127.0.0.1 {port}";
/// Three threads in advance.
pub const THREADS: &str = "tcpechod --model thread-pool --workers 3 --bind 127.0.0.1 {port}";
/// Four processes in advance.
pub const FOUR: &str = "tcpechod --model prefork --workers 4 --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const VISITS: usize = 40;
const SOON: Duration = Duration::from_secs(10);
const FOURTH: &str = "Three workers, three clients. A fourth connects and types. What now?";
const WAYS: &[(&str, &str)] = &[
    ("0 queued, hello? came back", "a worker serves two"),
    (
        "1 queued, nothing came back",
        "it waits in the queue until a client leaves",
    ),
    ("0 queued, nothing came back", "it is refused"),
];

/// Processes, and the death of one.
pub fn processes_in_advance(server: &'static str) -> Act<Crowd> {
    let act = Act::open("processes in advance", Crowd::open)
        .server("In terminal 1, a server with three workers.", server)
        .expect("before any client", "parent S, children S S S", |c| {
            c.rest()?;
            c.census()
        })
        .look("All three sleep in accept, on the same listening socket.");
    more_than_workers(act)
        .predict(
            "A worker is killed while it serves. What becomes of the pool?",
            &[
                ("parent S, children S S", "it has two workers from now on"),
                ("parent S, children S S S", "the parent starts another"),
                ("parent gone", "the server ends"),
            ],
        )
        .act("Kill a worker.", shell("kill -KILL {child}"), |c| {
            let killed = c.child(0)?.pid;
            c.signal_child(0, Signal::SIGKILL)?;
            eventually("the end of it", SOON, || {
                processes::look(killed).is_none().then_some(())
            })
        })
        .answer("the pool", "parent S, children S S S", |c| {
            c.rest()?;
            c.census()
        })
        .expect("clients that have ended with exit status 3", 1, lost)
        .observe("The new one has a new pid:", PS, Crowd::ps)
        .explain(
            "Its client was lost: tcpecho says that the server terminated prematurely. Nobody \
             but the parent can start another worker, so it must wait for its children even if \
             they never should end. The book's servers do not.",
        )
}

/// Threads.
pub fn threads_in_advance(server: &'static str) -> Act<Crowd> {
    let act = Act::open("threads in advance", Crowd::open)
        .server("In terminal 1, a server with three threads.", server)
        .expect("processes", "parent S", Crowd::census)
        .expect(
            "its threads: one that waits for signals, and the workers",
            4,
            |c| {
                let server = processes::look(c.server()?.pid());
                Ok(server.context("it has ended")?.threads as usize)
            },
        );
    more_than_workers(act).explain(
        "The same with threads. But a thread cannot be killed alone: kill -KILL ends the whole \
         process, and so does a crash.",
    )
}

/// Three are served, the fourth waits.
fn more_than_workers(act: Act<Crowd>) -> Act<Crowd> {
    act.act(
        "Three clients, in three terminals; each types a line.",
        shell(CLIENT),
        |c| {
            (0..3).try_for_each(|nth| {
                c.start_client(CLIENT)?;
                c.type_line(nth, "hello")
            })
        },
    )
    .expect("what came back", "hello, hello, hello", |c| {
        let all: Result<Vec<_>> = (0..3).map(|nth| c.echoed(nth)).collect();
        Ok(all?.join(", "))
    })
    .predict(FOURTH, WAYS)
    .client("The fourth.", CLIENT)
    .line("It types.", 3, "hello?")
    .answer("the fourth client", "1 queued, nothing came back", fourth)
    .observe("Recv-Q of LISTEN: who waits for accept.", SS, Crowd::ss)
    .goodbye("The first client leaves.", 0)
    .expect("the fourth client", "0 queued, hello? came back", fourth)
    .explain(
        "A pool serves as many clients at a time as it has workers. Client N+1 waits, however \
         little the others do: three users who only look at their screens are enough.",
    )
}

const EVEN: &str = "ten each, give or take one";

/// Who serves whom.
pub fn turns(server: &'static str) -> Act<Crowd> {
    Act::open("who gets which client?", Crowd::open)
        .server("In terminal 1, a server with four workers.", server)
        .predict(
            "Forty clients come, one after the other; each is served and leaves before the next. \
             How many does each of the workers get?",
            &[
                ("0 0 0 40", "one gets all: the kernel wakes the same one"),
                (EVEN, "ten each: they take turns"),
                (
                    "uneven",
                    "as it happens: all wake up, and the quickest wins",
                ),
            ],
        )
        .act(
            "Forty clients.",
            shell("for i in $(seq 40); do echo hello | tcpecho 127.0.0.1 {port}; done"),
            |c| (0..VISITS).try_for_each(|_| visit(c)),
        )
        .show("Connections of each worker:", |c| {
            let bar =
                |(pid, count): (i32, usize)| format!("{pid:>8}  {} {count}\n", "#".repeat(count));
            Ok(View::Printed(shares(c)?.into_iter().map(bar).collect()))
        })
        .answer("shares of the workers", EVEN, |c| {
            let mut shares: Vec<_> = shares(c)?.into_values().collect();
            shares.sort_unstable();
            // On a busy machine somebody may lose his turn.
            if shares.len() == 4 && shares.iter().all(|share| (9..=11).contains(share)) {
                return Ok(EVEN.to_owned());
            }
            let shares: Vec<_> = shares.iter().map(ToString::to_string).collect();
            Ok(shares.join(" "))
        })
        .explain(
            "Those who sleep in accept stand in a queue. A new connection wakes one of them, the \
             first in the queue; when it comes back, it goes to the end.\n\n\
             The book (30.6): all processes are woken for each connection, and only one gets it \
             (the thundering herd); the distribution differs from system to system. This kernel: \
             accept wakes one, and they take turns. (With poll or epoll in front of accept it is \
             another story.)\n\n\
             Verdict: a pool saves the fork, and limits the clients; choose its size by the \
             clients at a time, not by the processors.",
        )
        .try_it(
            "1$ tcpechod --model prefork --workers 3\n\
             2$ tcpecho localhost                         (and the same in 3 and 4)\n\
             2> hello\n\
             3$ tcpecho localhost\n\
             4$ tcpecho localhost\n\
             5$ tcpecho localhost\n\
             5> hello                                     (nothing)\n\
             2> ^D                                        (and look at 5)\n\
             6$ ps --ppid $(pgrep -o tcpechod)\n\
             6$ kill -KILL $(pgrep -n tcpechod)           (one of them; and look again)\n\
             6$ ps --ppid $(pgrep -o tcpechod)\n\
             6$ kill -USR1 $(pgrep -o tcpechod)           (1 shows the shares)",
        )
        .read("Read: UNP 30.6 to 30.8, 30.11, 30.12; accept(2).")
}

/// One client, from connect to the end; everybody sleeps again then.
fn visit(crowd: &mut Crowd) -> Result<()> {
    crowd.connect(1)?;
    crowd.disconnect();
    // First it is gone at the server as well: on a busy machine a FIN may be late.
    eventually("workers that wait", SOON, || {
        let states = [State::Established, State::CloseWait, State::LastAck];
        let gone = states.map(|state| crowd.in_state(state).ok() == Some(0));
        (gone == [true; 3]).then(|| all_accept(crowd))??;
        crowd.rest().ok()
    })
}

/// Is accept the call that each of the workers has made last, and not returned from?
fn all_accept(crowd: &Crowd) -> Option<()> {
    let calls = crowd.server().ok()?.calls();
    let waits = |pid| {
        let last = calls.iter().rev().find(|call| call.pid == pid);
        last.is_some_and(|call| call.call == "accept" && call.phase == Phase::Enter)
    };
    let workers = crowd.children().ok()?;
    workers.iter().all(|worker| waits(worker.pid)).then_some(())
}

/// Which worker has accepted how many connections; those that have none are not in it.
fn shares(crowd: &Crowd) -> Result<BTreeMap<i32, usize>> {
    let mut shares = BTreeMap::new();
    for call in crowd.server()?.calls() {
        if call.call == "accept" && call.result > 0 {
            *shares.entry(call.pid).or_default() += 1;
        }
    }
    Ok(shares)
}

/// How many of the clients have ended because their server was gone.
fn lost(crowd: &Crowd) -> Result<usize> {
    let fates: Result<Vec<_>> = (0..4).map(|nth| crowd.fate_of_client(nth)).collect();
    Ok(fates?
        .iter()
        .filter(|fate| *fate == "exit status 3")
        .count())
}

/// Is the fourth client queued, and what came back to it?
fn fourth(crowd: &Crowd) -> Result<String> {
    let echoed = crowd.echoed_at_rest(3)?;
    let what = if echoed.is_empty() {
        "nothing"
    } else {
        &echoed
    };
    Ok(format!("{} queued, {what} came back", crowd.queued()?))
}
