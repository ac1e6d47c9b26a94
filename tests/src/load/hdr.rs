//! The HdrHistogram interval log, version 1.3, which HistogramLogProcessor and its kin read, merge and
//! plot: one line per interval, times in nanoseconds.
//!
//! Latencies are untagged, as those tools expect; service times, of open loop, are tagged `service`, times
//! on the wire `wire`.
//! Every line is written whole at the end of its interval. So what is there when a run is cut short is
//! a log of what was measured until then.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

use crate::load::latency::Recorder;
use crate::load::meter::Recorders;

/// A log under way.
pub struct Log<W> {
    out: W,
    serializer: V2DeflateSerializer,
    line: Vec<u8>,
}

impl Log<File> {
    /// Begins a log in a file, which is emptied if it exists; do this before the load, so that a path
    /// that cannot be written is no loss.
    pub fn create(path: &Path, command: &[String], began: SystemTime) -> io::Result<Self> {
        Self::begin(File::create(path)?, command, began)
    }
}

impl<W: Write> Log<W> {
    /// Begins a log. Its intervals are counted from `began`, the begin of the measurement.
    pub fn begin(out: W, command: &[String], began: SystemTime) -> io::Result<Self> {
        let mut log = Self {
            out,
            serializer: V2DeflateSerializer::new(),
            line: Vec::new(),
        };
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Times in nanoseconds]")
            .add_comment(&format!("[{}]", command.join(" ")))
            .with_start_time(began)
            .with_base_time(began)
            .begin_log_with(&mut log.line, &mut log.serializer)?;
        log.flush_line()?;
        Ok(log)
    }

    /// Adds an interval that began so long after the measurement did: its latencies, and its service
    /// times and those on the wire if there are such. Fails as writing does.
    pub fn interval(
        &mut self,
        start: Duration,
        length: Duration,
        times: &Recorders,
    ) -> io::Result<()> {
        self.add(start, length, &times.latency, None)?;
        for (times, tag) in [(&times.service, "service"), (&times.wire, "wire")] {
            if let Some(times) = times {
                self.add(start, length, times, Tag::new(tag))?;
            }
        }
        self.flush_line()
    }

    fn add(
        &mut self,
        start: Duration,
        length: Duration,
        times: &Recorder,
        tag: Option<Tag<'_>>,
    ) -> io::Result<()> {
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.line, &mut self.serializer)?
            .write_histogram(times.histogram(), start, length, tag)
            .map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })
    }

    fn flush_line(&mut self) -> io::Result<()> {
        self.out.write_all(&self.line)?;
        self.line.clear();
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    const BEGAN: Duration = Duration::from_millis(1_700_000_000_250);

    fn recorded(times: std::ops::Range<u64>) -> Recorder {
        let mut recorder = Recorder::new();
        times.for_each(|us| recorder.record(us * 1000));
        recorder
    }

    /// What was written at a time.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() -> Vec<Vec<u8>> {
        let mut out = Writes::default();
        let began = SystemTime::UNIX_EPOCH + BEGAN;
        let command = ["tcpecho-load".into(), "two\nlines".into()];
        let mut log = Log::begin(&mut out, &command, began).expect("a vector");
        let second = Duration::from_secs(1);
        let extra = [recorded(1..100), recorded(1..50)];
        for (start, times) in [(0, 1..1000), (1, 1000..1500), (2, 0..0)] {
            let [service, wire] = extra.clone().map(Some);
            let times = Recorders {
                latency: recorded(times),
                service,
                wire,
                ..Recorders::default()
            };
            log.interval(second * start, second, &times)
                .expect("a vector");
        }
        out.0
    }

    fn histogram(encoded: &str) -> Histogram<u64> {
        let bytes = BASE64_STANDARD.decode(encoded).expect("base64");
        let mut deserializer = Deserializer::new();
        deserializer
            .deserialize(&mut bytes.as_slice())
            .expect("V2 compressed")
    }

    #[test]
    fn what_is_written_can_be_read() {
        let log = log().concat();
        let entries: Result<Vec<_>, _> = IntervalLogIterator::new(&log).collect();
        let entries = entries.expect("nothing but log lines");
        assert_eq!(
            entries[..2],
            [LogEntry::StartTime(BEGAN), LogEntry::BaseTime(BEGAN)]
        );
        let intervals = entries.iter().filter_map(|entry| match entry {
            LogEntry::Interval(interval) => Some(interval),
            _ => None,
        });
        let (tagged, plain): (Vec<_>, Vec<_>) = intervals.partition(|i| i.tag().is_some());
        let counts: Vec<_> = plain
            .iter()
            .map(|i| {
                (
                    i.start_timestamp().as_secs(),
                    histogram(i.encoded_histogram()).len(),
                )
            })
            .collect();
        assert_eq!(counts, [(0, 999), (1, 500), (2, 0)]);
        assert!(
            (plain[0].max() / 999e3 - 1.0).abs() < 0.001,
            "{}",
            plain[0].max()
        );
        let tags = tagged.iter().filter_map(|i| i.tag());
        let tags: Vec<_> = tags.map(|tag| tag.as_str()).collect();
        assert_eq!(tags, ["service", "wire"].repeat(3));
        let counts = [0, 1].map(|n| histogram(tagged[n].encoded_histogram()).len());
        assert_eq!(counts, [99, 49]);
    }

    #[test]
    fn after_every_write_it_is_a_log() {
        let writes = log();
        assert_eq!(writes.len(), 4, "the head and three intervals");
        for end in 1..=writes.len() {
            let log = writes[..end].concat();
            assert!(log.ends_with(b"\n"), "{end}");
            let mut entries = IntervalLogIterator::new(&log);
            assert!(entries.all(|entry| entry.is_ok()), "{end}");
        }
    }
}
