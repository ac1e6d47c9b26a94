//! A terminal as a screen: keys as they are pressed instead of lines, and a page that is drawn anew;
//! termios(3), console_codes(4).
//!
//! By hand and not with a crate: what is hard here is to leave the terminal as it was, whoever ends
//! or stops us, and that is about signals, which the crates leave to their callers; the rest are two
//! settings and ten escape sequences. The terminal goes on turning ^C and ^Z into signals.

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::termios::{
    FlushArg, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcflush, tcgetattr, tcsetattr,
};
use nix::unistd::read;

use super::keys::{self, Key};
use super::signals::Signals;

/// A second page for us, and no cursor on it.
const TAKE: &str = "\x1b[?1049h\x1b[?25l";
/// Terminals that have no second page are at least cleared.
const GIVE_BACK: &str = "\x1b[H\x1b[J\x1b[?25h\x1b[?1049l";
const TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";

/// How many ms the rest of a key may be under way: this is how Esc is told from an arrow, as everywhere.
const REST_OF_A_KEY: u8 = 100;

/// How the terminal was, and whether a page of it is ours; None while we have changed nothing. Not in
/// [`Screen`], for a panic must find it.
static BEFORE: Mutex<Option<(Termios, bool)>> = Mutex::new(None);

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many characters a line has.
    pub columns: usize,
    /// How many lines there are.
    pub rows: usize,
}

impl Size {
    /// That of the terminal behind stdout, if it knows.
    pub fn now() -> Option<Self> {
        let (width, height) = terminal_size::terminal_size_of(io::stdout())?;
        let (columns, rows) = (usize::from(width.0), usize::from(height.0));
        (columns > 0 && rows > 0).then_some(Self { columns, rows })
    }
}

/// What the menu waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Keys have been pressed.
    Keys(Vec<Key>),
    /// A signal has come.
    Signal(Signal),
    /// Nobody can press a key any more.
    Closed,
}

/// The terminal that is stdin and stdout. Dropped, it is as it was before.
#[derive(Debug)]
pub struct Screen {
    signals: Signals,
}

impl Screen {
    /// From now on signals wait to be read; the terminal is still as it was.
    pub fn open() -> Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            // A panic is told on the screen where one can read it afterwards.
            let tell = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                restore();
                tell(panic);
            }));
        });
        let signals = Signals::catch()?;
        Ok(Self { signals })
    }

    /// The signals that wait to be read.
    pub fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Keys come one by one, and are not shown.
    pub fn take_keys(&self) -> Result<()> {
        let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_none() {
            *before = Some((patiently(|| tcgetattr(io::stdin()))?, false));
        }
        let Some((settings, _)) = &*before else {
            return Ok(());
        };
        let mut settings = settings.clone();
        // Not IEXTEN, or ^V would swallow a key. ISIG stays: ^C and ^Z are signals.
        let lines = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::IEXTEN;
        settings.local_flags.remove(lines);
        settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        patiently(|| tcsetattr(io::stdin(), SetArg::TCSANOW, &settings)).context("tcsetattr")
    }

    /// Keys as above, and a page to draw on.
    pub fn take(&self) -> Result<()> {
        self.take_keys()?;
        let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *before {
            Some((_, drawn)) if !*drawn => {
                *drawn = true;
                write(TAKE)
            }
            _ => Ok(()),
        }
    }

    /// The terminal is as it was before; signals still wait.
    pub fn give_back(&self) {
        restore();
    }

    /// Forgets what has been typed and not been read.
    pub fn forget_keys(&self) -> Result<()> {
        tcflush(io::stdin(), FlushArg::TCIFLUSH).context("tcflush")
    }

    /// Draws a page, from the top of the screen. A line must not be longer than the screen is wide.
    pub fn draw(&self, lines: &[String]) -> Result<()> {
        let mut page = String::from(TOP);
        for (number, line) in lines.iter().enumerate() {
            if number > 0 {
                page += "\r\n";
            }
            // Cleared before: behind the last column there is no place to clear from.
            let is_last = number + 1 == lines.len();
            page += if is_last { CLEAR_REST } else { CLEAR_LINE };
            page += line;
        }
        write(&page)
    }

    /// Waits for what comes next.
    pub fn event(&self) -> Result<Event> {
        loop {
            if let Some(signal) = self.signals.come() {
                return Ok(Event::Signal(signal));
            }
            let stdin = io::stdin();
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            patiently(|| poll(&mut fds, PollTimeout::NONE)).context("poll")?;
            if fds[0].any() == Some(true) {
                return Ok(pressed().map_or(Event::Closed, Event::Keys));
            }
        }
    }

    /// Stops, as ^Z asks, with the terminal as it was before. Returns when we go on.
    pub fn suspend(&self) {
        restore();
        self.signals.obey(Signal::SIGTSTP);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// The keys that are there; None if there will never be one again.
fn pressed() -> Option<Vec<Key>> {
    let mut bytes = some_bytes()?;
    while keys::is_cut_off(&bytes) && more_comes() {
        bytes.extend(some_bytes()?);
    }
    Some(keys::decode(&bytes))
}

fn some_bytes() -> Option<Vec<u8>> {
    let mut buffer = [0; 256];
    let length = patiently(|| read(io::stdin(), &mut buffer)).ok()?;
    (length > 0).then(|| buffer[..length].to_vec())
}

fn more_comes() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, REST_OF_A_KEY).is_ok_and(|ready| ready > 0)
}

/// Undoes what [`Screen::take`] did, once. That a terminal is gone is no reason to say so to it.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((settings, drawn)) = before {
        if drawn {
            let _ = write(GIVE_BACK);
        }
        let _ = patiently(|| tcsetattr(io::stdin(), SetArg::TCSANOW, &settings));
    }
}

fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Again if a signal came in between: one that stopped us and let us go on.
fn patiently<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
