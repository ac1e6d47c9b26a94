//! A connection from its first packet to its last, with nothing going wrong (UNP 5.6, 5.7).
//!
//! Asserted are the states of both sockets, the call in which each process sleeps, the packets of
//! the end, how the programs end, and how long TIME-WAIT lasts. To see the middle of the end, the
//! server's child is stopped while the client says goodbye.

use tcpecho_common::Model;

use crate::labs::pair::Pair;
use crate::narrate::{Act, Chapter, Lab, Need, Scene, keys, shell};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "normal-life",
    title: "The life of a connection, from SYN to TIME-WAIT",
    sections: "2.6, 5.6, 5.7",
    chapter: Chapter::Life,
    takes: 1,
    needs: &[Need::Packets],
    about: "A server, a client, one line there and back, and goodbye. Nothing goes wrong. We look \
        at every moment of it: which sockets there are, in which state, and what each process \
        waits for. Who knows the normal life sees at once what is not normal.",
    acts: || acts(&[]),
};

const PS: &str = "ps -o pid,ppid,stat,wchan:20,comm -p {pids}";
const SS: &str = "ss -tan | grep -E 'State|:{port} '";
const TIMER: &str = "ss -tno state time-wait dport = :{port}";
const STATES: &str = "sockets, server's / client's";

/// The acts; the server has these arguments as well: a test gives it some.
pub fn acts(args: &'static [&'static str]) -> Vec<Box<dyn Scene>> {
    vec![Box::new(life(args))]
}

fn life(args: &'static [&'static str]) -> Act<Pair> {
    let act = Act::open("one line, and goodbye", Pair::open);
    goodbye(conversation(act, args))
        .answer(STATES, "gone / TIME-WAIT", Pair::states)
        .expect("packets since", "server FIN,ACK - client ACK", |p| {
            p.exchange_since(p.killed_at()?)
        })
        .expect("the client", "exit status 0", Pair::fate)
        .expect("children the server still has", 0, Pair::children)
        .expect("on the port listens", "somebody", Pair::listener)
        .predict(
            "The client's program has ended. How long does its TIME-WAIT stay?",
            &[
                ("0 s", "it goes with the program"),
                ("60 s", "a minute"),
                ("240 s", "four minutes: twice 2 minutes, as in the RFC"),
            ],
        )
        .observe("The timer in the last column counts down.", TIMER, Pair::ss_of_time_wait)
        .answer("TIME-WAIT, to the nearest 5 s, lasts", "60 s", Pair::time_wait)
        .show("The whole life on one time line:", Pair::life)
        .explain(
            "TCP has eleven states; a normal life needs most of them. Who closes first goes through \
             FIN-WAIT-1 and FIN-WAIT-2 and ends in TIME-WAIT; who closes second goes through \
             CLOSE-WAIT and LAST-ACK, and is gone. A socket that stays in CLOSE-WAIT has a program \
             that has forgotten to close.\n\n\
             The book (2.7): TIME-WAIT lasts twice the maximum segment lifetime, 1 to 4 minutes. \
             This kernel: 60 seconds, fixed when it was compiled. No setting changes it; \
             tcp_fin_timeout, which many believe does, is about FIN-WAIT-2.\n\n\
             The book (5.6) shows WCHAN as wait_for_connect, tcp_data_wait, read_chan. Those \
             functions had other names then; what the processes wait for is the same. The book's \
             child is left a zombie, since that server does not wait for it: see zombies.",
        )
        .try_it(
            "1$ tcpechod --model fork &\n\
             2$ tcpecho 127.0.0.1\n\
             2> hello\n\
             1$ ss -tan | grep 9877\n\
             2> ^D\n\
             1$ ss -tno state time-wait                   (again and again, for a minute)\n\
             1$ kill %1",
        )
        .read("Read: UNP 2.6, 2.7, 5.6, 5.7; tcp(7), ss(8); RFC 9293, 3.3.2, figure 5.")
}

