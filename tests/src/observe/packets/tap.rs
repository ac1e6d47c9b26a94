//! The packet socket behind a capture, and the ring it shares with the kernel.
//!
//! A ring (`PACKET_RX_RING`, `TPACKET_V2`) instead of the socket's queue: the queue charges each packet with
//! its whole buffer against `net.core.rmem_max` and holds a few hundred; the ring holds headers only.
//! Source: packet(7), the kernel's `Documentation/networking/packet_mmap.rst`.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// How many bytes of a packet are kept: Ethernet 14, IPv6 40, TCP at most 60.
pub(in crate::observe) const SNAP: u32 = 128;

/// How many packets the ring holds.
pub(super) const FRAMES: usize = 32 * 1024;

/// A frame: 66 bytes in front of the packet, then the packet.
const FRAME: usize = 256;

/// The kernel allocates the ring in pieces of this size, whole frames and whole pages.
const BLOCK: usize = 64 * 1024;

const BYTES: usize = FRAMES * FRAME;

/// A packet socket that receives nothing before it is bound to `interface`, with everything set.
pub(super) fn on(interface: &str) -> nix::Result<(OwnedFd, Ring)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let tap = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    // On lo every packet passes twice.
    let once = i32::from(interface == "lo");
    set(&tap, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &once)?;
    let mut program = tcp_only();
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    set(&tap, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)?;
    let ring = Ring::of(&tap)?;
    bind_to(&tap, interface)?;
    Ok((tap, ring))
}

/// Memory shared with the kernel, which fills one frame after the other.
#[derive(Debug)]
pub(super) struct Ring {
    frames: NonNull<u8>,
    next: usize,
}

#[expect(unsafe_code)]
// SAFETY: the mapping belongs to the process, not to a thread, and nobody else has the pointer.
unsafe impl Send for Ring {}

impl Ring {
    fn of(tap: &OwnedFd) -> nix::Result<Self> {
        let version = libc::tpacket_versions::TPACKET_V2 as i32;
        set(tap, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as u32,
            tp_block_nr: (BYTES / BLOCK) as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: FRAMES as u32,
        };
        set(tap, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let length = NonZeroUsize::new(BYTES).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        #[expect(unsafe_code)]
        // SAFETY: a new mapping where the kernel likes it; it is unmapped only by drop.
        let frames = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, tap, 0) }?;
        Ok(Self {
            frames: frames.cast(),
            next: 0,
        })
    }

    /// Shows to `look` when the next packet passed (`CLOCK_REALTIME` ns), how long it was and what is
    /// kept of it, and gives its frame back to the kernel; None if there is no packet yet.
    pub(super) fn next<T>(&mut self, look: impl FnOnce(u64, u32, &[u8]) -> T) -> Option<T> {
        #[expect(unsafe_code)]
        // SAFETY: `next` is below FRAMES, and every frame starts with a tpacket2_hdr, aligned to
        // FRAME. The status says whose the frame is; while it is ours the kernel leaves it alone,
        // and the packet lies in it, where its header says.
        unsafe {
            let frame = self.frames.add(self.next * FRAME);
            let owner = AtomicU32::from_ptr(frame.cast().as_ptr());
            if owner.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return None;
            }
            let header = frame.cast::<libc::tpacket2_hdr>().read();
            let start = usize::from(header.tp_mac).min(FRAME);
            let length = (header.tp_snaplen as usize).min(FRAME - start);
            let packet = slice::from_raw_parts(frame.add(start).as_ptr(), length);
            let at = u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec);
            let seen = look(at, header.tp_len, packet);
            owner.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % FRAMES;
            Some(seen)
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        #[expect(unsafe_code)]
        // SAFETY: this mapping, of this length, and nobody has a pointer into it any more.
        let _ = unsafe { munmap(self.frames.cast(), BYTES) };
    }
}

/// Classic BPF, as `tcpdump -dd tcp` prints it without its IPv6 fragments: the Ethernet type, then
/// the protocol of IPv4 or the next header of IPv6.
fn tcp_only() -> [libc::sock_filter; 9] {
    const LOAD_2: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_1: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const JUMP_IF: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const TCP: u32 = libc::IPPROTO_TCP as u32;
    let op = |code, k, jt, jf| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    [
        op(LOAD_2, 12, 0, 0),
        op(JUMP_IF, libc::ETH_P_IP as u32, 0, 2),
        op(LOAD_1, 14 + 9, 0, 0),
        op(JUMP_IF, TCP, 3, 4),
        op(JUMP_IF, libc::ETH_P_IPV6 as u32, 0, 3),
        op(LOAD_1, 14 + 6, 0, 0),
        op(JUMP_IF, TCP, 0, 1),
        op(RETURN, SNAP, 0, 0),
        op(RETURN, 0, 0, 0),
    ]
}

fn bind_to(tap: &OwnedFd, interface: &str) -> nix::Result<()> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    #[expect(unsafe_code)]
    // SAFETY: all of it is integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    #[expect(unsafe_code)]
    // SAFETY: pointer and length are those of a live sockaddr_ll.
    let result = unsafe {
        libc::bind(
            tap.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// setsockopt(2) for options that nix does not know.
fn set<T>(tap: &OwnedFd, level: i32, option: i32, value: &T) -> nix::Result<()> {
    #[expect(unsafe_code)]
    // SAFETY: pointer and length are those of a live T, which the kernel only reads; a sock_fprog
    // points to a program that its caller keeps alive.
    let result = unsafe {
        libc::setsockopt(
            tap.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Packets that found the ring full since this was last asked.
pub(super) fn dropped(tap: &OwnedFd) -> nix::Result<u64> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    #[expect(unsafe_code)]
    // SAFETY: pointer and length are those of a live tpacket_stats, all integers.
    let result = unsafe {
        libc::getsockopt(
            tap.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(statistics.tp_drops.into())
}
