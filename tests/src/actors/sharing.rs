//! Two that do things to what they may share: a process and its child, or two threads of a process.
//! The second does what is typed, the first only waits; what either has is to be seen in /proc.
//! fork(2), pthreads(7), UNP 4.7 and 26.1.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _, stdin};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, process, ptr, thread};

use anyhow::{Result, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{ForkResult, fork, gettid};

use crate::actors::{Actor, say, wait_for_ever};

/// `sharing fork|thread`.
pub static ACTOR: Actor = Actor {
    name: "sharing",
    about: "fork|thread: a second one does what is typed: test = N, open FILE, cd DIR, read N, exit",
    perform,
};

/// A variable with a page of memory to itself, so that the kernel can be asked about that page.
#[repr(align(65536))]
struct Page(AtomicU64);

/// The variable that it is all about.
static TEST: Page = Page(AtomicU64::new(0));

fn perform(args: &[String]) -> Result<()> {
    TEST.0.store(1, Relaxed);
    let notes = notes()?;
    match args {
        [way] if way == "thread" => {
            thread::spawn(move || second(&notes));
        }
        [way] if way == "fork" => {
            #[expect(unsafe_code)]
            // SAFETY: this process has one thread, so no lock is held by another.
            if let ForkResult::Child = unsafe { fork() }? {
                second(&notes)?;
            }
        }
        _ => bail!("usage: sharing {}", ACTOR.about),
    }
    wait_for_ever()
}

/// A file without a name, to be read from its beginning.
fn notes() -> Result<File> {
    let mut notes = File::from(memfd_create("notes", MFdFlags::MFD_CLOEXEC)?);
    notes.write_all(b"one two three four five\n")?;
    notes.rewind()?;
    Ok(notes)
}

/// Does what is typed.
fn second(mut notes: &File) -> Result<()> {
    let (tid, test) = (gettid(), ptr::from_ref(&TEST.0).addr());
    let fd = notes.as_raw_fd();
    say(&format!("ready: second {tid}, test at {test}, notes {fd}"))?;
    let mut opened = Vec::new();
    for line in stdin().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["test", "=", number] => TEST.0.store(number.parse()?, Relaxed),
            ["open", path] => opened.push(File::open(path)?),
            ["cd", path] => env::set_current_dir(path)?,
            ["read", bytes] => notes.read_exact(&mut vec![0; bytes.parse()?])?,
            #[expect(clippy::exit, reason = "that is what is to be seen")]
            ["exit"] => process::exit(0),
            _ => bail!("what is {line:?}?"),
        }
        say(&format!("done: {line}"))?;
    }
    Ok(())
}
