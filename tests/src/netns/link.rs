//! Setting up the loopback interface through netlink; rtnetlink(7).
//!
//! What `ip link set lo up mtu 1500 gso_max_size 1500` would do, without ip(8). In a new network
//! namespace lo is down: bind works and connect says ENETUNREACH. With its own MTU of 65536 and
//! segmentation left to the receiver, lo carries frames of 64 kB; with an Ethernet's 1500 a capture
//! looks like one from a wire.

use anyhow::{Context, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// That of an Ethernet.
const MTU: u32 = 1500;

/// lo is the first interface of every network namespace.
const LO: u32 = 1;

/// Brings lo up, as large as an Ethernet; everything that is already so is left as it is.
pub(super) fn set_up_lo() -> anyhow::Result<()> {
    let mut up = LinkMessage::default();
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    up.attributes.push(LinkAttribute::Mtu(MTU));
    change(up).context("bring lo up with an MTU of 1500")?;

    let mut small = LinkMessage::default();
    small.attributes.push(LinkAttribute::GsoMaxSize(MTU));
    if let Err(error) = change(small) {
        // Kernels before 4.17 cannot; their captures show larger packets, nothing else changes.
        log::debug!("gso_max_size of lo: {error:#}");
    }
    Ok(())
}

fn change(mut link: LinkMessage) -> anyhow::Result<()> {
    link.header.index = LO;
    request(RouteNetlinkMessage::SetLink(link), 0)
}

/// Asks the kernel for a change in this thread's network namespace; an answer that is an errno is an
/// [`io::Error`](std::io::Error).
pub(super) fn request(what: RouteNetlinkMessage, flags: u16) -> anyhow::Result<()> {
    let mut message = NetlinkMessage::from(what);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE).context("a netlink socket")?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    // The kernel answers before send returns.
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        other => bail!("netlink answered {other:?}"),
    }
}
