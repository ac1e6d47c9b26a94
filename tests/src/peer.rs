//! A peer of a server, made of a bare socket: it says exactly what it is told to say and nothing
//! else, and waits for nothing longer than [`PATIENCE`].

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{Linger, RcvBuf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, setsockopt,
    socket,
};

use crate::observe::sock_diag::SockDiag;
use crate::wait::eventually;

/// How long a peer waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A peer that cannot write for this long, in ms, takes it that the server reads no more.
const STUCK: u16 = 250;

/// No more than this fits into the kernel's buffers on the way to a peer that does not read and
/// back (both directions, both ends, all autotuned to their limits).
const BUFFERS_AT_MOST: u64 = 128 << 20;

/// How a connection ended, as the peer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the server's FIN.
    Fin,
    /// With an RST.
    Reset,
}

/// As many peers.
pub fn connect_many(server: SocketAddr, count: usize) -> anyhow::Result<Vec<Peer>> {
    (0..count).map(|_| Peer::connect(server)).collect()
}

/// One connection to a server.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    local: SocketAddr,
    /// How many bytes of the [`pattern`] were sent, and came back.
    sent: u64,
    received: u64,
}

impl Peer {
    /// Connects.
    pub fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)
            .with_context(|| format!("connect to {server}"))?;
        Self::over(stream)
    }

    /// Connects, with room for about this many bytes that we have not read.
    pub fn connect_with_buffer(server: SocketAddr, bytes: usize) -> anyhow::Result<Self> {
        let family = if server.is_ipv6() {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, RcvBuf, &bytes)?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(server))
            .with_context(|| format!("connect to {server}"))?;
        Self::over(TcpStream::from(fd))
    }

    /// Over a connection that is there.
    pub fn over(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            local: stream.local_addr()?,
            stream,
            sent: 0,
            received: 0,
        })
    }

    /// Our own address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream
            .write_all(bytes)
            .with_context(|| format!("{self} sends {} bytes", bytes.len()))
    }

    /// Sends one byte of urgent data.
    pub fn send_urgent(&mut self, byte: u8) -> anyhow::Result<()> {
        let sent = send(self.stream.as_raw_fd(), &[byte], MsgFlags::MSG_OOB);
        sent.with_context(|| format!("{self} sends urgent data"))?;
        Ok(())
    }

    /// The next bytes to come are these.
    pub fn expect(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut answer = vec![0; bytes.len()];
        self.stream
            .read_exact(&mut answer)
            .with_context(|| format!("{self} waits for the echo of {} bytes", bytes.len()))?;
        same(bytes, &answer).with_context(|| format!("{self}"))
    }

    /// Sends these bytes and gets them back.
    pub fn echo(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.send(bytes)?;
        self.expect(bytes)
    }

    /// Sends our FIN; we can still read.
    pub fn half_close(&mut self) -> anyhow::Result<()> {
        self.stream
            .shutdown(Shutdown::Write)
            .with_context(|| format!("{self} closes its side"))
    }

    /// Nothing comes any more but the server's FIN.
    pub fn expect_fin(&mut self) -> anyhow::Result<()> {
        match self.read_some()? {
            Ok(0) => Ok(()),
            Ok(n) => bail!("{self}: a FIN was expected, and {n} more bytes came"),
            Err(errno) => bail!("{self}: a FIN was expected: {errno}"),
        }
    }

    /// Has anything come that we have not read, if only the end?
    pub fn has_news(&self) -> bool {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0], look) != Err(Errno::EAGAIN)
    }

    /// Closes with an RST.
    pub fn reset(self) {
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // If it fails the connection is gone already.
        let _ = setsockopt(&self.stream, Linger, &now);
    }

    /// Sends a FIN, and closes with an RST; returns when the server's kernel has had both, one after the
    /// other. Packets that are sent from two processors may arrive in any order, and late.
    pub fn vanish(mut self) -> anyhow::Result<()> {
        let (local, server) = (self.local, self.stream.peer_addr()?);
        let diag = SockDiag::open()?;
        if diag.state(server, local)?.is_none() {
            bail!("{self}: the server has no socket of its own");
        }
        self.half_close()?;
        self.wait_until_delivered()?;
        self.reset();
        eventually("the end of the server's socket", PATIENCE, || {
            matches!(diag.state(server, local), Ok(None)).then_some(())
        })
    }

    /// Sends the next `length` bytes of the pattern.
    pub fn send_pattern(&mut self, length: u64) -> anyhow::Result<()> {
        let end = self.sent + length;
        while self.sent < end {
            let chunk = pattern(self.sent, end - self.sent);
            self.send(chunk)?;
            self.sent += chunk.len() as u64;
        }
        Ok(())
    }

    /// Sends the pattern, without reading, until the server takes no more. Returns how much it took.
    pub fn send_until_stuck(&mut self) -> anyhow::Result<u64> {
        let before = self.sent;
        while self.writable(STUCK) {
            let chunk = pattern(self.sent, u64::MAX);
            match send(self.stream.as_raw_fd(), chunk, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => self.sent += n as u64,
                Err(Errno::EAGAIN) => {}
                Err(errno) => bail!("{self} sends without reading: {errno}"),
            }
            if self.sent - before > BUFFERS_AT_MOST {
                bail!("{self}: the server has taken more than the kernel's buffers hold");
            }
        }
        Ok(self.sent - before)
    }

    /// Sends the pattern, without reading, until the last piece has arrived and is left unread in the
    /// server's kernel. Nothing of it is under way then.
    pub fn send_until_unread(&mut self, server: SocketAddr) -> anyhow::Result<()> {
        /// Fits into the buffer of a socket that has just been emptied.
        const PIECE: u64 = 60_000;
        let diag = SockDiag::open()?;
        loop {
            self.send_pattern(PIECE)?;
            self.wait_until_delivered()?;
            let deadline = Duration::from_millis(STUCK.into());
            let is_read = eventually("a server that reads", deadline, || {
                let unread = diag.unread(server, self.local).ok()??;
                (unread == 0).then_some(())
            });
            if is_read.is_err() {
                return Ok(());
            }
            if self.sent > BUFFERS_AT_MOST {
                bail!("{self}: the server has taken more than the kernel's buffers hold");
            }
        }
    }

    /// Waits until the server's kernel has all that was sent.
    pub fn wait_until_delivered(&self) -> anyhow::Result<()> {
        let what = format!("acknowledgement of all that {self} sent");
        eventually(&what, PATIENCE, || {
            (self.unacknowledged() == 0).then_some(())
        })
    }

    /// Reads the next `length` bytes of the pattern.
    pub fn expect_pattern(&mut self, length: u64) -> anyhow::Result<()> {
        let end = self.received + length;
        let mut buffer = vec![0; 256 * 1024];
        while self.received < end {
            let most = buffer.len().min((end - self.received) as usize);
            let n = self
                .stream
                .read(&mut buffer[..most])
                .with_context(|| format!("{self} waits for {} more bytes", end - self.received))?;
            if n == 0 {
                bail!("{self}: FIN with {} bytes missing", end - self.received);
            }
            self.check(&buffer[..n])?;
        }
        Ok(())
    }

    /// Reads all echoes of the pattern that are missing, then the server's FIN.
    pub fn expect_rest_and_fin(&mut self) -> anyhow::Result<()> {
        self.expect_pattern(self.sent - self.received)?;
        self.expect_fin()
    }

    /// Waits, without reading, for the server's RST.
    pub fn wait_until_reset(&self) -> anyhow::Result<()> {
        let what = format!("an RST for {self}");
        eventually(&what, PATIENCE, || {
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
            poll(&mut fds, PollTimeout::ZERO).ok()?;
            let events = fds[0].revents()?;
            events.contains(PollFlags::POLLERR).then_some(())
        })
    }

    /// Reads until the connection ends. What comes must be the pattern. Returns how much came.
    pub fn read_to_end(&mut self) -> anyhow::Result<(u64, Ended)> {
        let before = self.received;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match self.read_into(&mut buffer)? {
                Ok(0) => return Ok((self.received - before, Ended::Fin)),
                Ok(n) => self.check(&buffer[..n])?,
                Err(_) => return Ok((self.received - before, Ended::Reset)),
            }
        }
    }

    /// Sends `length` bytes of the pattern, at the same time reads their echoes, then half-closes:
    /// all must come back, and then a FIN.
    pub fn stream(&mut self, length: u64) -> anyhow::Result<()> {
        self.send_and_read(length, Self::half_close)?;
        self.expect_fin()
    }

    /// The same, and the connection goes on.
    pub fn stream_on(&mut self, length: u64) -> anyhow::Result<()> {
        self.send_and_read(length, |_| Ok(()))
    }

    fn send_and_read(
        &mut self,
        length: u64,
        then: fn(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut writer = self.half()?;
        thread::scope(|scope| {
            let writing = scope.spawn(move || {
                writer.send_pattern(length)?;
                then(&mut writer)
            });
            self.sent += length;
            let read = self.expect_pattern(self.sent - self.received);
            if read.is_err() {
                // So that the writer does not wait for room that will never be.
                self.abort();
            }
            let wrote = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
            read.and(wrote)
        })
    }

    /// The same connection for another thread: one writes, one reads.
    pub fn half(&self) -> anyhow::Result<Self> {
        Ok(Self {
            stream: self.stream.try_clone()?,
            ..*self
        })
    }

    /// Ends the connection, also for the other half.
    pub fn abort(&self) {
        // If it fails there is nothing left to end.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Bytes of the pattern sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of the pattern that have come back so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn check(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let expected = pattern(self.received, rest.len() as u64);
            same(expected, &rest[..expected.len()])
                .with_context(|| format!("{self}, after {} right bytes", self.received))?;
            rest = &rest[expected.len()..];
            self.received += expected.len() as u64;
        }
        Ok(())
    }

    fn read_some(&mut self) -> anyhow::Result<io::Result<usize>> {
        self.read_into(&mut [0; 4096])
    }

    /// An RST is an answer; nothing within [`PATIENCE`], and whatever else, is an error.
    fn read_into(&mut self, buffer: &mut [u8]) -> anyhow::Result<io::Result<usize>> {
        match self.stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Err(error)),
            Err(error) => Err(error).with_context(|| format!("{self} reads")),
            Ok(n) => Ok(Ok(n)),
        }
    }

    fn writable(&self, milliseconds: u16) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::from(milliseconds)).is_ok_and(|ready| ready > 0)
    }

    #[expect(unsafe_code)]
    fn unacknowledged(&self) -> libc::c_int {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ, which is TIOCOUTQ, writes one int.
        unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        bytes
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer at {}", self.local)
    }
}

