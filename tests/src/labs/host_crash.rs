//! A host crashes and is not heard of again (UNP 5.14, 7.5).
//!
//! Four clients, one crash: who writes hears of it after all retransmissions, or after its own
//! timeout; who asks (keepalive) hears of it without writing; who does neither never does. Then the
//! same from the server's side. The kernel's patience is set to seconds instead of a quarter of an
//! hour; asserted are the packets, how the gaps between them grow, and the calls that tell.

use std::time::Duration;

use crate::labs::hosts::{Fall, Hosts, gaps_view, growth};
use crate::narrate::{Act, Chapter, Expected, Lab, Need, Scene, Typed, keys, shell};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "host-crash",
    title: "A host dies silently: who finds out?",
    sections: "5.14, 7.5",
    chapter: Chapter::Trouble,
    takes: 8,
    needs: &[Need::Namespaces],
    about: "A host that crashes cannot say goodbye, and a network need not tell. What comes is \
        silence. A client's kernel sends again, and again, each time waiting longer. When does it \
        give up? And who never notices at all?",
    acts: || acts(Fall::Crash),
};

const A_WHILE: Duration = Duration::from_secs(1);
/// How long tcp_retries2 = 3 doublings from 200 ms take: 0.2 + 0.4 + 0.8 + 1.6 s. The kernel gives up
/// at the first timer after that: mostly that after 6.6 s, on a busy machine that after 3.3 s.
const DOUBLINGS: Duration = Duration::from_secs(3);

/// A client: what is told of it, how it is started, its name on the stage, its arguments.
struct Role(&'static str, Typed, &'static str, &'static [&'static str]);

const CLIENTS: &[Role] = &[
    Role(
        "On the client's host, A: the textbook's client.",
        shell("tcpecho --mode blocking 198.51.100.2"),
        "A",
        &["--mode", "blocking"],
    ),
    Role(
        "B gives up what stays unacknowledged for a second (TCP_USER_TIMEOUT).",
        shell("tcpecho --mode blocking --user-timeout 1 198.51.100.2"),
        "B",
        &["--mode", "blocking", "--user-timeout", "1"],
    ),
    Role(
        "C asks after each second of silence, and gives up after 3 questions (SO_KEEPALIVE).",
        shell("tcpecho --keepalive 1,1,3 198.51.100.2"),
        "C",
        &["--keepalive", "1,1,3"],
    ),
    Role(
        "D does nothing of the kind.",
        shell("tcpecho 198.51.100.2"),
        "D",
        &[],
    ),
];

const ONE: &[Role] = &[Role(
    "On the client's host, a client.",
    shell("tcpecho 198.51.100.2"),
    "client",
    &[],
)];

/// The acts, with what happens to the host: a test asks for another fall.
pub fn acts(fall: Fall) -> Vec<Box<dyn Scene>> {
    vec![Box::new(servers_host(fall)), Box::new(clients_host())]
}

fn servers_host(fall: Fall) -> Act<Hosts> {
    opening("the server's host crashes", CLIENTS)
        .act(
            "The kernel's patience is 15 retransmissions, a quarter of an hour. We have less.",
            shell("sysctl -w net.ipv4.tcp_retries2=3   # on the client's host"),
            |h| h.set("ipv4/tcp_retries2", 3),
        )
        .act("The server's host crashes.", Typed::Nothing, move |h| {
            h.strike(fall)
        })
        .act("A's user types a line.", keys("anybody there?"), |h| {
            h.type_line("A", "anybody there?")
        })
        .act("So does B's.", keys("anybody there?"), |h| {
            h.type_line("B", "anybody there?")
        })
        .expect("A's write of its 15 bytes", "write = 15", |h| {
            h.wrote("A")
        })
        .predict(
            "A has written and now waits in read. What will read say, in the end?",
            &[
                ("read = 0", "it returns 0, end of file"),
                ("read = -1 ECONNRESET", "it fails with ECONNRESET"),
                ("read = -1 ETIMEDOUT", "it fails with ETIMEDOUT"),
            ],
        )
        .predict(
            "D's user does not touch the keyboard. How is D when A has given up?",
            &[
                ("asleep", "it sleeps, connected"),
                ("exit status 5", "it says \"timed out\" and has ended"),
            ],
        )
        .act("Wait until A's kernel gives up.", Typed::Nothing, |h| {
            h.wait_for_end("A")
        })
        .answer("A", "read = -1 ETIMEDOUT", |h| h.told_by("A"))
        .answer("D", "asleep", |h| h.fate("D"))
        .expect("D's socket", "ESTAB", |h| h.state("D"))
        .expect("packets of D since the crash", "silence", |h| {
            h.exchange_since_strike("D")
        })
        .show("How often A's kernel has sent the line again:", |h| {
            Ok(gaps_view(&h.transmissions("A")?))
        })
        .expect("the gaps, from the second on", "each twice the one before", |h| {
            Ok(growth(&h.transmissions("A")?))
        })
        .expect(
            "A was told _ after the line was typed",
            Expected::AtLeast(DOUBLINGS),
            |h| h.told_after("A"),
        )
        .expect("B", "read = -1 ETIMEDOUT", |h| h.told_by("B"))
        .expect(
            "B was told _ after the line was typed",
            Expected::Below(DOUBLINGS),
            |h| h.told_after("B"),
        )
        .expect("C, which had nothing to say", "exit status 5", |h| {
            h.fate("C")
        })
        .expect(
            "packets of C since the crash",
            "client ACK - client ACK - client ACK - client RST,ACK",
            |h| h.exchange_since_strike("C"),
        )
        .show("A's story on one time line:", |h| h.ladder("A"))
        .show("C's story:", |h| h.ladder("C"))
        .explain(
            "The write succeeds: it only hands bytes to the kernel. The kernel sends them, waits \
             for an acknowledgement, sends again, and doubles the wait each time: the network may \
             be congested, and who shouts makes it worse. (The first repetition is an early one, \
             a tail loss probe; the doubling begins with the second.) In the end it tells the \
             program: ETIMEDOUT. C's kernel sends an RST when it gives up, lest the other end, should \
         it live, believe in the connection.\n\n\
             The book (5.14) says the same, with 4.4BSD's figures: 12 times, about 9 minutes. Linux \
             counts time: as long as tcp_retries2 = 15 doublings from 200 ms would take, at least \
             924 seconds, the last of them two minutes apart.\n\n\
             D shows why programs that must know use a timeout, keepalive or a heartbeat of their \
             own: TCP sends nothing for who has nothing to say.",
        )
}

