//! Every lab, performed as a test: in namespaces, and on plain loopback, where it must still hold
//! in everything that can be seen there. A failure prints the whole performance.

use anyhow::{Context, Result, ensure};
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::netns::{self, Isolation};
use tcpecho_lab::{every_lab, labs};

fn perform(name: &str, place: &Isolation, strict: bool) -> Result<()> {
    let lab = labs::find(name).context("no such lab")?;
    let mut quiet = Quiet::new();
    let report = lab.perform(place, &mut quiet)?;
    let facts = report.held + report.differences.len();
    ensure!(facts > 0, "{name} asserts nothing");
    let transcript = quiet.transcript();
    ensure!(report.passed(strict), "{transcript}");
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
                        perform(stringify!($lab), &Isolation::Namespaces, true)
                    })
                }
            )*
        }

        mod on_plain_loopback {
            use super::*;
            $(
                #[test]
                fn $lab() -> Result<()> {
                    let plain = Isolation::Plain("this test wants it so".into());
                    perform(stringify!($lab), &plain, false)
                }
            )*
        }
    };
}

every_lab!(test_each);
