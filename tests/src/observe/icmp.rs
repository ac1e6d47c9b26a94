//! ICMP errors that reach a host: "destination unreachable", and of what connection; icmp(7), raw(7),
//! RFC 792.
//!
//! A raw socket gets a copy of each, whatever the kernel makes of it. Needs `CAP_NET_RAW`, which
//! [`crate::netns`] gives.

use std::fmt;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};

/// "Destination unreachable".
const UNREACHABLE: u8 = 3;

/// A router (or the host itself) says that something could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Nanoseconds of `CLOCK_REALTIME`, stamped by the kernel.
    pub at: u64,
    /// Who says so.
    pub by: Ipv4Addr,
    /// What exactly: 0 the network, 1 the host, 13 it is not allowed.
    pub code: u8,
    /// The sender of the segment that could not be delivered.
    pub from: SocketAddr,
    /// Its receiver.
    pub to: SocketAddr,
}

/// As tcpdump says it.
impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.code {
            0 => "net unreachable",
            1 => "host unreachable",
            13 => "admin prohibited",
            _ => "unreachable",
        })
    }
}

/// An open ear for such errors.
#[derive(Debug)]
pub struct Ear(OwnedFd);

impl Ear {
    /// Listens in this thread's network namespace from now on.
    pub fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let family = AddressFamily::Inet;
        let raw = socket(family, SockType::Raw, flags, SockProtocol::Icmp)
            .context("a raw socket for ICMP")?;
        setsockopt(&raw, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self(raw))
    }

    /// What has come since this was last asked.
    pub fn heard(&self) -> Result<Vec<Unreachable>> {
        let mut heard = Vec::new();
        while let Some((at, message)) = self.next()? {
            // It may say something else.
            heard.extend(decode(at, &message));
        }
        Ok(heard)
    }

    /// The next message, if there is one, and when it came.
    fn next(&self) -> Result<Option<(u64, Vec<u8>)>> {
        let mut bytes = [0; 256];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let fd = self.0.as_raw_fd();
        let message = match recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty()) {
            Err(Errno::EAGAIN) => return Ok(None),
            message => message?,
        };
        let stamp = message.cmsgs()?.find_map(|c| match c {
            ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
            _ => None,
        });
        let (length, at) = (message.bytes, stamp.unwrap_or_default().as_nanos() as u64);
        Ok(Some((at, bytes[..length].to_vec())))
    }
}

/// An IPv4 header, 8 bytes of ICMP, and of what could not be delivered its IPv4 header and 8 bytes.
fn decode(at: u64, packet: &[u8]) -> Option<Unreachable> {
    let (by, _, icmp) = ipv4(packet)?;
    let [UNREACHABLE, code, _, _, _, _, _, _, original @ ..] = icmp else {
        return None;
    };
    let (from, to, tcp) = ipv4(original)?;
    let port = |at| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Unreachable {
        at,
        by,
        code: *code,
        from: SocketAddr::new(from.into(), port(0)?),
        to: SocketAddr::new(to.into(), port(2)?),
    })
}

/// Source, destination, and what follows the header.
fn ipv4(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, &[u8])> {
    let address = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    let length = usize::from(packet.first()? & 0x0f) * 4;
    Some((address(12)?, address(16)?, packet.get(length..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_read_from_what_could_not_be_delivered() {
        let ip = |from: [u8; 4], to: [u8; 4]| {
            let mut header = vec![0x45];
            header.extend([0; 11]);
            header.extend(from);
            header.extend(to);
            header
        };
        let mut packet = ip([192, 0, 2, 1], [192, 0, 2, 2]);
        packet.extend([UNREACHABLE, 1, 0, 0, 0, 0, 0, 0]);
        packet.extend(ip([192, 0, 2, 2], [198, 51, 100, 2]));
        packet.extend([0xc3, 0x50, 0x26, 0x95, 0, 0, 0, 7]);
        let said = decode(5, &packet).expect("unreachable");
        assert_eq!((said.at, said.by), (5, Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(said.from.to_string(), "192.0.2.2:50000");
        assert_eq!(said.to.to_string(), "198.51.100.2:9877");
        assert_eq!(said.to_string(), "host unreachable");
        packet[20] = 8;
        assert_eq!(decode(5, &packet), None, "an echo request");
        for cut in 0..packet.len() {
            let _ = decode(5, &packet[..cut]);
        }
    }
}
