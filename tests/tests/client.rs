//! The client as a user meets it, talking to the real server: what comes back, what is said when
//! the server goes, and that it always ends.
//!
//! What can be provoked better with a socket of one's own as the server is tested in client/tests;
//! calls that fail are in `client_faults.rs`. Two long measurements are left out unless asked for:
//! `cargo test -p tcpecho-lab --test client -- --ignored --nocapture`.

#[path = "client/basics.rs"]
mod basics;
#[path = "client/scene.rs"]
mod scene;

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};
use nix::time::{ClockId, clock_gettime};
use tcpecho_common::Model;
use tcpecho_lab::binaries;
use tcpecho_lab::client::{Client, ClientProcess, terminal};
use tcpecho_lab::observe::calls::Phase;
use tcpecho_lab::observe::processes;
use tcpecho_lab::observe::sockets::State;
use tcpecho_lab::server::Server;
use tcpecho_lab::wait::eventually;

use basics::{DEADLINE, MODES, end, file, serve, start, unnamed};
use scene::{Talk, exchange, fill, noise, pipe, read_exactly, signal, stop, wait_readable};

/// A report that comes this late would be none; at rest it takes a millisecond.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long the use of the processor by a client that does nothing is measured.
const WINDOW: Duration = Duration::from_millis(500);

/// The most memory that a client may use, whatever goes through it.
const MEMORY: u64 = 64 << 20;

const FIN: &str = "server terminated prematurely (FIN)";
const RST: &str = "server reset the connection (RST)";

// What goes out comes back.

#[test]
fn every_model_gives_both_modes_every_byte_back() {
    let mut long = vec![b'l'; 1 << 20];
    long.push(b'\n');
    let contents = [
        ("nothing", Vec::new()),
        ("a text", b"one\ntwo\n\nthree\n".to_vec()),
        ("no newline at the end", b"first\nlast".to_vec()),
        ("zeros", vec![0; 5000]),
        ("every byte", noise(70_000)),
        ("a line of 1 MB", long),
    ];
    for &model in Model::all() {
        let server = serve(model);
        for mode in MODES {
            for (name, content) in &contents {
                let client = Client::to(server.address()).mode(mode).stdin(file(content));
                let client = start(client);
                let code = end(&client);
                assert_eq!((code, client.stderr().as_str()), (0, ""), "{model} {name}");
                assert!(client.stdout() == *content, "{model} {mode}: {name}");
            }
        }
    }
}

#[test]
fn every_kind_of_stdin_comes_to_its_end() {
    let server = serve(Model::Reactor);
    for mode in MODES {
        let client = || Client::to(server.address()).mode(mode);
        let ends_well = |client: &ClientProcess, kind: &str, expected: &str| {
            assert_eq!(end(client), 0, "{kind}");
            let stdout = String::from_utf8_lossy(&client.stdout()).into_owned();
            assert_eq!((stdout.as_str(), client.stderr().as_str()), (expected, ""));
        };

        let terminal = start(client().on_pty());
        exchange(&terminal, "typed");
        terminal.close_stdin().expect("^D");
        ends_well(&terminal, "terminal", "typed\n");

        let pipe = start(client());
        exchange(&pipe, "piped");
        pipe.close_stdin().expect("open until now");
        ends_well(&pipe, "pipe", "piped\n");

        let written = file(b"written\n");
        ends_well(&start(client().stdin(written)), "file", "written\n");

        let null = File::open("/dev/null").expect("there");
        ends_well(&start(client().stdin(null)), "/dev/null", "");

        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let socket = start(client().stdin(theirs));
        ours.write_all(b"sent\n").expect("room");
        assert_eq!(
            socket.wait_stdout(5, DEADLINE).expect("its echo"),
            b"sent\n"
        );
        ours.shutdown(Shutdown::Write).expect("the end");
        ends_well(&socket, "socket", "sent\n");

        ends_well(&start(shell(client(), "<&-")), "closed", "");
    }
}

