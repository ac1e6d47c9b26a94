//! The stage for actors: small programs that do what tcpechod and tcpecho do not
//! ([`crate::actors`]), what becomes of them, and what the kernel says of their signals.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::client::{Client, ClientProcess};
use crate::labs::crowd::{fate, signal_set};
use crate::narrate::{Act, Names, Stage, keys, shell};
use crate::netns::Isolation;
use crate::observe::processes::{self, Process};
use crate::observe::rest::is_at_rest;
use crate::wait::eventually;

/// How long an actor may take to do what it does at once.
const PROMPTLY: Duration = Duration::from_secs(20);

/// Actors, in the order in which they came; see the module's head.
#[derive(Default)]
pub struct Cast {
    actors: Vec<ClientProcess>,
}

impl Cast {
    /// An empty stage.
    pub fn open(_: &Isolation) -> Result<Self> {
        Ok(Self::default())
    }

    /// Starts `tcpecho-lab actor NAME ARGUMENT...`, and waits until it waits.
    pub fn start(&mut self, command: &str) -> Result<()> {
        let actor = begin(command)?;
        eventually("an actor that waits", PROMPTLY, || {
            is_ready(&actor).then_some(())
        })
        .with_context(|| actor.transcript())?;
        self.actors.push(actor);
        Ok(())
    }

    /// Sends the `nth` actor a signal.
    pub fn signal(&self, nth: usize, signal: Signal) -> Result<()> {
        self.actor(nth)?.signal(signal)
    }

    /// How the `nth` actor has ended, or how it is; see [`fate`].
    pub fn fate(&self, nth: usize) -> Result<String> {
        let actor = self.actor(nth)?;
        fate(actor.pid(), actor.status())
    }

    /// A set of signals of the `nth` actor; see [`signal_set`].
    pub fn set(&self, nth: usize, name: &str) -> Result<u64> {
        signal_set(self.actor(nth)?.pid(), name)
    }

    /// What ps shows of the `nth` actor.
    pub fn ps(&self, nth: usize) -> Result<String> {
        let process = processes::look(self.actor(nth)?.pid());
        Ok(processes::ps_view(&process.into_iter().collect::<Vec<_>>()))
    }

    /// The children of the `nth` actor, oldest first.
    pub fn children(&self, nth: usize) -> Result<Vec<Process>> {
        Ok(processes::children(self.actor(nth)?.pid()))
    }

    /// The `nth` actor.
    pub fn actor(&self, nth: usize) -> Result<&ClientProcess> {
        let actor = self.actors.get(nth);
        actor.with_context(|| format!("actor {nth} has not come"))
    }
}

/// Starts an actor and waits for nothing.
pub fn begin(command: &str) -> Result<ClientProcess> {
    let args = command.strip_prefix("tcpecho-lab ");
    let args = args.with_context(|| format!("not `tcpecho-lab ...`: {command}"))?;
    let lab = Client::lab();
    args.split_whitespace().fold(lab, Client::arg).start()
}

/// Has it said that it is ready, and does it wait?
pub fn is_ready(actor: &ClientProcess) -> bool {
    let said = actor.stdout();
    String::from_utf8_lossy(&said).contains("ready") && is_at_rest(actor.pid())
}

impl Act<Cast> {
    /// An actor is started by this command.
    #[must_use]
    pub fn actor(self, what: &'static str, command: &'static str) -> Self {
        self.act(what, shell(command), move |c| c.start(command))
    }

    /// Somebody types a line for the `nth` actor.
    #[must_use]
    pub fn types(self, what: &'static str, nth: usize, line: &'static str) -> Self {
        self.act(what, keys(line), move |c| c.actor(nth)?.type_line(line))
    }

    /// The `nth` actor is sent a signal by this command.
    #[must_use]
    pub fn kill(
        self,
        what: &'static str,
        nth: usize,
        command: &'static str,
        signal: Signal,
    ) -> Self {
        self.act(what, shell(command), move |c| c.signal(nth, signal))
    }
}

impl Stage for Cast {
    fn names(&self) -> Names {
        let names = ["actor", "second", "third"];
        let pids = self.actors.iter().map(|actor| actor.pid().to_string());
        names.into_iter().zip(pids).collect()
    }
}
