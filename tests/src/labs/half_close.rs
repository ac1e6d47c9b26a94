//! shutdown and close, and what close does with bytes that are still on their way (UNP 6.6, 7.5).
//!
//! The same goodbye twice, with an echo still to come: once half of the connection is closed, once
//! all of it. Then four times close, with unsent and unread bytes, with and without `SO_LINGER`.
//! Asserted are packets, states, what arrives, how it ends, and how long close takes.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use tcpecho_common::{Model, defaults};

use crate::client::ClientProcess;
use crate::labs::cast;
use crate::labs::crowd::in_words;
use crate::labs::pair::{PROMPTLY, Pair};
use crate::narrate::ladder::Ladder;
use crate::narrate::{
    Act, Chapter, Expected, Fact, Lab, Names, Need, Stage, Typed, Unseen, View, keys, shell,
};
use crate::netns::Isolation;
use crate::observe::packets::Capture;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets;
use crate::peer::{Ended, Peer};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "half-close",
    title: "shutdown, close, SO_LINGER: where do the bytes go?",
    sections: "4.9, 6.6, 7.5",
    chapter: Chapter::Life,
    takes: 3,
    needs: &[Need::Packets],
    about: "Who has said everything, but still waits for an answer: how does he say that nothing \
        more will come? And who closes everything at once: does what he sent still arrive, and \
        would he know?",
    acts: || {
        vec![
            Box::new(shut_down(HALF)),
            Box::new(closed(WHOLE)),
            Box::new(ways([UNSENT, LINGER_0, LINGER_1, UNREAD])),
        ]
    },
};

/// A client that closes half of the connection at the end of its input.
pub const HALF: &str = "tcpecho 127.0.0.1 {port}";
/// A client that closes all of it.
pub const WHOLE: &str = "tcpecho --mistake close-on-eof 127.0.0.1 {port}";

const SS: &str = "ss -tan | grep -E 'State|:{port} '";
const STATES: &str = "sockets, server's / client's";

/// The first act, with this client.
pub fn shut_down(client: &'static str) -> Act<Pair> {
    goodbye("shutdown: I have said all", client)
        .expect("the client", "asleep", Pair::fate)
        .observe(
            "The server has the line (Recv-Q: 5 bytes and the end) and a goodbye.",
            SS,
            Pair::ss,
        )
        .predict(
            "The child goes on: it reads the line and sends the echo. What becomes of that?",
            &[
                ("hello", "it is lost: the client has sent its FIN"),
                ("hello late", "it arrives: the client can still read"),
            ],
        )
        .act(
            "Let the child go on.",
            shell("kill -CONT {child}"),
            Pair::go_on_child,
        )
        .answer("what came back", "hello late", Pair::echoed)
        .expect(
            "bytes that came after the client's FIN",
            5,
            Pair::bytes_after_fin,
        )
        .expect("the client", "exit status 0", Pair::fate)
        .expect(STATES, "gone / TIME-WAIT", Pair::states)
        .show("The story on one time line:", Pair::ladder_since_stop)
        .explain(
            "shutdown(SHUT_WR) closes one direction. The client has sent its FIN and goes on \
             reading. That is how it tells the server \"that was all\" and still gets all echoes.",
        )
}

/// The second act, with this client.
pub fn closed(client: &'static str) -> Act<Pair> {
    goodbye("close: I am gone", client)
        .expect("the client", "exit status 0", Pair::fate)
        .explain(
            "The client is gone already; its socket is not. It belongs to the kernel now. Packets \
             and states are those of the act before: the server cannot tell the difference.",
        )
        .predict(
            "The child goes on, and sends the echo. What becomes of that?",
            &[
                ("silence", "the client's kernel takes it and drops it"),
                ("client RST", "the client's kernel answers with an RST"),
                ("gone / TIME-WAIT", "it is taken, then the connection ends"),
            ],
        )
        .act(
            "Let the child go on.",
            shell("kill -CONT {child}"),
            Pair::go_on_child,
        )
        .answer("the client's kernel then", "client RST", |p| {
            let all = p.exchange_since(p.killed_at()?)?;
            Ok(all.rsplit(" - ").next().unwrap_or_default().to_owned())
        })
        .expect("what came back", "hello", Pair::echoed)
        .expect(STATES, "gone / gone", Pair::states)
        .expect(
            "what the child has seen",
            "read = 5, write = 5, read = 0",
            |p| Ok(in_words(&p.calls_of_child(p.killed_at()?)?)),
        )
        .show("The story on one time line:", Pair::ladder_since_stop)
        .explain(
            "close gives up both directions. Nobody can read that echo any more, so the answer to \
             it is an RST. The server does not even notice: its write had succeeded, and its read \
             says end of file, since the FIN came first. Who closes must have read all.",
        )
}

