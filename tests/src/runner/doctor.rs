//! `tcpecho-lab doctor`: what can be seen on this machine, and how to mend what cannot.
//!
//! Each thing is found out by doing it: namespaces are entered, packets captured, hosts wired, programs
//! run, threads started. Settings are read only to say why something was refused, and for the few
//! things that nobody can try: how many ports there are, which kernel it is.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;
use tcpecho_common::{Exit, Model};

use crate::compare::workload;
use crate::labs;
use crate::limit::no_room_for;
use crate::narrate::text::wrap;
use crate::narrate::{Lab, Need};
use crate::netns::host::Host;
use crate::netns::{self, Isolated, Isolation};
use crate::observe::packets::Capture;
use crate::runner::passed_on;
use crate::server::Server;
use crate::sweep::{self, Last};

/// What `tcpecho-lab doctor --help` says at its end.
pub const HELP: &str = "\
  OK        it is there and works
  LOW       there is not enough of it
  MISSING   it is not installed, or not built
  REFUSED   the system forbids it
  UNTRIED   nobody has tried it; it may work

Exit code 0: every demonstration can be seen whole (whatever else is missing); 1: of some of them
something would be skipped, and which is said.";

/// The kernel on which all facts were measured.
const TRIED: &str = "6.18";

/// Connections that the demonstration of select's limit makes.
const CROWD: usize = 1030;

/// Threads that a comparison of `thread` and 1,000 idle connections starts.
const THREADS: usize = 1_100;

/// Ports below which a comparison may find none.
const PORTS: u64 = 10_000;

/// How long a packet on loopback may take to be seen.
const SOON: Duration = Duration::from_secs(5);

/// Where the columns begin: what it is, what was seen.
const NAME: usize = 10;
const SEEN: usize = 24;

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// How a look came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Low,
    Missing,
    Refused,
    Untried,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Low => "LOW",
            Self::Missing => "MISSING",
            Self::Refused => "REFUSED",
            Self::Untried => "UNTRIED",
        }
    }

    const fn style(self) -> Style {
        match self {
            Self::Ok => GOOD,
            Self::Low | Self::Untried => DOUBTFUL,
            Self::Missing | Self::Refused => BAD,
        }
    }
}

/// What was found, and the line that mends it.
struct Finding {
    state: State,
    seen: String,
    mend: String,
}

impl Finding {
    fn ok(seen: impl Into<String>) -> Self {
        Self::new(State::Ok, seen, "")
    }

    fn new(state: State, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        let (seen, mend) = (seen.into(), mend.into());
        Self { state, seen, mend }
    }
}

/// Something to look at.
struct Check {
    name: &'static str,
    /// The demonstrations that have one of these needs, or all, lack something without it.
    labs: Concerned,
    /// What else is lost.
    lost: &'static str,
    look: fn(&Isolation) -> Finding,
}

/// Which demonstrations need something.
enum Concerned {
    All,
    Need(Need),
    Nobody,
}

impl Concerned {
    fn labs(&self) -> impl Iterator<Item = &'static Lab> {
        labs::ALL.iter().copied().filter(move |lab| match self {
            Self::All => true,
            Self::Need(need) => lab.needs.contains(need),
            Self::Nobody => false,
        })
    }
}

