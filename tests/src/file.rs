//! Files that are written all or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::stdout::print;
use crate::sweep;

/// Is it `-`, which means stdout?
pub fn is_stdout(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Makes an empty file beside it, and takes it away again. Error: why it could not be written.
pub fn can_be_written(file: &Path) -> Result<()> {
    if fs::metadata(file).is_ok_and(|there| !there.is_file()) {
        bail!("that is no file");
    }
    let beside = unfinished(file);
    let _undivided = sweep::undivided();
    File::create_new(&beside)?;
    fs::remove_file(beside)?;
    Ok(())
}

/// All of it or nothing: under another name first. `-` is stdout.
pub fn write(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if is_stdout(file) {
        let content = content.as_ref().to_vec();
        return Ok(print(move || io::stdout().write_all(&content))?);
    }
    let beside = unfinished(file);
    let _undivided = sweep::undivided();
    let written = fs::write(&beside, content).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&beside);
    }
    Ok(written?)
}

/// The name that a file has until it is whole.
fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_and_alone() {
        let place = std::env::temp_dir().join(format!("tcpecho-file-{}", std::process::id()));
        fs::create_dir(&place).expect("a directory");
        let file = place.join("page.html");
        can_be_written(&file).expect("room");
        assert!(!file.exists());
        write(&file, "old").expect("room");
        write(&file, "new").expect("room");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "new");
        let names = fs::read_dir(&place).expect("a directory").count();
        assert!(can_be_written(&place).is_err(), "a directory is no file");
        assert!(write(&place, "x").is_err());
        let left = fs::read_dir(&place).expect("a directory").count();
        fs::remove_dir_all(&place).expect("ours");
        assert_eq!((names, left), (1, 1));
        assert!(can_be_written(&file).is_err(), "its directory is gone");
    }
}
