//! How many connections can there be? What runs out are the client's ports (UNP 2.9, 2.10).
//!
//! A host whose ephemeral range is ten ports. Ten connections to one address, then
//! EADDRNOTAVAIL; ten more to another port, ten more to another address of the server, ten more from
//! another address of the client. Asserted are what connect says and how many connections the server
//! holds.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, getsockname,
    setsockopt, socket, sockopt,
};
use tcpecho_common::{Model, defaults};

use crate::labs::states::now;
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{Act, Chapter, Lab, Names, Need, Stage, Typed, Unseen, View, shell};
use crate::netns::Isolation;
use crate::observe::packets::{Capture, Packet};
use crate::observe::sockets::{self, State};
use crate::server::{Server, ServerProcess};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "port-range",
    title: "65535 connections? What the limit really is",
    sections: "2.9, 2.10, 2.12",
    chapter: Chapter::Life,
    takes: 1,
    needs: &[Need::Namespaces],
    about: "A port has 16 bits, so a server can have at most 65535 connections: so it is often \
        told, in this course too. Is it true? We make ports scarce, ten of them, and count.",
    acts: || vec![Box::new(scarce(TEN))],
};

/// The ephemeral range of this lab, as the kernel wants it written.
pub const TEN: &str = "20000 20009";

const SETTING: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The second server's port.
const SECOND: u16 = 9878;
const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another address of the server.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Another address of the client.
const THIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// More connections than there can be.
const TOO_MANY: usize = 100;

const RANGE: &str = "cat /proc/sys/net/ipv4/ip_local_port_range";
const COUNT: &str = "ss -Htn state established sport = :{port} | wc -l";
const HELD: &str = "connections that the server has";
const MORE: &str = "connections made, and then";
const UNTIL: &[(&str, &str)] = &[
    ("0, EADDRNOTAVAIL", "none: the ten ports are in use"),
    ("10, EADDRNOTAVAIL", "ten more"),
];

/// The act, with this range of ports.
pub fn scarce(range: &'static str) -> Act<Ports> {
    let act = Act::open("ten ports", move |place| Ports::open(place, range))
        .observe("The ports that connect takes from, here:", RANGE, |_| {
            Ok(fs::read_to_string(SETTING)?)
        })
        .act(
            "In terminal 1, a server.",
            shell("tcpechod --model reactor --bind 0.0.0.0 {port}"),
            |p| p.start(defaults::PORT),
        )
        .predict(
            "Clients connect from this host, one after the other. How many?",
            &[
                ("0, EADDRNOTAVAIL", "none"),
                ("10, EADDRNOTAVAIL", "ten"),
                ("11, EADDRNOTAVAIL", "eleven: the server's port is one more"),
            ],
        )
        .act(
            "Connect, again and again, until it fails.",
            Typed::Nothing,
            |p| p.connect_all(None, (SERVER, defaults::PORT)),
        )
        .answer(MORE, "10, EADDRNOTAVAIL", Ports::made)
        .expect("SYNs that were sent", 10, Ports::syns)
        .show(
            "The tenth and the eleventh on one time line:",
            Ports::ladder,
        );
    let act = held(act, "10").predict(
        "All ten ports are in use. How many connections to a second server, port 9878?",
        UNTIL,
    );
    let act = act
        .act(
            "A second server, and clients.",
            shell("tcpechod --model reactor --bind 0.0.0.0 9878"),
            |p| {
                p.start(SECOND)?;
                p.connect_all(None, (SERVER, SECOND))
            },
        )
        .answer(MORE, "10, EADDRNOTAVAIL", Ports::made)
        .predict(
            "The server has other addresses. How many more to 127.0.0.2, port 9877?",
            UNTIL,
        )
        .act(
            "Connect, again and again, until it fails.",
            Typed::Nothing,
            |p| p.connect_all(None, (OTHER, defaults::PORT)),
        )
        .answer(MORE, "10, EADDRNOTAVAIL", Ports::made);
    let act = held(act, "20")
        .predict(
            "And to 127.0.0.1 again, from another address of the client: 127.0.0.3?",
            UNTIL,
        )
        .act(
            "Connect, again and again, until it fails.",
            Typed::Nothing,
            |p| p.connect_all(Some(THIRD), (SERVER, defaults::PORT)),
        )
        .answer(MORE, "10, EADDRNOTAVAIL", Ports::made);
    conclusion(held(act, "30"))
}

