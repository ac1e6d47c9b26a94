//! When messages were on the wire, by the kernel's own time stamps: SO_TIMESTAMPING, socket(7) and
//! Documentation/networking/timestamping of the kernel. Linux only.
//!
//! A message leaves when the driver is given the last packet of the call that sent its end
//! (SOF_TIMESTAMPING_TX_SOFTWARE; TX_SCHED is farther from what tcpdump shows, whose own copy is made
//! between the two). Its echo arrives when the driver hands the kernel the last packet of those that are
//! read with its end (RX_SOFTWARE). A message of several packets counts from the last one: the kernel
//! stamps no other.
//!
//! On loopback a packet arrives where it leaves, but stamping its leaving takes some 1 us before it does.
//! So that is measured before the load and taken off: a time there is from the request's arrival to the
//! reply's, which is what tcpdump shows there. On other devices tcpdump sees a packet before the driver
//! has it, by what its own copy costs, some 0.4 us.
//!
//! The stamp of what leaves comes on the socket's error queue, with an id: the position of the call's
//! last byte, in 32 bits that wrap. Of what arrives it comes with the bytes. Costs per message one
//! recvmsg more, and an epoll_wait that tells of the error queue; so it is done only where asked for.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, TimestampingFlag, recvmsg, setsockopt, sockopt,
};

use crate::load::clock::{self, nanoseconds};

/// How many packets are stamped to find out what that takes.
const TRIES: usize = 201;

/// How long that may take: the kernel begins to stamp a while after it was asked to.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a pause of so much, caches are as cold as they get: to wait for longer would only take longer, at
/// `--rate 0.01` more than a minute.
const COLD: Duration = Duration::from_millis(10);

/// Time on the wire, in nanoseconds, and what is to be known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// How long it took.
    pub ns: u64,
    /// Later messages were sent by the same call or have come back in the same read: the stamp is
    /// that of the last of them.
    pub shared: bool,
}

/// Why there is no such time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing says when it left.
    Departure,
    /// Nothing says when its echo arrived.
    Arrival,
    /// More than the program has seen, or less than nothing: the clock was set meanwhile. Stamps are
    /// of CLOCK_REALTIME.
    Order,
}

/// The time stamps of one connection. As many are kept as there are messages under way.
#[derive(Debug, Default)]
pub struct Stamps {
    departures: Departures,
    /// Of the last read.
    arrived: Option<u64>,
}

impl Stamps {
    /// Asks for the stamps of a connection that has not sent anything yet: its positions are the ids. Where
    /// that is refused none will come, which is told in the end.
    pub fn of(socket: &impl AsFd) -> Self {
        let wanted = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
        let _ = setsockopt(socket, sockopt::Timestamping, &wanted);
        Self::default()
    }

    /// A call has sent the bytes up to `end`, with the end of at least one message.
    pub fn sent(&mut self, end: u64) {
        self.departures.sent(end);
    }

    /// Reads, as read(2) does.
    pub fn read(&mut self, socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
        let (n, stamp) = receive(socket.as_raw_fd(), buffer, MsgFlags::empty())?;
        self.arrived = stamp.at;
        Ok(n)
    }

    /// Takes from the error queue what is waited for, if it is there. Never blocks.
    pub fn collect(&mut self, socket: &impl AsRawFd) {
        self.collect_while(socket, Departures::is_waiting);
    }

    fn collect_while(&mut self, socket: &impl AsRawFd, waits: impl Fn(&Departures) -> bool) {
        while waits(&self.departures) {
            // What else might be wrong is told by read.
            let received = receive(socket.as_raw_fd(), &mut [], MsgFlags::MSG_ERRQUEUE);
            let Ok((_, stamp)) = received else { return };
            if let (Some(id), Some(at)) = (stamp.id, stamp.at) {
                self.departures.left(id, at);
            }
        }
    }

    /// From the oldest message's leaving to its echo's arrival. It ends at this position, is `shared` if
    /// more has come back, and the program has seen it take so long.
    pub fn complete(
        &mut self,
        socket: &impl AsRawFd,
        end: u64,
        shared: bool,
        seen: u64,
    ) -> Result<Wire, Missing> {
        self.collect_while(socket, |departures| departures.is_unknown(end));
        let (call, left) = self.departures.complete(end);
        let left = left.ok_or(Missing::Departure)?;
        let arrived = self.arrived.ok_or(Missing::Arrival)?;
        let ns = arrived.checked_sub(left).filter(|ns| *ns <= seen);
        Ok(Wire {
            ns: ns.ok_or(Missing::Order)?,
            shared: shared || call > end,
        })
    }
}

