//! What is left of a child that has ended, and who clears it away (UNP 5.7, 5.9).
//!
//! The same visit twice: a server that never waits for its children, and one that does. Asserted
//! are the states in the process table, what a zombie still has, and the parent's system calls.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::labs::crowd::{Crowd, in_words};
use crate::narrate::{Act, Chapter, Lab, Scene, shell};
use crate::observe::processes::{self, Process};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "zombies",
    title: "A child ends: what is left of it?",
    sections: "5.7, 5.9",
    chapter: Chapter::Signals,
    takes: 1,
    needs: &[],
    about: "A forking server has a child for each client. The client leaves, the child has done \
        its work and ends. What does the process table show then? Who clears it away? And what if \
        the parent dies first?",
    acts: || {
        vec![
            Box::new(careless(NO_REAPER)) as Box<dyn Scene>,
            Box::new(careful(REAPER)),
        ]
    },
};

/// A parent that never waits.
pub const NO_REAPER: &str = "tcpechod --model fork --mistake no-reaper --bind 127.0.0.1 {port}";
/// A parent that does.
pub const REAPER: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const LEAVES: &str = "The client is about to leave, and its child to end. What will ps show of \
    the child?";
const LEFT: &[(&str, &str)] = &[
    ("parent S", "nothing: it is gone"),
    (
        "parent S, child S",
        "it sleeps (S): it waits for the next client",
    ),
    ("parent S, child Z", "a zombie (Z), <defunct>"),
];

/// Who is there before, during and after the visit of a client that nobody waits for.
pub fn careless(server: &'static str) -> Act<Crowd> {
    opening("a parent that never waits", server)
        .predict(LEAVES, LEFT)
        .goodbye("The user types ^D: the client leaves.", 0)
        .answer("parent and child", "parent S, child Z", Crowd::census)
        .look("After: ps shows a process that is none any more.")
        .expect("descriptors it still has", "none", |c| {
            Ok(descriptors(&c.child(0)?))
        })
        .expect("bytes of memory it still has", 0, |c| {
            Ok(processes::rss(c.child(0)?.pid).unwrap_or(0) as usize)
        })
        .explain(
            "The child has ended: no memory, no descriptors (so the client got its FIN). What is \
             left is its line in the process table: the pid and how it ended, kept for a parent \
             that may ask with wait. The kernel told the parent with SIGCHLD. This parent never \
             asks. (Older books show do_exit as WCHAN; this kernel shows none.)",
        )
        .predict(
            "Somebody tries to get rid of the zombie: kill -KILL. What happens?",
            &[
                ("parent S", "the zombie is gone"),
                ("parent S, child Z", "nothing"),
                ("parent gone", "the parent dies"),
            ],
        )
        .act("Kill the zombie.", shell("kill -KILL {child}"), |c| {
            c.signal_child(0, Signal::SIGKILL)
        })
        .answer("parent and child", "parent S, child Z", |c| {
            c.rest()?;
            c.census()
        })
        .explain("Nobody can kill what is dead. Only wait clears it away.")
        .act(
            "Two more clients come and go.",
            shell("echo hello | tcpecho 127.0.0.1 {port}   # twice"),
            |c| (1..=2).try_for_each(|nth| visit(c, nth)),
        )
        .expect("zombies", 3, Crowd::zombies_at_rest)
        .look("One zombie for each client that was ever there.")
        .explain(
            "Each keeps a pid. They count as processes of their user: one day fork fails, and the \
             server can serve nobody any more (UNP 5.9).",
        )
        .predict(
            "Now the parent itself is killed. What becomes of its zombies?",
            &[
                ("gone", "they are gone: somebody else has waited for them"),
                ("zombies of another parent", "they stay for ever"),
            ],
        )
        .signal(
            "Kill the parent.",
            shell("kill -KILL {server}"),
            Signal::SIGKILL,
        )
        .expect("the parent", "killed by SIGKILL", Crowd::fate_of_server)
        .answer("its zombies", "gone", Crowd::family_now)
        .or_known(ADOPTED, ADOPTED_WHY)
        .observe(
            "ps finds none of them:",
            "ps -o pid,ppid,stat,args -p {family}",
            Crowd::ps,
        )
        .explain(
            "The book (5.9): a process whose parent has ended is inherited by init (pid 1), and \
             init waits for whatever ends. This kernel: the same. (It may also be a process that \
             has asked for it, a subreaper, such as systemd --user.)\n\n\
             Verdict: as the book says. Zombies are the parent's fault, and last as long as the \
             parent.",
        )
}