fn held(act: Act<Ports>, expected: &'static str) -> Act<Ports> {
    act.observe("Counted at the server, port {port}:", COUNT, |_| {
        Ok(format!("{}\n", connections()?))
    })
    .expect(HELD, expected, |_| connections())
}

fn conclusion(act: Act<Ports>) -> Act<Ports> {
    act.show("Without this lab the range is:", |p| {
        Ok(View::Printed(p.usual()?))
    })
    .expect("the course's port, 9877, is", "below it", Ports::of_the_course)
    .or_known("in it", "somebody has widened the range of this host")
    .explain(
        "The course says: 65535 connections for a server, since a port has 16 bits. Wrong: all \
         connections of a server have the same port at its side. Thirty came to one port, from a \
         host that has ten.\n\n\
         What must be unique are the four numbers together: both addresses and both ports. \
         Three of them are fixed when a client connects (from where, to where, to which port); \
         the kernel looks for the fourth in its ephemeral range. So the limit is for one client \
         address and one server address and port, and it is the length of that range.\n\n\
         Each further client host brings a range of its own. A server's limit is memory and \
         descriptors (ulimit -n), not ports. Who meets this limit in earnest is a proxy or a load \
         generator: one client address, one server, many connections, and those in TIME-WAIT \
         count as well.\n\n\
         The book (2.9) calls ports from 49152 on ephemeral; Linux begins at 32768. A server's \
         own port is best below that, where connect does not take it.",
    )
    .try_it(
        "1$ unshare -Urn\n\
         1# ip link set lo up\n\
         1# sysctl net.ipv4.ip_local_port_range=\"20000 20009\"\n\
         1# tcpechod &\n\
         1# tcpecho --connections 10 127.0.0.1\n\
         1> ^D\n\
         1# tcpecho --connections 11 127.0.0.1        (fails)",
    )
    .read(
        "Read: UNP 2.9, 2.10, 2.12; ip(7): ip_local_port_range, IP_BIND_ADDRESS_NO_PORT; connect(2): \
         EADDRNOTAVAIL.",
    )
}

/// Servers and clients on a host with few ephemeral ports.
pub struct Ports {
    servers: Vec<ServerProcess>,
    clients: Vec<OwnedFd>,
    made: Option<(usize, Errno)>,
    /// When connect failed last.
    failed: u64,
    capture: Capture,
    /// The range that the host had before.
    before: String,
}

impl Ports {
    /// Takes the other ports away until the end of the act.
    fn open(place: &Isolation, range: &str) -> Result<Self> {
        if let Isolation::Plain(why) = place {
            let why = format!("the range is that of everybody here: {why}");
            bail!(Unseen(why));
        }
        let before = fs::read_to_string(SETTING)?;
        fs::write(SETTING, range).with_context(|| format!("write {SETTING}"))?;
        Ok(Self {
            servers: Vec::new(),
            clients: Vec::new(),
            made: None,
            failed: 0,
            capture: Capture::start()?,
            before,
        })
    }

    fn start(&mut self, port: u16) -> Result<()> {
        let server = Server::model(Model::Reactor).args(["--bind", "0.0.0.0"]);
        self.servers.push(server.port(port).start()?);
        Ok(())
    }

