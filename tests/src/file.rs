//! Files that are written all or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::stdout::print;
use crate::sweep;

/// From now on a file that may not grow (setrlimit(2), `RLIMIT_FSIZE`) is an error, EFBIG, and not the
/// end of this process, which would leave it behind half written. What we start is not concerned: a
/// handler, unlike a signal that is ignored, is not handed down.
#[expect(unsafe_code)]
pub fn outgrow_limits() -> Result<()> {
    extern "C" fn go_on(_: i32) {}
    let handler = SigHandler::Handler(go_on);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGXFSZ, &action) }.context("sigaction SIGXFSZ")?;
    Ok(())
}

/// Is it `-`, which means stdout?
pub fn is_stdout(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Where it is, whatever it is called: two names of one file have one place.
fn place(file: &Path) -> PathBuf {
    let beside = || {
        let parent = file.parent()?;
        let here = parent.as_os_str().is_empty();
        let parent = if here { Path::new(".") } else { parent };
        Some(parent.canonicalize().ok()?.join(file.file_name()?))
    };
    let opened = if is_stdout(file) {
        Path::new("/dev/stdout")
    } else {
        file
    };
    let there = opened.canonicalize().ok();
    there.or_else(beside).unwrap_or_else(|| file.into())
}

/// Error: which of them could not be written, and why; or which is to be written twice.
pub fn can_all_be_written(files: &[&Path]) -> Result<()> {
    let places: Vec<_> = files.iter().map(|file| place(file)).collect();
    for (at, file) in files.iter().enumerate() {
        if places[..at].contains(&places[at]) {
            bail!("{} is to be written twice", file.display());
        }
        if !is_stdout(file) {
            can_be_written(file).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// Error: why it could not be written. Nothing is changed: an empty file is made beside it and taken away
/// again.
fn can_be_written(file: &Path) -> Result<()> {
    if file.as_os_str().as_bytes().ends_with(b"/") {
        bail!("that is no file");
    }
    if !can_be_replaced(file) {
        // Opened for nothing: neither cut off nor made.
        let opened = File::options().append(true).open(file);
        let nothing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        if opened.as_ref().is_err_and(nothing) {
            bail!("it is a link to what is not there");
        }
        opened?;
        return Ok(());
    }
    let beside = unfinished(file);
    let _undivided = sweep::undivided();
    File::create_new(&beside)?;
    fs::remove_file(beside)?;
    Ok(())
}

/// All of it or nothing: under another name first. `-` is stdout. What is no file, such as a device, a pipe or
/// a link to whatever it may be, stays what it is, and is written to.
pub fn write(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if is_stdout(file) {
        let content = content.as_ref().to_vec();
        return Ok(print(move || io::stdout().write_all(&content))?);
    }
    if !can_be_replaced(file) {
        return Ok(fs::write(file, content)?);
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

/// Is there nothing of this name yet, or just a file?
fn can_be_replaced(file: &Path) -> bool {
    fs::symlink_metadata(file).map_or(true, |there| there.is_file())
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
    use std::os::unix::fs::symlink;

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
        assert!(can_be_written(Path::new("new/")).is_err(), "a directory");
    }

    #[test]
    fn two_names_of_one_file_have_one_place() {
        let nothing = format!("tcpecho-nothing-{}", std::process::id());
        let dotted = PathBuf::from(format!("./{nothing}"));
        assert_eq!(place(Path::new(&nothing)), place(&dotted));
        assert_ne!(place(Path::new(&nothing)), place(Path::new("other")));
        assert_eq!(place(Path::new("/dev/./null")), Path::new("/dev/null"));
    }

    #[test]
    fn a_link_and_a_device_stay_what_they_are() {
        let place = std::env::temp_dir().join(format!("tcpecho-links-{}", std::process::id()));
        fs::create_dir(&place).expect("a directory");
        let (file, link) = (place.join("file"), place.join("link"));
        fs::write(&file, "old and longer").expect("room");
        symlink(&file, &link).expect("a link");
        can_be_written(&link).expect("its target can");
        assert_eq!(fs::read_to_string(&file).expect("there"), "old and longer");
        write(&link, "new").expect("room");
        let (to, content) = (fs::read_link(&link), fs::read_to_string(&file));
        symlink(place.join("nowhere/file"), place.join("dangling")).expect("a link");
        let dangling = can_be_written(&place.join("dangling"));
        fs::remove_dir_all(&place).expect("ours");
        assert_eq!(to.expect("still a link"), file);
        assert_eq!(content.expect("still there"), "new");
        let dangling = dangling.expect_err("nothing there").to_string();
        assert_eq!(dangling, "it is a link to what is not there");

        assert!(!can_be_replaced(Path::new("/dev/null")), "a device");
    }
}
