//! A signal arrives while a program waits in a system call (UNP 5.9; signal(7)).
//!
//! First the server that takes EINTR for a failure, then the one that goes on. Then every call in
//! which servers wait, with and without SA_RESTART: an actor waits in it, gets a signal, and either
//! says EINTR or sleeps again.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::actors::blocked::CALLS;
use crate::client::ClientProcess;
use crate::labs::cast::{begin, is_ready};
use crate::labs::crowd::{Crowd, in_words};
use crate::narrate::text::wrap;
use crate::narrate::{Act, Chapter, Lab, Names, Scene, Stage, View, shell};
use crate::observe::rest::is_at_rest;
use crate::observe::sock_diag::SockDiag;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "eintr",
    title: "A signal interrupts a system call: whose fault?",
    sections: "5.9",
    chapter: Chapter::Signals,
    takes: 2,
    needs: &[],
    about: "A server sleeps in accept. A signal comes, its handler runs and returns. Where does \
        the program go on: does accept return, or does it wait on? That depends on the call, and \
        on a flag of the handler, SA_RESTART.",
    acts: || {
        vec![
            Box::new(fatal(FATAL)) as Box<dyn Scene>,
            Box::new(harmless(HARMLESS)),
            Box::new(calls(CALLS)),
        ]
    },
};

/// The server that ends.
pub const FATAL: &str = "tcpechod --model fork --mistake fatal-eintr --bind 127.0.0.1 {port}";
/// The server that goes on.
pub const HARMLESS: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const QUESTION: &str = "The client leaves, its child ends, and SIGCHLD interrupts the parent in \
    accept. What becomes of the server?";
const CHOICES: &[(&str, &str)] = &[
    (
        "asleep",
        "it clears the child away and sleeps in accept again",
    ),
    ("exit status 1", "accept fails, and the server ends"),
    ("killed by SIGCHLD", "the signal kills it"),
];

/// The server that takes an interrupted accept for a failed one.
pub fn fatal(server: &'static str) -> Act<Crowd> {
    opening("a server that takes EINTR for a failure", server)
        .explain(
            "Its loop is written as one writes it first:\n\n\
             if ((connfd = accept(listenfd, ...)) < 0) err_sys(\"accept error\");",
        )
        .predict(QUESTION, CHOICES)
        .goodbye("The client leaves.", 0)
        .answer("the server", "exit status 1", Crowd::fate_of_server)
        .expect("the last call of the parent", "accept = -1 EINTR", |c| {
            let calls = c.calls_of_parent()?;
            let last = calls.len().saturating_sub(1);
            Ok(in_words(&calls[last..]))
        })
        .expect("who listens now", "nobody", |c| {
            let queue = SockDiag::open()?.queued(c.server()?.address())?;
            Ok(if queue.is_some() {
                "somebody"
            } else {
                "nobody"
            })
        })
        .show("It says:", |c| {
            let last = c.logged("accept")?.pop();
            Ok(View::Printed(
                wrap(&last.unwrap_or_default(), 72).join("\n"),
            ))
        })
        .explain(
            "Nothing had failed. Accept was only interrupted, so that the handler could run. The \
             first client that leaves takes the server with it.",
        )
}

/// The server that goes on.
pub fn harmless(server: &'static str) -> Act<Crowd> {
    opening("a server that goes on", server)
        .predict(QUESTION, CHOICES)
        .goodbye("The client leaves.", 0)
        .answer("the server", "asleep", |c| {
            c.rest()?;
            c.fate_of_server()
        })
        .expect("the first thing the parent saw", "accept = -1 EINTR", first)
        .show("The client's goodbye on one time line:", |c| {
            c.ladder(0, "connection")
        })
        .signal(
            "Any signal that is caught does it.",
            shell("kill -USR1 {server}"),
            Signal::SIGUSR1,
        )
        .expect("the first thing the parent saw", "accept = -1 EINTR", first)
        .expect("what it did last", "accept ...", |c| {
            c.rest()?;
            let calls = c.calls_of_parent()?;
            let last = calls.len().saturating_sub(1);
            Ok(in_words(&calls[last..]))
        })
        .client("Is the next client served?", CLIENT)
        .line("It types a line.", 1, "hello")
        .expect("what came back", "hello", |c| c.echoed(1))
        .explain(
            "EINTR is no failure: look at what the signal was about, then call accept again \
             (UNP figure 5.12: if (errno == EINTR) continue).\n\n\
             This server wants to be interrupted: that is how its loop learns of a child's end. \
             So it has no SA_RESTART. A server that has nothing to do between two accepts may \
             set it. Does SA_RESTART make EINTR go away? For some calls.",
        )
}

