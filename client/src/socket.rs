//! What the kernel can be asked about our connection, and told to do with it; getsockopt(2),
//! socket(7), tcp(7), ioctl(2), UNP 7.5, 7.9.

use std::mem::{MaybeUninit, size_of};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SetSockOpt, getsockopt, setsockopt, sockopt};
use tcpecho_common::calls;

/// Socket options that are not everybody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// When a silent peer is asked for a sign of life.
    pub keepalive: Option<Keepalive>,
    /// How long what was sent may stay without an acknowledgement (`TCP_USER_TIMEOUT`). A peer that
    /// is alive but does not read is given up as well: its closed window counts.
    pub user_timeout: Option<Duration>,
    /// Close with an RST instead of a FIN (`SO_LINGER` with 0 seconds), however the program ends.
    pub reset: bool,
    /// Bytes; None: as the kernel sees fit. Has to be known before the connection is made: it
    /// decides how large a window can be offered.
    pub receive_buffer: Option<usize>,
}

/// `SO_KEEPALIVE` and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Seconds of silence before the first probe (`TCP_KEEPIDLE`).
    pub idle: u32,
    /// Seconds between probes, and how many of them before the connection is given up
    /// (`TCP_KEEPINTVL`, `TCP_KEEPCNT`); None: the system's, 75 s and 9.
    pub probes: Option<(u32, u32)>,
}

impl Options {
    /// What has to be set before the connection is made.
    pub fn prepare(&self, socket: &TcpStream) -> nix::Result<()> {
        match self.receive_buffer {
            Some(bytes) => set(socket, sockopt::RcvBuf, &bytes),
            None => Ok(()),
        }
    }

    /// The rest, once it stands: a user timeout would be one for the handshake as well.
    pub fn apply(&self, stream: &TcpStream) -> nix::Result<()> {
        if let Some(keepalive) = self.keepalive {
            set(stream, sockopt::TcpKeepIdle, &keepalive.idle)?;
            if let Some((interval, count)) = keepalive.probes {
                set(stream, sockopt::TcpKeepInterval, &interval)?;
                set(stream, sockopt::TcpKeepCount, &count)?;
            }
            set(stream, sockopt::KeepAlive, &true)?;
        }
        if let Some(timeout) = self.user_timeout {
            let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            set(stream, sockopt::TcpUserTimeout, &milliseconds)?;
        }
        if self.reset {
            close_with_reset(stream)?;
        }
        Ok(())
    }
}

/// Makes close(2) forget what is unsent, and send an RST.
pub fn close_with_reset(stream: &TcpStream) -> nix::Result<()> {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set(stream, sockopt::Linger, &at_once)
}

fn set<O: SetSockOpt>(stream: &TcpStream, option: O, value: &O::Val) -> nix::Result<()> {
    calls::at_once("setsockopt", stream.as_raw_fd(), || {
        setsockopt(stream, option, value)
    })
}

/// When segments came and went, by the kernel's clock.
#[derive(Clone, Copy, Debug)]
pub struct LastSegments {
    /// How long ago the last segment came that the connection accepted: data, a bare
    /// acknowledgement, a FIN. A reset is not among them.
    pub heard: Duration,
    /// How long ago data was last sent; since the connection stands if there was none.
    pub sent: Duration,
}

/// Asks `TCP_INFO`; answers also after the end of the connection. None if it is not to be had.
pub fn last_segments(stream: &TcpStream) -> Option<LastSegments> {
    let info = tcp_info(stream).ok()?;
    Some(LastSegments {
        heard: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        sent: Duration::from_millis(info.tcpi_last_data_sent.into()),
    })
}

#[expect(unsafe_code)]
fn tcp_info(stream: &TcpStream) -> nix::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes; the structure is made of integers, for which
    // the zeros are valid where a kernel writes less.
    unsafe {
        Errno::result(libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        ))?;
        Ok(info.assume_init())
    }
}

/// The error that waits on the socket (`SO_ERROR`). It is told once: whoever asks must keep it.
pub fn take_error(stream: &TcpStream) -> Option<Errno> {
    match getsockopt(stream, sockopt::SocketError) {
        Ok(0) => None,
        Ok(raw) => Some(Errno::from_raw(raw)),
        Err(errno) => Some(errno),
    }
}

/// Did TCP connect the socket to itself? On a loopback port in the ephemeral range on which nobody
/// listens, the kernel may choose that very port as our own, and two SYNs that cross make a
/// connection (RFC 9293, simultaneous open). It echoes splendidly.
pub fn is_connected_to_itself(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local == peer,
        // Reset already: it had a peer.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, socket,
    };
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use tcpecho_common::queues;

    #[test]
    fn a_socket_that_is_connected_to_itself_is_recognized() {
        let (family, kind) = (AddressFamily::Inet, SockType::Stream);
        let itself = socket(family, kind, SockFlag::empty(), None).expect("a socket");
        let fd = itself.as_raw_fd();
        bind(fd, &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
        let address: SockaddrIn = getsockname(fd).expect("its address");
        connect(fd, &address).expect("simultaneous open");
        assert!(is_connected_to_itself(&TcpStream::from(itself)));
    }

    #[test]
    fn what_is_unread_is_counted_without_the_fin() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut client = TcpStream::connect(address).expect("a connection");
        assert!(!is_connected_to_itself(&client));
        let (mut server, _) = listener.accept().expect("a client");
        server.write_all(b"abc").expect("sent");
        drop(server);
        // The FIN may come together with the last byte, or later.
        let mut copy = vec![0; 3];
        while client.peek(&mut copy).expect("bytes") < 3 {}
        assert_eq!(queues::unread(&client), 3);
        client.read_to_end(&mut copy).expect("the end");
        assert_eq!(queues::unread(&client), 0);
        assert!(last_segments(&client).is_some());
        assert_eq!(take_error(&client), None);
    }
}
