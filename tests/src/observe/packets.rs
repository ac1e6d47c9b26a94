//! TCP packets on the loopback interface.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The flags of a TCP header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(u8);

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

    /// The names, as in `SYN,ACK`.
    pub fn names(self) -> String {
        todo!()
    }
}

/// As tcpdump prints them: `[S.]`.
impl fmt::Display for Flags {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
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

/// A capture that is under way.
#[derive(Debug)]
pub struct Capture {}

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
        todo!()
    }

    /// What has been seen until now.
    pub fn packets_so_far(&self) -> Vec<Packet> {
        todo!()
    }

    /// Waits until `enough` says so of the packets seen so far, and returns them.
    pub fn wait_for(
        &self,
        _what: &str,
        _deadline: Duration,
        _enough: impl FnMut(&[Packet]) -> bool,
    ) -> anyhow::Result<Vec<Packet>> {
        todo!()
    }

    /// Ends the capture; everything that passed before is in it.
    pub fn stop(self) -> anyhow::Result<Captured> {
        todo!()
    }
}
