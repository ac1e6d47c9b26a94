//! The server's process dies while the client waits for the keyboard (UNP 5.12, 5.13, 6.4).
//!
//! The same death twice. The blocking client is deaf to it until somebody types; the multiplexed
//! client hears it at once. Asserted are the states of both sockets, the packets, the client's
//! system calls and its exit status; what the client prints is shown, not asserted.

use std::time::Duration;

use tcpecho_common::Model;

use crate::labs::pair::{Pair, in_words};
use crate::narrate::{Act, Chapter, Expected, Lab, Need, Scene, keys, shell};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "premature-termination",
    title: "The server dies: who notices, and when?",
    sections: "5.12, 5.13, 6.4",
    chapter: Chapter::Trouble,
    takes: 2,
    needs: &[Need::Packets],
    about: "A client talks to a forking server. The process that serves it is killed. The kernel \
        tells the client's kernel at once, with a FIN. But when does the client program learn of \
        it? That depends on where it waits.",
    acts: || vec![Box::new(deaf()) as Box<dyn Scene>, Box::new(attentive())],
};

const PS: &str = "ps -o pid,ppid,stat,wchan:20,comm -p {pids}";
const SS: &str = "ss -tan | grep -E 'State|:{port} '";
const KILL: &str = "kill -KILL {child}";
const QUESTION: &str = "The child is about to be killed. Nobody will touch the keyboard. What does \
    the client do?";
const CHOICES: &[(&str, &str)] = &[
    ("asleep", "it sleeps on and says nothing"),
    (
        "exit status 3",
        "it says \"server terminated prematurely\" and ends",
    ),
    ("exit status 4", "it says \"connection reset\" and ends"),
];

/// Long enough for a class to see that nothing happens.
const A_WHILE: Duration = Duration::from_secs(1);

fn deaf() -> Act<Pair> {
    opening("the client that waits for the keyboard", "blocking")
        .observe_still(
            "Three processes. Who waits where?",
            PS,
            Pair::ps,
            Pair::moment,
        )
        .expect(
            "who sleeps where",
            "server accept, child read(connection), client read(keyboard)",
            Pair::who_sleeps_where,
        )
        .explain(
            "All are asleep: the server in accept, its child in a read from the connection, the \
             client in a read from the terminal. WCHAN is the kernel function each one sleeps in.",
        )
        .predict(QUESTION, CHOICES)
        .act(
            "Kill the child. It gets no chance to say goodbye.",
            shell(KILL),
            Pair::kill_child,
        )
        .wait("Wait a second. Nobody types.", A_WHILE)
        .answer("the client", "asleep", Pair::fate)
        .expect(
            "sockets, server's / client's",
            "FIN-WAIT-2 / CLOSE-WAIT",
            Pair::states,
        )
        .expect("packets since", "server FIN,ACK - client ACK", |p| {
            p.exchange_since(p.killed_at()?)
        })
        .expect("children the server still has", 0, Pair::children)
        .observe("The two ends of one connection disagree.", SS, Pair::ss)
        .explain(
            "When a process dies, the kernel closes its descriptors: that sent the FIN. The \
             client's kernel acknowledged it and knows. Recv-Q 1 is the end of file, waiting to \
             be read. The parent got SIGCHLD and cleared the child away.",
        )
        .observe_still(
            "The client sleeps where it slept before.",
            PS,
            Pair::ps,
            Pair::moment,
        )
        .expect(
            "who sleeps where",
            "server accept, client read(keyboard)",
            Pair::who_sleeps_where,
        )
        .predict(
            "Now the user types a line. Which call tells the client that the server is gone?",
            &[
                ("write = -1 EPIPE", "the write: it fails with EPIPE"),
                (
                    "read = -1 ECONNRESET",
                    "the read after it: it fails with ECONNRESET",
                ),
                ("read = 0", "the read after it: it returns 0, end of file"),
            ],
        )
        .act("Type a line.", keys("another line"), |p| {
            p.type_line("another line")
        })
        .expect("the write of its 13 bytes", "write = 13", |p| {
            Ok(in_words(
                &p.call_after(p.typed_at()?, |c| c.call == "write")?,
            ))
        })
        .expect("packets since", "client PSH,ACK - server RST", |p| {
            p.exchange_since(p.typed_at()?)
        })
        .expect(
            "which came first, the RST or the read",
            "the RST",
            Pair::rst_or_read,
        )
        .or_known("the read", "the kernel delivered the RST a moment later")
        .answer("the first call with bad news", "read = 0", |p| {
            Ok(in_words(&p.call_after(p.typed_at()?, |c| c.result <= 0)?))
        })
        .expect("the client", "exit status 3", Pair::fate)
        .expect(
            "the client spoke _ after the FIN",
            Expected::AtLeast(A_WHILE),
            Pair::said_after_fin,
        )
        .expect("sockets, server's / client's", "gone / gone", Pair::states)
        .show("Only now it says:", Pair::client_says)
        .show("The whole story on one time line:", Pair::ladder)
        .explain(
            "The write succeeds: a FIN only says that the other side will not send any more, so \
             sending to it is allowed. There is nobody left to read, so the answer is RST.\n\n\
             The book (5.12) says: read returns 0 if it comes before the RST, ECONNRESET if it \
             comes after. This kernel returns 0 in either case: once Linux has received a FIN, \
             end of file is what read reports, whatever comes later.\n\n\
             A second write would have raised SIGPIPE (5.13): that is for writing to a connection \
             that has been reset.",
        )
}

