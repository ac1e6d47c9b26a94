//! A client under observation, on pipes or on a terminal; pty(7).
//!
//! What it is given goes through a pipe of ours or the master of a terminal. What it prints is collected
//! with times of arrival, on the clock of packets and call records, so that "the client noticed 2 ms
//! after the FIN" can be said. When a test panics, every client it has prints its transcript.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, OutputFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::output::Output;
use crate::program::{Ends, Program, Recipe, Target, Which, write_all};
use crate::wait::eventually;

/// ^D: the end of input, typed at the start of a line; termios(3).
const END_OF_INPUT: u8 = 0x04;

/// How to start a client.
#[derive(Clone, Debug)]
pub struct Client {
    recipe: Recipe,
    terminal: bool,
    window: Option<Window>,
}

/// How large the window of a terminal is.
#[derive(Clone, Copy, Debug)]
struct Window {
    columns: u16,
    rows: u16,
}

impl Client {
    /// tcpecho, talking to `address`.
    pub fn to(address: SocketAddr) -> Self {
        let mut recipe = Recipe::new(Which::Ours("tcpecho"));
        recipe.last_args = vec![
            address.ip().to_string().into(),
            address.port().to_string().into(),
        ];
        Self::from(recipe)
    }

    /// This laboratory itself, as another process: for its actors.
    pub fn lab() -> Self {
        Self::from(Recipe::new(Which::Ours("tcpecho-lab")))
    }

    /// A foreign program.
    pub fn plain<I, S>(path: impl Into<PathBuf>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut recipe = Recipe::new(Which::Foreign(path.into()));
        recipe.args = args.into_iter().map(Into::into).collect();
        Self::from(recipe)
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.recipe.args.push(arg.into());
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let variable = (name.as_ref().into(), value.as_ref().into());
        self.recipe.env.push(variable);
        self
    }

    /// `--mode MODE`.
    #[must_use]
    pub fn mode(self, mode: &str) -> Self {
        self.arg("--mode").arg(mode)
    }

    /// Records its system calls.
    #[must_use]
    pub fn events(mut self) -> Self {
        self.recipe.events = true;
        self
    }

    /// Runs it under another program: `.under(&["strace", "-f"])`.
    #[must_use]
    pub fn under(mut self, prefix: &[&str]) -> Self {
        self.recipe.prefix = prefix.iter().map(OsString::from).collect();
        self
    }

