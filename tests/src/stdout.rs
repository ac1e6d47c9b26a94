//! Our own stdout: how wide it is, and how to write to it though its reader may have stopped reading.

use std::env;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use terminal_size::terminal_size_of;

use crate::sweep;

/// Columns of a page that is no terminal.
const COLUMNS: usize = 80;

/// How long a reader has for our last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often we look whether it is time for them.
const LOOK: Duration = Duration::from_millis(20);

/// The columns of the terminal on stdout; of a pipe, what COLUMNS says, or 80.
pub fn columns() -> usize {
    let from_environment = || env::var("COLUMNS").ok()?.parse().ok();
    terminal_size_of(io::stdout())
        .map(|(width, _)| usize::from(width.0))
        .or_else(from_environment)
        .unwrap_or(COLUMNS)
}

/// Writes in a thread of its own, and waits for it. So whoever calls this does not hang in a pipe that
/// nobody reads: once `hurry` says that there is no more time, the reader has half a second left.
///
/// Errors: those of `write`; `TimedOut` if the reader has not read all of it then.
pub fn patiently(
    write: impl FnOnce() -> io::Result<()> + Send + 'static,
    hurry: impl Fn() -> bool,
) -> io::Result<()> {
    let (teller, told) = mpsc::channel();
    let writer = thread::Builder::new().name("stdout".into());
    writer.spawn(move || teller.send(write()))?;
    let mut end = None;
    loop {
        match told.recv_timeout(LOOK) {
            Ok(written) => return written,
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("writing failed")),
            Err(RecvTimeoutError::Timeout) if !hurry() => {}
            Err(RecvTimeoutError::Timeout) => {
                let now = Instant::now();
                if now >= *end.get_or_insert(now + LAST_WORDS) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }
}

/// The same, until we are interrupted: see [`sweep::when_interrupted`].
pub fn print(write: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    patiently(write, || sweep::interrupted().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn what_was_written_is_what_is_told() {
        assert!(patiently(|| Ok(()), || false).is_ok());
        let broken = || Err(io::ErrorKind::BrokenPipe.into());
        let told = patiently(broken, || false).expect_err("it failed");
        assert_eq!(told.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn who_is_in_a_hurry_waits_for_nobody_who_does_not_read() {
        let (reader, stuck) = mpsc::channel::<()>();
        let write = move || stuck.recv().map_err(io::Error::other);
        let told = patiently(write, || true).expect_err("nobody reads");
        assert_eq!(told.kind(), io::ErrorKind::TimedOut);
        drop(reader);
    }

    #[test]
    fn who_is_not_in_a_hurry_waits_for_as_long_as_it_takes() {
        static DONE: AtomicBool = AtomicBool::new(false);
        // Longer than last words may take.
        let slow = || {
            thread::sleep(LAST_WORDS + LOOK);
            DONE.store(true, Ordering::Release);
            Ok(())
        };
        assert!(patiently(slow, || false).is_ok());
        assert!(DONE.load(Ordering::Acquire));
    }
}
