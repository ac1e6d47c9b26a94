//! The harness itself: does it start, wait for, observe and end what it says it does?

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tcpecho_lab::client::Client;
use tcpecho_lab::netns;
use tcpecho_lab::observe::calls::Phase;
use tcpecho_lab::observe::packets::{Capture, Packet, tcpdump_view};
use tcpecho_lab::observe::processes::{self, Process};
use tcpecho_lab::server::{Server, ServerProcess};
use tcpecho_lab::wait::eventually;

const SOON: Duration = Duration::from_secs(10);

/// A shell script as a server.
fn script(text: &str) -> Server {
    Server::plain("sh", ["-c", text])
}

fn descendants_called(name: &str, count: usize, root: i32) -> Vec<Process> {
    let what = format!("{count} {name} under {root}");
    eventually(&what, SOON, || {
        let tree = processes::tree(root).into_iter();
        Some(tree.filter(|p| p.comm == name).collect::<Vec<_>>()).filter(|p| p.len() == count)
    })
    .expect("the shell starts them")
}

/// Dead, although whoever inherited it may not have reaped it yet.
fn gone(pid: i32) -> bool {
    processes::look(pid).is_none_or(|p| p.state == 'Z')
}

fn assert_gone(pids: &[i32]) {
    eventually(&format!("end of {pids:?}"), SOON, || {
        pids.iter().all(|pid| gone(*pid)).then_some(())
    })
    .expect("killed");
}

fn pids(processes: &[Process]) -> Vec<i32> {
    processes.iter().map(|p| p.pid).collect()
}

#[test]
fn a_dropped_server_takes_its_children_along() {
    let server = script("echo listening on 127.0.0.1:1; sleep 60 & sleep 60 & wait");
    let server = server.start().expect("ready");
    assert_eq!(server.address().to_string(), "127.0.0.1:1");
    let mut all = pids(&descendants_called("sleep", 2, server.pid()));
    all.push(server.pid());
    drop(server);
    assert_gone(&all);
}

#[test]
fn a_child_that_left_the_group_is_taken_along_too() {
    let server = script("echo listening on 127.0.0.1:1; setsid sleep 60 & wait");
    let server = server.start().expect("ready");
    let stray = descendants_called("sleep", 1, server.pid());
    assert_ne!(stray[0].pgrp, server.pid());
    drop(server);
    assert_gone(&pids(&stray));
}

#[test]
fn children_of_a_killed_leader_live_until_the_drop() {
    let server = script("echo listening on 127.0.0.1:1; sleep 60 & wait");
    let server = server.start().expect("ready");
    let child = descendants_called("sleep", 1, server.pid());
    server.signal(Signal::SIGKILL).expect("it runs");
    server.wait(SOON).expect("killed");
    assert!(!gone(child[0].pid));
    assert!(
        server.signal(Signal::SIGTERM).is_err(),
        "its pid is not its own any more"
    );
    drop(server);
    assert_gone(&pids(&child));
}

