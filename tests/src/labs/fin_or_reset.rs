//! Why killing a server sometimes shows a FIN and sometimes an RST, and why a read after a FIN never
//! says ECONNRESET on Linux (UNP 5.12, 7.5).
//!
//! The same `kill -KILL`, with and without unread bytes in the dead process's socket; what can be read
//! after the RST; then the order of which the book says ECONNRESET, and where the error has gone.
//! Asserted are packets, states, and what the client's calls say.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tcpecho_common::{Model, calls};

use crate::labs::crowd::Crowd;
use crate::labs::pair::{PROMPTLY, Pair, in_words};
use crate::narrate::{Act, Chapter, Lab, Names, Need, Scene, Stage, Typed, keys, shell};
use crate::netns::Isolation;
use crate::observe::calls::CallRecord;
use crate::observe::sock_diag::SockDiag;
use crate::peer::Peer;
use crate::server::wait_for_state;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "fin-or-reset",
    title: "A server is killed: FIN or RST?",
    sections: "5.12, 5.13",
    chapter: Chapter::Trouble,
    takes: 2,
    needs: &[Need::Packets],
    about: "Whoever kills a server sees a FIN. Sometimes it is an RST. The kernel does not toss a \
        coin: what does it look at? And what does read tell a client that has had a FIN, and then \
        an RST?",
    acts: || acts(true),
};

const KILL: Typed = shell("kill -KILL {child}");
const FIN_OR_RST: &[(&str, &str)] = &[
    (
        "TIME-WAIT / gone",
        "a FIN: the server has nothing more to say",
    ),
    ("gone / gone", "an RST: the connection is broken"),
];
const SS: &str = "ss -tan | grep -E 'State|:{port} '";

/// Long enough for an RST to arrive, and for a class to see it.
const A_WHILE: Duration = Duration::from_secs(1);

/// The acts. If the server is not `busy`, it reads in the second as well: a test wants that.
pub fn acts(busy: bool) -> Vec<Box<dyn Scene>> {
    vec![
        Box::new(nothing_unread()),
        Box::new(something_unread(busy)),
        Box::new(echoed_before(busy)),
        Box::new(reset_after_fin()),
        Box::new(end_of_file_first(false)),
    ]
}

fn nothing_unread() -> Act<Pair> {
    opening(
        "everything has been read",
        shell("tcpecho 127.0.0.1 {port}"),
        &[],
    )
    .expect("bytes unread at the server", 0, Pair::unread_at_server)
    .predict(
        "The child is killed. What does its kernel send?",
        FIN_OR_RST,
    )
    .act("Kill the child.", KILL, Pair::kill_child)
    .answer(
        "sockets, server's / client's",
        "TIME-WAIT / gone",
        Pair::states,
    )
    .expect(
        "the first packet since",
        "server FIN,ACK",
        Pair::first_since,
    )
    .expect("the client", "exit status 3", Pair::fate)
    .explain(
        "The kernel closes what a dead process had open, and close is polite: what was sent \
         arrives, then comes the FIN, then TIME-WAIT. From the other side this death looks like \
         an orderly end. That is why a program must know by itself whether it has everything.",
    )
}