fn clients_host() -> Act<Hosts> {
    opening("the client's host crashes", ONE)
        .explain("Now the server is the one who is left.")
        .act("The client's host crashes.", Typed::Nothing, |h| {
            h.crash_client_host()
        })
        .wait("Wait a second.", A_WHILE)
    .predict(
        "What will the server's kernel do about this connection?",
        &[
            ("nothing", "nothing, ever"),
            ("probe", "it asks for a sign of life after two hours"),
        ],
    )
    .answer("its plans", "nothing", |h| h.plans_of_server("client"))
    .expect("the server's socket", "ESTAB", |h| {
        h.state_at_server("client")
    })
    .observe(
        "On the server's host all seems well:",
        "{server_host} ss -tno",
        Hosts::ss_at_server,
    )
    .expect("children that serve nobody", 1, Hosts::children)
    .explain(
        "A server only reads and answers. If its client's host is gone, it waits in read for ever: \
         ESTABLISHED, a process, descriptors, no timer. The two hours of keepalive (7.5) count \
         only where SO_KEEPALIVE is set, and the kernel does not set it by itself. A server needs a \
         rule of its own; this one has --idle-timeout.",
    )
        .try_it(
            "1$ unshare -Urn                              (a host of its own)\n\
             1# ip link set lo up\n\
             1# sysctl net.ipv4.tcp_retries2=3\n\
             1# tcpechod &\n\
             1# tcpecho 127.0.0.1\n\
             1> hello\n\
             2$ nsenter --preserve-credentials -U -n -t $(pgrep -o tcpechod)\n\
             2# tc qdisc add dev lo root pfifo limit 0    (from now on all is lost)\n\
             1> anybody there?                            (nothing; it takes 3 seconds)\n\
             2# ss -tno                                   (the timer, again and again)",
        )
        .read("Read: UNP 5.14 and 7.5; tcp(7): tcp_retries2, TCP_USER_TIMEOUT, TCP_KEEPIDLE; RFC 6298 \
         (the timer and its doubling).")
}

/// What both acts begin with: two hosts, server, clients, an echo for each.
fn opening(title: &'static str, clients: &'static [Role]) -> Act<Hosts> {
    let act = Act::open(title, Hosts::open).act(
        "On the server's host, a server.",
        shell("tcpechod --model fork --bind 0.0.0.0"),
        Hosts::start_server,
    );
    let act = clients
        .iter()
        .fold(act, |act, Role(what, command, name, args)| {
            act.act(what, *command, move |h| h.start_client(name, args))
        });
    act.act(
        "Type a line at each, to see that all is well.",
        keys("hello"),
        move |h| {
            let mut clients = clients.iter();
            clients.try_for_each(|Role(.., name, _)| h.type_line(name, "hello"))
        },
    )
    .expect("what came back", "hello", move |h| {
        let echoes = clients.iter().map(|Role(.., name, _)| h.echoed(name));
        let mut echoes = echoes.collect::<anyhow::Result<Vec<_>>>()?;
        echoes.dedup();
        Ok(echoes.join(", "))
    })
}
