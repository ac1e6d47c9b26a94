//! The program as a user meets it, with a socket of ours as the server.
//!
//! No test waits for a time to pass: each waits for what must happen, with a deadline.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(20);
const MODES: [&str; 3] = ["multiplexed", "blocking", "stdio"];

/// A client that is connected to us.
struct Talk {
    client: Child,
    server: TcpStream,
}

impl Talk {
    fn start(mode: &str, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let client = tcpecho()
            .args(["--mode", mode, "127.0.0.1", &port.to_string()])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let (server, _) = listener.accept().expect("a client");
        server
            .set_read_timeout(Some(DEADLINE))
            .expect("a socket option");
        Self { client, server }
    }

    fn piped(mode: &str) -> Self {
        Self::start(mode, Stdio::piped(), Stdio::piped())
    }

    fn stdin(&mut self) -> &mut ChildStdin {
        self.client.stdin.as_mut().expect("a pipe")
    }

    /// Types `line`, answers it, and sees the answer on stdout: the client is in its loop.
    fn exchange(&mut self, line: &[u8]) {
        self.stdin().write_all(line).expect("typed");
        let mut bytes = vec![0; line.len()];
        self.server.read_exact(&mut bytes).expect("the line");
        self.server.write_all(&bytes).expect("answered");
        let stdout = self.client.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut bytes).expect("the answer");
        assert_eq!(bytes, line);
    }

    /// Closes our end with a reset instead of a FIN.
    fn reset(self) -> Child {
        let now = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&self.server, sockopt::Linger, &now).expect("a socket option");
        self.client
    }

    /// Closes our end; nothing may be unread, or it is a reset. The FIN has arrived when this
    /// returns: a reset that overtakes it would be what the client sees.
    fn close(self) -> Child {
        self.server.shutdown(Shutdown::Write).expect("our FIN");
        wait_until_received(&self.server);
        self.client
    }
}

fn tcpecho() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpecho"));
    command.env_remove("RUST_LOG");
    command
}

/// Waits for the end of `client`, reading what it prints; stdin stays as it is.
fn end(mut client: Child) -> (Option<i32>, Vec<u8>, String) {
    let (pid, stdin) = (Pid::from_raw(client.id() as i32), client.stdin.take());
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(client.wait_with_output()));
    let Ok(output) = result.recv_timeout(DEADLINE) else {
        let _ = kill(pid, Signal::SIGKILL);
        panic!("the client did not end");
    };
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("its output");
    let stderr = String::from_utf8(stderr).expect("text");
    (status.code(), stdout, stderr)
}

/// A line without the figure of how long ago it was.
fn without_age(line: &str) -> String {
    match line.split_once(" (FIN) ") {
        Some((before, after)) => {
            let (_, rest) = after.split_once(" ago").expect("an age");
            format!("{before} (FIN){rest}")
        }
        None => line.into(),
    }
}

fn echo_to_the_end(mut server: &TcpStream) {
    let mut buffer = vec![0; 65536];
    loop {
        match server.read(&mut buffer).expect("bytes or the end") {
            0 => break,
            n => server.write_all(&buffer[..n]).expect("answered"),
        }
    }
    server.shutdown(Shutdown::Write).expect("our FIN");
}

