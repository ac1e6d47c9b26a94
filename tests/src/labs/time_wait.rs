//! Starting a server again on its port, with and without `SO_REUSEADDR` (UNP 2.7, 7.5).
//!
//! Five times a server ends and is started again, with something of the old one left: TIME-WAIT at
//! the client's side, TIME-WAIT at its own, a child that still serves, connections that were never
//! closed. Asserted are the states of the sockets and what bind says.

use nix::sys::signal::Signal;

use crate::labs::pair::Pair;
use crate::narrate::{Act, Chapter, Lab, keys, shell};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "time-wait",
    title: "The server does not start again: address in use",
    sections: "2.7, 7.5",
    chapter: Chapter::Life,
    takes: 1,
    needs: &[],
    about: "You stop your server, start it again, and it says: address already in use. A minute \
        later it starts. What is in use, by whom? Not by a program: by connections that the \
        kernel still keeps. It depends on who closed first, and on an option.",
    acts: || {
        vec![
            Box::new(client_first(CARELESS)),
            Box::new(server_first(CARELESS)),
            Box::new(both_careful(CAREFUL)),
            Box::new(still_served(CAREFUL)),
            Box::new(never_closed(LEAKY)),
        ]
    },
};

/// A server that sets `SO_REUSEADDR` before bind, as it should.
pub const CAREFUL: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";
/// One that does not.
pub const CARELESS: &str = "tcpechod --model fork --mistake no-reuseaddr --bind 127.0.0.1 {port}";
/// One that never closes its connections.
pub const LEAKY: &str = "tcpechod --model fork --mistake leak-connfd --bind 127.0.0.1 {port}";

const SS: &str = "ss -tan | grep -E 'State|:{port} '";
const STATES: &str = "sockets, server's / client's";
/// Only when it is a zombie has its kernel closed what it had open.
const DEAD: &str = "signal: 9 (SIGKILL)";
const WITH: &str = "starting it again with SO_REUSEADDR";
const WITHOUT: &str = "starting it again without SO_REUSEADDR";
const STARTS: &[(&str, &str)] = &[
    ("EADDRINUSE", "no: EADDRINUSE, address already in use"),
    ("listening", "yes: it listens"),
];

/// The first act: the client says goodbye before this server ends.
pub fn client_first(server: &'static str) -> Act<Pair> {
    let act = opening("the client closes first", server)
        .act("The client says goodbye.", keys("^D"), Pair::end_input)
        .expect(STATES, "gone / TIME-WAIT", Pair::states)
        .act("Then the server ends.", shell("kill -KILL {server}"), |p| {
            p.signal_server(Signal::SIGKILL)
        })
        .expect("the server", DEAD, Pair::fate_of_server)
        .observe("This is left:", SS, Pair::ss)
        .predict(
            "It is started again, without SO_REUSEADDR. Does it start?",
            STARTS,
        );
    without(act)
        .answer(WITHOUT, "listening", Pair::restarted)
        .explain(
            "TIME-WAIT is at the side that closed first, here the client's. It keeps the client's \
         port, one of thousands. The server's port is free.",
        )
}

/// The second: this server is killed while its client is there, and started again.
pub fn server_first(server: &'static str) -> Act<Pair> {
    let act = killed(opening("the server closes first", server)).predict(
        "It is started again, without SO_REUSEADDR. Does it start?",
        STARTS,
    );
    let act = without(act)
        .answer(WITHOUT, "EADDRINUSE", Pair::restarted)
        .predict(
            "Now one that sets SO_REUSEADDR. The one that was killed had not set it. Does it \
             start?",
            STARTS,
        );
    with(act)
        .answer(WITH, "EADDRINUSE", Pair::restarted)
        .explain(
            "No program has this socket, and yet the port is in use, for 60 seconds (normal-life). \
         And SO_REUSEADDR comes too late: on Linux both must have set it, the one that binds and \
         the one whose socket is left. The book (7.5) speaks of the one that binds.",
        )
}

/// The third: the same with this server, which had set the option.
pub fn both_careful(server: &'static str) -> Act<Pair> {
    let act = killed(opening(
        "the same, and the old one had set SO_REUSEADDR",
        server,
    ));
    let act = without(act)
        .expect(WITHOUT, "EADDRINUSE", Pair::restarted)
        .predict("And with SO_REUSEADDR, as the old one?", STARTS);
    with(act)
        .answer(WITH, "listening", Pair::restarted)
        .expect("a new client's echo", "hello", Pair::next_client)
        .expect(STATES, "TIME-WAIT / gone", Pair::states)
        .observe("LISTEN and TIME-WAIT, side by side:", SS, Pair::ss)
        .explain(
            "The old connection stays in TIME-WAIT, and catches what may still come for it. \
             SO_REUSEADDR says: those connections do not disturb me. The book (7.5): all TCP \
             servers should set it.",
        )
}

