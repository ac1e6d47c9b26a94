//! One lab in a process of its own, seen from the runner: in namespaces, or else under guard.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::handout::files::Live;
use crate::narrate::Lab;
use crate::narrate::record::Record;
use crate::netns;
use crate::output::Output;
use crate::runner::guard;
use crate::runner::perform::Manner;
use crate::sweep;
use crate::wait::eventually;

/// How long the last words of a lab may take that has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a lab went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The record; if the process broke off, one that says so.
    pub record: Record,
    /// What was shown, if it was collected.
    pub text: String,
    /// The packets, as a pcap file, if they were wanted.
    pub packets: Vec<u8>,
}

impl Outcome {
    /// Why there is no record of the performance, if there is none: nobody has been shown that.
    pub fn broken_off(&self) -> Option<&str> {
        let difference = self.record.report.differences.first();
        difference
            .filter(|_| self.record.acts.is_empty())
            .map(String::as_str)
    }
}

/// Where labs are performed, and how.
#[derive(Clone, Debug)]
pub struct Stagehand {
    /// How they are shown.
    pub manner: Manner,
    /// Why they stay out of namespaces, if they do.
    pub plain: Option<String>,
    /// What is written while they are performed on our terminal.
    pub live: Live,
    /// Are their packets wanted?
    pub packets: bool,
}

/// Who sees a lab while it is performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Whoever sees us.
    Ours,
    /// Nobody: what it shows is collected.
    Nobody,
}

/// A lab that is being performed.
struct Performing {
    lab: &'static Lab,
    child: Child,
    /// What ends it: the keeper of the namespaces is killed, the guard is told; either takes everything
    /// along.
    end: Signal,
    record: Output,
    packets: Option<Output>,
    /// What it shows, if that is collected.
    shown: Option<Output>,
    began: SystemTime,
}

impl Stagehand {
    /// Performs a lab on our terminal. To be called by a thread that is not interrupted by signals:
    /// see [`sweep::when_interrupted`].
    pub fn aloud(&self, lab: &'static Lab) -> Result<Outcome> {
        let mut performing = self.start(lab, Audience::Ours)?;
        let how = early(performing.child.wait()?);
        Ok(performing.outcome(&how))
    }

    /// Performs a lab that nobody watches. It must end within this time.
    pub fn apart(&self, lab: &'static Lab, deadline: Duration) -> Result<Outcome> {
        let mut performing = self.start(lab, Audience::Nobody)?;
        let child = &mut performing.child;
        let ended = eventually(lab.name, deadline, || child.try_wait().transpose());
        let how = if let Ok(status) = ended {
            early(status?)
        } else {
            kill(Pid::from_raw(child.id() as i32), performing.end)?;
            child.wait()?;
            format!("it was ended after {deadline:?}")
        };
        Ok(performing.outcome(&how))
    }

    fn start(&self, lab: &'static Lab, audience: Audience) -> Result<Performing> {
        match &self.plain {
            Some(why) => self.plainly(lab, audience, why),
            None => match self.spawn(lab, audience, None)? {
                Ok(performing) => Ok(performing),
                Err(refused) => self.plainly(lab, audience, &netns::refusal(refused)?),
            },
        }
    }

    fn plainly(&self, lab: &'static Lab, audience: Audience, why: &str) -> Result<Performing> {
        let performing = self.spawn(lab, audience, Some(why))?;
        performing.context("start this program under guard")
    }

    /// Starts the process; the inner error is that of `spawn`.
    fn spawn(
        &self,
        lab: &'static Lab,
        audience: Audience,
        plain: Option<&str>,
    ) -> Result<io::Result<Performing>> {
        let (record, record_end) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
        let packets = self.packets.then(|| pipe2(OFlag::O_CLOEXEC));
        let packets = packets.transpose().context("pipe")?;
        let (packets, packets_end) = packets.unzip();
        let mut args = self.args(lab, plain, &record_end);
        args.extend(self.live(audience, packets_end.as_ref()).to_args());
        let mut command = match plain {
            None => netns::command(&args)?,
            Some(_) => guard::command(&args)?,
        };
        let shown = match audience {
            Audience::Ours => None,
            Audience::Nobody => Some(collected(&mut command)?),
        };
        hand_down(&mut command, record_end);
        if let Some(end) = packets_end {
            hand_down(&mut command, end);
        }
        let began = SystemTime::now();
        let child = {
            let _starting = sweep::starting()?;
            command.spawn()
        };
        // It holds our copies of the other ends.
        drop(command);
        Ok(match child {
            Err(error) => Err(error),
            Ok(child) => Ok(Performing {
                lab,
                child,
                end: plain.map_or(Signal::SIGKILL, |_| Signal::SIGTERM),
                record: Output::collect(record)?,
                packets: packets.map(Output::collect).transpose()?,
                shown,
                began,
            }),
        })
    }

