//! The verdicts of the labs about who has what (memory, descriptors, a connection, an error) can fail:
//! each act is performed with a program that does not do what the act expects, and must say so.

use anyhow::Result;
use tcpecho_lab::labs::{self, fin_or_reset, inetd, processes_and_threads};
use tcpecho_lab::narrate::Scene;

use crate::red::{self, red};

red! {
    processes_and_threads {
        processes_and_threads::child(processes_and_threads::THREAD)
            => "there are should have been 2 processes, 2 threads, but was 1 process, 2 threads";
        processes_and_threads::thread(processes_and_threads::FORK)
            => "there are should have been 1 process, 2 threads, but was 2 processes, 2 threads";
        {
            let (add, lock) = (processes_and_threads::ADD, processes_and_threads::LOCK);
            processes_and_threads::together([lock, add])
        }
            => "test should have been less than 200, but was 200";
        processes_and_threads::together([processes_and_threads::ADD; 2])
            => "test should have been 200, but was less than 200";
        processes_and_threads::dies_alone(processes_and_threads::THREADS)
            => "nothing on the stage is called {child}";
        processes_and_threads::dies_with_all(processes_and_threads::PROCESSES)
            => "threads of the server should have been 3, but was 1";
    }

    inetd {
        inetd::exec("tcpechod --model fork --bind 127.0.0.1 {port}")
            => "descriptors of it that are the connection should have been 0 1, but was";
        inetd::cat("tcpecho-lab actor inetd 127.0.0.1:{port} sleep 60")
            => "what came back should have been hello, but was nothing";
        inetd::cat("tcpecho-lab actor inetd number 127.0.0.1:{port} sh -c 'exec cat <&$0 >&$0' %d")
            => "descriptors of it that are the connection should have been 0 1 2, but was 0 1";
        inetd::stderr(inetd::CAT)
            => "what came to the client should have been who are you?, but was nothing";
        inetd::by_number(inetd::CAT)
            => "descriptor 2 is should have been not the connection, but was the connection";
        inetd::superserver(Some(inetd::CAT))
            => "the program that serves is should have been tcpechod, but was cat";
    }

    fin_or_reset {
        fin_or_reset::echoed_before(false)
            => "bytes unread at the server should have been 11, but was 0";
        fin_or_reset::end_of_file_first(true)
            => "should have been FIN-WAIT-2 / CLOSE-WAIT, but was gone / gone";
    }
}
