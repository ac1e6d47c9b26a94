//! After fork a connection has two owners: who must close, and what if one forgets (UNP 4.8).
//!
//! The same visit to a parent that closes its copy and to one that does not; then until the
//! careless parent has no descriptor left; then close and shutdown on a socket with two
//! descriptors. Asserted are who has a socket, the states of its two ends, and how many are served.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::labs::crowd::{Crowd, SS};
use crate::narrate::{Act, Chapter, Lab, Names, Scene, Stage, Typed, View, shell};
use crate::netns::Isolation;
use crate::observe::processes;
use crate::observe::sock_diag::SockDiag;
use crate::peer::Peer;
use crate::server::Server;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "reference-counts",
    title: "After fork: who must close the connection?",
    sections: "4.8, 6.6",
    chapter: Chapter::Concurrency,
    takes: 1,
    needs: &[],
    about: "After fork, parent and child have the same connection. The child serves the client, \
        the parent has no use for it. Must the parent close it? What happens if it forgets?",
    acts: || {
        vec![
            Box::new(closed(CLOSES)) as Box<dyn Scene>,
            Box::new(forgotten(FORGETS)),
            Box::new(exhausted(FORGETS)),
            Box::new(two_descriptors(Shutdown::Write)),
        ]
    },
};

/// A parent that closes its copy.
pub const CLOSES: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";
/// A parent that forgets to.
pub const FORGETS: &str = "tcpechod --model fork --mistake leak-connfd --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
const HELD: &str = "ls -l /proc/{server}/fd /proc/{child}/fd | grep -E 'proc|socket'";
/// The descriptors that the careless server may have.
const LIMIT: u64 = 20;

const TALK: &str = "connection and echo";
const LEAVES: &str = "The user types ^D: the client sends its FIN. The child reads 0 and ends. \
    What does the client do?";
const LEFT: &[(&str, &str)] = &[
    ("exit status 0", "it gets the server's FIN, and ends"),
    ("asleep", "it waits for the server's FIN"),
    ("exit status 4", "it is reset"),
];

/// A parent that closes.
pub fn closed(server: &'static str) -> Act<Crowd> {
    opening("a parent that closes its copy", server)
        .expect("who has the server's end", "child", |c| c.holders(0))
        .observe(
            "The parent has the listening socket, the child the connection.",
            HELD,
            sockets_held,
        )
        .explain(
            "fork copies descriptors, not sockets: for a moment both had the connection. Then \
             each closed what it does not need: the parent the connection, the child the \
             listening socket.",
        )
        .predict(LEAVES, LEFT)
        .goodbye("The client's goodbye.", 0)
        .answer("the client", "exit status 0", |c| c.fate_of_client(0))
        .show("The goodbye on one time line:", |c| c.ladder(0, TALK))
        .explain("The child ended, and with it the last descriptor. So the kernel sent the FIN.")
}

/// A parent that does not.
pub fn forgotten(server: &'static str) -> Act<Crowd> {
    opening("a parent that forgets to close", server)
        .expect("who has the server's end", "parent and child", |c| {
            c.holders(0)
        })
        .observe(
            "One socket number twice: two descriptors, one connection.",
            HELD,
            sockets_held,
        )
        .predict(LEAVES, LEFT)
        .goodbye("The client's goodbye.", 0)
        .expect("the child has ended; left is", "parent S", Crowd::census)
        .answer("the client", "asleep", |c| {
            c.rest()?;
            c.fate_of_client(0)
        })
        .expect(
            "the connection, server's / client's",
            "CLOSE-WAIT / FIN-WAIT-2",
            |c| c.states(0),
        )
        .expect("who has the server's end", "parent", |c| c.holders(0))
        .observe("The connection of a child that is no more:", SS, Crowd::ss)
        .show("The goodbye on one time line:", |c| c.ladder(0, TALK))
        .explain(
            "close, and the end of a process, only take away a descriptor. The FIN is sent when \
             the last one goes. The parent has it, will never use it, and never close it. \
             CLOSE-WAIT has no time limit: this side is to close, and the kernel waits for it.",
        )
}

