//! The verdicts of `find-the-bug` can fail: each act is performed with a program that does not make
//! the listing's mistake, and must say so.

use anyhow::Result;
use tcpecho_lab::labs::{self, find_the_bug};
use tcpecho_lab::narrate::Scene;

use crate::red::{self, red};

red! {
    find_the_bug {
        find_the_bug::close_in_loop(find_the_bug::ITERATIVE)
            => "the client should have been exit status 3, but was asleep";
        find_the_bug::one_client(find_the_bug::ITERATIVE)
            => "the second client should have been exit status 1, but was asleep";
        find_the_bug::no_restart(find_the_bug::RESTART)
            => "accept should have been EINTR, but was asleep";
        find_the_bug::words(find_the_bug::LINES)
            => "what the server read should have been read = 5, read = 2, but was read = 8";
        find_the_bug::printf(find_the_bug::WRITES)
            => "what came should have been some lines twice, but was each line once";
        find_the_bug::nameless(true)
            => "accept should have been accept = -1 EINVAL, but was accept = -1 EAGAIN";
        find_the_bug::same_pointer(false)
            => "what stands in addr should have been family 16, port 0, but was family 2, the client's port";
        find_the_bug::locals(find_the_bug::USUAL)
            => "it should have been killed by SIGSEGV, but was asleep";
    }
}
