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

/// Runs `command` for real; where it is not installed, or fails, `facts` stand in, marked as such.
/// The words of the command are separated by spaces; there is no shell between.
pub fn look(command: &str, facts: impl FnOnce() -> String) -> View {
    printed_by(command).map_or_else(
        || View::AsWouldShow {
            tool: tool(command).into(),
            text: facts(),
        },
        View::Printed,
    )
}

fn printed_by(command: &str) -> Option<String> {
    let output = Command::new(tool(command))
        .args(command.split_whitespace().skip(1))
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
        let view = look("no-such-tool -x", || "the facts".into());
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
        let view = look("echo for real", || unreachable!("echo is installed"));
        assert!(matches!(view, View::Printed(text) if text == "for real\n"));
    }
}