/// Waits until the client's kernel has all that we sent, the FIN included.
#[expect(unsafe_code)]
fn wait_until_received(server: &TcpStream) {
    let start = Instant::now();
    loop {
        let mut unacknowledged: nix::libc::c_int = 0;
        let (fd, request) = (server.as_raw_fd(), nix::libc::TIOCOUTQ);
        // SAFETY: TIOCOUTQ (SIOCOUTQ for a socket) writes one int.
        let result = unsafe { nix::libc::ioctl(fd, request, &raw mut unacknowledged) };
        assert_eq!(result, 0);
        if unacknowledged == 0 {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{unacknowledged} bytes left");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn every_byte_comes_back_and_the_exit_code_is_0() {
    for mode in MODES {
        let mut talk = Talk::piped(mode);
        talk.stdin().write_all(b"a\0b\n\nlast").expect("typed");
        drop(talk.client.stdin.take());
        echo_to_the_end(&talk.server);
        let expected = (Some(0), b"a\0b\n\nlast".to_vec(), String::new());
        assert_eq!(end(talk.client), expected, "{mode}");
    }
}

#[test]
fn four_megabytes_in_one_line_come_back_as_they_were() {
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8 | 0x80).collect();
    for mode in MODES {
        let mut talk = Talk::piped(mode);
        let mut stdin = talk.client.stdin.take().expect("a pipe");
        let sent = bytes.clone();
        let writer = thread::spawn(move || stdin.write_all(&sent));
        let server = talk.server.try_clone().expect("a copy");
        let echo = thread::spawn(move || echo_to_the_end(&server));
        let (code, stdout, stderr) = end(talk.client);
        writer.join().expect("no panic").expect("written");
        echo.join().expect("no panic");
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{mode}");
        assert!(stdout == bytes, "{mode}: {} bytes differ", stdout.len());
    }
}

#[test]
fn files_and_the_null_device_can_be_stdin() {
    for mode in MODES {
        for path in [
            "/dev/null",
            concat!(env!("CARGO_MANIFEST_DIR"), "/src/session.rs"),
        ] {
            let stdin = File::open(path).expect("there");
            let talk = Talk::start(mode, stdin, Stdio::piped());
            echo_to_the_end(&talk.server);
            let expected = std::fs::read(path).expect("readable");
            let ended = (Some(0), expected, String::new());
            assert!(end(talk.client) == ended, "{mode} {path}");
        }
    }
}

#[test]
fn a_socket_can_be_stdin_and_stdout() {
    for mode in MODES {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(DEADLINE)).expect("an option");
        let stdout = OwnedFd::from(theirs.try_clone().expect("a copy"));
        let talk = Talk::start(mode, OwnedFd::from(theirs), stdout);
        ours.write_all(b"through a socket\n").expect("typed");
        ours.shutdown(Shutdown::Write).expect("the end");
        echo_to_the_end(&talk.server);
        let mut answer = String::new();
        ours.read_to_string(&mut answer).expect("the answer");
        assert_eq!(answer, "through a socket\n", "{mode}");
        assert_eq!(end(talk.client).0, Some(0), "{mode}");
    }
}

#[test]
fn a_fin_is_told_while_stdin_is_idle() {
    let mut talk = Talk::piped("multiplexed");
    talk.exchange(b"hello\n");
    let (code, _, stderr) = end(talk.close());
    let line = "tcpecho: server terminated prematurely (FIN), nothing unanswered\n";
    assert_eq!((code, without_age(&stderr).as_str()), (Some(3), line));
}

#[test]
fn a_reset_is_told_while_stdin_is_idle() {
    let mut talk = Talk::piped("multiplexed");
    talk.exchange(b"hello\n");
    let (code, _, stderr) = end(talk.reset());
    let line = "tcpecho: server reset the connection (RST), nothing unanswered\n";
    assert_eq!((code, stderr.as_str()), (Some(4), line));
}

#[test]
fn the_blocking_mode_tells_a_fin_only_when_the_next_line_was_typed() {
    let mut talk = Talk::piped("blocking");
    talk.exchange(b"hello\n");
    let mut client = talk.close();
    // It may still be on its way into read(2), but out of it nothing leads but a line.
    assert_eq!(client.try_wait().expect("a status"), None);
    let mut stdin = client.stdin.take().expect("a pipe");
    stdin.write_all(b"anybody?\n").expect("typed");
    let (code, _, stderr) = end(client);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("terminated prematurely (FIN)"), "{stderr}");
    assert!(stderr.ends_with(", 9 bytes unanswered\n"), "{stderr}");
}

