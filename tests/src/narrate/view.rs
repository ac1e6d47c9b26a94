//! What a student sees who looks for himself: the output of `ps` or `ss`, or a drawing.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::narrate::ladder::Ladder;

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// What the command printed.
    Printed(String),
    /// The command cannot show it here; the same facts, asked from the kernel by ourselves.
    AsWouldShow {
        /// The command that would show it.
        tool: String,
        /// Why it does not.
        why: String,
        /// The facts, laid out as it lays them out.
        text: String,
    },
    /// Packets, calls and states on one time line.
    Ladder(Ladder),
}

impl View {
    /// What `command` (of the shell) prints; where it is not installed, or prints nothing, `facts`
    /// stand in, marked as such.
    pub fn by(command: &str, facts: String) -> Self {
        let why = if sh(&format!("command -v {}", tool(command))).is_empty() {
            "is not installed"
        } else {
            let text = sh(command);
            if !text.trim().is_empty() {
                return Self::Printed(text);
            }
            "shows nothing here"
        };
        Self::AsWouldShow {
            tool: tool(command).into(),
            why: why.into(),
            text: facts,
        }
    }
}

/// What a shell command prints on stdout.
fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output();
    output.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).into())
}

fn tool(command: &str) -> &str {
    command.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_installed_is_not_pretended() {
        let view = View::by("no-such-tool -x | grep -v x", "the facts".into());
        let View::AsWouldShow { tool, why, text } = view else {
            panic!("{view:?}");
        };
        assert_eq!(why, "is not installed");
        assert_eq!(
            (tool.as_str(), text.as_str()),
            ("no-such-tool", "the facts")
        );
    }

    #[test]
    fn a_tool_that_prints_nothing_is_not_called_missing() {
        let view = View::by("ls --no-such-option", "the facts".into());
        let View::AsWouldShow { why, .. } = view else {
            panic!("{view:?}");
        };
        assert_eq!(why, "shows nothing here");
    }

    #[test]
    fn an_installed_tool_speaks_for_itself() {
        let view = View::by("echo for real", "the facts".into());
        assert!(matches!(view, View::Printed(text) if text == "for real\n"));
    }
}
