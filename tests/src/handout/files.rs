//! The options of `tcpecho-lab run` that write files, and who writes what.
//!
//! A process that performs a lab writes the log and the recording while it does, and sends its packets
//! through a pipe ([`Live`] is what it is told); the runner has begun these files, and writes the rest.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use tcpecho_common::logging;

use crate::file;
use crate::handout::cast::{self, Cast, Echo, Tee};
use crate::handout::json::Session;
use crate::handout::pages::Handouts;
use crate::handout::transcript;
use crate::narrate::Record;
use crate::observe::pcap;

/// Which files to write.
#[derive(Args, Clone, Debug, Default)]
pub struct Files {
    /// Write the log that one hands in: commands with their time, predictions, verdicts (Markdown)
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,

    /// Record what the terminal shows, for asciinema
    #[arg(long, value_name = "FILE")]
    pub cast: Option<PathBuf>,

    /// Write the packets, for Wireshark and tcpdump
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,

    /// Write all that was told and observed, as data; - is stdout, where nothing else is shown then
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Which pages to write
    #[command(flatten)]
    pub pages: Handouts,
}

impl Files {
    /// Can all of them be written? To be asked before anything starts. The error says why not.
    pub fn check(&self, step: bool) -> Result<()> {
        let files = [&self.transcript, &self.cast, &self.pcap, &self.json];
        let files = files.into_iter().flatten().map(PathBuf::as_path);
        let files: Vec<&Path> = files.chain(self.pages.files()).collect();
        file::can_all_be_written(&files)?;
        if files.iter().any(|file| file::is_stdout(file)) && !self.have_stdout() {
            bail!("only --json, --html and --markdown can be written to stdout");
        }
        if self.have_stdout() && step {
            bail!("--step has nowhere to show anything: what is written has stdout");
        }
        Ok(())
    }

    /// Is stdout for the data, and for nothing else?
    pub fn have_stdout(&self) -> bool {
        let mut files = self.json.as_deref().into_iter().chain(self.pages.files());
        files.any(file::is_stdout)
    }

    /// Those that are written when everything has been performed.
    pub fn written_at_the_end(&self) -> Vec<String> {
        let json = self.json.as_deref().into_iter();
        let files = json.chain(self.pages.files());
        files.map(|file| file.display().to_string()).collect()
    }

    /// Begins those that are written while it happens, on a terminal of this size (columns, lines).
    pub fn begin(&self, size: (usize, usize), title: &str) -> Result<Writing<'_>> {
        if let Some(path) = &self.transcript {
            told(path, File::create(path).and_then(transcript::begin))?;
        }
        let cast_began = self.cast.as_ref().map(|path| {
            let begun = File::create(path).and_then(|file| cast::begin(file, size, title));
            told(path, begun)
        });
        Ok(Writing {
            files: self,
            cast_began: cast_began.transpose()?,
            packets: Vec::new(),
        })
    }
}

/// Goes on with a file that has been begun.
fn appended(path: &Path) -> Result<File> {
    told(path, File::options().append(true).open(path))
}

fn told<T>(path: &Path, written: io::Result<T>) -> Result<T> {
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Files that are being written by the runner.
#[derive(Debug)]
pub struct Writing<'a> {
    files: &'a Files,
    cast_began: Option<u64>,
    packets: Vec<Vec<u8>>,
}

