//! Does what the faulty listings of the lab `find-the-bug` do, in the places where the fault is with
//! the same functions of the C library; scanf(3), printf(3), signal-safety(7).
//!
//! `words` sends its input word by word, `lines` (which is right) line by line. `handler` prints with
//! printf, also in its handler for SIGUSR1; `handler-write` uses write(2) there, which is right.
//! `locals` is a function with two megabytes of variables.

use std::ffi::CStr;
use std::hint::black_box;
use std::io::{Read as _, Write as _, stdin};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::actors::{Actor, say};

/// `faulty words HOST:PORT|lines HOST:PORT|handler|handler-write|locals`.
pub static ACTOR: Actor = Actor {
    name: "faulty",
    about: "words|lines HOST:PORT, handler|handler-write, locals: what faulty listings do",
    perform,
};

/// How many lines `handler` prints: more than any pipe holds at once.
pub const LINES: usize = 100_000;

/// What the handler says.
pub const CAUGHT: &str = "a child has ended\n";

/// As long as the textbook's longest line, here in earnest.
const MAXLINE: usize = 1_000_000;

fn perform(args: &[String]) -> Result<()> {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["words", server] => converse(TcpStream::connect(server)?, next_word),
        ["lines", server] => converse(TcpStream::connect(server)?, next_line),
        ["handler"] => print(caught_printing),
        ["handler-write"] => print(caught_writing),
        ["locals"] => locals(),
        _ => bail!("usage: faulty {}", ACTOR.about),
    }
}

/// Sends piece by piece, and prints each answer as the listing does: up to the first 0 in the buffer.
fn converse(mut stream: TcpStream, next: fn(&mut [u8; 1024])) -> Result<()> {
    let (mut piece, mut back) = ([0; 1024], [0; 1025]);
    loop {
        next(&mut piece);
        let sent = string(&piece)?.to_bytes();
        if sent.is_empty() {
            return Ok(());
        }
        stream.write_all(sent)?;
        if stream.read(&mut back[..1024])? == 0 {
            return Ok(());
        }
        say(&string(&back)?.to_string_lossy())?;
    }
}

fn string(bytes: &[u8]) -> Result<&CStr> {
    CStr::from_bytes_until_nul(bytes).context("no end of the string")
}

/// `scanf("%s", word)`, but for the limit that the listing forgets as well.
fn next_word(word: &mut [u8; 1024]) {
    #[expect(unsafe_code)]
    // SAFETY: at most 1023 bytes and a 0 are written to 1024 bytes.
    unsafe {
        libc::scanf(c"%1023s".as_ptr(), word.as_mut_ptr());
    }
}

/// What fgets does, without the newline; at the end of input an empty string.
fn next_line(line: &mut [u8; 1024]) {
    let mut text = String::new();
    // An error is an end as well.
    let _ = stdin().read_line(&mut text);
    let text = text.trim_end().as_bytes();
    line.fill(0);
    line[..text.len().min(1023)].copy_from_slice(&text[..text.len().min(1023)]);
}

/// Prints numbered lines with printf while signals may come.
fn print(handler: extern "C" fn(libc::c_int)) -> Result<()> {
    let handler = SigHandler::Handler(handler);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    #[expect(unsafe_code)]
    // SAFETY: one handler is safe; the other one calls printf, which is what this is about.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    for n in 1..=LINES as libc::c_int {
        #[expect(unsafe_code)]
        // SAFETY: one %d, one int.
        unsafe {
            libc::printf(c"line %06d\n".as_ptr(), n);
        }
    }
    #[expect(unsafe_code)]
    // SAFETY: NULL stands for all streams.
    unsafe {
        libc::fflush(std::ptr::null_mut());
    }
    Ok(())
}

/// The listing's handler.
extern "C" fn caught_printing(_: libc::c_int) {
    #[expect(unsafe_code)]
    // SAFETY: none, if the signal came within printf. That corrupts what is printed; the buffer of the
    // C library has its length, and is not left.
    unsafe {
        libc::printf(c"a child has ended\n".as_ptr());
    }
}

/// The right one: signal-safety(7) allows write.
extern "C" fn caught_writing(_: libc::c_int) {
    let errno = Errno::last_raw();
    #[expect(unsafe_code)]
    // SAFETY: the bytes of a static.
    unsafe {
        libc::write(libc::STDOUT_FILENO, CAUGHT.as_ptr().cast(), CAUGHT.len());
    }
    Errno::set_raw(errno);
}

/// What becomes of a stack that is too small is up to the kernel: the Rust runtime would explain it.
fn locals() -> Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        #[expect(unsafe_code)]
        // SAFETY: no handler is installed, and that of the runtime is not needed.
        unsafe { sigaction(signal, &action) }?;
    }
    say("ready")?;
    str_cli()
}

/// The textbook's function with the listing's MAXLINE.
#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "this is what it is about")]
fn str_cli() -> Result<()> {
    let mut sendline = [0_u8; MAXLINE];
    let mut recvline = [0_u8; MAXLINE];
    black_box(&mut recvline);
    while stdin().read(black_box(&mut sendline))? > 0 {}
    Ok(())
}