#[test]
fn a_server_that_ends_before_it_is_ready_is_an_error_with_its_last_words() {
    let error = script("echo cannot bind >&2; exit 7")
        .start()
        .expect_err("it ends");
    let text = format!("{error:#}");
    for part in [
        "before it was ready",
        "stderr | cannot bind",
        "exit status: 7",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_wait_that_fails_shows_the_transcript() {
    let server = script("echo listening on 127.0.0.1:1; echo hm >&2; sleep 60");
    let server = server.start().expect("ready");
    eventually("the word", SOON, || {
        server.stderr().contains("hm").then_some(())
    })
    .expect("said");
    let error = server.wait(Duration::from_millis(10)).expect_err("it runs");
    let text = error.to_string();
    assert!(
        text.contains("10ms") && text.contains("stderr | hm"),
        "{text}"
    );
    assert_eq!(server.to_string(), server.transcript());
}

#[test]
fn descriptors_are_limited() {
    let server = script("ulimit -Sn; ulimit -Hn; echo listening on 127.0.0.1:1; sleep 60");
    let server = server.limit_descriptors(32, 64).start().expect("ready");
    assert!(server.stdout().starts_with("32\n64\n"), "{server}");
}

#[test]
fn calls_are_recorded_even_if_more_than_a_pipe_holds() {
    const RECORDS: usize = 40_000;
    let text = format!(
        r#"awk 'BEGIN {{ for (i = 0; i < {RECORDS}; i++) print i "\t7\t7\treturn\tread\t5\t64\t-" }}' >/proc/self/fd/$2
        echo listening on 127.0.0.1:1; sleep 60"#
    );
    let server = script(&text).arg("sh").events().start().expect("ready");
    let calls = server.calls();
    assert_eq!((calls.len(), server.calls_lost()), (RECORDS, 0));
    let last = &calls[RECORDS - 1];
    assert_eq!(
        (last.at, last.phase, last.fd),
        (RECORDS as u64 - 1, Phase::Return, 5)
    );
}

#[test]
fn a_client_on_pipes_is_spoken_to_and_stamped() {
    let client = Client::plain("sh", ["-c", "cat; echo over >&2; exit 3"]);
    let client = client.start().expect("a shell");
    client.type_line("hello").expect("room");
    assert_eq!(client.wait_stdout(6, SOON).expect("the echo"), b"hello\n");
    assert!(client.stderr_lines().is_empty());
    let before = realtime();
    client.close_stdin().expect("open until now");
    let status = client.wait(SOON).expect("end of input");
    assert_eq!(status.code(), Some(3));
    let lines = client.stderr_lines();
    assert_eq!(lines[0].1, "over");
    assert!((before..=realtime()).contains(&lines[0].0));
    assert!(client.type_line("more").is_err());
}

fn realtime() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.expect("after 1970").as_nanos() as u64
}

#[test]
fn a_client_may_read_slowly_and_print_much() {
    let client = Client::plain("cat", [""; 0]).start().expect("cat");
    let block: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
    client.write(&block).expect("cat reads");
    assert!(client.wait_stdout(block.len(), SOON).expect("all of it") == block);
}

#[test]
fn a_client_on_a_terminal_has_one_and_hears_its_end_of_input() {
    let client = Client::plain("cat", [""; 0]).on_pty().start().expect("cat");
    client.type_line("hello").expect("room");
    assert_eq!(client.wait_stdout(6, SOON).expect("the echo"), b"hello\n");
    let process = processes::look(client.pid()).expect("it runs");
    assert!(process.tty.is_some_and(|tty| tty.starts_with("pts/")));
    client.close_stdin().expect("a terminal");
    assert!(client.wait(SOON).expect("end of input").success());
    assert_eq!(client.stdout(), b"hello\n");
}

#[test]
fn under_another_program_the_pid_is_the_programs_own() {
    let forks = ["sh", "-c", "\"$@\"; :", "sh"];
    for prefix in [&forks[..], &["nice"]] {
        let client = Client::plain("cat", [""; 0])
            .under(prefix)
            .start()
            .expect("cat");
        let process = processes::look(client.pid()).expect("it runs");
        assert_eq!(process.comm, "cat", "under {prefix:?}");
        client.signal(Signal::SIGKILL).expect("it runs");
        client.wait(SOON).expect("its parent ends as well");
    }
}

#[test]
fn under_strace_signals_reach_the_server_and_its_status_comes_back() {
    if Command::new("strace").arg("-V").output().is_err() {
        #[expect(clippy::print_stderr, reason = "libtest shows it on demand")]
        {
            eprintln!("SKIP: strace is not installed");
        }
        return;
    }
    let server = script("echo listening on 127.0.0.1:1 pid=$$; exec sleep 60");
    let server = server.under(&["strace", "-f", "-o", "/dev/null"]);
    let server = server.start().expect("ready");
    let process = processes::look(server.pid()).expect("it runs");
    assert_ne!(process.comm, "strace");
    server.signal(Signal::SIGTERM).expect("it runs");
    let status = server.wait(SOON).expect("it ends");
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn a_descriptor_of_the_harness_is_not_inherited() {
    let _other = script("echo listening on 127.0.0.1:1; sleep 60")
        .start()
        .expect("ready");
    let _terminal = Client::plain("cat", [""; 0]).on_pty().start().expect("cat");
    // What this test inherited itself it cannot help passing on.
    let mut inherited = Command::new("sleep").arg("60").spawn().expect("sleep");
    let usual = descriptors_asleep(inherited.id() as i32);
    inherited.kill().expect("it runs");
    inherited.wait().expect("killed");
    let client = Client::plain("sh", ["-c", "exec sleep 60"])
        .events()
        .start();
    let open = descriptors_asleep(client.expect("a shell").pid());
    assert_eq!(open.len(), usual.len() + 1, "{open:?}, usually {usual:?}");
}

/// Those of a sleep(1) that has closed what it needed for starting.
fn descriptors_asleep(pid: i32) -> Vec<(i32, String)> {
    eventually("sleep to sleep", SOON, || {
        processes::look(pid).filter(|p| p.wchan.contains("nanosleep"))?;
        processes::descriptors(pid).ok()
    })
    .expect("it runs")
}

/// The body of the tests below runs as PID 2 of namespaces of its own.
#[test]
fn namespaces_are_ones_own() -> anyhow::Result<()> {
    netns::test("namespaces_are_ones_own", || {
        ensure!(std::process::id() == 2, "pid {}", std::process::id());
        let interfaces: Vec<_> = fs::read_to_string("/proc/thread-self/net/dev")?
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect();
        ensure!(interfaces == ["lo"], "{interfaces:?}");
        let init = processes::tree(1);
        ensure!(
            pids(&init) == [1, 2] && init[0].comm == "tcpecho-init",
            "{init:?}"
        );
        ensure!(nix::unistd::getuid().is_root());
        Ok(())
    })
}

#[test]
fn init_reaps_strangers() -> anyhow::Result<()> {
    netns::test("init_reaps_strangers", || {
        let mut shell = Command::new("sh");
        let mut shell = shell
            .args(["-c", "sleep 60 & echo $!"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut text = String::new();
        let mut stdout = shell.stdout.take().context("a pipe")?;
        while !text.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte)?;
            text.push(char::from(byte[0]));
        }
        shell.wait()?;
        let orphan: i32 = text.trim().parse()?;
        let process = processes::look(orphan).context("it lives on")?;
        ensure!(process.ppid == 1, "{process:?}");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(orphan), Signal::SIGKILL)?;
        eventually("init to reap it", SOON, || {
            processes::look(orphan).is_none().then_some(())
        })
    })
}

#[test]
fn a_capture_sees_every_packet_once() -> anyhow::Result<()> {
    netns::test("a_capture_sees_every_packet_once", || {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            one_conversation(address)?;
        }
        Ok(())
    })
}

