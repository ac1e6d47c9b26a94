//! `tcpecho-lab compare` from the command line to the report: good servers, bad ones, and an
//! interruption.

#[path = "common/schema.rs"]
mod schema;
#[path = "common/stuck.rs"]
mod stuck;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tcpecho_lab::client::Client;
use tcpecho_lab::compare::environment::processors;
use tcpecho_lab::compare::result::{Comparison, Outcome};
use tcpecho_lab::observe::processes;
use tcpecho_lab::skip::{skip, strace_works};
use tcpecho_lab::wait::eventually;

use schema::Schema;
use stuck::{is_stuck, stuck};

const SOON: Duration = Duration::from_secs(60);

/// Echoes, and does what its second argument says besides.
const SERVER: &str = r#"
import os, socket, sys, threading, time
port, how = int(sys.argv[1]), sys.argv[2]
if how == "ends":
    sys.exit("no such luck")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
if how == "deaf":
    time.sleep(100)
listener.listen(100)
if how == "starved":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
def serve(client):
    with client:
        while data := client.recv(65536):
            if how == "hangs":
                continue
            client.sendall(data.swapcase() if how == "wrong" else data)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"#;

/// A directory for one test; gone when dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tcpecho-{name}-{}", std::process::id()));
        fs::create_dir(&path).context("a new directory")?;
        fs::write(path.join("echo.py"), SERVER)?;
        Ok(Self(path))
    }

    /// An argument of --server.
    fn server(&self, how: &str) -> String {
        format!(
            "{how}=exec python3 {}/echo.py {{port}} {how}",
            self.0.display()
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn compare(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpecho-lab"));
    Ok(command.arg("compare").args(args).output()?)
}

/// Two rounds of the smallest workload, and what came of it as JSON, which is what the schema says.
fn compared(args: &[&str]) -> Result<(Comparison, Output)> {
    let usual = [
        "--rounds",
        "2",
        "--duration",
        "300ms",
        "--export-json",
        "-",
        "--seed",
        "1",
    ];
    let output = compare(&[&usual, args].concat())?;
    let found: Value = serde_json::from_slice(&output.stdout).with_context(|| stderr(&output))?;
    Schema::open("compare")?.check(&found)?;
    Ok((serde_json::from_value(found)?, output))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_models_are_measured_and_accounted_for() -> Result<()> {
    let (found, output) = compared(&["--models", "reactor,fork", "--workload", "echo-small"])?;
    ensure!(output.status.code() == Some(0), "{}", stderr(&output));
    ensure!(found.cells.len() == 2 && !found.interrupted && found.seed == 1);
    for cell in &found.cells {
        ensure!(cell.outcome == Outcome::Measured, "{cell:?}");
        ensure!(cell.rounds.len() == 2 && cell.summary.is_some(), "{cell:?}");
        for round in &cell.rounds {
            ensure!(
                round.echoes > 0 && round.bytes >= 64 * round.echoes,
                "{round:?}"
            );
            // The kernel alone takes more than a microsecond for an echo, and a second has but one.
            let each = round.cpu.total_s() / round.echoes as f64;
            ensure!(
                each > 1e-6 && round.cpu.total_s() < 1.2 * round.measured_s,
                "{round:?}"
            );
            // Where others have the processors, a look at 51 processes may take all the time there is;
            // then they are not told.
            ensure!(
                round.voluntary_switches.is_none_or(|count| count > 0),
                "{round:?}"
            );
            ensure!(
                round.footprint.pss > 0 && round.at_rest.pss > 0,
                "{round:?}"
            );
        }
    }
    for cell in found.cells.iter().filter(|_| strace_works()) {
        let calls = cell.calls.as_ref().context("calls are counted")?;
        // One to read and one to write, unless too few echoes were counted on a busy machine.
        let twice = |copies: f64| (1.9..2.1).contains(&copies);
        ensure!(
            calls.per_echo > 1.0 && calls.copies.is_none_or(twice),
            "{calls:?}"
        );
    }
    let of = |name: &str| found.cells.iter().find(|cell| cell.contestant == name);
    let processes = |name: &str| of(name).map(|cell| cell.rounds[0].footprint.processes);
    ensure!(processes("reactor") == Some(1) && processes("fork") == Some(51));
    let at_rest = |name: &str| of(name).map(|cell| cell.rounds[0].at_rest.processes);
    ensure!(at_rest("reactor") == Some(1) && at_rest("fork") == Some(1));
    let descriptors = |name: &str| of(name).map(|cell| cell.rounds[0].footprint.descriptors);
    ensure!(
        descriptors("reactor") > Some(50),
        "{:?}",
        descriptors("reactor")
    );
    ensure!(!found.conclusions.is_empty());
    Ok(())
}

#[test]
fn what_a_model_cannot_do_is_no_failure() -> Result<()> {
    let flags = ["--models", "iterative", "--workload", "echo-small,latency"];
    let (found, output) = compared(&flags)?;
    ensure!(output.status.code() == Some(0), "{}", stderr(&output));
    let outcomes: Vec<_> = found.cells.iter().map(|cell| &cell.outcome).collect();
    ensure!(matches!(outcomes[0], Outcome::Cannot { why } if why.contains("1 client at a time")));
    ensure!(outcomes[1] == &Outcome::Measured);
    Ok(())
}

#[test]
fn children_that_have_ended_are_accounted_for() -> Result<()> {
    let (found, output) = compared(&["--models", "fork", "--workload", "connect"])?;
    ensure!(output.status.code() == Some(0), "{}", stderr(&output));
    for round in &found.cells[0].rounds {
        let each = round.cpu.total_s() / round.echoes as f64;
        // A fork and its end take more than the echo; most of it in children that have ended.
        ensure!(each > 50e-6, "{each} s: {round:?}");
        ensure!(round.voluntary_switches > Some(round.echoes), "{round:?}");
    }
    Ok(())
}

#[test]
fn foreign_servers_take_part_and_bad_ones_are_named_in_one_line() -> Result<()> {
    let place = Place::new("compare")?;
    let servers = ["good", "wrong", "ends", "deaf"].map(|how| place.server(how));
    let mut args = vec!["--models", "none", "--workload", "latency"];
    args.extend(
        servers
            .iter()
            .flat_map(|server| ["--server", server.as_str()]),
    );
    let (found, output) = compared(&args)?;
    ensure!(output.status.code() == Some(1), "{}", stderr(&output));
    let good = &found.cells[0];
    ensure!(
        good.outcome == Outcome::Measured && good.rounds.len() == 2,
        "{good:?}"
    );
    // SIGTERM reaches a server that does nothing about it.
    let killed = found
        .warnings
        .iter()
        .find(|warning| warning.contains("killed"));
    ensure!(killed.is_none(), "{killed:?}");
    for (cell, expected) in found.cells[1..].iter().zip([
        "wrong-bytes: connection 0: 0x",
        "it ended at once: exit status: 1 (it said: no such luck)",
        "it does not accept on port",
    ]) {
        let Outcome::Failed { why } = &cell.outcome else {
            anyhow::bail!("{cell:?}");
        };
        ensure!(
            why.contains(expected) && !why.contains('\n'),
            "{}: {why}",
            cell.contestant
        );
        let line = format!("{} failed at latency: {why}", cell.contestant);
        ensure!(stderr(&output).contains(&line), "{}", stderr(&output));
    }
    Ok(())
}

/// A program that never rests, on one processor.
struct Hog(Child);

impl Hog {
    fn on(processor: &str) -> Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", processor, "sh", "-c", "while :; do :; done"]);
        Ok(Self(command.spawn().context("taskset")?))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One whose processor somebody else has is not blamed for that; one that hangs is, even then.
#[test]
fn who_gets_no_processor_is_told_from_who_hangs() -> Result<()> {
    let [first, .., last] = processors()[..] else {
        return skip(
            "who_gets_no_processor_is_told_from_who_hangs",
            "there is but one processor",
        );
    };
    let place = Place::new("starved")?;
    let (starved, hangs) = (place.server("starved"), place.server("hangs"));
    // The server has the first to itself, as far as we are concerned.
    let _hog = Hog::on(&first.to_string())?;
    let both = format!("{first},{last}");
    let mut command = Command::new("taskset");
    command.args(["-c", &both, env!("CARGO_BIN_EXE_tcpecho-lab"), "compare"]);
    command.args(["--models", "none", "--server", &starved, "--server", &hangs]);
    command.args([
        "--workload",
        "latency",
        "--rounds",
        "2",
        "--duration",
        "100ms",
    ]);
    let output = command.args(["--export-json", "-"]).output()?;
    let found: Comparison =
        serde_json::from_slice(&output.stdout).with_context(|| stderr(&output))?;
    let [starved, hangs] = &found.cells[..] else {
        anyhow::bail!("{:?}", found.cells);
    };
    // It may have come to run at the right moment.
    ensure!(
        matches!(
            starved.outcome,
            Outcome::Measured | Outcome::Hindered { .. }
        ),
        "{starved:?}"
    );
    let told = |words: &str| found.warnings.iter().any(|warning| warning.contains(words));
    ensure!(
        starved.hindered.is_empty()
            || told("nothing came back because other programs had the processors"),
        "{:?}",
        found.warnings
    );
    let Outcome::Failed { why } = &hangs.outcome else {
        anyhow::bail!("{hangs:?}");
    };
    ensure!(
        why.contains("timeout: connection 0: nothing more after 0 of 64 bytes"),
        "{why}"
    );
    ensure!(output.status.code() == Some(1), "{}", stderr(&output));
    Ok(())
}

/// A command that ends and leaves a server in the background, out of reach of its process group: that
/// is no server for a comparison, and it is not left running either.
#[test]
fn what_goes_into_the_background_is_ended_too() -> Result<()> {
    let place = Place::new("background")?;
    let script = place.0.join("echo.py");
    let script = script.display();
    let noted = format!("echo $$ >>{}/pids; exec", place.0.display());
    let goes = format!("away=setsid -f sh -c '{noted} python3 {script} {{port}} good'");
    let stays = format!("fails=setsid -f sh -c '{noted} sleep 7777'; sleep 1; exit 1 # {{port}}");
    let args = ["--models", "none", "--workload", "latency"];
    let servers = ["--server", &goes, "--server", &stays];
    let line = [&["compare", "--quick"], &args[..], &servers].concat();
    let lab = Client::plain(env!("CARGO_BIN_EXE_tcpecho-lab"), line).start()?;
    let status = lab.wait(SOON)?;
    let said = lab.stderr();
    ensure!(status.code() == Some(1), "{said}");
    let pids = fs::read_to_string(place.0.join("pids"))?;
    ensure!(pids.lines().count() == 2, "{pids}");
    for pid in pids.lines() {
        ensure!(processes::look(pid.parse()?).is_none(), "{pid}: {said}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_right_starts_nothing() -> Result<()> {
    for (args, told) in [
        (&["--models", "forks"][..], "no model 'forks'"),
        (&["--server", "echo 7"], "{port}"),
        (&["--quick", "--full"], "cannot be used with"),
        (&["--workload", "echo-smal"], "echo-small"),
        (&["--export-json", "/no/such/x"], "cannot write /no/such/x"),
        (
            &["--export-json", "-", "--export-csv", "-"],
            "written twice",
        ),
        (&["--rounds", "0"], "--rounds"),
    ] {
        let output = compare(args)?;
        let said = stderr(&output);
        ensure!(output.status.code() == Some(2), "{args:?}: {said}");
        ensure!(
            said.contains(told) && said.lines().count() == 1,
            "{args:?}: {said}"
        );
    }
    let output = compare(&["--models", "fork --no-such-flag"])?;
    let said = stderr(&output);
    ensure!(
        output.status.code() == Some(2) && said.contains("--no-such-flag"),
        "{said}"
    );
    Ok(())
}

fn lives(pid: i32) -> bool {
    processes::look(pid).is_some_and(|process| process.state != 'Z')
}

/// Nobody can do anything about kill -9; who is left behind must find out.
#[test]
fn kill_9_leaves_nothing_behind() -> Result<()> {
    let place = Place::new("killed")?;
    let script = place.0.join("echo.py");
    let script = script.display();
    let pids = place.0.join("pids");
    let noted = format!("echo $$ >>{}; exec", pids.display());
    // One that leaves its process group, its session and its parent, and one that stays.
    let server = format!(
        "both=setsid -f sh -c '{noted} sleep 7777'; {noted} python3 {script} {{port}} good"
    );
    let what = ["--workload", "latency", "--duration", "1m"];
    let line = [
        &["compare", "--models", "none", "--server", &server],
        &what[..],
    ]
    .concat();
    let lab = Client::plain(env!("CARGO_BIN_EXE_tcpecho-lab"), line).start()?;
    let started = eventually("a server under load", SOON, || {
        let tree = processes::tree(lab.pid());
        let is = |process: &processes::Process| process.comm == "tcpecho-load";
        let noted = fs::read_to_string(&pids).unwrap_or_default();
        (tree.iter().any(is) && noted.lines().count() == 2).then_some((tree, noted))
    });
    let (tree, noted) = started.with_context(|| lab.to_string())?;
    lab.signal(Signal::SIGKILL)?;
    let noted = noted.lines().map(str::parse::<i32>);
    let pids = noted.chain(tree.iter().map(|process| Ok(process.pid)));
    for pid in pids {
        let pid = pid?;
        eventually("its end", SOON, || (!lives(pid)).then_some(()))
            .with_context(|| format!("{pid}: {tree:?}"))?;
    }
    Ok(())
}

/// With a stdout that nobody reads, the first signal is enough: during a run, and when all is over.
#[test]
fn a_signal_ends_it_though_nobody_reads_what_it_says() -> Result<()> {
    let usual = [
        "compare",
        "--models",
        "poll",
        "--workload",
        "latency",
        "--rounds",
        "1",
    ];
    for duration in ["1m", "100ms"] {
        let (_ours, theirs) = stuck()?;
        let line = [&usual[..], &["--duration", duration]].concat();
        let lab = Client::plain(env!("CARGO_BIN_EXE_tcpecho-lab"), line);
        let lab = lab.stdout(theirs).start()?;
        let ready = eventually("the time to end it", SOON, || match duration {
            "1m" => {
                let tree = processes::tree(lab.pid());
                tree.iter().find(|p| p.comm == "tcpecho-load").map(drop)
            }
            _ => is_stuck(lab.pid()).then_some(()),
        });
        ready.with_context(|| lab.to_string())?;
        lab.signal(Signal::SIGTERM)?;
        let status = lab.wait(Duration::from_secs(10))?;
        ensure!(status.signal() == Some(Signal::SIGTERM as i32), "{status}");
    }
    Ok(())
}

#[test]
fn an_interruption_leaves_nothing_behind() -> Result<()> {
    let place = Place::new("interrupt")?;
    let file = place.0.join("x.json");
    let file = file.to_str().context("a name")?;
    let line = [
        "compare",
        "--models",
        "fork",
        "--workload",
        "echo-small",
        "--export-json",
        file,
    ];
    let lab = Client::plain(env!("CARGO_BIN_EXE_tcpecho-lab"), line).start()?;
    let started = eventually("a server with children under load", SOON, || {
        let tree = processes::tree(lab.pid());
        let are = |name: &str| tree.iter().filter(|p| p.comm == name).count();
        (are("tcpechod") > 10 && are("tcpecho-load") == 1).then_some(tree)
    })?;
    lab.signal(Signal::SIGINT)?;
    let status = lab.wait(SOON)?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32));
    ensure!(!started.iter().any(|process| lives(process.pid)));
    let said = String::from_utf8_lossy(&lab.stdout()).into_owned();
    ensure!(said.contains("interrupted"), "{said}");
    let told = lab.stderr();
    ensure!(told.contains(&format!("not written: {file}")), "{told}");
    ensure!(
        fs::read_dir(&place.0)?.count() == 1,
        "only the server of the test is there"
    );
    Ok(())
}