fn something_unread(busy: bool) -> Act<Pair> {
    opening(
        "something has not been read",
        shell("tcpecho --mode blocking 127.0.0.1 {port}"),
        &["--mode", "blocking"],
    )
    .act(
        "The child is kept busy: it is there, and reads nothing.",
        shell("kill -STOP {child}"),
        move |p| if busy { p.stop_child() } else { Ok(()) },
    )
    .act("The user types a line.", keys("never read"), |p| {
        p.type_line("never read")
    })
    .expect("bytes unread at the server", 11, Pair::unread_at_server)
    .expect("bytes that are not acknowledged", 0, Pair::unacknowledged)
    .observe("They wait in Recv-Q:", SS, Pair::ss)
    .predict("The same kill. What does the kernel send now?", FIN_OR_RST)
    .act("Kill the child.", KILL, Pair::kill_child)
    .answer("sockets, server's / client's", "gone / gone", Pair::states)
    .expect("packets since", "server RST,ACK", |p| {
        p.exchange_since(p.killed_at()?)
    })
    .expect("what the client's read said", "read = -1 ECONNRESET", |p| {
        Ok(in_words(&p.call_after(p.killed_at()?, is_read)?))
    })
    .expect("the client", "exit status 4", Pair::fate)
    .show("The story on one time line:", Pair::ladder)
    .explain(
        "Those 11 bytes had been acknowledged: the client's kernel takes them for delivered. Now \
         nobody will ever read them. A FIN would say that all is well, so the kernel says RST \
         (RFC 2525, 2.17). No TIME-WAIT is left: a broken connection needs none.\n\n\
         In the book's experiment nothing is ever unread. This is why killing a busy server shows \
         \"connection reset by peer\" and killing an idle one does not.",
    )
}

fn reset_after_fin() -> Act<Pair> {
    opening(
        "an RST that comes after a FIN",
        shell(
            "tcpecho --mode blocking --split-write 100 \\\n        \
             --mistake ignore-write-errors 127.0.0.1 {port}",
        ),
        &[
            "--mode",
            "blocking",
            "--split-write",
            "100",
            "--mistake",
            "ignore-write-errors",
        ],
    )
    .explain(
        "This client writes each line in two pieces, 100 ms apart, and does not mind if a write \
         fails. So an RST that the first piece brings back is there long before it reads.",
    )
    .act("Kill the child.", KILL, Pair::kill_child)
    .wait(
        "Wait a second. The FIN has come, the client waits for its user.",
        A_WHILE,
    )
    .expect(
        "sockets, server's / client's",
        "FIN-WAIT-2 / CLOSE-WAIT",
        Pair::states,
    )
    .predict(
        "The user types. The first byte brings the RST, the second write fails, then the client \
         reads. What does read say?",
        &[
            ("read = -1 ECONNRESET", "ECONNRESET, as the book has it"),
            ("read = -1 EPIPE", "EPIPE, as the write"),
            ("read = 0", "0, end of file"),
        ],
    )
    .act("Type a line.", keys("too late"), |p| {
        p.type_line("too late")
    })
    .expect("the first write", "write = 1", |p| nth_write(p, 0))
    .expect("the second write", "write = -1 EPIPE", |p| nth_write(p, 1))
    .answer("the read after them", "read = 0", |p| {
        Ok(in_words(&p.call_after(p.typed_at()?, is_read)?))
    })
    .expect("first came", "the RST", Pair::rst_or_read)
    .show("The story on one time line:", Pair::ladder)
    .explain(
        "The book (5.12) says that readline returns ECONNRESET if the RST comes first. Here it came \
         first, and read says 0. But perhaps the second write has taken the error, and nothing \
         was left for read?",
    )
}

