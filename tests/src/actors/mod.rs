//! Small programs that a lab puts on its stage where tcpechod and tcpecho cannot play the part:
//! `tcpecho-lab actor NAME ARGUMENT...`. They do as they are told, say `ready` on stdout when that
//! is done, and then wait for what comes.

pub mod adding;
pub mod blocked;
pub mod closing;
pub mod disposed;
pub mod faulty;
pub mod halves;
pub mod inetd;
pub mod line_echo;
pub mod notified;
pub mod read_once;
pub mod sharing;

use std::io::{Write as _, stdout};

use anyhow::{Result, bail};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;

/// A program; see the module's head.
pub struct Actor {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its main function; gets the arguments behind the name.
    pub perform: fn(&[String]) -> Result<()>,
}

/// All actors.
pub static ALL: &[&Actor] = &[
    &adding::ACTOR,
    &blocked::ACTOR,
    &closing::ACTOR,
    &disposed::ACTOR,
    &faulty::ACTOR,
    &halves::ACTOR,
    &inetd::ACTOR,
    &line_echo::ACTOR,
    &read_once::ACTOR,
    &notified::ACTOR,
    &sharing::ACTOR,
];

/// Plays the part called `name`. Errors: there is none, or what went wrong.
pub fn perform(name: &str, args: &[String]) -> Result<()> {
    match ALL.iter().find(|actor| actor.name == name) {
        Some(actor) => (actor.perform)(args),
        None => bail!("no actor is called {name}"),
    }
}

/// Says a line on stdout at once.
fn say(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Does nothing more: a signal that is caught is no reason to end.
fn wait_for_ever() -> ! {
    loop {
        // EINTR is all that can come.
        let _ = poll(&mut [], PollTimeout::NONE);
    }
}

/// A signal by its name, with or without SIG: `PIPE`, `SIGPIPE`.
fn signal(name: &str) -> Result<Signal> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    Ok(format!("SIG{name}").parse()?)
}
