//! Why killing a server sometimes shows a FIN and sometimes an RST, and why a read after a FIN never
//! says ECONNRESET on Linux (UNP 5.12, 7.5).
//!
//! The same `kill -KILL`, with and without unread bytes in the dead process's socket; then the order
//! of which the book says ECONNRESET. Asserted are packets, states, and what the client's calls say.

use std::time::Duration;

use anyhow::Result;
use tcpecho_common::Model;

use crate::labs::pair::{Pair, in_words};
use crate::narrate::{Act, Chapter, Lab, Need, Scene, Typed, keys, shell};
use crate::observe::calls::CallRecord;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "fin-or-reset",
    title: "A server is killed: FIN or RST?",
    sections: "5.12, 5.13",
    chapter: Chapter::Trouble,
    takes: 2,
    needs: &[Need::Packets],
    about: "Whoever kills a server sees a FIN. Sometimes it is an RST. The kernel does not toss a \
        coin: it depends on whether bytes were waiting that nobody will read any more. And a \
        client that has had a FIN is never told of an RST by read, whatever the book says.",
    acts: || acts(true),
};

const KILL: Typed = shell("kill -KILL {child}");
const FIN_OR_RST: &[(&str, &str)] = &[
    (
        "TIME-WAIT / gone",
        "a FIN: the server has nothing more to say",
    ),
    ("gone / gone", "an RST: the connection is broken"),
];
const SS: &str = "ss -tan | grep -E 'State|:{port} '";

/// Long enough for an RST to arrive, and for a class to see it.
const A_WHILE: Duration = Duration::from_secs(1);

/// The acts. If the server is not `busy`, it reads in the second as well: a test wants that.
pub fn acts(busy: bool) -> Vec<Box<dyn Scene>> {
    vec![
        Box::new(nothing_unread()),
        Box::new(something_unread(busy)),
        Box::new(reset_after_fin()),
    ]
}

fn nothing_unread() -> Act<Pair> {
    opening(
        "everything has been read",
        shell("tcpecho 127.0.0.1 {port}"),
        &[],
    )
    .expect("bytes unread at the server", 0, Pair::unread_at_server)
    .predict(
        "The child is killed. What does its kernel send?",
        FIN_OR_RST,
    )
    .act("Kill the child.", KILL, Pair::kill_child)
    .answer(
        "sockets, server's / client's",
        "TIME-WAIT / gone",
        Pair::states,
    )
    .expect(
        "the first packet since",
        "server FIN,ACK",
        Pair::first_since,
    )
    .expect("the client", "exit status 3", Pair::fate)
    .explain(
        "The kernel closes what a dead process had open, and close is polite: what was sent \
         arrives, then comes the FIN, then TIME-WAIT. From the other side this death looks like \
         an orderly end. That is why a program must know by itself whether it has everything.",
    )
}

fn something_unread(busy: bool) -> Act<Pair> {
    opening(
        "something has not been read",
        shell("tcpecho --mode blocking 127.0.0.1 {port}"),
        &["--mode", "blocking"],
    )
    .act(
        "The child is kept busy: it is there, and reads nothing.",
        shell("kill -STOP {child}"),
        move |p| if busy { p.stop_child() } else { Ok(()) },
    )
    .act("The user types a line.", keys("never read"), |p| {
        p.type_line("never read")
    })
    .expect("bytes unread at the server", 11, Pair::unread_at_server)
    .expect("bytes that are not acknowledged", 0, Pair::unacknowledged)
    .observe("They wait in Recv-Q:", SS, Pair::ss)
    .predict("The same kill. What does the kernel send now?", FIN_OR_RST)
    .act("Kill the child.", KILL, Pair::kill_child)
    .answer("sockets, server's / client's", "gone / gone", Pair::states)
    .expect("packets since", "server RST,ACK", |p| {
        p.exchange_since(p.killed_at()?)
    })
    .expect("what the client's read said", "read = -1 ECONNRESET", |p| {
        Ok(in_words(&p.call_after(p.killed_at()?, is_read)?))
    })
    .expect("the client", "exit status 4", Pair::fate)
    .show("The story on one time line:", Pair::ladder)
    .explain(
        "Those 11 bytes had been acknowledged: the client's kernel takes them for delivered. Now \
         nobody will ever read them. A FIN would say that all is well, so the kernel says RST \
         (RFC 2525, 2.17). No TIME-WAIT is left: a broken connection needs none.\n\n\
         In the book's experiment nothing is ever unread. This is why killing a busy server shows \
         \"connection reset by peer\" and killing an idle one does not.",
    )
}

