//! The verdicts of the labs about signals can fail: each act is performed with a program that does
//! not do what the act expects, and must say so. On plain loopback, where everything but packets
//! is seen as well.

use anyhow::Result;
use tcpecho_lab::labs::{self, dispositions, eintr, one_wait, sigpipe, wait3, zombies};
use tcpecho_lab::narrate::Scene;

use crate::red::{self, red};

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
        {
            let [silent, asks] = dispositions::NOTIFIED;
            dispositions::on_arrival([asks, silent])
        }
            => "runs of its handler should have been 0, but was 1";
        dispositions::on_arrival(["tcpecho-lab actor notified owner", "tcpecho-lab actor notified async"])
            => "runs of its handler should have been 1, but was 0";
    }
}
