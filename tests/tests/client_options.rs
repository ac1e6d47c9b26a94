//! The options that make the client one of the course's others: each seen from outside, in the modes
//! that have it, and that without it nothing of the kind happens.
//!
//! The server is mostly a socket of the test's own, which says what it is told to and nothing else.
//! What is asserted of times is that nothing came too early; that it came at all has a deadline.

#[path = "client/basics.rs"]
mod basics;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use tcpecho_common::Model;
use tcpecho_lab::binaries;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::netns;
use tcpecho_lab::observe::calls::Phase;
use tcpecho_lab::observe::packets::{Capture, Packet};
use tcpecho_lab::observe::processes;
use tcpecho_lab::observe::sock_diag::SockDiag;
use tcpecho_lab::observe::sockets::{self, State};
use tcpecho_lab::server::Server;
use tcpecho_lab::wait::eventually;

use basics::{DEADLINE, MODES, end, file, serve, start};

/// Those that are not wrong about what they have read.
const WITHOUT_STDIO: [&str; 2] = ["multiplexed", "blocking"];

const FIN: &str = "server terminated prematurely (FIN)";
const RST: &str = "server reset the connection (RST)";

/// How long it is watched that something does not happen.
const WINDOW: Duration = Duration::from_millis(300);

// -- --connections ------------------------------------------------------------------------------

#[test]
fn connections_are_held_and_all_closed_at_the_end() {
    for mode in MODES {
        let mut scene = Scene::start(mode, &["--connections", "5"]);
        let mut held: Vec<_> = (0..4).map(|_| scene.accept()).collect();
        scene.exchange("on the first");
        assert!(held.iter().all(|stream| !has_news(stream)), "{mode}");
        scene.finish();
        for stream in &mut held {
            assert_eq!(stream.read(&mut [0]).expect("a FIN"), 0, "{mode}");
        }
        assert_eq!(scene.end(), (0, String::new()), "{mode}");
    }
}

#[test]
fn without_the_option_there_is_one_connection() {
    let mut scene = Scene::start("multiplexed", &[]);
    scene.exchange("hello");
    wait_standing(scene.address(), 1);
    assert!(scene.listener.accept().is_err(), "a second one");
}

#[test]
fn thousands_are_opened_although_the_soft_limit_is_lower() {
    let server = serve(Model::Reactor);
    let client = Client::to(server.address())
        .arg("--connections")
        .arg("3000");
    let client = start(shell(client, "ulimit -Sn 100"));
    // The first echo comes when all of them stand.
    client.type_line("hello").expect("typed");
    client.wait_stdout(6, DEADLINE).expect("its echo");
    wait_standing(server.address(), 3000);
    client.close_stdin().expect("open until now");
    assert_eq!((end(&client), client.stderr().as_str()), (0, ""));
}

#[test]
fn the_end_of_a_held_connection_is_told_at_once_and_the_talk_goes_on() {
    for (reset, told, code) in [(false, FIN, 3), (true, RST, 4)] {
        let mut scene = Scene::start("multiplexed", &["--connections", "3"]);
        let (kept, lost) = (scene.accept(), scene.accept());
        scene.exchange("before");
        let address = lost.peer_addr().expect("connected");
        if reset {
            close_with_reset(lost);
        } else {
            drop(lost);
        }
        let line = scene.wait_stderr();
        let start = format!("tcpecho: held connection {address}: {told}");
        assert!(line.starts_with(&start), "{line}");
        scene.exchange("after");
        scene.finish();
        let (ended, stderr) = scene.end();
        assert_eq!((ended, stderr.lines().count()), (code, 1), "{stderr}");
        drop(kept);
    }
}

#[test]
fn many_ends_are_told_in_few_lines() {
    let mut scene = Scene::start("multiplexed", &["--connections", "301"]);
    let held: Vec<_> = (0..300).map(|_| scene.accept()).collect();
    scene.exchange("before");
    for stream in held {
        drop(stream);
    }
    eventually("all are told", DEADLINE, || {
        let told = |line: &str| match line.split_once(" of 300 held connections: ") {
            Some((start, _)) => start.rsplit(' ').next()?.parse().ok(),
            None => line.contains("held connection 127.0.0.1:").then_some(1),
        };
        let stderr = scene.client.stderr();
        let ends: u32 = stderr.lines().map(told).sum::<Option<u32>>()?;
        (ends == 300).then_some(())
    })
    .expect("each once");
    let lines = scene.client.stderr().lines().count();
    assert!(lines < 30, "{lines} lines");
    scene.finish();
    assert_eq!(scene.end().0, 3);
}

#[test]
fn the_other_modes_tell_it_when_the_talk_has_ended() {
    for mode in ["blocking", "stdio"] {
        let mut scene = Scene::start(mode, &["--connections", "4"]);
        let held = [scene.accept(), scene.accept(), scene.accept()];
        scene.exchange("before");
        let ends = held.each_ref().map(|s| s.peer_addr().expect("connected"));
        drop(held);
        for near in ends {
            scene.wait_state(near, State::CloseWait);
        }
        scene.exchange("after");
        assert_eq!(scene.client.stderr(), "", "{mode}");
        scene.finish();
        let (code, stderr) = scene.end();
        assert_eq!((code, stderr.lines().count()), (3, 1), "{mode} {stderr}");
        let told = format!("tcpecho: 3 of 3 held connections: {FIN}");
        assert!(stderr.starts_with(&told), "{mode} {stderr}");
    }
}

