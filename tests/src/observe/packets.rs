//! TCP packets on an interface, mostly the loopback; packet(7), tcpdump(8).
//!
//! A packet socket bound to it. On lo every packet passes twice, on its way out and on its way in;
//! the second is what we see. The kernel filters, and keeps the headers with the time at which
//! they passed in a ring that holds 32,768 packets; a thread empties it. Whoever asks
//! empties it first, so that an answer holds everything that had passed before the question. Needs
//! `CAP_NET_RAW`, which [`crate::netns`] gives, and 8 MiB of the kernel's memory.
//!
//! Start it before the first SYN, stop it after the last FIN. Checksums on lo are never filled in,
//! and not looked at.

mod tap;

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, poll};

use crate::observe::pcap::Sink;
use crate::wait::eventually;

pub(super) use tap::SNAP;

/// How often the emptying thread looks whether the capture is still wanted, in ms.
const LOOK_UP: u16 = 500;

/// The flags of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(u8);

/// Byte 13 of the header.
impl From<u8> for Flags {
    fn from(byte: u8) -> Self {
        Self(byte)
    }
}

impl Flags {
    /// Is the sender opening its direction?
    pub const fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// Has the sender finished its direction?
    pub const fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Is the connection over at once?
    pub const fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// Did the sender empty its buffer with this?
    pub const fn psh(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// Does the acknowledgement number count?
    pub const fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Does the urgent pointer count?
    pub const fn urg(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// The names, as in `SYN,ACK`; `none` if none is set.
    pub fn names(self) -> String {
        let names = [
            (self.syn(), "SYN"),
            (self.fin(), "FIN"),
            (self.rst(), "RST"),
            (self.psh(), "PSH"),
            (self.urg(), "URG"),
            (self.ack(), "ACK"),
        ];
        let set: Vec<_> = names.iter().filter(|(set, _)| *set).collect();
        match set[..] {
            [] => "none".to_owned(),
            _ => set
                .iter()
                .map(|(_, name)| *name)
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

/// As tcpdump prints them: `[S.]`.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: String = "FSRP.UEW"
            .chars()
            .enumerate()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, letter)| letter)
            .collect();
        f.pad(&format!(
            "[{}]",
            if letters.is_empty() { "none" } else { &letters }
        ))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds of `CLOCK_REALTIME`, stamped by the kernel.
    pub at: u64,
    /// Its sender.
    pub from: SocketAddr,
    /// Its receiver.
    pub to: SocketAddr,
    /// SYN, ACK ...
    pub flags: Flags,
    /// Sequence number, absolute.
    pub seq: u32,
    /// Acknowledgement number, absolute; 0 without ACK.
    pub ack: u32,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// Bytes of data.
    pub len: usize,
}

/// The lines that `tcpdump -n` would print: sequence numbers relative to the SYN, if it was seen.
pub fn tcpdump_view(packets: &[Packet]) -> String {
    let mut first: HashMap<(SocketAddr, SocketAddr), u32> = HashMap::new();
    let mut view = String::new();
    for p in packets {
        if p.flags.syn() {
            first.insert((p.from, p.to), p.seq);
        }
        let start = |from, to| first.get(&(from, to)).copied().unwrap_or(0);
        // tcpdump shows the numbers of a SYN as they are.
        let seq = if p.flags.syn() {
            p.seq
        } else {
            p.seq.wrapping_sub(start(p.from, p.to))
        };
        let ack = if p.flags.syn() {
            p.ack
        } else {
            p.ack.wrapping_sub(start(p.to, p.from))
        };
        let family = if p.from.is_ipv4() { "IP" } else { "IP6" };
        // Writing to a String cannot fail.
        let _ = write!(
            view,
            "{} {family} {} > {}: Flags {}",
            time_of_day(p.at),
            dotted(p.from),
            dotted(p.to),
            p.flags
        );
        let _ = match p.len {
            0 if p.flags.syn() || p.flags.fin() || p.flags.rst() => write!(view, ", seq {seq}"),
            0 => Ok(()),
            len => write!(view, ", seq {seq}:{}", seq.wrapping_add(len as u32)),
        };
        if p.flags.ack() {
            let _ = write!(view, ", ack {ack}");
        }
        let _ = writeln!(view, ", win {}, length {}", p.window, p.len);
    }
    view
}

/// UTC, to the microsecond.
fn time_of_day(at: u64) -> String {
    let (seconds, us) = (at / 1_000_000_000 % 86_400, at / 1000 % 1_000_000);
    let (minutes, second) = (seconds / 60, seconds % 60);
    format!(
        "{:02}:{:02}:{second:02}.{us:06}",
        minutes / 60,
        minutes % 60
    )
}

/// Address and port the way tcpdump joins them.
fn dotted(address: SocketAddr) -> String {
    format!("{}.{}", address.ip(), address.port())
}

/// A capture that is under way.
#[derive(Debug)]
pub struct Capture(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tap: OwnedFd,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    ring: tap::Ring,
    packets: Vec<Packet>,
    sink: Option<Sink>,
}

/// What a capture has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The packets, in the kernel's order.
    pub packets: Vec<Packet>,
    /// How many the kernel had to drop; anything but 0 means that the packets prove nothing.
    pub dropped: u64,
}

impl Capture {
    /// Captures the loopback interface of this thread's network namespace from now on.
    /// Errors: EPERM without `CAP_NET_RAW`, which [`crate::netns`] gives.
    pub fn start() -> anyhow::Result<Self> {
        Self::on("lo", None)
    }