fn attentive() -> Act<Pair> {
    opening("the client that waits for both", "multiplexed")
        .observe_still(
            "Three processes again. Where is the client?",
            PS,
            Pair::ps,
            Pair::moment,
        )
        .expect(
            "who sleeps where",
            "server accept, child read(connection), client epoll_wait",
            Pair::who_sleeps_where,
        )
        .explain(
            "The server's side is as before. The client now sleeps in epoll: it waits for the \
             keyboard and for the connection at the same time (UNP 6.4 uses select).",
        )
        .predict(QUESTION, CHOICES)
        .act("Kill the child.", shell(KILL), Pair::kill_child)
        .answer("the client", "exit status 3", Pair::fate)
        .expect("bytes it read from the keyboard since", 0, |p| {
            p.read_from_keyboard(p.killed_at()?)
        })
        .expect("what its read from the connection said", "read = 0", |p| {
            Ok(in_words(
                &p.call_after(p.killed_at()?, |c| c.call == "read")?,
            ))
        })
        .expect(
            "the client spoke _ after the FIN",
            Expected::Below(A_WHILE),
            Pair::said_after_fin,
        )
        .expect("resets since", 0, |p| {
            let packets = p.packets_since(p.killed_at()?)?;
            Ok(packets.iter().filter(|packet| packet.flags.rst()).count())
        })
        .expect(
            "sockets, server's / client's",
            "TIME-WAIT / gone",
            Pair::states,
        )
        .show("It says, without a key pressed:", Pair::client_says)
        .observe("What is left is the server's TIME-WAIT:", SS, Pair::ss)
        .show("The whole story on one time line:", Pair::ladder)
        .explain(
            "The network did the same in both acts. What differs is the client: it must wait for \
             everything that can happen, not for what it expects next.",
        )
        .try_it(
            "1$ tcpechod --model fork\n\
             2$ tcpecho --mode blocking localhost\n\
             2> hello\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (the child; and look at 2)\n\
             2> another line                              (nothing, but now it knows)\n\
             2$ tcpecho localhost\n\
             2> hello\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (and look at 2)",
        )
        .read("Read: UNP 5.12, 5.13, 6.4; tcp(7); RFC 9293, 3.6 (a half-closed connection).")
}

/// What both acts begin with: server, client, one echo.
fn opening(title: &'static str, mode: &'static str) -> Act<Pair> {
    let client = match mode {
        "blocking" => "tcpecho --mode blocking 127.0.0.1 {port}",
        _ => "tcpecho --mode multiplexed 127.0.0.1 {port}",
    };
    Act::open(title, Pair::open)
        .act(
            "In terminal 1, a server with a process per client.",
            shell("tcpechod --model fork --bind 127.0.0.1 {port}"),
            |p| p.start_server(Model::Fork),
        )
        .act("In terminal 2, the client.", shell(client), move |p| {
            p.start_client(mode)
        })
        .act("Type a line to see that all is well.", keys("hello"), |p| {
            p.type_line("hello")
        })
        .expect("what came back", "hello", Pair::echoed)
        .expect(
            "sockets, server's / client's",
            "ESTAB / ESTAB",
            Pair::states,
        )
}