fn one_conversation(address: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    let server = listener.local_addr()?;
    let before = realtime();
    let capture = Capture::start()?;
    let mut near = TcpStream::connect(server)?;
    let client = near.local_addr()?;
    near.write_all(b"hello")?;
    let (mut far, _) = listener.accept()?;
    far.read_exact(&mut [0; 5])?;
    drop(near);
    far.read_to_end(&mut Vec::new())?;
    drop(far);
    let fins = |packets: &[Packet]| packets.iter().filter(|p| p.flags.fin()).count() == 2;
    capture.wait_for("both FINs", SOON, fins)?;
    capture.wait_for("the last ACK", SOON, |p| {
        p.last().is_some_and(|p| !p.flags.fin())
    })?;
    let seen = capture.stop()?;
    let view = tcpdump_view(&seen.packets);
    let flags = |from: SocketAddr, flags: &str| {
        let count = |p: &&Packet| p.from == from && p.flags.names() == flags;
        seen.packets.iter().filter(count).count()
    };
    ensure!(seen.dropped == 0);
    ensure!(
        flags(client, "SYN") == 1 && flags(server, "SYN,ACK") == 1,
        "{view}"
    );
    ensure!(
        flags(client, "FIN,ACK") == 1 && flags(server, "FIN,ACK") == 1,
        "{view}"
    );
    let data: Vec<_> = seen.packets.iter().filter(|p| p.len > 0).collect();
    ensure!(
        data.len() == 1 && data[0].len == 5 && data[0].flags.psh(),
        "{view}"
    );
    let handshake: Vec<_> = seen.packets[..3].iter().map(|p| p.flags.names()).collect();
    ensure!(handshake == ["SYN", "SYN,ACK", "ACK"], "{view}");
    let times: Vec<u64> = seen.packets.iter().map(|p| p.at).collect();
    ensure!(
        times.iter().all(|at| (before..=realtime()).contains(at)),
        "{view}"
    );
    ensure!(times.is_sorted(), "{view}");
    Ok(())
}

#[test]
fn a_capture_loses_nothing_under_load_and_frames_are_ethernet_sized() -> anyhow::Result<()> {
    netns::test(
        "a_capture_loses_nothing_under_load_and_frames_are_ethernet_sized",
        || {
            const BYTES: usize = 64 << 20;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let capture = Capture::start()?;
            let mut near = TcpStream::connect(listener.local_addr()?)?;
            let writer = thread::spawn(move || near.write_all(&vec![b'x'; BYTES]));
            let (mut far, _) = listener.accept()?;
            let received = std::io::copy(&mut far, &mut std::io::sink())? as usize;
            writer.join().expect("no panic")?;
            let seen = capture.stop()?;
            ensure!(
                seen.dropped == 0,
                "{} of {} dropped",
                seen.dropped,
                seen.packets.len()
            );
            let largest = seen.packets.iter().map(|p| p.len).max();
            ensure!(largest <= Some(1460), "{largest:?}");
            let data: usize = seen.packets.iter().map(|p| p.len).sum();
            ensure!(received == BYTES && data >= BYTES, "{data}");
            Ok(())
        },
    )
}