/// Server, client, one echo.
fn conversation(act: Act<Pair>, args: &'static [&'static str]) -> Act<Pair> {
    act.act(
        "In terminal 1, a server with a process per client.",
        shell("tcpechod --model fork --bind 127.0.0.1 {port}"),
        move |p| p.start_server_with(Model::Fork, args),
    )
    .expect("on the port listens", "somebody", Pair::listener)
    .observe("One socket. It has no peer.", SS, Pair::ss)
    .predict(
        "Now a client connects, on the same host. The LISTEN line stays. What comes?",
        &[
            (
                "ESTAB / gone",
                "one line: a connection is one thing, and ESTAB",
            ),
            (
                "ESTAB / ESTAB",
                "two lines: each end of the connection is a socket",
            ),
            (
                "SYN-RECV / SYN-SENT",
                "two lines, until somebody types something",
            ),
        ],
    )
    .act(
        "In terminal 2, the client.",
        shell("tcpecho --mode blocking 127.0.0.1 {port}"),
        |p| p.start_client("blocking"),
    )
    .answer(STATES, "ESTAB / ESTAB", Pair::states)
    .expect("on the port listens", "somebody", Pair::listener)
    .observe(
        "Three lines with one port: the listener, and both ends of the connection.",
        SS,
        Pair::ss,
    )
    .expect(
        "what had been sent when accept returned",
        "client SYN - server SYN,ACK - client ACK",
        Pair::sent_before_accept,
    )
    .expect(
        "who sleeps where",
        "server accept, child read(connection), client read(keyboard)",
        Pair::who_sleeps_where,
    )
    .observe_still(
        "Three processes, all asleep (S). WCHAN is where in the kernel.",
        PS,
        Pair::ps,
        Pair::moment,
    )
    .explain(
        "connect returns when the second segment is there, accept when the third is: half a round \
         trip later. With both on one host nobody can see that; across an ocean it is 50 ms.",
    )
    .act("Type a line.", keys("hello"), |p| p.type_line("hello"))
    .expect("what came back", "hello", Pair::echoed)
    .expect(
        "who sleeps where",
        "server accept, child read(connection), client read(keyboard)",
        Pair::who_sleeps_where,
    )
}

/// The end in slow motion, up to the question who is left.
fn goodbye(act: Act<Pair>) -> Act<Pair> {
    act.explain(
        "Now the end. It takes less than a millisecond, too fast to be seen. So we hold the \
         server's child in the middle of it.",
    )
    .act(
        "Stop the child. Its kernel goes on.",
        shell("kill -STOP {child}"),
        Pair::stop_child,
    )
    .predict(
        "The user types ^D. The client sends a FIN and waits. The child cannot read it. What \
         states?",
        &[
            ("ESTAB / ESTAB", "as before: nobody has read the FIN"),
            ("ESTAB / FIN-WAIT-1", "the client has sent it, no more"),
            (
                "CLOSE-WAIT / FIN-WAIT-2",
                "the server's kernel has taken and acknowledged it",
            ),
        ],
    )
    .act("End of input.", keys("^D"), Pair::end_input)
    .answer(STATES, "CLOSE-WAIT / FIN-WAIT-2", Pair::states)
    .expect("packets since", "client FIN,ACK - server ACK", |p| {
        p.exchange_since(p.typed_at()?)
    })
    .observe(
        "Half of the connection is closed. CLOSE-WAIT waits for its program.",
        SS,
        Pair::ss,
    )
    .explain(
        "(The book's client simply ends at ^D, and its kernel closes. Ours says \"no more from \
         me\" with shutdown, and waits for what may still come. The packets are the same.)",
    )
    .predict(
        "The child goes on: it reads 0, closes, ends. So does the client. What is left?",
        &[
            ("gone / gone", "nothing"),
            (
                "gone / TIME-WAIT",
                "the end that closed first, the client's",
            ),
            ("TIME-WAIT / gone", "the end that closed last, the server's"),
        ],
    )
    .act(
        "Let the child go on.",
        shell("kill -CONT {child}"),
        Pair::go_on_child,
    )
}
