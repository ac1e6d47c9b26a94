//! What the loops over mio share: registering as a system call that is observed, and an event as a
//! set that can be kept and printed.

use std::fmt;
use std::ops::BitOrAssign;
use std::os::fd::{AsRawFd, BorrowedFd};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tcpecho_common::calls;

/// Registers a descriptor, edge-triggered. Closing the descriptor takes it out again.
pub fn register(
    registry: &Registry,
    fd: BorrowedFd<'_>,
    token: Token,
    interest: Interest,
) -> nix::Result<()> {
    let number = fd.as_raw_fd();
    calls::at_once("epoll_ctl", number, || {
        registry
            .register(&mut SourceFd(&number), token, interest)
            .map_err(|error| calls::errno(&error))
    })
}

/// What one event says, or several; in the words of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness(u8);

const READABLE: u8 = 1;
const WRITABLE: u8 = 1 << 1;
const PRIORITY: u8 = 1 << 2;
const READ_CLOSED: u8 = 1 << 3;
const WRITE_CLOSED: u8 = 1 << 4;
const ERROR: u8 = 1 << 5;

impl Readiness {
    /// Does it say nothing?
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// May a read bring something: bytes, an end, or an error?
    pub fn to_read(self) -> bool {
        self.has(READABLE | READ_CLOSED | ERROR | PRIORITY)
    }

    /// May a write do something: take bytes, or fail?
    pub fn to_write(self) -> bool {
        self.has(WRITABLE | WRITE_CLOSED | ERROR)
    }

    /// It says more than "readable": the peer has closed its side, or sent urgent data. A read
    /// stops at the urgent mark, so a short one does not mean that there is no more.
    pub fn hints_at_more(self) -> bool {
        self.has(PRIORITY | READ_CLOSED | WRITE_CLOSED | ERROR)
    }

    fn has(self, any: u8) -> bool {
        self.0 & any != 0
    }
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        let bits = [
            (event.is_readable(), READABLE),
            (event.is_writable(), WRITABLE),
            (event.is_priority(), PRIORITY),
            (event.is_read_closed(), READ_CLOSED),
            (event.is_write_closed(), WRITE_CLOSED),
            (event.is_error(), ERROR),
        ];
        let said = bits.iter().filter(|(is, _)| *is);
        Self(said.fold(0, |sum, (_, bit)| sum | bit))
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, more: Self) {
        self.0 |= more.0;
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (READABLE, " readable"),
            (WRITABLE, " writable"),
            (PRIORITY, " priority"),
            (READ_CLOSED, " read-closed"),
            (WRITE_CLOSED, " write-closed"),
            (ERROR, " error"),
        ];
        let mut words = words.iter().filter(|(bit, _)| self.has(*bit));
        words.try_for_each(|(_, word)| f.write_str(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_in_the_words_of_the_log() {
        assert_eq!(
            Readiness(READABLE | READ_CLOSED).to_string(),
            " readable read-closed"
        );
        assert_eq!(Readiness::default().to_string(), "");
    }

    #[test]
    fn an_end_or_an_error_is_news_for_whoever_reads() {
        assert!(Readiness(READ_CLOSED).to_read() && Readiness(ERROR).to_read());
        assert!(!Readiness(WRITABLE).to_read() && !Readiness(READABLE).hints_at_more());
    }
}