/// Every one of these calls, with and without SA_RESTART.
pub fn calls(waits: &'static [&'static str]) -> Act<Waits> {
    Act::open("which calls are restarted, and which never are", |_| {
        Ok(Waits::default())
    })
    .act(
        "A small program waits in one system call. SIGUSR1 comes; its handler returns.",
        shell("tcpecho-lab actor blocked CALL & sleep 1; kill -USR1 $!"),
        move |w| {
            w.without = interrupt(waits, "")?;
            Ok(())
        },
    )
    .expect("without SA_RESTART these fail with EINTR", EVERY, |w| {
        Ok(failed(&w.without))
    })
    .predict(
        "The same with SA_RESTART. Which calls are interrupted even so?",
        &[
            ("none", "none: that is what the flag is for"),
            (
                "accept/timeout, read/timeout, poll, select, epoll_wait, nanosleep",
                "those that have a time limit, or wait for several things",
            ),
            (EVERY, "all of them: the flag is for the sleep functions"),
        ],
    )
    .act(
        "The same again, the handler with SA_RESTART.",
        shell("tcpecho-lab actor blocked CALL --restart & sleep 1; kill -USR1 $!"),
        move |w| {
            w.with = interrupt(waits, " --restart")?;
            Ok(())
        },
    )
    .answer(
        "with SA_RESTART these fail with EINTR",
        "accept/timeout, read/timeout, poll, select, epoll_wait, nanosleep",
        |w| Ok(failed(&w.with)),
    )
    .expect(
        "with SA_RESTART these go on waiting",
        "accept, read, write, waitpid",
        |w| Ok(named(&w.with, "asleep")),
    )
    .show("All of it:", |w| Ok(View::Printed(w.table())))
    .explain(
        "(/timeout: on a socket with SO_RCVTIMEO.) With the flag Linux restarts a call that \
             waits for one thing and has no time limit. Those for many things, and those with a \
             limit, it never restarts. A loop around poll is glad of that: it wants to see what \
             the handler has noted.\n\n\
             The book (5.9): not every kernel restarts every call, even with SA_RESTART; some \
             never restart select, some never accept. This kernel restarts accept, and never \
             select.\n\n\
             Verdict: SA_RESTART is no substitute for handling EINTR.",
    )
    .try_it(
        "1$ tcpechod --model fork --mistake fatal-eintr\n\
         2$ tcpecho localhost\n\
         2> ^D                                        (and look at 1)\n\
         1$ tcpecho-lab actor blocked poll --restart\n\
         2$ pkill -USR1 -f 'actor blocked'            (1 says EINTR)\n\
         1$ tcpecho-lab actor blocked read --restart\n\
         2$ pkill -USR1 -f 'actor blocked'            (1 reads on)",
    )
    .read(
        "Read: UNP 5.9; signal(7), \"Interruption of system calls and library functions by \
             signal handlers\"; sigaction(2), SA_RESTART.",
    )
}

const EVERY: &str = "accept, read, write, waitpid, accept/timeout, read/timeout, poll, select, \
    epoll_wait, nanosleep";

/// A server and a client, and the server's parent process sleeps in accept.
fn opening(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, the server.", server)
        .client("In terminal 2, a client.", CLIENT)
        .expect("parent and child", "parent S, child S", Crowd::census)
        .look("The parent sleeps in accept.")
}

/// The first call that returned to the parent.
fn first(crowd: &Crowd) -> Result<String> {
    let calls = crowd.calls_of_parent()?;
    Ok(in_words(calls.get(..1).context("nothing yet")?))
}

/// What became of each call when the signal came.
#[derive(Default)]
pub struct Waits {
    without: Vec<Outcome>,
    with: Vec<Outcome>,
}

/// A call, and `EINTR` or `asleep`.
type Outcome = (&'static str, String);

impl Waits {
    fn table(&self) -> String {
        let mut table = format!("{:<16}{:<22}SA_RESTART\n", "call", "without SA_RESTART");
        for ((call, without), (_, with)) in self.without.iter().zip(&self.with) {
            let told = |outcome: &str| match outcome {
                "asleep" => "waits on".to_owned(),
                other => other.to_owned(),
            };
            let (without, with) = (told(without), told(with));
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{call:<16}{without:<22}{with}");
        }
        table
    }
}

impl Stage for Waits {
    fn names(&self) -> Names {
        Names::new()
    }
}

/// How long an actor may take to do what it does at once.
const PROMPTLY: Duration = Duration::from_secs(20);

/// Lets an actor wait in each of the calls, and interrupts it.
fn interrupt(calls: &[&'static str], flag: &str) -> Result<Vec<Outcome>> {
    let start = |call: &&'static str| {
        let actor = begin(&format!("tcpecho-lab actor blocked {call}{flag}"))?;
        Ok((*call, actor))
    };
    let actors = calls.iter().map(start).collect::<Result<Vec<_>>>()?;
    let outcome = |(call, actor): (&'static str, ClientProcess)| {
        let outcome = interrupted(&actor).with_context(|| actor.transcript())?;
        Ok((call, outcome))
    };
    actors.into_iter().map(outcome).collect()
}

/// Sends the signal when the actor waits. What is the last that it says, or how is it, once its
/// handler has run?
fn interrupted(actor: &ClientProcess) -> Result<String> {
    eventually("an actor that waits", PROMPTLY, || {
        is_ready(actor).then_some(())
    })?;
    actor.signal(Signal::SIGUSR1)?;
    eventually("what becomes of its call", PROMPTLY, || {
        let ended = actor.status().is_some();
        let said = String::from_utf8_lossy(&actor.stdout()).into_owned();
        let last = said.lines().last()?.to_owned();
        match said.contains("caught") {
            true if ended && last != "caught" => Some(last),
            true if !ended && is_at_rest(actor.pid()) => Some("asleep".into()),
            _ => None,
        }
    })
}

fn failed(outcomes: &[Outcome]) -> String {
    named(outcomes, "EINTR")
}

/// The calls that came out so.
fn named(outcomes: &[Outcome], how: &str) -> String {
    let calls: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome == how)
        .map(|(call, _)| *call)
        .collect();
    match calls.as_slice() {
        [] => "none".into(),
        calls => calls.join(", "),
    }
}