#[test]
fn control_d_sends_half_a_line_and_then_ends_it() {
    let server = serve(Model::Reactor);
    for mode in MODES {
        let client = start(Client::to(server.address()).mode(mode).on_pty());
        exchange(&client, "hello");
        client.write(b"half\x04").expect("typed");
        // The blocking mode waits for the line's end, as fgets does.
        if mode == "multiplexed" {
            client.wait_stdout(10, DEADLINE).expect("its echo");
        }
        client.close_stdin().expect("^D");
        assert_eq!((end(&client), client.stderr().as_str()), (0, ""), "{mode}");
        assert_eq!(client.stdout(), b"hello\nhalf", "{mode}");
    }
}

#[test]
fn a_consumer_that_is_slow_gets_everything_and_memory_stays_small() {
    let block = noise(1_000_003);
    let flow = Flow::through(&block, 48 << 20);
    flow.wait_until_stuck();
    let behind = flow.size - flow.taken();
    assert!(behind > 16 << 20, "it took all but {behind} bytes");
    let at_most = flow.consume(&block, Flow::wait_until_pipe_is_full);
    assert!(at_most < MEMORY, "{at_most} bytes resident");
}

#[test]
#[ignore = "takes a minute: 1 GB at 20 MB/s"]
fn a_gigabyte_goes_through_in_constant_memory() {
    const RATE: f64 = 20e6;
    let block = noise(1_000_003);
    let flow = Flow::through(&block, 1_000_000_000);
    let (begin, mut rounds) = (Instant::now(), 0);
    let at_most = flow.consume(&block, |_| {
        // The consumer's rate: a pipe holds 64 KiB.
        rounds += 1;
        let due = Duration::from_secs_f64(f64::from(rounds) * 65536.0 / RATE);
        sleep(due.saturating_sub(begin.elapsed()));
    });
    let seconds = begin.elapsed().as_secs_f64();
    measured(&format!(
        "1 GB identical in {seconds:.1} s, at most {} KiB resident",
        at_most / 1024
    ));
    assert!(at_most < MEMORY, "{at_most} bytes resident");
}

// The server goes.

#[test]
fn the_end_of_the_server_is_reported_while_stdin_is_idle() {
    for (terminal, death) in ALL_DEATHS {
        let delays = delays(terminal, death, 10);
        let median = delays[delays.len() / 2];
        assert!(median < AT_ONCE, "{terminal:?} {death:?}: {delays:?}");
    }
}

#[test]
#[ignore = "a measurement, for an idle machine"]
fn the_end_of_the_server_is_reported_within_10_ms_in_the_median_of_100() {
    for (terminal, death) in ALL_DEATHS {
        let delays = delays(terminal, death, 100);
        let (median, most) = (delays[delays.len() / 2], delays[delays.len() - 1]);
        measured(&format!(
            "{terminal:?} {death:?}: median {median:?}, max {most:?}"
        ));
        assert!(median < Duration::from_millis(10), "{delays:?}");
    }
}

#[test]
fn the_death_of_what_serves_is_told_at_once() {
    for &model in Model::all() {
        let talk = Talk::start(model, |client| client);
        talk.kill_peer();
        assert_eq!(talk.end(), 3, "{model}");
        assert_complaint(&talk.client, FIN, "nothing unanswered");
    }
}

#[test]
fn the_blocking_mode_is_deaf_until_a_line_is_typed() {
    for &model in Model::all() {
        let talk = Talk::start(model, |client| client.mode("blocking").events());
        talk.kill_peer();
        talk.wait_for_fin();
        // Nothing leads out of a read from stdin but a line.
        eventually("the client to wait for a line", DEADLINE, || {
            let last = talk.client.calls().pop()?;
            let fgets = (Phase::Enter, "read", 0);
            ((last.phase, last.call.as_str(), last.fd) == fgets).then_some(())
        })
        .expect("it is in its loop");
        assert_eq!(talk.near(), Some(State::CloseWait));
        assert_eq!(
            (talk.client.status(), talk.client.stderr().as_str()),
            (None, "")
        );

        talk.client.type_line("anybody?").expect("typed");
        assert_eq!(talk.end(), 3, "{model}");
        assert_complaint(&talk.client, FIN, "9 bytes unanswered");
    }
}

