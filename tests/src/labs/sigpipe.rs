//! Writing to a connection that is no more: SIGPIPE, EPIPE, ECONNRESET (UNP 5.13).
//!
//! First the client that writes twice, with the three things that can become of the signal. Then
//! the server, where parent and child have a counter each. Then the question which of the two
//! errors it is: that depends on whether a FIN came before the RST. How a child has ended is read
//! from its zombie.

use std::fs;

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::signal::Signal;

use crate::labs::crowd::{Crowd, contains, in_words, outcomes, signal_set};
use crate::narrate::{Act, Chapter, Lab, Scene, Typed, View, shell};
use crate::observe::calls::CallRecord;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "sigpipe",
    title: "Writing to a connection that is no more",
    sections: "5.13",
    chapter: Chapter::Signals,
    takes: 2,
    needs: &[],
    about: "A program writes to a connection that the other side has reset. What does it learn? \
        Does it live to learn it? And what if it ignores the signal, or catches it?",
    acts: || {
        vec![
            Box::new(by_default(DEFAULT)) as Box<dyn Scene>,
            Box::new(ignored(IGNORE)),
            Box::new(counted(COUNTING)),
            Box::new(fin_and_rst(ZOMBIES)),
            Box::new(rst_alone(ZOMBIES)),
        ]
    },
};

const SERVER: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";
/// The client that dies of it.
pub const DEFAULT: &str =
    "tcpecho --mode blocking --split-write 200 --sigpipe default 127.0.0.1 {port}";
/// The client that does not.
pub const IGNORE: &str =
    "tcpecho --mode blocking --split-write 200 --sigpipe ignore 127.0.0.1 {port}";
/// Each process counts.
pub const COUNTING: &str = "tcpechod --model fork --sigpipe count --bind 127.0.0.1 {port}";
/// Nobody waits for the children, so that one can see how they ended.
pub const ZOMBIES: &str = "tcpechod --model fork --mistake no-reaper --sigpipe default {port}";

/// A client that leaves SIGPIPE as it is.
pub fn by_default(client: &'static str) -> Act<Crowd> {
    write_twice("the client that writes twice", client)
        .predict(
            "The user types a line. The client writes one byte, rests for 200 ms, and writes the \
             others. What becomes of it?",
            &[
                ("exit status 3", "it says \"server terminated prematurely\""),
                ("exit status 4", "it says \"connection reset\""),
                ("killed by SIGPIPE", "it is killed, and says nothing"),
            ],
        )
        .line("Type a line.", 0, "another line")
        .answer("the client", "killed by SIGPIPE", |c| c.fate_of_client(0))
        .expect("what it had to say", "nothing", said)
        .expect("its writes", "write = 1, write ...", writes)
        .show("The whole story on one time line:", |c| {
            c.ladder(0, "connection, echo, kill")
        })
        .explain(
            "The first write succeeds: the FIN only said that the server sends no more. The byte \
             finds nobody there, so the answer is RST. The second write meets a connection that \
             has been reset: that raises SIGPIPE, and by default it kills. The call never \
             returned. In a shell, echo $? says 141: 128 + 13, the number of SIGPIPE. (Some shells \
             say Broken pipe.) Whoever does not look learns nothing.",
        )
}

/// A client that ignores it.
pub fn ignored(client: &'static str) -> Act<Crowd> {
    write_twice("the same client, SIGPIPE ignored", client)
        .line("Type a line.", 0, "another line")
        .expect("its writes", "write = 1, write = -1 EPIPE", writes)
        .expect("the client", "exit status 3", |c| c.fate_of_client(0))
        .show("It says:", |c| Ok(View::Printed(c.client_says(0)?)))
        .explain(
            "Now the write fails with EPIPE, and the program can say what happened.\n\n\
             The book (5.13): write to a connection that has received an RST: SIGPIPE; caught or \
             ignored: EPIPE. This kernel: the same, after a FIN and an RST. (The book rests for a \
             second between the writes; on one host 200 ms are long enough.)",
        )
}

