//! Nobody watches: everything is written down, for the case that a test must explain itself.

use std::io;

use anstream::StripStream;

use crate::narrate::perform::{Event, Renderer};
use crate::narrate::terminal::Terminal;

/// Writes the performance down as a terminal of 90 columns without colours would show it.
pub struct Quiet {
    page: Terminal<StripStream<Vec<u8>>>,
}

impl Quiet {
    /// An empty page.
    pub fn new() -> Self {
        let page = Terminal::automatic(StripStream::new(Vec::new()), 90).full(true);
        Self { page }
    }

    /// Everything that was shown so far.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(self.page.written().as_inner()).into_owned()
    }
}

impl Default for Quiet {
    fn default() -> Self {
        Self::new()
    }
}

impl Renderer for Quiet {
    fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.page.show(event)
    }
}