#[test]
fn a_server_that_dies_with_unread_bytes_resets_the_connection() {
    for &model in Model::all() {
        for mode in MODES {
            let talk = Talk::start(model, |client| client.mode(mode));
            talk.leave_unread("unread");
            talk.kill_peer();
            assert_eq!(talk.end(), 4, "{model} {mode}");
            assert_complaint(&talk.client, RST, "7 bytes unanswered");
        }
    }
}

#[test]
fn a_server_that_is_told_to_stop_pays_what_it_owes() {
    let bytes = noise(30_000);
    for &model in Model::all() {
        for stdin_ended in [true, false] {
            let talk = Talk::start(model, |client| client);
            let all = [b"hello\n", &*bytes].concat();
            terminate(&talk, bytes.len(), || {
                talk.client.write(&bytes).expect("typed");
                if stdin_ended {
                    talk.client.close_stdin().expect("open until now");
                    eventually("our FIN at the server", DEADLINE, || {
                        talk.far().filter(|state| *state == State::CloseWait)
                    })
                    .expect("sent");
                }
            });
            let expected = if stdin_ended { 0 } else { 3 };
            assert_eq!(talk.end(), expected, "{model}");
            assert!(talk.client.stdout() == all, "{model}");
            if !stdin_ended {
                assert_complaint(&talk.client, FIN, "nothing unanswered");
            }
        }
    }
}

#[test]
fn a_server_that_is_told_to_stop_answers_the_line_that_the_blocking_mode_waits_for() {
    for &model in Model::all() {
        let talk = Talk::start(model, |client| client.mode("blocking"));
        terminate(&talk, 5, || talk.client.type_line("last").expect("typed"));
        let stdout = talk.client.wait_stdout(11, DEADLINE).expect("its echo");
        assert_eq!(stdout, b"hello\nlast\n", "{model}");
        talk.wait_for_fin();
        talk.client.close_stdin().expect("open until now");
        assert_eq!((talk.end(), talk.client.stderr().as_str()), (0, ""));
    }
}

#[test]
fn whenever_all_is_said_to_be_well_no_byte_is_missing() {
    let lines = "0123456789abcdef\n".repeat(1200);
    let all = format!("hello\n{lines}");
    let mut codes = [0; 5];
    for run in 0..100_u64 {
        let model = Model::all()[run as usize % Model::all().len()];
        let mode = MODES[(run / 8) as usize % 2];
        let talk = Talk::start(model, |client| client.mode(mode));
        talk.client.write(lines.as_bytes()).expect("typed");
        // Not a condition that is waited for, but the race itself: a little earlier or later.
        let jitter = Duration::from_micros(run * 37 % 2000);
        let stop_it = || talk.server.signal(Signal::SIGTERM).expect("alive");
        if run / 4 % 2 == 0 {
            talk.client.close_stdin().expect("open until now");
            sleep(jitter);
            stop_it();
        } else {
            stop_it();
            sleep(jitter);
            talk.client.close_stdin().expect("open until now");
        }
        let (code, stdout) = (talk.end(), talk.client.stdout());
        codes[code as usize] += 1;
        match code {
            0 => assert!(stdout == all.as_bytes(), "{model} {mode}: {}", stdout.len()),
            3 => assert_complaint(&talk.client, FIN, "unanswered"),
            4 => assert_complaint(&talk.client, RST, "unanswered"),
            _ => panic!("{model} {mode}: exit code {code}"),
        }
        assert!(all.as_bytes().starts_with(&stdout), "{model} {mode}");
    }
    measured(&format!("exit codes 0 to 4: {codes:?}"));
}

// What the client leaves alone.

