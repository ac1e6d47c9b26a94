//! Markdown, as GitHub reads it: for a repository, an issue, or to be handed in.

use std::fmt::Write as _;

use crate::date::utc;
use crate::handout::html::{COURSE, told};
use crate::handout::notes::notes;
use crate::handout::{Edition, Item, Line, Outcome, chapters, items, score, seconds};
use crate::narrate::record::{Input, Record};
use crate::narrate::step::TRY_IT;
use crate::narrate::view::View;
use crate::page::markdown::{escaped, fenced};

/// How wide time lines are drawn.
const WIDTH: usize = 100;
/// A line to write on.
const BLANK: &str = "\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_\\_";

/// The same as the page, without its pictures: time lines are drawn with letters.
pub fn markdown(records: &[Record], edition: Edition) -> String {
    let mut text = String::new();
    let mut level = 1;
    if let [] | [_, _, ..] = records {
        level = 2;
        let _ = writeln!(text, "# {COURSE}\n");
        if !edition.label().is_empty() {
            let _ = writeln!(text, "{}\n", edition.label());
        }
        contents(&mut text, records);
    }
    for record in records {
        Sheet {
            text: &mut text,
            edition,
            level,
        }
        .lab(record);
    }
    text
}

fn contents(text: &mut String, records: &[Record]) {
    for (chapter, labs) in chapters(records) {
        if !chapter.is_empty() {
            let _ = writeln!(text, "**{}**\n", escaped(chapter));
        }
        for lab in labs {
            let (name, title) = (escaped(&lab.lab), escaped(&lab.title));
            let _ = writeln!(text, "- {title} ({name}, UNP {})", escaped(&lab.sections));
        }
        text.push('\n');
    }
}

/// What has been written, and how.
struct Sheet<'a> {
    text: &'a mut String,
    edition: Edition,
    /// The level of a lab's heading.
    level: usize,
}

