//! Where the programs are, built first if this is a cargo tree.

use std::path::PathBuf;

/// The directory with the programs in it.
pub fn directory() -> anyhow::Result<PathBuf> {
    todo!()
}

/// The program called `program`, built and up to date.
pub fn path(program: &str) -> anyhow::Result<PathBuf> {
    Ok(directory()?.join(program))
}