/// What both acts begin with: a line that is not yet echoed, and then the end of input.
fn goodbye(title: &'static str, client: &'static str) -> Act<Pair> {
    Act::open(title, Pair::open)
        .act(
            "In terminal 1, a server with a process per client.",
            shell("tcpechod --model fork --bind 127.0.0.1 {port}"),
            |p| p.start_server(Model::Fork),
        )
        .act("In terminal 2, a client.", shell(client), move |p| {
            p.start_client_as(client)
        })
        .act("A line, there and back.", keys("hello"), |p| {
            p.type_line("hello")
        })
        .expect("what came back", "hello", Pair::echoed)
        .expect(
            "who sleeps where",
            "server accept, child read(connection), client epoll_wait",
            Pair::who_sleeps_where,
        )
        .act(
            "The child is slow today.",
            shell("kill -STOP {child}"),
            Pair::stop_child,
        )
        .act("A line that it does not read yet.", keys("late"), |p| {
            p.type_line("late")
        })
        .expect("bytes unread at the server", 5, Pair::unread_at_server)
        .act("And that was all.", keys("^D"), Pair::end_input)
        .expect(STATES, "CLOSE-WAIT / FIN-WAIT-2", Pair::states)
}

/// closes, and leaves what is unsent to the kernel.
pub const UNSENT: &str = "tcpecho-lab actor closing unsent 127.0.0.1:{port}";
/// The same with `SO_LINGER` and no time.
pub const LINGER_0: &str = "tcpecho-lab actor closing unsent linger=0 127.0.0.1:{port}";
/// The same with `SO_LINGER` and a second.
pub const LINGER_1: &str = "tcpecho-lab actor closing unsent linger=1 127.0.0.1:{port}";
/// Closes without having read what was there.
pub const UNREAD: &str = "tcpecho-lab actor closing unread 127.0.0.1:{port}";

const ALL: &str = "all, and a FIN";
const PART: &str = "a part, and an RST";
const WHAT_ARRIVES: &[(&str, &str)] = &[
    (ALL, "all that was sent, and then a FIN"),
    (PART, "not all of it, and then an RST"),
];
const AT_ONCE: Expected = Expected::Below(Duration::from_millis(500));
const A_SECOND: Expected = Expected::AtLeast(Duration::from_secs(1));
const TOOK: &str = "close took _ to return";
const SOCKET: &str = "its socket, and the process has ended";
const ARRIVED: &str = "what arrives";
const READ: &str = "Now the other side reads.";

