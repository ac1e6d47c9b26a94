//! Who takes part: models of tcpechod with their flags, and anybody else's server.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use nix::sys::signal::Signal;
use tcpecho_common::model::Serves;
use tcpecho_common::{Exit, Model};

use crate::compare::hindered::{Attempt, Late};
use crate::compare::result;
use crate::program::PROMPTLY;
use crate::server::{Launched, Program, Server, ServerProcess, Target};
use crate::wait::eventually;

/// Workers of a pool unless `--workers` says otherwise: as many as the largest workload that needs a
/// worker for each of its connections has connections.
const POOL: u64 = 64;

/// Select knows descriptors below this (`FD_SETSIZE`).
const SELECT_BELOW: u64 = 1024;

/// Foreign servers get a port from here on: below those that the kernel gives to clients (32768 ...).
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;

/// Where the port stands in the command of a foreign server.
pub const PORT: &str = "{port}";

/// How long a server may take to end when it is told to; tcpechod gives its connections 5 s.
const STOPPED_WITHIN: Duration = Duration::from_secs(8);

/// One who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As in the tables; unique.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Ours { model: Model, flags: Vec<String> },
    Foreign { command: String },
}

/// Reads an item of `--models`: a model, and behind it flags of tcpechod as one would type them.
pub fn model(text: &str) -> Result<Candidate, String> {
    let mut words = text.split_whitespace().map(str::to_owned);
    let name = words.next().unwrap_or_default();
    let model = Model::from_str(&name, false).map_err(|_| no_model(&name))?;
    let flags: Vec<String> = words.collect();
    if let Some(word) = flags.first().filter(|word| !word.starts_with('-')) {
        return Err(format!(
            "'{word}' behind {name} is no flag: as in '{name} --workers 2'; between models stands a comma"
        ));
    }
    Ok(Candidate {
        name: std::iter::once(name)
            .chain(flags.clone())
            .collect::<Vec<_>>()
            .join(" "),
        kind: Kind::Ours { model, flags },
    })
}

fn no_model(name: &str) -> String {
    let all: Vec<_> = Model::all().iter().map(|model| model.name()).collect();
    format!("no model '{name}'; there are {}", all.join(", "))
}

/// Reads a `--server`: `CMD {port}` or `NAME=CMD {port}`.
pub fn server(text: &str) -> Result<Candidate, String> {
    let is_name = |name: &&str| {
        let known = |c: char| c.is_alphanumeric() || "-_.+".contains(c);
        !name.is_empty() && name.chars().all(known)
    };
    let named = text.split_once('=').filter(|(name, _)| is_name(name));
    let (name, command) = match named {
        Some((name, command)) => (name.to_owned(), command),
        None => (name_of(text), text),
    };
    if !command.contains(PORT) {
        return Err(format!(
            "nothing says which port it is to listen on: write {PORT} where the number belongs"
        ));
    }
    Ok(Candidate {
        name,
        kind: Kind::Foreign {
            command: command.trim().to_owned(),
        },
    })
}

/// The program, and behind it the first argument if that is no flag: `python3 echo.py`.
fn name_of(command: &str) -> String {
    let file = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let is_plain = |word: &&str| !word.starts_with('-') && !word.contains(PORT);
    let separates = |c: char| c.is_whitespace() || c.is_control();
    let mut words = command.split(separates).filter(|word| !word.is_empty());
    let first = words.next().map(file).unwrap_or_default();
    match words.next().filter(is_plain) {
        Some(second) => format!("{first} {}", file(second)),
        None => first,
    }
}

/// Numbers those who have the same name: reactor, reactor #2.
pub fn unique(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    let names: Vec<String> = candidates.iter().map(|c| c.name.clone()).collect();
    for (at, candidate) in candidates.iter_mut().enumerate() {
        let before = names[..at].iter().filter(|name| **name == candidate.name);
        match before.count() {
            0 => {}
            n => candidate.name = format!("{} #{}", candidate.name, n + 1),
        }
    }
    candidates
}

/// A model with nothing else.
pub fn plain(model: Model) -> Candidate {
    Candidate {
        name: model.name().to_owned(),
        kind: Kind::Ours {
            model,
            flags: Vec::new(),
        },
    }
}

impl Candidate {
    /// The model, of one of ours.
    pub fn model(&self) -> Option<Model> {
        match self.kind {
            Kind::Ours { model, .. } => Some(model),
            Kind::Foreign { .. } => None,
        }
    }