#[test]
fn the_blocking_mode_tells_a_reset_with_the_next_line() {
    let mut talk = Talk::piped("blocking");
    talk.exchange(b"hello\n");
    let mut client = talk.reset();
    let mut stdin = client.stdin.take().expect("a pipe");
    stdin.write_all(b"anybody?\n").expect("typed");
    let (code, _, stderr) = end(client);
    let line =
        "tcpecho: server reset the connection (RST), 9 bytes unanswered (9 of them unsent)\n";
    assert_eq!((code, stderr.as_str()), (Some(4), line));
}

#[test]
fn an_answer_cut_short_is_delivered_and_the_rest_told() {
    for (answer, missing) in [
        (&b"abc"[..], "3 bytes"),
        (b"abcde", "1 byte"),
        (b"", "6 bytes"),
    ] {
        let mut talk = Talk::piped("multiplexed");
        talk.stdin().write_all(b"abcdef").expect("typed");
        drop(talk.client.stdin.take());
        let mut all = Vec::new();
        talk.server.read_to_end(&mut all).expect("its FIN");
        talk.server.write_all(answer).expect("answered");
        let (code, stdout, stderr) = end(talk.close());
        let line = format!("tcpecho: server terminated prematurely (FIN), {missing} unanswered\n");
        let ended = (code, stdout.as_slice(), without_age(&stderr));
        assert_eq!(ended, (Some(3), answer, line));
    }
}

#[test]
fn an_end_is_told_although_nobody_reads_stdout_and_all_is_delivered_when_somebody_does() {
    for is_reset in [false, true] {
        let mut talk = Talk::piped("multiplexed");
        // More than the client's buffer takes, less than fills the window as well: a FIN cannot
        // leave the server before the data in front of it.
        let bytes = vec![b'x'; 300_000];
        talk.server.write_all(&bytes).expect("buffered");
        // A reset would take with it what is still on the way.
        wait_until_received(&talk.server);
        let mut stderr = talk.client.stderr.take().expect("a pipe");
        let mut client = if is_reset { talk.reset() } else { talk.close() };
        let mut line = [0; 200];
        let n = stderr.read(&mut line).expect("a line");
        let line = String::from_utf8_lossy(&line[..n]).into_owned();
        assert!(
            line.ends_with(" bytes still to be written to stdout)\n"),
            "{line}"
        );
        assert_eq!(client.try_wait().expect("a status"), None, "{line}");
        let (code, stdout, _) = end(client);
        let expected = if is_reset { 4 } else { 3 };
        assert_eq!(
            (code, stdout.len()),
            (Some(expected), bytes.len()),
            "{line}"
        );
    }
}

#[test]
fn a_consumer_that_leaves_ends_it_quietly() {
    let mut talk = Talk::piped("multiplexed");
    talk.exchange(b"hello\n");
    drop(talk.client.stdout.take());
    let (code, _, stderr) = end(talk.client);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error() {
    for mode in MODES {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("there");
        let mut talk = Talk::start(mode, Stdio::piped(), full);
        talk.stdin().write_all(b"hello\n").expect("typed");
        talk.server.write_all(b"hello\n").expect("answered");
        let (code, _, stderr) = end(talk.client);
        let line = "tcpecho: cannot write to stdout: ENOSPC: No space left on device\n";
        assert_eq!((code, stderr.as_str()), (Some(1), line), "{mode}");
    }
}

#[test]
fn a_directory_as_stdin_is_an_error() {
    for mode in MODES {
        let talk = Talk::start(mode, File::open("/").expect("there"), Stdio::null());
        let (code, _, stderr) = end(talk.client);
        let line = "tcpecho: cannot read from stdin: EISDIR: Is a directory\n";
        assert_eq!((code, stderr.as_str()), (Some(1), line), "{mode}");
    }
}

#[test]
fn a_wrong_command_line_is_told_in_one_line_before_anything_starts() {
    for (arguments, code) in [
        (&["127.0.0.1", "65536"][..], 2),
        (&["--mode", "psychic", "127.0.0.1"], 2),
        (&["127.0.0.1", "9", "--events-fd", "19999"], 1),
    ] {
        let client = tcpecho()
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let (got, stdout, stderr) = end(client);
        assert_eq!((got, stdout.len()), (Some(code), 0), "{stderr}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
}
