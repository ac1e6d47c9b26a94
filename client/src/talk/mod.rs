//! The talk itself, in two ways, and what is said at its end.
//!
//! Each way is a file with a whole loop of its own; they share the meaning of what happens
//! ([`Session`](crate::session::Session)) and the words for it.

pub mod blocking;
pub mod multiplexed;

use std::time::Duration;

use nix::errno::Errno;
use tcpecho_common::{Exit, logging};

use crate::PROGRAM;
use crate::session::Outcome;

/// What ends a talk from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Whoever read our stdout has gone. He knows; there is nothing to tell.
    NobodyReads,
    /// A system call failed: what it was for, and why.
    Failed(&'static str, Errno),
}

impl Stop {
    fn stdout(errno: Errno) -> Self {
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

/// Tells an outcome that is not the good one. `undelivered` bytes have still to go to stdout.
fn report(outcome: Outcome, heard: Option<Duration>, undelivered: u64) -> Exit {
    match outcome {
        Outcome::Answered { sent, received } if received > sent => {
            log::info!("{} bytes came that were no echo", received - sent);
        }
        Outcome::Answered { .. } => {}
        Outcome::CutShort { .. } if undelivered > 0 => logging::say(
            PROGRAM,
            format_args!(
                "{} ({undelivered} bytes still to be written to stdout)",
                outcome.told(heard)
            ),
        ),
        Outcome::CutShort { .. } => logging::say(PROGRAM, outcome.told(heard)),
    }
    outcome.exit()
}
