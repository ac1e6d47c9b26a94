//! `tcpecho-lab book`: the whole course on one page, every lab performed for it.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use tcpecho_common::{Exit, logging};

use crate::handout::files::Files;
use crate::handout::pages::Handouts;
use crate::labs;
use crate::runner::run::{Pace, Run};

/// Perform all demonstrations and write the whole course as one page, with contents by chapter.
#[derive(Args, Debug)]
pub struct Book {
    /// What is written
    #[command(flatten)]
    pub handouts: Handouts,

    /// Stay out of namespaces: on the host's loopback, without packets
    #[arg(long)]
    pub plain: bool,
}

impl Book {
    /// Performs and writes. The exit code is 1 if anything differed; the page shows it.
    pub fn run(self) -> Result<ExitCode> {
        if self.handouts.is_none() {
            let text = "book: where to? --html FILE, or --markdown FILE";
            logging::say("tcpecho-lab", text);
            return Ok(Exit::Usage.into());
        }
        let run = Run {
            labs: labs::ALL.iter().map(|lab| lab.name.into()).collect(),
            pace: Pace::default(),
            quiet: true,
            full: false,
            strict: false,
            plain: self.plain,
            jobs: None,
            report_fd: None,
            files: Files {
                pages: self.handouts,
                ..Files::default()
            },
        };
        run.run()
    }
}
