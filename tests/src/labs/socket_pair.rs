//! Which socket gets a segment? The one with its four numbers (UNP 2.11, 4.10).
//!
//! A server on the wildcard and two clients that have the same port, at different addresses: three
//! sockets on the server's port, and the kernel never mixes them up. Then what getsockname says at
//! each moment of a socket's life. Asserted are the sockets, the echoes, the addresses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrLike as _, SockaddrStorage,
    bind, connect, getsockname, listen, setsockopt, socket, sockopt,
};
use tcpecho_common::{Model, defaults};

use crate::labs::pair::{PROMPTLY, end_of, moves_data};
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{Act, Chapter, Lab, Names, Need, Stage, Typed, Unseen, View, shell};
use crate::netns::Isolation;
use crate::observe::calls::CallRecord;
use crate::observe::packets::Capture;
use crate::observe::processes;
use crate::observe::sockets::{self, Socket, State};
use crate::peer::Peer;
use crate::server::{Server, ServerProcess};
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "socket-pair",
    title: "Three sockets, one port: who gets the segment?",
    sections: "2.11, 4.10",
    chapter: Chapter::Life,
    takes: 1,
    needs: &[Need::Packets],
    about: "A server listens on one port. Each connection that it accepts is a new socket, on the \
        same port. A segment arrives for that port. How does the kernel know for which socket it \
        is? And what does a socket say when it is asked for its own address?",
    acts: || vec![Box::new(three_sockets(WILDCARD)), Box::new(names(true))],
};

/// A server that listens on all addresses of its host.
pub const WILDCARD: &str = "0.0.0.0";

const SS: &str = "ss -tan | grep -E 'State|:{port} '";
const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The address that the client of the second act calls.
const CALLED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// The first act, with a server on this address.
pub fn three_sockets(address: &'static str) -> Act<Clients> {
    Act::open("two clients with the same port", |place| {
        Clients::open(place)
    })
    .act(
        "In terminal 1, a server with a process per client, on all addresses.",
        shell("tcpechod --model fork --bind 0.0.0.0 {port}"),
        move |c| c.start(address),
    )
    .expect("the listener's own address", "0.0.0.0", Clients::listener)
    .act(
        "A client at 127.0.0.2 connects to 127.0.0.1.",
        Typed::Nothing,
        |c| c.connect(ONE),
    )
    .predict(
        "Another client, at 127.0.0.3, takes the same port as the first, and connects to the \
             same port of the server. Can it?",
        &[
            ("refused", "no: both ports are in use"),
            ("connected", "yes: its address is another"),
        ],
    )
    .act("It tries.", Typed::Nothing, |c| c.connect(TWO))
    .answer("the second client", "connected", Clients::second)
    .observe(
        "All ports are the same. Four numbers name a connection.",
        SS,
        Clients::ss,
    )
    .expect(
        "sockets with the server's port at their own side",
        "1 LISTEN, 2 ESTAB",
        Clients::census,
    )
    .expect(
        "who has them",
        "LISTEN: the parent, ESTAB: a child each",
        Clients::holders,
    )
    .predict(
        "Each client sends a line, to the same port. What does each get back?",
        &[
            ("first one, second two", "its own line"),
            ("first two, second one", "the other's line"),
            (
                "first nothing, second nothing",
                "nothing: the listener gets them",
            ),
        ],
    )
    .act("Both send.", Typed::Nothing, Clients::talk)
    .answer("they got", "first one, second two", Clients::got)
    .show("The first client on one time line:", Clients::ladder)
    .predict(
        "A third comes. Its SYN has four numbers that no connection has. Who gets it?",
        &[
            ("2 LISTEN, 2 ESTAB", "a second listener"),
            (
                "1 LISTEN, 3 ESTAB",
                "the listener; and a new socket is made",
            ),
        ],
    )
    .act("It connects.", Typed::Nothing, |c| {
        c.connect(Ipv4Addr::new(127, 0, 0, 4))
    })
    .answer(
        "sockets with the server's port at their own side",
        "1 LISTEN, 3 ESTAB",
        Clients::census,
    )
    .explain(
        "The kernel looks for a socket with all four numbers of the segment: source address \
             and port, destination address and port. If there is none, a listener on that port \
             gets it, and takes nothing but a SYN. All the rest is answered with an RST \
             (crash-and-reboot). The book (2.11) tells it the same way, and this kernel does so.",
    )
}

