//! Find the bug: a reaper with `>=` where `>` is right (UNP 5.10; wait3(2)).
//!
//! With one client the program is right, with two it spins as soon as the first has left, and
//! accepts nobody until the second leaves. Asserted are states, processor time, whether the parent
//! ever sleeps, and the queue of the listener; then, with the right reaper, what waitpid returns.

use std::time::Duration;

use crate::labs::crowd::{Crowd, SS, in_words};
use crate::narrate::{Act, Chapter, Expected, Lab, Scene, View};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "wait3",
    title: "Find the bug: the reaper of many a textbook server",
    sections: "5.10",
    chapter: Chapter::Signals,
    takes: 9,
    needs: &[],
    about: "A reaper that has been copied from course to course. It waits in a loop, and with \
        WNOHANG, as it should. With one client at a time it works. With two it brings the server \
        to a standstill.",
    acts: || {
        vec![
            Box::new(wrong(SPINS)) as Box<dyn Scene>,
            Box::new(right(RIGHT)),
        ]
    },
};

/// The server with the bug.
pub const SPINS: &str = "tcpechod --model fork --mistake wait3-spin --bind 127.0.0.1 {port}";
/// The server without.
pub const RIGHT: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const LISTING: &str = "\
1   void reaper(int sig)                 /* for SIGCHLD */
2   {
3       int status;
4
5       while (wait3(&status, WNOHANG, NULL) >= 0)
6           continue;
7   }";

/// Enough to see that it is not just passing by.
const MUCH: Duration = Duration::from_millis(300);
/// Long enough for a class to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(500);

/// Two clients, one leaves, a third comes.
pub fn wrong(server: &'static str) -> Act<Crowd> {
    Act::open("a reaper with a bug", Crowd::open_unrecorded)
        .listing("Read it. One character is wrong; which one?", LISTING)
        .server("In terminal 1, a server with this reaper.", server)
        .client("In terminal 2, a client.", CLIENT)
        .client("In terminal 3, another.", CLIENT)
        .expect(
            "parent and children",
            "parent S, children S S",
            Crowd::census,
        )
        .look("All is well: the parent sleeps in accept.")
        .predict(
            "The first client leaves, the second stays. What does the parent do then?",
            &[
                (
                    "parent S, child S",
                    "it clears the child away and sleeps in accept",
                ),
                ("parent S, children S Z", "it sleeps, and leaves a zombie"),
                (
                    "parent R, child S",
                    "it clears the child away, and runs on and on",
                ),
            ],
        )
        .goodbye("The first client leaves.", 0)
        .answer("parent and child", "parent R, child S", Crowd::census)
        .observe(
            "No zombie. But look at STAT:",
            crate::labs::crowd::PS,
            Crowd::ps,
        )
        .expect(
            "the parent used _ of processor time",
            Expected::AtLeast(MUCH),
            |c| Ok(c.burn(MUCH)?.used),
        )
        .expect("times it slept meanwhile", 0, |c| {
            Ok(c.burn(MUCH)?.slept as usize)
        })
        .show(
            "Its share of a processor meanwhile, as top would show it:",
            |c| {
                Ok(View::Printed(format!(
                    "%CPU  {:.0}",
                    c.burn(MUCH)?.percent()
                )))
            },
        )
        .client("A third client comes.", CLIENT)
        .line("It types a line.", 2, "hello?")
        .predict(
            "Does it get an answer?",
            &[
                ("0 queued, hello? came back", "yes, from a child of its own"),
                ("0 queued, nothing came back", "no: it is refused"),
                (
                    "1 queued, nothing came back",
                    "no: it is connected, and waits in the queue",
                ),
            ],
        )
        .wait("Wait a little.", A_WHILE)
        .answer("the third client", "1 queued, nothing came back", third)
        .expect("its sockets, server's / client's", "ESTAB / ESTAB", |c| {
            c.states(2)
        })
        .observe("Recv-Q of LISTEN: who waits to be accepted.", SS, Crowd::ss)
        .explain(
            "The kernel has made the connection: that needs no accept. But the parent does not \
             come back to accept. It is in line 5, for ever? Let the second client leave.",
        )
        .goodbye("The second client leaves.", 1)
        .expect("the third client", "0 queued, hello? came back", third)
        .expect("parent and child", "parent S, child S", Crowd::census)
        .or_known(
            "parent R, child S",
            "the signal came when the third client's child was there: it waits for that one now",
        )
        .explain(
            "Suddenly all is well again. So the reaper ends when no child is left at all. What \
             did wait3 return until then?",
        )
}

