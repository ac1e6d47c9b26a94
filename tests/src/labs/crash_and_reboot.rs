//! The server's host crashes and comes back while nobody types (UNP 5.15).
//!
//! The client's kernel believes in a connection of which the server's has never heard. Asserted are
//! what both kernels have, the packets, and the call that tells the client.

use std::time::Duration;

use crate::labs::hosts::{Fall, Hosts};
use crate::narrate::{Act, Chapter, Expected, Lab, Need, Scene, Typed, keys, shell};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "crash-and-reboot",
    title: "A host crashes and is back: who remembers?",
    sections: "5.15",
    chapter: Chapter::Trouble,
    takes: 4,
    needs: &[Need::Namespaces],
    about: "A client and a server on two hosts, a router between them. The server's host loses \
        power: no FIN, no farewell. It boots, the server is started again, and all that time \
        nobody types. For the client nothing has happened.",
    acts: || acts(Fall::Crash),
};

/// Long enough for a class to see that nothing happens.
const A_WHILE: Duration = Duration::from_secs(1);

/// The acts, with what happens to the host: a test asks for another fall.
pub fn acts(fall: Fall) -> Vec<Box<dyn Scene>> {
    vec![Box::new(typing(fall)), Box::new(probing(fall))]
}

fn typing(fall: Fall) -> Act<Hosts> {
    opening(
        "the client writes into an old connection",
        shell("tcpecho --mode blocking 198.51.100.2"),
        &["--mode", "blocking"],
    )
    .act(
        "The power of the server's host fails.",
        Typed::Nothing,
        move |h| h.strike(fall),
    )
    .wait("Wait a second. Nobody types.", A_WHILE)
    .expect("the client", "asleep", |h| h.fate("client"))
    .act(
        "The host boots. On it, the server is started again.",
        shell("tcpechod --model fork --bind 0.0.0.0"),
        move |h| h.recover(fall),
    )
    .expect("packets since the crash", "silence", |h| {
        h.exchange_since_strike("client")
    })
    .expect("the client's socket", "ESTAB", |h| h.state("client"))
    .expect("the server's socket for it", "none", |h| {
        h.state_at_server("client")
    })
    .observe(
        "On the server's host there is no connection:",
        "{server_host} ss -tno",
        Hosts::ss_at_server,
    )
    .explain(
        "One end of a connection without another end: a half-open connection. The client's kernel \
         has had no reason to doubt it, for TCP sends nothing when there is nothing to say.",
    )
    .predict(
        "The server runs again, under the same address and port. Now the user types a line. What \
         becomes of it?",
        &[
            ("no error", "it comes back: the new server echoes it"),
            ("read = -1 ECONNRESET", "read fails with ECONNRESET"),
            ("read = 0", "read returns 0, end of file"),
            ("read = -1 ETIMEDOUT", "read fails with ETIMEDOUT"),
        ],
    )
    .act("Type a line.", keys("are you back?"), |h| {
        h.type_line("client", "are you back?")
    })
    .answer("what tells the client", "read = -1 ECONNRESET", |h| {
        h.told_by("client")
    })
    .expect("packets since", "client PSH,ACK - server RST", |h| {
        h.exchange("client")
    })
    .expect(
        "it was told _ after the line was typed",
        Expected::Below(A_WHILE),
        |h| h.told_after("client"),
    )
    .expect("the client", "exit status 4", |h| h.fate("client"))
    .show("It says:", |h| h.says("client"))
    .show("The story on one time line:", |h| h.ladder("client"))
    .explain(
        "The new kernel has never heard of this connection. For a segment that belongs to none, \
         TCP has one answer: RST. That the server listens on the very same port does not help: a \
         listener takes SYNs.\n\nThe book (5.15) says ECONNRESET, and so does this kernel. Compare \
         with premature-termination: there a FIN had come first, and read returned 0.",
    )
}

fn probing(fall: Fall) -> Act<Hosts> {
    opening(
        "nobody writes: keepalive asks",
        shell("tcpecho --keepalive 2,1,3 198.51.100.2"),
        &["--keepalive", "2,1,3"],
    )
    .explain(
        "This client asks for a sign of life when it has heard nothing for 2 seconds \
         (SO_KEEPALIVE; the system's default is 2 hours).",
    )
    .act(
        "The host crashes and boots, and its server is started.",
        Typed::Nothing,
        move |h| {
            h.strike(fall)?;
            h.recover(fall)
        },
    )
    .predict(
        "Nobody types. What does the client do?",
        &[
            ("asleep", "it sleeps on: nothing is sent, nothing is found"),
            ("exit status 4", "within seconds it says \"reset\" and ends"),
            (
                "exit status 5",
                "within seconds it says \"timed out\" and ends",
            ),
        ],
    )
    .act("Wait for it.", Typed::Nothing, |h| h.wait_for_end("client"))
    .answer("the client", "exit status 4", |h| h.fate("client"))
    .show("It says:", |h| h.says("client"))
    .expect("packets since", "client ACK - server RST", |h| {
        h.exchange_since_strike("client")
    })
    .or_known(
        "client ACK - client ACK - server RST",
        "the first probe came while the host was booting",
    )
    .show("The story on one time line:", |h| h.ladder("client"))
    .explain(
        "The probe is an empty segment with an old sequence number, which every TCP must answer: \
         with ACK if it knows the connection, with RST if it does not. Who must know without \
         having anything to say needs keepalive, or a heartbeat of its own.",
    )
    .try_it(
        "1$ unshare -Urn                              (a host of its own)\n\
             1# ip link set lo up\n\
             1# sysctl net.ipv4.tcp_orphan_retries=1\n\
             1# tcpechod &\n\
             1# tcpecho 127.0.0.1\n\
             1> hello\n\
             2$ nsenter --preserve-credentials -U -n -t $(pgrep -o tcpechod)\n\
             2# tc qdisc add dev lo root pfifo limit 0    (from now on all is lost)\n\
             2# kill -KILL $(pgrep -o tcpechod); sleep 3\n\
             2# ss -tan                                   (who remembers?)\n\
             2# tc qdisc del dev lo root; tcpechod &\n\
             1> are you back?                             (nothing: an RST)",
    )
    .read("Read: UNP 5.15 and 7.5 (SO_KEEPALIVE); RFC 9293, 3.5.1 (half-open connections); tcp(7).")
}

/// What both acts begin with: two hosts, server, client, one echo.
fn opening(title: &'static str, command: Typed, args: &'static [&'static str]) -> Act<Hosts> {
    Act::open(title, Hosts::open)
        .act(
            "On the server's host, a server.",
            shell("tcpechod --model fork --bind 0.0.0.0"),
            Hosts::start_server,
        )
        .act("On the client's host, the client.", command, move |h| {
            h.start_client("client", args)
        })
        .act("Type a line to see that all is well.", keys("hello"), |h| {
            h.type_line("client", "hello")
        })
        .expect("what came back", "hello", |h| h.echoed("client"))
        .expect("the client's socket", "ESTAB", |h| h.state("client"))
        .expect("the server's socket for it", "ESTAB", |h| {
            h.state_at_server("client")
        })
}
