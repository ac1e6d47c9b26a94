//! A router says "unreachable" (UNP 5.14, 4.3): what TCP makes of it, and why not more.
//!
//! Five connections, five reasons why nothing arrives; then one whose way is mended in time; and a
//! connect, which has less patience. Asserted are what the router says, what the programs are told
//! and when, and that a connection outlives the router's words.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;

use crate::labs::hosts::{ALIKE_BUT_ONE, Hosts, SERVER, gaps_view, growth};
use crate::narrate::{Act, Chapter, Expected, Lab, Need, Scene, Typed, keys, shell};
use crate::netns::host::Way;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "unreachable",
    title: "\"Unreachable\": does TCP believe it?",
    sections: "5.14, 4.3, 28.7",
    chapter: Chapter::Trouble,
    takes: 9,
    needs: &[Need::Namespaces],
    about: "A network need not be silent. A router that cannot deliver says so, with an ICMP \
        message. The client's kernel has it within a millisecond. When does the client learn of \
        it? And what if the way is mended meanwhile?",
    acts: || acts(Way::Unreachable),
};

/// What is told of a client, its name on the stage, the server's address that it talks to.
struct Role(&'static str, Typed, &'static str, Ipv4Addr);

const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const NET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const BANNED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
const SILENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 4);

const CLIENTS: &[Role] = &[
    Role(
        "Client H.",
        shell("tcpecho --mode blocking 203.0.113.1"),
        "H",
        HOST,
    ),
    Role(
        "Client N.",
        shell("tcpecho --mode blocking 203.0.113.2"),
        "N",
        NET,
    ),
    Role(
        "Client P.",
        shell("tcpecho --mode blocking 203.0.113.3"),
        "P",
        BANNED,
    ),
    Role(
        "Client S.",
        shell("tcpecho --mode blocking 203.0.113.4"),
        "S",
        SILENT,
    ),
    Role(
        "Client A.",
        shell("tcpecho --mode blocking 198.51.100.2"),
        "A",
        SERVER,
    ),
];
const H: &[Role] = &[Role(
    "A client.",
    shell("tcpecho --mode blocking 203.0.113.1"),
    "H",
    HOST,
)];

const A_WHILE: Duration = Duration::from_secs(1);
/// The original, the tail loss probe, and as many gaps as are needed to see how they grow.
const FIVE_TIMES: usize = 5;
const UNREACHABLE: Typed = shell("ip route replace unreachable 203.0.113.1   # on the router");

/// The acts, with what the router does with the first connection: a test asks
/// for something else.
pub fn acts(way: Way) -> Vec<Box<dyn Scene>> {
    vec![
        Box::new(five_reasons(way)),
        Box::new(mended(way)),
        Box::new(connecting(way)),
    ]
}

fn five_reasons(way: Way) -> Act<Hosts> {
    let act = opening("five reasons why nothing arrives", CLIENTS)
        .act(
            "Less patience for all: 3 retransmissions instead of 15.",
            shell("sysctl -w net.ipv4.tcp_retries2=3   # on the client's host"),
            |h| h.set("ipv4/tcp_retries2", 3),
        )
        .act(
            "The router drops what goes to H's server, and says so.",
            UNREACHABLE,
            move |h| h.tell_router(HOST, Some(way)),
        )
        .act(
            "It forgets the way to N's.",
            shell("ip route del 203.0.113.2   # on the router"),
            |h| h.tell_router(NET, None),
        )
        .act(
            "It is told to forbid P's.",
            shell("ip route replace prohibit 203.0.113.3   # on the router"),
            |h| h.tell_router(BANNED, Some(Way::Prohibit)),
        )
        .act(
            "It drops what goes to S's, and says nothing.",
            shell("ip route replace blackhole 203.0.113.4   # on the router"),
            |h| h.tell_router(SILENT, Some(Way::Blackhole)),
        )
        .act(
            "And A's server has lost power: nobody answers the router's ARP.",
            Typed::Nothing,
            Hosts::unplug_server_host,
        );
    act.act("The five users type a line each.", keys("hello?"), |h| {
        let mut clients = CLIENTS.iter();
        clients.try_for_each(|Role(.., name, _)| h.type_and_send(name, "hello?"))
    })
    .expect("the router about H", "host unreachable", |h| {
        h.first_hint("H")
    })
    .expect("the router about N", "net unreachable", |h| {
        h.first_hint("N")
    })
    .expect("the router about P", "admin prohibited", |h| {
        h.first_hint("P")
    })
    .predict(
        "H's kernel knows. When does H's read tell?",
        &[
            ("at once", "at once: the message names the connection"),
            (
                "in the end",
                "in the end, when the kernel has given up sending",
            ),
        ],
    )
    .act("Wait until all have ended.", Typed::Nothing, |h| {
        let mut clients = CLIENTS.iter();
        clients.try_for_each(|Role(.., name, _)| h.wait_for_end(name))
    })
    .answer("H was told", "in the end", |h| {
        let late = h.told_after("H")? >= A_WHILE;
        Ok(if late { "in the end" } else { "at once" })
    })
    .expect("H", "read = -1 EHOSTUNREACH", |h| h.told_by("H"))
    .expect("N", "read = -1 ENETUNREACH", |h| h.told_by("N"))
    .expect("P", "read = -1 EHOSTUNREACH", |h| h.told_by("P"))
    .expect("S", "read = -1 ETIMEDOUT", |h| h.told_by("S"))
    .expect("the router about A", "host unreachable", |h| {
        h.first_hint("A")
    })
    .expect("A", "read = -1 EHOSTUNREACH", |h| h.told_by("A"))
    .show("H's story on one time line:", |h| h.ladder("H"))
    .explain(
        "What the router says is kept, and decides only which error comes in the end: \
             EHOSTUNREACH or ENETUNREACH instead of ETIMEDOUT. The book (5.14) says so, too. A is \
             the book's crashed host, but its last router is a careful one: it asks for the dead \
             host's hardware address three times, and then tells.\n\n\
             On the time line the router soon falls silent: it sends a host no more than five such \
             messages at once, and then one a second (net.ipv4.route.error_cost, error_burst).",
    )
}

