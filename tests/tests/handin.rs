//! What `tcpecho-lab run` leaves: the log to hand in, the recording, the packets, the data.

#[path = "common/schema.rs"]
mod schema;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::sys::signal::Signal;
use nix::sys::utsname::uname;
use serde_json::Value;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::netns;
use tcpecho_lab::observe::pcap::{self, Frame};
use tcpecho_lab::observe::processes;
use tcpecho_lab::skip::skip;
use tcpecho_lab::wait::eventually;

use schema::Schema;

const LAB: &str = "premature-termination";
const SOON: Duration = Duration::from_secs(60);

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let directory = env::temp_dir().join(format!("tcpecho-{name}-{}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(Self(directory))
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn text(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.0.join(name)).with_context(|| format!("no {name}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpecho-lab"));
    command.arg("run").args(args).env("COLUMNS", "80");
    Ok(command.stdin(Stdio::null()).output()?)
}

/// The same; it must have gone well. Returns what it printed.
fn ran(args: &[&str]) -> Result<String> {
    let output = run(args)?;
    let stdout = String::from_utf8(output.stdout)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {stdout}{stderr}");
    Ok(stdout)
}

/// Performs the lab step by step, for somebody who types these lines.
fn followed(args: &[&str], typed: &str) -> Result<ClientProcess> {
    let line = ["run", LAB, "--step"];
    let lab = Client::plain(env!("CARGO_BIN_EXE_tcpecho-lab"), line.iter().chain(args)).start()?;
    lab.write(typed.as_bytes())?;
    Ok(lab)
}

/// What stands behind each date of a log, all of it in one line each.
fn dated(log: &str) -> Vec<&str> {
    let is_date = |text: &str| {
        let shape: String = text
            .chars()
            .map(|c| if c.is_ascii_digit() { '9' } else { c })
            .collect();
        shape == "[9999-99-99, 99:99:99]"
    };
    let lines = log
        .lines()
        .filter(|line| line.is_char_boundary(22) && is_date(&line[..22]));
    lines.map(|line| line[22..].trim_start()).collect()
}

#[test]
fn a_log_has_commands_with_their_dates_predictions_and_the_score() -> Result<()> {
    let scratch = Scratch::new("log")?;
    let file = scratch.file("log.md");
    // Whatever is not asked takes the 1 for Enter.
    let lab = followed(&["--transcript", &file], &"1\n".repeat(80))?;
    ensure!(lab.wait(SOON)?.success(), "{lab}");
    let log = scratch.text("log.md")?;
    let commands = dated(&log);
    for command in [
        "tcpechod --model fork",
        "kill -KILL",
        "ps -o pid",
        "typed: another line",
    ] {
        ensure!(
            commands.iter().any(|text| text.starts_with(command)),
            "{command}: {log}"
        );
    }
    let predictions = log.matches("**Prediction** [").count();
    let right = log.matches("The prediction was right.").count();
    ensure!(predictions == log.matches("Question: ").count(), "{log}");
    ensure!(
        predictions == right + log.matches("The prediction was wrong.").count(),
        "{log}"
    );
    ensure!(
        log.contains(&format!("{right} of {predictions} predictions right")),
        "{log}"
    );
    ensure!(
        log.matches("```").count() % 2 == 0,
        "a block is open: {log}"
    );
    let kernel = uname()?.release().to_string_lossy().into_owned();
    let end = log.split("### Result").nth(1).context("no result")?;
    ensure!(
        end.contains(&kernel) && end.contains("facts as expected"),
        "{log}"
    );
    // Facts in the log and in the score.
    let facts = log.matches("* **OK**").count() + log.matches("* **VARIATION**").count();
    ensure!(
        end.contains(&format!("{facts} facts as expected")),
        "{facts}: {end}"
    );
    Ok(())
}

#[test]
fn who_leaves_early_has_a_log_until_then() -> Result<()> {
    let scratch = Scratch::new("early")?;
    let file = scratch.file("log.md");
    let lab = followed(&["--transcript", &file], "\n\n\nq\n")?;
    lab.wait(SOON)?;
    let log = scratch.text("log.md")?;
    ensure!(
        dated(&log).iter().any(|text| text.starts_with("tcpechod")),
        "{log}"
    );
    ensure!(
        !log.contains("### Act 2") && log.contains("left before the end"),
        "{log}"
    );
    Ok(())
}

#[test]
fn what_was_logged_survives_a_kill() -> Result<()> {
    let scratch = Scratch::new("kill")?;
    let [log, cast] = ["log.md", "cast"].map(|name| scratch.file(name));
    let lab = followed(&["--transcript", &log, "--cast", &cast], "\n\n\n")?;
    eventually("server, child and client", SOON, || {
        let tree = processes::tree(lab.pid());
        let ours = tree
            .iter()
            .filter(|p| matches!(&*p.comm, "tcpechod" | "tcpecho"));
        (ours.count() == 3).then_some(())
    })?;
    lab.signal(Signal::SIGKILL)?;
    lab.wait(SOON)?;
    let log = scratch.text("log.md")?;
    ensure!(
        dated(&log).iter().any(|text| text.starts_with("tcpechod")),
        "{log}"
    );
    ensure!(!log.contains("### Result"), "{log}");
    ensure!(
        !recorded(&scratch.text("cast")?)?.is_empty(),
        "an empty recording"
    );
    Ok(())
}

/// What a recording shows, as text.
fn recorded(cast: &str) -> Result<String> {
    let mut lines = cast.lines();
    let header: Value = serde_json::from_str(lines.next().context("no header")?)?;
    ensure!(header["version"] == 2, "{header}");
    ensure!(
        header["width"].is_u64() && header["height"].is_u64(),
        "{header}"
    );
    let mut text = String::new();
    let mut last = 0.0;
    for line in lines {
        let (at, kind, shown): (f64, String, String) = serde_json::from_str(line)?;
        ensure!(at >= last && kind == "o", "{line}");
        (last, text) = (at, text + &shown);
    }
    Ok(text)
}

#[test]
fn a_recording_shows_what_the_terminal_showed() -> Result<()> {
    let scratch = Scratch::new("cast")?;
    let shown = ran(&[LAB, "--cast", &scratch.file("cast")])?;
    let cast = scratch.text("cast")?;
    let header: Value = serde_json::from_str(cast.lines().next().context("no header")?)?;
    ensure!(header["width"] == 80, "{header}");
    let text = recorded(&cast)?;
    ensure!(text.contains("\x1b["), "no colours");
    ensure!(
        !text.replace("\r\n", "").contains('\n'),
        "a line does not begin at the left"
    );
    let text = anstream::adapter::strip_str(&text)
        .to_string()
        .replace("\r\n", "\n");
    ensure!(text == shown, "--- shown\n{shown}\n--- recorded\n{text}");
    // The lab lets a second pass twice.
    let last = cast.lines().last().context("no output")?;
    let (at, ..): (f64, String, String) = serde_json::from_str(last)?;
    ensure!((1.0..60.0).contains(&at), "it took {at} s");
    Ok(())
}

#[test]
fn asciinema_takes_a_recording() -> Result<()> {
    let scratch = Scratch::new("asciinema")?;
    let cast = scratch.file("cast");
    let shown = ran(&[LAB, "--cast", &cast])?;
    // It wants a terminal of its own, whatever its stdin is.
    let command = Client::plain("asciinema", ["cat", &cast]).on_pty();
    let Ok(asciinema) = command.start() else {
        return skip("asciinema_takes_a_recording", "asciinema is not installed");
    };
    let status = asciinema.wait(SOON)?;
    ensure!(status.success(), "{asciinema}");
    let replayed = String::from_utf8(asciinema.stdout())?;
    let replayed = anstream::adapter::strip_str(&replayed)
        .to_string()
        .replace("\r\n", "\n");
    ensure!(replayed == shown, "{replayed}");
    Ok(())
}

/// Sender, receiver and flags of a TCP packet, whose data may be cut off.
fn decoded(frame: &Frame) -> Result<String> {
    let sliced = LaxSlicedPacket::from_ethernet(&frame.bytes)?;
    let Some((LaxNetSlice::Ipv4(ip), TransportSlice::Tcp(tcp))) = sliced.net.zip(sliced.transport)
    else {
        anyhow::bail!("no TCP over IPv4");
    };
    let flags = [(tcp.syn(), 'S'), (tcp.fin(), 'F'), (tcp.rst(), 'R')];
    let flags: String = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, flag)| flag)
        .collect();
    let ip = ip.header();
    Ok(format!(
        "{} > {} {flags}",
        ip.source_addr(),
        ip.destination_addr()
    ))
}

