//! An echo server that reads once each time it is told that there is something to read. Whether that
//! is a mistake depends on who tells: poll and epoll tell again as long as there is something
//! (level-triggered), epoll with EPOLLET only when something has come (edge-triggered). One client
//! after the other.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::actors::{Actor, say};

/// `read-once HOW PORT`.
pub static ACTOR: Actor = Actor {
    name: "read-once",
    about: "HOW PORT: echoes what one read brings each time that HOW (poll, epoll, edge) wakes it",
    perform,
};

fn perform(args: &[String]) -> Result<()> {
    let [how, port] = args else {
        bail!("how, and on which port?");
    };
    let flags = match &**how {
        "poll" => None,
        "epoll" => Some(EpollFlags::EPOLLIN),
        "edge" => Some(EpollFlags::EPOLLIN | EpollFlags::EPOLLET),
        other => bail!("{other}: neither poll nor epoll nor edge"),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?))?;
    say(&format!("listening on {}", listener.local_addr()?))?;
    loop {
        let (stream, _) = listener.accept()?;
        let how = How::over(&stream, flags)?;
        // One that is reset is no reason to end.
        let _ = serve(&stream, &how);
    }
}

fn serve(mut stream: &TcpStream, how: &How) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        how.wait(stream)?;
        let n = stream.read(&mut buffer)?;
        say(&format!("readable: read = {n}"))?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

/// How it waits.
enum How {
    Poll,
    Epoll(Epoll),
}

impl How {
    fn over(stream: &TcpStream, flags: Option<EpollFlags>) -> Result<Self> {
        let Some(flags) = flags else {
            return Ok(Self::Poll);
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(stream, EpollEvent::new(flags, 0))?;
        Ok(Self::Epoll(epoll))
    }

    /// Until the connection is said to be readable.
    fn wait(&self, stream: &TcpStream) -> nix::Result<()> {
        loop {
            let waited = match self {
                Self::Poll => {
                    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
                    poll(&mut fds, PollTimeout::NONE).map(drop)
                }
                Self::Epoll(epoll) => {
                    let mut events = [EpollEvent::empty()];
                    epoll.wait(&mut events, EpollTimeout::NONE).map(drop)
                }
            };
            // It was stopped, and goes on.
            if waited != Err(Errno::EINTR) {
                return waited;
            }
        }
    }
}