#[test]
fn the_first_connection_decides_when_it_ends_badly() {
    let mut scene = Scene::start("multiplexed", &["--connections", "2"]);
    let _held = scene.accept();
    scene.exchange("hello");
    close_with_reset(scene.take_server());
    let (code, stderr) = scene.end();
    let line = format!("tcpecho: {RST}, nothing unanswered\n");
    assert_eq!((code, stderr), (4, line));
}

#[test]
fn descriptors_as_the_limit_are_told_with_the_way_out() {
    let server = serve(Model::Reactor);
    let client = Client::to(server.address()).arg("--connections").arg("99");
    let client = start(shell(client, "ulimit -n 50"));
    assert_eq!(end(&client), 1);
    let stderr = client.stderr();
    let line = format!(" of 99 connections to {}: EMFILE: ", server.address());
    assert!(stderr.starts_with("tcpecho: only 4"), "{stderr}");
    for said in [&*line, "this process may have 50;", "ulimit -Hn"] {
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn ports_as_the_limit_are_told_with_the_way_out() -> Result<()> {
    netns::test("ports_as_the_limit_are_told_with_the_way_out", || {
        let server = Server::model(Model::Reactor).port(9877).start()?;
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(range, "40000 40009").context(range)?;
        let client = Client::to(server.address()).arg("--connections").arg("20");
        let client = client.start()?;
        ensure!(client.wait(DEADLINE)?.code() == Some(1), "{client}");
        let stderr = client.stderr();
        let line = "tcpecho: only 10 of 20 connections to 127.0.0.1:9877: EADDRNOTAVAIL: ";
        ensure!(stderr.starts_with(line), "{client}");
        let hint = "net.ipv4.ip_local_port_range, here 40000-40009;";
        ensure!(stderr.contains(hint), "{client}");
        ensure!(stderr.lines().count() == 1, "{client}");
        Ok(())
    })
}

#[test]
fn the_server_as_the_limit_is_told_with_the_way_out() {
    let server = Server::model(Model::Iterative).arg("--backlog").arg("0");
    let server = server.start().expect("a server");
    server.freeze().expect("stopped");
    let client = Client::to(server.address()).arg("--connections").arg("9");
    let client = start(client.arg("-w").arg("300ms"));
    assert_eq!(end(&client), 1);
    let stderr = client.stderr();
    let line = format!(" of 9 connections to {}: the server ", server.address());
    for said in [&*line, "no answer within 300ms", "--backlog"] {
        assert!(stderr.contains(said), "{stderr}");
    }
    server.thaw().expect("still there");
}

// -- --split-write and --sigpipe ----------------------------------------------------------------

#[test]
fn the_first_byte_of_a_line_goes_alone_and_the_rest_after_the_pause() {
    let pause = Duration::from_millis(150);
    for mode in WITHOUT_STDIO {
        let client = |listener: &TcpListener| {
            let client = client(listener, mode, &["--split-write", "150"]);
            start(client.events().stdin(file(b"hello\nworld\n")))
        };
        let mut scene = Scene::with(client);
        echo_to_the_end(scene.server());
        assert_eq!(scene.end(), (0, String::new()), "{mode}");
        assert_eq!(scene.client.stdout(), b"hello\nworld\n", "{mode}");
        let calls = scene.client.calls();
        let socket = calls.iter().find(|call| call.call == "connect");
        let socket = socket.expect("recorded").fd;
        let writes: Vec<_> = calls
            .iter()
            .filter(|c| c.phase == Phase::Return && c.call == "write" && c.fd == socket)
            .collect();
        let lengths: Vec<_> = writes.iter().map(|write| write.result).collect();
        assert_eq!(lengths, [1, 5, 1, 5], "{mode}");
        for line in writes.chunks(2) {
            let passed = Duration::from_nanos(line[1].at - line[0].at);
            assert!(passed >= pause, "{mode}: {passed:?}");
        }
    }
}

#[test]
fn without_the_option_a_line_goes_in_one_piece() {
    for mode in MODES {
        let mut scene = Scene::with(|listener| start(client(listener, mode, &[]).events()));
        scene.exchange("hello");
        // To the server and to stdout; the record of a call comes after its effect.
        let written = |length| {
            let calls = scene.client.calls().into_iter();
            calls
                .filter(|c| c.call == "write" && c.result == length)
                .count()
        };
        eventually("two writes", DEADLINE, || (written(6) == 2).then_some(())).expect(mode);
        assert_eq!(written(1), 0, "{mode}");
        scene.finish();
        assert_eq!(scene.end().0, 0);
    }
}

#[test]
fn the_pause_makes_the_multiplexed_mode_not_deaf() {
    let mut scene = Scene::start("multiplexed", &["--split-write", "600000"]);
    scene.client.type_line("hello").expect("typed");
    let server = scene.server();
    assert_eq!(server.read(&mut [0; 9]).expect("a byte"), 1);
    server.write_all(b"h").expect("room");
    scene.client.wait_stdout(1, DEADLINE).expect("its echo");
    drop(scene.take_server());
    let (code, stderr) = scene.end();
    let missing = ", 5 bytes unanswered (5 of them unsent)\n";
    assert_eq!(code, 3, "{stderr}");
    assert!(
        stderr.contains(FIN) && stderr.ends_with(missing),
        "{stderr}"
    );
}

#[test]
fn the_second_write_to_a_server_that_has_gone_is_hit_by_sigpipe() {
    for sigpipe in ["ignore", "count", "default"] {
        let flags = ["--split-write", "10", "--sigpipe", sigpipe];
        let mut scene = Scene::start("blocking", &flags);
        scene.exchange("hello");
        let near = scene.near();
        drop(scene.take_server());
        scene.wait_state(near, State::CloseWait);
        scene.client.type_line("anybody?").expect("typed");
        let status = scene.client.wait(DEADLINE).expect("its end");
        let stderr = scene.client.stderr();
        let pid = scene.client.pid();
        let counted = format!("tcpecho: SIGPIPE number 1 in process {pid}\n");
        let missing = ", 9 bytes unanswered (8 of them unsent)\n";
        if sigpipe == "default" {
            let killed_by = status.signal();
            assert_eq!(killed_by, Some(Signal::SIGPIPE as i32), "{stderr}");
            assert_eq!(stderr, "");
            continue;
        }
        assert_eq!(status.code(), Some(3), "{stderr}");
        assert_eq!(stderr.starts_with(&counted), sigpipe == "count", "{stderr}");
        assert!(
            stderr.contains(FIN) && stderr.ends_with(missing),
            "{stderr}"
        );
    }
}

#[test]
fn a_sigpipe_from_elsewhere_is_ignored_counted_or_kills() {
    for mode in MODES {
        for sigpipe in [None, Some("count"), Some("default")] {
            let flags: Vec<_> = sigpipe.iter().flat_map(|s| ["--sigpipe", s]).collect();
            let mut scene = Scene::start(mode, &flags);
            scene.exchange("hello");
            let signal = || scene.client.signal(Signal::SIGPIPE).expect("alive");
            signal();
            if sigpipe == Some("default") {
                let status = scene.client.wait(DEADLINE).expect("its end");
                assert_eq!(status.signal(), Some(Signal::SIGPIPE as i32), "{mode}");
                continue;
            }
            let pid = scene.client.pid();
            let line = |n| format!("tcpecho: SIGPIPE number {n} in process {pid}\n");
            let mut expected = String::new();
            if sigpipe == Some("count") {
                // It waits, and tells it all the same.
                assert_eq!(scene.wait_stderr(), line(1), "{mode}");
                signal();
                expected = line(1) + &line(2);
            }
            let told = || (scene.client.stderr() == expected).then_some(());
            eventually("the second is told", DEADLINE, told).expect(mode);
            scene.exchange("unharmed");
            scene.finish();
            assert_eq!(scene.end(), (0, expected), "{mode}");
        }
    }
}

#[test]
fn whoever_started_it_does_not_decide_about_sigpipe() {
    let server = serve(Model::Reactor);
    let client = Client::to(server.address()).arg("--sigpipe").arg("default");
    let client = start(shell(client, "trap '' PIPE"));
    client.type_line("hello").expect("typed");
    client.wait_stdout(6, DEADLINE).expect("its echo");
    client.signal(Signal::SIGPIPE).expect("alive");
    let status = client.wait(DEADLINE).expect("its end");
    assert_eq!(status.signal(), Some(Signal::SIGPIPE as i32));
}

#[test]
fn a_stderr_that_nobody_reads_is_no_sigpipe() {
    for sigpipe in ["count", "default"] {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        drop(reader);
        let client = |listener: &TcpListener| {
            let client = client(listener, "multiplexed", &["--sigpipe", sigpipe, "-vvv"]);
            start(client.stderr(writer))
        };
        let mut scene = Scene::with(client);
        scene.exchange("hello");
        drop(scene.take_server());
        assert_eq!(scene.end().0, 3, "{sigpipe}");
    }
}

// -- --reset ------------------------------------------------------------------------------------

#[test]
fn a_reset_is_the_end_that_was_asked_for_and_a_fin_is_every_other() -> Result<()> {
    const TEST: &str = "a_reset_is_the_end_that_was_asked_for_and_a_fin_is_every_other";
    netns::test(TEST, || {
        for mode in MODES {
            for (flags, fins, resets) in [
                (&["--connections", "3"][..], 3, 0),
                (&["--connections", "3", "--reset"], 0, 3),
            ] {
                let capture = Capture::start()?;
                let mut scene = Scene::start(mode, flags);
                let held = [scene.accept(), scene.accept()];
                scene.exchange("hello");
                scene.finish();
                assert_eq!(scene.end(), (0, String::new()), "{mode} {flags:?}");
                let server = scene.address();
                let ours = |packet: &&Packet| packet.to == server;
                let count = |packets: &[Packet]| {
                    let ours: Vec<_> = packets.iter().filter(ours).collect();
                    let fins = ours.iter().filter(|p| p.flags.fin()).count();
                    (fins, ours.iter().filter(|p| p.flags.rst()).count())
                };
                let what = format!("{fins} FINs, {resets} RSTs from {mode} {flags:?}");
                let enough = |packets: &[Packet]| count(packets) == (fins, resets);
                capture.wait_for(&what, DEADLINE, enough)?;
                drop((held, scene));
                let captured = capture.stop()?;
                ensure!(captured.dropped == 0, "packets are missing");
                ensure!(count(&captured.packets) == (fins, resets), "{what}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_client_with_reset_that_is_killed_resets_too() {
    let mut scene = Scene::start("multiplexed", &["--reset"]);
    scene.exchange("hello");
    scene.client.signal(Signal::SIGKILL).expect("alive");
    let error = scene.server().read(&mut [0]).expect_err("no FIN");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
}

// -- --read-rate --------------------------------------------------------------------------------

#[test]
fn a_client_that_never_reads_leaves_everything_in_small_buffers_and_still_notices_the_end() {
    for (reset, told, code) in [(false, FIN, 3), (true, RST, 4)] {
        let mut scene = Scene::start("multiplexed", &["--read-rate", "0"]);
        scene.client.type_line("hello").expect("typed");
        let server = scene.server();
        server.read_exact(&mut [0; 6]).expect("the line");
        let bytes = [b'x'; 1000];
        server.set_nonblocking(true).expect("a flag");
        let mut sent = 0;
        let full = loop {
            match server.write(&bytes) {
                Ok(n) => sent += n,
                Err(error) => break error,
            }
        };
        assert_eq!(full.raw_os_error(), Some(libc::EAGAIN));
        let near = scene.near();
        let unread = scene.diag.unread(near, scene.address()).expect("an answer");
        let unread = unread.expect("connected");
        assert!(unread > 0 && unread < 20_000, "{unread} of {sent}");
        assert_eq!(scene.client.stdout(), b"");
        if reset {
            close_with_reset(scene.take_server());
        } else {
            // A FIN would wait behind what cannot be sent. Who has another connection sees it.
            scene = Scene::start("multiplexed", &["--read-rate", "0"]);
            scene.server().write_all(b"unasked").expect("room");
            drop(scene.take_server());
        }
        let (ended, stderr) = scene.end();
        assert_eq!((ended, stderr.lines().count()), (code, 1), "{stderr}");
        // Nothing is promised to stdout either.
        let said = stderr.contains(told) && stderr.ends_with(" unanswered\n");
        assert!(said, "{stderr}");
        assert_eq!(scene.client.stdout(), b"");
    }
}

#[test]
fn a_slow_client_takes_no_more_than_its_rate_and_loses_nothing() {
    let content = vec![b'y'; 40_000];
    let client = |listener: &TcpListener| {
        let client = client(listener, "multiplexed", &["--read-rate", "20k"]);
        start(client.stdin(file(&content)))
    };
    let begin = Instant::now();
    let mut scene = Scene::with(client);
    let mut all = Vec::new();
    scene.server().read_to_end(&mut all).expect("its FIN");
    scene.server().write_all(&all).expect("taken at last");
    drop(scene.take_server());
    assert_eq!(scene.end(), (0, String::new()));
    assert!(scene.client.stdout() == content);
    // Two seconds' worth, of which the first slice may come at once.
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(1850), "{took:?}");
}

// -- --keepalive and --user-timeout -------------------------------------------------------------

#[test]
fn a_keepalive_is_sent_if_asked_for_and_not_otherwise() {
    for mode in MODES {
        for (flags, idle) in [
            (&[][..], None),
            (&["--keepalive", "1000"], Some(1000)),
            (&["--keepalive", "2000s,5s,3"], Some(2000)),
            (&["--keepalive", "1000", "--connections", "2"], Some(1000)),
        ] {
            let mut scene = Scene::start(mode, flags);
            scene.exchange("hello");
            let near = scene.near();
            // While something is unacknowledged the kernel waits for that.
            let probe = || scene.diag.next_probe(near, scene.address()).ok()?;
            let Some(idle) = idle else {
                assert_eq!(probe(), None, "{mode}");
                continue;
            };
            let probe = eventually("a keepalive timer", DEADLINE, probe).expect(mode);
            let seconds = probe.as_secs();
            assert!((idle - 100..=idle).contains(&seconds), "{mode} {seconds}");
        }
    }
}

#[test]
fn a_server_that_has_vanished_is_given_up_after_the_probes() {
    let mut scene = Scene::start("multiplexed", &["--keepalive", "1,1,1"]);
    let mut patient = Scene::start("multiplexed", &["--keepalive", "1,1,20"]);
    for scene in [&mut patient, &mut scene] {
        scene.exchange("hello");
        vanish(scene.server());
    }
    let begin = Instant::now();
    let (code, stderr) = scene.end();
    assert_eq!(patient.client.status(), None);
    assert_eq!(code, 5, "{stderr}");
    let told = "tcpecho: connection lost: ETIMEDOUT: Connection timed out, last heard ";
    assert!(stderr.starts_with(told), "{stderr}");
    assert!(stderr.ends_with(", nothing unanswered\n"), "{stderr}");
    // A second of silence, counted from before we looked, and a second for the answer.
    assert!(begin.elapsed() > Duration::from_millis(1500), "{stderr}");
}

#[test]
fn what_stays_unacknowledged_for_too_long_ends_the_connection() {
    for mode in MODES {
        let mut limited = Scene::start(mode, &["--user-timeout", "300ms"]);
        let mut patient = Scene::start(mode, &[]);
        for scene in [&mut limited, &mut patient] {
            scene.exchange("hello");
            vanish(scene.server());
            scene.client.type_line("anybody?").expect("typed");
        }
        let (code, stderr) = limited.end();
        assert_eq!(code, 5, "{mode} {stderr}");
        let told = "tcpecho: connection lost: ETIMEDOUT: ";
        assert!(stderr.starts_with(told), "{mode} {stderr}");
        assert!(stderr.ends_with("9 bytes unanswered\n"), "{mode} {stderr}");
        assert_eq!(patient.client.status(), None, "{mode}");
    }
}

/// As documented: a closed window is not distinguished from a dead server.
#[test]
fn the_user_timeout_gives_up_a_server_that_lives_and_does_not_read() {
    let much = vec![b'z'; 20_000_000];
    let started = |flags: &[&str]| {
        let stdin = file(&much);
        Scene::with(|listener| start(client(listener, "multiplexed", flags).stdin(stdin)))
    };
    let limited = started(&["--user-timeout", "500ms"]);
    let patient = started(&[]);
    let (code, stderr) = limited.end();
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("connection lost: ETIMEDOUT"), "{stderr}");
    assert_eq!(patient.client.status(), None);
}

// -- -i, -q, --no-shutdown ----------------------------------------------------------------------

#[test]
fn an_idle_talk_is_given_up_and_what_moves_begins_the_time_anew() {
    let limit = Duration::from_secs(1);
    for mode in MODES {
        let mut scene = Scene::start(mode, &["-i", "1"]);
        let mut patient = Scene::start(mode, &[]);
        patient.exchange("hello");
        scene.exchange("hello");
        sleep(limit / 3);
        let begin = Instant::now();
        scene.exchange("again");
        let (code, stderr) = scene.end();
        assert!(begin.elapsed() >= limit, "{mode}: {:?}", begin.elapsed());
        let told = "gave up: no byte moved for 1s (--idle-timeout), nothing unanswered";
        assert_eq!((code, stderr), (5, format!("tcpecho: {told}\n")), "{mode}");
        assert_eq!(patient.client.status(), None, "{mode}");
    }
}

#[test]
fn an_answer_that_does_not_come_is_idleness_too() {
    for mode in MODES {
        let mut scene = Scene::start(mode, &["-i", "300ms"]);
        scene.client.type_line("hello").expect("typed");
        let mut line = [0; 6];
        scene.server().read_exact(&mut line).expect("the line");
        let (code, stderr) = scene.end();
        let told = "gave up: no byte moved for 300ms (--idle-timeout), 6 bytes unanswered";
        assert_eq!((code, stderr), (5, format!("tcpecho: {told}\n")), "{mode}");
    }
}

#[test]
fn a_line_that_does_not_end_is_idleness_for_those_who_wait_for_its_end() {
    for mode in ["blocking", "stdio"] {
        let scene = Scene::start(mode, &["-i", "300ms"]);
        scene.client.write(b"hel").expect("typed");
        let (code, stderr) = scene.end();
        let told = "gave up: no byte moved for 300ms (--idle-timeout), \
                    3 bytes unanswered (3 of them unsent)";
        assert_eq!((code, stderr), (5, format!("tcpecho: {told}\n")), "{mode}");
    }
}

#[test]
fn a_consumer_that_does_not_read_does_not_keep_it_from_giving_up() {
    let (_unread, writer) = nix::unistd::pipe().expect("a pipe");
    let much = vec![b'z'; 3_000_000];
    let server = serve(Model::Reactor);
    let client = Client::to(server.address()).arg("-i").arg("500ms");
    let client = start(client.stdin(file(&much)).stdout(writer));
    assert_eq!(end(&client), 5);
    let stderr = client.stderr();
    assert!(stderr.contains("(--idle-timeout)"), "{stderr}");
    assert!(
        stderr.ends_with(" bytes never written to stdout)\n"),
        "{stderr}"
    );
}

#[test]
fn whoever_quits_after_the_end_of_stdin_says_what_is_missing() {
    let limit = Duration::from_millis(400);
    for (answered, code, told) in [
        (true, 0, ""),
        (
            false,
            5,
            "tcpecho: gave up 400ms after stdin had ended (--quit-after), 6 bytes unanswered\n",
        ),
    ] {
        let mut scene = Scene::start("multiplexed", &["-q", "400ms"]);
        let mut patient = Scene::start("multiplexed", &[]);
        let begin = Instant::now();
        for scene in [&mut patient, &mut scene] {
            scene.client.type_line("hello").expect("typed");
            scene.client.close_stdin().expect("open until now");
            let mut line = [0; 6];
            scene.server().read_exact(&mut line).expect("the line");
            if answered {
                scene.server().write_all(&line).expect("answered");
            }
        }
        let ended = scene.end();
        assert!(begin.elapsed() >= limit, "{:?}", begin.elapsed());
        assert_eq!(ended, (code, told.into()));
        assert_eq!(patient.client.status(), None);
    }
}

#[test]
fn nothing_is_waited_for_after_no_time() {
    let mut scene = Scene::start("multiplexed", &["-q", "0"]);
    scene.exchange("hello");
    scene.client.close_stdin().expect("open until now");
    assert_eq!(scene.end(), (0, String::new()));
}

#[test]
fn without_a_shutdown_the_server_sees_no_fin_and_ends_it() {
    for (flags, state) in [
        (&["--no-shutdown"][..], State::Established),
        (&[], State::CloseWait),
    ] {
        let mut scene = Scene::with(|listener| {
            let client = client(listener, "multiplexed", flags);
            start(client.events().stdin(file(b"hello\n")))
        });
        let mut line = [0; 6];
        scene.server().read_exact(&mut line).expect("the line");
        scene.server().write_all(&line).expect("answered");
        scene.client.wait_stdout(6, DEADLINE).expect("its echo");
        // It has read the end of stdin, and waits.
        eventually("the end of stdin", DEADLINE, || {
            let calls = scene.client.calls();
            let last = calls.last()?;
            let is_waiting = (last.phase, &*last.call) == (Phase::Enter, "epoll_wait");
            let mut reads = calls.iter().filter(|c| c.call == "read" && c.fd == 0);
            (is_waiting && reads.any(|c| c.phase == Phase::Return && c.result == 0)).then_some(())
        })
        .expect("it reads stdin");
        let (near, far) = (scene.near(), scene.address());
        let probe = || scene.diag.state(far, near).ok()?.filter(|s| *s == state);
        eventually(&format!("{state:?}"), DEADLINE, probe).expect("the server's side");
        assert_eq!(scene.client.status(), None);
        drop(scene.take_server());
        assert_eq!(scene.end(), (0, String::new()), "{flags:?}");
    }
    // What is missing is still missing.
    let mut scene = Scene::start("multiplexed", &["--no-shutdown"]);
    scene.client.type_line("hello").expect("typed");
    scene.client.close_stdin().expect("open until now");
    let mut line = [0; 6];
    scene.server().read_exact(&mut line).expect("the line");
    drop(scene.take_server());
    let (code, stderr) = scene.end();
    assert!(
        code == 3 && stderr.ends_with("6 bytes unanswered\n"),
        "{stderr}"
    );
}

// -- --mistake and --mode stdio -----------------------------------------------------------------

#[test]
fn whoever_closes_on_eof_loses_the_echoes_and_calls_it_a_success() {
    for (flags, loses) in [(&["--mistake", "close-on-eof"][..], true), (&[], false)] {
        let mut scene = Scene::with(|listener| {
            let client = client(listener, "multiplexed", flags);
            start(client.stdin(file(b"one\ntwo\n")))
        });
        let mut all = Vec::new();
        scene.server().read_to_end(&mut all).expect("its FIN");
        assert_eq!(all, b"one\ntwo\n");
        if loses {
            // Nobody has answered yet.
            assert_eq!(scene.end(), (0, String::new()));
            assert_eq!(scene.client.stdout(), b"");
        } else {
            assert_eq!(scene.client.status(), None);
            scene.server().write_all(&all).expect("answered");
            drop(scene.take_server());
            assert_eq!(scene.end(), (0, String::new()));
            assert_eq!(scene.client.stdout(), all);
        }
    }
}

#[test]
fn whoever_ignores_write_errors_takes_a_reset_for_a_fin() {
    let ignoring = ["--mistake", "ignore-write-errors"];
    for (flags, code, told) in [(&[][..], 4, RST), (&ignoring, 3, FIN)] {
        let mut scene = Scene::start("blocking", flags);
        scene.exchange("hello");
        close_with_reset(scene.take_server());
        scene.client.type_line("anybody?").expect("typed");
        let (ended, stderr) = scene.end();
        assert_eq!((ended, stderr.lines().count()), (code, 1), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
}

#[test]
fn a_write_after_an_ignored_error_is_hit_by_sigpipe() {
    for (ignores, signals) in [(true, 1), (false, 0)] {
        let mut flags = vec!["--split-write", "10", "--sigpipe", "count"];
        if ignores {
            flags.extend(["--mistake", "ignore-write-errors"]);
        }
        let mut scene = Scene::start("blocking", &flags);
        scene.exchange("hello");
        close_with_reset(scene.take_server());
        scene.client.type_line("anybody?").expect("typed");
        let (_, stderr) = scene.end();
        assert_eq!(
            stderr.matches("SIGPIPE number").count(),
            signals,
            "{stderr}"
        );
    }
}

#[test]
fn the_mistakes_are_listed_with_what_one_sees() {
    let program = binaries::path("tcpecho").expect("built");
    let client = start(Client::plain(program, ["--list-mistakes"]));
    assert_eq!((end(&client), client.stderr().as_str()), (0, ""));
    let stdout = String::from_utf8(client.stdout()).expect("text");
    for (name, mode) in [
        ("close-on-eof", "multiplexed"),
        ("ignore-write-errors", "stdio"),
    ] {
        let line = stdout.lines().find(|line| line.starts_with(name));
        assert!(line.is_some_and(|line| line.contains(mode)), "{stdout}");
    }
}

#[test]
fn of_a_burst_stdio_mode_sends_one_line_and_the_next_when_stdin_speaks() {
    let mut scene = Scene::with(|listener| start(client(listener, "stdio", &[]).events()));
    scene.client.write(b"one\ntwo\nthree\n").expect("typed");
    scene.expect_line(b"one\n");
    scene.answer(b"one\n");
    // It has delivered the echo and waits, although two lines are there.
    eventually("it waits", DEADLINE, || {
        let calls = scene.client.calls();
        let last = calls.last()?;
        ((last.phase, &*last.call) == (Phase::Enter, "poll")).then_some(())
    })
    .expect("nothing wakes it");
    assert!(!has_news(scene.server()), "a second line came");
    // poll sees the fourth until fgets takes it, for which it has to give away the others first.
    scene.client.write(b"four\n").expect("typed");
    scene.expect_line(b"two\nthree\nfour\n");
    scene.answer(b"two\nthree\nfour\n");
    scene.finish();
    assert_eq!(scene.end(), (0, String::new()));
    assert_eq!(scene.client.stdout(), b"one\ntwo\nthree\nfour\n");
}

#[test]
fn of_a_burst_the_other_modes_leave_nothing_behind() {
    for mode in WITHOUT_STDIO {
        let mut scene = Scene::start(mode, &[]);
        scene.client.write(b"one\ntwo\nthree\n").expect("typed");
        for line in [&b"one\n"[..], b"two\n", b"three\n"] {
            scene.expect_line(line);
            scene.answer(line);
        }
        scene.client.wait_stdout(14, DEADLINE).expect("all of it");
        scene.finish();
        assert_eq!(scene.end(), (0, String::new()), "{mode}");
    }
}

#[test]
fn stdio_mode_tells_the_end_of_an_idle_server_at_once() {
    for (reset, told, code) in [(false, FIN, 3), (true, RST, 4)] {
        let mut scene = Scene::start("stdio", &[]);
        scene.exchange("hello");
        let server = scene.take_server();
        if reset {
            close_with_reset(server);
        } else {
            drop(server);
        }
        let (ended, stderr) = scene.end();
        assert_eq!(ended, code, "{stderr}");
        let said = stderr.contains(told) && stderr.ends_with(", nothing unanswered\n");
        assert!(said, "{stderr}");
    }
}

#[test]
fn stdio_mode_gives_every_byte_back_too() {
    let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let server = serve(Model::Reactor);
    let client = Client::to(server.address()).mode("stdio");
    let client = start(client.stdin(file(&content)));
    assert_eq!((end(&client), client.stderr().as_str()), (0, ""));
    assert!(client.stdout() == content);
}

// -- All of them --------------------------------------------------------------------------------

#[test]
fn whoever_waits_on_purpose_uses_no_processor_time() {
    let mut waiting = Vec::new();
    for (mode, flags) in [
        ("multiplexed", &["--connections", "50"][..]),
        ("multiplexed", &["--split-write", "600000"]),
        ("multiplexed", &["--read-rate", "0"]),
        ("multiplexed", &["--read-rate", "1"]),
        ("multiplexed", &["-i", "600"]),
        ("multiplexed", &["-q", "600"]),
        ("multiplexed", &["--sigpipe", "count"]),
        ("multiplexed", &["--keepalive", "1000", "--reset"]),
        ("blocking", &["-i", "600", "--connections", "50"]),
        ("stdio", &["-i", "600"]),
    ] {
        let mut scene = Scene::start(mode, flags);
        scene.client.type_line("hello").expect("typed");
        scene.server().write_all(b"h").expect("room");
        waiting.push((mode, flags, scene));
    }
    let activity = |scene: &Scene| {
        let pid = scene.client.pid();
        let switches = processes::switches(pid).expect("alive");
        (switches, processes::cpu_time(pid).expect("alive"))
    };
    for (mode, flags, scene) in &waiting {
        let what = format!("{mode} {flags:?} asleep");
        eventually(&what, DEADLINE, || {
            let before = activity(scene);
            sleep(Duration::from_millis(20));
            let asleep = processes::look(scene.client.pid()).is_some_and(|p| p.state == 'S');
            (asleep && activity(scene) == before).then_some(())
        })
        .expect("idle");
    }
    let before: Vec<_> = waiting.iter().map(|(_, _, s)| activity(s)).collect();
    sleep(WINDOW);
    for ((mode, flags, scene), (switches, worked)) in waiting.iter().zip(before) {
        let (switches_now, worked_now) = activity(scene);
        // A slice of the slowest reader may fall due.
        assert!(switches_now - switches <= 2, "{mode} {flags:?}");
        assert_eq!(worked_now, worked, "{mode} {flags:?}");
    }
}

#[test]
fn contradictions_are_told_in_one_line() {
    let program = binaries::path("tcpecho").expect("built");
    for (line, told) in [
        ("--mode blocking --read-rate 1k h", "add --mode multiplexed"),
        ("--mode stdio -q 1 h", "--quit-after makes no sense"),
        ("--no-shutdown --reset h", "choose one"),
        ("--mistake ignore-write-errors h", "--mode blocking"),
        ("--mistake no-sleep h", "'no-sleep'"),
        ("--keepalive 10,1 h", "IDLE,INTERVAL,COUNT"),
        ("--connections 0 h", "--connections"),
        ("--read-rate fast h", "'fast'"),
        ("-qq h", "'q'"),
    ] {
        let client = start(Client::plain(&program, line.split_whitespace()));
        let (code, stderr) = (end(&client), client.stderr());
        assert_eq!((code, stderr.lines().count()), (2, 1), "{line}: {stderr}");
        assert!(stderr.contains(told), "{line}: {stderr}");
        assert!(client.stdout().is_empty(), "{line}");
    }
}

// -- Helpers ------------------------------------------------------------------------------------

/// A client, and a socket of ours as its server.
struct Scene {
    client: ClientProcess,
    listener: TcpListener,
    /// The connection that was made first, until it is taken.
    server: Option<TcpStream>,
    near: SocketAddr,
    diag: SockDiag,
}

impl Scene {
    /// The client is connected.
    fn start(mode: &str, flags: &[&str]) -> Self {
        Self::with(|listener| start(client(listener, mode, flags)))
    }

    fn with(start: impl FnOnce(&TcpListener) -> ClientProcess) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a flag");
        let client = start(&listener);
        let server = accept(&listener);
        Self {
            client,
            near: server.peer_addr().expect("connected"),
            server: Some(server),
            listener,
            diag: SockDiag::open().expect("netlink"),
        }
    }

    /// The next connection.
    fn accept(&self) -> TcpStream {
        accept(&self.listener)
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// The client's address on the first connection.
    fn near(&self) -> SocketAddr {
        self.near
    }

    fn server(&mut self) -> &mut TcpStream {
        self.server.as_mut().expect("not taken")
    }

    fn take_server(&mut self) -> TcpStream {
        self.server.take().expect("not taken")
    }

    fn expect_line(&mut self, line: &[u8]) {
        let mut bytes = vec![0; line.len()];
        self.server().read_exact(&mut bytes).expect("the line");
        assert_eq!(bytes, line);
    }

    /// Sends it, and sees it on stdout.
    fn answer(&mut self, line: &[u8]) {
        let before = self.client.stdout().len();
        self.server().write_all(line).expect("answered");
        let stdout = self.client.wait_stdout(before + line.len(), DEADLINE);
        assert_eq!(stdout.expect("the answer")[before..], *line);
    }

    fn exchange(&mut self, text: &str) {
        let line = format!("{text}\n");
        self.client.type_line(text).expect("typed");
        self.expect_line(line.as_bytes());
        self.answer(line.as_bytes());
    }

    /// Ends stdin, waits for the client's end of it (its FIN or RST), and sends our FIN.
    fn finish(&mut self) {
        self.client.close_stdin().expect("open until now");
        // With --reset there is an error instead of the end.
        let _ = self.server().read(&mut [0]);
        let _ = self.server().shutdown(Shutdown::Write);
    }

    /// Waits for the client's socket to be in this state.
    fn wait_state(&self, near: SocketAddr, state: State) {
        let probe = || self.diag.state(near, self.address()).ok()?;
        eventually(&format!("{near} in {state:?}"), DEADLINE, || {
            probe().filter(|now| *now == state)
        })
        .expect("the state");
    }

    /// What it says on stderr, once it has said something.
    fn wait_stderr(&self) -> String {
        eventually("a line on stderr", DEADLINE, || {
            Some(self.client.stderr()).filter(|text| text.ends_with('\n'))
        })
        .expect("told")
    }

    /// Its exit code, and what it has said on stderr.
    fn end(&self) -> (i32, String) {
        (end(&self.client), self.client.stderr())
    }
}

fn client(listener: &TcpListener, mode: &str, flags: &[&str]) -> Client {
    let address = listener.local_addr().expect("bound");
    let client = Client::to(address).mode(mode);
    flags.iter().fold(client, |client, flag| client.arg(*flag))
}

fn accept(listener: &TcpListener) -> TcpStream {
    let accepted = eventually("a connection", DEADLINE, || listener.accept().ok());
    let (stream, _) = accepted.expect("a client");
    stream.set_nonblocking(false).expect("a flag");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    stream.set_write_timeout(Some(DEADLINE)).expect("an option");
    stream
}

/// Lets a shell do something before it becomes the client.
fn shell(client: Client, first: &str) -> Client {
    client.under(&["sh", "-c", &format!("{first}; exec \"$0\" \"$@\"")])
}

fn echo_to_the_end(server: &mut TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match server.read(&mut buffer).expect("bytes or the end") {
            0 => break,
            n => server.write_all(&buffer[..n]).expect("answered"),
        }
    }
    server.shutdown(Shutdown::Write).expect("our FIN");
}

/// Returns when the client's kernel has had the RST, which may be late on a busy machine.
fn close_with_reset(server: TcpStream) {
    let own = server.local_addr().expect("an address");
    let client = server.peer_addr().expect("a peer");
    let diag = SockDiag::open().expect("sock_diag");
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&server, sockopt::Linger, &now).expect("an option");
    drop(server);
    eventually("the end of the client's socket", DEADLINE, || {
        matches!(diag.state(client, own), Ok(None)).then_some(())
    })
    .expect("a reset");
}

/// From now on this end drops whatever arrives and answers nothing, as a host that was unplugged.
#[expect(unsafe_code)]
fn vanish(server: &TcpStream) {
    // BPF_RET | BPF_K with 0: keep nothing.
    let mut drop_all = [libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: drop_all.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program while it is called.
    let result = unsafe {
        libc::setsockopt(
            server.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    assert_eq!(Errno::result(result), Ok(0));
}

/// Waits until so many connections to `server` stand: the table is read in pieces, and may have one
/// twice or not at all.
fn wait_standing(server: SocketAddr, connections: usize) {
    eventually("the connections", DEADLINE, || {
        let all = sockets::connected_to(server).ok()?;
        let standing = all.iter().filter(|s| s.state == State::Established);
        (standing.count() == connections).then_some(())
    })
    .expect("as many as were asked for");
}

/// Has anything come that we have not read, if only the end?
fn has_news(stream: &TcpStream) -> bool {
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(stream.as_raw_fd(), &mut [0], look) != Err(Errno::EAGAIN)
}