/// The packets of these labs, which must be in the order of time; None without namespaces.
fn packets(scratch: &Scratch, labs: &[&str]) -> Result<Option<Vec<Frame>>> {
    let file = scratch.file("packets.pcap");
    let output = run(&[labs, &["--pcap", &file]].concat())?;
    ensure!(output.status.success(), "{output:?}");
    if !Path::new(&file).exists() {
        skip("--pcap", "no namespaces")?;
        return Ok(None);
    }
    let frames = pcap::read(&fs::read(&file)?)?;
    ensure!(
        frames.is_sorted_by_key(|frame| frame.at),
        "not in the order of time"
    );
    let whole = frames
        .iter()
        .all(|f| !f.bytes.is_empty() && f.bytes.len() <= f.length as usize);
    ensure!(whole, "longer than it was");
    Ok(Some(frames))
}

#[test]
fn packets_can_be_read_by_us_and_by_tcpdump() -> Result<()> {
    let scratch = Scratch::new("pcap")?;
    let Some(frames) = packets(&scratch, &[LAB])? else {
        return Ok(());
    };
    let told: Result<Vec<_>> = frames.iter().map(decoded).collect();
    let count = |flag: char| {
        Ok(told
            .as_ref()
            .map_err(|e| anyhow::anyhow!("{e}"))?
            .iter()
            .filter(|t| t.ends_with(flag))
            .count())
    };
    let (syn, rst): (Result<usize>, Result<usize>) = (count('S'), count('R'));
    // One connection in each act, and one RST in the first.
    ensure!((syn?, rst?) == (4, 1), "{told:?}");
    let file = scratch.file("packets.pcap");
    let tcpdump = Command::new("tcpdump")
        .args(["-nn", "--nano", "-r", &file])
        .output();
    let Ok(tcpdump) = tcpdump else {
        return skip("packets_can_be_read_by_tcpdump", "tcpdump is not installed");
    };
    ensure!(tcpdump.status.success(), "{tcpdump:?}");
    let lines = String::from_utf8(tcpdump.stdout)?;
    ensure!(
        lines.lines().count() == frames.len(),
        "{} packets:\n{lines}",
        frames.len()
    );
    // Nanoseconds: the last three digits are not all zero.
    let digits = |line: &str| {
        line.split_whitespace()
            .next()
            .map(|time| time.ends_with("000"))
    };
    ensure!(
        lines.lines().any(|line| digits(line) == Some(false)),
        "{lines}"
    );
    Ok(())
}

