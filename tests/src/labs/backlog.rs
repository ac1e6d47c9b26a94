//! The queue for accept, and whoever finds no room in it (UNP 4.5; listen(2), tcp(7)).
//!
//! A server that accepts nobody for a while, and more clients than may wait. Asserted are how many
//! connections there are, who acknowledges their bytes, the SYNs that were dropped and how often they
//! were sent again, and what becomes of a handshake whose last segment finds the queue full.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use tcpecho_common::defaults;

use crate::labs::crowd::{Crowd, SS};
use crate::labs::states::{StateLog, now};
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{
    Act, Chapter, Expected, Lab, Names, Need, Scene, Stage, Typed, Unseen, View, shell,
};
use crate::netns::Isolation;
use crate::netns::host::Host;
use crate::observe::packets::{Capture, Packet};
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::State;
use crate::peer::{self, Peer, connect_many};
use crate::server::{Server, ServerProcess};
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "backlog",
    title: "listen(fd, 2): how many may wait for accept?",
    sections: "4.5",
    chapter: Chapter::Concurrency,
    takes: 8,
    needs: &[Need::Packets],
    about: "Connections are made by the kernel, and wait in a queue until the server accepts them. \
        The second argument of listen says how long the queue may become. A server is busy \
        elsewhere for a while. What do its clients see? What does the one see who finds no room?",
    acts: || {
        vec![
            Box::new(queue(TWO)) as Box<dyn Scene>,
            Box::new(full(TWO)),
            Box::new(late(
                "the last segment of the handshake finds no room",
                0,
                HALF,
                IGNORED,
            )),
            Box::new(last(late(
                "the same with tcp_abort_on_overflow",
                1,
                NONE,
                REFUSED,
            ))),
        ]
    },
};

/// A server with a short queue.
pub const TWO: &str = "tcpechod --backlog 2 --bind 127.0.0.1 {port}";
/// One with a longer one.
pub const SEVEN: &str = "tcpechod --backlog 7 --bind 127.0.0.1 {port}";

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";
/// One that gives connect more time than a class may need.
const PATIENT: &str = "tcpecho --connect-timeout 2m 127.0.0.1 {port}";
const HASTY: &str = "tcpecho -w 2s 127.0.0.1 {port}";

/// The gaps between the SYNs grow with the time that a class has taken so far.
const NEXT_SYN: Duration = Duration::from_secs(70);
/// The first of them, less what a timer may be early.
const A_SECOND: Duration = Duration::from_millis(900);
/// Until the kernel sends something again for the first, or the second time.
const SOON: Duration = Duration::from_secs(20);

/// More clients than fit into the queue.
pub fn queue(server: &'static str) -> Act<Crowd> {
    Act::open("a queue for connections", Crowd::open)
        .server("In terminal 1, the server; listen(fd, 2).", server)
        .act(
            "It has something else to do: here it is stopped.",
            shell("kill -STOP {server}"),
            Crowd::stop_server,
        )
        .predict(
            "Four clients come, and nobody accepts them. How many are connected?",
            &[
                ("0", "none: there is nobody to talk to"),
                ("2", "two"),
                ("3", "three"),
                ("4", "all of them"),
            ],
        )
        .act(
            "They come, one after the other, in terminals 2 to 5.",
            shell(PATIENT),
            |c| (0..4).try_for_each(|_| c.start_client(PATIENT)),
        )
        .answer("clients that are connected", 3, |c| {
            let states = (0..4).map(|nth| c.state_at_client(nth));
            let states: Vec<_> = states.collect::<Result<_>>()?;
            let connected = states.iter().filter(|state| **state == State::Established);
            Ok(connected.count())
        })
        .expect("who has the server's end of the first", "nobody", |c| {
            c.holders(0)
        })
        .line("The first client's user types.", 0, "hello")
        .expect("bytes unread at the server", 6, |c| c.unread(0))
        .expect("bytes not acknowledged", 0, |c| c.unacknowledged(0))
        .observe(
            "LISTEN has its queue in Recv-Q, and the backlog in Send-Q.",
            SS,
            Crowd::ss,
        )
        .expect("in the queue", 3, Crowd::queued)
        .expect("the backlog", 2, Crowd::backlog)
        .explain(
            "The queue holds one more than listen asked for. Who is in it is connected in every \
             respect: its bytes are taken and acknowledged, by a server that does not run. All \
             that is missing is a descriptor, and that is what accept gives.",
        )
}