/// The third act: close with unsent bytes, the same with `SO_LINGER` 0 and 1, and close with unread
/// bytes, by these commands.
pub fn ways([unsent, linger_0, linger_1, unread]: [&'static str; 4]) -> Act<Parting> {
    let act = Act::open("four ways to close", Parting::open).explain(
        "A program sends to somebody who does not read, until nothing more fits into the kernel's \
         buffers. Then it closes. The other side starts to read after that.",
    );
    lingering(plain(act, unsent), linger_0, linger_1)
        .predict(
            "The last way. The other side has said hello, and nobody has read it. The program \
             closes. What does the other side get?",
            &[
                ("nothing, and a FIN", "a FIN"),
                ("nothing, and an RST", "an RST"),
            ],
        )
        .act("Close with unread bytes.", shell(unread), move |p| {
            p.part(unread)
        })
        .expect(TOOK, AT_ONCE, Parting::took)
        .expect(SOCKET, "gone", Parting::socket)
        .act(READ, Typed::Nothing, Parting::read)
        .answer(ARRIVED, "nothing, and an RST", Parting::arrived)
        .show("The last way on one time line:", Parting::ladder)
        .show("All four:", |p| Ok(View::Printed(p.table.borrow().clone())))
        .explain(
            "close only says that the program is done. The kernel goes on: it sends what is left, \
             and says FIN behind the last byte, for as long as the other side acknowledges. \
             SO_LINGER with 0 seconds throws the rest away and sends an RST. Unread bytes make it \
             an RST too (RFC 2525, 2.17): see fin-or-reset.\n\n\
             The book (7.5): SO_LINGER with some seconds lets close wait until all is \
             acknowledged; if the time is over before, close returns EWOULDBLOCK and the rest is \
             discarded. This kernel: it returns 0, and nothing is discarded. So on Linux the \
             option does not tell whether the other side has it all, and never whether its \
             program has read it. Only the other program can tell: shutdown, and then read until \
             its FIN, as in the first act.",
        )
        .try_it(
            "1$ tcpechod --model iterative &\n\
             1$ kill -STOP %1\n\
             2$ tcpecho-lab actor closing unsent 127.0.0.1:9877\n\
             2$ tcpecho-lab actor closing unsent linger=1 127.0.0.1:9877\n\
             2$ ss -tan | grep FIN-WAIT\n\
             1$ kill -KILL %1",
        )
        .read("Read: UNP 4.9, 6.6, 7.5 (SO_LINGER); shutdown(2), close(2), socket(7).")
}

fn plain(act: Act<Parting>, command: &'static str) -> Act<Parting> {
    act.predict(
        "What does the other side get of it?",
        &[
            (ALL, "all that was sent, and then a FIN"),
            (PART, "a part: the program has gone, and its bytes with it"),
        ],
    )
    .act("close, as usual.", shell(command), move |p| p.part(command))
    .expect(TOOK, AT_ONCE, Parting::took)
    .expect("it said", "close = 0", Parting::said)
    .expect(SOCKET, "FIN-WAIT-1", Parting::socket)
    .observe(
        "The rest waits in Send-Q, and the FIN behind it. No process has this socket.",
        "ss -tan | grep -E 'State|:{port} '",
        Parting::ss,
    )
    .act(READ, Typed::Nothing, Parting::read)
    .answer(ARRIVED, ALL, Parting::arrived)
}

fn lingering(act: Act<Parting>, zero: &'static str, one: &'static str) -> Act<Parting> {
    act.predict("The same with SO_LINGER and 0 seconds.", WHAT_ARRIVES)
        .act("close that throws away.", shell(zero), move |p| {
            p.part(zero)
        })
        .expect(TOOK, AT_ONCE, Parting::took)
        .expect(SOCKET, "gone", Parting::socket)
        .act(READ, Typed::Nothing, Parting::read)
        .answer(ARRIVED, PART, Parting::arrived)
        .predict(
            "The same with SO_LINGER and 1 second. close waits, and nobody reads. What does it \
             say then?",
            &[
                ("close = 0", "0"),
                ("close = -1 EAGAIN", "-1, EWOULDBLOCK (which is EAGAIN)"),
            ],
        )
        .act("close that waits.", shell(one), move |p| p.part(one))
        .expect(TOOK, A_SECOND, Parting::took)
        .answer("it said", "close = 0", Parting::said)
        .expect(SOCKET, "FIN-WAIT-1", Parting::socket)
        .act(READ, Typed::Nothing, Parting::read)
        .expect(ARRIVED, ALL, Parting::arrived)
}

/// Somebody who listens and reads late, and a program that sends and closes.
pub struct Parting {
    listener: TcpListener,
    place: Isolation,
    /// The packets of the last way: the others move more than a class can read.
    capture: Option<Capture>,
    actor: Option<ClientProcess>,
    reader: Option<Peer>,
    remote: Option<SocketAddr>,
    arrived: Option<(u64, Ended)>,
    /// What has been seen, a line for each way.
    table: RefCell<String>,
}

impl Parting {
    fn open(place: &Isolation) -> Result<Self> {
        let port = match place {
            Isolation::Namespaces => defaults::PORT,
            Isolation::Plain(_) => 0,
        };
        let head = format!(
            "{:<10} {:>10} {:>10} {:>10}  end\n",
            "way", "close took", "sent", "arrived"
        );
        Ok(Self {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, port))?,
            place: place.clone(),
            capture: None,
            actor: None,
            reader: None,
            remote: None,
            arrived: None,
            table: RefCell::new(head),
        })
    }

    /// Lets a program connect, send and close, and waits for its end. Nobody reads.
    fn part(&mut self, command: &str) -> Result<()> {
        let port = self.listener.local_addr()?.port().to_string();
        if self.place == Isolation::Namespaces && command.contains("unread") {
            self.capture = Some(Capture::start()?);
        }
        let actor = cast::begin(&command.replace("{port}", &port))?;
        let (stream, remote) = self.listener.accept()?;
        let mut reader = Peer::over(stream)?;
        if command.contains("unread") {
            reader.send(b"hello\n")?;
        }
        actor.wait(PROMPTLY)?;
        self.actor = Some(actor);
        self.reader = Some(reader);
        self.remote = Some(remote);
        self.arrived = None;
        Ok(())
    }

    /// Reads to the end, and adds what came to the table.
    fn read(&mut self) -> Result<()> {
        let reader = self.reader.as_mut().context("nobody has connected")?;
        let (bytes, ended) = reader.read_to_end()?;
        self.arrived = Some((bytes, ended));
        let way = self.actor()?.command().to_owned();
        let way = way.split("closing ").nth(1).unwrap_or_default();
        let way = way.split(" 127").next().unwrap_or_default();
        let way = way.strip_prefix("unsent linger").map_or(way, |_| &way[7..]);
        let took = Fact::Time(self.took()?).to_string();
        let (sent, end) = (
            self.sent()?,
            if ended == Ended::Fin { "FIN" } else { "RST" },
        );
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.table.borrow_mut(),
            "{way:<10} {took:>10} {sent:>10} {bytes:>10}  {end}"
        );
        Ok(())
    }

    /// How much of what was sent has arrived, and how the connection ended.
    fn arrived(&self) -> Result<String> {
        let (bytes, ended) = self.arrived.context("nobody has read yet")?;
        let sent = self.sent()?;
        let much = match bytes {
            0 => "nothing",
            all if all == sent => "all",
            _ => "a part",
        };
        let end = if ended == Ended::Fin {
            "a FIN"
        } else {
            "an RST"
        };
        Ok(format!("{much}, and {end}"))
    }

    /// The packets of the last way; the program that closes is the client.
    fn ladder(&self) -> Result<View> {
        let unseen = || Unseen("packets are seen only in namespaces".into());
        let capture = self.capture.as_ref().ok_or_else(unseen)?;
        let client = self.remote.context("nobody has connected")?;
        let mut packets = capture.packets_so_far();
        packets.retain(|p| p.from == client || p.to == client);
        let first = packets.first().context("no packet")?.at;
        let ladder = Ladder::new(first).packets(client, &packets);
        let ladder = ladder.remark("The program that closes is the client.");
        Ok(View::Ladder(ladder))
    }

    /// How long close took.
    fn took(&self) -> Result<Duration> {
        let took = self.line("took ")?;
        let micros = took.strip_suffix(" us").context("no time")?.parse()?;
        Ok(Duration::from_micros(micros))
    }

    fn sent(&self) -> Result<u64> {
        Ok(self.line("sent ")?.parse()?)
    }

    /// What close returned.
    fn said(&self) -> Result<String> {
        Ok(format!("close = {}", self.line("close = ")?))
    }

    /// The state of the program's socket; the program has ended.
    fn socket(&self) -> Result<String> {
        let remote = self.remote.context("nobody has connected")?;
        let state = SockDiag::open()?.state(remote, self.listener.local_addr()?)?;
        Ok(state.map_or("gone".into(), |state| state.to_string()))
    }

    fn ss(&self) -> Result<String> {
        let port = self.listener.local_addr()?.port();
        Ok(sockets::ss_view(&sockets::with_port(
            &sockets::tcp()?,
            port,
        )))
    }

    /// What follows this word in what the program said.
    fn line(&self, word: &str) -> Result<String> {
        let said = self.actor()?.stdout();
        let said = String::from_utf8_lossy(&said).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix(word));
        let line = line.with_context(|| format!("no `{word}` in: {said}"))?;
        Ok(line.to_owned())
    }

    fn actor(&self) -> Result<&ClientProcess> {
        self.actor.as_ref().context("no program has run yet")
    }
}

impl Stage for Parting {
    fn names(&self) -> Names {
        let port = self.listener.local_addr().map_or(0, |a| a.port());
        vec![("port", port.to_string())]
    }
}