fn mended(way: Way) -> Act<Hosts> {
    opening("why it is only a hint", H)
        .act("The router drops and says so.", UNREACHABLE, move |h| {
            h.tell_router(HOST, Some(way))
        })
        .act("The user types a line.", keys("still there?"), |h| {
            h.type_line("H", "still there?")
        })
        .expect("the router", "host unreachable", |h| h.first_hint("H"))
        .act(
            "Wait until the line has been sent five times.",
            Typed::Nothing,
            |h| h.let_it_be_sent("H", FIVE_TIMES),
        )
        .expect("the client", "asleep", |h| h.fate("H"))
        .expect("what has come back", "hello", |h| h.echoed("H"))
        .observe(
            "timer: when it is sent next, and how often it has been sent again.",
            "{client_host} ss -tno",
            Hosts::ss_at_client,
        )
        .show("How often the line was sent again:", |h| {
            Ok(gaps_view(&h.transmissions("H")?))
        })
        .expect("the first gaps, from the second on", "all alike", |h| {
            let times = h.transmissions("H")?;
            let first = times.get(..FIVE_TIMES);
            Ok(growth(first.context("it has not been sent five times")?))
        })
        .or_known(ALIKE_BUT_ONE, "the machine is busy, and a timer was late")
        .explain(
            "They should have doubled. But a router that cannot deliver is no congestion: each \
             message undoes one doubling (RFC 6069). So the line will be through soon after the \
             way is there again.",
        )
        .predict(
            "The way is mended. Nobody types. What becomes of the line?",
            &[
                ("hello", "it is lost; the next one will arrive"),
                ("hello still there?", "it arrives, and its echo comes back"),
            ],
        )
        .act(
            "Mend it.",
            shell("ip route replace 203.0.113.1 via 198.51.100.2   # on the router"),
            |h| h.tell_router(HOST, Some(Way::Via(SERVER))),
        )
        .answer("what has come back", "hello still there?", |h| {
            h.echoed("H")
        })
        .expect("the client's socket", "ESTAB", |h| h.state("H"))
        .show("The story on one time line:", |h| h.ladder("H"))
        .explain(
            "Routers restart, cables are put back, routes are found anew: \"unreachable\" is true \
             now, and perhaps not in a second. A TCP that believed it would break connections that \
             only had to wait. Besides, ICMP is not authenticated: anybody can send one \
             (RFC 5927). So for a connection that stands it is a soft error (RFC 1122, 4.2.3.9).",
        )
}

fn connecting(way: Way) -> Act<Hosts> {
    opening("but connect believes it", H)
        .act("The router drops and says so.", UNREACHABLE, move |h| {
            h.tell_router(HOST, Some(way))
        })
        .predict(
            "A new client connects to the same address. When is it told?",
            &[
                ("at once", "at once"),
                ("in the end", "after seconds of SYNs"),
            ],
        )
        .act(
            "Another client.",
            shell("tcpecho 203.0.113.1"),
            |h| h.connect_in_vain(HOST),
        )
        .answer("it was told", "at once", |h| {
            let late = h.vain_for()? >= A_WHILE;
            Ok(if late { "in the end" } else { "at once" })
        })
        .expect("it was told _ after connect", Expected::Below(A_WHILE), Hosts::vain_for)
        .expect("it", "exit status 5", Hosts::vain_end)
        .show("It says:", Hosts::vain_says)
        .explain(
            "The book (4.3) has connect send SYNs for 75 seconds and return the ICMP error at the \
             end. Linux gives up at the first one: with nothing to lose, an early answer is worth \
             more. A program with a second address to try is glad of it.",
        )
        .try_it(
            "1$ unshare -Urn                              (a host of its own)\n\
             1# ip link set lo up\n\
             1# tcpecho 192.0.2.1                         (fails: no route at all)\n\
             1# ip route add unreachable 192.0.2.1\n\
             1# tcpecho 192.0.2.1                         (fails)\n\
             1# ip route replace prohibit 192.0.2.1\n\
             1# tcpecho 192.0.2.1                         (fails: no packet was sent)",
        )
        .read("Read: UNP 4.3, 5.14, 28.7; RFC 1122, 4.2.3.9; RFC 5461 (soft errors); RFC 6069; icmp(7).")
}

/// What all acts begin with: hosts, server, clients, an echo for each.
fn opening(title: &'static str, clients: &'static [Role]) -> Act<Hosts> {
    let act = Act::open(title, Hosts::open).act(
        "On the server's host, a server. It has several addresses.",
        shell("tcpechod --model fork --bind 0.0.0.0"),
        |h| {
            h.start_server()?;
            [HOST, NET, BANNED, SILENT]
                .iter()
                .try_for_each(|ip| h.add_address(*ip))
        },
    );
    let act = clients
        .iter()
        .fold(act, |act, Role(what, command, name, ip)| {
            act.act(what, *command, move |h| {
                h.start_client_to(*ip, name, &["--mode", "blocking"])
            })
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
