//! A server under observation: started on port 0 in a process group of its own, waited for by its
//! ready line, gone with everything it forked when dropped.
//!
//! ```no_run
//! # use tcpecho_lab::server::Server;
//! # use tcpecho_common::Model;
//! # fn main() -> anyhow::Result<()> {
//! let server = Server::model(Model::Fork).arg("-v").start()?;
//! let stream = std::net::TcpStream::connect(server.address())?;
//! # Ok(())
//! # }
//! ```
//!
//! When a test panics, every server it has prints its transcript.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tcpecho_common::{Mistake, Model, ready};

use crate::observe::processes;
use crate::program::{Ends, PROMPTLY, Recipe, Which};
pub use crate::program::{Program, Target};
use crate::wait::eventually;

/// Starts a server for `body`. What goes wrong then is reported with everything it has printed; at the
/// end it must still be there.
pub fn with(
    server: Server,
    body: impl FnOnce(&ServerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let server = server.start()?;
    body(&server).with_context(|| server.transcript())?;
    if let Some(status) = server.status() {
        bail!("the server has ended: {status}\n{server}");
    }
    Ok(())
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Server(Recipe);

impl Server {
    /// tcpechod with this model.
    pub fn model(model: Model) -> Self {
        let mut recipe = Recipe::new(Which::Ours("tcpechod"));
        recipe.args = vec!["--model".into(), model.name().into()];
        recipe.last_args = vec!["0".into()];
        Self(recipe)
    }

    /// A foreign program that prints a ready line (`listening on ADDR:PORT`).
    pub fn plain<I, S>(path: impl Into<PathBuf>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut recipe = Recipe::new(Which::Foreign(path.into()));
        recipe.args = args.into_iter().map(Into::into).collect();
        Self(recipe)
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.0.args.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<'a>(self, args: impl IntoIterator<Item = &'a str>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.0
            .env
            .push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Commits this mistake.
    #[must_use]
    pub fn mistake(self, mistake: Mistake) -> Self {
        self.arg("--mistake").arg(mistake.name())
    }

    /// On this port instead of one that the kernel chooses.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.0.last_args = vec![port.to_string().into()];
        self
    }

    /// Records its system calls.
    #[must_use]
    pub fn events(mut self) -> Self {
        self.0.events = true;
        self
    }

    /// Runs it under another program: `.under(&["strace", "-f"])`.
    #[must_use]
    pub fn under(mut self, prefix: &[&str]) -> Self {
        self.0.prefix = prefix.iter().map(OsString::from).collect();
        self
    }

    /// Limits its descriptors (`RLIMIT_NOFILE`).
    #[must_use]
    pub fn limit_descriptors(mut self, soft: u64, hard: u64) -> Self {
        self.0.descriptors = Some((soft, hard));
        self
    }

    /// Lets it run on these processors only; none: on all that we may use.
    #[must_use]
    pub fn on_processors(mut self, processors: &[usize]) -> Self {
        self.0.processors = processors.to_vec();
        self
    }

    /// Nothing on the command line but these.
    pub fn with_args<I, S>(args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut recipe = Recipe::new(Which::Ours("tcpechod"));
        recipe.args = args.into_iter().map(Into::into).collect();
        Self(recipe)
    }

    /// Started by somebody who ignores this signal.
    #[must_use]
    pub fn ignoring(mut self, signal: Signal) -> Self {
        self.0.inherited.ignored.push(signal);
        self
    }

    /// Started by somebody who has blocked this signal.
    #[must_use]
    pub fn blocking(mut self, signal: Signal) -> Self {
        self.0.inherited.blocked.push(signal);
        self
    }

    /// Gives it this as stdin, which is /dev/null otherwise.
    #[must_use]
    pub fn stdin_from(mut self, target: Target) -> Self {
        self.0.given[0] = Some(target);
        self
    }

    /// Sends its stdout elsewhere. It needs `-v` then, for its address is read from the log.
    #[must_use]
    pub fn stdout_to(mut self, target: Target) -> Self {
        self.0.given[1] = Some(target);
        self
    }

    /// Sends its stderr elsewhere.
    #[must_use]
    pub fn stderr_to(mut self, target: Target) -> Self {
        self.0.given[2] = Some(target);
        self
    }

    /// Starts it and waits for nothing: for servers that are not expected to get ready.
    pub fn launch(self) -> anyhow::Result<Launched> {
        Ok(Launched(self.0.start(Ends::Output, None)?))
    }

    /// Starts it and waits for its ready line.
    pub fn start(self) -> anyhow::Result<ServerProcess> {
        let mut program = self.0.start(Ends::Output, None)?;
        let (ready, address) = ready_line(&program)?;
        match pid_in(&ready) {
            Some(pid) => program.is_process(pid),
            None if self.0.prefix.is_empty() => {}
            None => program.is_process(program.find()?),
        }
        Ok(ServerProcess {
            program,
            address: reachable(address),
            ready,
        })
    }
}

fn ready_line(program: &Program) -> anyhow::Result<(String, SocketAddr)> {
    let look = || {
        // Asked in this order: a server that ends has printed everything by then.
        let ended = program.status().is_some();
        let (stdout, stderr) = (program.stdout.lines(), program.stderr.lines());
        let lines = stdout.into_iter().chain(stderr).map(|(_, line)| line);
        let mut ready = lines.filter_map(|line| {
            // In the log something stands before it.
            let line = &line[line.find("listening on ")?..];
            ready::address(line).map(|at| (line.to_owned(), at))
        });
        ready.next().map(Some).or(ended.then_some(None))
    };
    eventually("a ready line (listening on ADDR:PORT)", PROMPTLY, look)
        .and_then(|ready| ready.ok_or_else(|| anyhow!("the server ended before it was ready")))
        .map_err(|error| anyhow!("{error}\n{program}"))
}

/// The `pid=N` of a ready line.
fn pid_in(ready: &str) -> Option<i32> {
    let mut words = ready.split_whitespace();
    words.find_map(|word| word.strip_prefix("pid=")?.parse().ok())
}

/// The same address, if need be by way of 127.0.0.1: nobody can connect to a wildcard.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), bound.port())
    } else {
        bound
    }
}

