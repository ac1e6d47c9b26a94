//! `tcpecho-lab explain`: a lab to read. Nothing is performed.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use tcpecho_common::Exit;

use crate::labs;
use crate::narrate::fact::{Expected, Fact, Variation};
use crate::narrate::plan::Planned;
use crate::narrate::step::{Question, TRY_IT, Typed};
use crate::narrate::text::{names_in, wrap};
use crate::narrate::{Lab, Scene};
use crate::runner::{list, names};

/// Where the text begins; what kind of step it is stands before it.
const INDENT: usize = 8;

/// Where lines begin that are as they are, as in a performance.
const LISTING: usize = 4;

/// Lines are no longer, however wide the window is, and no shorter.
const WIDTHS: (usize, usize) = (40, 80);

/// Which lab to read.
#[derive(Args, Debug)]
pub struct Explain {
    /// Which demonstration; without one, what there is
    #[arg(value_name = "NAME", value_parser = names())]
    lab: Option<String>,
}

impl Explain {
    /// Writes it to stdout, in lines of at most `width` columns.
    pub fn run(&self, width: usize) -> Result<ExitCode> {
        let mut out = anstream::stdout().lock();
        if let Some(lab) = self.lab.as_deref().and_then(labs::find) {
            write!(out, "{}", text(lab, width))?;
        } else {
            list::table(&mut out)?;
            let hint = "tcpecho-lab explain NAME tells one of them; run NAME performs it.";
            writeln!(out, "\n{hint}")?;
        }
        Ok(Exit::Done.into())
    }
}

/// All that the lab does, asks and expects, for a window of `width` columns.
pub fn text(lab: &Lab, width: usize) -> String {
    let acts = (lab.acts)();
    let mut page = Page {
        width: width.clamp(WIDTHS.0, WIDTHS.1),
        text: String::new(),
    };
    page.head(lab, &acts);
    for (number, act) in (1..).zip(&acts) {
        page.act(number, act.as_ref());
    }
    page.text
}

/// A page that is written from top to bottom.
struct Page {
    width: usize,
    text: String,
}

impl Page {
    fn head(&mut self, lab: &Lab, acts: &[Box<dyn Scene>]) {
        let sections = format!("UNP {}", lab.sections);
        let gap = self.width.saturating_sub(lab.name.len() + sections.len());
        self.line(&format!("{}{:gap$}{sections}", lab.name, ""));
        self.line(lab.title);
        self.line("");
        self.paragraph("", lab.about, 0);
        self.line("");
        let warning = format!(
            "Nothing is performed here, and the answers are given away. To be asked first: \
             tcpecho-lab run {}.",
            lab.name
        );
        self.paragraph("", &warning, 0);
        let names = placeholders(acts);
        if !names.is_empty() {
            let meaning = format!(
                "{}: known when it runs (a process id, a port, ...) and filled in then.",
                names.into_iter().collect::<Vec<_>>().join(", ")
            );
            self.paragraph("", &meaning, 0);
        }
    }

    fn act(&mut self, number: usize, act: &dyn Scene) {
        let heading = format!("-- Act {number}: {} ", act.title());
        let rest = "-".repeat(self.width.saturating_sub(heading.len()));
        self.line(&format!("\n{heading}{rest}"));
        let mut open = VecDeque::new();
        for step in act.plan() {
            if let Planned::Ask(question) = step {
                open.push_back(question);
            }
            self.step(&step, &mut open);
        }
    }

    fn step(&mut self, step: &Planned, open: &mut VecDeque<Question>) {
        if !matches!(step, Planned::Expect { .. }) {
            self.line("");
        }
        match step {
            Planned::Explain(text) => self.paragraph("", text, INDENT),
            Planned::Read(text) => {
                let text = text.strip_prefix("Read: ").unwrap_or(text);
                self.paragraph("read", text, INDENT);
            }
            Planned::Try(lines) => self.commands(lines),
            Planned::Ask(question) => self.question(question),
            Planned::Do(what, typed) => {
                self.paragraph("do", what, INDENT);
                self.typed(*typed);
            }
            Planned::Wait(what, time) => {
                let text = format!("{what} ({})", Fact::Time(*time));
                self.paragraph("wait", &text, INDENT);
            }
            Planned::Look(what, typed) => {
                self.paragraph("look", what, INDENT);
                self.typed(*typed);
            }
            Planned::List(what, text) => {
                self.paragraph("look", what, INDENT);
                self.lines(text);
            }
            Planned::Expect {
                what,
                expected,
                known,
                answers,
            } => {
                let question = answers.then(|| open.pop_front()).flatten();
                let text = expectation(what, expected, known, question.as_ref());
                self.paragraph("expect", &text, INDENT);
            }
        }
    }