/// Two who find the queue full: one waits, one gives up.
pub fn full(server: &'static str) -> Act<Crowd> {
    Act::open("no room", Crowd::open)
        .act(
            "The same again: the server stopped, three in its queue, a line from each.",
            shell(server),
            move |c| {
                c.start_server(server)?;
                c.stop_server()?;
                (0..3).try_for_each(|nth| {
                    c.start_client(CLIENT)?;
                    c.type_line(nth, "hello")
                })
            },
        )
        .expect("in the queue", 3, Crowd::queued)
        .predict(
            "A fourth client calls connect. What does its kernel hear from the server's?",
            &[
                ("ESTAB", "a SYN,ACK: the queue grows"),
                ("UNCONN", "an RST: connection refused"),
                ("SYN-SENT", "nothing: connect does not return"),
            ],
        )
        .client("The fourth client; it has patience.", PATIENT)
        .answer("the fourth client's socket", "SYN-SENT", |c| {
            Ok(c.state_at_client(3)?.to_string())
        })
        .client("A fifth has less: it gives up after 2 s.", HASTY)
        .act(
            "Wait until the fourth's kernel has sent its SYN again.",
            Typed::Nothing,
            |c| {
                eventually("a second SYN", NEXT_SYN, || {
                    // Whoever has been let in sends no other.
                    let waits = c.state_at_client(3).ok()? == State::SynSent;
                    (!waits || c.sent_again(3).ok()? > 0).then_some(())
                })
            },
        )
        .show("The fourth client's connection, on the wire:", syns_view)
        .expect(
            "its second SYN came _ after the first",
            Expected::AtLeast(A_SECOND),
            |c| match &*syns(c, 3)? {
                [first, second, ..] => Ok(Duration::from_nanos(second.at - first.at)),
                few => bail!("{} SYNs", few.len()),
            },
        )
        .observe(
            "The listener counts what it drops: d, at the end.",
            "ss -tlnm 'sport = :{port}'",
            |c| Ok(format!("{}drops: {}\n", c.ss()?, c.dropped()?)),
        )
        .expect("of the SYNs of both it has dropped", "each", dropped)
        .expect("the fifth client", "exit status 5", |c| c.fate_of_client(4))
        .show("It says:", |c| {
            let said = c.client_says(4)?;
            Ok(View::Printed(said.replace(" (", "\n(")))
        })
        .explain(
            "The kernel has no room, drops the SYN, and says nothing. An RST would mean that \
             nobody listens, and the client would give up at once. So the client's kernel takes it \
             for lost and sends it again, a second later. connect waits meanwhile, for two minutes \
             and more, if the program has no limit of its own.",
        )
        .signal(
            "The server goes on, and accepts who is there.",
            shell("kill -CONT {server}"),
            Signal::SIGCONT,
        )
        .expect("what came back to the first", "hello", |c| c.echoed(0))
        .expect("in the queue", 0, Crowd::queued)
        .act(
            "Wait for the next SYN of the fourth.",
            Typed::Nothing,
            |c| {
                eventually("the next SYN", NEXT_SYN, || {
                    let state = c.state_at_client(3).ok()?;
                    (state != State::SynSent).then_some(())
                })
            },
        )
        .expect("the fourth client's socket", "ESTAB", |c| {
            Ok(c.state_at_client(3)?.to_string())
        })
        .explain(
            "Nobody told the fourth of the free place. It got in with its next SYN, up to a second \
             later, or more: the gaps grow in the end. That is how a queue that is too short looks \
             from outside: now and then a connect takes a second, and nobody finds an error \
             anywhere but in that counter (nstat -as | grep Listen has the sum of all listeners).",
        )
}