/// From now on the kernel drops whatever arrives for this socket, and answers nothing, as if it were
/// lost on the way; until [`undeafen`].
#[expect(unsafe_code)]
pub fn deafen(socket: impl AsFd) -> nix::Result<()> {
    let mut keep_nothing = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: keep_nothing.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program while it is called.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// What arrives is taken in again.
#[expect(unsafe_code)]
pub fn undeafen(socket: impl AsFd) -> nix::Result<()> {
    let (fd, any) = (socket.as_fd().as_raw_fd(), 0);
    // SAFETY: it takes an int and does not look at it.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const any).cast(),
            size_of_val(&any) as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// A part of an endless pattern: from `offset` on, at most `length` bytes and at least one. Its
/// period is a prime, so that a block lost, doubled or out of place never fits.
pub fn pattern(offset: u64, length: u64) -> &'static [u8] {
    const PERIOD: usize = 99_991;
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(PERIOD).collect()
    });
    let start = (offset % PERIOD as u64) as usize;
    let length = (PERIOD - start).min(usize::try_from(length).unwrap_or(usize::MAX));
    &TABLE[start..start + length]
}

fn same(expected: &[u8], came: &[u8]) -> anyhow::Result<()> {
    if expected == came {
        return Ok(());
    }
    let at = expected.iter().zip(came).position(|(a, b)| a != b);
    let at = at.unwrap_or_else(|| expected.len().min(came.len()));
    let around = |bytes: &[u8]| {
        let end = bytes.len().min(at + 16);
        bytes[at.min(end)..end].escape_ascii().to_string()
    };
    bail!(
        "wrong echo at byte {at} of {}: \"{}\" instead of \"{}\"",
        expected.len(),
        around(came),
        around(expected)
    )
}

/// The round trips of `count` short messages, sorted.
pub fn round_trips(peer: &mut Peer, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        peer.echo(b"ping\n")?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_pattern_goes_on_where_it_was_left() {
        let whole: Vec<u8> = (0..200_000).map(|at| pattern(at, 1)[0]).collect();
        let mut at = 0;
        while at < 200_000 {
            let part = pattern(at, 200_000 - at);
            same(part, &whole[at as usize..at as usize + part.len()]).expect("the same");
            at += part.len() as u64;
        }
    }

    #[test]
    fn a_wrong_echo_is_shown_where_it_begins() {
        let error = same(b"abcdef", b"abcxef").expect_err("different");
        assert!(error.to_string().contains("at byte 3 of 6: \"xef\""));
    }

    #[test]
    fn a_server_that_swallows_a_byte_is_caught() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let thief = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("its bytes");
            bytes.remove(70_000);
            stream.write_all(&bytes).expect("room");
        });
        let mut peer = Peer::connect(address).expect("it listens");
        let error = peer.stream(100_000).expect_err("a byte is missing");
        assert!(format!("{error:#}").contains("wrong echo"), "{error:#}");
        thief.join().expect("no panic");
    }
}
