//! The client's system calls fail, one at a time: it says what happened and exits with the code that
//! stands for it, or carries on.
//!
//! Calls are made to fail by strace(1), `-e inject=`, which counts calls and knows no descriptors.
//! So a rehearsal without a fault shows, by strace's own record, which read is the first from the
//! socket; then the same talk is held again, and that call fails. Afterwards the record must have it.
//! Where there is no strace, the tests say SKIP and why, or fail if `TCPECHO_STRICT` is 1.

#[path = "client/basics.rs"]
mod basics;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tcpecho_common::Model;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::peer::Peer;
use tcpecho_lab::server::ServerProcess;
use tcpecho_lab::wait::eventually;

use basics::{DEADLINE, MODES, end, file, serve, start};

/// What is said in every talk. stdin is a file: the order of calls is always the same.
const TEXT: &[u8] = b"hello\n";

#[test]
fn a_failing_connection_is_told_with_its_code() {
    for (call, object) in [("read", SOCKET), ("write", SOCKET)] {
        for (errno, code, told) in [
            ("ECONNRESET", 4, "server reset the connection (RST)"),
            ("ETIMEDOUT", 5, "connection lost: ETIMEDOUT"),
            ("EHOSTUNREACH", 5, "connection lost: EHOSTUNREACH"),
            ("ENOBUFS", 1, "connection lost: ENOBUFS"),
            // How a reset is told after a FIN: the FIN was the end.
            ("EPIPE", 3, "server terminated prematurely (FIN)"),
        ] {
            fails(call, object, errno, code, told);
        }
    }
}

#[test]
fn a_failing_stdin_or_stdout_is_told() {
    fails("read", STDIN, "EIO", 1, "cannot read from stdin: EIO");
    fails(
        "read",
        STDIN,
        "ENOBUFS",
        1,
        "cannot read from stdin: ENOBUFS",
    );
    fails("write", STDOUT, "EIO", 1, "cannot write to stdout: EIO");
    fails(
        "write",
        STDOUT,
        "ENOSPC",
        1,
        "cannot write to stdout: ENOSPC",
    );
}

#[test]
fn a_stdout_that_nobody_reads_ends_it_quietly() {
    fails("write", STDOUT, "EPIPE", 0, "");
}

#[test]
fn an_interrupted_call_is_made_again() {
    for (call, object) in [
        ("read", SOCKET),
        ("read", STDIN),
        ("write", SOCKET),
        ("write", STDOUT),
    ] {
        for mode in MODES {
            let Some(talk) = Talk::with_fault(mode, call, object, "EINTR") else {
                return;
            };
            talk.assert_all_is_well();
        }
    }
    // All of them, more than once in a row.
    for call in ["poll", "epoll_wait"] {
        let Some(talk) = Talk::under(MODES[0], &format!("{call}:error=EINTR:when=1..4")) else {
            return;
        };
        talk.assert_all_is_well();
    }
}

/// At the urgent mark a read fails with EAGAIN while a signal is pending, whatever is behind the mark,
/// and no other event tells of that.
#[test]
fn eagain_at_the_urgent_mark_is_not_believed() {
    let Some(rehearsal) = urgent_talk(&[]) else {
        return;
    };
    let mark = 1 + number(&rehearsal, "read", |line| line.contains("\"abc\""));
    let record = urgent_talk(&[&format!("read:error=EAGAIN:when={mark}")]).expect("as before");
    let injected = |line: &&str| is_call(line, "read", SOCKET) && line.contains("(INJECTED)");
    let lines: Vec<_> = record.lines().collect();
    let at = lines.iter().position(injected).expect("the fault");
    assert!(lines[at - 1].contains("\"abc\""), "{record}");
}