/// The states of a connection that only its client believes in.
pub const HALF: &str = "SYN-RECV / ESTAB";
/// There is none.
pub const NONE: &str = "gone / gone";

const IGNORED: &str = "A client is connected when it gets the SYN,ACK. A server's kernel makes the \
    connection from the ACK that follows. It had no room for one, and dropped that ACK too. Now the \
    two disagree. To the client all looks as in the queue: but this time nobody acknowledges its \
    bytes. Both kernels repeat what was not answered, the SYN,ACK and the line; the first segment \
    that finds room completes the handshake.";
const REFUSED: &str = "Now the server's kernel answers the ACK with an RST. The client learns at \
    once that something is wrong, and cannot tell it from a server that died. That is why the \
    setting is 0: a burst of clients is over in a second, and a lost ACK is repaired by itself.";

/// A handshake whose last segment comes when the queue has become full. `states`: of the server's
/// socket and the client's.
pub fn late(
    title: &'static str,
    abort: u32,
    states: &'static str,
    why: &'static str,
) -> Act<Overflow> {
    let choices = &[
        ("ESTAB / ESTAB", "connected: the handshake is complete"),
        (HALF, "connected to the client; to the server not yet"),
        (NONE, "reset"),
    ];
    let setting = match abort {
        0 => "sysctl net.ipv4.tcp_abort_on_overflow=0",
        _ => "sysctl net.ipv4.tcp_abort_on_overflow=1",
    };
    let act = Act::open(title, Overflow::open)
        .act("On a host of its own.", shell(setting), move |l| {
            l.host.set("ipv4/tcp_abort_on_overflow", abort)
        })
        .act(
            "The server, stopped, with an empty queue.",
            shell(TWO),
            Overflow::start_server,
        )
        .act(
            "A client sends its SYN. The SYN,ACK is lost on its way (here by a filter at its \
             socket).",
            Typed::Nothing,
            Overflow::connect_deaf,
        )
        .expect(
            "its sockets, server's / client's",
            "SYN-RECV / SYN-SENT",
            Overflow::states,
        )
        .act(
            "Meanwhile three others fill the queue.",
            Typed::Nothing,
            Overflow::fill,
        )
        .predict(
            "The SYN,ACK is sent again, and arrives. The client's kernel answers with the ACK. \
             There is no room any more. What is the connection, for the server and for the client?",
            choices,
        )
        .act("The SYN,ACK arrives.", Typed::Nothing, Overflow::hear)
        .answer("its sockets, server's / client's", states, Overflow::states);
    let act = match abort {
        0 => act
            .act("The client writes a line.", Typed::Nothing, Overflow::write)
            .expect("its write", "write = 6", |l| Ok(l.said.clone()))
            .expect("bytes not acknowledged", 6, Overflow::unacknowledged)
            .act(
                "The server goes on, and accepts the three. Wait for what is sent again.",
                shell("kill -CONT {server}"),
                Overflow::go_on,
            )
            .expect(
                "its sockets, server's / client's",
                "ESTAB / ESTAB",
                Overflow::states,
            )
            .expect("bytes not acknowledged", 0, Overflow::unacknowledged),
        _ => act
            .act("The client reads.", Typed::Nothing, Overflow::read)
            .expect("its read", "read = -1 ECONNRESET", |l| Ok(l.said.clone())),
    };
    act.show("The whole story on one time line:", Overflow::ladder)
        .explain(why)
}

