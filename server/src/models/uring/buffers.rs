//! The provided buffers (`provided.rs` of tcpecho-common) of the model, in two groups: many small ones
//! for messages, a few large ones for streams.

use io_uring::Submitter;
use tcpecho_common::provided::{Group, Shape};

/// Which group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
}

impl Size {
    /// Bytes in each buffer.
    pub const fn bytes(self) -> usize {
        self.shape().bytes
    }

    /// The number of the group, for the kernel.
    pub const fn group(self) -> u16 {
        self.shape().group
    }

    const fn shape(self) -> Shape {
        match self {
            Self::Small => Shape {
                group: 0,
                bytes: 2 * 1024,
                count: 1024,
                count_at_first: 64,
            },
            Self::Large => Shape {
                group: 1,
                bytes: 128 * 1024,
                count: 32,
                count_at_first: 4,
            },
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
    /// Maps them, and hands the first of each group to the kernel.
    pub fn provide(submitter: &Submitter<'_>) -> nix::Result<Self> {
        let group = |size: Size| Group::provide(size.shape(), submitter);
        Ok(Self([group(Size::Small)?, group(Size::Large)?]))
    }

    /// The buffer with which a receive from this group has come back.
    pub fn taken(size: Size, id: u16) -> Buffer {
        Buffer { size, id }
    }

    /// The first bytes of a buffer.
    pub fn bytes(&self, buffer: Buffer, length: usize) -> &[u8] {
        self.0[buffer.size.group() as usize].bytes(buffer.id, length)
    }

    /// The kernel may use it again.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.group(buffer.size).give_back(buffer.id);
    }

    /// They were too few: now there are twice as many of this size, if there may be.
    pub fn double(&mut self, size: Size) {
        self.group(size).double();
    }

    fn group(&mut self, size: Size) -> &mut Group {
        &mut self.0[size.group() as usize]
    }
}