/// A server says `abc`, an urgent byte and `efg`; the client must show all but the urgent one.
/// Returns strace's record; None if there is no strace.
fn urgent_talk(faults: &[&str]) -> Option<String> {
    if let Some(why) = missing() {
        skip(&why);
        return None;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let record = Record::new();
    // The first wait begins so late that all of it is told in one event.
    let faults = [&["epoll_wait:delay_enter=300000:when=1"], faults].concat();
    let client = start(record.under_strace(Client::to(address).mode(MODES[0]), &faults));
    let (stream, _) = listener.accept().expect("the client");
    let mut server = Peer::over(stream).expect("a connection");
    eventually("a read before that", DEADLINE, || {
        let so_far = fs::read_to_string(&record.0).ok()?;
        let mut lines = so_far.lines();
        lines.find(|line| is_call(line, "read", SOCKET)).map(drop)
    })
    .expect("a first read");
    server.send(b"abc").expect("sent");
    server.send_urgent(b'D').expect("sent");
    server.send(b"efg").expect("sent");
    let came = client.wait_stdout(6, DEADLINE);
    assert_eq!(came.expect("all of it"), b"abcefg");
    client.close_stdin().expect("our end");
    server.expect_fin().expect("its FIN");
    drop(server);
    assert_eq!(end(&client), 0);
    Some(record.complete())
}

/// The talk in which `call` on `object` fails with `errno` ends so, in both modes.
fn fails(call: &str, object: &str, errno: &str, code: i32, told: &str) {
    for mode in MODES {
        let Some(talk) = Talk::with_fault(mode, call, object, errno) else {
            return;
        };
        let stderr = talk.client.stderr();
        let ended = (talk.code, stderr.lines().count());
        let what = format!("{mode}: {call} {object} {errno}: {stderr}");
        assert_eq!(ended, (code, usize::from(!told.is_empty())), "{what}");
        assert!(stderr.contains(told), "{what}");
    }
}

// How strace, with -yy, shows them.
const SOCKET: &str = "<TCP";
const STDIN: &str = "0<";
const STDOUT: &str = "<pipe:";

/// A talk that has ended, and the record of its calls.
struct Talk {
    client: ClientProcess,
    _server: ServerProcess,
    code: i32,
    record: String,
}

impl Talk {
    /// The first `call` on `object` fails. None: there is no strace, and nobody insists.
    fn with_fault(mode: &str, call: &str, object: &str, errno: &str) -> Option<Self> {
        for _ in 0..5 {
            let rehearsal = Self::under(mode, "none")?;
            rehearsal.assert_all_is_well();
            let first = first(&rehearsal.record, call, object);
            let talk = Self::under(mode, &format!("{call}:error={errno}:when={first}"))?;
            let mut lines = talk.record.lines();
            let fault = lines.find(|line| line.contains("(INJECTED)"));
            if fault.is_some_and(|line| is_call(line, call, object)) {
                return Some(talk);
            }
            // How many reads it takes to start a program can depend on where the kernel puts it.
        }
        panic!("no {call} {object} could be made to fail");
    }

    /// A talk under strace, to its end.
    fn under(mode: &str, fault: &str) -> Option<Self> {
        if let Some(why) = missing() {
            skip(&why);
            return None;
        }
        let server = serve(Model::Reactor);
        let record = Record::new();
        let faults: &[&str] = if fault == "none" { &[] } else { &[fault] };
        let client = record.under_strace(Client::to(server.address()).mode(mode), faults);
        let client = start(client.stdin(file(TEXT)));
        let code = end(&client);
        let record = record.complete();
        Some(Self {
            client,
            _server: server,
            code,
            record,
        })
    }

    fn assert_all_is_well(&self) {
        let ended = (self.code, self.client.stdout(), self.client.stderr());
        let well = (0, TEXT.to_vec(), String::new());
        assert_eq!(ended, well, "{}", self.record);
    }
}

/// Which of the calls of this name is the first on `object`, counted from 1.
fn first(record: &str, call: &str, object: &str) -> usize {
    number(record, call, |line| is_call(line, call, object))
}

/// Which of the calls of this name is the first like that, counted from 1.
fn number(record: &str, call: &str, is_it: impl Fn(&str) -> bool) -> usize {
    let named = format!("{call}(");
    let mut calls = record.lines().filter(|line| line.starts_with(&named));
    let first = calls.position(is_it);
    1 + first.unwrap_or_else(|| panic!("no such {call}:\n{record}"))
}

/// Is this line of the record a `call` on `object`?
fn is_call(line: &str, call: &str, object: &str) -> bool {
    let descriptor = line
        .strip_prefix(call)
        .and_then(|rest| rest.strip_prefix('('));
    let digits = |text: &str| {
        text.trim_start_matches(|c: char| c.is_ascii_digit())
            .to_owned()
    };
    descriptor.is_some_and(|rest| rest.starts_with(object) || digits(rest).starts_with(object))
}

/// Where strace writes to.
struct Record(PathBuf);

impl Record {
    fn new() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let thread = std::thread::current().id();
        Self(directory.join(format!("strace-{}-{thread:?}", std::process::id())))
    }

    /// The client under strace, with these faults.
    fn under_strace(&self, client: Client, faults: &[&str]) -> Client {
        let path = self.0.to_str().expect("cargo's own directories are text");
        let calls = "trace=read,write,poll,epoll_wait,connect,shutdown";
        let faults: Vec<_> = faults
            .iter()
            .map(|fault| format!("inject={fault}"))
            .collect();
        // -D: the client is our child, strace its grandchild.
        let mut strace = vec!["strace", "-D", "-yy", "-o", path, "-e", calls];
        strace.extend(faults.iter().flat_map(|fault| ["-e", fault]));
        client.under(&strace)
    }

    /// What it holds when strace has written the client's end; strace may live longer than that.
    fn complete(&self) -> String {
        eventually("strace's record of the end", DEADLINE, || {
            let record = fs::read_to_string(&self.0).ok()?;
            record.contains("+++ exited with ").then_some(record)
        })
        .expect("a record")
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nothing is there if strace could not start.
        let _ = fs::remove_file(&self.0);
    }
}

/// Why nothing can be traced here; None if it can.
fn missing() -> Option<String> {
    let trial = Command::new("strace")
        .args([
            "-D",
            "-o",
            "/dev/null",
            "-e",
            "inject=getpid:error=EPERM",
            "true",
        ])
        .output();
    match trial {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(said.trim().to_owned())
        }
        Ok(_) => None,
    }
}

#[expect(clippy::print_stderr, reason = "whoever reads the log should know")]
fn skip(why: &str) {
    let is_strict = std::env::var_os("TCPECHO_STRICT").is_some_and(|value| value == "1");
    assert!(!is_strict, "{why} (TCPECHO_STRICT=1)");
    eprintln!("SKIP: {why}");
}
