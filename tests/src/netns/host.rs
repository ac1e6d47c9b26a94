//! More hosts: network namespaces beside our own, with wires between them; `network_namespaces(7)`,
//! veth(4), rtnetlink(7).
//!
//! A network namespace is what a host is to TCP: interfaces, routes, sockets, settings. A thread may
//! move into another one, and what it starts and opens there stays there; so [`Host::run`] lends a
//! thread. What `ip netns`, `ip link add type veth`, `ip addr`, `ip route` would do, without ip(8).
//! Needs the rights that [`crate::netns`] gives. A namespace is gone when nobody is in it and nobody
//! has it open, and its end of a wire takes the other one along.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use anyhow::{Context, anyhow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};

use super::link::{request, set_up_lo};

/// A host that has nothing in common with the others but the processor.
#[derive(Debug)]
pub struct Host(OwnedFd);

/// An address and how many of its bits name the network.
pub type Network = (Ipv4Addr, u8);

/// What a router does with what goes to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Hands it to the next router.
    Via(Ipv4Addr),
    /// Drops it and says nothing.
    Blackhole,
    /// Drops it and says "host unreachable" (ICMP 3, code 1).
    Unreachable,
    /// Drops it and says "administratively prohibited" (ICMP 3, code 13).
    Prohibit,
}

impl Host {
    /// A host with a loopback interface and nothing else.
    pub fn new() -> anyhow::Result<Self> {
        let namespace = in_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network")?;
            set_up_lo()?;
            File::open("/proc/thread-self/ns/net").context("open the namespace")
        })?;
        Ok(Self(namespace.into()))
    }

    /// Does `body` on this host, in a thread. What it starts and opens stays there.
    pub fn run<T: Send>(
        &self,
        body: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        in_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).context("setns")?;
            body()
        })
    }

    /// Lays a wire to another host: an interface called `name` here, one called `far` there.
    pub fn join(&self, name: &str, other: &Self, far: &str) -> anyhow::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(far.into()),
            LinkAttribute::NetNsFd(other.0.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.run(|| {
            request(
                RouteNetlinkMessage::NewLink(link),
                NLM_F_CREATE | NLM_F_EXCL,
            )
        })
        .with_context(|| format!("a wire from {name} to {far}"))
    }

    /// Gives the interface an address and switches it on.
    pub fn set_up(&self, interface: &str, (ip, bits): Network) -> anyhow::Result<()> {
        self.run(|| {
            let mut address = AddressMessage::default();
            address.header.family = AddressFamily::Inet;
            address.header.prefix_len = bits;
            address.header.index = if_nametoindex(interface)?;
            address.attributes = vec![
                AddressAttribute::Local(ip.into()),
                AddressAttribute::Address(ip.into()),
            ];
            request(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE)?;
            switch(interface, LinkFlags::Up)
        })
        .with_context(|| format!("{ip} on {interface}"))
    }

    /// Switches the interface off: its wire is dead.
    pub fn set_down(&self, interface: &str) -> anyhow::Result<()> {
        self.run(|| switch(interface, LinkFlags::empty()))
            .with_context(|| format!("{interface} down"))
    }

    /// Puts the network card into another host. It keeps its wire and its hardware address, nothing
    /// else.
    pub fn give(&self, interface: &str, other: &Self) -> anyhow::Result<()> {
        self.run(|| {
            let mut link = LinkMessage::default();
            link.header.index = if_nametoindex(interface)?;
            let target = LinkAttribute::NetNsFd(other.0.as_raw_fd());
            link.attributes.push(target);
            request(RouteNetlinkMessage::SetLink(link), 0)
        })
        .with_context(|| format!("move {interface}"))
    }

    /// From now on, this is what happens to packets to `network`.
    pub fn route(&self, network: Network, way: Way) -> anyhow::Result<()> {
        let route = RouteNetlinkMessage::NewRoute(route(network, Some(way)));
        self.run(|| request(route, NLM_F_CREATE | NLM_F_REPLACE))
            .with_context(|| format!("{way:?} for {network:?}"))
    }

    /// Forgets what happens to packets to `network`.
    pub fn forget_route(&self, network: Network) -> anyhow::Result<()> {
        let route = RouteNetlinkMessage::DelRoute(route(network, None));
        self.run(|| request(route, 0))
            .with_context(|| format!("no route to {network:?}"))
    }

    /// Writes a setting: `set("ipv4/tcp_retries2", 3)`; ip-sysctl in the kernel's documentation.
    pub fn set(&self, name: &str, value: u32) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        // /proc/sys/net shows the settings of whoever opens it.
        self.run(|| Ok(fs::write(&path, value.to_string())?))
            .with_context(|| format!("write {value} to {path}"))
    }
}

/// A thread of its own for what would change this one.
fn in_a_thread<T: Send>(body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let there = scope.spawn(body);
        there.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn switch(interface: &str, to: LinkFlags) -> anyhow::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = if_nametoindex(interface)?;
    link.header.flags = to;
    link.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::SetLink(link), 0)
}

fn route((ip, bits): Network, way: Option<Way>) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = bits;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    let destination = RouteAddress::Inet(ip);
    route
        .attributes
        .push(RouteAttribute::Destination(destination));
    let Some(way) = way else {
        route.header.scope = RouteScope::NoWhere;
        return route;
    };
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = match way {
        Way::Via(_) => RouteType::Unicast,
        Way::Blackhole => RouteType::BlackHole,
        Way::Unreachable => RouteType::Unreachable,
        Way::Prohibit => RouteType::Prohibit,
    };
    if let Way::Via(next) = way {
        let next = RouteAddress::Inet(next);
        route.attributes.push(RouteAttribute::Gateway(next));
    }
    route
}
