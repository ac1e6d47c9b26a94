//! Where connections come from: the source address, and with it the ports.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::net;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

use crate::load::failure::Failure;

/// The source addresses of a run.
#[derive(Clone, Debug, Default)]
pub struct Sources;

impl Sources {
    /// Begins to connect to `target`; non-blocking.
    pub fn connect(&self, target: SocketAddr, _number: u64) -> Result<net::TcpStream, Failure> {
        let stream =
            begin(target).map_err(|errno| Failure::system(&io::Error::from(errno), "connect"))?;
        Ok(net::TcpStream::from_std(stream))
    }
}

fn begin(target: SocketAddr) -> nix::Result<TcpStream> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    // The second of several small messages under way is not to wait for the first one's ACK.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno),
    }
}