/// What demonstrations need; looked at where they run.
const FOR_LABS: &[Check] = &[
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

/// What comparing, testing and trying by hand need besides; looked at outside.
const BESIDES: &[Check] = &[
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

/// Looks at everything, in namespaces where there are any, and writes tables of at most 80 columns.
pub fn run(width: usize) -> Result<ExitCode> {
    let width = width.clamp(60, 80);
    let code = match netns::isolate(&[OsString::from("doctor")])? {
        Isolated::Done(status) => passed_on(status),
        Isolated::Here(place) => {
            if place != Isolation::Namespaces {
                sweep::when_interrupted(Last::Signal)?;
            }
            let code = for_labs(&place, width)?;
            if place == Isolation::Namespaces {
                return Ok(code);
            }
            code
        }
    };
    besides(width)?;
    Ok(code)
}

fn for_labs(place: &Isolation, width: usize) -> Result<ExitCode> {
    let mut table = Table {
        out: anstream::stdout().lock(),
        width,
    };
    table.heading("What the demonstrations need")?;
    let mut lacking: Vec<&Lab> = Vec::new();
    for check in FOR_LABS {
        if !table.row(check, place)? {
            lacking.extend(check.labs.labs());
        }
    }
    let whole = |lab: &&&Lab| !lacking.iter().any(|it| it.name == lab.name);
    let count = labs::ALL.iter().filter(whole).count();
    let all = labs::ALL.len();
    let verdict = if count == all {
        format!("All {all} demonstrations can be seen whole.")
    } else {
        format!(
            "{count} of {all} demonstrations can be seen whole, {} in part or not at all.",
            all - count
        )
    };
    table.heading(&verdict)?;
    Ok(if count == all {
        Exit::Done
    } else {
        Exit::Failed
    }
    .into())
}

fn besides(width: usize) -> Result<()> {
    let mut table = Table {
        out: anstream::stdout().lock(),
        width,
    };
    writeln!(table.out)?;
    table.heading("What comparing, testing and trying by hand need besides")?;
    let here = Isolation::Plain(String::new());
    for check in BESIDES {
        table.row(check, &here)?;
    }
    Ok(())
}

struct Table<W> {
    out: W,
    width: usize,
}

impl<W: Write> Table<W> {
    fn heading(&mut self, text: &str) -> Result<()> {
        for line in wrap(text, self.width) {
            writeln!(self.out, "{HEADING}{line}{HEADING:#}")?;
        }
        Ok(())
    }

    /// Looks, and writes what was found. True if nothing is lost.
    fn row(&mut self, check: &Check, place: &Isolation) -> Result<bool> {
        let finding = (check.look)(place);
        let (style, word) = (finding.state.style(), finding.state.word());
        let mut head = format!("{style}{word}{style:#}{:pad$}", "", pad = NAME - word.len());
        let _ = write!(head, "{:<w$}", check.name, w = SEEN - NAME);
        let mut lines = wrap(&finding.seen, self.width - SEEN).into_iter();
        writeln!(self.out, "{head}{}", lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(self.out, "{:SEEN$}{line}", "")?;
        }
        let good = finding.state == State::Ok;
        if !good {
            self.note("lost: ", &lost(check))?;
            self.note("mend: ", &finding.mend)?;
        }
        self.out.flush()?;
        Ok(good)
    }

    fn note(&mut self, mark: &str, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let room = self.width - SEEN - mark.len();
        for (i, line) in wrap(text, room).iter().enumerate() {
            let mark = if i == 0 { mark } else { "      " };
            writeln!(self.out, "{:SEEN$}{mark}{line}", "")?;
        }
        Ok(())
    }
}

/// What cannot be seen without it.
fn lost(check: &Check) -> String {
    let names: Vec<_> = check.labs.labs().map(|lab| lab.name).collect();
    let labs = match (&check.labs, names.len()) {
        (_, 0) => String::new(),
        (Concerned::All, _) => "every demonstration.".into(),
        (Concerned::Need(Need::Namespaces), _) => format!("all of {}.", names.join(", ")),
        _ => format!("something of {}.", names.join(", ")),
    };
    format!("{labs} {}", check.lost).trim().into()
}

// -- What demonstrations need -------------------------------------------------------------------

/// A server, a client, an echo.
fn programs(_: &Isolation) -> Finding {
    let tried = Server::model(Model::Reactor).start().and_then(|server| {
        let client = crate::client::Client::to(server.address()).start()?;
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

const MORE_DESCRIPTORS: &str = "ulimit -Hn 65536 as root; LimitNOFILE=65536 (systemd); \
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

// -- What comparing, testing and trying by hand need besides -----------------------------------

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
    let ended = std::sync::Mutex::new(ended);
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

/// Runs the first of these programs that is installed; it must end well.
fn tool(names: &[&str], args: &[&str], package: &str) -> Finding {
    for name in names {
        match said(name, args) {
            Ok(line) => return Finding::ok(line),
            Err(error) if error.is::<std::io::Error>() => {}
            Err(error) => {
                return Finding::new(
                    State::Refused,
                    first_line(&error),
                    format!("sudo apt install {package}"),
                );
            }
        }
    }
    Finding::new(
        State::Missing,
        "not installed",
        format!("sudo apt install {package}"),
    )
}

/// The first line that the program prints. An `io::Error`: it cannot be started.
fn said(name: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let first = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    };
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, first(&output.stderr));
    }
    Ok(first(&output.stdout))
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}