    /// The same with these flags behind its own; nothing changes for a foreign server.
    #[must_use]
    pub fn with(&self, more: Vec<String>) -> Self {
        let mut candidate = self.clone();
        if let Kind::Ours { flags, .. } = &mut candidate.kind {
            flags.extend(more);
        }
        candidate
    }

    /// Its workers, where there are any to speak of.
    pub fn workers(&self) -> Option<u64> {
        let Kind::Ours { model, flags } = &self.kind else {
            return None;
        };
        let default = if model.serves() == Serves::Workers {
            POOL
        } else {
            1
        };
        model.default_workers()?;
        Some(given_workers(flags).unwrap_or(default))
    }

    /// What else stands on the command line of one of ours.
    fn flags(&self) -> Vec<String> {
        let Kind::Ours { model, flags } = &self.kind else {
            return Vec::new();
        };
        let mut all = flags.clone();
        if model.serves() == Serves::Workers && given_workers(flags).is_none() {
            all.extend(["--workers".to_owned(), POOL.to_string()]);
        }
        all.extend(["--bind", "127.0.0.1"].map(str::to_owned));
        all
    }

    /// The command line, without what is ours only to measure.
    pub fn command(&self) -> String {
        match &self.kind {
            Kind::Ours { model, .. } => {
                format!("tcpechod --model {model} {} 0", self.flags().join(" "))
            }
            Kind::Foreign { command } => command.clone(),
        }
    }

    /// The largest number of connections it serves at a time, if anything but memory limits it.
    pub fn serves(&self) -> Option<u64> {
        match self.model()?.serves() {
            Serves::One => Some(1),
            Serves::Workers => self.workers(),
            // Standard streams, listener, wake-up.
            Serves::All if self.model()? == Model::Select => Some(SELECT_BELOW - 8),
            Serves::All => None,
        }
    }

    /// As the results have it.
    pub fn described(&self) -> result::Contestant {
        let unknown = || "unknown".to_owned();
        result::Contestant {
            name: self.name.clone(),
            command: self.command(),
            foreign: self.model().is_none(),
            structure: self
                .model()
                .map_or_else(unknown, |model| structure(model, self.workers())),
            workers: self.workers(),
            buffers: self
                .model()
                .map_or_else(unknown, |model| buffers(model).to_owned()),
            serves: self.serves(),
        }
    }

    /// Starts it on these processors, with so many descriptors, under `prefix` (strace), and waits until
    /// it accepts.
    ///
    /// Error: it ends, or does not listen within 10 s; in one line, with its own last words.
    pub fn start(
        &self,
        processors: &[usize],
        descriptors: u64,
        prefix: &[&str],
    ) -> Result<Running> {
        let ready = |server: Server| {
            let server = server.on_processors(processors).under(prefix);
            server.limit_descriptors(descriptors, descriptors)
        };
        match &self.kind {
            Kind::Ours { model, .. } => {
                let server = self
                    .flags()
                    .into_iter()
                    .fold(Server::model(*model), Server::arg);
                let server = ready(server).start().map_err(|error| in_a_line(&error))?;
                Ok(Running {
                    address: server.address(),
                    server: Process::Ours(server),
                })
            }
            Kind::Foreign { command } => {
                let attempt = Attempt::begin()?;
                let port = free_port()?;
                let command = command.replace(PORT, &port.to_string());
                let server = Server::plain("/bin/sh", ["-c", &command]);
                let server = ready(server)
                    .stdout_to(Target::open("/dev/null")?)
                    .launch()?;
                let address = accepts(&server, port).map_err(|error| {
                    let excuse = attempt.excuse(&error, server.leader());
                    excuse.map_or_else(|| with_last_words(&error, &server), Into::into)
                })?;
                Ok(Running {
                    address,
                    server: Process::Foreign(server),
                })
            }
        }
    }
}

fn given_workers(flags: &[String]) -> Option<u64> {
    let at = |flag: &String| flag.strip_prefix("--workers").map(str::to_owned);
    let (place, value) = flags
        .iter()
        .enumerate()
        .find_map(|(n, flag)| Some((n, at(flag)?)))?;
    match value.strip_prefix('=') {
        Some(value) => value.parse().ok(),
        None => flags.get(place + 1)?.parse().ok(),
    }
}

