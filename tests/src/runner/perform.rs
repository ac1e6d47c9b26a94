//! The process that performs one lab: what the runner tells it, and what it tells the runner.
//!
//! It shows the lab on its stdout as any terminal or pipe would be shown it, and writes the
//! [`Record`](crate::narrate::record::Record) as JSON to a descriptor that the runner has opened.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context, Result};
use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use tcpecho_common::{Exit, logging};

use crate::handout::files::{Live, recorded};
use crate::handout::transcript::Transcript;
use crate::labs;
use crate::narrate::record::Recorder;
use crate::narrate::terminal::Terminal;
use crate::netns::{self, Isolation};
use crate::observe::pcap::{Recorded, Recording};
use crate::runner::{keep_descriptors_to_ourselves, names};

/// How one lab is to be performed.
#[derive(Args, Clone, Debug)]
pub struct Perform {
    /// Which
    #[arg(value_name = "NAME", value_parser = names())]
    pub lab: String,

    /// How it is shown
    #[command(flatten)]
    pub manner: Manner,

    /// On plain loopback, and why; otherwise this process is in namespaces of its own
    #[arg(long, value_name = "WHY")]
    pub plain: Option<String>,

    /// Where the record goes: an open descriptor
    #[arg(long, value_name = "FD")]
    pub record_fd: RawFd,

    /// What else is written
    #[command(flatten)]
    pub live: Live,
}

/// How a lab is shown.
#[derive(Args, Clone, Debug)]
pub struct Manner {
    /// Wait for Enter at every step
    #[arg(long)]
    pub step: bool,

    /// Wait so many seconds at every step instead
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub pause: f64,

    /// Draw whole time lines
    #[arg(long)]
    pub full: bool,

    /// Use colours, whatever stdout is
    #[arg(long)]
    pub color: bool,

    /// Columns of a page
    #[arg(long, value_name = "N")]
    pub width: usize,

    /// Lines of it, for those who wait for Enter
    #[arg(long, value_name = "N")]
    pub height: usize,
}

impl Manner {
    /// As arguments of the process that performs.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = vec![
            format!("--pause={}", self.pause),
            format!("--width={}", self.width),
            format!("--height={}", self.height),
        ];
        let flags = [
            ("--step", self.step),
            ("--full", self.full),
            ("--color", self.color),
        ];
        let given = flags.iter().filter(|(_, given)| *given);
        args.extend(given.map(|(flag, _)| (*flag).into()));
        args.into_iter().map(OsString::from).collect()
    }

    fn page(&self, live: &Live) -> Result<Terminal<impl Write>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let watched = stdin.is_terminal() && stdout.is_terminal();
        let colors = if self.color {
            ColorChoice::Always
        } else {
            AutoStream::choice(&stdout)
        };
        let out = AutoStream::new(stdout, colors);
        let (out, keyboard) = recorded(live.open_recording()?, out, keyboard()?);
        let page = if self.step {
            Terminal::stepwise(out, self.width, keyboard)
                .height(self.height)
                .typed_ahead(stdin_is_readable)
        } else {
            let pause = Duration::from_secs_f64(self.pause);
            Terminal::automatic(out, self.width).pausing(pause)
        };
        let redraws = watched && colors != ColorChoice::Never;
        Ok(page.full(self.full).live(watched).redraws(redraws))
    }
}

impl Perform {
    /// Performs the lab. Whoever has closed our stdout has had enough, which is no error.
    pub fn run(&self) -> Result<ExitCode> {
        keep_descriptors_to_ourselves();
        let record = take(self.record_fd).context("--record-fd")?;
        // The runner waits for signals with a thread, and blocks them; what it starts must not.
        SigSet::empty().thread_set_mask()?;
        let place = self.arrive()?;
        let lab = labs::find(&self.lab).context("no such lab")?;
        let packets = self.packets(&place)?;
        let mut page = self.manner.page(&self.live)?;
        let mut logged = Transcript::new(self.live.open_log()?, &mut page);
        let mut recorder = Recorder::new(&mut logged);
        let shown = lab.perform(&place, &mut recorder).map(drop);
        let mut records = recorder.into_records();
        let mut last = records.pop().context("nothing was performed")?;
        if let Err(error) = shown {
            last.report.quit = error.kind() == ErrorKind::BrokenPipe;
            if !last.report.quit {
                return Err(error.into());
            }
        }
        serde_json::to_writer(record, &last).context("write the record")?;
        packets.map_or(Ok(()), end)?;
        Ok(Exit::Done.into())
    }

    /// Packets are there to be recorded in namespaces only.
    fn packets(&self, place: &Isolation) -> Result<Option<Recording>> {
        let pipe = self.live.packets_fd.map(take).transpose()?;
        let pipe = pipe.filter(|_| *place == Isolation::Namespaces);
        pipe.map(Recording::start).transpose()
    }

    fn arrive(&self) -> Result<Isolation> {
        let Some(why) = &self.plain else {
            netns::arrive()?;
            return Ok(Isolation::Namespaces);
        };
        // Nobody but the guard knows what we have started.
        set_pdeathsig(Signal::SIGKILL)?;
        Ok(Isolation::Plain(why.clone()))
    }
}

/// Ends a recording, and says what is missing in it.
fn end(packets: Recording) -> Result<()> {
    let Recorded { dropped, .. } = packets.finish().context("write packets")?;
    if dropped > 0 {
        let text = format!("--pcap: {dropped} packets were too fast, and are missing");
        logging::say("tcpecho-lab", text);
    }
    Ok(())
}

/// The descriptor that we were started with, as ours alone: nobody whom we start shall have it.
fn take(number: RawFd) -> Result<File> {
    #[expect(unsafe_code)]
    // SAFETY: whoever starts us opens it for us; nothing else here knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd.into())
}

/// Stdin, read no further than to the end of the line: the rest is for whoever performs next.
fn keyboard() -> io::Result<BufReader<File>> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(BufReader::with_capacity(1, stdin.into()))
}

/// Has a line been typed that nobody has read yet?
fn stdin_is_readable() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
