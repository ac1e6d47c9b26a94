//! What a test says beside its verdict: why it cannot run here (where everything is known to be at
//! hand it fails instead), and figures.

use std::fmt;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::netns::STRICT;

/// Says on stderr that the test is skipped, and why. With `TCPECHO_STRICT=1` that is an error.
pub fn skip(test: &str, why: impl fmt::Display) -> anyhow::Result<()> {
    if std::env::var_os(STRICT).is_some_and(|value| value == "1") {
        bail!("{test}: {why} ({STRICT}=1)");
    }
    #[expect(clippy::print_stderr, reason = "libtest shows it on demand")]
    {
        eprintln!("SKIP {test}: {why}");
    }
    Ok(())
}

/// A figure, for those who ask with `--nocapture`.
#[expect(clippy::print_stderr, reason = "libtest shows it on demand")]
pub fn figure(whose: impl fmt::Display, what: impl fmt::Display) {
    eprintln!("{whose}: {what}");
}

/// Is strace(1) here, and may it trace a child of its own?
pub fn strace_works() -> bool {
    let works = Command::new("strace")
        .args(["-q", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .output();
    works.is_ok_and(|output| output.status.success())
}