/// The second act. If not `accepted`, the last socket asked is the listener: a test wants that.
pub fn names(accepted: bool) -> Act<Asked> {
    Act::open("what getsockname says, and when", |_| Ok(Asked::default()))
        .act("socket().", Typed::Nothing, Asked::make)
        .expect("getsockname before bind", "0.0.0.0:0", Asked::own)
        .expect(
            "and the family of that address, for who has only the descriptor",
            "AF_INET",
            Asked::family,
        )
        .predict(
            "bind to the wildcard, port 0. What does getsockname say then?",
            &[
                ("0.0.0.0:0", "0.0.0.0:0, until a client comes"),
                ("0.0.0.0:PORT", "0.0.0.0 and a port of the kernel's choice"),
                ("127.0.0.1:PORT", "an address of this host, and such a port"),
            ],
        )
        .act("bind(0.0.0.0, port 0).", Typed::Nothing, Asked::bind)
        .answer("getsockname after bind", "0.0.0.0:PORT", Asked::own)
        .act("listen().", Typed::Nothing, Asked::listen)
        .predict(
            "A client connects to 127.0.0.7. What does getsockname say of the socket that accept \
             returns?",
            &[
                ("0.0.0.0:PORT", "the same as of the listener"),
                ("127.0.0.7:PORT", "the address that the client has called"),
                ("127.0.0.1:PORT", "the first address of this host"),
            ],
        )
        .act(
            "connect to 127.0.0.7, and accept.",
            Typed::Nothing,
            move |a| a.accept(accepted),
        )
        .answer(
            "getsockname of the accepted socket",
            "127.0.0.7:PORT",
            Asked::own_of_accepted,
        )
        .expect("getsockname of the listener", "0.0.0.0:PORT", Asked::own)
        .expect(
            "getsockname of the client, getpeername of the accepted socket",
            "the same",
            Asked::of_client,
        )
        .show("What was really said:", |a| Ok(View::Printed(a.say()?)))
        .explain(
            "A listener on the wildcard has no address until somebody calls. Then the kernel knows \
             which of the host's addresses was meant, and the connection has that one. The book \
             (4.10): a server that must know it asks the connected socket with getsockname. So \
             does a program that bound port 0 and wants to tell its port: tcpechod's first line \
             comes from there. A client that did not bind gets its address and port in connect.",
        )
        .try_it(
            "1$ tcpechod --bind 0.0.0.0 &\n\
             2$ tcpecho 127.0.0.7\n\
             2> hello\n\
             1$ ss -tan | grep 9877\n\
             1$ tcpechod 0 &                              (which port?)",
        )
        .read("Read: UNP 2.11, 4.10, 4.4 (bind); getsockname(2), ip(7).")
}

/// A server and clients at addresses of their own, all with one port.
pub struct Clients {
    port: u16,
    server: Option<ServerProcess>,
    peers: Vec<Peer>,
    refused: bool,
    got: Vec<String>,
    capture: Result<Capture, String>,
}

impl Clients {
    fn open(place: &Isolation) -> Result<Self> {
        let (port, capture) = match place {
            Isolation::Namespaces => (defaults::PORT, Ok(Capture::start()?)),
            Isolation::Plain(_) => (0, Err("packets are seen only in namespaces".into())),
        };
        Ok(Self {
            port,
            server: None,
            peers: Vec::new(),
            refused: false,
            got: Vec::new(),
            capture,
        })
    }

    fn start(&mut self, address: &str) -> Result<()> {
        let server = Server::model(Model::Fork).args(["--bind", address]);
        let server = server.port(self.port).events().start()?;
        self.port = server.address().port();
        self.server = Some(server);
        Ok(())
    }

    /// Connects from this address, with the port of the first client if there is one.
    fn connect(&mut self, from: Ipv4Addr) -> Result<()> {
        let port = self.peers.first().map_or(0, |first| first.local().port());
        let Some(stream) = connected(SocketAddr::from((from, port)), self.address())? else {
            self.refused = true;
            return Ok(());
        };
        self.peers.push(Peer::over(stream)?);
        // Each is served when it has a process of its own.
        let near = self.peers.last().map(Peer::local);
        let server = self.server()?.pid();
        eventually("a child with the connection", PROMPTLY, || {
            let mut children = processes::children(server).into_iter();
            children.find_map(|child| end_of(child.pid, |s| Some(s.remote) == near))
        })
        .map(drop)
    }

