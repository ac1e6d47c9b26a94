//! A pipe that nobody reads, and who is stuck in one.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::Result;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

/// A pipe that is full: the end to read, which is to be kept open, and the one to write.
pub fn stuck() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    while nix::unistd::write(&theirs, &[b'x'; 4096]).is_ok() {}
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((ours, theirs))
}

/// Does one of its threads wait for somebody to read what it writes into a pipe?
pub fn is_stuck(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut tasks = tasks.into_iter().flatten().flatten();
    tasks.any(|task| {
        let wchan = fs::read_to_string(task.path().join("wchan"));
        wchan.is_ok_and(|function| function.contains("pipe_write"))
    })
}