/// The same with a parent that waits, and the case that the parent is the first to go.
pub fn careful(server: &'static str) -> Act<Crowd> {
    opening("a parent that waits", server)
        .predict(LEAVES, LEFT)
        .goodbye("The user types ^D: the client leaves.", 0)
        .answer("parent and child", "parent S", Crowd::census)
        .expect(
            "what the parent did",
            "accept = -1 EINTR, waitpid = child, waitpid = -1 ECHILD, accept ...",
            |c| Ok(named(&in_words(&c.calls_of_parent()?))),
        )
        .show("The goodbye on one time line:", |c| {
            c.ladder(0, "connection")
        })
        .look("After: the child is gone.")
        .explain(
            "The signal (SIGCHLD) interrupted accept, the parent asked with waitpid until there \
             was nobody left to ask for (ECHILD), and went back to accept.\n\n\
             The book calls wait in the signal handler. Here the handler only sets a flag, and \
             the loop waits: a handler may not call printf and most other functions \
             (signal-safety(7)).",
        )
        .client("Another client.", CLIENT)
        .expect("parent and child", "parent S, child S", Crowd::census)
        .predict(
            "Now the parent dies while the child serves. What becomes of the child?",
            &[
                ("gone", "it dies with its parent"),
                (
                    "alive, with another parent",
                    "it serves on, and has another parent",
                ),
                ("zombies of another parent", "it becomes a zombie"),
            ],
        )
        .signal(
            "Kill the parent.",
            shell("kill -KILL {server}"),
            Signal::SIGKILL,
        )
        .answer("the child", "alive, with another parent", Crowd::family_now)
        .line("Is the client still served?", 1, "are you there?")
        .expect("what came back", "are you there?", |c| c.echoed(1))
        .goodbye("It leaves.", 1)
        .expect("the orphan", "gone", Crowd::family_now)
        .or_known(ADOPTED, ADOPTED_WHY)
        .explain(
            "An orphan lives on, and init inherits it. When it ends, init waits for it: no \
             zombie.\n\n\
             Verdict: whoever forks must wait.",
        )
        .try_it(
            "1$ tcpechod --model fork --mistake no-reaper\n\
             2$ tcpecho localhost\n\
             2> hello\n\
             2> ^D\n\
             2$ ps -o pid,ppid,stat,wchan:20,args -C tcpechod\n\
             2$ tcpecho localhost                         (again, and look again)\n\
             2> ^D\n\
             2$ ps -o pid,ppid,stat,wchan:20,args -C tcpechod\n\
             1> ^C\n\
             1$ tcpechod --model fork                     (and the same again)",
        )
        .read("Read: UNP 5.7, 5.9; wait(2), the section on zombies in NOTES.")
}

/// Outside a PID namespace it depends on who inherits.
const ADOPTED: &str = "zombies of another parent";
const ADOPTED_WHY: &str = "whoever inherited them here has not waited for them yet";

/// What both acts begin with: the server alone, then with one client.
fn opening(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, a server with a process per client.", server)
        .expect("who is there", "parent S", Crowd::census)
        .look("Before: one process.")
        .client("In terminal 2, a client.", CLIENT)
        .expect("parent and child", "parent S, child S", Crowd::census)
        .look("During: two. The parent sleeps in accept, the child in read.")
}

/// A client comes, is served and goes; its child has ended then.
fn visit(crowd: &mut Crowd, nth: usize) -> Result<()> {
    crowd.start_client(CLIENT)?;
    crowd.end_input(nth)?;
    crowd.client(nth)?.wait(Duration::from_secs(10)).map(drop)
}

fn descriptors(process: &Process) -> String {
    match processes::descriptors(process.pid) {
        Ok(descriptors) if !descriptors.is_empty() => descriptors.len().to_string(),
        _ => "none".into(),
    }
}

/// The calls with `child` in the place of its pid, which is another one each time.
fn named(calls: &str) -> String {
    let name = |call: &str| match call.strip_prefix("waitpid = ") {
        Some(pid) if !matches!(pid, "0" | "-1 ECHILD") => "waitpid = child".into(),
        _ => call.to_owned(),
    };
    calls.split(", ").map(name).collect::<Vec<_>>().join(", ")
}
