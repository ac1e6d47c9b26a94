//! The verdicts of the labs about waiting and I/O can fail: each act is performed with a program
//! that does not do what the act expects, and must say so.

use std::net::Shutdown;

use anyhow::Result;
use tcpecho_lab::labs::{
    self, nagle, one_stalls_all, pools, reference_counts, second_client, select_limit, short_write,
    stdio_trap,
};
use tcpecho_lab::narrate::Scene;
use tcpecho_lab::netns::{self, Isolation};

use crate::red::{self, red};

red! {
    second_client {
        second_client::waiting("tcpechod --model thread --bind 127.0.0.1 {port}")
            => "who has the server's end should have been nobody, but was parent";
    }

    reference_counts {
        reference_counts::closed(reference_counts::FORGETS)
            => "who has the server's end should have been child, but was parent and child";
        reference_counts::forgotten(reference_counts::CLOSES)
            => "who has the server's end should have been parent and child, but was child";
        reference_counts::exhausted(reference_counts::CLOSES)
            => "served should have been as many as descriptors were free, but was all";
        reference_counts::two_descriptors(Shutdown::Read)
            => "should have been FIN-WAIT-2 / CLOSE-WAIT, but was ESTAB / ESTAB";
    }

    pools {
        pools::processes_in_advance("tcpechod --model fork --bind 127.0.0.1 {port}")
            => "before any client should have been parent S, children S S S, but was parent S";
        pools::threads_in_advance("tcpechod --model thread-pool --workers 4 --bind 127.0.0.1 {port}")
            => "should have been 4, but was 5";
        pools::turns(pools::PREFORK)
            => "shares of the workers should have been ten each, give or take one, but was 13 13 14";
    }

    one_stalls_all {
        one_stalls_all::stalled(one_stalls_all::LOOP)
            => "what has come back to it should have been hello, but was hello still there?";
        one_stalls_all::served("?", one_stalls_all::BLOCKS, "?")
            => "what has come back to it should have been hello still there?, but was hello";
    }

    nagle {
        nagle::slow("?", nagle::NODELAY)
            => "half of the lines took should have been 20 ms and more, but was less than 20 ms";
        nagle::slow("?", nagle::JOINED)
            => "half of the lines took should have been 20 ms and more, but was less than 20 ms";
        nagle::quick("?", nagle::TWICE, "1 5", "?")
            => "half of the lines took ... or less should have been less than 20 ms, but was";
    }

    stdio_trap {
        stdio_trap::trap(stdio_trap::CURED)
            => "what came back should have been one, but was one two three";
        stdio_trap::cure(stdio_trap::PIPED)
            => "what came back should have been one two three, but was one";
    }

    select_limit {
        select_limit::refused("tcpechod --model poll --bind 127.0.0.1 {port}")
            => "the first that is not served would be descriptor should have been 1024, but was none";
        select_limit::no_limit("tcpechod --model select --bind 127.0.0.1 {port}")
            => "the first that is not served would be descriptor should have been none, but was 1024";
    }

    short_write {
        short_write::calls(10)
            => "it took should have been a part, but was all";
        short_write::forgetful("tcpechod --bind 127.0.0.1 {port}")
            => "came back should have been not all, but was all";
        short_write::mixed("tcpechod --model thread --bind 127.0.0.1 {port}")
            => "they get should have been each other's bytes, but was their own bytes";
    }
}

/// In a process of its own: nobody else has descriptor 500 there.
#[test]
fn select_limit_with_a_descriptor_that_fits() -> Result<()> {
    netns::test("io::select_limit_with_a_descriptor_that_fits", || {
        let acts = || vec![Box::new(select_limit::beyond(500)) as Box<dyn Scene>];
        let first = "the variable behind the set should have been 1001, but was 1000";
        red::differs(&select_limit::LAB, &(acts, first), &Isolation::Namespaces)
    })
}
