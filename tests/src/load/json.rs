//! A report for other programs: one object, or a stream of them, a line each.
//!
//! What the fields mean is written in tests/schemas/load.schema.json. What was not measured is `null`.

use std::io::{self, Write};

use crate::load::report::{Event, Report};

/// Writes the report as people can read it, too, with a newline at the end. Fails as `out` does.
pub fn report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    out.write_all(&text)?;
    out.flush()
}

/// Writes one line, whole and at once: whoever reads the stream acts on it now. Fails as `out` does.
pub fn event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what was written at a time, and what was flushed.
    #[derive(Default)]
    struct Pipe {
        writes: Vec<Vec<u8>>,
        flushed: usize,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushed = self.writes.len();
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_in_one_piece() {
        let mut pipe = Pipe::default();
        event(&mut pipe, &Event::Measuring { at_s: 1.5 }).expect("it takes everything");
        event(&mut pipe, &Event::Measured { at_s: 2.5 }).expect("it takes everything");
        let expected = [
            &b"{\"event\":\"measuring\",\"at_s\":1.5}\n"[..],
            b"{\"event\":\"measured\",\"at_s\":2.5}\n",
        ];
        assert_eq!(pipe.writes, expected);
        assert_eq!(pipe.flushed, 2);
    }
}
