//! Five clients leave at once, and one wait for each signal does not do (UNP 5.10).
//!
//! Signals of one kind are not counted: one that is already pending swallows the next. How many
//! zombies that leaves is up to the scheduler, so first it is counted many times, and shown as a
//! distribution; then the parent is held still, and the number is certain.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::labs::crowd::{Crowd, distribution, signal_set, signals_in};
use crate::narrate::{Act, Chapter, Lab, Names, Scene, Stage, View, shell};
use crate::netns::Isolation;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "one-wait",
    title: "Five children end at once: is one wait enough?",
    sections: "5.9, 5.10",
    chapter: Chapter::Signals,
    takes: 7,
    needs: &[],
    about: "A server handles SIGCHLD and waits once each time. That looks right: one child, one \
        signal, one wait. Then a client comes with five connections, and leaves: five children \
        end at the same moment.",
    acts: || {
        vec![
            Box::new(
                many_times("one wait for each signal, many times", WAIT_ONCE, "yes").or_known(
                    "no",
                    "every run was lucky; the next act leaves no room for luck",
                ),
            ) as Box<dyn Scene>,
            Box::new(held_still(WAIT_ONCE)),
            Box::new(cure(LOOP)),
            Box::new(
                many_times("the cure, as many times", LOOP, "no")
                    .try_it(TRY)
                    .read(READ),
            ),
        ]
    },
};

/// One wait for each SIGCHLD.
pub const WAIT_ONCE: &str = "tcpechod --model fork --mistake wait-once --bind 127.0.0.1 {port}";
/// As many as there is somebody to wait for.
pub const LOOP: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho --connections 5 127.0.0.1 {port}";
const CONNECTIONS: usize = 5;
/// How often in a row a parent must be at rest, with as many zombies as before.
const LOOKS: usize = 5;
const RUNS: usize = 15;
/// How long a run may take to do what it does at once.
const PROMPTLY: Duration = Duration::from_secs(20);
const HOW_MANY: &str = "Now the parent goes on. Its handler runs, and waits. How many zombies are \
    left?";
const ZOMBIES: &[(&str, &str)] = &[
    ("0", "none: five signals, five waits"),
    ("4", "four: one signal, one wait"),
    ("5", "five: all signals were lost"),
];
const TRY: &str = "\
1$ tcpechod --model fork --mistake wait-once
2$ tcpecho --connections 5 localhost
2> ^D
3$ ps -o pid,ppid,stat,args -C tcpechod      (count the zombies; again!)
2$ tcpecho --connections 5 localhost
3$ kill -STOP $(pgrep -o tcpechod)           (the parent)
2> ^D
3$ kill -CONT $(pgrep -o tcpechod)
3$ ps -o pid,ppid,stat,args -C tcpechod      (how many now?)";
const READ: &str = "Read: UNP 5.10 (figures 5.7 to 5.11); signal(7), \"Queueing and delivery \
    semantics for standard signals\"; waitpid(2).";

/// The experiment, as often as it takes to see that its outcome varies; with the cure, that it does
/// not. Was a zombie `ever` left?
pub fn many_times(title: &'static str, server: &'static str, ever: &'static str) -> Act<Runs> {
    Act::open(title, |_| Ok(Runs(Vec::new())))
        .act(
            "Fifteen times: a new server, and a client with five connections that leaves.",
            shell(server),
            move |runs| {
                runs.0 = (0..RUNS).map(|_| run(server)).collect::<Result<_>>()?;
                Ok(())
            },
        )
        .show(
            "How many zombies were left, and in how many runs:",
            |runs| Ok(View::Printed(distribution("zombies", "runs", &runs.0))),
        )
        .expect("were all five ever left?", "no", |runs| {
            Ok(yes(runs.0.iter().any(|left| *left >= CONNECTIONS)))
        })
        .expect("was a zombie ever left?", ever, |runs| {
            Ok(yes(runs.0.iter().any(|left| *left > 0)))
        })
}

