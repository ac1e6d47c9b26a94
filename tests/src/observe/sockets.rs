//! TCP sockets as the kernel lists them; `proc_net(5)`, ss(8).
//!
//! /proc/thread-self/net shows the network namespace of the asking thread; /proc/net would show
//! the main thread's. One look reads the whole table, 2 us per socket. The table is read in pieces, so that
//! a socket that changes its state meanwhile may be listed twice or not at all: wait for what you
//! expect, with [`crate::wait::eventually`].

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;

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

/// As ss prints them.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynRecv => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        })
    }
}

/// All TCP sockets of this thread's network namespace.
pub fn tcp() -> anyhow::Result<Vec<Socket>> {
    listed(|_| true)
}

/// Those that are connected to `remote`. The table is read, but not understood in vain: others may
/// have left tens of thousands of connections in TIME-WAIT.
pub fn connected_to(remote: SocketAddr) -> anyhow::Result<Vec<Socket>> {
    let port = format!(":{:04X} ", remote.port());
    let mut sockets = listed(|line| line.contains(&port))?;
    sockets.retain(|socket| socket.remote == remote);
    Ok(sockets)
}

fn listed(is_wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            // A kernel without IPv6 has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("read {table}"))?,
        };
        for line in text.lines().skip(1).filter(|line| is_wanted(line)) {
            sockets.push(parse(line).with_context(|| format!("{table}: {line}"))?);
        }
    }
    Ok(sockets)
}

/// The socket of this connection at the side of `local`, if there is one now.
pub fn find(local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
    let mut sockets = tcp().ok()?.into_iter();
    sockets.find(|s| s.local == local && s.remote == remote)
}

/// Both sides of the connection between two addresses, that of `a` first.
pub fn between(sockets: &[Socket], a: SocketAddr, b: SocketAddr) -> Vec<Socket> {
    let side = |local, remote| {
        let here = move |s: &&Socket| s.local == local && s.remote == remote;
        sockets.iter().find(here).copied()
    };
    [side(a, b), side(b, a)].into_iter().flatten().collect()
}

/// All sockets with this port on either side.
pub fn with_port(sockets: &[Socket], port: u16) -> Vec<Socket> {
    let involved = |s: &&Socket| s.local.port() == port || s.remote.port() == port;
    sockets.iter().filter(involved).copied().collect()
}

/// The table that `ss -tan` would print.
pub fn ss_view(sockets: &[Socket]) -> String {
    let mut view = format!(
        "{:<10} {:>6} {:>6} {:>21} {:>21}\n",
        "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port"
    );
    for s in sockets {
        let (local, remote) = (shown(s.local), shown(s.remote));
        // Writing to a String cannot fail.
        let _ = writeln!(
            view,
            "{:<10} {:>6} {:>6} {local:>21} {remote:>21}",
            s.state, s.recv_q, s.send_q
        );
    }
    view
}