/// A port that nobody has and no client gets. Who takes it before the server does makes that fail
/// with EADDRINUSE.
fn free_port() -> Result<u16> {
    let first = FIRST_PORT + (std::process::id() % 10_000) as u16;
    let mut ports = (first..LAST_PORT).chain(FIRST_PORT..first);
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    ports.find(is_free).context("no port is free")
}

/// Where one can connect to it. There is a connection less then, which it has served.
fn accepts(server: &Launched, port: u16) -> Result<SocketAddr> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let look = || {
        // Asked in this order: who has ended accepts no more.
        let ended = server
            .status()
            .map(|status| Err(anyhow!("it ended at once: {status}")));
        let open = addresses
            .iter()
            .find(|address| TcpStream::connect(address).is_ok());
        open.copied().map(Ok).or(ended)
    };
    eventually("a connection", PROMPTLY, look).map_err(|_| {
        let within = PROMPTLY.as_secs();
        Late::never(format!(
            "it does not accept on port {port} within {within} s"
        ))
    })?
}

/// The last line it has said on stderr stands behind the error.
pub fn with_last_words(error: &impl fmt::Display, server: &Program) -> anyhow::Error {
    let said = server.stderr();
    match said.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => anyhow!("{error} (it said: {})", line.trim()),
        None => anyhow!("{error}"),
    }
}

/// A server of ours does not take its command line; what it says of that.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Of a transcript the error and what was said last.
fn in_a_line(error: &anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    let mut said = text
        .lines()
        .filter_map(|line| line.strip_prefix("stderr | "));
    let first = text.lines().next().unwrap_or_default();
    let usage = format!("ended: exit status: {}", Exit::Usage.code());
    match said.next_back() {
        Some(said) if text.trim_end().ends_with(&usage) => Refused(said.to_owned()).into(),
        Some(said) => anyhow!("{first} (it said: {said})"),
        None => anyhow!("{first}"),
    }
}

/// A server that accepts. Dropped, it is killed with all it has started.
#[derive(Debug)]
pub struct Running {
    /// Where.
    pub address: SocketAddr,
    server: Process,
}

#[derive(Debug)]
enum Process {
    Ours(ServerProcess),
    Foreign(Launched),
}

impl Deref for Running {
    type Target = Program;

    fn deref(&self) -> &Program {
        match &self.server {
            Process::Ours(server) => server,
            Process::Foreign(server) => server,
        }
    }
}

impl Running {
    /// Tells it to end: SIGTERM to tcpechod, to the whole group of a foreign server, of which nobody
    /// knows who passes it on.
    pub fn tell_to_end(&self) -> Result<()> {
        match &self.server {
            Process::Ours(server) => server.signal(Signal::SIGTERM),
            Process::Foreign(server) => server.signal_group(Signal::SIGTERM),
        }
    }

    /// Waits for its end after [`tell_to_end`](Self::tell_to_end). Error: it had to be killed.
    pub fn ended<T>(&self, probe: impl FnMut() -> Option<T>) -> Result<T> {
        eventually("its end", STOPPED_WITHIN, probe).map_err(|_| {
            anyhow!(
                "SIGTERM did not end it within {} s",
                STOPPED_WITHIN.as_secs()
            )
        })
    }

    /// Fails if it has ended.
    pub fn still_lives(&self) -> Result<()> {
        match self.status() {
            Some(status) => bail!(with_last_words(
                &format!("the server has ended: {status}"),
                self
            )),
            None => Ok(()),
        }
    }
}

fn structure(model: Model, workers: Option<u64>) -> String {
    let many = workers.unwrap_or(1);
    match model {
        Model::Iterative => "one process, one client at a time".into(),
        Model::Fork => "a process per client, fork".into(),
        Model::Exec => "a process per client, fork and exec".into(),
        Model::Prefork => format!("{many} processes, forked in advance"),
        Model::Thread => "a thread per client".into(),
        Model::ThreadPool => format!("{many} threads, started in advance"),
        Model::Select => "one thread, select".into(),
        Model::Poll => "one thread, poll".into(),
        Model::Reactor if many == 1 => "one thread, epoll".into(),
        Model::Reactor => format!("{many} threads, epoll, and one that accepts"),
        Model::Async => "one thread, tasks over epoll".into(),
        Model::Uring => "one thread, io_uring".into(),
    }
}