#[test]
fn the_flags_of_the_terminal_stay_as_they_were() {
    for mode in MODES {
        for ending in ["^D", "server", "kill"] {
            let (master, slave) = terminal().expect("a terminal");
            let (mut master, copy) = (File::from(master), || slave.try_clone().expect("a copy"));
            let before = flags(&slave);
            let server = serve(Model::Reactor);
            let client = Client::to(server.address()).mode(mode);
            // One open file description for all, as a shell has it.
            let client = start(client.stdin(copy()).stdout(copy()).stderr(copy()));
            master.write_all(b"hello\n").expect("typed");
            assert_eq!(read_exactly(&master, 6), b"hello\n");
            assert!(flags(&slave) == before, "{mode}: while it runs");
            match ending {
                "^D" => master.write_all(b"\x04").expect("typed"),
                "kill" => client.signal(Signal::SIGKILL).expect("alive"),
                _ => {
                    let talk = Talk::between(server, client);
                    talk.kill_peer();
                    if mode == "blocking" {
                        talk.wait_for_fin();
                        master.write_all(b"anybody?\n").expect("typed");
                    }
                    assert_eq!(talk.end(), 3);
                    assert!(flags(&slave) == before, "{mode}: the server ended");
                    continue;
                }
            }
            client.wait(DEADLINE).expect("its end");
            assert!(flags(&slave) == before, "{mode}: {ending}");
        }
    }
}

#[test]
fn a_client_that_was_stopped_and_continued_goes_on_as_if_nothing_had_been() {
    let content = noise(4_000_000);
    for mode in MODES {
        let talk = Talk::start(Model::Reactor, |client| client.mode(mode));
        stop(talk.client.pid());
        talk.client
            .type_line("while it was stopped")
            .expect("typed");
        signal(talk.client.pid(), Signal::SIGCONT);
        talk.client.wait_stdout(27, DEADLINE).expect("its echo");
        exchange(&talk.client, "after");
        talk.client.close_stdin().expect("open until now");
        assert_eq!((talk.end(), talk.client.stderr().as_str()), (0, ""));

        let busy = Client::to(talk.server.address()).mode(mode);
        let busy = start(busy.stdin(file(&content)));
        for pauses in 1..=5 {
            let some = content.len() / 10 * pauses;
            busy.wait_stdout(some, DEADLINE).expect("it goes on");
            // It may have been faster; then there is nothing to stop.
            if busy.signal(Signal::SIGSTOP).is_ok() {
                signal(busy.pid(), Signal::SIGCONT);
            }
        }
        assert_eq!((end(&busy), busy.stderr().as_str()), (0, ""), "{mode}");
        assert!(busy.stdout() == content, "{mode}");
    }
}

#[test]
fn a_client_that_was_stopped_when_the_server_went_tells_it_when_continued() {
    let talk = Talk::start(Model::Fork, |client| client);
    stop(talk.client.pid());
    talk.kill_peer();
    talk.wait_for_fin();
    signal(talk.client.pid(), Signal::SIGCONT);
    assert_eq!(talk.end(), 3);
    assert_complaint(&talk.client, FIN, "nothing unanswered");
}

#[test]
fn a_client_that_waits_uses_no_processor_time() {
    let server = serve(Model::Reactor);
    let client = || Client::to(server.address());
    let idle = |client: Client| {
        let client = start(client);
        exchange(&client, "hello");
        client
    };
    let stopped = Talk::start(Model::Fork, |client| client);
    stopped.leave_unread("for an echo");
    stopped.client.close_stdin().expect("open until now");

    // More than all buffers on the way hold together: the server dies with unread bytes.
    let much = noise(20_000_000);
    let (_unread, stuck) = pipe();
    let stuck = start(client().stdin(file(&much)).stdout(stuck));

    let dying = serve(Model::Reactor);
    let (_unread_too, told) = pipe();
    let told = Client::to(dying.address()).stdout(told);
    let told = start(told.stdin(file(&much)));
    eventually("it waits for a consumer", DEADLINE, || settled(&told)).expect("stuck");
    drop(dying);
    eventually("the report", DEADLINE, || {
        told.stderr().lines().next().map(drop)
    })
    .expect("told");

    // While it does not read from the socket, the kernel's probes of the window wake it now and then.
    let waiting = [
        ("for a line from a pipe", idle(client()), 0),
        ("for a line from a terminal", idle(client().on_pty()), 0),
        ("in blocking mode", idle(client().mode("blocking")), 0),
        ("for a consumer", stuck, 3),
        ("for a consumer, without a server", told, 3),
        ("for an echo", stopped.client, 0),
    ];
    for (what, client, _) in &waiting {
        eventually(&format!("it waits {what}"), DEADLINE, || settled(client)).expect("idle");
    }
    let before = waiting.each_ref().map(|(_, client, _)| activity(client));
    sleep(WINDOW);
    for ((what, client, probes), (sleeps, worked)) in waiting.iter().zip(before) {
        let (sleeps_now, worked_now) = activity(client);
        assert!(sleeps_now - sleeps <= *probes, "waiting {what}\n{client}");
        assert_eq!(worked_now, worked, "waiting {what}\n{client}");
    }
}

