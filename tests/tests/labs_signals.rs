//! The verdicts of the labs about signals can fail: each act is performed with a program that does
//! not do what the act expects, and must say so. On plain loopback, where everything but packets
//! is seen as well.

use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, ensure};
use tcpecho_lab::labs::{self, dispositions, eintr, one_wait, sigpipe, wait3, zombies};
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::narrate::{Lab, Scene};
use tcpecho_lab::netns::Isolation;

/// Acts, and what of them is different first.
type Case = (fn() -> Vec<Box<dyn Scene>>, &'static str);

/// Performs acts of a lab, all at once: most of the time goes into waiting for what does not come.
fn all_differ(lab: &Lab, cases: &[Case]) -> Result<()> {
    thread::scope(|scope| {
        let cases = cases.iter().map(|case| scope.spawn(|| differs(lab, case)));
        let cases: Vec<_> = cases.collect();
        let mut ended = cases.into_iter().map(ScopedJoinHandle::join);
        ended.try_for_each(|case| case.expect("no panic"))
    })
}

fn differs(lab: &Lab, (acts, first): &Case) -> Result<()> {
    let plain = Isolation::Plain("this test wants it so".into());
    let mut quiet = Quiet::new();
    let report = Lab {
        acts: *acts,
        ..*lab
    }
    .perform(&plain, &mut quiet)?;
    let transcript = quiet.transcript();
    ensure!(!report.passed(false), "nothing differs:\n{transcript}");
    let difference = report.differences.first().context("no difference")?;
    ensure!(difference.contains(first), "{difference}\n{transcript}");
    Ok(())
}

/// `lab { act => "what is different first"; ... }`: a test for each lab.
macro_rules! red {
    ($($lab:ident { $($act:expr => $first:expr;)* })*) => {
        $(
            #[test]
            fn $lab() -> Result<()> {
                all_differ(&labs::$lab::LAB, &[
                    $((|| vec![Box::new($act) as Box<dyn Scene>], $first)),*
                ])
            }
        )*
    };
}

const ALIVE: &str = "tcpechod --model fork --sigpipe ignore --bind 127.0.0.1 {port}";
const IGNORED: &str =
    "tcpechod --model fork --mistake no-reaper --sigpipe ignore --bind 127.0.0.1 {port}";

red! {
    zombies {
        zombies::careless(zombies::REAPER)
            => "should have been parent S, child Z, but was parent S";
        zombies::careful(zombies::NO_REAPER)
            => "should have been parent S, but was parent S, child Z";
    }

    one_wait {
        one_wait::held_still(one_wait::LOOP)
            => "zombies should have been 4, but was 0";
        one_wait::cure(one_wait::WAIT_ONCE)
            => "zombies should have been 0, but was 4";
        one_wait::many_times("?", zombies::NO_REAPER, "no")
            => "were all five ever left? should have been no, but was yes";
    }

    wait3 {
        wait3::wrong(wait3::RIGHT)
            => "should have been parent R, child S, but was parent S, child S";
        wait3::right(wait3::SPINS)
            => "the last wait should have been waitpid = 0, but was the server does not come to rest";
    }

    eintr {
        eintr::fatal(eintr::HARMLESS)
            => "the server should have been exit status 1, but was asleep";
        eintr::harmless(eintr::FATAL)
            => "the server should have been asleep, but was";
        eintr::calls(&["accept", "poll"])
            => "without SA_RESTART these fail with EINTR should have been";
    }

    sigpipe {
        sigpipe::by_default(sigpipe::IGNORE)
            => "the client should have been killed by SIGPIPE, but was exit status 3";
        sigpipe::ignored(sigpipe::DEFAULT)
            => "its writes should have been write = 1, write = -1 EPIPE, but was write = 1, write ...";
        sigpipe::counted(ALIVE)
            => "should have been parent and child, but was nobody";
        sigpipe::fin_and_rst(IGNORED)
            => "should have been killed by SIGPIPE, but was exit status 0";
        sigpipe::rst_alone(ALIVE)
            => "how the child ended should have been exit status 0, but was";
    }

    dispositions {
        {
            use dispositions::{COUNT, DEFAULT, IGNORE};
            dispositions::three_clients([IGNORE, DEFAULT, COUNT])
        }
            => "should have been ignored, caught, default, but was ignored, default, caught";
        dispositions::no_choice("tcpecho-lab actor disposed catch=USR1")
            => "not caught should have been SIGKILL, SIGSTOP, but was SIGHUP, SIGINT";
        dispositions::by_default("tcpecho-lab actor disposed ignore=TERM")
            => "killed by should have been";
        dispositions::inherited("tcpecho-lab actor disposed catch=USR1 ignore=USR2 heirs")
            => "should have been caught, ignored, blocked, but was caught, ignored, default";
        {
            let [silent, deaf] = dispositions::MORTAL;
            dispositions::children([deaf, silent])
        }
            => "zombies should have been 1, but was 0";
    }
}