impl Writing<'_> {
    /// What a process is to write that performs on our terminal.
    pub fn live(&self) -> Live {
        Live {
            log: self.files.transcript.clone(),
            recording: self.files.cast.clone(),
            recording_began: self.cast_began.unwrap_or(0),
            packets_fd: None,
        }
    }

    /// Are packets wanted?
    pub fn want_packets(&self) -> bool {
        self.files.pcap.is_some()
    }

    /// `screen`, and what is recorded of it; nothing if stdout is for something else.
    pub fn shown<'w>(&self, screen: impl Write + 'w) -> Result<Box<dyn Write + 'w>> {
        if self.files.have_stdout() {
            return Ok(Box::new(io::sink()));
        }
        match (&self.files.cast, self.cast_began) {
            (Some(path), Some(began)) => {
                let cast = colored(Cast::new(appended(path)?, began));
                Ok(Box::new(Tee(screen, cast)))
            }
            _ => Ok(Box::new(screen)),
        }
    }

    /// A lab has been performed, on our terminal or elsewhere.
    pub fn performed(&mut self, record: &Record, packets: &[u8], on_terminal: bool) -> Result<()> {
        if let (Some(path), false) = (&self.files.transcript, on_terminal) {
            told(path, transcript::add(appended(path)?, record))?;
        }
        if let Some(path) = &self.files.pcap {
            // Whoever has not captured anything has not even written a header.
            if !packets.is_empty() {
                self.packets.push(packets.to_vec());
                file::write(path, pcap::merged(&self.packets)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// All labs have been performed. Returns whether everything that was wanted could be written.
    pub fn finish(self, command: Vec<String>, records: &[Record]) -> Result<bool> {
        if let Some(path) = &self.files.json {
            let json = Session::new(command, records.to_vec()).json()?;
            file::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.files.pages.write(records)?;
        let captured = self.files.pcap.is_none() || !self.packets.is_empty();
        if !captured {
            let why = records
                .iter()
                .find_map(Record::plain)
                .unwrap_or("nothing was captured");
            logging::say(
                "tcpecho-lab",
                format!("--pcap: packets are seen only in namespaces ({why}): no file was written"),
            );
        }
        Ok(captured)
    }
}

/// As asciinema would have it, whatever our stdout is; who wants no colours has none.
fn colored<W: Write + 'static>(cast: Cast<W>) -> Box<dyn Write> {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if unwanted {
        Box::new(anstream::StripStream::new(Box::new(cast) as Box<dyn Write>))
    } else {
        Box::new(cast)
    }
}

/// What a process that performs a lab is told to write.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Go on with this log
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Go on with this recording of the terminal
    #[arg(long, value_name = "FILE")]
    pub recording: Option<PathBuf>,

    /// When it was begun, in ns of `CLOCK_MONOTONIC`
    #[arg(long, value_name = "NS", default_value_t = 0)]
    pub recording_began: u64,

    /// Where packets go: an open descriptor
    #[arg(long, value_name = "FD")]
    pub packets_fd: Option<RawFd>,
}

impl Live {
    /// As arguments of that process.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        let files = [("--log", &self.log), ("--recording", &self.recording)];
        for (flag, file) in files {
            args.extend(file.iter().flat_map(|file| [flag.into(), file.into()]));
        }
        args.push(format!("--recording-began={}", self.recording_began).into());
        args.extend(
            self.packets_fd
                .map(|fd| format!("--packets-fd={fd}").into()),
        );
        args
    }

    /// The log; nowhere if none is wanted.
    pub fn open_log(&self) -> Result<Box<dyn Write>> {
        Ok(match &self.log {
            Some(path) => Box::new(appended(path)?),
            None => Box::new(io::sink()),
        })
    }

    /// The recording, if one is wanted.
    pub fn open_recording(&self) -> Result<Option<Cast<File>>> {
        let file = self.recording.as_deref().map(appended).transpose()?;
        Ok(file.map(|file| Cast::new(file, self.recording_began)))
    }
}

/// `screen` and `keyboard`, and what is recorded of them.
pub fn recorded(
    cast: Option<Cast<File>>,
    screen: impl Write + 'static,
    keyboard: impl BufRead + 'static,
) -> (Box<dyn Write>, Box<dyn BufRead>) {
    let Some(cast) = cast else {
        return (Box::new(screen), Box::new(keyboard));
    };
    let echo = Echo::new(keyboard, cast.clone());
    (Box::new(Tee(screen, colored(cast))), Box::new(echo))
}