fn last(act: Act<Overflow>) -> Act<Overflow> {
    act.explain(
        "The book (4.5): two queues, and a backlog that never was well defined: many systems let \
         in more than it says (figure 4.10); a SYN that finds a full queue is ignored, for the \
         client will send it again. This kernel: backlog + 1 completed connections, at most \
         net.core.somaxconn + 1; incomplete ones have limits of their own.\n\n\
         Verdict: the backlog need not be exact, only long enough for the longest time in which \
         the server does not come back to accept. A long queue of clients that nobody serves in \
         time is no help either.",
    )
    .try_it(
        "1$ tcpechod --backlog 2 &\n\
         1$ kill -STOP $!\n\
         2$ for i in 1 2 3 4; do sleep 60 | tcpecho -w 60 localhost & done\n\
         2$ ss -tan | grep 9877         (LISTEN 3 2; SYN-SENT)\n\
         2$ tcpecho -w 2s localhost; echo $?\n\
         2$ ss -tlnm 'sport = :9877'    (d at the end)\n\
         1$ kill -CONT $!",
    )
    .read("Read: UNP 4.5 (figures 4.7 to 4.10); listen(2), NOTES; tcp(7), tcp_abort_on_overflow.")
}

/// The SYNs that the `nth` client has sent.
fn syns(crowd: &Crowd, nth: usize) -> Result<Vec<Packet>> {
    let mut packets = crowd.packets(nth)?;
    packets.retain(|packet| packet.flags.syn() && !packet.flags.ack());
    Ok(packets)
}

fn syns_view(crowd: &Crowd) -> Result<View> {
    let packets = crowd.packets(3)?;
    let first = packets.first().context("it has sent nothing")?;
    let ladder = Ladder::new(first.at)
        .remark("Time 0 is the first SYN.")
        .packets(first.from, &packets);
    Ok(View::Ladder(ladder))
}

/// How many of the SYNs that found no room the listener says it has dropped: `each`.
fn dropped(crowd: &Crowd) -> Result<String> {
    let dropped = crowd.dropped()?;
    let sent = syns(crowd, 3)?.len() + syns(crowd, 4)?.len();
    Ok(if dropped == sent {
        "each".into()
    } else {
        format!("{dropped} of {sent}")
    })
}

/// A host with a server, a client whose handshake is late, and others who were in time.
pub struct Overflow {
    host: Host,
    diag: SockDiag,
    capture: Capture,
    server: Option<ServerProcess>,
    late: Option<TcpStream>,
    others: Vec<Peer>,
    /// What the last call of the late one returned.
    said: String,
    states: Option<StateLog>,
    /// What was made to happen, and when.
    marks: Vec<(u64, Side, String)>,
}

impl Overflow {
    fn open(place: &Isolation) -> Result<Self> {
        if let Isolation::Plain(why) = place {
            let why = format!("the setting needs a network namespace, and there is none: {why}");
            bail!(Unseen(why));
        }
        let host = Host::new()?;
        Ok(Self {
            diag: host.run(SockDiag::open)?,
            capture: host.run(Capture::start)?,
            host,
            server: None,
            late: None,
            others: Vec::new(),
            said: "nothing".into(),
            states: None,
            marks: Vec::new(),
        })
    }

    fn start_server(&mut self) -> Result<()> {
        let flags = ["--backlog", "2", "--bind", "127.0.0.1"];
        let server = Server::with_args(flags).port(defaults::PORT);
        let server = self.host.run(|| server.start())?;
        server.freeze()?;
        self.server = Some(server);
        Ok(())
    }

    fn connect_deaf(&mut self) -> Result<()> {
        let server = self.server()?.address();
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (late, states) = self.host.run(|| {
            let late = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            peer::deafen(&late)?;
            match connect(late.as_raw_fd(), &SockaddrStorage::from(server)) {
                Err(Errno::EINPROGRESS) => {}
                other => bail!("connect: {other:?}"),
            }
            let late = TcpStream::from(late);
            let states = StateLog::watch(late.local_addr()?, server)?;
            Ok((late, states))
        })?;
        (self.late, self.states) = (Some(late), Some(states));
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let server = self.server()?.address();
        self.others = self.host.run(|| connect_many(server, 3))?;
        self.mark(Side::Server, "the queue is full");
        Ok(())
    }