    /// Gives it a terminal as stdin and stdout (stderr stays a pipe). The terminal does not echo
    /// and does not turn \n into \r\n, so that stdout is what the client wrote.
    #[must_use]
    pub fn on_pty(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// The same, in a window of this size; without it, the terminal does not know its size.
    #[must_use]
    pub fn in_window(mut self, columns: u16, rows: u16) -> Self {
        self.window = Some(Window { columns, rows });
        self.on_pty()
    }

    /// Gives it this as stdin; type_line, write and close_stdin have nothing to go to then.
    #[must_use]
    pub fn stdin(self, fd: impl Into<OwnedFd>) -> Self {
        self.give(0, fd.into())
    }

    /// Gives it this as stdout, which is not collected then.
    #[must_use]
    pub fn stdout(self, fd: impl Into<OwnedFd>) -> Self {
        self.give(1, fd.into())
    }

    /// Gives it this as stderr, which is not collected then.
    #[must_use]
    pub fn stderr(self, fd: impl Into<OwnedFd>) -> Self {
        self.give(2, fd.into())
    }

    fn give(mut self, number: usize, fd: OwnedFd) -> Self {
        self.recipe.given[number] = Some(Target::File(Arc::new(fd)));
        self
    }

    /// Starts it.
    pub fn start(self) -> anyhow::Result<ClientProcess> {
        let (mut program, stdin) = if self.terminal {
            let (master, slave) = terminal().context("open a terminal")?;
            if let Some(window) = self.window {
                resize(&master, window)?;
            }
            let stdout = Output::collect(master.try_clone()?)?;
            let program = self.recipe.start(Ends::Terminal(slave), Some(stdout))?;
            (program, Stdin::Terminal(master))
        } else {
            let program = self.recipe.start(Ends::Pipes, None)?;
            let stdin = program.take_stdin().map_or(Stdin::Closed, Stdin::Pipe);
            (program, stdin)
        };
        if !self.recipe.prefix.is_empty() {
            program.is_process(program.find()?);
        }
        Ok(ClientProcess {
            program,
            stdin: Mutex::new(stdin),
        })
    }
}

impl From<Recipe> for Client {
    fn from(recipe: Recipe) -> Self {
        Self {
            recipe,
            terminal: false,
            window: None,
        }
    }
}

/// Both ends of a new terminal, master and slave, neither inherited by anybody by accident
/// (openpty(3) would leave them open in every other child started meanwhile). It does not echo and
/// writes what it is given.
pub fn terminal() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = open(ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
    let mut settings = tcgetattr(&slave)?;
    settings.local_flags.remove(LocalFlags::ECHO);
    settings.output_flags.remove(OutputFlags::OPOST);
    tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
    Ok((owned(&master)?, slave))
}

/// Sets the size of the window; who reads from the terminal gets SIGWINCH. `ioctl_tty(2)`.
fn resize(master: &OwnedFd, window: Window) -> anyhow::Result<()> {
    let size = libc::winsize {
        ws_row: window.rows,
        ws_col: window.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    #[expect(unsafe_code)]
    // SAFETY: it reads one struct.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(done).context("TIOCSWINSZ")?;
    Ok(())
}

fn owned(master: &PtyMaster) -> std::io::Result<OwnedFd> {
    master.as_fd().try_clone_to_owned()
}

/// A client that runs, or has ended.
pub struct ClientProcess {
    program: Program,
    stdin: Mutex<Stdin>,
}

/// Our end of the client's stdin.
#[derive(Debug)]
enum Stdin {
    Closed,
    Pipe(OwnedFd),
    Terminal(OwnedFd),
}

impl ClientProcess {
    /// Types a line; the newline is added.
    pub fn type_line(&self, line: &str) -> anyhow::Result<()> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Writes bytes to its stdin.
    pub fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let stdin = self.stdin();
        match &*stdin {
            Stdin::Pipe(fd) | Stdin::Terminal(fd) => write_all(fd.as_fd(), bytes),
            Stdin::Closed => Err(anyhow!("its stdin has been closed")),
        }
        .map_err(|error| anyhow!("{error:#}\n{self}"))
    }

    /// Ends its stdin: closes the pipe, or types ^D at the start of a line.
    pub fn close_stdin(&self) -> anyhow::Result<()> {
        let mut stdin = self.stdin();
        match &*stdin {
            Stdin::Terminal(fd) => write_all(fd.as_fd(), &[END_OF_INPUT]),
            Stdin::Pipe(_) | Stdin::Closed => {
                *stdin = Stdin::Closed;
                Ok(())
            }
        }
    }

    /// Changes the size of the window that its terminal is in.
    pub fn resize(&self, columns: u16, rows: u16) -> anyhow::Result<()> {
        resize(self.terminal(&self.stdin())?, Window { columns, rows })
    }

    /// How its terminal is set.
    pub fn settings(&self) -> anyhow::Result<Termios> {
        Ok(tcgetattr(self.terminal(&self.stdin())?)?)
    }

    fn terminal<'a>(&self, stdin: &'a Stdin) -> anyhow::Result<&'a OwnedFd> {
        match stdin {
            Stdin::Terminal(master) => Ok(master),
            Stdin::Closed | Stdin::Pipe(_) => Err(anyhow!("it has no terminal\n{self}")),
        }
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> Vec<u8> {
        self.program.stdout.bytes()
    }

    /// Waits until stdout holds at least `bytes` bytes, and returns it.
    pub fn wait_stdout(&self, bytes: usize, deadline: Duration) -> anyhow::Result<Vec<u8>> {
        let what = format!("{bytes} bytes on stdout");
        eventually(&what, deadline, || {
            Some(self.stdout()).filter(|stdout| stdout.len() >= bytes)
        })
        .map_err(|error| anyhow!("{error}\n{self}"))
    }

    fn stdin(&self) -> MutexGuard<'_, Stdin> {
        self.stdin.lock().expect("no panic while it is held")
    }
}

impl Deref for ClientProcess {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// The transcript.
impl fmt::Display for ClientProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.fmt(f)
    }
}

/// The transcript too: it is what a failed assertion should show.
impl fmt::Debug for ClientProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