    /// What the process is to write; what nobody watches is written by us, when it has ended.
    fn live(&self, audience: Audience, packets: Option<&OwnedFd>) -> Live {
        let live = match audience {
            Audience::Ours => self.live.clone(),
            Audience::Nobody => Live::default(),
        };
        Live {
            packets_fd: packets.map(AsRawFd::as_raw_fd),
            ..live
        }
    }

    fn args(&self, lab: &Lab, plain: Option<&str>, record: &OwnedFd) -> Vec<OsString> {
        let record = format!("--record-fd={}", record.as_raw_fd());
        let mut args: Vec<OsString> = vec!["perform".into(), lab.name.into(), record.into()];
        args.extend(plain.map(|why| format!("--plain={why}").into()));
        args.extend(self.manner.to_args());
        args
    }
}

impl Performing {
    /// What has come of it, now that it has ended; without a record, `how` is what differs.
    fn outcome(self, how: &str) -> Outcome {
        self.record.wait_end(LAST_WORDS);
        let text = self.shown.map_or(String::new(), |shown| {
            shown.wait_end(LAST_WORDS);
            shown.text()
        });
        let packets = self.packets.map_or(Vec::new(), |packets| {
            packets.wait_end(LAST_WORDS);
            packets.bytes()
        });
        let record = serde_json::from_slice(&self.record.bytes());
        let record = record.unwrap_or_else(|_| broken_off(self.lab, self.began, how));
        Outcome {
            record,
            text,
            packets,
        }
    }
}

/// The record of a lab that has left none.
fn broken_off(lab: &Lab, began: SystemTime, how: &str) -> Record {
    let epoch = began.duration_since(SystemTime::UNIX_EPOCH);
    let mut record = Record {
        lab: lab.name.into(),
        title: lab.title.into(),
        sections: lab.sections.into(),
        about: lab.about.into(),
        started: epoch.map_or(0, |time| time.as_secs()),
        seconds: began.elapsed().map_or(0.0, |time| time.as_secs_f64()),
        ..Record::default()
    };
    record.report.lab = lab.name.into();
    let difference = format!("{} should have come to its end, but {how}", lab.name);
    record.report.differences.push(difference);
    record
}

/// Where stdout and stderr of the command will come out; it has nothing to read.
fn collected(command: &mut Command) -> Result<Output> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    command.stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    Output::collect(reader)
}

/// Lets the program have this descriptor.
fn hand_down(command: &mut Command, fd: OwnedFd) {
    let keep = move || {
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    #[expect(unsafe_code)]
    // SAFETY: one system call, which is async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(keep);
    }
}

/// How a process ended that has left no record. If by a signal that is meant for all of us, or by our
/// own hand after such a signal, we follow.
fn early(status: ExitStatus) -> String {
    if let Some(signal) = killed_from_outside(status).or_else(sweep::interrupted) {
        sweep::follow(signal);
    }
    format!("it ended early: {status}")
}

/// The signal of the terminal, or of whoever ends us all, that has reached the lab before us.
fn killed_from_outside(status: ExitStatus) -> Option<Signal> {
    let code = status.code().filter(|code| *code > 128);
    let number = status.signal().or(code.map(|code| code - 128))?;
    let signal = Signal::try_from(number).ok()?;
    let outside = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    outside.contains(&signal).then_some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_from_outside_says_so_as_a_shell_would() {
        let status = |number: i32| killed_from_outside(ExitStatus::from_raw(number));
        assert_eq!(status(2), Some(Signal::SIGINT));
        assert_eq!(status(143 << 8), Some(Signal::SIGTERM));
        assert_eq!(status(0), None);
        assert_eq!(status(1 << 8), None);
        assert_eq!(status(9), None);
    }

    #[test]
    fn a_lab_without_a_record_has_differed() {
        let lab = crate::labs::ALL[0];
        let record = broken_off(lab, SystemTime::now(), "it ended early: signal: 9");
        assert!(!record.report.passed(false));
        let said = &record.report.differences[0];
        assert!(said.ends_with("but it ended early: signal: 9"), "{said}");
    }
}