#[test]
fn log_lines_on_the_terminal_of_stdout_bring_no_more_log_lines() {
    let server = serve(Model::Reactor);
    for mode in MODES {
        for verbose in ["-vv", "-vvv"] {
            let (master, slave) = terminal().expect("a terminal");
            let (mut master, copy) = (File::from(master), || slave.try_clone().expect("a copy"));
            let client = Client::to(server.address()).mode(mode).arg(verbose);
            let client = start(client.stdin(copy()).stdout(copy()).stderr(copy()));
            master.write_all(b"hello\n").expect("typed");
            let shown = read_while_it_goes_on(&master, 1000);
            let lines = shown.lines().count();
            assert!(shown.contains("hello\n"), "{mode} {verbose}: {shown}");
            assert!(lines < 100, "{mode} {verbose}: {lines} lines: {shown}");
            let before = activity(&client);
            sleep(WINDOW);
            assert_eq!(activity(&client), before, "{mode} {verbose}: {shown}");
        }
    }
}

#[test]
fn a_terminal_or_socket_that_was_full_gets_the_rest() {
    let content = noise(1_000_000);
    let server = serve(Model::Reactor);
    let (master, slave) = terminal().expect("a terminal");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    for (reader, stdout) in [(master, slave), (ours.into(), theirs.into())] {
        let client = Client::to(server.address()).stdin(file(&content));
        let client = start(client.stdout(stdout));
        eventually("a full stdout", DEADLINE, || settled(&client)).expect("nobody reads");
        let got = read_exactly(&File::from(reader), content.len());
        assert!(got == content);
        assert_eq!((end(&client), client.stderr().as_str()), (0, ""));
    }
}

// Nobody reads, or nobody can.

#[test]
fn a_consumer_that_leaves_after_a_line_ends_it_quietly() {
    let lines = "a line\n".repeat(200_000);
    let server = serve(Model::Reactor);
    for mode in MODES {
        let (reader, writer) = pipe();
        // The command must be gone when we wait: it has a copy of the reader.
        let head = Command::new("head")
            .args(["-n", "1"])
            .stdin(reader)
            .stdout(Stdio::piped())
            .spawn()
            .expect("head");
        let client = Client::to(server.address()).mode(mode);
        let client = start(client.stdin(file(lines.as_bytes())).stdout(writer));
        let output = head.wait_with_output().expect("its line");
        assert_eq!(output.stdout, b"a line\n", "{mode}");
        assert_eq!((end(&client), client.stderr().as_str()), (0, ""), "{mode}");
    }
}

#[test]
fn a_full_disk_is_told() {
    let server = serve(Model::Reactor);
    for mode in MODES {
        let full = File::options().write(true).open("/dev/full");
        let client = Client::to(server.address()).mode(mode);
        let client = start(client.stdin(file(b"hello\n")).stdout(full.expect("there")));
        assert_eq!(end(&client), 1, "{mode}");
        let line = "tcpecho: cannot write to stdout: ENOSPC: No space left on device\n";
        assert_eq!(client.stderr(), line, "{mode}");
    }
}

