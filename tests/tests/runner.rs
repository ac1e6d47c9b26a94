//! `tcpecho-lab list` and `run`: what is shown in which order, what the exit code says, and that
//! nothing is left behind, whatever is pressed at whatever moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_lab::binaries;
use tcpecho_lab::chance::Chance;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::observe::processes;
use tcpecho_lab::skip::skip;
use tcpecho_lab::wait::eventually;

const LAB: &str = env!("CARGO_BIN_EXE_tcpecho-lab");
/// Several labs on a machine that does other things besides.
const AT_LAST: Duration = Duration::from_secs(100);
const SOON: Duration = Duration::from_secs(20);

/// This laboratory, with the programs already built.
fn lab(line: &str) -> Result<Client> {
    let directory = binaries::directory()?.context("a directory with the programs")?;
    Ok(lab_with(&directory, line))
}

/// The same with the programs of this directory.
fn lab_with(directory: &Path, line: &str) -> Client {
    Client::plain(LAB, line.split(' ')).env(binaries::DIRECTORY, directory)
}

/// What it prints on stdout, and its exit code.
fn run(line: &str) -> Result<(String, Option<i32>)> {
    ended(&lab(line)?.start()?)
}

fn ended(lab: &ClientProcess) -> Result<(String, Option<i32>)> {
    let status = lab.wait(AT_LAST)?;
    let text = String::from_utf8(lab.stdout())?;
    Ok((text, status.code()))
}

/// A directory of this test's own, gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let own = format!("tcpecho-runner-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(own);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The programs, except that a forking tcpechod has these arguments as well.
fn programs_with(scratch: &Scratch, arguments: &str) -> Result<()> {
    let real = binaries::directory()?.context("a directory with the programs")?;
    std::os::unix::fs::symlink(real.join("tcpecho"), scratch.0.join("tcpecho"))?;
    let server = scratch.0.join("tcpechod");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *'--model fork'*) set -- {arguments} \"$@\";; esac\n\
         exec '{}/tcpechod' \"$@\"\n",
        real.display()
    );
    fs::write(&server, script)?;
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[test]
fn the_list_fits_a_terminal_and_names_every_lab() -> Result<()> {
    let (text, code) = run("list")?;
    ensure!(code == Some(0), "{code:?}");
    for lab in tcpecho_lab::labs::ALL {
        let row = text.lines().find(|line| line.starts_with(lab.name));
        let row = row.with_context(|| format!("no {}", lab.name))?;
        ensure!(
            row.contains(lab.title) && row.ends_with(&lab.takes.to_string()),
            "{row}"
        );
    }
    let wide = text.lines().find(|line| line.chars().count() > 80);
    ensure!(wide.is_none(), "{wide:?}");
    ensure!(!text.contains('\x1b'), "colours in a pipe");
    Ok(())
}

#[test]
fn several_are_shown_whole_one_after_the_other_whoever_ends_first() -> Result<()> {
    let (text, code) = run("run shutdown stdio-trap fin-or-reset --auto=0")?;
    ensure!(code == Some(0), "{text}");
    let ends = ["shutdown: ", "stdio-trap: ", "fin-or-reset: "]
        .map(|name| text.find(&format!("\n{name}")).unwrap_or(0));
    let heads = ["shutdown  ", "stdio-trap  ", "fin-or-reset  "]
        .map(|name| text.find(&format!("\n{name}")).unwrap_or(usize::MAX));
    let places = [heads[0], ends[0], heads[1], ends[1], heads[2], ends[2]];
    ensure!(places.is_sorted(), "{places:?}\n{text}");
    ensure!(text.contains("\n3 demonstrations, "), "{text}");
    Ok(())
}

#[test]
fn quiet_is_a_line_for_each_and_a_summary() -> Result<()> {
    let (text, code) = run("run stdio-trap fin-or-reset --quiet")?;
    ensure!(code == Some(0), "{text}");
    let words: Vec<_> = text.split_whitespace().collect();
    ensure!(words[..2] == ["OK", "stdio-trap"], "{text}");
    let lines: Vec<_> = text.lines().collect();
    ensure!(lines[1].starts_with("OK         fin-or-reset"), "{text}");
    ensure!(lines[4].starts_with("2 demonstrations, "), "{text}");
    ensure!(!text.contains("Act 1"), "{text}");
    Ok(())
}

#[test]
fn a_lab_that_differs_shows_all_its_steps_and_fails() -> Result<()> {
    let scratch = Scratch::new("differs")?;
    programs_with(&scratch, "--mistake no-reaper")?;
    let lab = lab_with(&scratch.0, "run premature-termination stdio-trap --quiet");
    let (text, code) = ended(&lab.start()?)?;
    ensure!(code == Some(1), "{code:?}\n{text}");
    let difference = "children the server still has should have been 0, but was 1";
    for part in [
        "Kill the child.",
        difference,
        "DIFFERENT  premature-termination",
    ] {
        ensure!(text.contains(part), "{part}\n{text}");
    }
    ensure!(text.contains("OK         stdio-trap"), "{text}");
    Ok(())
}

