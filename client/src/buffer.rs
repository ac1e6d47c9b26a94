//! Bytes on their way: read in at the back, written out at the front, never more than the buffer
//! holds. Full means: stop reading. One allocation for the life of the program.

use nix::errno::Errno;

/// 256 KiB: beyond that, bigger reads do not make a bulk transfer faster.
const CAPACITY: usize = 256 * 1024;

/// See the module's head.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Buffer {
    /// One that holds so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Is nothing waiting?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is there room to read into? Not before half of the buffer is free: a reader that takes a
    /// few bytes at a time must not make us move all the others each time.
    pub fn has_room(&self) -> bool {
        self.end < self.bytes.len() || self.start >= self.bytes.len() / 2
    }

    /// Lets `read` put bytes into the free part; returns how many it did. Call only if
    /// [`has_room`](Self::has_room).
    pub fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> nix::Result<usize>,
    ) -> nix::Result<usize> {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.len());
        }
        let n = read(&mut self.bytes[self.end..])?;
        self.end += n;
        Ok(n)
    }

    /// Lets `write` take bytes from the front until none are left or it fails (EAGAIN: full);
    /// returns how many it took before that, and how it failed.
    pub fn drain(
        &mut self,
        mut write: impl FnMut(&[u8]) -> nix::Result<usize>,
    ) -> (usize, nix::Result<()>) {
        let before = self.len();
        let result = loop {
            if self.is_empty() {
                (self.start, self.end) = (0, 0);
                break Ok(());
            }
            match write(&self.bytes[self.start..self.end]) {
                Ok(n) => self.start += n,
                Err(Errno::EINTR) => {}
                Err(errno) => break Err(errno),
            }
        };
        (before - self.len(), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_sizes() {
        let (mut buffer, mut next_in, mut next_out) = (Buffer::default(), 0_u32, 0_u32);
        for turn in 0..5_000 {
            if buffer.has_room() {
                let n = buffer.fill(|room| {
                    let n = room.len().min(1 + turn * 7 % 4001);
                    for byte in &mut room[..n] {
                        *byte = (next_in % 251) as u8;
                        next_in += 1;
                    }
                    Ok(n)
                });
                assert!(n.is_ok_and(|n| n > 0), "has_room, but no room");
            }
            let mut taken = false;
            let (n, _) = buffer.drain(|bytes| {
                if std::mem::replace(&mut taken, true) {
                    return Err(Errno::EAGAIN);
                }
                let n = bytes.len().min(1 + turn * 3 % 3001);
                for byte in &bytes[..n] {
                    assert_eq!(u32::from(*byte), next_out % 251);
                    next_out += 1;
                }
                Ok(n)
            });
            assert!(n > 0);
        }
        assert_eq!(buffer.len() as u32, next_in - next_out);
    }

    #[test]
    fn full_is_full_until_half_is_free() {
        let mut buffer = Buffer::default();
        buffer.fill(|room| Ok(room.len())).expect("filled");
        assert!(!buffer.has_room());
        let mut pieces = 0;
        while !buffer.has_room() {
            let mut once = Some(1024);
            let (n, full) = buffer.drain(|_| once.take().ok_or(Errno::EAGAIN));
            assert_eq!((n, full), (1024, Err(Errno::EAGAIN)));
            pieces += 1;
        }
        assert_eq!(pieces, CAPACITY / 2 / 1024);
    }
}