fn buffers(model: Model) -> &'static str {
    match model {
        Model::Iterative => "4 to 64 KiB",
        Model::Fork | Model::Exec | Model::Thread => "4 to 64 KiB per client",
        Model::Prefork | Model::ThreadPool => "4 to 64 KiB per worker",
        Model::Async => "256 KiB, shared by all",
        Model::Select | Model::Poll => "256 KiB and a pipe of 1 MiB, shared by all",
        Model::Reactor => "256 KiB and a pipe of 1 MiB per reactor, shared by its clients",
        Model::Uring => "2 KiB each, provided to the kernel for all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_may_have_flags() {
        let plain = model("reactor").expect("a model");
        assert_eq!((plain.name.as_str(), plain.workers()), ("reactor", Some(1)));
        let many = model(" reactor  --workers 2").expect("a model");
        assert_eq!(
            (many.name.as_str(), many.workers()),
            ("reactor --workers 2", Some(2))
        );
        assert_eq!(
            many.described().structure,
            "2 threads, epoll, and one that accepts"
        );
        assert_eq!(
            many.command(),
            "tcpechod --model reactor --workers 2 --bind 127.0.0.1 0"
        );
        assert_eq!(model("fork").expect("a model").workers(), None);
    }

    #[test]
    fn a_workload_may_add_flags() {
        let more = || vec!["--mistake".to_owned(), "slow-handler".to_owned()];
        let ours = model("reactor --workers 2").expect("a model").with(more());
        assert_eq!(ours.name, "reactor --workers 2");
        assert_eq!(
            ours.command(),
            "tcpechod --model reactor --workers 2 --mistake slow-handler --bind 127.0.0.1 0"
        );
        let foreign = server("x {port}").expect("a server");
        assert_eq!(foreign.with(more()), foreign);
    }

    #[test]
    fn a_pool_has_a_worker_for_each_connection_of_the_usual_loads() {
        let pool = model("prefork").expect("a model");
        assert_eq!((pool.workers(), pool.serves()), (Some(POOL), Some(POOL)));
        assert!(pool.command().contains("--workers 64"));
        let eight = model("thread-pool --workers=8").expect("a model");
        assert_eq!(eight.serves(), Some(8));
        assert!(!eight.command().contains("64"));
    }

    #[test]
    fn what_is_no_model_is_answered_with_a_way_out() {
        assert!(model("forks").expect_err("none").contains("fork, exec"));
        assert!(
            model("reactor poll")
                .expect_err("no comma")
                .contains("comma")
        );
        assert!(model("").expect_err("nothing").contains("reactor"));
    }

    #[test]
    fn a_server_may_have_a_name() {
        for (text, name, command) in [
            ("./echo {port}", "echo", "./echo {port}"),
            ("go=/opt/echo -p {port}", "go", "/opt/echo -p {port}"),
            (
                "python3 lib/echo.py {port}",
                "python3 echo.py",
                "python3 lib/echo.py {port}",
            ),
            (
                "socat TCP-LISTEN:{port},fork PIPE",
                "socat",
                "socat TCP-LISTEN:{port},fork PIPE",
            ),
            ("echo --port={port}", "echo", "echo --port={port}"),
            ("a\x1b[31m {port}", "a [31m", "a\x1b[31m {port}"),
        ] {
            let candidate = server(text).expect(text);
            assert_eq!(
                (candidate.name.as_str(), candidate.command().as_str()),
                (name, command)
            );
        }
        assert!(server("./echo 7").expect_err("no port").contains(PORT));
    }

    #[test]
    fn who_takes_part_twice_has_two_names() {
        let twice = unique(vec![
            plain(Model::Fork),
            plain(Model::Poll),
            plain(Model::Fork),
        ]);
        let names: Vec<_> = twice
            .iter()
            .map(|candidate| candidate.name.as_str())
            .collect();
        assert_eq!(names, ["fork", "poll", "fork #2"]);
    }

    #[test]
    fn every_model_is_described() {
        for model in Model::all() {
            let described = plain(*model).described();
            assert!(!described.structure.is_empty() && !described.buffers.is_empty());
            assert!(!described.foreign && described.command.contains(model.name()));
        }
        let foreign = server("x {port}").expect("a server").described();
        assert_eq!(
            (foreign.foreign, foreign.structure.as_str()),
            (true, "unknown")
        );
    }
}
