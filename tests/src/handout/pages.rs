//! The pages on the command line: where they are to be written, and for whom.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::file::write;
use crate::handout::Edition;
use crate::handout::html::html;
use crate::handout::markdown::markdown;
use crate::narrate::record::Record;

/// Which handouts, and where to.
#[derive(Args, Clone, Debug, Default)]
pub struct Handouts {
    /// Write what was performed as a page that needs nothing else; - is stdout
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write it as Markdown; - is stdout
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,

    /// For whom
    #[arg(long, value_enum, value_name = "EDITION", default_value_t)]
    pub edition: Edition,
}

type Form = fn(&[Record], Edition) -> String;

impl Handouts {
    fn wanted(&self) -> impl Iterator<Item = (&Path, Form)> {
        let forms: [(_, Form); 2] = [(&self.html, html), (&self.markdown, markdown)];
        let forms = forms.into_iter();
        forms.filter_map(|(file, form)| Some((file.as_deref()?, form)))
    }

    /// Is nothing to be written?
    pub fn is_none(&self) -> bool {
        self.wanted().next().is_none()
    }

    /// The files they go to.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.wanted().map(|(file, _)| file)
    }

    /// Writes them, each all or not at all.
    pub fn write(&self, records: &[Record]) -> Result<()> {
        for (file, form) in self.wanted() {
            write(file, form(records, self.edition))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        handouts: Handouts,
    }

    fn parsed(words: &[&str]) -> Handouts {
        let line = ["run"].iter().chain(words);
        Cli::try_parse_from(line).expect("a good line").handouts
    }

    #[test]
    fn nothing_is_wanted_unless_said() {
        assert!(parsed(&[]).is_none());
        assert_eq!(
            parsed(&["--html", "a", "--markdown", "b"]).files().count(),
            2
        );
        assert_eq!(parsed(&[]).edition, Edition::Complete);
        assert_eq!(parsed(&["--edition", "student"]).edition, Edition::Student);
        assert!(Cli::try_parse_from(["run", "--edition", "third"]).is_err());
    }
}
