//! What demonstrations need; looked at where they run.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Result;
use tcpecho_common::Model;

use super::{Check, Concerned, Finding, SOON, State, first_line, tool};
use crate::client::Client;
use crate::limit::no_room_for;
use crate::narrate::Need;
use crate::netns::Isolation;
use crate::netns::host::Host;
use crate::observe::packets::Capture;
use crate::server::Server;

/// Connections that the demonstration of select's limit makes.
const CROWD: usize = 1030;

/// What demonstrations need; looked at where they run.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "programs",
        labs: Concerned::All,
        lost: "",
        look: programs,
    },
    Check {
        name: "namespaces",
        labs: Concerned::Need(Need::Packets),
        lost: "Ctrl-C and crashes are cleaned up with more effort.",
        look: namespaces,
    },
    Check {
        name: "packets",
        labs: Concerned::Need(Need::Packets),
        lost: "",
        look: packets,
    },
    Check {
        name: "hosts",
        labs: Concerned::Need(Need::Namespaces),
        lost: "",
        look: hosts,
    },
    Check {
        name: "descriptors",
        labs: Concerned::Need(Need::Descriptors),
        lost: "",
        look: descriptors,
    },
    Check {
        name: "strace",
        labs: Concerned::Need(Need::Strace),
        lost: "the tests of faults, and what compare says of system calls.",
        look: strace,
    },
    Check {
        name: "ps",
        labs: Concerned::Nobody,
        lost: "its own output: the same facts are shown, asked from the kernel.",
        look: ps,
    },
    Check {
        name: "ss",
        labs: Concerned::Nobody,
        lost: "its own output: the same facts are shown, asked from the kernel.",
        look: ss,
    },
];

/// A server, a client, an echo.
fn programs(_: &Isolation) -> Finding {
    let tried = Server::model(Model::Reactor).start().and_then(|server| {
        let client = Client::to(server.address()).start()?;
        client.type_line("hello")?;
        client.wait_stdout(6, SOON)?;
        Ok(server.ready_line().to_owned())
    });
    match tried {
        Ok(_) => Finding::ok("tcpechod has started, tcpecho got its echo"),
        Err(error) => Finding::new(State::Missing, first_line(&error), "cargo build --bins"),
    }
}

fn namespaces(place: &Isolation) -> Finding {
    match place {
        Isolation::Namespaces => Finding::ok("user, PID, mount and network: entered, without root"),
        Isolation::Plain(why) => Finding::new(State::Refused, why, remedy(why)),
    }
}

/// Who may forbid namespaces, by a word of the reason given, and what makes it allow them.
const REMEDIES: [(&str, &str); 6] = [
    (
        "apparmor_restrict_unprivileged_userns",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "unprivileged_userns_clone",
        "sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user.max_user_namespaces",
        "sudo sysctl -w user.max_user_namespaces=10000",
    ),
    (
        "seccomp",
        "docker run --security-opt seccomp=unconfined ... (for that container)",
    ),
    (
        "hides parts of /proc",
        "docker run --security-opt systempaths=unconfined ... (for that container)",
    ),
    (
        "a kernel without them",
        "a kernel with CONFIG_USER_NS, CONFIG_PID_NS and CONFIG_NET_NS",
    ),
];

fn remedy(why: &str) -> &'static str {
    let known = REMEDIES.iter().find(|(word, _)| why.contains(word));
    known.map_or(
        "man 7 user_namespaces tells who may make them",
        |(_, line)| line,
    )
}

/// The answer where something is only to be had in namespaces.
fn only_in_namespaces() -> Finding {
    Finding::new(State::Missing, "only in namespaces", "see namespaces")
}

/// Captures a connection of its own.
fn packets(place: &Isolation) -> Finding {
    if *place != Isolation::Namespaces {
        return only_in_namespaces();
    }
    let seen = Capture::start().and_then(|capture| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let _client = TcpStream::connect(listener.local_addr()?)?;
        capture.wait_for("a handshake", SOON, |packets| packets.len() >= 3)
    });
    match seen {
        Ok(_) => Finding::ok("a handshake on lo has been captured, without tcpdump"),
        Err(error) => Finding::new(
            State::Refused,
            first_line(&error),
            "a kernel with CONFIG_PACKET (sudo modprobe af_packet)",
        ),
    }
}

/// Wires two hosts and lets one talk to the other.
fn hosts(place: &Isolation) -> Finding {
    if *place != Isolation::Namespaces {
        return only_in_namespaces();
    }
    match wire() {
        Ok(()) => Finding::ok("two network namespaces with a wire between them have talked"),
        Err(error) => Finding::new(State::Refused, first_line(&error), "sudo modprobe veth"),
    }
}

fn wire() -> Result<()> {
    const CARD: &str = "eth0";
    let ends = [1, 2].map(|host| Ipv4Addr::new(192, 0, 2, host));
    let (near, far) = (Host::new()?, Host::new()?);
    near.join(CARD, &far, CARD)?;
    near.set_up(CARD, (ends[0], 24))?;
    far.set_up(CARD, (ends[1], 24))?;
    let listener = far.run(|| Ok(TcpListener::bind((ends[1], 0))?))?;
    let address = listener.local_addr()?;
    near.run(|| Ok(TcpStream::connect_timeout(&address, SOON)?))?;
    Ok(())
}

fn descriptors(_: &Isolation) -> Finding {
    match no_room_for(CROWD) {
        Ok(None) => Finding::ok(format!("room for {CROWD} connections beside all else")),
        Ok(Some(why)) => Finding::new(State::Low, why, MORE_DESCRIPTORS),
        Err(error) => Finding::new(State::Refused, first_line(&error), MORE_DESCRIPTORS),
    }
}

pub(super) const MORE_DESCRIPTORS: &str = "ulimit -Hn 65536 as root; LimitNOFILE=65536 (systemd); \
    docker run --ulimit nofile=65536";

fn strace(_: &Isolation) -> Finding {
    let finding = tool(&["strace"], &["-q", "-o", "/dev/null", "true"], "strace");
    if finding.state == State::Ok {
        return Finding::ok("has traced a child of its own");
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match (finding.state, scope.trim()) {
        (State::Refused, "2" | "3") => Finding {
            mend: "sudo sysctl -w kernel.yama.ptrace_scope=1 (after a 3: and a reboot)".into(),
            ..finding
        },
        (State::Refused, _) => Finding {
            mend: "docker run --cap-add SYS_PTRACE ... (for that container)".into(),
            ..finding
        },
        _ => finding,
    }
}

fn ps(_: &Isolation) -> Finding {
    let own = std::process::id().to_string();
    let args = ["-o", "pid,ppid,stat,wchan:20,args", "-p", &own];
    shows(
        tool(&["ps"], &args, "procps"),
        "shows processes and what they wait in",
    )
}

fn ss(_: &Isolation) -> Finding {
    shows(
        tool(&["ss"], &["-tan"], "iproute2"),
        "shows sockets and their states",
    )
}

fn shows(finding: Finding, what: &str) -> Finding {
    match finding.state {
        State::Ok => Finding::ok(what),
        _ => finding,
    }
}
