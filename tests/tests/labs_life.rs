//! The labs of the group "Life and death of a connection" can fail: each is performed with something
//! else happening than it tells, and must say so.

use anyhow::{Result, ensure};
use tcpecho_lab::labs::normal_life;
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::narrate::{Lab, Scene};
use tcpecho_lab::netns::{self, Isolation};

/// Performs the lab with these acts in namespaces; it must find that `what` differs.
fn differs(test: &str, lab: &Lab, acts: fn() -> Vec<Box<dyn Scene>>, what: &str) -> Result<()> {
    netns::test(test, || {
        let mut quiet = Quiet::new();
        let lab = Lab { acts, ..*lab };
        let report = lab.perform(&Isolation::Namespaces, &mut quiet)?;
        let found = report.differences.iter().any(|d| d.starts_with(what));
        ensure!(found, "{what}: {report}\n{}", quiet.transcript());
        Ok(())
    })
}

#[test]
fn normal_life_with_a_server_that_never_closes() -> Result<()> {
    differs(
        "normal_life_with_a_server_that_never_closes",
        &normal_life::LAB,
        || normal_life::acts(&["--mistake", "leak-connfd"]),
        "sockets, server's / client's should have been gone / TIME-WAIT, but was CLOSE-WAIT / FIN-WAIT-2",
    )
}
