//! How a connection ends, in the words of the log.

use std::fmt;

use nix::errno::Errno;
use tcpecho_common::{Exit, logging};

use crate::accept::Peer;
use crate::failure::Failure;
use crate::signals;

/// Why a connection is over. Whatever it is, it is over for this connection only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer's FIN came, and it has had all its echoes.
    Fin,
    /// No byte moved for the idle timeout.
    Idle,
    /// The server stops; the peer has had what it was owed.
    Stopped,
    /// The server stops; the peer did not take what it was owed within the grace.
    Stuck,
    /// Reading or writing failed: ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH ...
    Failed(Errno),
}

impl End {
    /// May output be left that the peer will never take? Then the connection is reset, so that no
    /// orphan keeps the kernel's memory and the port.
    pub fn is_abortive(self) -> bool {
        matches!(self, Self::Idle | Self::Stuck)
    }

    /// What `err_sys` of the textbook does about any failure; for `--mistake die-on-reset`.
    pub fn err_sys(self) {
        if let Self::Failed(errno) = self {
            let failure = Failure::new("read or write failed", errno);
            logging::say("tcpechod", failure.hint("--mistake die-on-reset"));
            std::process::exit(Exit::Failed.code().into());
        }
    }

    /// The log line at the end of a connection.
    #[inline]
    pub fn log(self, peer: Peer, echoed: u64) {
        signals::tell_sigpipes();
        log::info!("closed {peer}: {self}, {echoed} bytes echoed");
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fin => f.write_str("FIN received"),
            Self::Idle => f.write_str("idle timeout"),
            Self::Stopped => f.write_str("server stops"),
            Self::Stuck => f.write_str("reset, it had not taken all it was owed"),
            Self::Failed(errno) => errno.fmt(f),
        }
    }
}