/// A socket that has had a FIN, then an RST, and nobody has asked it yet. If the child is kept `busy`,
/// there is no FIN: a test wants that.
pub fn end_of_file_first(busy: bool) -> Act<Bare> {
    bare("the same without a second write")
        .act("It reads the echo.", Typed::Nothing, Bare::read)
        .expect(SAID, "read = 6", Bare::said)
        .act("Kill the child.", KILL, move |b| b.kill_child(busy))
        .expect(STATES, "FIN-WAIT-2 / CLOSE-WAIT", Bare::states)
        .act(
            "The client writes, once. It does not read.",
            Typed::Nothing,
            |b| b.write("too late\n"),
        )
        .expect(SAID, "write = 9", Bare::said)
        .expect(STATES, "gone / gone", Bare::states)
        .expect("poll shows among others", "ERR", Bare::poll)
        .predict(
            "The RST has come; poll says that an error waits. Nobody has taken it. What does read \
             say?",
            &[
                ("read = -1 ECONNRESET", "ECONNRESET"),
                ("read = -1 EPIPE", "EPIPE"),
                ("read = 0", "0, end of file"),
            ],
        )
        .act("It reads.", Typed::Nothing, Bare::read)
        .answer(SAID, "read = 0", Bare::said)
        .predict(
            "And the error? What does getsockopt(SO_ERROR) say now?",
            &[
                ("0", "0: there is none any more"),
                ("ECONNRESET", "ECONNRESET"),
                ("EPIPE", "EPIPE"),
            ],
        )
        .act("It asks.", Typed::Nothing, Bare::ask_for_error)
        .answer("SO_ERROR", "EPIPE", Bare::said)
        .explain(
            "So there are two reasons why the book's ECONNRESET does not happen. A read looks first \
             whether the FIN has been reached, and says end of file, whatever error waits. And what \
             waits is not ECONNRESET: an RST that meets a connection which has had its FIN is noted \
             as EPIPE.\n\n\
             Verdict: ECONNRESET from read means an RST without a FIN before it: unread bytes, an \
             abort (SO_LINGER 0), a host that has forgotten. After a FIN read says 0, for ever.",
        )
        .try_it(
            "1$ tcpechod --model fork\n\
             2$ tcpecho --mode blocking localhost\n\
             2> hello\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (the child)\n\
             2> hello                                     (nothing: it was a FIN)\n\
             2$ tcpecho --mode blocking localhost\n\
             3$ kill -STOP $(pgrep -n tcpechod)\n\
             2> hello                                     (nothing: it is not read)\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (and look at 2: an RST)",
        )
        .read(
            "Read: UNP 5.12, 5.13; RFC 1122, 4.2.2.13, and RFC 2525, 2.17 (a reset for data that \
             nobody reads); tcp(7), socket(7) on SO_ERROR.",
        )
}

/// An echo, then an RST: what can still be read? If the child is not `busy`, it reads all: a test
/// wants that.
pub fn echoed_before(busy: bool) -> Act<Bare> {
    bare("what had come before the RST")
        .expect(
            "bytes that the client has not read",
            6,
            Bare::unread_at_client,
        )
        .act(
            "The child is kept busy again; the client writes another line.",
            shell("kill -STOP {child}"),
            move |b| {
                if busy {
                    b.stop_child()?;
                }
                b.write("never read\n")
            },
        )
        .expect("bytes unread at the server", 11, Bare::unread_at_server)
        .act("Kill the child.", KILL, |b| b.kill_child(false))
        .expect(STATES, "gone / gone", Bare::states)
        .predict(
            "The connection is broken. The echo of hello had come before. What does read say?",
            &[
                ("read = 6", "the echo"),
                ("read = -1 ECONNRESET", "ECONNRESET: all is lost"),
            ],
        )
        .act("It reads.", Typed::Nothing, Bare::read)
        .answer(SAID, "read = 6", Bare::said)
        .act("It reads again.", Typed::Nothing, Bare::read)
        .expect(SAID, "read = -1 ECONNRESET", Bare::said)
        .act("And again.", Typed::Nothing, Bare::read)
        .expect(SAID, "read = 0", Bare::said)
        .explain(
            "What has arrived is not taken back: first the bytes, then the error, and the error \
             only once.",
        )
}

fn bare(title: &'static str) -> Act<Bare> {
    const SERVER: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";
    Act::open(title, Bare::open)
        .act("In terminal 1, the server.", shell(SERVER), |b| {
            b.crowd.start_server(SERVER)
        })
        .act(
            "A client that is a bare socket: it reads and writes when it is told to. It connects, \
             and writes hello.",
            Typed::Nothing,
            Bare::connect,
        )
        .expect(SAID, "write = 6", Bare::said)
}

const STATES: &str = "sockets, server's / client's";
const SAID: &str = "the call said";

/// A server, and a client that makes one call at a time.
pub struct Bare {
    crowd: Crowd,
    stream: Option<TcpStream>,
    said: String,
}

impl Bare {
    fn open(place: &Isolation) -> Result<Self> {
        Ok(Self {
            crowd: Crowd::open(place)?,
            stream: None,
            said: String::new(),
        })
    }

