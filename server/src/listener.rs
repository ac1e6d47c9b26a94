//! The listening socket: options, bind, listen; or one that a service manager has opened for us.
//!
//! Made with the calls themselves, because std and mio fix both `SO_REUSEADDR` and the backlog.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr, TcpCongestion, TcpNoDelay};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
    getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};
use tcpecho_common::{Mistake, calls, defaults};

use crate::cli::Config;
use crate::failure::Failure;
use crate::inherited;

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddr,
    /// The flags it had, if it is a service manager's, who goes on listening when we stop.
    passed: Option<OFlag>,
    /// For `--mistake spin-on-emfile`.
    spins: bool,
}

impl Listener {
    /// Opens the socket of `config`. Without `--bind` it is one dual-stack IPv6 socket on the
    /// wildcard address, or an IPv4 one where there is no IPv6.
    pub fn open(config: &Config) -> Result<Self, Failure> {
        let any = |ip| Self::at(SocketAddr::new(ip, 0), config);
        let listener = match config.bind {
            Some(address) => Self::at(address, config),
            None => match any(Ipv6Addr::UNSPECIFIED.into()) {
                Err((_, Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)) => {
                    any(Ipv4Addr::UNSPECIFIED.into())
                }
                other => other,
            },
        };
        listener.map_err(|(address, errno)| match (&config.congestion, errno) {
            // Neither bind nor listen has these.
            (Some(name), Errno::ENOENT | Errno::EPERM) => no_congestion_control(name, errno),
            _ => refused(address, errno),
        })
    }

    /// Takes the socket that was passed to us, with the backlog it has. Errors: it is not one that
    /// TCP clients can be accepted on, or the command line wants another.
    pub fn passed(fd: OwnedFd, config: &Config) -> Result<Self, Failure> {
        if config.port.is_some() || config.bind.is_some() {
            let what = "--port and --bind contradict the listening socket that was passed to us";
            return Err(Failure::plain(what).hint("leave them out, or unset LISTEN_FDS"));
        }
        let unfit = |why: &str| {
            Failure::plain(format!(
                "the socket that was passed to us as descriptor 3 (LISTEN_FDS) {why}"
            ))
        };
        match (getsockopt(&fd, sockopt::SockType), bound(&fd)) {
            (Err(errno), _) => Err(Failure::new("descriptor 3, passed by LISTEN_FDS", errno)),
            (Ok(SockType::Stream), Some(address)) => {
                if getsockopt(&fd, sockopt::AcceptConn) != Ok(true) {
                    return Err(unfit("does not listen, perhaps it is a connection").hint(
                        "with Accept=yes say --inetd and StandardInput=socket, with \
                         systemd-socket-activate -a say --inetd twice",
                    ));
                }
                let flags = inherited::do_block(&fd);
                // As for our own; a socket without it serves as well.
                let _ = setsockopt(&fd, TcpNoDelay, &true);
                Ok(Self {
                    fd,
                    address,
                    passed: Some(flags),
                    spins: config.commits(Mistake::SpinOnEmfile),
                })
            }
            _ => Err(unfit("is not one for TCP").hint(
                "ListenStream= with a port: a path means a local socket, ListenDatagram= UDP",
            )),
        }
    }

    /// The address it is bound to, with the port the kernel chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does accept try again at once when descriptors have run out?
    pub fn spins(&self) -> bool {
        self.spins
    }

    /// From now on accept returns EAGAIN where it would have waited.
    pub fn do_not_block(&self) {
        if let Err(errno) = fcntl(&self.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
            log::error!("cannot make the listening socket non-blocking: {errno}");
        }
    }

    /// Stops listening: the port is free, connections still queued are reset. A socket that was passed
    /// to us is left as it was found: others listen on it when we do not.
    pub fn close(self) {
        self.leave_as_found();
        calls::close(self.fd);
    }

    /// Stops listening, whoever has a descriptor of it: close(2) gives back one, shutdown(2) ends
    /// the socket. Connections still queued are reset; a blocked accept returns EINVAL. A socket that
    /// was passed to us stays as it is: others listen on it when we do not.
    pub fn shut_down(&self) {
        if self.passed.is_some() {
            return self.leave_as_found();
        }
        let fd = self.fd.as_raw_fd();
        let down = calls::at_once("shutdown", fd, || shutdown(fd, Shutdown::Both));
        if let Err(errno) = down {
            log::error!("cannot stop listening: {errno}");
        }
    }

