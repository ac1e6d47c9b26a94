//! A client under observation, on pipes or on a terminal.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::observe::calls::CallRecord;

/// How to start a client.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// tcpecho, talking to `address`.
    pub fn to(_address: SocketAddr) -> Self {
        todo!()
    }

    /// A foreign program.
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

    /// `--mode MODE`.
    #[must_use]
    pub fn mode(self, _mode: &str) -> Self {
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

    /// Gives it a terminal as stdin and stdout (stderr stays a pipe). The terminal does not echo
    /// and does not turn \n into \r\n, so that stdout is what the client wrote.
    #[must_use]
    pub fn on_pty(self) -> Self {
        todo!()
    }

    /// Starts it.
    pub fn start(self) -> anyhow::Result<ClientProcess> {
        todo!()
    }
}

/// A client that runs, or has ended.
#[derive(Debug)]
pub struct ClientProcess {}

impl ClientProcess {
    /// Its process.
    pub fn pid(&self) -> i32 {
        todo!()
    }

    /// The command line, as one would type it.
    pub fn command(&self) -> &str {
        todo!()
    }

    /// Types a line; the newline is added.
    pub fn type_line(&self, _line: &str) -> anyhow::Result<()> {
        todo!()
    }

    /// Writes bytes to its stdin.
    pub fn write(&self, _bytes: &[u8]) -> anyhow::Result<()> {
        todo!()
    }

    /// Ends its stdin: closes the pipe, or types ^D at the start of a line.
    pub fn close_stdin(&self) -> anyhow::Result<()> {
        todo!()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> Vec<u8> {
        todo!()
    }

    /// Waits until stdout holds at least `bytes` bytes, and returns it.
    pub fn wait_stdout(&self, _bytes: usize, _deadline: Duration) -> anyhow::Result<Vec<u8>> {
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

    /// The system calls so far; empty without [`Client::events`].
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