#[test]
fn a_lab_that_breaks_off_has_failed() -> Result<()> {
    let lab = lab("run shutdown --auto=0")?.start()?;
    let performer = eventually("the performer", SOON, || {
        let mut tree = processes::tree(lab.pid()).into_iter();
        tree.rfind(|process| process.args.contains(" perform ") && process.comm == "tcpecho-lab")
    })?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(performer.pid), Signal::SIGKILL)?;
    let (text, code) = ended(&lab)?;
    ensure!(code == Some(1), "{code:?}\n{text}");
    Ok(())
}

#[test]
fn strictness_minds_what_cannot_be_seen_and_all_reasons_are_told() -> Result<()> {
    let line = "run unreachable fin-or-reset --plain --quiet";
    let (text, code) = run(line)?;
    ensure!(code == Some(0), "{text}");
    ensure!(text.contains("SKIP       unreachable"), "{text}");
    let why = "SKIP       packets are seen only in namespaces: fin-or-reset (";
    ensure!(text.contains(why), "{text}");
    let (text, code) = run(&format!("{line} --strict"))?;
    ensure!(
        code == Some(1) && text.contains("--strict: skipped"),
        "{text}"
    );
    Ok(())
}

#[test]
fn where_namespaces_are_refused_it_says_why_and_goes_on() -> Result<()> {
    let directory = binaries::directory()?.context("a directory with the programs")?;
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && echo refused && exec \"$@\"";
    let args = [
        "-Ur",
        "sh",
        "-c",
        script,
        "sh",
        LAB,
        "run",
        "fin-or-reset",
        "--quiet",
    ];
    let lab = Client::plain("unshare", args);
    let lab = lab.env(binaries::DIRECTORY, directory).start()?;
    let (text, code) = ended(&lab)?;
    if !text.starts_with("refused\n") {
        return skip(
            "where_namespaces_are_refused_it_says_why_and_goes_on",
            lab.stderr(),
        );
    }
    ensure!(code == Some(0), "{text}");
    ensure!(text.contains("OK         fin-or-reset"), "{text}");
    ensure!(text.contains("SKIP"), "{text}");
    Ok(())
}

#[test]
fn whoever_presses_q_is_out_at_once_and_nothing_stays() -> Result<()> {
    for how in ["", " --plain"] {
        let (mark, lab) = marked(&format!("run premature-termination shutdown --step{how}"))?;
        lab.write(b"\n\n\nq\n")?;
        let (text, code) = ended(&lab)?;
        ensure!(code == Some(0), "{code:?} {text}");
        ensure!(text.contains("(left early)"), "{text}");
        ensure!(!text.contains("A host is shut down"), "{text}");
        ensure!(left(&mark).is_empty(), "{:?}", left(&mark));
    }
    Ok(())
}

#[test]
fn lines_typed_ahead_are_for_all_labs_that_are_performed() -> Result<()> {
    let lab = lab("run stdio-trap fin-or-reset --step")?.start()?;
    // No more pauses, one after the other; what follows must be there for the second.
    lab.write(b"s\ns\n")?;
    let (text, code) = ended(&lab)?;
    ensure!(code == Some(0), "{text}");
    ensure!(!text.contains("left early"), "{text}");
    ensure!(text.contains("\n2 demonstrations, "), "{text}");
    Ok(())
}

// -- Nothing is left behind -----------------------------------------------------------------------

/// The environment variable by which whoever descends from a run is known.
const MARK: &str = "TCPECHO_RUNNER_TEST";

/// Starts the laboratory so that everybody who descends from it can be found.
fn marked(line: &str) -> Result<(String, ClientProcess)> {
    let number = Chance::new(u64::from(std::process::id()) ^ now()).number();
    let mark = format!("{MARK}={number:x}");
    let lab = lab(line)?.env(MARK, format!("{number:x}")).start()?;
    Ok((mark, lab))
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// Whoever has this mark and is no zombie.
fn left(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| has(*pid, mark))
        .filter_map(processes::look)
        .filter(|process| process.state != 'Z')
        .map(|process| format!("{} {}", process.pid, process.args))
        .collect()
}

fn has(pid: i32, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}

/// Side by side, in namespaces and not; and one that waits for Enter.
const WAYS: [&str; 4] = [
    "run zombies premature-termination shutdown --auto=0",
    "run zombies premature-termination shutdown --auto=0 --plain",
    "run premature-termination --step",
    "run premature-termination --step --plain",
];

/// Starts it in each way, and does this to it at several moments.
fn at_any_moment(what: impl Fn(&ClientProcess) -> Result<()>, promptly: bool) -> Result<()> {
    let mut chance = Chance::new(now());
    for line in WAYS {
        for most in [1, 5, 20, 50, 100, 300, 1000, 2500] {
            let scratch = Scratch::new(&format!("moment-{}", chance.number()))?;
            let moment = Duration::from_micros(chance.up_to(most * 1000));
            let number = chance.number();
            let mark = format!("{MARK}={number:x}");
            let lab = lab(line)?
                .env(MARK, format!("{number:x}"))
                .env("TMPDIR", &scratch.0)
                .start()?;
            // It opens its curtain as far as this.
            lab.write(b"\n\n\n\n\n")?;
            sleep(moment);
            what(&lab)?;
            lab.wait(SOON)?;
            let context = || format!("{line}, after {moment:?}: {:?}", left(&mark));
            if promptly {
                ensure!(left(&mark).is_empty(), "{}", context());
            }
            let nobody = || left(&mark).is_empty().then_some(());
            eventually("nobody", SOON, nobody).with_context(context)?;
            ensure!(fs::read_dir(&scratch.0)?.next().is_none(), "a file: {line}");
        }
    }
    Ok(())
}

