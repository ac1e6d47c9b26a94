//! The edge that is not drained: bytes that have arrived, and that nobody is told of (UNP 6.3,
//! epoll(7)).
//!
//! A server that reads once for each event of an edge-triggered epoll, one that reads until there is
//! nothing, and a small one that makes the same mistake where the waiting forgives it. Asserted are
//! the bytes that come back, those that stay unread in the server's kernel, and its calls.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::binaries;
use crate::labs::crowd::{Crowd, SS, in_words};
use crate::narrate::{Act, Chapter, Lab, Scene, View, shell};
use crate::observe::calls::Phase;
use crate::observe::rest::is_at_rest;
use crate::server::Server;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "edge-trigger",
    title: "It has arrived, and nobody is told: edges",
    sections: "6.3, epoll(7)",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[],
    about: "epoll can tell that there is something to read as long as there is (level-triggered, \
        as poll does), or only when something has come (edge-triggered). Edges save calls. What \
        becomes of a server that does not read everything when it is told?",
    acts: || {
        vec![
            Box::new(forgotten(ONCE)) as Box<dyn Scene>,
            Box::new(drained(DRAINS)),
            Box::new(forgiven("the same mistake with poll", BY_POLL, LEVEL)),
            Box::new(last(forgiven(
                "the same mistake with epoll as it is by default",
                BY_EPOLL,
                DEFAULT,
            ))),
        ]
    },
};

/// One read of at most 4096 bytes for each edge.
pub const ONCE: &str = "tcpechod --mistake read-once --bind 127.0.0.1 {port}";
/// As many as it takes.
pub const DRAINS: &str = "tcpechod --bind 127.0.0.1 {port}";
/// One read each time that poll says readable.
pub const BY_POLL: &str = "tcpecho-lab actor read-once poll {port}";
/// The same with edges.
pub const BY_EDGE: &str = "tcpecho-lab actor read-once edge {port}";
const BY_EPOLL: &str = "tcpecho-lab actor read-once epoll {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
/// Its input is what seq prints, and then what its user types.
const MUCH: &str = "(seq 2000; cat) | tcpecho 127.0.0.1 {port}";
/// What `seq 2000` prints.
const LENGTH: usize = 8893;

const STOP: &str = "The server is stopped for a moment, so that what comes now has all arrived \
    before it looks.";
const LEVEL: &str = "One read each time, and it forgot nothing. poll tells what is there, not what \
    has come: after each read it says so again, until there is nothing left.";
const DEFAULT: &str = "epoll tells levels unless it is asked for edges (EPOLLET). mio, under our \
    reactor, asks for edges.";

/// The rest that nobody reads.
pub fn forgotten(server: &'static str) -> Act<Crowd> {
    opening("one read for each edge", server)
        .predict(
            "The server goes on. epoll says: readable. It reads once; 4096 bytes fit into its \
             buffer. It sends them back and waits in epoll_wait. Is it told of the others?",
            &[
                ("8893", "yes, at once: there is something to read"),
                ("4096", "no: nothing has come since"),
            ],
        )
        .signal("It goes on.", shell("kill -CONT {server}"), Signal::SIGCONT)
        .answer("bytes that came back", 4096, |c| came_back(c, 1))
        .expect(
            "what the server did for them",
            "read = 4096, write = 4096",
            served,
        )
        .expect(
            "where the server sleeps",
            "epoll_wait ...",
            Crowd::server_sleeps_in,
        )
        .expect("bytes unread at the server", 4797, |c| c.unread(1))
        .observe(
            "Recv-Q has the rest. Both programs wait, each for the other.",
            SS,
            Crowd::ss,
        )
        .show("Since it goes on, on one time line:", |c| {
            c.ladder(1, "connection, 8893 bytes, which wait")
        })
        .line("The first client notices nothing.", 0, "still there?")
        .expect("what came back to it", "hello still there?", |c| {
            c.echoed(0)
        })
        .predict(
            "The second user types a line of 5 bytes. How much has come back to it then?",
            &[
                ("4096", "as much as before: the rest is lost"),
                ("8192", "another 4096: a new edge, and one read"),
                ("8898", "all of it: once awake, it finds everything"),
            ],
        )
        .line("It types.", 1, "more")
        .answer("bytes that came back", 8192, |c| came_back(c, 1))
        .expect("bytes unread at the server", 706, |c| c.unread(1))
        .line("And once more.", 1, "and more")
        .expect("bytes that came back", LENGTH + 14, |c| came_back(c, 1))
        .expect("bytes unread at the server", 0, |c| c.unread(1))
        .explain(
            "Nothing was lost, and nothing was in order: each line only brought what was due \
             before. A client that waits for its answer before it says more waits for ever. And \
             as long as messages are small, all is well: the first client never had any trouble, \
             and no test of its author either.",
        )
}