/// The parent stands still while its children end: then the outcome is certain.
pub fn held_still(server: &'static str) -> Act<Crowd> {
    holding("one wait, and a parent that is held still", server)
        .predict(HOW_MANY, ZOMBIES)
        .signal(
            "The parent goes on.",
            shell("kill -CONT {server}"),
            Signal::SIGCONT,
        )
        .answer("zombies", "4", Crowd::zombies_at_rest)
        .look("One child was waited for, four are left.")
        .explain(
            "The book (5.10): four zombies where client and server are on one host; on two hosts \
             fewer, depending on when the FINs arrive. This kernel: up to four, even on one host. \
             At least one signal gets through, so at least one child is waited for; how many more \
             is luck, as the runs before have shown. Who tests with one client finds nothing.\n\n\
             Verdict: a signal says \"at least one child has ended\", never how many.",
        )
}

/// The same with a reaper that asks until nobody is left.
pub fn cure(server: &'static str) -> Act<Crowd> {
    holding("the cure: wait until there is nobody left", server)
        .predict(HOW_MANY, ZOMBIES)
        .signal(
            "The parent goes on.",
            shell("kill -CONT {server}"),
            Signal::SIGCONT,
        )
        .answer("zombies", "0", Crowd::zombies_at_rest)
        .expect(
            "children that the parent has waited for",
            CONNECTIONS,
            |c| {
                let calls = c.calls_of_parent()?;
                let waits = calls.iter().filter(|c| c.call == "waitpid" && c.result > 0);
                Ok(waits.count())
            },
        )
        .explain(
            "Still one signal. But the parent calls waitpid(-1, &status, WNOHANG) in a loop until \
             no child is left that has ended. WNOHANG, because otherwise it would sleep there \
             while another child lives, and accept nobody.",
        )
}

/// Up to the moment in which five children have ended and the parent does not know it yet.
fn holding(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, the server.", server)
        .client("In terminal 2, one client with five connections.", CLIENT)
        .expect(
            "parent and children",
            "parent S, children S S S S S",
            Crowd::census,
        )
        .signal(
            "The parent is stopped: it can do nothing for now.",
            shell("kill -STOP {server}"),
            Signal::SIGSTOP,
        )
        .expect(
            "parent and children",
            "parent T, children S S S S S",
            Crowd::census,
        )
        .goodbye("The client leaves: five FINs, five children end.", 0)
        .expect(
            "parent and children",
            "parent T, children Z Z Z Z Z",
            Crowd::census,
        )
        .look("Five have ended. Each has sent its parent a SIGCHLD.")
        .expect("what is pending for the parent", "SIGCHLD", |c| {
            let pending = signal_set(c.server()?.pid(), "ShdPnd")?;
            Ok(signals_in(pending))
        })
        .observe(
            "The kernel keeps what is pending as one bit for each kind of signal.",
            "grep ShdPnd /proc/{server}/status",
            |c| {
                let pending = signal_set(c.server()?.pid(), "ShdPnd")?;
                Ok(format!("ShdPnd: {pending:016x}"))
            },
        )
        .explain(
            "SIGCHLD is number 17: bit 16. A bit is set or not; it cannot say five. Who sends a \
             signal that is pending already changes nothing.",
        )
}

/// How many zombies each of several runs left.
pub struct Runs(Vec<usize>);

impl Stage for Runs {
    /// Each run has a port and processes of its own.
    fn names(&self) -> Names {
        vec![("port", "0".into())]
    }
}

/// A server, a client that leaves with its connections: how many zombies are left?
fn run(server: &str) -> Result<usize> {
    let anywhere = Isolation::Plain("one of many runs".into());
    let mut crowd = Crowd::open_unrecorded(&anywhere)?;
    crowd.start_server(server)?;
    crowd.start_client(CLIENT)?;
    eventually("a child for each connection", PROMPTLY, || {
        let children = crowd.children().ok()?;
        (children.len() == CONNECTIONS && crowd.rest().is_ok()).then_some(())
    })?;
    crowd.end_input(0)?;
    // First all are dead, then the parent is at rest, then those are counted who are left. On a virtual
    // machine a processor may stand still for longer than a look takes, between a death and its signal.
    let dead = || {
        let children = crowd.children().ok()?;
        let all = children.iter().all(|child| child.state == 'Z');
        all.then_some(children.len())
    };
    eventually("the end of all children", PROMPTLY, || {
        let before = dead()?;
        let same = |_| crowd.rest().is_ok() && dead() == Some(before);
        (0..LOOKS).all(same).then_some(before)
    })
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}