    /// The same for another interface, in both directions; into a recording, too, if there is one.
    pub fn start_on(interface: &str) -> anyhow::Result<Self> {
        Self::on(interface, Sink::wanted())
    }

    /// Captures lo for a recording.
    pub(super) fn recorded(sink: Sink) -> anyhow::Result<Self> {
        Self::on("lo", Some(sink))
    }

    fn on(interface: &str, sink: Option<Sink>) -> anyhow::Result<Self> {
        let tap = tap::on(interface);
        let (tap, ring) = tap.with_context(|| format!("a packet socket on {interface}"))?;
        let seen = Mutex::new(Seen {
            ring,
            packets: Vec::new(),
            sink,
        });
        let shared = Arc::new(Shared { tap, seen });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("capture".into())
            .spawn(move || follow(&weak))?;
        Ok(Self(shared))
    }

    /// What has been seen until now.
    pub fn packets_so_far(&self) -> Vec<Packet> {
        self.0.settled().packets.clone()
    }

    /// Waits until `enough` says so of the packets seen so far, and returns them. The error shows
    /// them.
    pub fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        mut enough: impl FnMut(&[Packet]) -> bool,
    ) -> anyhow::Result<Vec<Packet>> {
        eventually(what, deadline, || {
            let seen = self.0.settled();
            enough(&seen.packets).then(|| seen.packets.clone())
        })
        .with_context(|| format!("packets seen:\n{}", tcpdump_view(&self.0.settled().packets)))
    }

    /// How many packets the kernel had to drop since this was last asked.
    pub fn take_dropped(&self) -> anyhow::Result<u64> {
        self.0.dropped(&self.0.settled())
    }

    /// Ends the capture; everything that passed before is in it.
    pub fn stop(self) -> anyhow::Result<Captured> {
        let mut seen = self.0.settled();
        let dropped = self.0.dropped(&seen)?;
        Ok(Captured {
            packets: std::mem::take(&mut seen.packets),
            dropped,
        })
    }
}

/// What passed before the end is in the recording, and nothing that passes after it.
impl Drop for Capture {
    fn drop(&mut self) {
        let mut seen = self.0.settled();
        // The recording counts what it can.
        let _ = self.0.dropped(&seen);
        seen.sink = None;
    }
}

fn follow(capture: &Weak<Shared>) {
    while let Some(shared) = capture.upgrade() {
        let mut fds = [PollFd::new(shared.tap.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, LOOK_UP).is_ok_and(|ready| ready > 0) {
            drop(shared.settled());
        }
    }
}

impl Shared {
    fn dropped(&self, seen: &Seen) -> anyhow::Result<u64> {
        let dropped = tap::dropped(&self.tap).context("statistics of the packet socket")?;
        if let Some(sink) = &seen.sink {
            sink.dropped(dropped);
        }
        Ok(dropped)
    }

    fn settled(&self) -> MutexGuard<'_, Seen> {
        let mut guard = self.seen.lock().expect("no panic while it is held");
        let Seen {
            ring,
            packets,
            sink,
        } = &mut *guard;
        let look = |at, length, frame: &[u8]| {
            if let Some(sink) = &*sink {
                sink.packet(at, length, frame);
            }
            decode(at, frame)
        };
        // Once around is enough: what comes later had not passed before the question.
        for _ in 0..tap::FRAMES {
            match ring.next(look) {
                Some(packet) => packets.extend(packet),
                None => break,
            }
        }
        if let Some(sink) = sink {
            sink.flush();
        }
        guard
    }
}

