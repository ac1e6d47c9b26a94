//! All that was shown, as data; `tests/schemas/lab.schema.json` describes it.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::narrate::Record;

/// The number of this format; it grows when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// What a file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// [`FORMAT`].
    pub format: u32,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// The version of this program.
    pub version: String,
    /// The labs that were performed, in this order.
    pub labs: Vec<Record>,
}

impl Session {
    /// These labs, performed by this command line.
    pub fn new(command: Vec<String>, labs: Vec<Record>) -> Self {
        Self {
            format: FORMAT,
            command,
            version: env!("CARGO_PKG_VERSION").into(),
            labs,
        }
    }

    /// As text, with a line end.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