/// Until there is no descriptor left.
pub fn exhausted(server: &'static str) -> Act<Exhausted> {
    Act::open("until no descriptor is left", Exhausted::open)
        .act(
            "The same server, with 20 descriptors at most.",
            shell("ulimit -n 20; tcpechod --model fork --mistake leak-connfd {port}"),
            move |e| e.start(server),
        )
        .predict(
            "Clients come, get their echo, and leave: one after the other, never two at a time. \
             How many will be served?",
            &[
                ("all", "all: each has left before the next comes"),
                ("one", "one"),
                (
                    "as many as descriptors were free",
                    "as many as the parent has free descriptors now",
                ),
            ],
        )
        .act(
            "Up to 40 clients, one after the other.",
            shell("for i in $(seq 40); do echo hello | tcpecho -i 1 127.0.0.1 {port}; done"),
            Exhausted::visit,
        )
        .answer("served", "as many as descriptors were free", |e| {
            Ok(e.verdict())
        })
        .expect("connected and not accepted", 1, |e| e.crowd.queued())
        .show("What the server says:", |e| {
            let said = e.crowd.logged("not accepting")?.join("\n");
            let said = said.get(said.find("not accepting").unwrap_or(0)..);
            let said = said.unwrap_or_default().replace(": ", ":\n");
            let page = format!("clients served: {}\n{said}", e.served);
            Ok(View::Printed(page))
        })
        .explain(
            "Each client has cost the parent a descriptor, for ever. accept fails with EMFILE, and \
             the next client waits in the queue. A server with `ulimit -n` of 1024 serves its \
             first thousand clients well: a test of a minute does not find the bug.",
        )
}

/// close and shutdown on a socket with two descriptors.
pub fn two_descriptors(how: Shutdown) -> Act<Copies> {
    Act::open("close counts, shutdown does not", Copies::open)
        .explain(
            "Now without fork: one socket, and a second descriptor for it, made by dup. To the \
             kernel that is the same.",
        )
        .expect(STATES, "ESTAB / ESTAB", Copies::states)
        .predict(
            "One of the two descriptors is closed. What does the other side see?",
            &[
                ("FIN-WAIT-2 / CLOSE-WAIT", "a FIN"),
                ("ESTAB / ESTAB", "nothing"),
            ],
        )
        .act("close one of the two.", Typed::Nothing, |c| {
            c.far.pop().context("no descriptor").map(drop)
        })
        .answer(STATES, "ESTAB / ESTAB", Copies::states)
        .act("Two descriptors again: dup.", Typed::Nothing, Copies::dup)
        .predict(
            "Now shutdown(SHUT_WR) on one of the two. What does the other side see?",
            &[
                ("FIN-WAIT-2 / CLOSE-WAIT", "a FIN"),
                ("ESTAB / ESTAB", "nothing"),
            ],
        )
        .act("shutdown by one of the two.", Typed::Nothing, move |c| {
            Ok(c.far.last().context("no descriptor")?.shutdown(how)?)
        })
        .answer(STATES, "FIN-WAIT-2 / CLOSE-WAIT", Copies::states)
        .expect("descriptors that are open", 2, |c| Ok(c.far.len()))
        .explain(
            "The book (4.8): every socket has a reference count; close counts down, and 0 sends \
             the FIN. shutdown (6.6) sends it whatever the count is. This kernel: the same.\n\n\
             Verdict: after fork, everybody closes what is not theirs. The child of a server that \
             forgets may use shutdown: the client gets its FIN, but the parent's descriptor is \
             lost all the same.",
        )
        .try_it(
            "1$ tcpechod --model fork --mistake leak-connfd\n\
             2$ tcpecho localhost\n\
             2> hello\n\
             2> ^D                                        (nothing: it hangs)\n\
             3$ ss -tanp | grep 9877                      (who has CLOSE-WAIT?)\n\
             3$ ls -l /proc/$(pgrep -o tcpechod)/fd\n\
             1> ^C                                        (and look at 2)",
        )
        .read("Read: UNP 4.8 (figure 4.13 and the text behind it), 6.6; close(2), shutdown(2).")
}

