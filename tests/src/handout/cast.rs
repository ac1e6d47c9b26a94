//! What the terminal shows, with its times: asciicast, version 2, for `asciinema play`.
//!
//! A line of JSON says how large the terminal is, and each piece of output is one more:
//! `[seconds, "o", text]`. A piece ends where whoever writes flushes; then it is in the file, so that
//! whoever leaves early has what was shown until then. What the audience types is shown by the
//! terminal itself; [`Echo`] writes it down, without which the cursor would be elsewhere.

use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A recording; copies write to the same.
#[derive(Debug)]
pub struct Cast<W>(Arc<Mutex<Tape<W>>>);

#[derive(Debug)]
struct Tape<W> {
    out: W,
    /// In ns of `CLOCK_MONOTONIC`.
    began: u64,
    /// What was written since the last piece ended.
    piece: Vec<u8>,
}

/// The first line.
#[derive(Serialize)]
struct Header<'a> {
    version: u8,
    width: usize,
    height: usize,
    timestamp: u64,
    title: &'a str,
}

/// Begins a file: what is recorded now is at its beginning. Returns that time, for [`Cast::new`].
pub fn begin(mut out: impl Write, (width, height): (usize, usize), title: &str) -> io::Result<u64> {
    let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let header = Header {
        version: 2,
        width,
        height,
        timestamp: timestamp.map_or(0, |time| time.as_secs()),
        title,
    };
    line(&mut out, &header)?;
    Ok(now())
}

/// Nanoseconds of a clock that all processes of this machine share, and nobody sets.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

impl<W: Write> Cast<W> {
    /// Goes on with a file that was begun then.
    pub fn new(out: W, began: u64) -> Self {
        Self(Arc::new(Mutex::new(Tape {
            out,
            began,
            piece: Vec::new(),
        })))
    }

    fn tape(&self) -> MutexGuard<'_, Tape<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Clone for Cast<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Write for Cast<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tape().piece.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tape().end_piece()
    }
}

impl<W: Write> Tape<W> {
    fn end_piece(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        // What a terminal driver makes of a line's end.
        let text = String::from_utf8_lossy(&self.piece).replace('\n', "\r\n");
        self.piece.clear();
        let seconds = (now().saturating_sub(self.began) / 1000) as f64 / 1e6;
        line(&mut self.out, &(seconds, "o", text))
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    out.flush()
}

/// A keyboard whose terminal shows what is typed.
pub struct Echo<R, W> {
    keyboard: R,
    screen: W,
}

impl<R, W> Echo<R, W> {
    /// What comes from `keyboard` appears on `screen` when it is read.
    pub fn new(keyboard: R, screen: W) -> Self {
        Self { keyboard, screen }
    }
}

impl<R: BufRead, W: Write> BufRead for Echo<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.keyboard.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Ok(typed) = self.keyboard.fill_buf() {
            // The recording is no reason not to read on.
            let _ = self.screen.write_all(&typed[..amount]);
        }
        self.keyboard.consume(amount);
    }
}

impl<R: BufRead, W: Write> Read for Echo<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// Writes to both. The first error of either is that of both.
#[derive(Debug)]
pub struct Tee<A, B>(pub A, pub B);

impl<A: Write, B: Write> Write for Tee<A, B> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.1.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cast() -> Cast<Vec<u8>> {
        let mut file = Vec::new();
        let began = begin(&mut file, (80, 24), "a title").expect("a Vec takes it");
        Cast::new(file, began)
    }

    fn lines(cast: &Cast<Vec<u8>>) -> Vec<Value> {
        let text = String::from_utf8(cast.tape().out.clone()).expect("JSON is UTF-8");
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("JSON")).collect()
    }

    #[test]
    fn a_piece_is_what_was_written_until_the_flush() {
        let mut cast = cast();
        for text in ["one\n", "tw", "o\n"] {
            cast.write_all(text.as_bytes()).expect("a Vec takes it");
        }
        assert_eq!(lines(&cast).len(), 1, "nothing has been flushed");
        cast.flush().expect("a Vec takes it");
        cast.flush().expect("nothing to write");
        cast.write_all("\x1b[1mü\x1b[0m".as_bytes())
            .expect("a Vec takes it");
        cast.flush().expect("a Vec takes it");
        let lines = lines(&cast);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0]["version"], json!(2));
        assert_eq!(lines[0]["width"], json!(80));
        assert_eq!(lines[1][2], json!("one\r\ntwo\r\n"));
        assert_eq!(lines[2][1], json!("o"));
        assert_eq!(lines[2][2], json!("\u{1b}[1mü\u{1b}[0m"));
        let at = |line: &Value| line[0].as_f64().expect("seconds");
        assert!(0.0 <= at(&lines[1]) && at(&lines[1]) <= at(&lines[2]));
    }

    #[test]
    fn what_is_typed_is_shown_where_it_was_read() {
        let cast = cast();
        let mut keyboard = Echo::new(&b"2\nnot read\n"[..], cast.clone());
        let mut screen = cast.clone();
        screen.write_all(b"Your guess: ").expect("a Vec takes it");
        let mut line = String::new();
        keyboard.read_line(&mut line).expect("a slice");
        assert_eq!(line, "2\n");
        screen.flush().expect("a Vec takes it");
        assert_eq!(lines(&cast)[1][2], json!("Your guess: 2\r\n"));
    }

    #[test]
    fn a_tee_writes_to_both() {
        let mut tee = Tee(Vec::new(), Vec::new());
        write!(tee, "{}{}", 1, 2).expect("a Vec takes it");
        assert_eq!((&tee.0[..], &tee.1[..]), (&b"12"[..], &b"12"[..]));
    }
}
