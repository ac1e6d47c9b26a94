//! What remains of a performance when the class has gone: files to hand in, to play, to read.
//!
//! [`transcript`] is the dated log, written while it happens; [`cast`] what the terminal showed;
//! [`json`] all of it as data. The packets are [`crate::observe::pcap`]'s.
//!
//! [`html`] and [`markdown`] are pages to read, to fill in, or to teach from: pure functions of records, so
//! nothing stands on them that was not told or observed. What an [`Edition`] holds is decided here; they
//! decide how it looks, [`svg`] draws the time lines, [`notes`] gathers what an instructor wants to
//! know beforehand.

pub mod book;
pub mod cast;
pub mod files;
pub mod html;
pub mod json;
pub mod markdown;
pub mod notes;
pub mod pages;
pub mod svg;
pub mod transcript;

#[cfg(test)]
mod fixture;

use std::collections::VecDeque;
use std::fmt::Write as _;

use clap::ValueEnum;

use crate::narrate::fact::{Expected, Fact, Judgement};
use crate::narrate::record::{ActRecord, Input, Record, Told};
use crate::narrate::view::View;

/// For whom a handout is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Edition {
    /// Everything as it was performed, each answer behind its question
    #[default]
    Complete,
    /// To be filled in: no answers, no verdicts, no explanations, but room for them
    Student,
    /// Everything, and in front the answers, the time it takes, what may vary, points to raise
    Instructor,
}

impl Edition {
    /// What stands on the page; nothing for the one that has no other purpose than to be read.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Complete => "",
            Self::Student => "student's edition",
            Self::Instructor => "instructor's edition",
        }
    }
}

/// What stands on a page, one below the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Item<'a> {
    /// Something is told.
    Words(Vec<Paragraph>),
    /// Commands to try, one a line.
    Try(&'a str),
    /// Where to read on.
    Read(&'a str),
    /// A question: its number in the lab, the text, the choices.
    Question(usize, &'a str, &'a [String]),
    /// The answer to the question of this number.
    Answer(usize, Answer<'a>),
    /// Room to write on: what about, how many lines.
    Room(String, usize),
    /// Something was made to happen: what, how, what was typed.
    Step(&'a str, Input, &'a str),
    /// Something was looked at: what, the command if there is one, and what was seen.
    View(&'a str, Option<&'a str>, &'a View),
    /// Facts that followed each other.
    Facts(Vec<Line>),
    /// So many seconds passed.
    Passed(f64),
    /// A step could not be performed: which, why.
    Trouble(&'a str, &'a str),
}

/// A paragraph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paragraph {
    /// On one line.
    pub text: String,
    /// The number in the lab of the point that it makes, if it makes one to raise.
    pub point: Option<usize>,
}

/// What the kernel answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Which choice, counted from 0.
    pub choice: Option<usize>,
    /// The same in words.
    pub words: &'a str,
    /// What the audience said.
    pub guess: Option<usize>,
}

/// A fact on a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How it came out.
    pub outcome: Outcome,
    /// What stands before the fact.
    pub before: String,
    /// The fact; None: to be filled in.
    pub fact: Option<String>,
    /// What stands behind it.
    pub after: String,
}

/// How a fact came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Held,
    /// By a known variation.
    Varied,
    /// Otherwise.
    Different,
    /// It could not be seen.
    Unseen,
    /// That is for the reader to say.
    Open,
}

impl Outcome {
    /// The word for it, the same as on a terminal.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Held => "OK",
            Self::Varied => "VARIATION",
            Self::Different => "DIFFERENT",
            Self::Unseen => "SKIP",
            Self::Open => "",
        }
    }
}

/// How many letters of a typed explanation take a line by hand.
const WRITTEN: usize = 90;

/// The acts of a lab as an edition has them.
pub fn items(record: &Record, edition: Edition) -> Vec<Vec<Item<'_>>> {
    let mut editor = Editor {
        edition,
        ..Editor::default()
    };
    record.acts.iter().map(|act| editor.act(act)).collect()
}

/// Goes through a lab from its beginning to its end.
#[derive(Default)]
struct Editor {
    edition: Edition,
    questions: usize,
    points: usize,
    /// The points of the acts before.
    raised: usize,
    open: VecDeque<usize>,
    /// Has anything been seen in this act that an explanation might be about?
    seen: bool,
}