#[test]
fn a_server_runs_inside() -> anyhow::Result<()> {
    netns::test("a_server_runs_inside", || {
        let server = script("echo listening on 127.0.0.1:1 pid=$$; sleep 60 & wait").start()?;
        ensure!(server.pid() > 2 && server.pid() < 100, "{server}");
        let _child = descendants_called("sleep", 1, server.pid());
        let process = processes::look(server.pid()).context("it runs")?;
        ensure!(
            process.ppid == 2 && !process.wchan.is_empty(),
            "{process:?}"
        );
        Ok(())
    })
}

#[test]
#[ignore = "fails on purpose, for the test below"]
fn fails_inside() -> anyhow::Result<()> {
    netns::test("fails_inside", || anyhow::bail!("as it should"))
}

#[test]
fn what_fails_inside_fails_outside() {
    if refused() {
        return;
    }
    let error = netns::test("fails_inside", || Ok(())).expect_err("it fails");
    assert!(error.to_string().contains("as it should"), "{error}");
    // libtest's code for a failure, passed on by init and keeper.
    assert!(error.to_string().contains("exit status: 101"), "{error}");
    let error = netns::test("no_such_test", || Ok(())).expect_err("nothing ran");
    assert!(error.to_string().contains("0 passed"), "{error}");
}

/// Is this a machine without namespaces? Then others say so; this one has nothing to add.
fn refused() -> bool {
    let probe = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "namespaces_are_ones_own", "--nocapture"])
        .output()
        .expect("this program again");
    String::from_utf8_lossy(&probe.stderr).contains("SKIP")
}

#[test]
#[ignore = "stays inside until it is killed, for the test below"]
fn stays_inside() -> anyhow::Result<()> {
    netns::test("stays_inside", || {
        let _server =
            script("echo listening on 127.0.0.1:1; sleep 50 & setsid sleep 50").start()?;
        thread::park_timeout(Duration::from_secs(50));
        Ok(())
    })
}

#[test]
fn everything_inside_dies_with_the_one_outside() {
    if refused() {
        return;
    }
    let mut outside = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "stays_inside", "--ignored"])
        .stdout(Stdio::null())
        .spawn()
        .expect("this program again");
    descendants_called("sleep", 2, outside.id() as i32);
    let mut all = pids(&processes::tree(outside.id() as i32));
    all.remove(0);
    assert!(
        all.len() >= 6,
        "keeper, init, program, sh, sleep, sleep: {all:?}"
    );
    let killed = Instant::now();
    outside.kill().expect("it runs");
    outside.wait().expect("killed");
    assert_gone(&all);
    assert!(killed.elapsed() < SOON);
}

#[test]
fn a_refusal_is_told_with_its_cause_and_strict_makes_it_a_failure() -> anyhow::Result<()> {
    netns::test(
        "a_refusal_is_told_with_its_cause_and_strict_makes_it_a_failure",
        || {
            // In here this is ours to forbid.
            fs::write("/proc/sys/user/max_user_namespaces", "0")?;
            for (strict, success) in [("0", true), ("1", false)] {
                let output = Command::new(std::env::current_exe()?)
                    .args(["--exact", "namespaces_are_ones_own", "--nocapture"])
                    .env_remove("TCPECHO_NAMESPACES")
                    .env(netns::STRICT, strict)
                    .output()?;
                let text =
                    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                ensure!(output.status.success() == success, "{text}");
                ensure!(text.contains("user.max_user_namespaces"), "{text}");
            }
            Ok(())
        },
    )
}

/// The addresses that tests use are loopback's.
#[test]
fn a_wildcard_server_is_reached_through_loopback() {
    let server: ServerProcess = script("echo 'listening on [::]:9 pid=1x'; sleep 60")
        .start()
        .expect("ready");
    assert_eq!(server.address().ip(), IpAddr::from([127, 0, 0, 1]));
    assert_eq!(server.ready_line(), "listening on [::]:9 pid=1x");
}