/// A client whose server has just died.
fn write_twice(title: &'static str, client: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, the server.", SERVER)
        .client(
            "In terminal 2, a client that writes each line in two parts.",
            client,
        )
        .line("Type a line to see that all is well.", 0, "hello")
        .expect("what came back", "hello", |c| c.echoed(0))
        .observe(
            "The signals that it ignores and catches. SIGPIPE is number 13: bit 12.",
            "grep -E 'Sig(Ign|Cgt)' /proc/{client}/status",
            |c| {
                let set = |name| signal_set(c.client(0)?.pid(), name);
                let (ignored, caught): (Result<u64>, _) = (set("SigIgn"), set("SigCgt"));
                Ok(format!(
                    "SigIgn: {:016x}\nSigCgt: {:016x}\n",
                    ignored?, caught?
                ))
            },
        )
        .act(
            "Kill the child that serves it.",
            shell("kill -KILL {child}"),
            |c| c.signal_child(0, Signal::SIGKILL),
        )
        .expect(
            "sockets, server's / client's",
            "FIN-WAIT-2 / CLOSE-WAIT",
            |c| c.states(0),
        )
}

/// Parent and child count their signals, each for itself.
pub fn counted(server: &'static str) -> Act<Crowd> {
    Act::open("who counts? Parent and child", Crowd::open)
        .server("A server that catches SIGPIPE, and counts.", server)
        .client("And a client.", "tcpecho 127.0.0.1 {port}")
        .expect("who has a handler for SIGPIPE", "parent and child", |c| {
            let catches = |pid| Ok(contains(signal_set(pid, "SigCgt")?, Signal::SIGPIPE));
            let parent: Result<bool> = catches(c.server()?.pid());
            Ok(match (parent?, catches(c.child(0)?.pid)?) {
                (true, true) => "parent and child",
                (true, false) => "the parent",
                (false, true) => "the child",
                (false, false) => "nobody",
            })
        })
        .explain("Fork has copied the handler, and the variable in which it counts.")
        .predict(
            "SIGPIPE can be sent by hand as well: twice to the child, once to the parent. What do \
             they count?",
            &[
                ("parent 1, child 2", "each its own"),
                ("parent 3, child 3", "both the same: it is one variable"),
                (
                    "parent 1, child 0",
                    "the child nothing: handlers belong to the parent",
                ),
            ],
        )
        .act("To the child.", shell("kill -PIPE {child}"), |c| {
            c.signal_child(0, Signal::SIGPIPE)
        })
        .expect("counted", "parent 0, child 1", counts)
        .act("To the child again.", shell("kill -PIPE {child}"), |c| {
            c.signal_child(0, Signal::SIGPIPE)
        })
        .expect("counted", "parent 0, child 2", counts)
        .signal(
            "To the parent.",
            shell("kill -PIPE {server}"),
            Signal::SIGPIPE,
        )
        .answer("counted", "parent 1, child 2", counts)
        .show("The server's log:", |c| {
            Ok(View::Printed(c.logged("SIGPIPE")?.join("\n")))
        })
        .line("Is the client still served?", 0, "still there?")
        .expect("what came back", "still there?", |c| c.echoed(0))
        .explain(
            "A signal goes to one process. Parent and child have had the same variable since \
             fork, and two copies of it since one of them changed it. Nobody wrote to anybody \
             here: a signal does not tell where it comes from.",
        )
}

/// A client that has said goodbye, and is reset.
pub fn fin_and_rst(server: &'static str) -> Act<Crowd> {
    reset_by_peer("a server writes: after FIN and RST", server, true)
        .answer("how the child ended", "killed by SIGPIPE", end_of_child)
        .expect("what it did", "read = 6, write ...", |c| {
            Ok(in_words(&moved(c)?))
        })
        .explain(
            "It read the 6 bytes that were still there, and was killed when it wrote them back. \
             (This server never waits for its children: a zombie still tells how it ended.)",
        )
}

/// A client that is reset without a goodbye.
pub fn rst_alone(server: &'static str) -> Act<Crowd> {
    reset_by_peer("the same after an RST alone", server, false)
        .answer("how the child ended", "exit status 0", end_of_child)
        .expect("what it did", "read = 6, write = -1 ECONNRESET", |c| {
            Ok(in_words(&moved(c)?))
        })
        .explain(
            "No SIGPIPE. What had arrived before the RST can still be read. The first call after \
             that fails with ECONNRESET, if the RST comes out of the blue: here the write. Only the \
             next one would raise the signal. After a FIN the RST is remembered as EPIPE.\n\n\
             The book (5.13) has only the first case. Verdict: SIGPIPE is not the only news of a \
             reset. Ignore it, look at what write returns, and expect both errors.",
        )
        .try_it(
            "1$ tcpechod --model fork\n\
             2$ tcpecho --mode blocking --split-write 1s --sigpipe default localhost\n\
             2> hello\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (the child)\n\
             2> hello again                               (nothing)\n\
             2$ echo $?                                   (128 + SIGPIPE)\n\
             1> ^C\n\
             1$ tcpechod --model fork --sigpipe count\n\
             3$ kill -PIPE $(pgrep -o tcpechod)           (the parent; and look at 1)",
        )
        .read("Read: UNP 5.13; signal(7); send(2), MSG_NOSIGNAL and EPIPE.")
}

