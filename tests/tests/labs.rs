//! Every lab, performed as a test: in namespaces, and on plain loopback, where it must still hold
//! in everything that can be seen there. A failure prints the whole performance.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tcpecho_lab::apart;
use tcpecho_lab::client::Client;
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::narrate::{Need, Report};
use tcpecho_lab::netns::{self, Isolation};
use tcpecho_lab::observe::processes;
use tcpecho_lab::wait::eventually;
use tcpecho_lab::{every_lab, labs};

const SOON: Duration = Duration::from_secs(20);

fn perform(name: &str, place: &Isolation, strict: bool) -> Result<Report> {
    let lab = labs::find(name).context("no such lab")?;
    let mut quiet = Quiet::new();
    let report = lab.perform(place, &mut quiet)?;
    // A lab of several hosts has nothing to show on one.
    let facts = report.held + report.differences.len() + report.skipped.len();
    ensure!(facts > 0, "{name} asserts nothing");
    let transcript = quiet.transcript();
    ensure!(report.passed(strict), "{transcript}");
    Ok(report)
}

/// What is skipped without namespaces is said in the list of labs, and nothing else is.
fn needs_are_told(report: &Report) -> Result<()> {
    let lab = labs::find(&report.lab).context("no such lab")?;
    let in_namespaces = |need: &Need| matches!(need, Need::Namespaces | Need::Packets);
    let skips = !report.skipped.is_empty();
    ensure!(
        skips || !lab.needs.iter().any(in_namespaces),
        "nothing is skipped: {:?}",
        lab.needs
    );
    ensure!(
        !skips || !lab.needs.is_empty(),
        "needed: {:?}",
        report.skipped
    );
    Ok(())
}

macro_rules! test_each {
    ($($lab:ident)*) => {
        mod in_namespaces {
            use super::*;
            $(
                #[test]
                fn $lab() -> Result<()> {
                    netns::test(concat!("in_namespaces::", stringify!($lab)), || {
                        perform(stringify!($lab), &Isolation::Namespaces, true).map(drop)
                    })
                }
            )*
        }

        mod on_plain_loopback {
            use super::*;
            $(
                #[test]
                fn $lab() -> Result<()> {
                    apart::test(concat!("on_plain_loopback::", stringify!($lab)), || {
                        let plain = Isolation::Plain("this test wants it so".into());
                        let report = perform(stringify!($lab), &plain, false)?;
                        needs_are_told(&report)
                    })
                }
            )*
        }
    };
}

every_lab!(test_each);

/// Interrupts `tcpecho-lab run ... --step` when its server and its client run.
fn interrupt(how: &[&str]) -> Result<()> {
    let line = ["run", "premature-termination", "--step"];
    let lab = Client::plain(env!("CARGO_BIN_EXE_tcpecho-lab"), line.iter().chain(how)).start()?;
    lab.write(b"\n\n\n")?;
    let started = eventually("server, child and client", SOON, || {
        let tree = processes::tree(lab.pid());
        let ours = tree
            .iter()
            .filter(|p| matches!(&*p.comm, "tcpechod" | "tcpecho"));
        (ours.count() == 3).then_some(tree)
    })?;
    lab.signal(Signal::SIGINT)?;
    lab.wait(SOON)?;
    eventually("the end of all of them", SOON, || {
        let ended = |pid| processes::look(pid).is_none_or(|p| p.state == 'Z');
        started.iter().all(|p| ended(p.pid)).then_some(())
    })
}

#[test]
fn an_interrupt_leaves_nothing_behind() -> Result<()> {
    interrupt(&[]).context("in namespaces, if there are any")?;
    interrupt(&["--plain"]).context("on plain loopback")
}