#[test]
fn packets_of_several_labs_and_hosts_are_in_one_file() -> Result<()> {
    let scratch = Scratch::new("pcaps")?;
    let labs = ["half-close", "crash-and-reboot"];
    let Some(frames) = packets(&scratch, &labs)? else {
        return Ok(());
    };
    let told: Result<Vec<_>> = frames.iter().map(decoded).collect();
    let told = told?;
    for connection in ["127.0.0.1 > 127.0.0.1 S", "192.0.2.2 > 198.51.100.2 S"] {
        ensure!(
            told.iter().any(|packet| packet == connection),
            "{connection}: {told:?}"
        );
    }
    Ok(())
}

#[test]
fn no_packets_is_said_and_no_file_written() -> Result<()> {
    let scratch = Scratch::new("plain")?;
    let file = scratch.file("packets.pcap");
    let output = run(&[LAB, "--plain", "--pcap", &file])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        said.contains("--pcap") && said.contains("namespaces"),
        "{said}"
    );
    ensure!(
        fs::read_dir(&scratch.0)?.next().is_none(),
        "there is a file"
    );
    let strict = run(&["half-close", "--plain", "--strict", "--pcap", &file])?;
    ensure!(strict.status.code() == Some(1), "{strict:?}");
    Ok(())
}

#[test]
fn data_are_as_the_schema_describes_them() -> Result<()> {
    let scratch = Scratch::new("json")?;
    let shown = ran(&[LAB, "half-close", "--json", &scratch.file("labs.json")])?;
    let json: Value = serde_json::from_str(&scratch.text("labs.json")?)?;
    Schema::open("lab")?.check(&json)?;
    let names: Vec<_> = (0..2).map(|i| json["labs"][i]["lab"].as_str()).collect();
    ensure!(names == [Some(LAB), Some("half-close")], "{names:?}");
    let held = json["labs"][0]["report"]["held"].to_string();
    ensure!(
        shown.contains(&format!("{held} facts as expected")),
        "{held}: {shown}"
    );
    Ok(())
}

#[test]
fn data_on_stdout_are_alone_there() -> Result<()> {
    let printed = ran(&[LAB, "--json", "-"])?;
    Schema::open("lab")?.check(&serde_json::from_str(&printed)?)
}

#[test]
fn files_that_cannot_be_written_are_refused_before_anything_starts() -> Result<()> {
    let scratch = Scratch::new("refused")?;
    let nowhere = scratch.file("no/such");
    let once = scratch.file("once");
    for (args, why) in [
        (vec!["--transcript", &nowhere], "no/such"),
        (vec!["--cast", &nowhere], "no/such"),
        (vec!["--pcap", &nowhere], "no/such"),
        (vec!["--json", &nowhere], "no/such"),
        (vec!["--pcap", "/"], "no file"),
        (vec!["--transcript", &once, "--json", &once], "twice"),
        (vec!["--json", "-", "--step"], "--step"),
    ] {
        let output = run(&[&[LAB], &args[..]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{args:?}: {output:?}");
        ensure!(said.contains(why), "{args:?}: {said}");
        ensure!(output.stdout.is_empty(), "{args:?} began");
    }
    ensure!(fs::read_dir(&scratch.0)?.next().is_none(), "a file is left");
    Ok(())
}

/// Where there are no namespaces there is nothing to see of hosts; not even this test's business.
#[test]
fn a_log_is_written_on_plain_loopback_as_well() -> Result<()> {
    ensure!(!netns::inside(), "this test is outside");
    let scratch = Scratch::new("plainlog")?;
    ran(&[
        "half-close",
        "--plain",
        "--transcript",
        &scratch.file("log.md"),
    ])?;
    let log = scratch.text("log.md")?;
    ensure!(
        log.contains("On plain loopback") && log.contains("### Result"),
        "{log}"
    );
    ensure!(log.contains("no predictions were made"), "{log}");
    Ok(())
}