    /// Connects from this address to that until it fails.
    fn connect_all(&mut self, from: Option<Ipv4Addr>, to: (Ipv4Addr, u16)) -> Result<()> {
        for made in 0..TOO_MANY {
            match connected(from, SocketAddr::from(to)) {
                Ok(client) => self.clients.push(client),
                Err(errno) => {
                    self.failed = now();
                    self.made = Some((made, errno));
                    return Ok(());
                }
            }
        }
        bail!("{TOO_MANY} connections, and no end");
    }

    /// How many were made, and why no more: `10, EADDRNOTAVAIL`.
    fn made(&self) -> Result<String> {
        let (made, errno) = self.made.context("nobody has connected")?;
        Ok(format!("{made}, {errno:?}"))
    }

    /// How many connections have been tried on the wire.
    fn syns(&self) -> Result<usize> {
        let packets = self.packets()?;
        let first = |p: &&Packet| p.flags.syn() && p.from.port() != defaults::PORT;
        Ok(packets.iter().filter(first).count())
    }

    fn packets(&self) -> Result<Vec<Packet>> {
        let missed = self.capture.take_dropped()?;
        ensure!(missed == 0, "the capture missed {missed} frames");
        Ok(self.capture.packets_so_far())
    }

    /// The last connect that succeeded, and the one after it.
    fn ladder(&self) -> Result<View> {
        let last = self.clients.last().context("nobody is connected")?;
        let name: SockaddrIn = getsockname(last.as_raw_fd())?;
        let client = SocketAddr::from((name.ip(), name.port()));
        let mut packets = self.packets()?;
        packets.retain(|p| p.from == client || p.to == client);
        let ladder = Ladder::new(packets.first().context("no packet")?.at)
            .packets(client, &packets)
            .note(self.failed, Side::Client, "the next connect: EADDRNOTAVAIL")
            .remark("The one that fails sends nothing: its own kernel has no port for it.");
        Ok(View::Ladder(ladder))
    }

    /// The range as it was, and its length.
    fn usual(&self) -> Result<String> {
        let (first, last) = self.range()?;
        let ports = u32::from(last) + 1 - u32::from(first);
        Ok(format!("{first} to {last}: {ports} ports\n"))
    }

    /// Where the server's port is: a client's connect may be given any of the range.
    fn of_the_course(&self) -> Result<&'static str> {
        let (first, last) = self.range()?;
        Ok(match defaults::PORT {
            port if port < first => "below it",
            port if port > last => "above it",
            _ => "in it",
        })
    }

    fn range(&self) -> Result<(u16, u16)> {
        let mut ends = self.before.split_whitespace().map(str::parse::<u16>);
        let (first, last) = (ends.next(), ends.next());
        Ok((first.context("no range")??, last.context("no end")??))
    }
}

/// How many connections the first server's port has.
fn connections() -> Result<usize> {
    let sockets = sockets::tcp()?.into_iter();
    let its = sockets.filter(|s| s.local.port() == defaults::PORT);
    Ok(its.filter(|s| s.state == State::Established).count())
}

impl Drop for Ports {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SETTING, &self.before) {
            log::warn!("the port range cannot be restored: {error}");
        }
    }
}

/// A connection, from this address if one is given: then the kernel is asked to choose the port in
/// connect, when it knows all of the four numbers, and not in bind.
fn connected(from: Option<Ipv4Addr>, to: SocketAddr) -> nix::Result<OwnedFd> {
    let kind = SockType::Stream;
    let client = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // It leaves no TIME-WAIT when it goes, which would be in the way for a minute.
    let (l_onoff, l_linger) = (1, 0);
    setsockopt(
        &client,
        sockopt::Linger,
        &libc::linger { l_onoff, l_linger },
    )?;
    if let Some(from) = from {
        setsockopt(&client, sockopt::IpBindAddressNoPort, &true)?;
        let from = SocketAddr::new(IpAddr::V4(from), 0);
        bind(client.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    connect(client.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(client)
}

impl Stage for Ports {
    fn names(&self) -> Names {
        vec![("port", defaults::PORT.to_string())]
    }
}
