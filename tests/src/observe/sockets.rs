//! TCP sockets as the kernel lists them.

use std::net::SocketAddr;

/// The state of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs)]
pub enum State {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

/// A TCP socket at the moment it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own address; an IPv4 address inside IPv6 is given as IPv4.
    pub local: SocketAddr,
    /// Its peer; port 0 for a listener.
    pub remote: SocketAddr,
    /// Its state.
    pub state: State,
    /// Bytes not yet read; of a listener: connections not yet accepted.
    pub recv_q: u64,
    /// Bytes not yet acknowledged.
    pub send_q: u64,
    /// The number in `socket:[4711]`; 0 if no process has it any more.
    pub inode: u64,
}

/// All TCP sockets of this thread's network namespace.
pub fn tcp() -> anyhow::Result<Vec<Socket>> {
    todo!()
}

/// The socket of this connection at the side of `local`, if there is one now.
pub fn find(_local: SocketAddr, _remote: SocketAddr) -> Option<Socket> {
    todo!()
}

/// Both sides of the connection between two addresses.
pub fn between(_sockets: &[Socket], _a: SocketAddr, _b: SocketAddr) -> Vec<Socket> {
    todo!()
}

/// All sockets with this port on either side.
pub fn with_port(_sockets: &[Socket], _port: u16) -> Vec<Socket> {
    todo!()
}

/// The table that `ss -tan` would print.
pub fn ss_view(_sockets: &[Socket]) -> String {
    todo!()
}