    fn listener(&self) -> Result<String> {
        let its = self.sockets()?.into_iter();
        let mut listeners = its.filter(|s| s.state == State::Listen);
        let listener = listeners.next().context("nobody listens")?;
        Ok(listener.local.ip().to_string())
    }

    fn second(&self) -> Result<&'static str> {
        match (self.refused, self.peers.len()) {
            (true, _) => Ok("refused"),
            (false, 2) => Ok("connected"),
            (false, n) => bail!("there are {n} clients"),
        }
    }

    /// The sockets that have the server's port at their own side: `1 LISTEN, 2 ESTAB`.
    fn census(&self) -> Result<String> {
        let sockets = self.sockets()?;
        let count = |state| sockets.iter().filter(|s| s.state == state).count();
        let (listening, connected) = (count(State::Listen), count(State::Established));
        Ok(format!("{listening} LISTEN, {connected} ESTAB"))
    }

    /// Which processes have those sockets.
    fn holders(&self) -> Result<String> {
        let server = self.server()?.pid();
        let parent = processes::descriptors(server)?;
        let has = |fds: &[(i32, String)], inode| {
            let name = format!("socket:[{inode}]");
            fds.iter().any(|(_, target)| *target == name)
        };
        let sockets = self.sockets()?;
        let mut words = Vec::new();
        for socket in &sockets {
            let children = processes::children(server).into_iter();
            let held = children.filter_map(|c| processes::descriptors(c.pid).ok());
            let children = held.filter(|fds| has(fds, socket.inode)).count();
            words.push((socket.state, has(&parent, socket.inode), children));
        }
        let right = words.iter().all(|(state, parent, children)| match state {
            State::Listen => *parent && *children == 0,
            _ => !*parent && *children == 1,
        });
        if !right {
            bail!("{words:?}");
        }
        Ok("LISTEN: the parent, ESTAB: a child each".into())
    }

    /// Each client says which one it is, and hears what comes back.
    fn talk(&mut self) -> Result<()> {
        let words = ["one", "two"];
        for (peer, word) in self.peers.iter_mut().zip(words) {
            peer.send(word.as_bytes())?;
        }
        let got = self.peers.iter_mut().zip(words).map(|(peer, word)| {
            let back = peer.expect(word.as_bytes());
            back.map_or_else(|error| error.to_string(), |()| word.to_owned())
        });
        self.got = got.collect();
        Ok(())
    }

    fn got(&self) -> Result<String> {
        let [first, second] = self.got.as_slice() else {
            bail!("there are no two clients");
        };
        Ok(format!("first {first}, second {second}"))
    }

    /// The first client's segments, and whose calls they ended.
    fn ladder(&self) -> Result<View> {
        let capture = self.capture.as_ref().map_err(|why| Unseen(why.clone()))?;
        let client = self.peers.first().context("nobody has connected")?.local();
        let mut packets = capture.packets_so_far();
        packets.retain(|p| p.from == client || p.to == client);
        let server = self.server()?;
        let mut children = processes::children(server.pid()).into_iter();
        let child = children.find_map(|child| end_of(child.pid, |s| s.remote == client));
        let child = child.context("nobody serves it")?;
        let calls = server.calls();
        let accepted = |c: &&CallRecord| c.call == "accept" && c.result > 0;
        let its = |c: &&CallRecord| (c.pid, c.fd) == (child.pid, child.fd) && moves_data(c);
        let told = calls.iter().find(accepted).into_iter();
        let ladder = Ladder::new(packets.first().context("no packet")?.at)
            .packets(client, &packets)
            .calls(Side::Server, told.chain(calls.iter().filter(its)))
            .remark(
                "accept is the parent's, on the listening socket; read and write are the child's.",
            );
        Ok(View::Ladder(ladder))
    }

    fn ss(&self) -> Result<String> {
        Ok(sockets::ss_view(&sockets::with_port(
            &sockets::tcp()?,
            self.port,
        )))
    }

    fn sockets(&self) -> Result<Vec<Socket>> {
        let mut all = sockets::tcp()?;
        all.retain(|s| s.local.port() == self.port && s.inode > 0);
        Ok(all)
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn server(&self) -> Result<&ServerProcess> {
        let server = self.server.as_ref();
        server.context("the server has not been started")
    }
}