impl Editor {
    fn act<'a>(&mut self, act: &'a ActRecord) -> Vec<Item<'a>> {
        (self.open, self.seen, self.raised) = (VecDeque::new(), false, self.points);
        let mut items = Vec::new();
        for entry in &act.entries {
            match (self.item(&entry.what), items.last_mut()) {
                (Item::Facts(more), Some(Item::Facts(facts))) => facts.extend(more),
                (item, _) => items.push(item),
            }
        }
        self.conclude(&mut items);
        items
    }

    /// In an act that compares nothing, the last words are the point to raise.
    fn conclude(&mut self, items: &mut [Item<'_>]) {
        if self.edition != Edition::Instructor || self.points > self.raised {
            return;
        }
        let last = items.iter_mut().rev().find_map(|item| match item {
            Item::Words(paragraphs) => paragraphs.first_mut(),
            _ => None,
        });
        if let Some(paragraph) = last {
            self.points += 1;
            paragraph.point = Some(self.points);
        }
    }

    fn item<'a>(&mut self, told: &'a Told) -> Item<'a> {
        self.seen |= matches!(told, Told::Show { .. } | Told::Verdict { .. });
        match told {
            Told::Explain(text) => self.words(text),
            Told::Try(lines) => Item::Try(lines),
            Told::Read(text) => Item::Read(text),
            Told::Ask { question, choices } => {
                self.questions += 1;
                self.open.push_back(self.questions);
                Item::Question(self.questions, question, choices)
            }
            Told::Do { what, typed, text } => Item::Step(what, *typed, text),
            Told::Show {
                what,
                command,
                text,
                view,
            } => {
                let typed = *command == Input::Shell;
                Item::View(what, typed.then_some(text), view)
            }
            Told::Answer {
                choice,
                words,
                guess,
                ..
            } => self.answer(*choice, words, *guess),
            Told::Verdict {
                what,
                expected,
                judgement,
                ..
            } => Item::Facts(vec![self.line(what, expected, judgement)]),
            Told::Wait(seconds) => Item::Passed(*seconds),
            Told::Trouble { what, why } => Item::Trouble(what, why),
        }
    }

    /// What sets the stage is told to everybody; what explains something seen is the student's to say.
    fn words<'a>(&mut self, text: &str) -> Item<'a> {
        if self.edition == Edition::Student && self.seen {
            let lines = (text.len() / WRITTEN).clamp(2, 6);
            return Item::Room("In your words: what happened, and why?".into(), lines);
        }
        let paragraph = |text: String| Paragraph {
            point: self.point(&text),
            text,
        };
        Item::Words(paragraphs(text).map(paragraph).collect())
    }

    /// Where the book and this kernel are compared, or a verdict is given, there is a point to raise.
    fn point(&mut self, text: &str) -> Option<usize> {
        let raised = text.contains("The book") || text.contains("his kernel");
        if self.edition != Edition::Instructor || !raised && !text.starts_with("Verdict") {
            return None;
        }
        self.points += 1;
        Some(self.points)
    }

    fn answer<'a>(
        &mut self,
        choice: Option<usize>,
        words: &'a str,
        guess: Option<usize>,
    ) -> Item<'a> {
        let number = self.open.pop_front().unwrap_or(self.questions);
        let answer = Answer {
            choice,
            words,
            guess: guess.filter(|_| self.edition == Edition::Complete),
        };
        match self.edition {
            Edition::Student => {
                let what = format!("Question {number}: which was it, and what shows it?");
                Item::Room(what, 2)
            }
            _ => Item::Answer(number, answer),
        }
    }

    fn line(&self, what: &str, expected: &Expected, judgement: &Judgement) -> Line {
        let limit = match expected {
            Expected::Is(_) => String::new(),
            limit => format!(" (it must be {limit})"),
        };
        let (outcome, fact, behind) = match judgement {
            Judgement::Held(_) | Judgement::Varied(..) if self.edition == Edition::Student => {
                (Outcome::Open, None, String::new())
            }
            Judgement::Held(fact) if self.edition == Edition::Instructor => {
                (Outcome::Held, Some(fact.to_string()), limit)
            }
            Judgement::Held(fact) => (Outcome::Held, Some(fact.to_string()), String::new()),
            Judgement::Varied(fact, why) => {
                let instead = format!(" instead of {expected}; {why}");
                (Outcome::Varied, Some(fact.to_string()), instead)
            }
            Judgement::Different(expected, observed) => {
                let instead = format!(", but should have been {expected}");
                (Outcome::Different, Some(observed.clone()), instead)
            }
            Judgement::Unseen(why) => (Outcome::Unseen, Some(why.clone()), String::new()),
        };
        let (before, after) = around(what, outcome);
        Line {
            outcome,
            before,
            fact,
            after: after + &behind,
        }
    }
}

