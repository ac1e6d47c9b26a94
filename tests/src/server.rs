//! A server under observation: started on port 0 in a process group of its own, waited for by its
//! ready line, gone with everything it forked when dropped.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tcpecho_common::{Mistake, Model};

use crate::observe::calls::CallRecord;

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Server {}

impl Server {
    /// tcpechod with this model.
    pub fn model(_model: Model) -> Self {
        todo!()
    }

    /// A foreign program that prints a ready line (`listening on ADDR:PORT`).
    pub fn plain<I, S>(_path: impl Into<PathBuf>, _args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        todo!()
    }

    /// One more argument.
    #[must_use]
    pub fn arg(self, _arg: impl Into<OsString>) -> Self {
        todo!()
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(self, _name: impl AsRef<OsStr>, _value: impl AsRef<OsStr>) -> Self {
        todo!()
    }

    /// Commits this mistake.
    #[must_use]
    pub fn mistake(self, _mistake: Mistake) -> Self {
        todo!()
    }

    /// On this port instead of one that the kernel chooses.
    #[must_use]
    pub fn port(self, _port: u16) -> Self {
        todo!()
    }

    /// Records its system calls.
    #[must_use]
    pub fn events(self) -> Self {
        todo!()
    }

    /// Runs it under another program: `.under(&["strace", "-f"])`.
    #[must_use]
    pub fn under(self, _prefix: &[&str]) -> Self {
        todo!()
    }

    /// Limits its descriptors (`RLIMIT_NOFILE`).
    #[must_use]
    pub fn limit_descriptors(self, _soft: u64, _hard: u64) -> Self {
        todo!()
    }

    /// Starts it and waits for its ready line.
    pub fn start(self) -> anyhow::Result<ServerProcess> {
        todo!()
    }
}

/// A server that has printed its ready line.
#[derive(Debug)]
pub struct ServerProcess {}

impl ServerProcess {
    /// The process that listens.
    pub fn pid(&self) -> i32 {
        todo!()
    }

    /// Where to connect to: the address of the ready line, 127.0.0.1 for the wildcard.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// The command line, as one would type it.
    pub fn command(&self) -> &str {
        todo!()
    }

    /// What it has printed on stdout so far.
    pub fn stdout(&self) -> String {
        todo!()
    }

    /// What it has printed on stderr so far.
    pub fn stderr(&self) -> String {
        todo!()
    }

    /// The lines of stderr so far, each with its time of arrival (`CLOCK_REALTIME` ns).
    pub fn stderr_lines(&self) -> Vec<(u64, String)> {
        todo!()
    }

    /// Sends it a signal.
    pub fn signal(&self, _signal: Signal) -> anyhow::Result<()> {
        todo!()
    }

    /// Waits for its end.
    pub fn wait(&self, _deadline: Duration) -> anyhow::Result<ExitStatus> {
        todo!()
    }

    /// Has it ended, and how?
    pub fn status(&self) -> Option<ExitStatus> {
        todo!()
    }

    /// The system calls so far; empty without [`Server::events`].
    pub fn calls(&self) -> Vec<CallRecord> {
        todo!()
    }

    /// How many records of calls are missing.
    pub fn calls_lost(&self) -> u64 {
        todo!()
    }

    /// Command, status and everything printed.
    pub fn transcript(&self) -> String {
        todo!()
    }
}
