//! The ready line: the one line `tcpechod` prints on stdout, when it can accept.
//!
//! `listening on ADDR:PORT model=NAME pid=N`. The address is the bound one, so that port 0 can be
//! used and read back. Scripts and the laboratory wait for this line instead of sleeping.

use std::fmt;
use std::net::SocketAddr;

use crate::Model;

const PREFIX: &str = "listening on ";

/// What the ready line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The address that was bound; a wildcard address if that is what was bound.
    pub address: SocketAddr,
    /// The concurrency model.
    pub model: Model,
    /// The process that listens.
    pub pid: u32,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            model,
            pid,
        } = self;
        write!(f, "{PREFIX}{address} model={model} pid={pid}")
    }
}

/// The address a ready line names; None if this is not a ready line. Other servers may print
/// only `listening on ADDR:PORT`, or anything behind it.
pub fn address(line: &str) -> Option<SocketAddr> {
    line.strip_prefix(PREFIX)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_can_be_read_back() {
        let address: SocketAddr = "[::]:9877".parse().expect("an address");
        let ready = Ready {
            address,
            model: Model::Reactor,
            pid: 7,
        };
        assert_eq!(
            ready.to_string(),
            "listening on [::]:9877 model=reactor pid=7"
        );
        assert_eq!(super::address(&ready.to_string()), Some(address));
    }

    #[test]
    fn other_lines_are_not_ready_lines() {
        assert_eq!(address("listening at 127.0.0.1:1"), None);
        assert_eq!(address("listening on port 9877"), None);
        assert_eq!(address(""), None);
    }
}