/// Nothing is left.
pub fn drained(server: &'static str) -> Act<Crowd> {
    opening("a server that reads all there is", server)
        .signal("It goes on.", shell("kill -CONT {server}"), Signal::SIGCONT)
        .expect("bytes that came back", LENGTH, |c| came_back(c, 1))
        .expect(
            "what the server did for them",
            "read = 8893, write = 8893",
            served,
        )
        .expect("bytes unread at the server", 0, |c| c.unread(1))
        .explain(
            "It asked for 262144 bytes and got 8893. Less than it asked for: so there was no more, \
             and whatever comes now is a new edge. Had its buffer been full, it would have read \
             again, until a read brings less, or fails with EAGAIN.",
        )
}

/// One read each time that it is told, and it is told again.
pub fn forgiven(title: &'static str, server: &'static str, why: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open_unrecorded)
        .act(
            "A small server with one client: wait, read up to 4096 bytes, write, wait.",
            shell(server),
            move |c| start_actor(c, server),
        )
        .act(STOP, shell("kill -STOP {server}"), Crowd::stop_server)
        .act("The client with 8893 bytes.", shell(MUCH), send_much)
        .expect("bytes that wait at the server", LENGTH, |c| c.unread(0))
        .signal("It goes on.", shell("kill -CONT {server}"), Signal::SIGCONT)
        .expect("bytes that came back", LENGTH, |c| came_back(c, 0))
        .expect("bytes unread at the server", 0, |c| c.unread(0))
        .show("What it says that it did:", |c| {
            let said = c.server()?.stdout();
            let reads = said.lines().filter(|line| line.starts_with("readable"));
            Ok(View::Printed(reads.collect::<Vec<_>>().join("\n")))
        })
        .explain(why)
}

fn last(act: Act<Crowd>) -> Act<Crowd> {
    act.explain(
        "The book (6.3) has readiness as a state: a socket is ready as long as a read would not \
         block; its select and poll tell that. Edges came later (epoll(7), kqueue's EV_CLEAR). \
         This kernel: both, as asked.\n\n\
         Verdict: with levels a server that leaves something is asked again, which costs a call \
         each time. With edges it must remember by itself what it has left, or leave nothing: read \
         until a read brings less than it asked for, or EAGAIN. Accept and write as well.",
    )
    .try_it(
        "1$ tcpechod --mistake read-once &\n\
         1$ kill -STOP $!\n\
         2$ (seq 2000; cat) | tcpecho localhost\n\
         1$ kill -CONT $!                             (2: they end in the middle)\n\
         3$ ss -tan | grep 9877                       (Recv-Q)\n\
         2> hello                                     (nothing, but more numbers)\n\
         2> hello again                               (and all the rest)\n\
         1$ kill $!; wait $!; tcpecho-lab actor read-once edge 9877\n\
         4$ tcpecho localhost                         (also: epoll, poll)\n\
         4> hello",
    )
    .read("Read: UNP 6.3; epoll(7), the section on level-triggered and edge-triggered, and Q9.")
}

/// A client whose small lines come back; then the server is stopped, and much arrives.
fn opening(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, the server.", server)
        .client("In terminal 2, a client.", CLIENT)
        .line("Its user types.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
        .act(STOP, shell("kill -STOP {server}"), Crowd::stop_server)
        .act(
            "In terminal 3, a client that sends 8893 bytes, and then what is typed.",
            shell(MUCH),
            send_much,
        )
        .expect("bytes that wait at the server", LENGTH, |c| c.unread(1))
}

fn send_much(crowd: &mut Crowd) -> Result<()> {
    let mut message = Vec::with_capacity(LENGTH);
    for number in 1..=2000 {
        writeln!(message, "{number}")?;
    }
    crowd.pipe_into_client(MUCH, &message)
}

/// How many bytes came back to the `nth` client, when nobody has anything to do any more.
fn came_back(crowd: &Crowd, nth: usize) -> Result<usize> {
    crowd.rest()?;
    let client = crowd.client(nth)?;
    if !is_at_rest(client.pid()) {
        bail!("client {nth} does not come to rest");
    }
    Ok(client.stdout().len())
}

/// What the server has read and written since something was last made to happen.
fn served(crowd: &Crowd) -> Result<String> {
    crowd.rest()?;
    let mut calls = crowd.calls_of_parent()?;
    calls.retain(|c| c.phase == Phase::Return && matches!(&*c.call, "read" | "write"));
    Ok(in_words(&calls))
}

/// Starts `tcpecho-lab actor ... {port}`.
fn start_actor(crowd: &mut Crowd, command: &str) -> Result<()> {
    let args = command.strip_prefix("tcpecho-lab ");
    let args = args.and_then(|args| args.strip_suffix(" {port}"));
    let args = args.with_context(|| format!("not `tcpecho-lab ... {{port}}`: {command}"))?;
    let program = binaries::path("tcpecho-lab")?;
    crowd.serve(Server::plain(program, args.split(' ')))
}