#[test]
fn a_stderr_that_takes_nothing_changes_nothing() {
    let server = serve(Model::Reactor);
    let content = noise(100_000);
    let (_reader, full_pipe) = pipe();
    fill(&full_pipe);
    let (_, broken_pipe) = pipe();
    let full_disk = File::options().write(true).open("/dev/full");
    let full_disk = OwnedFd::from(full_disk.expect("there"));
    let stderrs = [
        ("closed", None),
        ("a broken pipe", Some(broken_pipe)),
        ("a full disk", Some(full_disk)),
        ("a full pipe", Some(full_pipe)),
    ];
    for mode in MODES {
        for (stderr, fd) in &stderrs {
            let impeded = |client: Client| match fd {
                Some(fd) => client.stderr(fd.try_clone().expect("a copy")),
                None => shell(client, "2>&-"),
            };
            let talkative = |client: Client| impeded(client.mode(mode).arg("-vvv"));
            let well = talkative(Client::to(server.address()));
            let well = start(well.stdin(file(&content)));
            assert_eq!(end(&well), 0, "{mode} {stderr}");
            assert!(well.stdout() == content, "{mode} {stderr}");

            let talk = Talk::start(Model::Fork, talkative);
            talk.kill_peer();
            if mode == "blocking" {
                talk.wait_for_fin();
                talk.client.type_line("anybody?").expect("typed");
            }
            assert_eq!(talk.end(), 3, "{mode} {stderr}");
        }
    }
}

// What cannot work.

