//! The other end of a connection: every operation has a deadline, and says what it got instead.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;

use nix::libc::linger;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use super::DEADLINE;

/// A connected client. Dropped, it leaves with a FIN.
#[derive(Debug)]
pub struct Peer(TcpStream);

impl Peer {
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&to, DEADLINE).expect("a listening server");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        Self(stream)
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("a connection");
    }

    /// For who may have been dropped already.
    pub fn send_if_possible(&mut self, text: &str) {
        let _ = self.0.write_all(text.as_bytes());
    }

    /// Waits for this text.
    #[track_caller]
    pub fn hears(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        if let Err(error) = self.0.read_exact(&mut bytes) {
            panic!("instead of the echo {text:?}: {error}");
        }
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    #[track_caller]
    pub fn is_answered(&mut self, text: &str) {
        self.send(text);
        self.hears(text);
    }

    /// Waits for the end of the connection, FIN or RST.
    #[track_caller]
    pub fn is_dropped(&mut self) {
        match self.0.read(&mut [0; 16]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("instead of the end of the connection: {other:?}"),
        }
    }

    /// Nothing has come by now.
    #[track_caller]
    pub fn has_heard_nothing(&self) {
        self.0.set_nonblocking(true).expect("a socket");
        let peeked = self.0.peek(&mut [0; 16]);
        self.0.set_nonblocking(false).expect("a socket");
        let nothing = peeked
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        assert!(nothing, "{peeked:?}");
    }

    /// Has anything come by now?
    pub fn has_heard(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket");
        let peeked = self.0.peek(&mut [0; 16]);
        self.0.set_nonblocking(false).expect("a socket");
        matches!(peeked, Ok(1..))
    }

    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().expect("a socket")
    }

    /// Leaves with an RST.
    pub fn reset(self) {
        let at_once = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&self.0.as_fd(), Linger, &at_once).expect("a socket");
    }
}
