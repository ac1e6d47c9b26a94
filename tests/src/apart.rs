//! A test in a process of its own: the test binary, run again with just that one.
//!
//! Tests of one binary are threads of one process: they share descriptors and their numbers,
//! limits, children and signals. What asserts something about these of its own process is told
//! apart by this.

use std::env;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::output::Output;
use crate::wait::eventually;

/// Set in the process that was made for a test.
const MARKER: &str = "TCPECHO_APART";

/// How long such a process may run.
const AT_MOST: Duration = Duration::from_secs(120);

/// For a libtest function called `name` (its path inside the test binary): runs `body` in a process
/// in which nothing else runs.
pub fn test(name: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    if env::var_os(MARKER).is_some() {
        return body();
    }
    let mut command = Command::new(env::current_exe().context("where this program is")?);
    command.env(MARKER, "1");
    judge(name, just(name, command).spawn()?)
}

/// What runs just the test `name`, and keeps what it prints.
pub(crate) fn just(name: &str, mut command: Command) -> Command {
    command.args(arguments(name)).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn arguments(name: &str) -> [OsString; 4] {
    ["--exact", name, "--include-ignored", "--nocapture"].map(OsString::from)
}

/// Waits for what [`just`] has started; what it printed is shown.
pub(crate) fn judge(name: &str, mut child: Child) -> anyhow::Result<()> {
    let stdout = child.stdout.take().map(OwnedFd::from);
    let stderr = child.stderr.take().map(OwnedFd::from);
    let stdout = Output::collect(stdout.context("stdout is a pipe")?)?;
    let stderr = Output::collect(stderr.context("stderr is a pipe")?)?;
    let ended = eventually(&format!("end of {name}, in a process"), AT_MOST, || {
        child.try_wait().transpose()
    });
    if ended.is_err() {
        // In namespaces it is the keeper; everything inside follows it.
        child.kill()?;
        child.wait()?;
    }
    let (stdout, stderr) = (stdout.text(), stderr.text());
    #[expect(clippy::print_stdout, reason = "libtest shows it on demand")]
    {
        println!("{stdout}{stderr}");
    }
    let status = ended??;
    // A name that does not exist is a success too, for libtest.
    if status.success() && stdout.contains("test result: ok. 1 passed") {
        return Ok(());
    }
    bail!("{name}, in a process of its own: {status}\n{stdout}{stderr}")
}