fn reset_after_fin() -> Act<Pair> {
    opening(
        "an RST that comes after a FIN",
        shell(
            "tcpecho --mode blocking --split-write 100 \\\n        \
             --mistake ignore-write-errors 127.0.0.1 {port}",
        ),
        &[
            "--mode",
            "blocking",
            "--split-write",
            "100",
            "--mistake",
            "ignore-write-errors",
        ],
    )
    .explain(
        "This client writes each line in two pieces, 100 ms apart, and does not mind if a write \
         fails. So an RST that the first piece brings back is there long before it reads.",
    )
    .act("Kill the child.", KILL, Pair::kill_child)
    .wait(
        "Wait a second. The FIN has come, the client waits for its user.",
        A_WHILE,
    )
    .expect(
        "sockets, server's / client's",
        "FIN-WAIT-2 / CLOSE-WAIT",
        Pair::states,
    )
    .predict(
        "The user types. The first byte brings the RST, the second write fails, then the client \
         reads. What does read say?",
        &[
            ("read = -1 ECONNRESET", "ECONNRESET, as the book has it"),
            ("read = -1 EPIPE", "EPIPE, as the write"),
            ("read = 0", "0, end of file"),
        ],
    )
    .act("Type a line.", keys("too late"), |p| {
        p.type_line("too late")
    })
    .expect("the first write", "write = 1", |p| nth_write(p, 0))
    .expect("the second write", "write = -1 EPIPE", |p| nth_write(p, 1))
    .answer("the read after them", "read = 0", |p| {
        Ok(in_words(&p.call_after(p.typed_at()?, is_read)?))
    })
    .expect("first came", "the RST", Pair::rst_or_read)
    .show("The story on one time line:", Pair::ladder)
    .explain(
        "The book (5.12) says that readline returns ECONNRESET if the RST comes first. This \
         kernel: 0, always. Two reasons. A read looks first whether a FIN has come, and if so says \
         end of file. And an RST that meets a connection which has had its FIN leaves EPIPE \
         behind, not ECONNRESET: the second write has just had it.",
    )
    .try_it(
        "1$ tcpechod --model fork\n\
             2$ tcpecho --mode blocking localhost\n\
             2> hello\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (the child)\n\
             2> hello                                     (nothing: it was a FIN)\n\
             2$ tcpecho --mode blocking localhost\n\
             3$ kill -STOP $(pgrep -n tcpechod)\n\
             2> hello                                     (nothing: it is not read)\n\
             3$ kill -KILL $(pgrep -n tcpechod)           (and look at 2: an RST)",
    )
    .read(
        "Read: UNP 5.12, 5.13; RFC 1122, 4.2.2.13 and RFC 2525, 2.17 (a reset for data that \
         nobody reads).",
    )
}

fn is_read(call: &CallRecord) -> bool {
    call.call == "read"
}

/// What the client's write number `n` since the last line was typed said.
fn nth_write(pair: &Pair, n: usize) -> Result<String> {
    let seen = std::cell::Cell::new(0);
    let call = pair.call_after(pair.typed_at()?, |c| {
        c.call == "write" && seen.replace(seen.get() + 1) == n
    })?;
    Ok(in_words(&call))
}

/// What all acts begin with: server, client, one echo.
fn opening(title: &'static str, command: Typed, args: &'static [&'static str]) -> Act<Pair> {
    Act::open(title, Pair::open)
        .act(
            "In terminal 1, a server with a process per client.",
            shell("tcpechod --model fork --bind 127.0.0.1 {port}"),
            |p| p.start_server(Model::Fork),
        )
        .act("In terminal 2, a client.", command, move |p| {
            p.start_client_with(args)
        })
        .act("Type a line to see that all is well.", keys("hello"), |p| {
            p.type_line("hello")
        })
        .expect("what came back", "hello", Pair::echoed)
}