#[test]
fn a_runner_that_is_killed_takes_everything_along() -> Result<()> {
    at_any_moment(|lab| lab.signal(Signal::SIGKILL).or(gone(lab)), false)
}

#[test]
fn who_performs_and_is_killed_is_missed() -> Result<()> {
    let lab = lab("run second-client --auto=1")?.start()?;
    let performer = eventually("a performer that has begun", SOON, || {
        let tree = processes::tree(lab.pid());
        let performs = |p: &&processes::Process| p.args.contains(" perform second-client");
        let begun = tree.iter().any(|p| p.comm == "tcpechod");
        tree.iter().rfind(performs).map(|p| p.pid).filter(|_| begun)
    })?;
    kill(Pid::from_raw(performer), Signal::SIGKILL)?;
    let status = lab.wait(SOON)?;
    let said = lab.stderr();
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.contains("but it ended early"), "{said}");
    Ok(())
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new("small")?;
    let directory = binaries::directory()?.context("a directory with the programs")?;
    let page = scratch.0.join("page.html");
    let script = format!(
        "ulimit -f 1; exec {LAB} run second-client --auto=0 --quiet --html {}",
        page.display()
    );
    let lab = Client::plain("sh", ["-c", &script]).env(binaries::DIRECTORY, directory);
    let lab = lab.start()?;
    let status = lab.wait(AT_LAST)?;
    let said = lab.stderr();
    ensure!(status.code() == Some(1), "{status}: {said}");
    let expected = format!("cannot write {}: EFBIG", page.display());
    ensure!(said.contains(&expected), "{said}");
    let left = fs::read_dir(&scratch.0)?.count();
    ensure!(left == 0, "{left} files are left");
    Ok(())
}

#[test]
fn two_reports_to_one_file_by_two_names_are_refused() -> Result<()> {
    let scratch = Scratch::new("names")?;
    let file = scratch.0.join("out");
    let directory = binaries::directory()?.context("a directory with the programs")?;
    let script = format!(
        "exec {LAB} run second-client --auto=0 --html - --markdown /dev/stdout >{}",
        file.display()
    );
    let lab = Client::plain("sh", ["-c", &script]).env(binaries::DIRECTORY, directory);
    let lab = lab.start()?;
    let status = lab.wait(SOON)?;
    let said = lab.stderr();
    ensure!(status.code() == Some(2), "{status}: {said}");
    ensure!(said.contains("is to be written twice"), "{said}");
    Ok(())
}

#[test]
fn who_is_interrupted_says_what_is_not_written() -> Result<()> {
    let scratch = Scratch::new("unwritten")?;
    let page = scratch.0.join("page.html");
    let line = format!("run second-client --auto=60 --html {}", page.display());
    let lab = lab(&line)?.start()?;
    eventually("a performance that has begun", SOON, || {
        String::from_utf8_lossy(&lab.stdout())
            .contains("Act 1")
            .then_some(())
    })?;
    lab.signal(Signal::SIGINT)?;
    let status = lab.wait(SOON)?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}");
    let expected = format!("interrupted before this was written: {}", page.display());
    ensure!(lab.stderr().contains(&expected), "{}", lab.stderr());
    ensure!(!page.exists(), "it is written");
    Ok(())
}

#[test]
fn a_job_that_is_killed_takes_everything_along() -> Result<()> {
    at_any_moment(|lab| lab.signal_group(Signal::SIGKILL).or(gone(lab)), false)
}

#[test]
fn who_is_interrupted_has_cleared_away_when_it_ends() -> Result<()> {
    has_cleared_away_when_ended_by(Signal::SIGINT)
}

#[test]
fn who_is_terminated_has_cleared_away_when_it_ends() -> Result<()> {
    has_cleared_away_when_ended_by(Signal::SIGTERM)
}

#[test]
fn who_loses_the_terminal_has_cleared_away_when_it_ends() -> Result<()> {
    has_cleared_away_when_ended_by(Signal::SIGHUP)
}

fn has_cleared_away_when_ended_by(signal: Signal) -> Result<()> {
    at_any_moment(
        |lab| {
            lab.signal_group(signal).or(gone(lab))?;
            let status = lab.wait(SOON)?;
            let by = status.signal();
            ensure!(by == Some(signal as i32) || status.success(), "{status}");
            Ok(())
        },
        true,
    )
}

/// It may have ended by itself.
fn gone(lab: &ClientProcess) -> Result<()> {
    lab.status()
        .map(drop)
        .context("it runs, but takes no signal")
}
