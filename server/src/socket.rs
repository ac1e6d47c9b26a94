//! What can be asked of, and done to, a connected socket; tcp(7), socket(7).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;
use tcpecho_common::{calls, queues};

use crate::end::End;
use crate::signals;

/// Bytes we have sent and the peer's kernel has not acknowledged (SIOCOUTQ); an unacknowledged FIN
/// counts as one. 0 if the kernel will not say, or the connection has been reset: then nothing will
/// ever be acknowledged, though the kernel still names the figure. A read does not tell that of a
/// reset which came after the peer's FIN.
pub fn unacknowledged(socket: impl AsFd) -> usize {
    let bytes = queues::unacknowledged(&socket);
    if bytes > 0 && has_failed(&socket) {
        return 0;
    }
    bytes
}

fn has_failed(socket: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    // Errors are told unasked.
    let told = poll(&mut fds, PollTimeout::ZERO).map(|_| fds[0].revents());
    told.is_ok_and(|events| events.is_some_and(|events| events.contains(PollFlags::POLLERR)))
}

/// Sends our FIN: no more will come from us. The peer's bytes can still be read.
pub fn shutdown_write(socket: impl AsFd) {
    let fd = socket.as_fd().as_raw_fd();
    // ENOTCONN: the peer has reset it meanwhile, which the next read tells.
    let _ = calls::at_once("shutdown", fd, || shutdown(fd, Shutdown::Write));
}

/// write(2) on a socket that otherwise does not block, as if it did: waits for room, until the
/// server is to stop (EAGAIN). For `--mistake blocking-write`.
pub fn write_blocking(socket: impl AsFd, bytes: &[u8]) -> nix::Result<usize> {
    // A signal that comes just before the call does not interrupt it: look again now and then.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(1, 0))?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty()))?;
    let mut written = Err(Errno::EAGAIN);
    while matches!(written, Err(Errno::EAGAIN | Errno::EINTR)) && !signals::stopping() {
        written = calls::write(&socket, bytes);
    }
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    written
}

/// Makes the coming close abortive if that is how this connection ends: RST instead of FIN, and no
/// output is kept for a peer that does not take it. Returns how many bytes that throws away.
#[inline]
pub fn prepare_close(socket: impl AsFd, end: End) -> u64 {
    let discarded = if end.is_abortive() {
        unacknowledged(&socket)
    } else {
        0
    };
    if discarded > 0 {
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // It can fail only if the connection is gone already.
        let _ = setsockopt(&socket, sockopt::Linger, &now);
    }
    discarded as u64
}
