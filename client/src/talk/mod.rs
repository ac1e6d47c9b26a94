//! The talk itself, in three ways, and what is said at its end.
//!
//! Each way is a file with a whole loop of its own; they share the meaning of what happens
//! ([`Session`](crate::session::Session)) and the words for it.

pub mod blocking;
pub mod multiplexed;
pub mod stdio;
pub mod textbook;

use std::fmt::Write as _;
use std::time::Duration;

use nix::errno::Errno;
use tcpecho_common::{Exit, logging};

use crate::PROGRAM;
use crate::mistake::Mistake;
use crate::session::{Farewell, Outcome};

/// How to talk, beyond the mode. Not every mode knows all of it; the command line sees to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// The end.
    pub farewell: Farewell,
    /// Send the first byte of each line alone, and the rest after this time.
    pub split_write: Option<Duration>,
    /// Read so many bytes a second; 0: none.
    pub read_rate: Option<u64>,
    /// Give up when nothing has moved for this long.
    pub idle_timeout: Option<Duration>,
    /// Give up this long after the end of stdin.
    pub quit_after: Option<Duration>,
    /// The mistake to commit.
    pub mistake: Option<Mistake>,
}

/// What ends a talk from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Whoever read our stdout has gone. He knows; there is nothing to tell.
    NobodyReads,
    /// A system call failed: what it was for, and why.
    Failed(&'static str, Errno),
}

impl Stop {
    /// A write to stdout failed.
    pub fn stdout(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE => Self::NobodyReads,
            _ => Self::Failed("write to stdout", errno),
        }
    }

    fn stdin(errno: Errno) -> Self {
        Self::Failed("read from stdin", errno)
    }

    /// Tells it if there is somebody to tell.
    pub fn report(self) -> Exit {
        match self {
            Self::NobodyReads => {
                log::info!("nobody reads stdout any more");
                Exit::Done
            }
            Self::Failed(what, errno) => {
                logging::say(PROGRAM, format_args!("cannot {what}: {errno}"));
                Exit::Failed
            }
        }
    }
}

/// Tells an outcome that is not the good one. `undelivered` bytes have come and are not written to
/// stdout; they still will be if it was the server who ended it.
fn report(outcome: Outcome, heard: Option<Duration>, undelivered: u64) -> Exit {
    match outcome {
        Outcome::Answered { sent, received } if received > sent => {
            log::info!("{} bytes came that were no echo", received - sent);
        }
        Outcome::Answered { .. } => {}
        Outcome::Closed { .. } => log::info!("{}", outcome.told(heard)),
        Outcome::CutShort { .. } | Outcome::GivenUp { .. } => {
            let mut text = outcome.told(heard);
            let fate = match outcome {
                Outcome::GivenUp { .. } => "never",
                _ => "still to be",
            };
            if undelivered > 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, " ({undelivered} bytes {fate} written to stdout)");
            }
            logging::say(PROGRAM, text);
        }
    }
    outcome.exit()
}