/// If this address is one of this machine: how many nanoseconds a packet's two stamps are apart, typically,
/// when so much time passes between messages. After a pause it is up to twice as much: caches are cold.
pub fn apart(address: IpAddr, pause: Duration) -> Option<u64> {
    let listener = TcpListener::bind((address, 0)).ok()?;
    let mut ours = TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let (theirs, _) = listener.accept().ok()?;
    ours.set_nodelay(true).ok()?;
    theirs.set_read_timeout(Some(PATIENCE)).ok()?;
    // As a worker's connection is: half of it is to tell its poll of the error queue.
    let (mut poll, mut events) = (Poll::new().ok()?, Events::with_capacity(1));
    let (fd, interest) = (ours.as_raw_fd(), Interest::READABLE | Interest::WRITABLE);
    let registered = poll
        .registry()
        .register(&mut SourceFd(&fd), Token(0), interest);
    registered.ok()?;
    let (mut sender, mut receiver) = (Stamps::of(&ours), Stamps::of(&theirs));
    let mut all = Vec::with_capacity(TRIES);
    let deadline = clock::now() + nanoseconds(PATIENCE);
    for end in 1.. {
        if all.len() == TRIES || clock::now() > deadline {
            break;
        }
        poll.poll(&mut events, Some(Duration::ZERO)).ok()?;
        if !pause.is_zero() {
            thread::sleep(pause.min(COLD));
        }
        ours.write_all(&[0]).ok()?;
        sender.sent(end);
        receiver.read(&theirs, &mut [0]).ok()?;
        sender.arrived = receiver.arrived;
        all.extend(sender.complete(&ours, end, false, u64::MAX));
    }
    all.sort_unstable_by_key(|wire| wire.ns);
    all.get(all.len() / 2).map(|wire| wire.ns)
}

/// What has been sent and is not complete: when it left, as far as that is known.
#[derive(Debug, Default)]
struct Departures(VecDeque<Departure>);

#[derive(Debug)]
struct Departure {
    /// The position behind the call's last byte.
    end: u64,
    left: Option<u64>,
}

impl Departures {
    fn sent(&mut self, end: u64) {
        self.0.push_back(Departure { end, left: None });
    }

    /// Is there one of which it is not known? They leave in order, so that the last tells.
    fn is_waiting(&self) -> bool {
        self.0.back().is_some_and(|last| last.left.is_none())
    }

    /// The stamp with this id. What is sent again has the same id, and has left when it did so first.
    fn left(&mut self, id: u32, at: u64) {
        let mut latest = self.0.iter_mut().rev();
        if let Some(call) = latest.find(|call| (call.end - 1) as u32 == id) {
            call.left.get_or_insert(at);
        }
    }

    /// Is it unknown when the message left that ends here?
    fn is_unknown(&self, end: u64) -> bool {
        let mut calls = self.0.iter();
        calls
            .find(|call| call.end >= end)
            .is_some_and(|call| call.left.is_none())
    }

    /// The message that ends here is complete, and all before it. Returns where the call ended that sent
    /// it, and when that left.
    fn complete(&mut self, end: u64) -> (u64, Option<u64>) {
        while self.0.front().is_some_and(|call| call.end < end) {
            self.0.pop_front();
        }
        let Some(Departure { end: call, left }) = self.0.front() else {
            return (end, None);
        };
        let found = (*call, *left);
        if *call == end {
            self.0.pop_front();
        }
        found
    }
}

/// What control messages say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    id: Option<u32>,
    /// In nanoseconds of CLOCK_REALTIME.
    at: Option<u64>,
}

impl Stamp {
    fn add(&mut self, message: &ControlMessageOwned) {
        match message {
            ControlMessageOwned::ScmTimestampsns(stamps) => {
                let at = nanoseconds(Duration::from(stamps.system));
                // Without one of software's this is a stamp of something else.
                self.at = (at > 0).then_some(at);
            }
            ControlMessageOwned::Ipv4RecvErr(error, _)
            | ControlMessageOwned::Ipv6RecvErr(error, _)
                if error.ee_origin == libc::SO_EE_ORIGIN_TIMESTAMPING =>
            {
                self.id = Some(error.ee_data);
            }
            _ => {}
        }
    }
}

/// Room for control messages, in which a header may lie.
#[repr(align(8))]
struct Room([u8; 256]);

