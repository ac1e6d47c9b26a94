//! A group of provided buffers: memory that all receives of a ring share, and a ring of its own in which
//! we tell the kernel which of it is free. The kernel takes a buffer when bytes have arrived, not when
//! it is asked to wait for them, so a connection on which nothing arrives has none;
//! io_uring_register_buf_ring(3).

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering::Release};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::calls;

/// What a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of the group, for the kernel.
    pub group: u16,
    /// Bytes in each buffer.
    pub bytes: usize,
    /// How many buffers there may be; a power of two, for the sake of the ring.
    pub count: u16,
    /// How many there are until that is too few. The memory of the others is untouched.
    pub count_at_first: u16,
}

/// See the module's head.
#[derive(Debug)]
pub struct Group {
    shape: Shape,
    memory: NonNull<u8>,
    ring: NonNull<BufRingEntry>,
    /// Buffers put into the ring so far, modulo 2^16.
    tail: u16,
    /// How many are in use, by the kernel or by us.
    in_use: u16,
}

#[expect(unsafe_code)]
// SAFETY: the memory belongs to the group alone, whatever thread has it.
unsafe impl Send for Group {}

impl Group {
    /// Maps the buffers, and hands the first of them to the kernel. They stay mapped as long as the
    /// process lives; what was never used costs no memory.
    ///
    /// Errors: no memory, or none that may be locked (`ulimit -l`).
    pub fn provide(shape: Shape, submitter: &Submitter<'_>) -> nix::Result<Self> {
        let count = usize::from(shape.count);
        let memory = map(count * shape.bytes)?;
        let ring = map(count * size_of::<BufRingEntry>())?.cast::<BufRingEntry>();
        let address = ring.as_ptr().addr() as u64;
        #[expect(unsafe_code)]
        // SAFETY: the ring has `count` entries, begins on a page, and is never unmapped.
        unsafe { submitter.register_buf_ring_with_flags(address, shape.count, shape.group, 0) }
            .map_err(|error| calls::errno(&error))?;
        let in_use = shape.count_at_first;
        let mut group = Self {
            shape,
            memory,
            ring,
            tail: 0,
            in_use,
        };
        (0..in_use).for_each(|id| group.give_back(id));
        Ok(group)
    }

    /// They were too few: now there are twice as many, if there may be.
    pub fn double(&mut self) {
        let before = self.in_use;
        self.in_use = (before * 2).min(self.shape.count);
        (before..self.in_use).for_each(|id| self.give_back(id));
    }

    /// The first bytes of a buffer that the kernel has used and that was not given back.
    ///
    /// # Panics
    ///
    /// There is no such buffer, or it has fewer bytes.
    pub fn bytes(&self, id: u16, length: usize) -> &[u8] {
        let size = self.shape.bytes;
        assert!(id < self.in_use && length <= size);
        #[expect(unsafe_code)]
        // SAFETY: within the mapping, which was filled with zeros at first; while the buffer is
        // ours the kernel does not write to it.
        unsafe {
            std::slice::from_raw_parts(self.memory.add(id as usize * size).as_ptr(), length)
        }
    }

    /// The kernel may use it again.
    ///
    /// # Panics
    ///
    /// There is no such buffer.
    pub fn give_back(&mut self, id: u16) {
        let size = self.shape.bytes;
        let start = self.bytes(id, size).as_ptr();
        #[expect(unsafe_code)]
        // SAFETY: within the ring, and all zeros are a valid entry. The kernel reads an entry only
        // when the tail, which is stored last, is beyond it; no more than `count` are in the ring.
        unsafe {
            let entry = self.ring.add((self.tail % self.shape.count) as usize);
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
