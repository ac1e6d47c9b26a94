//! A test that cannot run here says why; where everything is known to be at hand it fails.

use std::fmt;

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
