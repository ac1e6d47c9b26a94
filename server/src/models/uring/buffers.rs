//! Provided buffers: memory that all connections share, and rings in which we tell the kernel which
//! of it is free. The kernel takes a buffer when bytes have arrived, not when it is asked to wait
//! for them, so a connection on which nothing arrives has none; io_uring_register_buf_ring(3).
//!
//! There are two groups: many small buffers for messages, a few large ones for streams.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use tcpecho_common::calls;

/// Which group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
}

impl Size {
    /// Bytes in each buffer.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 2 * 1024,
            Self::Large => 128 * 1024,
        }
    }

    /// How many there may be; a power of two, for the sake of the ring.
    const fn count(self) -> u16 {
        match self {
            Self::Small => 1024,
            Self::Large => 32,
        }
    }

    /// How many there are until that is too few.
    const fn count_at_first(self) -> u16 {
        match self {
            Self::Small => 64,
            Self::Large => 4,
        }
    }

    /// The number of the group, for the kernel.
    pub const fn group(self) -> u16 {
        match self {
            Self::Small => 0,
            Self::Large => 1,
        }
    }
}

/// A buffer that the kernel has used and we have not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    size: Size,
    id: u16,
}

/// Both groups.
pub struct Buffers([Group; 2]);

impl Buffers {
    /// Maps them, and hands the first of each group to the kernel. They stay mapped as long as the
    /// process lives; what was never used costs no memory.
    pub fn provide(submitter: &Submitter<'_>) -> nix::Result<Self> {
        let group = |size| Group::provide(size, submitter);
        Ok(Self([group(Size::Small)?, group(Size::Large)?]))
    }

    /// The buffer with which a receive from this group has come back.
    pub fn taken(size: Size, id: u16) -> Buffer {
        Buffer { size, id }
    }

    /// The first bytes of a buffer.
    pub fn bytes(&self, buffer: Buffer, length: usize) -> &[u8] {
        self.group(buffer.size).bytes(buffer.id, length)
    }

    /// The kernel may use it again.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.group_mut(buffer.size).give_back(buffer.id);
    }

    /// They were too few: now there are twice as many of this size, if there may be.
    pub fn double(&mut self, size: Size) {
        self.group_mut(size).double();
    }

    fn group(&self, size: Size) -> &Group {
        &self.0[size.group() as usize]
    }

    fn group_mut(&mut self, size: Size) -> &mut Group {
        &mut self.0[size.group() as usize]
    }
}

struct Group {
    size: Size,
    memory: NonNull<u8>,
    ring: NonNull<BufRingEntry>,
    /// Buffers put into the ring so far, modulo 2^16.
    tail: u16,
    /// How many are in use, by the kernel or by us; the memory of the others is untouched.
    in_use: u16,
}

impl Group {
    fn provide(size: Size, submitter: &Submitter<'_>) -> nix::Result<Self> {
        let count = size.count();
        let memory = map(count as usize * size.bytes())?;
        let ring = map(count as usize * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let address = ring.as_ptr().addr() as u64;
        #[expect(unsafe_code)]
        // SAFETY: the ring has `count` entries, begins on a page, and is never unmapped.
        unsafe { submitter.register_buf_ring_with_flags(address, count, size.group(), 0) }
            .map_err(|error| calls::errno(&error))?;
        let in_use = size.count_at_first();
        let mut group = Self {
            size,
            memory,
            ring,
            tail: 0,
            in_use,
        };
        (0..in_use).for_each(|id| group.give_back(id));
        Ok(group)
    }

    fn double(&mut self) {
        let before = self.in_use;
        self.in_use = (before * 2).min(self.size.count());
        (before..self.in_use).for_each(|id| self.give_back(id));
    }

    fn bytes(&self, id: u16, length: usize) -> &[u8] {
        let size = self.size.bytes();
        assert!(id < self.in_use && length <= size);
        #[expect(unsafe_code)]
        // SAFETY: within the mapping, which was filled with zeros at first; while the buffer is
        // ours the kernel does not write to it.
        unsafe {
            std::slice::from_raw_parts(self.memory.add(id as usize * size).as_ptr(), length)
        }
    }

    fn give_back(&mut self, id: u16) {
        let size = self.size.bytes();
        let start = self.bytes(id, size).as_ptr();
        #[expect(unsafe_code)]
        // SAFETY: within the ring, and all zeros are a valid entry. The kernel reads an entry only
        // when the tail, which is stored last, is beyond it; no more than `count` are in the ring.
        unsafe {
            let entry = self.ring.add((self.tail % self.size.count()) as usize);
            let entry = &mut *entry.as_ptr();
            entry.set_addr(start.addr() as u64);
            entry.set_len(size as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Release);
        }
    }
}

fn map(bytes: usize) -> nix::Result<NonNull<u8>> {
    let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[expect(unsafe_code)]
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nobody's memory.
    let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }?;
    Ok(start.cast())
}
