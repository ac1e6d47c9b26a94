//! What strace says of a server: how often it made which call, and how many bytes went through calls
//! that copy them between kernel and program.
//!
//! The calls are in the table at the end (`-C`); the bytes are the results of calls like recv and send,
//! which stand in a line each. splice and sendfile move bytes without a copy and count nothing. What
//! io_uring copies no call tells of, nor do calls for several messages at once tell bytes.

use std::collections::HashMap;

/// How it is started. Signals are for the server, not for strace (`-I3`); arguments are not looked at
/// (`raw`), which is faster.
pub const STRACE: [&str; 6] = ["strace", "-f", "-C", "-I3", "-e", "raw=all"];

/// Calls whose result is a number of bytes that were copied.
const COPYING: [&str; 12] = [
    "read", "readv", "pread64", "preadv", "recvfrom", "recvmsg", "write", "writev", "pwrite64",
    "pwritev", "sendto", "sendmsg",
];

/// Who makes these may copy bytes without telling how many.
const SILENT: [&str; 3] = ["io_uring_enter", "recvmmsg", "sendmmsg"];

/// So many lines, of all in the table, may be missing: calls that a process died in.
const MISSING: f64 = 0.001;

/// What was counted of a server from its start to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often each call was made.
    pub calls: HashMap<String, u64>,
    /// Bytes copied; None if that cannot be told.
    pub copied: Option<u64>,
}

/// Reads what strace (and the server) have written to stderr.
pub fn counted(text: &str) -> Counted {
    let calls = table(text);
    let copied = copied(text, &calls);
    Counted { calls, copied }
}

/// The table: the fourth column, and the last.
fn table(text: &str) -> HashMap<String, u64> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(count), Some(name)) = (fields.get(3), fields.last()) else {
            return None;
        };
        let is_row = matches!(fields.len(), 5 | 6) && fields[0].parse::<f64>().is_ok();
        (is_row && *name != "total").then_some(((*name).to_owned(), count.parse().ok()?))
    };
    let table = text.rsplit("% time").next().unwrap_or_default();
    table.lines().filter_map(row).collect()
}

/// The bytes of all lines, if there is a line for each call in the table.
fn copied(text: &str, calls: &HashMap<String, u64>) -> Option<u64> {
    if SILENT.iter().any(|name| calls.contains_key(*name)) {
        return None;
    }
    let of_table: u64 = COPYING.iter().filter_map(|name| calls.get(*name)).sum();
    let (mut lines, mut bytes) = (0_u64, 0);
    for (_, result) in text
        .lines()
        .filter_map(call)
        .filter(|(name, _)| COPYING.contains(name))
    {
        lines += 1;
        bytes += result;
    }
    let enough = (of_table as f64 * (1.0 - MISSING)).ceil() as u64;
    (lines >= enough).then_some(bytes)
}

/// A call that has returned, and what; 0 for an error. Where several threads are traced, a line may be cut
/// in two: `recvfrom(0x5, <unfinished ...>`, `<... recvfrom resumed>) = 0x40`.
fn call(line: &str) -> Option<(&str, u64)> {
    let line = match line.strip_prefix("[pid ") {
        Some(rest) => rest.split_once("] ")?.1,
        None => line,
    };
    let name = match line.strip_prefix("<... ") {
        Some(rest) => rest.split_once(" resumed>")?.0,
        None => line.split_once('(')?.0,
    };
    let (call, result) = line.rsplit_once(" = ")?;
    if !call.trim_end().ends_with(')') {
        return None;
    }
    let hexadecimal = result.strip_prefix("0x");
    let bytes = hexadecimal.map_or(Some(0), |digits| u64::from_str_radix(digits, 16).ok());
    Some((name, bytes?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace 6.1 writes it.
    const TEXT: &str = "\
strace: Process 25538 attached
recvfrom(0x5, 0x7f01, 0x40000, 0, 0, 0) = 0x40
sendto(0x5, 0x7f01, 0x40, 0x4000, 0, 0) = 0x40
recvfrom(0x5, 0x7f01, 0x40000, 0, 0, 0) = -1 EAGAIN (Resource temporarily unavailable)
the server says: read(0x5) = 0x99
[pid 25538] read(0x6, 0x7f01, 0x40000 <unfinished ...>
[pid 25537] epoll_wait(0x4, 0x55, 0x400, 0xffffffff) = 0x1
[pid 25538] <... read resumed>)         = 0x10
[pid 25538] write(0x6, 0x7f01, 0x10)    = 0x10
[pid 25538] splice(0x6, 0, 0x7, 0, 0x10000, 0x1) = 0x10000
[pid 25538] read(0x6, 0x7f01, 0x40000) = 0
[pid 25538] exit_group(0) = ?
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ------------------
 60.00    0.000100           0         2           read
 40.00    0.000010           0         2         1 recvfrom
 40.00    0.000010           0         1           sendto
 40.00    0.000010           0         1           write
 40.00    0.000010           0         1           epoll_wait
 40.00    0.000010           0         1           splice
------ ----------- ----------- --------- --------- ------------------
100.00    0.000110           0         8         1 total
";

    #[test]
    fn calls_are_counted_by_name() {
        let calls = counted(TEXT).calls;
        assert_eq!(calls.len(), 6);
        assert_eq!(
            (calls["read"], calls["recvfrom"], calls["splice"]),
            (2, 2, 1)
        );
        assert!(counted("").calls.is_empty());
    }

    #[test]
    fn bytes_are_those_that_were_copied() {
        assert_eq!(counted(TEXT).copied, Some(2 * 0x40 + 2 * 0x10));
    }

    #[test]
    fn what_no_line_tells_is_not_known() {
        let without = |line: &str| TEXT.replacen(line, "", 1);
        let line = "[pid 25538] write(0x6, 0x7f01, 0x10)    = 0x10\n";
        assert_eq!(counted(&without(line)).copied, None);
        // A call that is not about bytes may be missing.
        let line = "[pid 25537] epoll_wait(0x4, 0x55, 0x400, 0xffffffff) = 0x1\n";
        assert!(counted(&without(line)).copied.is_some());
        let silent = TEXT.replace("epoll_wait", "io_uring_enter");
        assert_eq!(counted(&silent).copied, None);
        assert_eq!(counted(&silent).calls["io_uring_enter"], 1);
    }
}