/// The fourth: only the parent of this server is killed, its child goes on.
pub fn still_served(server: &'static str) -> Act<Pair> {
    let act = opening("a child still serves", server)
        .act(
            "Only the parent is killed.",
            shell("kill -KILL {server}"),
            |p| p.signal_server(Signal::SIGKILL),
        )
        .expect("the server", DEAD, Pair::fate_of_server)
        .expect("who listens on the port", "nobody", Pair::listener)
        .expect(STATES, "ESTAB / ESTAB", Pair::states);
    let act = without(act)
        .expect(WITHOUT, "EADDRINUSE", Pair::restarted)
        .predict(
            "Here is no TIME-WAIT, but a living connection on that port. With SO_REUSEADDR?",
            STARTS,
        );
    with(act)
        .answer(WITH, "listening", Pair::restarted)
        .expect("a new client's echo", "hello", Pair::next_client)
        .act("The old client types.", keys("and I?"), |p| {
            p.type_line("and I?")
        })
        .expect("what has come back to it", "hello and I?", Pair::echoed)
        .explain(
            "Two programs, one port, no conflict: a connection is named by both its ends, and the \
             new server only listens (socket-pair). What SO_REUSEADDR never allows on Linux is a \
             second listener.",
        )
}

/// The fifth: this server has never closed its connection.
pub fn never_closed(server: &'static str) -> Act<Pair> {
    let act = opening("a connection that was never closed", server)
        .act("The client says goodbye.", keys("^D"), Pair::end_input)
        .expect(STATES, "CLOSE-WAIT / FIN-WAIT-2", Pair::states)
        .expect("children of the server", 0, Pair::children)
        .observe(
            "The child has ended. The parent still has the connection.",
            SS,
            Pair::ss,
        )
        .predict(
            "A server that never closes. It is killed. What becomes of the connection?",
            &[
                ("CLOSE-WAIT / FIN-WAIT-2", "it stays for ever"),
                (
                    "TIME-WAIT / gone",
                    "it ends, and blocks the port for a minute",
                ),
                ("gone / TIME-WAIT", "it ends, and the port is free"),
            ],
        )
        .act("Kill it.", shell("kill -KILL {server}"), |p| {
            p.signal_server(Signal::SIGKILL)
        })
        .answer(STATES, "gone / TIME-WAIT", Pair::states)
        .expect("the server", DEAD, Pair::fate_of_server);
    without(act)
        .expect(WITHOUT, "listening", Pair::restarted)
        .explain(
            "As long as the server lives, the connection stays: no FIN goes out, the client waits, \
             descriptors run out (reference-counts). When it dies, the kernel closes all. This \
             client had closed first, so the port is free. A client that was still there would \
             have made it act 2: that is how a server that does not close is said to make a \
             restart impossible.\n\n\
             Why TIME-WAIT at all (2.7)? The last ACK may get lost, and somebody must be there to \
             say it again; and old segments must not be taken for those of a new connection with \
             the same four numbers. It is a friend. Do not fight it, set SO_REUSEADDR.",
        )
        .try_it(
            "1$ tcpechod --model fork &\n\
             2$ tcpecho 127.0.0.1\n\
             2> hello\n\
             1$ kill %1; sleep 1; ss -tan | grep 9877\n\
             1$ tcpechod --model fork --mistake no-reuseaddr    (fails, for a minute)\n\
             1$ tcpechod --model fork",
        )
        .read(
            "Read: UNP 2.7, 7.5 (SO_REUSEADDR), 5.8; socket(7), tcp(7); RFC 9293, 3.6.1; RFC 6191.",
        )
}

/// Server and child are killed while the client is there: the server's end closes first.
fn killed(act: Act<Pair>) -> Act<Pair> {
    act.act(
        "The server and its child are killed while the client is there.",
        shell("kill -KILL {server} {child}"),
        |p| {
            p.signal_server(Signal::SIGKILL)?;
            p.kill_child()
        },
    )
    .expect("the server", DEAD, Pair::fate_of_server)
    .expect("the client", "exit status 3", Pair::fate)
    .expect(STATES, "TIME-WAIT / gone", Pair::states)
    .observe("This is left, and it is the server's end:", SS, Pair::ss)
    .show("The end on one time line:", Pair::ladder)
}

fn without(act: Act<Pair>) -> Act<Pair> {
    act.act("Start it again.", shell(CARELESS), |p| {
        p.restart_server_as(CARELESS)
    })
}

fn with(act: Act<Pair>) -> Act<Pair> {
    act.act("Start it again.", shell(CAREFUL), |p| {
        p.restart_server_as(CAREFUL)
    })
}

/// What all acts begin with: this server, a client, one echo.
fn opening(title: &'static str, server: &'static str) -> Act<Pair> {
    Act::open(title, Pair::open_on_any_port)
        .act(
            "In terminal 1, a server, on a port that the kernel chooses (0).",
            shell(server),
            move |p| p.start_server_as(server),
        )
        .act(
            "In terminal 2, a client.",
            shell("tcpecho 127.0.0.1 {port}"),
            |p| p.start_client("multiplexed"),
        )
        .act("A line, there and back.", keys("hello"), |p| {
            p.type_line("hello")
        })
        .expect("what came back", "hello", Pair::echoed)
}
