//! How much stands in the kernel's queues of a TCP socket; tcp(7), ioctl_tty(2).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// Bytes the kernel has received for us and we have not read, without the FIN (FIONREAD). 0 if it
/// will not say.
///
/// FIONREAD stops at an urgent mark, where reading goes on behind it. So if there is one, the kernel
/// is asked as if the urgent byte were part of the stream, and that byte, which nobody reads, is
/// taken off.
///
/// So it also tells whether EAGAIN may be believed: at the mark a read fails with it if a signal (or a
/// stop) is pending, whatever is behind. Who waits for edges would wait for one that has been.
pub fn unread(socket: impl AsFd) -> usize {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLPRI)];
    // Asked for nothing but urgent data; errors and hang-ups are told unasked.
    let told = poll(&mut fds, PollTimeout::ZERO).map(|_| fds[0].revents());
    let is_urgent = |events: PollFlags| events.contains(PollFlags::POLLPRI);
    if !told.is_ok_and(|events| events.is_some_and(is_urgent)) {
        return queue(&socket, libc::FIONREAD);
    }
    // It can fail only if the connection is gone already; then there is nothing to count.
    let _ = setsockopt(&socket, sockopt::OobInline, &true);
    let all = queue(&socket, libc::FIONREAD);
    let _ = setsockopt(&socket, sockopt::OobInline, &false);
    all.saturating_sub(1)
}

/// Bytes we have sent and the peer's kernel has not acknowledged (SIOCOUTQ); an unacknowledged FIN
/// counts as one. 0 if the kernel will not say. After a reset it still names the last figure.
pub fn unacknowledged(socket: impl AsFd) -> usize {
    queue(&socket, libc::TIOCOUTQ)
}

#[expect(unsafe_code)]
fn queue(socket: &impl AsFd, request: libc::Ioctl) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) };
    Errno::result(done).map_or(0, |_| usize::try_from(bytes).unwrap_or(0))
}