    /// Its kernel hears the next SYN,ACK, and answers.
    fn hear(&mut self) -> Result<()> {
        peer::undeafen(self.late()?)?;
        eventually("a SYN,ACK", SOON, || {
            let (_, client) = self.both().ok()?;
            (client != "SYN-SENT").then_some(())
        })
    }

    fn write(&mut self) -> Result<()> {
        let written = self.late()?.write(b"hello\n")?;
        self.said = format!("write = {written}");
        self.mark(Side::Client, self.said.clone());
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut late = self.late()?;
        self.said = match late.read(&mut [0]) {
            Ok(n) => format!("read = {n}"),
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                format!("read = -1 {errno:?}")
            }
        };
        self.mark(Side::Client, self.said.clone());
        Ok(())
    }

    fn go_on(&mut self) -> Result<()> {
        self.mark(Side::Server, "goes on");
        self.server()?.thaw()?;
        eventually("the rest of the handshake", SOON, || {
            let (server, _) = self.both().ok()?;
            (server != "SYN-RECV").then_some(())
        })
    }

    fn mark(&mut self, side: Side, what: impl Into<String>) {
        self.marks.push((now(), side, what.into()));
    }

    /// The states of the two sockets of the late connection: `SYN-RECV / ESTAB`.
    fn states(&self) -> Result<String> {
        let (server, client) = self.both()?;
        Ok(format!("{server} / {client}"))
    }

    fn both(&self) -> Result<(String, String)> {
        let (client, server) = self.addresses()?;
        let state = |from, to| -> Result<String> {
            let state = self.diag.state(from, to)?;
            Ok(state.map_or("gone".into(), |state| state.to_string()))
        };
        Ok((state(server, client)?, state(client, server)?))
    }

    fn unacknowledged(&self) -> Result<usize> {
        let (client, server) = self.addresses()?;
        let bytes = self.diag.unacknowledged(client, server)?;
        Ok(bytes.context("the client has no such socket")? as usize)
    }

    fn ladder(&self) -> Result<View> {
        let (client, _) = self.addresses()?;
        let mut packets = self.capture.packets_so_far();
        packets.retain(|packet| packet.from == client || packet.to == client);
        let first = packets.first().context("it has sent nothing")?.at;
        let mut ladder = Ladder::new(first)
            .remark("Time 0 is the first SYN. In brackets: the state of a socket when it was looked at.")
            .remark(
                "Packets are seen in front of the filter: a SYN,ACK that no ACK follows was thrown away \
                 at the client's socket.",
            )
            .packets(client, &packets);
        for (at, side, what) in &self.marks {
            ladder = ladder.note(*at, *side, what.clone());
        }
        let changes = self
            .states
            .as_ref()
            .map_or_else(Vec::new, StateLog::changes);
        // A segment that was dropped on its way has caused nothing: so no packet is named as the cause.
        for change in changes {
            let state = change.state.map_or("gone".into(), |s| s.to_string());
            ladder = ladder.note(change.asked, change.side, format!("[{state}]"));
        }
        Ok(View::Ladder(ladder))
    }

    /// The client's address, and the server's.
    fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.late()?.local_addr()?, self.server()?.address()))
    }

    fn late(&self) -> Result<&TcpStream> {
        self.late.as_ref().context("it has not come yet")
    }

    fn server(&self) -> Result<&ServerProcess> {
        let server = self.server.as_ref();
        server.context("the server has not been started")
    }
}

impl Stage for Overflow {
    fn names(&self) -> Names {
        let mut names = vec![("port", defaults::PORT.to_string())];
        if let Some(server) = &self.server {
            names.push(("server", server.pid().to_string()));
        }
        names
    }
}
