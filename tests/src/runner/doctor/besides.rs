//! What comparing, testing and trying by hand need besides; looked at outside.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;
use tcpecho_common::Model;

use super::needed::MORE_DESCRIPTORS;
use super::{Check, Concerned, Finding, SOON, State, first_line, tool};
use crate::compare::workload;
use crate::netns::Isolation;
use crate::server::Server;

/// The kernel on which all facts were measured.
const TRIED: &str = "6.18";

/// Threads that a comparison of `thread` and 1,000 idle connections starts.
const THREADS: usize = 1_100;

/// Ports below which a comparison may find none.
const PORTS: u64 = 10_000;

/// What comparing, testing and trying by hand need besides; looked at outside.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "kernel",
        labs: Concerned::Nobody,
        lost: "perhaps nothing: what is DIFFERENT may be the kernel's doing.",
        look: kernel,
    },
    Check {
        name: "processors",
        labs: Concerned::Nobody,
        lost: "compare: server and load take the time from each other.",
        look: processors,
    },
    Check {
        name: "descriptors",
        labs: Concerned::Nobody,
        lost: "compare --full leaves out the largest crowds.",
        look: many_descriptors,
    },
    Check {
        name: "processes",
        labs: Concerned::Nobody,
        lost: "compare: `thread` and `fork` refuse clients beyond that.",
        look: processes,
    },
    Check {
        name: "ports",
        labs: Concerned::Nobody,
        lost: "many connections in a row may fail with EADDRNOTAVAIL.",
        look: ports,
    },
    Check {
        name: "io_uring",
        labs: Concerned::Nobody,
        lost: "the model `uring`, its tests and its place in comparisons.",
        look: uring,
    },
    Check {
        name: "tcpdump",
        labs: Concerned::Nobody,
        lost: "it, in what to try yourself; demonstrations capture without it.",
        look: tcpdump,
    },
    Check {
        name: "chromium",
        labs: Concerned::Nobody,
        lost: "the test that opens the exported pages in a browser.",
        look: chromium,
    },
];

fn kernel(_: &Isolation) -> Finding {
    let release = uname().map_or(String::new(), |names| {
        names.release().to_string_lossy().into_owned()
    });
    if release.starts_with(&format!("{TRIED}.")) {
        return Finding::ok(format!(
            "Linux {release}; all facts were measured on {TRIED}"
        ));
    }
    Finding::new(
        State::Untried,
        format!("Linux {release}; all facts were measured on {TRIED}"),
        "tcpecho-lab run NAME --auto shows whether a fact differs here",
    )
}

fn processors(_: &Isolation) -> Finding {
    match thread::available_parallelism().map_or(1, usize::from) {
        1 => Finding::new(
            State::Low,
            "one for all",
            "taskset -p ff $$, or docker run --cpus 2: if the machine has more",
        ),
        many => Finding::ok(format!("{many}: one for the server, the rest for the load")),
    }
}

fn many_descriptors(_: &Isolation) -> Finding {
    let crowds = workload::ALL.iter().flat_map(|task| {
        let points = task.points().into_iter();
        points.map(|point| task.all_connections(point))
    });
    let wanted = crowds.max().unwrap_or(0) + workload::SPARE_DESCRIPTORS;
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(errno) => return Finding::new(State::Refused, errno.desc(), ""),
    };
    let seen = format!("ulimit -n {soft}, -Hn {hard}; the largest crowd takes {wanted}");
    if hard < wanted {
        return Finding::new(State::Low, seen, MORE_DESCRIPTORS);
    }
    Finding::ok(seen)
}

/// Threads count as processes do.
fn processes(_: &Isolation) -> Finding {
    match started(THREADS) {
        THREADS => Finding::ok(format!("{THREADS} threads have been there at once")),
        some => Finding::new(
            State::Low,
            format!("only {some} threads could be started"),
            "ulimit -u 8192; TasksMax=8192 (systemd); docker run --pids-limit 8192",
        ),
    }
}

/// How many of `wanted` threads can be there at once.
fn started(wanted: usize) -> usize {
    const STACK: usize = 64 << 10;
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    thread::scope(|scope| {
        let wait = || drop(ended.lock().map(|ended| ended.recv()));
        let start = |_: &usize| {
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn_scoped(scope, wait).is_ok()
        };
        let count = (0..wanted).take_while(start).count();
        drop(end);
        count
    })
}

fn ports(_: &Isolation) -> Finding {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(RANGE).unwrap_or_default();
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return Finding::new(State::Untried, format!("{RANGE} cannot be read"), "");
    };
    let seen = format!(
        "{} for clients, {first} to {last}",
        (last + 1).saturating_sub(first)
    );
    if last.saturating_sub(first) < PORTS {
        let mend = "sudo sysctl -w net.ipv4.ip_local_port_range='32768 60999'";
        return Finding::new(State::Low, seen, mend);
    }
    Finding::ok(seen)
}

/// The server says why not.
fn uring(_: &Isolation) -> Finding {
    match echo_by_uring() {
        Ok(()) => Finding::ok("tcpechod --model uring has echoed"),
        Err(error) => {
            let said = format!("{error:#}");
            let line = said.lines().find_map(|line| line.split_once("tcpechod: "));
            let why = line.map_or_else(|| first_line(&error), |(_, why)| why.to_owned());
            Finding::new(State::Refused, why, uring_remedy())
        }
    }
}

fn echo_by_uring() -> Result<()> {
    let server = Server::model(Model::Uring).start()?;
    let mut client = TcpStream::connect(server.address())?;
    client.set_read_timeout(Some(SOON))?;
    client.write_all(b"hello")?;
    let mut echo = [0; 5];
    client.read_exact(&mut echo).context("no echo")?;
    ensure!(&echo == b"hello", "another echo");
    Ok(())
}

fn uring_remedy() -> &'static str {
    let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match setting.as_deref().map(str::trim) {
        Ok("0") => "docker run --security-opt seccomp=unconfined ... (in a container); Linux 6.1",
        Ok(_) => "sudo sysctl -w kernel.io_uring_disabled=0",
        Err(_) => "Linux 6.1 or newer",
    }
}

fn tcpdump(_: &Isolation) -> Finding {
    tool(&["tcpdump"], &["--version"], "tcpdump")
}

fn chromium(_: &Isolation) -> Finding {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    tool(&names, &["--version"], "chromium")
}