/// The same with the right loop: what ends it?
pub fn right(server: &'static str) -> Act<Crowd> {
    Act::open("the right reaper, and what its calls return", Crowd::open)
        .server(
            "In terminal 1, a server with a reaper that is right.",
            server,
        )
        .client("In terminal 2, a client.", CLIENT)
        .client("In terminal 3, another.", CLIENT)
        .expect(
            "parent and children",
            "parent S, children S S",
            Crowd::census,
        )
        .predict(
            "One client leaves, its child ends, the other child lives. The parent asks until there \
             is nothing more to ask for. What does the last of its calls return? (wait3(&status, \
             WNOHANG, NULL) is the same as waitpid(-1, &status, WNOHANG).)",
            &[
                ("waitpid = 0", "0"),
                ("waitpid = -1 EAGAIN", "-1, EAGAIN: try again later"),
                ("waitpid = -1 ECHILD", "-1, ECHILD: there is no child"),
            ],
        )
        .goodbye("The first client leaves.", 0)
        .answer("the last wait", "waitpid = 0", last_wait)
        .show("The goodbye on one time line:", |c| {
            c.ladder(0, "both connections")
        })
        .expect("parent and child", "parent S, child S", Crowd::census)
        .client("A third client comes.", CLIENT)
        .line("It types a line.", 2, "hello?")
        .expect("the third client", "0 queued, hello? came back", third)
        .goodbye("The second client leaves.", 1)
        .expect("parent and child", "parent S, child S", Crowd::census)
        .goodbye("And the third.", 2)
        .expect(
            "the last wait, when no child is left",
            "waitpid = -1 ECHILD",
            last_wait,
        )
        .explain(
            "With WNOHANG there are three answers: a pid, a child that has ended; 0, there are \
             children, but none has ended; -1, there is none. `>= 0` takes the 0 for a child, and \
             asks again at once: a busy wait inside a signal handler. `> 0` is right.\n\n\
             The book (5.10, figure 5.11) has `> 0`. This kernel returns what the man page says. \
             Verdict: the bug shows only with two clients at a time, so a test with one does not \
             find it.",
        )
        .try_it(
            "1$ tcpechod --model fork --mistake wait3-spin\n\
             2$ tcpecho localhost\n\
             2> hello                                     (leave it open)\n\
             3$ tcpecho localhost\n\
             3> hello\n\
             3> ^D\n\
             3$ top\n\
             3> ^C\n\
             3$ tcpecho localhost\n\
             3> hello                                     (nothing)\n\
             2> ^D                                        (and look at 3)",
        )
        .read("Read: UNP 5.10; waitpid(2), RETURN VALUE; wait3(2).")
}

/// Is the third client queued, and what came back to it?
fn third(crowd: &Crowd) -> anyhow::Result<String> {
    let echoed = crowd.echoed(2)?;
    let what = if echoed.is_empty() {
        "nothing"
    } else {
        &echoed
    };
    Ok(format!("{} queued, {what} came back", crowd.queued()?))
}

/// The last call of waitpid, once the parent is back in accept.
fn last_wait(crowd: &Crowd) -> anyhow::Result<String> {
    crowd.rest()?;
    let mut calls = crowd.calls_of_parent()?;
    calls.retain(|call| call.call == "waitpid");
    let last = calls.len().saturating_sub(1);
    Ok(in_words(&calls[last..]))
}
