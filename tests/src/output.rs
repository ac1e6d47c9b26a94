//! What a program prints, collected by a thread so that the program never waits for us.
//!
//! Whoever asks reads what is still in the pipe first. So everything that was written before the
//! question is in the answer, however late the thread may be. Everything is kept, up to a limit where
//! there is one: then the last of it. Costs one thread per pipe; pipe(7), pty(7).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};

use crate::wait::eventually;

/// No pipe holds more than this, so no answer has to read more before it is complete.
const PIPE_AT_MOST: usize = 1 << 20;

/// How often the collecting thread looks whether anybody still wants the output, in ms.
const LOOK_UP: u16 = 500;

/// The collected output of one pipe or terminal.
#[derive(Debug)]
pub(crate) struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: OwnedFd,
    text: Mutex<Text>,
}

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    /// Where each line ends, and when (`CLOCK_REALTIME` ns) that was seen.
    ends: Vec<(usize, u64)>,
    /// Nobody can write any more.
    ended: bool,
    /// When there are more bytes than this, the older half is forgotten.
    limit: Option<usize>,
}

impl Output {
    /// Collects what comes out of `source` until nobody can write to it, or this is dropped.
    pub(crate) fn collect(source: OwnedFd) -> anyhow::Result<Self> {
        Self::collect_last(source, None)
    }

    /// The same, and of more than `limit` bytes no less than the last half of that.
    pub(crate) fn collect_last(source: OwnedFd, limit: Option<usize>) -> anyhow::Result<Self> {
        let text = Mutex::new(Text {
            limit,
            ..Text::default()
        });
        let shared = Arc::new(Shared { source, text });
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("output".into())
            .spawn(move || follow(&weak))?;
        Ok(Self(shared))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.settled().bytes.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.settled().bytes).into_owned()
    }

    /// Whole lines with their time of arrival; the last one may lack its newline once nobody can
    /// write any more.
    pub(crate) fn lines(&self) -> Vec<(u64, String)> {
        let text = self.0.settled();
        let starts = std::iter::once(0).chain(text.ends.iter().map(|(end, _)| *end));
        starts
            .zip(&text.ends)
            .map(|(start, &(end, at))| {
                let line = String::from_utf8_lossy(&text.bytes[start..end]);
                (at, line.trim_end_matches(['\n', '\r']).to_owned())
            })
            .collect()
    }

    /// Has everybody who could write closed it?
    pub(crate) fn ended(&self) -> bool {
        self.0.settled().ended
    }

    /// Gives the last writers, which have been killed, a moment to be gone.
    pub(crate) fn wait_end(&self, deadline: Duration) {
        // Who escaped may hold it open for ever; then what there is must do.
        let _ = eventually("end of output", deadline, || self.ended().then_some(()));
    }
}

fn follow(output: &Weak<Shared>) {
    while let Some(shared) = output.upgrade() {
        if readable(&shared.source, LOOK_UP.into()) && shared.settled().ended {
            return;
        }
    }
}

impl Shared {
    fn settled(&self) -> MutexGuard<'_, Text> {
        let mut text = self.text.lock().expect("no panic while it is held");
        let mut came = 0;
        while !text.ended && came < PIPE_AT_MOST && readable(&self.source, PollTimeout::ZERO) {
            came += text.read(&self.source);
        }
        text
    }
}

impl Text {
    /// Returns how many bytes have come.
    fn read(&mut self, source: impl AsFd) -> usize {
        let mut buffer = [0; 16 * 1024];
        match nix::unistd::read(source, &mut buffer) {
            Ok(n @ 1..) => {
                self.append(&buffer[..n], now());
                return n;
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // EIO is the end of a terminal: the last slave was closed.
            Ok(_) | Err(_) => self.end(now()),
        }
        0
    }

    fn append(&mut self, bytes: &[u8], at: u64) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        self.ends
            .extend(newlines.map(|(index, _)| (before + index + 1, at)));
        if let Some(limit) = self.limit {
            if self.bytes.len() > limit {
                self.forget(self.bytes.len() - limit / 2);
            }
        }
    }

    /// Forgets so many bytes; of a line that is cut the rest stays.
    fn forget(&mut self, bytes: usize) {
        let lines = self.ends.partition_point(|(end, _)| *end <= bytes);
        self.bytes.drain(..bytes);
        self.ends.drain(..lines);
        for (end, _) in &mut self.ends {
            *end -= bytes;
        }
    }

    fn end(&mut self, at: u64) {
        self.ended = true;
        let end = self.bytes.len();
        if end > self.ends.last().map_or(0, |(end, _)| *end) {
            self.ends.push((end, at));
        }
    }
}

fn readable(source: impl AsFd, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// The time now, on the clock of packets and call records.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{pipe, write};

    use crate::program::write_all;

    #[test]
    fn what_was_written_before_the_question_is_in_the_answer() {
        let (reader, writer) = pipe().expect("a pipe");
        let output = Output::collect(reader).expect("a thread");
        for round in 1..=1000 {
            write(&writer, b"0123456\n").expect("room");
            assert_eq!(output.bytes().len(), round * 8);
        }
        assert!(!output.ended());
        drop(writer);
        assert!(output.ended());
        assert_eq!(output.lines().len(), 1000);
    }

    #[test]
    fn lines_are_stamped_when_they_are_whole() {
        let (reader, writer) = pipe().expect("a pipe");
        let output = Output::collect(reader).expect("a thread");
        let before = now();
        write(&writer, b"one\ntw").expect("room");
        assert_eq!(output.lines().len(), 1);
        let between = now();
        write(&writer, b"o\nrest").expect("room");
        let lines = output.lines();
        let texts: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(texts, ["one", "two"]);
        assert!(before <= lines[0].0 && lines[0].0 <= between && between <= lines[1].0);
        drop(writer);
        assert_eq!(output.lines()[2].1, "rest");
    }

    #[test]
    fn a_pipe_that_nobody_asks_about_is_drained() {
        let (reader, writer) = pipe().expect("a pipe");
        let output = Output::collect(reader).expect("a thread");
        // Far more than a pipe holds: without the thread there would be no room.
        for _ in 0..64 {
            write_all(writer.as_fd(), &[b'x'; 16 * 1024]).expect("room");
        }
        assert_eq!(output.bytes().len(), 1 << 20);
    }

    #[test]
    fn of_what_is_too_much_the_last_is_kept() {
        let (reader, writer) = pipe().expect("a pipe");
        let output = Output::collect_last(reader, Some(1000)).expect("a thread");
        for number in 0..100_000 {
            write_all(writer.as_fd(), format!("{number:07}\n").as_bytes()).expect("room");
        }
        drop(writer);
        assert!(output.ended());
        let kept = output.bytes().len();
        assert!((500..=1000).contains(&kept), "{kept}");
        let lines = output.lines();
        assert_eq!(lines.len(), kept.div_ceil(8));
        assert_eq!(lines.last().map(|(_, line)| &line[..]), Some("0099999"));
    }
}
