//! The server's host is shut down: SIGTERM, a pause, SIGKILL; and who survives it if only the parent
//! is killed (UNP 5.16).
//!
//! Asserted are the packets, how the programs end, who is whose parent, and who has the port.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use tcpecho_common::Model;

use crate::labs::pair::Pair;
use crate::narrate::{Act, Chapter, Lab, Need, Scene, Typed, keys, shell};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "shutdown",
    title: "A host is shut down: what clients see",
    sections: "5.16, 5.2",
    chapter: Chapter::Trouble,
    takes: 2,
    needs: &[Need::Packets],
    about: "When a Unix host shuts down, init sends SIGTERM to every process, waits a few seconds, \
        and sends SIGKILL to those who are left. Whoever dies, the kernel closes what he had open. \
        So the client gets a FIN, and should be listening. And if somebody kills the server by \
        hand, and only the parent?",
    acts: || acts(&[]),
};

const SERVER: Typed = shell("tcpechod --model fork --bind 127.0.0.1 {port}");
const A_WHILE: Duration = Duration::from_secs(1);
const FIRST: &str = "the first packet since";

/// The acts; in the last the server has these arguments as well: a test gives it some.
pub fn acts(args: &'static [&'static str]) -> Vec<Box<dyn Scene>> {
    vec![
        Box::new(asked_to_go()),
        Box::new(killed()),
        Box::new(orphans(args)),
    ]
}

fn asked_to_go() -> Act<Pair> {
    opening("SIGTERM: please go", SERVER, &[])
        .predict(
            "The server gets SIGTERM. What becomes of the client?",
            &[
                ("asleep", "nothing: its child does not get the signal"),
                ("exit status 3", "it gets a FIN, says so and ends"),
                ("exit status 4", "it gets an RST, says so and ends"),
            ],
        )
        .act("What init does first.", shell("kill -TERM {server}"), |p| {
            p.signal_server(Signal::SIGTERM)
        })
        .answer("the client", "exit status 3", Pair::fate)
        .expect(FIRST, "server FIN,ACK", Pair::first_since)
        .expect("the server", "exit status 0", Pair::fate_of_server)
        .show("The story on one time line:", Pair::ladder)
        .explain(
            "This server passes the signal on to its children. They echo what has come, say FIN and \
             end; then it ends itself. The book's server has no handler: SIGTERM kills the one \
             process that gets it. At a shutdown everybody gets one, and the client sees the same \
             FIN.\n\nThe book (5.16): a client that waits for the keyboard only learns of it too \
             late; it needs select or poll. See premature-termination.",
        )
}

fn killed() -> Act<Pair> {
    opening(
        "SIGKILL: who does not go is made to",
        shell("tcpechod --model fork --grace 10m --bind 127.0.0.1 {port}"),
        &["--grace", "10m"],
    )
    .act(
        "The child hangs: it cannot react to anything.",
        shell("kill -STOP {child}"),
        Pair::stop_child,
    )
    .act("What init does first.", shell("kill -TERM {server}"), |p| {
        p.signal_server(Signal::SIGTERM)
    })
    .wait("Init waits, 5 to 20 seconds. Here it is one.", A_WHILE)
    .expect("the server", "asleep", Pair::fate_of_server)
    .expect(
        "sockets, server's / client's",
        "ESTAB / ESTAB",
        Pair::states,
    )
    .predict(
        "SIGKILL cannot be caught: nobody will say goodbye. What does the client get?",
        &[
            ("asleep", "nothing: silence, as after a crash"),
            ("exit status 3", "a FIN"),
            ("exit status 4", "an RST"),
        ],
    )
    .act(
        "What init does then.",
        shell("kill -KILL {server} {child}"),
        |p| {
            p.signal_server(Signal::SIGKILL)?;
            p.kill_child()
        },
    )
    .answer("the client", "exit status 3", Pair::fate)
    .expect(FIRST, "server FIN,ACK", Pair::first_since)
    .explain(
        "The processes said nothing, but their kernel is still there, and closes what they had \
             open. That is the difference between a shutdown and a crash. (With unread bytes it \
             would have been an RST: see fin-or-reset.)",
    )
}

fn orphans(args: &'static [&'static str]) -> Act<Pair> {
    opening("only the parent is killed", SERVER, args)
        .act(
            "Somebody kills the server, the one whose number he knows.",
            shell("kill -KILL {server}"),
            |p| p.signal_server(Signal::SIGKILL),
        )
        .expect("the server", "signal: 9 (SIGKILL)", Pair::fate_of_server)
        .predict(
            "The server is dead. Its client types a line. Does the echo come back?",
            &[
                ("hello", "no: there is no server any more"),
                ("hello still there?", "yes: the child is not dead"),
            ],
        )
        .act("Type a line.", keys("still there?"), |p| {
            p.type_line("still there?")
        })
        .answer("what has come back", "hello still there?", Pair::echoed)
        .expect("the child's parent is", "another", Pair::parent_of_child)
        .observe(
            "The child has been adopted:",
            "ps -o pid,ppid,stat,comm -p {child}",
            Pair::ps_of_child,
        )
        .expect("who listens on the port", "nobody", Pair::listener)
        .predict(
            "The child still uses the port. Can the server be started again on it?",
            &[
                ("EADDRINUSE", "no: the address is in use"),
                ("listening", "yes: it set SO_REUSEADDR, and nobody listens"),
            ],
        )
        .act("Start it again.", SERVER, |p| p.restart_server(Model::Fork))
        .answer("starting it again", "listening", Pair::restarted)
        .expect("a new client's echo", "hello", Pair::next_client)
        .act("The old client goes on as well.", keys("me too"), |p| {
            p.type_line("me too")
        })
        .expect(
            "what has come back",
            "hello still there? me too",
            Pair::echoed,
        )
        .explain(
            "A connection belongs to who has its descriptor: the child. It closed its copy of the \
             listening socket (5.2), so the port was free for a new listener; SO_REUSEADDR (7.5) \
             says that the old connections do not matter. Kill all of a server, then: its \
             process group, kill -- -PGID. systemd kills all that is in the unit's cgroup.",
        )
        .try_it(
            "1$ tcpechod --model fork &\n\
             2$ tcpecho localhost\n\
             2> hello\n\
             1$ kill -TERM %1                             (and look at 2)\n\
             1$ tcpechod --model fork &\n\
             2$ tcpecho localhost\n\
             2> hello\n\
             1$ kill -KILL $(pgrep -o tcpechod)\n\
             2> are you there?                            (so is its child)\n\
             1$ ps -o pid,ppid,stat,args -C tcpechod      (whose child is it now?)",
        )
        .read("Read: UNP 5.16, 5.2, 7.5 (SO_REUSEADDR); shutdown(8), kill(2), systemd.kill(5).")
}

/// What all acts begin with: server, client, one echo.
fn opening(title: &'static str, command: Typed, args: &'static [&'static str]) -> Act<Pair> {
    Act::open(title, Pair::open)
        .act(
            "In terminal 1, a server with a process per client.",
            command,
            move |p| -> Result<()> { p.start_server_with(Model::Fork, args) },
        )
        .act(
            "In terminal 2, a client that waits for both.",
            shell("tcpecho 127.0.0.1 {port}"),
            |p| p.start_client("multiplexed"),
        )
        .act("Type a line to see that all is well.", keys("hello"), |p| {
            p.type_line("hello")
        })
        .expect("what came back", "hello", Pair::echoed)
}
