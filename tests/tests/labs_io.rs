//! The verdicts of the labs about waiting and I/O can fail: each act is performed with a program
//! that does not do what the act expects, and must say so.

#[path = "common/red.rs"]
mod red;

use anyhow::Result;
use red::red;
use tcpecho_lab::labs::{self, second_client};
use tcpecho_lab::narrate::Scene;

red! {
    second_client {
        second_client::waiting("tcpechod --model thread --bind 127.0.0.1 {port}")
            => "who has the server's end should have been nobody, but was parent";
        second_client::full(second_client::ITERATIVE)
            => "the third client's socket should have been SYN-SENT";
    }
}