/// As ss prints it: `*` for port 0, and for the IPv6 wildcard, which takes IPv4 connections as well
/// (unless `IPV6_V6ONLY` is set; the table does not say).
fn shown(address: SocketAddr) -> String {
    let ip = match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => "*".to_owned(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    match address.port() {
        0 => format!("{ip}:*"),
        port => format!("{ip}:{port}"),
    }
}

/// A line of the table: number, local, remote, state, queues, four things we do not show, inode.
fn parse(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (send_q, recv_q) = fields.get(4)?.split_once(':')?;
    Some(Socket {
        local: address(fields.get(1)?)?,
        remote: address(fields.get(2)?)?,
        state: state(u8::from_str_radix(fields.get(3)?, 16).ok()?)?,
        recv_q: u64::from_str_radix(recv_q, 16).ok()?,
        send_q: u64::from_str_radix(send_q, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// `0100007F:2695`: the address as 32-bit words in the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        Some(
            u32::from_str_radix(ip.get(at..at + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let ip = if ip.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?];
        let bytes: [u8; 16] = words.concat().try_into().ok()?;
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel's numbers; `include/net/tcp_states.h`. 12 is a connection request, which ss shows
/// as SYN-RECV too.
pub(super) fn state(number: u8) -> Option<State> {
    Some(match number {
        1 => State::Established,
        2 => State::SynSent,
        3 | 12 => State::SynRecv,
        4 => State::FinWait1,
        5 => State::FinWait2,
        6 => State::TimeWait,
        7 => State::Close,
        8 => State::CloseWait,
        9 => State::LastAck,
        10 => State::Listen,
        11 => State::Closing,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use crate::wait::eventually;

    const AT_ONCE: Duration = Duration::from_secs(10);

    fn state_of(local: SocketAddr, remote: SocketAddr, wanted: State) -> Socket {
        eventually(&format!("{local} to {remote} in {wanted}"), AT_ONCE, || {
            find(local, remote).filter(|s| s.state == wanted)
        })
        .expect("the state")
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_table_are_read() {
        let line = "   1: 0100007F:2695 0200007F:C350 08 00000010:0000000A 00:00000000 00000000  1000        0 4711 1 0000000000000000 20 4 30 10 -1";
        let socket = parse(line).expect("a socket");
        assert_eq!(socket.local.to_string(), "127.0.0.1:9877");
        assert_eq!(socket.remote.to_string(), "127.0.0.2:50000");
        assert_eq!((socket.send_q, socket.recv_q), (16, 10));
        assert_eq!((socket.state, socket.inode), (State::CloseWait, 4711));
        assert_eq!(parse("   1: 0100007F:2695"), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ipv4_inside_ipv6_is_ipv4() {
        let mapped = address("0000000000000000FFFF00000100007F:2695").expect("an address");
        assert_eq!(mapped.to_string(), "127.0.0.1:9877");
        let loopback = address("00000000000000000000000001000000:0001").expect("an address");
        assert_eq!(loopback.to_string(), "[::1]:1");
    }

    #[test]
    fn a_connection_is_followed_through_its_states() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("bound");
        let mut near = TcpStream::connect(server).expect("a listener");
        let client = near.local_addr().expect("bound");
        let all = tcp().expect("the table");
        let listening = all
            .iter()
            .find(|s| s.local == server && s.remote.port() == 0);
        assert!(listening.is_some_and(|s| s.state == State::Listen && s.inode > 0));
        assert_eq!(between(&all, client, server).len(), 2);
        // Somebody who had the port before us may have left a TIME_WAIT.
        let mut connected = connected_to(server).expect("the table");
        connected.retain(|socket| socket.state != State::TimeWait);
        assert_eq!(connected, between(&all, client, server)[..1]);
        // Others on this machine may use the same number elsewhere.
        let ours = with_port(&all, server.port());
        assert!(ours.len() >= 3 && between(&ours, server, client).len() == 2);

        let (far, _) = listener.accept().expect("it is queued");
        near.write_all(b"hello").expect("room");
        assert_eq!(state_of(server, client, State::Established).recv_q, 5);
        near.shutdown(Shutdown::Write).expect("connected");
        state_of(client, server, State::FinWait2);
        state_of(server, client, State::CloseWait);
        drop(far);
        drop(near);
        // The far end had unread data: a reset, and nothing is left.
        eventually("no socket", AT_ONCE, || {
            find(server, client).is_none().then_some(())
        })
        .expect("reset");
    }

    #[test]
    fn addresses_are_shown_as_ss_shows_them() {
        for (address, text) in [
            ("127.0.0.1:9877", "127.0.0.1:9877"),
            ("0.0.0.0:0", "0.0.0.0:*"),
            ("[::]:9877", "*:9877"),
            ("[::]:0", "*:*"),
            ("[::1]:1", "[::1]:1"),
        ] {
            assert_eq!(shown(address.parse().expect("an address")), text);
        }
    }

    #[test]
    fn the_view_has_the_columns_of_ss() {
        let socket = Socket {
            local: "127.0.0.1:9877".parse().expect("an address"),
            remote: "0.0.0.0:0".parse().expect("an address"),
            state: State::FinWait2,
            recv_q: 1,
            send_q: 0,
            inode: 0,
        };
        assert_eq!(
            ss_view(&[socket]),
            "State      Recv-Q Send-Q    Local Address:Port     Peer Address:Port\n\
             FIN-WAIT-2      1      0        127.0.0.1:9877             0.0.0.0:*\n"
        );
    }
}