    fn question(&mut self, question: &Question) {
        self.paragraph("ask", question.text, INDENT);
        for (number, (_, words)) in (1..).zip(question.choices) {
            let mark = format!("{:INDENT$}{number})", "");
            self.paragraph(&mark, words, INDENT + 3);
        }
    }

    /// A command that is too long goes on in the next line, as a shell has it.
    fn typed(&mut self, typed: Typed) {
        let (prompt, room) = match typed {
            Typed::Shell(_) => ("$", self.width - INDENT - 4),
            Typed::Keys(_) => ("keyboard:", self.width),
            Typed::Nothing => return,
        };
        let lines = wrap(typed.text(), room).join(&format!(" \\\n{:INDENT$}  ", ""));
        self.line(&format!("{:INDENT$}{prompt} {lines}", ""));
    }

    fn commands(&mut self, lines: &str) {
        self.paragraph("try", TRY_IT, INDENT);
        self.lines(lines);
    }

    /// As they are.
    fn lines(&mut self, lines: &str) {
        for line in lines.lines() {
            self.line(&format!("{:LISTING$}{}", "", line.trim_end()));
        }
    }

    /// A text beside its mark.
    fn paragraph(&mut self, mark: &str, text: &str, indent: usize) {
        for (i, line) in wrap(text, self.width - indent).iter().enumerate() {
            let mark = if i == 0 { mark } else { "" };
            self.line(format!("{mark:indent$}{line}").trim_end());
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// "the client: asleep (answer 1); or the read: why". A ` _ ` in `what` is the fact's place.
fn expectation(
    what: &str,
    expected: &Expected,
    known: &[Variation],
    question: Option<&Question>,
) -> String {
    let mut text = if what.contains(" _ ") {
        what.replace(" _ ", &format!(" {expected} "))
    } else {
        format!("{what}: {expected}")
    };
    let fact = expected.to_string();
    let choice = question.and_then(|q| q.choices.iter().position(|(choice, _)| *choice == fact));
    if let Some(choice) = choice {
        let _ = write!(text, " (answer {})", choice + 1);
    }
    for variation in known {
        let _ = write!(text, "; or {}: {}", variation.fact, variation.reason);
    }
    text
}

/// All that is in braces in these acts, braces included.
fn placeholders(acts: &[Box<dyn Scene>]) -> BTreeSet<String> {
    let steps = acts.iter().flat_map(|act| act.plan());
    let texts = steps.flat_map(|step| match step {
        Planned::Explain(text) | Planned::Read(text) | Planned::Wait(text, _) => vec![text],
        Planned::Do(what, typed) | Planned::Look(what, typed) => vec![what, typed.text()],
        Planned::Expect { what, .. } => vec![what],
        // These are shown as they are.
        Planned::Try(_) | Planned::List(..) | Planned::Ask(_) => Vec::new(),
    });
    texts
        .flat_map(names_in)
        .map(|name| format!("{{{name}}}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lab_can_be_read_in_eighty_columns() {
        for lab in labs::ALL {
            let text = text(lab, 200);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", lab.name);
            }
            for part in [lab.title, lab.sections] {
                assert!(text.contains(part), "{}: {part}", lab.name);
            }
        }
    }

    #[test]
    fn the_steps_are_there_with_commands_questions_and_answers() {
        let lab = labs::find("premature-termination").expect("it is there");
        let text = text(lab, 80);
        for part in [
            "-- Act 2: the client that waits for both ---",
            "\nask     The child is about to be killed.",
            "\n        1) it sleeps on and says nothing\n",
            "\n        $ kill -KILL {child}\n",
            "\n        keyboard: another line\n",
            "\nexpect  the client: asleep (answer 1)\n",
            "\nexpect  the client spoke at least 1.0 s after the FIN\n",
            "(1.0 s)",
            "{child}, {pids}, {port}: known when it runs",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }
}
