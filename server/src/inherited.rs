//! Descriptors that somebody else has opened for us.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// Takes the descriptor with this number, which whoever has started us left to us alone; closed on
/// exec from now on. To be called before we open any of our own, which might get the number. Errors:
/// EBADF if it is not open.
pub fn take(fd: RawFd) -> nix::Result<OwnedFd> {
    #[expect(unsafe_code)]
    // SAFETY: used for one call only; a wrong number yields EBADF.
    let there = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(there, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    #[expect(unsafe_code)]
    // SAFETY: it is open, and nobody else here knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// From now on calls wait, whatever whoever opened it had in mind. Returns the flags it had: they
/// belong to the open file, which others may have as well.
pub fn do_block(fd: impl AsFd) -> OFlag {
    let Ok(flags) = fcntl(&fd, FcntlArg::F_GETFL) else {
        return OFlag::empty();
    };
    let flags = OFlag::from_bits_retain(flags);
    if flags.contains(OFlag::O_NONBLOCK) {
        // It fails for a descriptor that is not open, and this one is.
        let _ = fcntl(&fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK));
    }
    flags
}