/// A client sends and is gone before the server, held still, can answer.
fn reset_by_peer(title: &'static str, server: &'static str, fin: bool) -> Act<Crowd> {
    let goodbye = if fin {
        "It sends 6 bytes, its FIN, and then an RST."
    } else {
        "It sends 6 bytes and then an RST, without a FIN."
    };
    Act::open(title, Crowd::open)
        .server("A server that leaves SIGPIPE as it is.", server)
        .act("A client, made of a bare socket.", Typed::Nothing, |c| {
            c.connect(1)
        })
        .expect("parent and child", "parent S, child S", Crowd::census)
        .act("The child is stopped.", shell("kill -STOP {child}"), |c| {
            c.signal_child(0, Signal::SIGSTOP)
        })
        .expect("parent and child", "parent S, child T", Crowd::census)
        .act(goodbye, Typed::Nothing, move |c| {
            let mut peer = c.peers().pop().context("no client")?;
            peer.send(b"hello\n")?;
            peer.wait_until_delivered()?;
            if fin {
                peer.half_close()?;
            }
            peer.reset();
            Ok(())
        })
        .predict(
            "Now the child goes on. It reads the 6 bytes and writes them back to nobody. How does \
             it end?",
            &[
                (
                    "killed by SIGPIPE",
                    "the write raises SIGPIPE, which kills it",
                ),
                (
                    "exit status 0",
                    "the write fails, and it ends in good order",
                ),
            ],
        )
        .act("The child goes on.", shell("kill -CONT {child}"), |c| {
            c.signal_child(0, Signal::SIGCONT)
        })
}

/// What the client has said on stderr.
fn said(crowd: &Crowd) -> Result<String> {
    let said = crowd.client_says(0)?;
    Ok(if said.is_empty() {
        "nothing".into()
    } else {
        said
    })
}

/// What the client's writes to the connection returned.
fn writes(crowd: &Crowd) -> Result<String> {
    let mut calls = crowd.calls_of_client(0)?;
    calls.retain(|call| call.call == "write" && call.fd > 2);
    Ok(in_words(&outcomes(calls)))
}

/// What the child's reads and writes have returned since it went on.
fn moved(crowd: &Crowd) -> Result<Vec<CallRecord>> {
    let child = crowd.child(0)?.pid;
    let mut calls = crowd.calls_of_server()?;
    calls.retain(|call| call.pid == child && matches!(&*call.call, "read" | "write"));
    Ok(outcomes(calls))
}

/// How many SIGPIPEs parent and child have counted. Only they know: it is in their log.
fn counts(crowd: &Crowd) -> Result<String> {
    let lines = crowd.logged("SIGPIPE number ")?;
    let of = |pid: i32| {
        let end = format!(" in process {pid}");
        lines.iter().filter(|line| line.ends_with(&end)).count()
    };
    let (parent, child) = (crowd.server()?.pid(), crowd.child(0)?.pid);
    Ok(format!("parent {}, child {}", of(parent), of(child)))
}

/// How the first child has ended: the status that its zombie keeps for wait.
fn end_of_child(crowd: &Crowd) -> Result<String> {
    let child = crowd.child(0)?;
    anyhow::ensure!(
        child.state == 'Z',
        "it has not ended (state {})",
        child.state
    );
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid))?;
    // The last field of proc_pid_stat(5).
    let status = stat.split_whitespace().next_back();
    let status: i32 = status.context("an empty line")?.parse()?;
    Ok(if libc::WIFSIGNALED(status) {
        format!("killed by {}", Signal::try_from(libc::WTERMSIG(status))?)
    } else {
        format!("exit status {}", libc::WEXITSTATUS(status))
    })
}