    /// Connects, and waits until the echo has come; it does not read it.
    fn connect(&mut self) -> Result<()> {
        let stream = TcpStream::connect(self.crowd.server()?.address())?;
        self.crowd.peers().push(Peer::over(stream.try_clone()?)?);
        self.stream = Some(stream);
        self.write("hello\n")?;
        eventually("an echo", PROMPTLY, || {
            (self.unread_at_client().ok()? == 6).then_some(())
        })
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let result = self.stream()?.write(text.as_bytes());
        self.note("write", result);
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let result = self.stream()?.read(&mut [0; 100]);
        self.note("read", result);
        Ok(())
    }

    fn note(&mut self, call: &str, result: io::Result<usize>) {
        self.said = match result {
            Ok(n) => format!("{call} = {n}"),
            Err(error) => format!("{call} = -1 {:?}", calls::errno(&error)),
        };
    }

    /// SO_ERROR, which gives the error away.
    fn ask_for_error(&mut self) -> Result<()> {
        let error = self.stream()?.take_error()?;
        self.said = error.map_or("0".into(), |error| format!("{:?}", calls::errno(&error)));
        Ok(())
    }

    fn said(&self) -> Result<String> {
        ensure!(!self.said.is_empty(), "it has not made a call");
        Ok(self.said.clone())
    }

    /// `ERR` if poll shows it.
    fn poll(&self) -> Result<String> {
        let mut fds = [PollFd::new(self.stream()?.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)?;
        let shown = fds[0].revents().unwrap_or(PollFlags::empty());
        Ok(if shown.contains(PollFlags::POLLERR) {
            "ERR".into()
        } else {
            format!("{shown:?}")
        })
    }

    fn stop_child(&mut self) -> Result<()> {
        let child = self.crowd.child(0)?.pid;
        self.crowd.signal_child(0, Signal::SIGSTOP)?;
        wait_for_state(child, 'T')
    }

    /// Kills the child; if `busy`, while it has something to read.
    fn kill_child(&mut self, busy: bool) -> Result<()> {
        if busy {
            self.stop_child()?;
            self.write("never read\n")?;
        }
        self.crowd.signal_child(0, Signal::SIGKILL)
    }

    fn states(&self) -> Result<String> {
        self.crowd.states(0)
    }

    fn unread_at_server(&self) -> Result<usize> {
        self.crowd.unread(0)
    }

    fn unread_at_client(&self) -> Result<usize> {
        let (near, far) = (self.stream()?.local_addr()?, self.crowd.server()?.address());
        let unread = SockDiag::open()?.unread(near, far)?;
        Ok(unread.context("the client has no such socket")? as usize)
    }

    fn stream(&self) -> Result<&TcpStream> {
        self.stream.as_ref().context("it has not connected")
    }
}

impl Stage for Bare {
    fn names(&self) -> Names {
        self.crowd.names()
    }
}

fn is_read(call: &CallRecord) -> bool {
    call.call == "read"
}

/// What the client's write number `n` since the last line was typed said.
fn nth_write(pair: &Pair, n: usize) -> Result<String> {
    let seen = std::cell::Cell::new(0);
    let call = pair.call_after(pair.typed_at()?, |c| {
        c.call == "write" && seen.replace(seen.get() + 1) == n
    })?;
    Ok(in_words(&call))
}

/// What all acts begin with: server, client, one echo.
fn opening(title: &'static str, command: Typed, args: &'static [&'static str]) -> Act<Pair> {
    Act::open(title, Pair::open)
        .act(
            "In terminal 1, a server with a process per client.",
            shell("tcpechod --model fork --bind 127.0.0.1 {port}"),
            |p| p.start_server(Model::Fork),
        )
        .act("In terminal 2, a client.", command, move |p| {
            p.start_client_with(args)
        })
        .act("Type a line to see that all is well.", keys("hello"), |p| {
            p.type_line("hello")
        })
        .expect("what came back", "hello", Pair::echoed)
}