const STATES: &str = "its states / those of the other side";

fn opening(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, a server with a process per client.", server)
        .client("In terminal 2, a client.", CLIENT)
        .line("Its user types.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
}

/// The sockets that the parent and its first child have, as ls would show them.
fn sockets_held(crowd: &Crowd) -> Result<String> {
    let mut text = String::new();
    for pid in [crowd.server()?.pid(), crowd.child(0)?.pid] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "/proc/{pid}/fd:");
        let descriptors = processes::descriptors(pid)?.into_iter();
        let sockets = descriptors.filter(|(_, target)| target.starts_with("socket:"));
        text.extend(sockets.map(|(fd, target)| format!("{fd} -> {target}\n")));
    }
    Ok(text)
}

/// A server with few descriptors, and what became of its clients.
pub struct Exhausted {
    crowd: Crowd,
    /// Descriptors that were free before the first client.
    free: usize,
    served: usize,
    all: bool,
}

impl Exhausted {
    fn open(place: &Isolation) -> Result<Self> {
        Ok(Self {
            crowd: Crowd::open(place)?,
            free: 0,
            served: 0,
            all: false,
        })
    }

    fn start(&mut self, command: &str) -> Result<()> {
        let words = command.split_whitespace();
        let words = words.filter(|word| !matches!(*word, "tcpechod" | "{port}"));
        let server = Server::with_args(words).limit_descriptors(LIMIT, LIMIT);
        self.crowd.serve(server)?;
        // Until it waits, it may have some for a moment.
        eventually("a server that waits", SOON, || self.crowd.rest().ok())?;
        let used = processes::descriptors(self.crowd.server()?.pid())?;
        let is_free = |n: &i32| used.iter().all(|(fd, _)| fd != n);
        self.free = (0..LIMIT as i32).filter(is_free).count();
        Ok(())
    }

    /// Clients come and go, until one is not answered.
    fn visit(&mut self) -> Result<()> {
        for _ in 0..2 * LIMIT {
            let mut peer = Peer::connect(self.crowd.server()?.address())?;
            peer.send(b"hello\n")?;
            let answered = eventually("an answer, or a word why not", SOON, || {
                let refused = !self.crowd.logged("not accepting").ok()?.is_empty();
                // In this order: before all are at rest, the child that has its client has answered.
                let over = refused && self.crowd.rest().is_ok();
                let answered = peer.has_news();
                (answered || over).then_some(answered)
            })?;
            if !answered {
                // It waits in the queue, and is to be seen there.
                self.crowd.peers().push(peer);
                return Ok(());
            }
            self.served += 1;
        }
        self.all = true;
        Ok(())
    }

    fn verdict(&self) -> String {
        match self.served {
            _ if self.all => "all".into(),
            n if n == self.free => "as many as descriptors were free".into(),
            n => format!("{n}, with {} descriptors free", self.free),
        }
    }
}

impl Stage for Exhausted {
    fn names(&self) -> Names {
        self.crowd.names()
    }
}

const SOON: Duration = Duration::from_secs(10);

/// A connection whose one end has one or two descriptors.
pub struct Copies {
    near: TcpStream,
    far: Vec<TcpStream>,
}

impl Copies {
    fn open(_: &Isolation) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        let far = vec![far.try_clone()?, far];
        Ok(Self { near, far })
    }

    fn dup(&mut self) -> Result<()> {
        let copy = self.far.first().context("no descriptor")?.try_clone()?;
        self.far.push(copy);
        Ok(())
    }

    fn states(&self) -> Result<String> {
        let (near, far) = (self.near.local_addr()?, self.near.peer_addr()?);
        let diag = SockDiag::open()?;
        let state = |from, to| -> Result<String> {
            let state = diag.state(from, to)?;
            Ok(state.map_or("gone".into(), |s| s.to_string()))
        };
        Ok(format!("{} / {}", state(far, near)?, state(near, far)?))
    }
}

impl Stage for Copies {
    fn names(&self) -> Names {
        Names::new()
    }
}