/// Reads the headers of a frame that may have been cut off behind them.
fn decode(at: u64, frame: &[u8]) -> Option<Packet> {
    let sliced = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (from, to, ip_payload): (IpAddr, IpAddr, usize) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let length = usize::from(header.total_len()).saturating_sub(header.slice().len());
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                length,
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let length =
                usize::from(header.payload_length()).saturating_sub(ip.extensions().slice().len());
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                length,
            )
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return None;
    };
    Some(Packet {
        at,
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        flags: Flags(tcp.slice()[13]),
        seq: tcp.sequence_number(),
        ack: if tcp.ack() {
            tcp.acknowledgment_number()
        } else {
            0
        },
        window: tcp.window_size(),
        len: ip_payload.saturating_sub(tcp.header_slice().len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, from: &str, to: &str, seq: u32, ack: u32, len: usize) -> Packet {
        Packet {
            at: 1_700_000_000_123_456_789,
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            flags: Flags(flags),
            seq,
            ack,
            window: 65535,
            len,
        }
    }

    #[test]
    fn flags_are_printed_as_tcpdump_does_and_by_name() {
        for (flags, tcpdump, names) in [
            (0x02, "[S]", "SYN"),
            (0x12, "[S.]", "SYN,ACK"),
            (0x11, "[F.]", "FIN,ACK"),
            (0x18, "[P.]", "PSH,ACK"),
            (0x04, "[R]", "RST"),
            (0x10, "[.]", "ACK"),
            (0x00, "[none]", "none"),
        ] {
            assert_eq!(Flags(flags).to_string(), tcpdump);
            assert_eq!(Flags(flags).names(), names);
        }
    }

    fn frame(
        builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        data: &[u8],
    ) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, data).expect("a Vec takes it");
        frame
    }

    #[test]
    fn headers_are_read_even_if_the_data_are_cut_off() {
        let ethernet = || etherparse::PacketBuilder::ethernet2([0; 6], [0; 6]);
        let v4 = ethernet().ipv4([127, 0, 0, 1], [127, 0, 0, 2], 64);
        let v6 = ethernet().ipv6([1; 16], [2; 16], 64);
        let v4 = frame(v4.tcp(50000, 9877, 7, 1024).psh().ack(9), &[b'x'; 1000]);
        let v6 = frame(v6.tcp(50000, 9877, 7, 1024).psh().ack(9), &[b'x'; 1000]);
        for whole in [v4, v6] {
            let cut = &whole[..tap::SNAP as usize];
            let packet = decode(5, cut).expect("TCP");
            assert_eq!(decode(5, &whole), Some(packet));
            assert_eq!((packet.from.port(), packet.to.port()), (50000, 9877));
            assert_eq!((packet.at, packet.seq, packet.ack), (5, 7, 9));
            assert_eq!((packet.len, packet.window), (1000, 1024));
            assert_eq!(packet.flags.to_string(), "[P.]");
        }
        assert_eq!(decode(5, &[0; 60]), None);
        assert_eq!(decode(5, &[]), None);
    }

    #[test]
    fn the_view_is_that_of_tcpdump() {
        let (client, server) = ("127.0.0.1:50000", "127.0.0.1:9877");
        let view = tcpdump_view(&[
            packet(0x02, client, server, 1000, 0, 0),
            packet(0x12, server, client, 5000, 1001, 0),
            packet(0x10, client, server, 1001, 5001, 0),
            packet(0x18, client, server, 1001, 5001, 6),
            packet(0x11, client, server, 1007, 5001, 0),
        ]);
        let lines: Vec<&str> = view.lines().collect();
        assert_eq!(
            lines,
            [
                "22:13:20.123456 IP 127.0.0.1.50000 > 127.0.0.1.9877: Flags [S], seq 1000, win 65535, length 0",
                "22:13:20.123456 IP 127.0.0.1.9877 > 127.0.0.1.50000: Flags [S.], seq 5000, ack 1001, win 65535, length 0",
                "22:13:20.123456 IP 127.0.0.1.50000 > 127.0.0.1.9877: Flags [.], ack 1, win 65535, length 0",
                "22:13:20.123456 IP 127.0.0.1.50000 > 127.0.0.1.9877: Flags [P.], seq 1:7, ack 1, win 65535, length 6",
                "22:13:20.123456 IP 127.0.0.1.50000 > 127.0.0.1.9877: Flags [F.], seq 7, ack 1, win 65535, length 0",
            ]
        );
    }
}
