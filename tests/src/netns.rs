//! User, PID, mount and network namespaces of one's own.

use std::ffi::OsString;
use std::process::ExitStatus;

/// Where an experiment runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In namespaces of its own: it is root there, may capture, and has lo to itself.
    Namespaces,
    /// Among everybody else, because (one line).
    Plain(String),
}

/// What [`isolate`] has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolated {
    /// The caller is where it will run: go on.
    Here(Isolation),
    /// The program ran inside and has ended; the caller passes its status on.
    Done(ExitStatus),
}

/// Is this process in namespaces that [`isolate`] made?
pub fn inside() -> bool {
    todo!()
}

/// Runs this program again with `args` (without the program's name) in namespaces of its own.
/// Call it first thing in main; inside, the same call returns `Here(Namespaces)` with lo set up.
pub fn isolate(_args: &[OsString]) -> anyhow::Result<Isolated> {
    todo!()
}

/// For a libtest function called `name`: runs `body` in namespaces, by way of running the test
/// binary again with just this test. Where the kernel refuses, says why and returns, or
/// fails if `TCPECHO_STRICT` is 1.
pub fn test(_name: &str, _body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    todo!()
}