/// Waits until the process is in this state, as /proc shows it.
pub(crate) fn wait_for_state(pid: i32, state: char) -> anyhow::Result<()> {
    eventually(&format!("process {pid} in state {state}"), PROMPTLY, || {
        processes::look(pid).filter(|process| process.state == state)
    })
    .map(drop)
}

/// A server that was started, and may be anywhere between that and its end.
#[derive(Debug)]
pub struct Launched(Program);

impl Deref for Launched {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

/// The transcript.
impl fmt::Display for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A server that has printed its ready line. Its [`pid`](Program::pid) is the process that listens.
pub struct ServerProcess {
    program: Program,
    address: SocketAddr,
    ready: String,
}

impl ServerProcess {
    /// Where to connect to: the address of the ready line, 127.0.0.1 for the wildcard.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The ready line.
    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    /// Stops it and its children, and waits until they stand still. What happens to them until
    /// [`thaw`](Self::thaw) they find out all at once.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        // It cannot fork any more.
        wait_for_state(self.pid(), 'T')?;
        for child in processes::children(self.pid()) {
            if child.state != 'Z' {
                kill(Pid::from_raw(child.pid), Signal::SIGSTOP)?;
                wait_for_state(child.pid, 'T')?;
            }
        }
        Ok(())
    }

    /// Lets them go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        for child in processes::children(self.pid()) {
            kill(Pid::from_raw(child.pid), Signal::SIGCONT)?;
        }
        self.signal(Signal::SIGCONT)
    }
}

impl Deref for ServerProcess {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// The transcript.
impl fmt::Display for ServerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.fmt(f)
    }
}

/// The transcript too: it is what a failed assertion should show.
impl fmt::Debug for ServerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_through_127_0_0_1() {
        for (bound, reached) in [
            ("[::]:9877", "127.0.0.1:9877"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::1]:2", "[::1]:2"),
            ("127.0.0.3:3", "127.0.0.3:3"),
        ] {
            let bound: SocketAddr = bound.parse().expect("an address");
            assert_eq!(reachable(bound).to_string(), reached);
        }
    }

    #[test]
    fn the_pid_is_that_of_the_ready_line() {
        let line = "listening on 127.0.0.1:1 model=fork pid=77";
        assert_eq!(pid_in(line), Some(77));
        assert_eq!(pid_in("listening on 127.0.0.1:1"), None);
    }
}