#[test]
fn what_is_wrong_with_the_command_line_is_told_first() {
    let client = binaries::path("tcpecho").expect("built");
    let long_name = "x".repeat(300);
    for (arguments, code, told) in [
        (&["127.0.0.1", "0"][..], 2, "'0'"),
        (&["127.0.0.1", "65536"], 2, "'65536'"),
        (&["127.0.0.1", "echo"], 2, "'echo'"),
        (&["8990"], 2, "'8990' is a port; the host comes first"),
        (&["127.0.0.1:7"], 2, "tcpecho 127.0.0.1 7"),
        (&["[::1]:7"], 2, "tcpecho ::1 7"),
        (&["localhost", "7", "-p", "7"], 2, "--port"),
        (&["--mode", "psychic", "127.0.0.1"], 2, "'psychic'"),
        (&["--no-such-flag", "127.0.0.1"], 2, "'--no-such-flag'"),
        (&["-w", "soon", "127.0.0.1"], 2, "'soon'"),
        (&[], 2, "HOST"),
        // Names that getaddrinfo refuses without asking anybody.
        (&["no..such.host"], 1, "'no..such.host'"),
        (&[long_name.as_str()], 1, "cannot resolve"),
    ] {
        let client = start(Client::plain(&client, arguments.iter().copied()));
        assert_eq!(end(&client), code, "{arguments:?}");
        let (stdout, stderr) = (client.stdout(), client.stderr());
        assert!(stdout.is_empty(), "{arguments:?}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_port_on_which_nobody_listens_is_an_error_however_quiet_the_client_is() {
    // Below the range from which the kernel takes ports, so that nobody gets it meanwhile.
    let address = free_address();
    let quiet = Client::to(address).arg("--quiet").arg("--quiet");
    for client in [Client::to(address), quiet] {
        let client = start(client);
        assert_eq!(end(&client), 1);
        let line = client.stderr();
        let told = line.contains("ECONNREFUSED") && line.lines().count() == 1;
        assert!(told && line.contains(&address.to_string()), "{line}");
        let hint = format!("start one: tcpechod {}", address.port());
        assert!(line.contains(&hint), "{line}");
    }
}

#[test]
fn the_calls_that_make_and_end_a_connection_are_recorded() {
    let server = serve(Model::Reactor);
    for mode in MODES {
        let client = Client::to(server.address()).mode(mode).events();
        let client = start(client.stdin(file(b"hello\n")));
        assert_eq!(end(&client), 0, "{mode}");
        let calls = client.calls();
        let fd = |name: &str| calls.iter().find(|c| c.call == name).map(|c| c.fd);
        let socket = calls.iter().find(|c| c.call == "socket");
        let socket = Some(socket.expect("observed").result as i32);
        for name in ["setsockopt", "connect", "close"] {
            assert_eq!(fd(name), socket, "{mode} {name}");
        }
        if mode == "multiplexed" {
            assert_eq!(fd("epoll_create1"), Some(-1));
            assert_eq!(fd("epoll_ctl"), socket);
        }
    }
}

#[test]
fn a_server_that_does_not_answer_costs_the_time_that_was_granted() {
    let server = Server::model(Model::Iterative).arg("--backlog").arg("0");
    let server = server.start().expect("a server");
    stop(server.pid());
    let mut queue = Vec::new();
    let soon = Duration::from_millis(50);
    while let Ok(stream) = TcpStream::connect_timeout(&server.address(), soon) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue has no end");
    }
    let begin = Instant::now();
    let client = start(Client::to(server.address()).arg("-w").arg("300ms"));
    assert_eq!(end(&client), 5);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(client.stderr().contains("300ms"), "{client}");
}

// Helpers.

/// On what the client's stdin is.
#[derive(Clone, Copy, Debug)]
enum Stdin {
    Pipe,
    Terminal,
}

#[derive(Clone, Copy, Debug)]
enum Death {
    Fin,
    Reset,
}

const ALL_DEATHS: [(Stdin, Death); 4] = [
    (Stdin::Pipe, Death::Fin),
    (Stdin::Pipe, Death::Reset),
    (Stdin::Terminal, Death::Fin),
    (Stdin::Terminal, Death::Reset),
];

/// From the kill(2) that ends a server to the line on the client's stderr, shortest first.
fn delays(stdin: Stdin, death: Death, runs: usize) -> Vec<Duration> {
    let mut delays: Vec<Duration> = (0..runs).map(|_| delay(stdin, death)).collect();
    delays.sort_unstable();
    delays
}

fn delay(stdin: Stdin, death: Death) -> Duration {
    let talk = Talk::start(Model::Reactor, |client| match stdin {
        Stdin::Pipe => client,
        Stdin::Terminal => client.on_pty(),
    });
    let (code, what, missing) = match death {
        Death::Fin => (3, FIN, "nothing unanswered"),
        Death::Reset => {
            talk.leave_unread("unread");
            (4, RST, "7 bytes unanswered")
        }
    };
    let killed = now();
    talk.kill_peer();
    assert_eq!(talk.end(), code, "{death:?}");
    assert_complaint(&talk.client, what, missing);
    let (reported, _) = talk.client.stderr_lines()[0];
    Duration::from_nanos(reported.saturating_sub(killed))
}

/// `CLOCK_REALTIME`, on which lines are stamped.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("every kernel has it");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// One line on stderr says `event`, and ends in `missing`.
fn assert_complaint(client: &ClientProcess, event: &str, missing: &str) {
    let lines = client.stderr_lines();
    let [(_, line)] = lines.as_slice() else {
        panic!("not one line: {lines:?}")
    };
    assert!(line.contains(event), "{line}");
    assert!(line.contains(missing), "{line}");
}

/// Stops the whole server, lets `send` send it `bytes` bytes, and terminates it: these bytes were in
/// its kernel when the signal came.
fn terminate(talk: &Talk, bytes: usize, send: impl FnOnce()) {
    let processes: Vec<i32> = processes::tree(talk.server.pid())
        .iter()
        .map(|process| process.pid)
        .collect();
    for pid in &processes {
        stop(*pid);
    }
    send();
    talk.wait_unread(bytes);
    signal(talk.server.pid(), Signal::SIGTERM);
    for pid in &processes {
        signal(*pid, Signal::SIGCONT);
    }
}

/// Lets a shell redirect something before it becomes the client.
fn shell(client: Client, redirection: &str) -> Client {
    client.under(&["sh", "-c", &format!("exec \"$0\" \"$@\" {redirection}")])
}

/// The flags of the open file description, and the terminal's settings.
fn flags(terminal: &OwnedFd) -> (i32, Termios) {
    let flags = fcntl(terminal, FcntlArg::F_GETFL).expect("open");
    (flags, tcgetattr(terminal).expect("a terminal"))
}

/// How often a client has gone to sleep or been put to sleep, and how long it has worked.
fn activity(client: &ClientProcess) -> (u64, Duration) {
    let sleeps = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
    let sleeps = sleeps.map(|name| figure(client, name).expect("alive"));
    let worked = processes::cpu_time(client.pid()).expect("alive");
    (sleeps.iter().sum(), worked)
}

/// A figure from /proc/PID/status; None if the process is no more.
fn figure(client: &ClientProcess, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", client.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Is it asleep, and has it been for a while?
fn settled(client: &ClientProcess) -> Option<()> {
    let before = activity(client);
    sleep(Duration::from_millis(20));
    let asleep = processes::look(client.pid()).is_some_and(|process| process.state == 'S');
    (asleep && activity(client) == before).then_some(())
}

/// What appears on a terminal until nothing more comes, or it has come to `most` lines.
fn read_while_it_goes_on(mut master: &File, most: usize) -> String {
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    let lines = |shown: &[u8]| shown.split(|byte| *byte == b'\n').count();
    while lines(&shown) < most {
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        let pause = PollTimeout::from(500_u16);
        if poll(&mut fds, pause).expect("polled") == 0 {
            break;
        }
        let n = master.read(&mut piece).expect("readable");
        shown.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}

/// An address below the range from which the kernel chooses ports; nobody listens there.
fn free_address() -> std::net::SocketAddr {
    let mut ports = 20_000..32_000;
    let free = ports.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.expect("a free port").local_addr().expect("bound")
}

#[expect(clippy::print_stderr, reason = "the result of a measurement")]
fn measured(text: &str) {
    eprintln!("{text}");
}

/// A big file on its way through a server into a pipe of ours.
struct Flow {
    size: usize,
    /// The file; the offset is the client's.
    stdin: File,
    client: ClientProcess,
    stdout: File,
    /// The end of stdout that the client has too.
    theirs: OwnedFd,
    _server: tcpecho_lab::server::ServerProcess,
}

impl Flow {
    /// `size` bytes, made of `block` again and again.
    fn through(block: &[u8], size: usize) -> Self {
        let (mut stdin, mut left) = (unnamed(), size);
        while left > 0 {
            let some = &block[..block.len().min(left)];
            stdin.write_all(some).expect("room on the disk");
            left -= some.len();
        }
        stdin.rewind().expect("a file");
        let server = serve(Model::Reactor);
        let (stdout, theirs) = pipe();
        let client = Client::to(server.address());
        let client = client.stdin(stdin.try_clone().expect("a copy"));
        let client = client.stdout(theirs.try_clone().expect("a copy"));
        Self {
            size,
            stdin,
            client: start(client),
            stdout: stdout.into(),
            theirs,
            _server: server,
        }
    }

    /// How much the client has read from its stdin.
    fn taken(&self) -> usize {
        let mut file = &self.stdin;
        file.stream_position().expect("a file") as usize
    }

    fn wait_until_stuck(&self) {
        eventually("everything full", DEADLINE, || {
            settled(&self.client).filter(|()| self.pipe_is_full())
        })
        .expect("nobody reads");
    }

    /// Waits until the consumer is what everybody waits for, or has only to take the rest.
    fn wait_until_pipe_is_full(&self) {
        eventually("a full pipe", DEADLINE, || {
            (self.pipe_is_full() || self.client.status().is_some()).then_some(())
        })
        .expect("it goes on");
    }

    fn pipe_is_full(&self) -> bool {
        let mut fds = [PollFd::new(self.theirs.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Reads everything, a pipe at a time, after `pause`, and compares it with what was sent.
    /// Returns how much memory the client had at most.
    fn consume(mut self, block: &[u8], mut pause: impl FnMut(&Self)) -> u64 {
        let (mut got, mut most) = (0, 0);
        let mut piece = vec![0; 65536];
        while got < self.size {
            pause(&self);
            wait_readable(&self.stdout);
            let n = self.stdout.read(&mut piece).expect("readable");
            assert_eq!(self.client.stderr(), "");
            let mut rest = &piece[..n];
            while !rest.is_empty() {
                let expected = &block[got % block.len()..];
                let same = expected.len().min(rest.len());
                assert!(rest[..same] == expected[..same], "differs after {got}");
                (got, rest) = (got + same, &rest[same..]);
            }
            most = most.max(figure(&self.client, "VmHWM:").unwrap_or(0) * 1024);
        }
        drop(self.theirs);
        assert_eq!(end(&self.client), 0);
        assert_eq!(self.stdout.read(&mut piece).expect("readable"), 0);
        most
    }
}