/// What stands on both sides of a fact: the ` _ ` in a sentence is its place, else it is behind a name.
/// The reason for which nothing was seen is no part of a sentence.
fn around(what: &str, outcome: Outcome) -> (String, String) {
    match what.split_once(" _ ") {
        Some((before, after)) if outcome != Outcome::Unseen => {
            (format!("{before} "), format!(" {after}"))
        }
        _ => (format!("{}: ", what.replace(" _ ", " ... ")), String::new()),
    }
}

/// Running text, paragraph by paragraph, each on one line.
fn paragraphs(text: &str) -> impl Iterator<Item = String> {
    let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split("\n\n").map(words)
}

/// Seconds as a reader wants them: `0.4 s`, `8 s`, `3 min`.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => "less than 0.1 s".into(),
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// The records, chapter by chapter, in their order.
fn chapters(records: &[Record]) -> Vec<(&str, &[Record])> {
    let same = |a: &Record, b: &Record| a.chapter == b.chapter;
    let chapters = records.chunk_by(same);
    chapters.map(|labs| (&*labs[0].chapter, labs)).collect()
}

/// What a performance is told by: its number of facts and what is wrong.
fn score(record: &Record) -> String {
    let report = &record.report;
    let mut score = format!("{} facts as expected", report.held);
    for (count, what) in [
        (report.varied.len(), "of them by a known variation"),
        (report.differences.len(), "different"),
        (report.skipped.len(), "could not be seen"),
    ] {
        if count > 0 {
            let _ = write!(score, ", {count} {what}");
        }
    }
    score
}

/// A fact as it was judged; None where there was none.
fn observed(judgement: &Judgement) -> Option<&Fact> {
    match judgement {
        Judgement::Held(fact) | Judgement::Varied(fact, _) => Some(fact),
        Judgement::Different(..) | Judgement::Unseen(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handout::fixture;

    fn first(edition: Edition) -> Vec<String> {
        let record = fixture::record();
        let items = items(&record, edition);
        items[0].iter().map(|item| format!("{item:?}")).collect()
    }

    #[test]
    fn a_student_gets_no_answer_no_verdict_and_no_explanation_of_what_was_seen() {
        let told = first(Edition::Student).join("\n");
        for secret in fixture::SECRETS {
            assert!(!told.contains(secret), "{secret}: {told}");
        }
        for open in [
            "It stands at 0",
            "which was it",
            "In your words",
            "fact: None",
            "Look.",
        ] {
            assert!(told.contains(open), "{open}: {told}");
        }
        let complete = first(Edition::Complete).join("\n");
        for secret in fixture::SECRETS {
            assert!(complete.contains(secret), "{secret}: {complete}");
        }
    }

    #[test]
    fn facts_that_follow_each_other_stand_together() {
        let facts = |told: &String| told.starts_with("Facts(");
        let told = first(Edition::Complete);
        assert_eq!(
            told.iter().filter(|told| facts(told)).count(),
            1,
            "{told:?}"
        );
    }

    #[test]
    fn points_to_raise_are_counted_for_the_instructor_only() {
        let points = |edition| first(edition).join("").matches("point: Some").count();
        assert_eq!(points(Edition::Instructor), 2);
        assert_eq!(points(Edition::Complete), 0);
    }

    #[test]
    fn a_fact_has_its_place_in_a_sentence() {
        let record = fixture::record();
        let items = items(&record, Edition::Instructor);
        let lines = items.iter().flatten().filter_map(|item| match item {
            Item::Facts(lines) => Some(lines),
            _ => None,
        });
        let said: Vec<_> = lines
            .flatten()
            .map(|line| {
                let fact = line.fact.as_deref().unwrap_or("?");
                let word = line.outcome.word();
                format!("{word} {}{fact}{}", line.before, line.after)
            })
            .collect();
        let expected = [
            "OK the counter: 1",
            "OK it spoke 20 ms later (it must be less than 1.0 s)",
            "VARIATION its name: uno instead of one; Italian kernels",
            "SKIP packets ... later: no namespaces here",
            "DIFFERENT a second push: 1, but should have been 2",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn chapters_keep_their_order() {
        let lab = |lab: &str, chapter: &str| Record {
            lab: lab.into(),
            chapter: chapter.into(),
            ..Record::default()
        };
        let labs = [lab("a", "One"), lab("b", "One"), lab("c", "Two")];
        let found = chapters(&labs);
        let found: Vec<_> = found
            .iter()
            .map(|(title, labs)| (*title, labs.len()))
            .collect();
        assert_eq!(found, [("One", 2), ("Two", 1)]);
    }
}