/// recvmsg(2): bytes, and what came with them. Fails as that does.
fn receive(socket: RawFd, buffer: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Stamp)> {
    let mut room = Room([0; 256]);
    let mut buffers = [IoSliceMut::new(buffer)];
    let received = recvmsg::<()>(socket, &mut buffers, Some(&mut room.0), flags)?;
    let mut stamp = Stamp::default();
    for message in received.cmsgs()? {
        stamp.add(&message);
    }
    Ok((received.bytes, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn id(end: u64) -> u32 {
        (end - 1) as u32
    }

    #[test]
    fn a_message_left_when_its_call_did() {
        let mut departures = Departures::default();
        departures.sent(64);
        assert!(departures.is_waiting() && departures.is_unknown(64));
        departures.left(63, 700);
        assert!(!departures.is_waiting() && !departures.is_unknown(64));
        assert_eq!(departures.complete(64), (64, Some(700)));
        assert!(departures.0.is_empty());
    }

    #[test]
    fn messages_of_one_call_left_together() {
        let mut departures = Departures::default();
        departures.sent(192);
        departures.sent(256);
        departures.left(191, 700);
        let left: Vec<_> = [64, 128, 192, 256]
            .map(|end| departures.complete(end))
            .into();
        assert_eq!(left[..3], [(192, Some(700)); 3]);
        assert_eq!(left[3], (256, None));
        assert!(departures.0.is_empty());
    }

    #[test]
    fn what_is_sent_again_has_left_the_first_time() {
        let mut departures = Departures::default();
        departures.sent(64);
        departures.left(63, 700);
        departures.left(63, 900);
        assert_eq!(departures.complete(64), (64, Some(700)));
        // It comes once more, when nobody waits for it.
        departures.left(63, 1100);
        departures.sent(128);
        assert_eq!(departures.complete(128), (128, None));
    }

    /// What a machine cannot have stamped is not known; else it is a time, and not a long one.
    #[test]
    fn both_stamps_of_a_packet_on_loopback_are_near_each_other() {
        let ns = apart(std::net::Ipv4Addr::LOCALHOST.into(), Duration::ZERO);
        assert!(ns.is_some_and(|ns| (1..1_000_000).contains(&ns)), "{ns:?}");
        let elsewhere = std::net::Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(apart(elsewhere.into(), Duration::ZERO), None);
    }

    #[test]
    fn ids_wrap() {
        let ends = [(1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 32) + 9];
        let mut departures = Departures::default();
        for end in ends {
            departures.sent(end);
        }
        for (n, id) in [u32::MAX - 1, u32::MAX, 0].into_iter().enumerate() {
            departures.left(id, n as u64);
        }
        let left = ends.map(|end| departures.complete(end).1);
        assert_eq!(left[..3], [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_clock_that_was_set_is_no_time_on_the_wire() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for (left, arrived, seen, expected) in [
            (Some(700), Some(900), 300, Ok(200)),
            (Some(700), Some(900), 200, Ok(200)),
            (Some(700), Some(900), 199, Err(Missing::Order)),
            (Some(900), Some(700), 300, Err(Missing::Order)),
            (None, Some(900), 300, Err(Missing::Departure)),
            (Some(700), None, 300, Err(Missing::Arrival)),
        ] {
            let departure = Departure { end: 64, left };
            let mut stamps = Stamps {
                departures: Departures(VecDeque::from([departure])),
                arrived,
            };
            ours.set_nonblocking(true).expect("non-blocking");
            let wire = stamps.complete(&ours, 64, false, seen);
            assert_eq!(wire.map(|wire| wire.ns), expected);
        }
    }

    proptest! {
        /// Calls of any length, beginning anywhere; their stamps come in any order, some twice and some
        /// never. Every message has the first stamp of the call that sent its end, or none, and nothing
        /// is left.
        #[test]
        fn every_message_has_the_first_stamp_of_its_call(
            from in prop_oneof![Just(0_u64), (1_u64 << 32) - 9000..1 << 32],
            calls in vec((1..5_u64, 1..2000_u64), 1..20),
            stamps in vec((0..20_usize, 1..1_000_000_u64), 0..40),
        ) {
            let mut departures = Departures::default();
            let (mut messages, mut ends, mut end) = (Vec::new(), Vec::new(), from);
            for (count, size) in calls {
                for _ in 0..count {
                    end += size;
                    messages.push((end, ends.len()));
                }
                ends.push(end);
                departures.sent(end);
            }
            prop_assert!(departures.0.len() <= messages.len());
            let mut first = vec![None; ends.len()];
            for (call, at) in stamps {
                if let Some(end) = ends.get(call) {
                    departures.left(id(*end), at);
                    first[call].get_or_insert(at);
                }
            }
            prop_assert_eq!(departures.is_waiting(), first.last() == Some(&None));
            for (end, call) in messages {
                prop_assert_eq!(departures.is_unknown(end), first[call].is_none());
                prop_assert_eq!(departures.complete(end), (ends[call], first[call]));
            }
            prop_assert!(departures.0.is_empty());
        }
    }
}
