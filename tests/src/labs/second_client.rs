//! One client at a time: what the second sees, and where it waits (UNP 1.5, 4.5).
//!
//! An iterative server and more clients than it can serve. Asserted are the states of sockets whom
//! nobody has accepted, the queue of the listener, where the server sleeps, what comes back and
//! when. How long the queue may become is another story: [`backlog`](super::backlog).

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::labs::crowd::{Crowd, SS, in_words, outcomes};
use crate::narrate::{Act, Chapter, Lab, Scene, shell};
use crate::observe::sockets::State;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "second-client",
    title: "One client at a time: where is the second?",
    sections: "1.5, 4.5",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[],
    about: "The smallest server serves one client to its end, and then accepts the next. What does \
        the second client see meanwhile? Is it refused? Does it wait, and for what?",
    acts: || vec![Box::new(waiting(ITERATIVE)) as Box<dyn Scene>],
};

/// The server that serves one client at a time.
pub const ITERATIVE: &str = "tcpechod --model iterative --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";

const TRY_IT: &str = "1$ tcpechod --model iterative\n\
    2$ tcpecho localhost\n\
    2> hello\n\
    3$ tcpecho localhost\n\
    3> hello                                     (nothing)\n\
    4$ ss -tan | grep 9877                       (LISTEN 1, ESTAB with Recv-Q)\n\
    2> ^D                                        (and look at 3)";

/// One is served, one waits, one gives up waiting.
pub fn waiting(server: &'static str) -> Act<Crowd> {
    Act::open("the second client waits", Crowd::open)
        .server("In terminal 1, a server that serves one at a time.", server)
        .client("In terminal 2, a client.", CLIENT)
        .line("Its user types.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
        .predict(
            "Now a second client, in terminal 3. The server is busy with the first. What becomes \
             of the connection?",
            &[
                ("gone / SYN-SENT", "the second client waits in connect"),
                ("ESTAB / ESTAB", "it is made, and nobody has accepted it"),
                ("gone / gone", "it is refused"),
            ],
        )
        .client("The second client.", CLIENT)
        .answer("its sockets, server's / client's", "ESTAB / ESTAB", |c| {
            c.states(1)
        })
        .expect("who has the server's end", "nobody", |c| c.holders(1))
        .explain(
            "The kernel shakes hands, not the program. It puts the new connection into a queue, \
             and accept takes it from there: when the server comes back to accept.",
        )
        .predict(
            "The second user types a line. Where are its bytes then?",
            &[
                ("0", "still at the client: nobody would take them"),
                ("8", "at the server's kernel, in a socket that nobody has"),
            ],
        )
        .line("The second user types.", 1, "anyone?")
        .answer("bytes unread at the server", 8, |c| c.unread(1))
        .expect("what came back", "", |c| {
            c.rest()?;
            c.echoed(1)
        })
        .expect("where the server is", "read ...", Crowd::server_sleeps_in)
        .observe(
            "Recv-Q of LISTEN: who waits for accept. Recv-Q of ESTAB: bytes that wait for read.",
            SS,
            Crowd::ss,
        )
        .explain(
            "The server sleeps in read, for the first client. It cannot know of the second. To \
             the second client all looks well: connect and write have succeeded.",
        )
        .client("A third client, in terminal 4.", CLIENT)
        .line("It types as well.", 2, "me too")
        .expect("bytes unread at the server", 7, |c| c.unread(2))
        .act(
            "Its user does not wait: kill -KILL.",
            shell("kill -KILL {client}"),
            |c| c.signal_client(2, Signal::SIGKILL),
        )
        .expect("connections with a FIN, unaccepted", 1, |c| {
            c.in_state(State::CloseWait)
        })
        .predict(
            "Two are in the queue: one waits, one is dead. The first client leaves. What does the \
             server do with the dead one, when its turn comes?",
            &[
                ("accept fails", "accept fails, as nobody is there"),
                (
                    "read = 7, write = 7, read = 0",
                    "it reads its line, writes the echo, and then learns it",
                ),
                (
                    "read = 7, write = -1 EPIPE",
                    "it reads its line, and cannot write",
                ),
            ],
        )
        .goodbye("The first user types ^D.", 0)
        .expect("what came back to the second", "anyone?", |c| c.echoed(1))
        .goodbye("The second leaves too.", 1)
        .answer(
            "what the server did for the third",
            "read = 7, write = 7, read = 0",
            for_the_last,
        )
        .show("The third on one time line, and what the server did (^D was the second's):", |c| {
            c.ladder(2, "connection, a line, kill -KILL")
        })
        .expect("connections with a FIN, unaccepted", 0, |c| {
            c.in_state(State::CloseWait)
        })
        .explain(
            "Accept gives out connections in the order in which they came, the dead ones too. The \
             bytes and the FIN were in the queue with it. The write goes to nobody: it returns 7, for \
             the bytes are sent, and the client's kernel answers them with an RST.\n\n\
             The book (1.5, 4.5): an iterative server; completed connections are queued. This \
             kernel: the same. Verdict: whoever waits in the queue looks connected to itself, and \
             a client alone cannot tell a busy server from a dead one. How many may wait, and what \
             becomes of one too many: see the demonstration backlog.",
        )
        .try_it(TRY_IT)
        .read("Read: UNP 1.5, 4.5 (figures 4.7 and 4.10); listen(2), NOTES.")
}

/// What the server read and wrote for the client whom it has served last, when it is back in accept.
fn for_the_last(crowd: &Crowd) -> Result<String> {
    crowd.rest()?;
    let calls = crowd.calls_of_parent()?;
    let accepted = calls
        .iter()
        .rposition(|call| call.call == "accept" && call.result > 0);
    let accepted = accepted.context("it has accepted nobody")?;
    let mut calls = calls[accepted..].to_vec();
    calls.retain(|call| matches!(&*call.call, "read" | "write"));
    Ok(in_words(&outcomes(calls)))
}