/// A connection from this address to that; None if the address is in use.
fn connected(from: SocketAddr, to: SocketAddr) -> Result<Option<TcpStream>> {
    let client = tcp_socket()?;
    setsockopt(&client, sockopt::ReuseAddr, &true)?;
    bind(client.as_raw_fd(), &SockaddrStorage::from(from))?;
    match connect(client.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(Some(client.into())),
        Err(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE | Errno::ECONNREFUSED) => Ok(None),
        Err(errno) => Err(errno).with_context(|| format!("connect from {from} to {to}")),
    }
}

fn tcp_socket() -> nix::Result<OwnedFd> {
    let kind = SockType::Stream;
    socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)
}

impl Stage for Clients {
    fn names(&self) -> Names {
        vec![("port", self.port.to_string())]
    }
}

/// Bare sockets that are asked for their addresses.
#[derive(Default)]
pub struct Asked {
    listener: Option<OwnedFd>,
    client: Option<OwnedFd>,
    accepted: Option<TcpStream>,
    port: u16,
}

impl Asked {
    fn make(&mut self) -> Result<()> {
        self.listener = Some(tcp_socket()?);
        Ok(())
    }

    fn bind(&mut self) -> Result<()> {
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listener = self.listener()?;
        bind(listener.as_raw_fd(), &SockaddrStorage::from(anywhere))?;
        self.port = name_of(listener)?.port();
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        Ok(listen(self.listener()?, Backlog::new(1)?)?)
    }

    /// A client calls 127.0.0.7. What is asked later is what accept returned, or (a mistake) the
    /// listener once more.
    fn accept(&mut self, accepted: bool) -> Result<()> {
        let client = tcp_socket()?;
        let to = SocketAddr::from((CALLED, self.port));
        connect(client.as_raw_fd(), &SockaddrStorage::from(to))?;
        let listener = TcpListener::from(self.listener()?.try_clone()?);
        let (connection, _) = listener.accept()?;
        self.accepted = Some(if accepted {
            connection
        } else {
            TcpStream::from(OwnedFd::from(listener))
        });
        self.client = Some(client);
        Ok(())
    }

    /// The family, without knowing it before: any address fits into a sockaddr_storage.
    fn family(&self) -> Result<String> {
        let name: SockaddrStorage = getsockname(self.listener()?.as_raw_fd())?;
        Ok(match name.family() {
            Some(AddressFamily::Inet) => "AF_INET".into(),
            other => format!("{other:?}"),
        })
    }

    fn own(&self) -> Result<String> {
        Ok(self.in_words(name_of(self.listener()?)?))
    }

    fn own_of_accepted(&self) -> Result<String> {
        let accepted = self.accepted.as_ref().context("nothing accepted")?;
        Ok(self.in_words(name_of(accepted)?))
    }

    /// Is what the client says of itself what the accepted socket says of its peer?
    fn of_client(&self) -> Result<&'static str> {
        let own = name_of(self.client.as_ref().context("no client")?)?;
        let accepted = self.accepted.as_ref().context("nothing accepted")?;
        let same = accepted.peer_addr()? == own && own.port() > 0;
        Ok(if same { "the same" } else { "different" })
    }

    /// The port that the kernel chose is called PORT.
    fn in_words(&self, address: SocketAddr) -> String {
        match address.port() {
            port if port == self.port && port > 0 => format!("{}:PORT", address.ip()),
            _ => address.to_string(),
        }
    }

    fn say(&self) -> Result<String> {
        let accepted = self.accepted.as_ref().context("nothing accepted")?;
        let client = name_of(self.client.as_ref().context("no client")?)?;
        let (listener, own) = (name_of(self.listener()?)?, name_of(accepted)?);
        Ok(format!(
            "listener   {listener}\naccepted   {own}\nclient     {client}\n"
        ))
    }

    fn listener(&self) -> Result<&OwnedFd> {
        self.listener.as_ref().context("no socket yet")
    }
}

/// getsockname.
fn name_of(socket: &impl AsRawFd) -> Result<SocketAddr> {
    let name: SockaddrIn = getsockname(socket.as_raw_fd())?;
    Ok(SocketAddr::from((name.ip(), name.port())))
}

impl Stage for Asked {
    fn names(&self) -> Names {
        vec![("port", self.port.to_string())]
    }
}
