//! The system calls of a program as it recorded them (`--events-fd`).
//!
//! A record is one line of eight fields with tabs between them; `tcpecho_common::calls` writes and
//! describes them. Records that found no room are counted by their sender and reported as `lost`.

use std::fmt;

/// Before or after the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before a call that may block.
    Enter,
    /// After the call.
    Return,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// Nanoseconds of `CLOCK_REALTIME`, the clock of the packets.
    pub at: u64,
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// Before or after the call.
    pub phase: Phase,
    /// The name of the call.
    pub call: String,
    /// The descriptor, -1 if the call has none.
    pub fd: i32,
    /// What it returned; -1 if it failed; 0 for `Enter`.
    pub result: i64,
    /// Why it failed, as in `EAGAIN`.
    pub errno: Option<String>,
}

/// All records, in the order in which they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallLog {
    /// The records.
    pub records: Vec<CallRecord>,
    /// How many records found no room and are missing.
    pub lost: u64,
}

/// Reads records. A line that is none is skipped: it was cut off by a full pipe, and its sender
/// counted it as lost.
pub fn parse(text: &str) -> CallLog {
    let mut log = CallLog::default();
    // What follows the last newline is still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for record in whole.lines().filter_map(record) {
        if record.call == "lost" {
            log.lost += record.result.max(0) as u64;
        } else {
            log.records.push(record);
        }
    }
    log
}

fn record(line: &str) -> Option<CallRecord> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [at, pid, tid, phase, call, fd, result, errno] = fields[..] else {
        return None;
    };
    Some(CallRecord {
        at: at.parse().ok()?,
        pid: pid.parse().ok()?,
        tid: tid.parse().ok()?,
        phase: match phase {
            "enter" => Phase::Enter,
            "return" => Phase::Return,
            _ => return None,
        },
        call: call.to_owned(),
        fd: fd.parse().ok()?,
        result: result.parse().ok()?,
        errno: (errno != "-").then(|| errno.to_owned()),
    })
}

/// As the log has it: `read(5) ...`, `read(5) = 64`, `accept(3) = -1 EAGAIN`.
impl fmt::Display for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fd {
            ..0 => write!(f, "{}()", self.call)?,
            fd => write!(f, "{}({fd})", self.call)?,
        }
        match (self.phase, &self.errno) {
            (Phase::Enter, _) => f.write_str(" ..."),
            (Phase::Return, None) => write!(f, " = {}", self.result),
            (Phase::Return, Some(errno)) => write!(f, " = {} {errno}", self.result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
1700000000000000001\t7\t8\tenter\taccept\t3\t0\t-
1700000000000000002\t7\t8\treturn\taccept\t3\t-1\tEAGAIN
1700000000000000003\t7\t7\treturn\tfork\t-1\t9\t-
";

    #[test]
    fn records_are_read_in_order() {
        let log = parse(TEXT);
        assert_eq!(log.lost, 0);
        let calls: Vec<_> = log.records.iter().map(ToString::to_string).collect();
        assert_eq!(
            calls,
            ["accept(3) ...", "accept(3) = -1 EAGAIN", "fork() = 9"]
        );
        let first = &log.records[0];
        assert_eq!(
            (first.at, first.pid, first.tid),
            (1_700_000_000_000_000_001, 7, 8)
        );
        assert_eq!(first.phase, Phase::Enter);
        assert_eq!(log.records[1].errno.as_deref(), Some("EAGAIN"));
    }

    #[test]
    fn lost_records_are_counted_and_torn_ones_skipped() {
        let text = format!(
            "{TEXT}17000000\n1\t7\t7\treturn\tlost\t-1\t40\t-\n2\t7\t7\treturn\tlost\t-1\t2\t-\n{TEXT}"
        );
        let log = parse(&text);
        assert_eq!((log.lost, log.records.len()), (42, 6));
    }

    #[test]
    fn a_record_that_is_still_being_written_is_left_for_later() {
        let cut = &TEXT[..TEXT.len() - 1];
        assert_eq!(parse(cut).records.len(), 2);
        assert_eq!(parse("").records.len(), 0);
        assert_eq!(parse("1\t2").records.len(), 0);
    }
}
