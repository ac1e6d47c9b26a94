//! What a student sees who looks for himself: the output of `ps` or `ss`, or a drawing.

use std::process::{Command, Stdio};

use crate::narrate::ladder::Ladder;

/// Something to look at.
#[derive(Clone, Debug)]
pub enum View {
    /// What the command printed.
    Printed(String),
    /// The command is not installed; the same facts, asked from the kernel by ourselves.
    AsWouldShow {
        /// The command that would show it.
        tool: String,
        /// The facts, laid out as it lays them out.
        text: String,
    },
    /// Packets, calls and states on one time line.
    Ladder(Ladder),
}

impl View {
    /// What `command` (of the shell) prints; where it is not installed, or fails, `facts` stand in,
    /// marked as such.
    pub fn by(command: &str, facts: String) -> Self {
        printed_by(command).map_or_else(
            || Self::AsWouldShow {
                tool: tool(command).into(),
                text: facts,
            },
            Self::Printed,
        )
    }
}

fn printed_by(command: &str) -> Option<String> {
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
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
        let View::AsWouldShow { tool, text } = view else {
            panic!("{view:?}");
        };
        assert_eq!(
            (tool.as_str(), text.as_str()),
            ("no-such-tool", "the facts")
        );
    }

    #[test]
    fn an_installed_tool_speaks_for_itself() {
        let view = View::by("echo for real", "the facts".into());
        assert!(matches!(view, View::Printed(text) if text == "for real\n"));
    }
}
