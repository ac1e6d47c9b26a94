//! One client that never reads, and a server with one thread for all (UNP 6.8, 16.2).
//!
//! Against a loop whose writes block, against one whose writes do not, against a thread per client.
//! Asserted is whether another client is answered, where the server sleeps, and the window that
//! the slow client's kernel announces.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::labs::crowd::{Crowd, SS};
use crate::narrate::{Act, Chapter, Lab, Need, Scene, View, shell};
use crate::observe::packets::tcpdump_view;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "one-stalls-all",
    title: "One client that never reads, and all the others",
    sections: "6.8, 16.2",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[Need::Packets],
    about: "A server with a single thread waits for all its clients at once. It never waits for \
        one of them: or does it? One client sends and sends, and never reads what comes back.",
    acts: || {
        vec![
            Box::new(stalled(BLOCKS)) as Box<dyn Scene>,
            Box::new(served(
                "the same with writes that do not block",
                LOOP,
                PATIENT,
            )),
            Box::new(served("a thread for each client", THREADS, APART)),
        ]
    },
};

/// A loop whose writes block.
pub const BLOCKS: &str = "tcpechod --mistake blocking-write --bind 127.0.0.1 {port}";
/// A loop whose writes do not.
pub const LOOP: &str = "tcpechod --bind 127.0.0.1 {port}";
const THREADS: &str = "tcpechod --model thread --bind 127.0.0.1 {port}";

const PATIENT: &str = "The write returned at once, with what there was room for, or with EAGAIN. \
    The server keeps the rest, reads no more from this client, and asks epoll to tell it when \
    there is room again. Meanwhile it serves the others.";
const APART: &str = "Here a write may block: it stops the slow client's own thread, and nobody \
    else. That is what the thread is paid for.";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const GREEDY: &str = "tcpecho --read-rate 0 127.0.0.1 {port} < /dev/zero";
const IS_SERVED: &str = "The first client types again. Does it get an answer?";
const ANSWERS: &[(&str, &str)] = &[
    (
        "hello still there?",
        "yes: it has nothing to do with the other",
    ),
    ("hello", "no: the server is stuck"),
];

/// The slow one stops everybody.
pub fn stalled(server: &'static str) -> Act<Crowd> {
    opening("writes that block", server)
        .expect("the window that its kernel announces", 0, window)
        .show(
            "Its last packets: win 0, and probes that ask whether that has changed.",
            |c| {
                let packets = c.packets(1)?;
                let last = packets.len().saturating_sub(4);
                Ok(View::Printed(tcpdump_view(&packets[last..])))
            },
        )
        .predict(IS_SERVED, ANSWERS)
        .line("The first client types.", 0, "still there?")
        .answer("what has come back to it", "hello", |c| c.echoed_at_rest(0))
        .expect(
            "where the server sleeps",
            "write ...",
            Crowd::server_sleeps_in,
        )
        .expect("bytes of it unread at the server", 13, |c| c.unread(0))
        .show("The first client's line on one time line:", |c| {
            c.ladder(0, "all that came before")
        })
        .observe(
            "Who is stuck where: Send-Q what the server wrote, Recv-Q what nobody reads.",
            SS,
            Crowd::ss,
        )
        .explain(
            "The client does not read; its receive buffer fills; its kernel says `window 0`. The \
             server's send buffer fills; its write waits for room. The server has one thread, and \
             the thread is in write. Nobody gets in or out: anyone can do that to it, with one \
             connection.",
        )
        .act(
            "The slow client is killed.",
            shell("kill -KILL {client}"),
            |c| c.signal_client(1, Signal::SIGKILL),
        )
        .expect(
            "what has come back to the first",
            "hello still there?",
            |c| c.echoed(0),
        )
}

/// The slow one stops nobody.
pub fn served(title: &'static str, server: &'static str, why: &'static str) -> Act<Crowd> {
    let act = opening(title, server)
        .predict(IS_SERVED, ANSWERS)
        .line("The first client types.", 0, "still there?")
        .answer("what has come back to it", "hello still there?", |c| {
            c.echoed_at_rest(0)
        })
        .show("What the server has:", Crowd::status_table)
        .explain(why);
    if server != THREADS {
        return act.expect(
            "where the server sleeps",
            "epoll_wait ...",
            Crowd::server_sleeps_in,
        );
    }
    act.explain(
        "The book (6.8): a server with one thread must never block in a call for a single client; \
         it can be denied service. Its cures: nonblocking I/O, a process or thread for each, or a \
         timeout. This kernel: the same.\n\n\
         Verdict: `the socket is writable` says that something fits, not how much. A loop needs \
         writes that do not block, and a plan for what is left over.",
    )
    .try_it(
        "1$ tcpechod --mistake blocking-write\n\
         2$ tcpecho localhost\n\
         2> hello\n\
         3$ tcpecho --read-rate 0 localhost < /dev/zero\n\
         2> hello again                               (nothing)\n\
         4$ ss -tan | grep 9877                       (Recv-Q, Send-Q)\n\
         1> ^C\n\
         1$ tcpechod                                  (and the same again)\n\
         2$ tcpecho localhost\n\
         3$ tcpecho --read-rate 0 localhost < /dev/zero\n\
         2> hello",
    )
    .read("Read: UNP 6.8 (denial of service), 16.2; send(2), EAGAIN; tcp(7), buffers.")
}

/// One client that is served, one that never reads until nothing moves any more.
fn opening(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, a server.", server)
        .client("In terminal 2, a client.", CLIENT)
        .line("Its user types.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
        .act(
            "In terminal 3, one that sends zeros without end, and never reads.",
            shell(GREEDY),
            |c| c.feed_client(GREEDY),
        )
        .expect("the server is at rest", "yes", |c| {
            c.rest()?;
            Ok("yes")
        })
}

/// The window in the last segment that the slow client has sent.
fn window(crowd: &Crowd) -> Result<usize> {
    let packets = crowd.packets(1)?;
    let server = crowd.server()?.address();
    let last = packets.iter().rev().find(|packet| packet.to == server);
    Ok(last.context("it has sent nothing")?.window.into())
}