    fn leave_as_found(&self) {
        if let Some(flags) = self.passed {
            // It fails for a descriptor that is not open, and this one is.
            let _ = fcntl(&self.fd, FcntlArg::F_SETFL(flags));
        }
    }

    /// In a forked child: closes the child's copy. The child leaves without running destructors.
    pub fn close_in_child(&self) {
        let fd = self.fd.as_raw_fd();
        let _ = calls::at_once("close", fd, || nix::unistd::close(fd));
    }

    fn at(mut wanted: SocketAddr, config: &Config) -> Result<Self, (SocketAddr, Errno)> {
        wanted.set_port(config.port.unwrap_or(defaults::PORT));
        let opened = Self::try_at(wanted, config);
        opened.map_err(|errno| (wanted, errno))
    }

    fn try_at(wanted: SocketAddr, config: &Config) -> nix::Result<Self> {
        let family = if wanted.is_ipv6() {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let fd = calls::at_once("socket", -1, || {
            socket(
                family,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Tcp,
            )
        })?;
        if wanted.is_ipv6() {
            // Whatever net.ipv6.bindv6only says: the wildcard serves IPv4 as well.
            setsockopt(&fd, Ipv6V6Only, &false)?;
        }
        if !config.commits(Mistake::NoReuseaddr) {
            setsockopt(&fd, ReuseAddr, &true)?;
        }
        // Linux hands this on to every accepted socket: an answer never waits for an
        // acknowledgement (Nagle), and no connection pays a system call for it.
        setsockopt(&fd, TcpNoDelay, &true)?;
        if let Some(name) = &config.congestion {
            // Handed on as well.
            setsockopt(&fd, TcpCongestion, &OsString::from(name))?;
        }
        calls::at_once("bind", fd.as_raw_fd(), || {
            bind(fd.as_raw_fd(), &SockaddrStorage::from(wanted))
        })?;
        warn_if_cut(config.backlog);
        calls::at_once("listen", fd.as_raw_fd(), || {
            listen(&fd, Backlog::new(i32::from(config.backlog))?)
        })?;
        let address = bound(&fd).unwrap_or(wanted);
        Ok(Self {
            fd,
            address,
            passed: None,
            spins: config.commits(Mistake::SpinOnEmfile),
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn bound(fd: &OwnedFd) -> Option<SocketAddr> {
    let storage: SockaddrStorage = getsockname(fd.as_raw_fd()).ok()?;
    let v4 = storage
        .as_sockaddr_in()
        .map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|a| SocketAddr::V6((*a).into()))
    })
}

/// listen(2) shortens the backlog without a word.
fn warn_if_cut(backlog: u16) {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if limit.is_some_and(|limit: u64| limit < u64::from(backlog)) {
        log::warn!(
            "backlog {backlog} is cut to net.core.somaxconn = {}",
            limit.unwrap_or_default()
        );
    }
}

fn no_congestion_control(name: &str, errno: Errno) -> Failure {
    let file = match errno {
        Errno::EPERM => "/proc/sys/net/ipv4/tcp_allowed_congestion_control",
        _ => "/proc/sys/net/ipv4/tcp_available_congestion_control",
    };
    let names = std::fs::read_to_string(file).unwrap_or_default();
    Failure::new(format!("cannot use congestion control {name}"), errno)
        .hint(format!("one of these: {}; see {file}", names.trim()))
}

fn refused(address: SocketAddr, errno: Errno) -> Failure {
    let failure = Failure::new(format!("cannot listen on {address}"), errno);
    let port = address.port();
    match errno {
        Errno::EADDRINUSE => failure.hint(format!(
            "who has it: ss -tanp 'sport = :{port}', TIME-WAIT ends after 60 s; another port: \
             --port N, or 0 for a free one"
        )),
        Errno::EACCES => failure.hint("ports below 1024 need privileges: try --port 9877"),
        Errno::EADDRNOTAVAIL => failure.hint(
            "no interface here has that address; 'ip address' lists them: try --bind 127.0.0.1",
        ),
        _ => failure,
    }
}