impl Sheet<'_> {
    fn lab(&mut self, record: &Record) {
        self.heading(0, &record.title);
        let mut about = format!("{}, UNP {}", record.lab, record.sections);
        if self.level == 1 && !self.edition.label().is_empty() {
            let _ = write!(about, ", {}", self.edition.label());
        }
        self.paragraph(&about);
        if self.edition == Edition::Student {
            self.line(&format!("Name {BLANK} Date {BLANK}\n"));
        }
        self.paragraph(&record.about);
        if let Some(why) = record.plain() {
            self.paragraph(&format!(
                "On plain loopback, without packets and among the host's other sockets: {why}."
            ));
        }
        self.wrong(record);
        if self.edition == Edition::Instructor {
            self.notes(record);
        }
        for (i, items) in items(record, self.edition).iter().enumerate() {
            self.heading(1, &format!("Act {}: {}", i + 1, record.acts[i].title));
            for item in items {
                self.item(item);
            }
        }
        self.end(record);
    }

    fn wrong(&mut self, record: &Record) {
        let wrong = &record.report.differences;
        if !wrong.is_empty() {
            self.line("**In this performance something was different:**\n");
            for text in wrong {
                self.line(&format!("- {}", escaped(text)));
            }
            self.line("");
        }
    }

    fn notes(&mut self, record: &Record) {
        self.heading(1, "For the instructor");
        for topic in notes(record) {
            self.line(&format!("**{}**\n", topic.title));
            for note in topic.notes {
                self.line(&format!("- {}", escaped(&note.text)));
            }
            self.line("");
        }
    }

    fn end(&mut self, record: &Record) {
        let place = record
            .plain()
            .map_or("in namespaces of its own", |_| "on plain loopback");
        let mut text = format!(
            "Performed {} on {}, {place}.",
            utc(record.started),
            record.system
        );
        if self.edition != Edition::Student {
            let _ = write!(text, " {}; {}.", seconds(record.takes()), score(record));
        }
        self.paragraph(&text);
    }

    fn item(&mut self, item: &Item<'_>) {
        match item {
            Item::Words(paragraphs) => {
                for one in paragraphs {
                    self.paragraph(&one.text);
                }
            }
            Item::Try(lines) => {
                self.what(TRY_IT);
                self.block("console", lines);
            }
            Item::Read(text) => self.paragraph(text),
            Item::Question(number, text, choices) => self.question(*number, text, choices),
            Item::Answer(number, answer) => {
                self.line(&format!("> {}\n", escaped(&told(*number, answer))));
            }
            Item::Room(what, lines) => self.room(what, *lines),
            Item::Step(what, input, text) => {
                self.what(what);
                match input {
                    Input::Shell => self.block("console", &format!("$ {text}")),
                    Input::Keys => self.block("text", &format!("keyboard: {text}")),
                    Input::Nothing => {}
                }
            }
            Item::View(what, command, view) => self.view(what, *command, view),
            Item::Facts(lines) => {
                for line in lines {
                    self.fact(line);
                }
                self.line("");
            }
            Item::Passed(time) => {
                self.paragraph(&format!("For {} nobody does anything.", seconds(*time)));
            }
            Item::Trouble(what, why) => {
                self.line(&format!(
                    "**TROUBLE** {}: {}\n",
                    escaped(what),
                    escaped(why)
                ));
            }
        }
    }

    fn question(&mut self, number: usize, text: &str, choices: &[String]) {
        self.what(&format!("Question {number}. {text}"));
        for (i, words) in choices.iter().enumerate() {
            let tick = if self.edition == Edition::Student {
                "[ ] "
            } else {
                ""
            };
            self.line(&format!("- {tick}{}) {}", i + 1, escaped(words)));
        }
        self.line("");
        if self.edition == Edition::Student {
            self.room("Why do you think so?", 2);
        }
    }

    fn view(&mut self, what: &str, command: Option<&str>, view: &View) {
        self.what(what);
        let (text, note) = match view {
            View::Printed(text) => (text.clone(), None),
            View::AsWouldShow { tool, why, text } => {
                let note =
                    format!("({tool} {why}; these are the same facts, as {tool} would show them)");
                (text.clone(), Some(note))
            }
            View::Ladder(ladder) => (ladder.draw(WIDTH, true), None),
        };
        match command {
            Some(command) => self.block("console", &format!("$ {command}\n{text}")),
            None => self.block("text", &text),
        }
        if let Some(note) = note {
            self.paragraph(&note);
        }
    }

    fn fact(&mut self, line: &Line) {
        let word = match line.outcome {
            Outcome::Open => String::new(),
            outcome => format!("**{}** ", outcome.word()),
        };
        let fact = line.fact.as_deref().map_or(BLANK.into(), escaped);
        let (before, after) = (escaped(&line.before), escaped(&line.after));
        self.line(&format!("- {word}{before}{fact}{after}"));
    }

    fn room(&mut self, what: &str, lines: usize) {
        self.what(what);
        for _ in 0..lines {
            self.line(&format!("{}\n", BLANK.repeat(4)));
        }
    }

    fn what(&mut self, what: &str) {
        self.line(&format!("**{}**\n", escaped(what)));
    }

    fn paragraph(&mut self, text: &str) {
        self.line(&format!("{}\n", escaped(text)));
    }

    fn block(&mut self, language: &str, text: &str) {
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        self.line(&fenced(language, &lines.join("\n")));
    }

    fn heading(&mut self, below: usize, text: &str) {
        let hashes = "#".repeat(self.level + below);
        self.line(&format!("{hashes} {}\n", escaped(text)));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handout::fixture;

    fn one(edition: Edition) -> String {
        markdown(&[fixture::record()], edition)
    }

    #[test]
    fn a_student_finds_room_and_no_answers() {
        let text = one(Edition::Student);
        for secret in fixture::SECRETS {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        assert!(text.contains("- [ ] 2) at one"), "{text}");
        assert!(text.contains(&format!("- the counter: {BLANK}")), "{text}");
        assert!(
            text.contains("$ ss -tan | grep '<9877>'\nESTAB 0 0"),
            "{text}"
        );
    }

    #[test]
    fn everything_else_stands_in_the_other_editions() {
        let text = one(Edition::Complete);
        assert!(text.starts_with("# How far does it count?\n"), "{text}");
        assert!(text.contains("> The kernel's answer to question 1 is 2: at one. You said 1."));
        assert!(
            text.contains("|<---- FIN,ACK seq=7") || text.contains("- FIN,ACK seq=7 -"),
            "{text}"
        );
        assert!(text.contains("- **VARIATION** its name: uno instead of one; Italian kernels"));
        let text = one(Edition::Instructor);
        assert!(text.contains("- Question 1: 2) at one"), "{text}");
    }

    #[test]
    fn several_labs_have_contents_and_lower_headings() {
        let text = markdown(&[fixture::record(), fixture::record()], Edition::Complete);
        assert_eq!(
            text.lines().filter(|line| line.starts_with("# ")).count(),
            1
        );
        assert_eq!(text.matches("\n## How far").count(), 2);
        assert!(
            text.contains("- How far does it count? (counting, UNP 0.1, 0.2)"),
            "{text}"
        );
    }
}
