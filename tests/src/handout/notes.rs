//! What an instructor wants to know before the lesson, gathered from what was performed: how long it
//! takes, the answers, what may come out otherwise and why, where time limits lie, points to raise.

use crate::handout::{Edition, Item, Paragraph, items, observed, seconds};
use crate::narrate::fact::Expected;
use crate::narrate::record::{ActRecord, Record, Told};
use crate::narrate::view::View;

/// A heading and what there is to say under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The heading.
    pub title: &'static str,
    /// Line by line.
    pub notes: Vec<Note>,
}

/// A line, and the place in the lab that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The words.
    pub text: String,
    /// What it leads to, if it leads anywhere.
    pub place: Option<Place>,
}

/// A place in a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The act of this number, counted from 1.
    Act(usize),
    /// The question of this number.
    Question(usize),
    /// The point of this number.
    Point(usize),
}

/// All of it; what there is nothing to say about is left out.
pub fn notes(record: &Record) -> Vec<Topic> {
    let topics = [
        ("Time", times(record)),
        ("Answers", answers(record)),
        ("Points to raise", points(record)),
        ("What may come out otherwise", variations(record)),
        ("Limits that a busy machine may miss", limits(record)),
        ("Not seen here", unseen(record)),
        ("Wrong in this performance", wrong(record)),
    ];
    let topics = topics.map(|(title, notes)| Topic { title, notes });
    topics
        .into_iter()
        .filter(|topic| !topic.notes.is_empty())
        .collect()
}

fn note(text: impl Into<String>) -> Note {
    Note {
        text: text.into(),
        place: None,
    }
}

fn at(place: Place, text: String) -> Note {
    Note {
        text,
        place: Some(place),
    }
}

fn times(record: &Record) -> Vec<Note> {
    let waits = record.told().filter_map(|told| match told {
        Told::Wait(seconds) => Some(seconds),
        _ => None,
    });
    let waits: f64 = waits.sum();
    let all = format!("{} without a pause to think", seconds(record.takes()));
    let all = match waits {
        0.0 => format!("{all}."),
        _ => format!("{all}; of this {} in which it only waits.", seconds(waits)),
    };
    let act = |(i, act): (usize, &ActRecord)| {
        let text = format!("Act {}, {}: {}", i + 1, act.title, seconds(act.seconds));
        at(Place::Act(i + 1), text)
    };
    let acts = record.acts.iter().enumerate().map(act);
    std::iter::once(note(all)).chain(acts).collect()
}

fn answers(record: &Record) -> Vec<Note> {
    let items = items(record, Edition::Instructor);
    let answer = |item: &Item<'_>| match item {
        Item::Answer(number, answer) => {
            let which = answer
                .choice
                .map_or(String::new(), |i| format!("{}) ", i + 1));
            let text = format!("Question {number}: {which}{}", answer.words);
            Some(at(Place::Question(*number), text))
        }
        _ => None,
    };
    items.iter().flatten().filter_map(answer).collect()
}

/// The first sentence of each.
fn points(record: &Record) -> Vec<Note> {
    let items = items(record, Edition::Instructor);
    let words = items.iter().flatten().filter_map(|item| match item {
        Item::Words(paragraphs) => Some(paragraphs),
        _ => None,
    });
    let point = |paragraph: &Paragraph| {
        let number = paragraph.point?;
        Some(at(Place::Point(number), opening(&paragraph.text).into()))
    };
    words.flatten().filter_map(point).collect()
}

/// The first sentence; of a short one also the second.
fn opening(text: &str) -> &str {
    const SHORT: usize = 40;
    let mut ends = text.match_indices(". ").map(|(end, _)| end + 1);
    ends.find(|end| *end > SHORT)
        .map_or(text, |end| &text[..end])
}

fn variations(record: &Record) -> Vec<Note> {
    let mut notes = Vec::new();
    for told in record.told() {
        let Told::Verdict {
            what,
            expected,
            judgement,
            known,
        } = told
        else {
            continue;
        };
        for other in known {
            let here = observed(judgement).is_some_and(|fact| *fact == other.fact);
            let here = if here { " So it was this time." } else { "" };
            let (fact, reason) = (&other.fact, &other.reason);
            notes.push(note(format!(
                "{what}: {fact} instead of {expected} is right as well: {reason}.{here}"
            )));
        }
    }
    notes.dedup();
    notes
}

fn limits(record: &Record) -> Vec<Note> {
    let limit = |told: &Told| match told {
        Told::Verdict {
            what,
            expected: expected @ Expected::Below(_),
            judgement,
            ..
        } => {
            let here = observed(judgement)?;
            let what = what.replace(" _ ", " ... ");
            Some(note(format!("{what}: {expected}; here {here}.")))
        }
        _ => None,
    };
    record.told().filter_map(limit).collect()
}

fn unseen(record: &Record) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    if let Some(why) = record.plain() {
        notes.push(note(format!(
            "It ran on plain loopback, without packets and among other people's sockets: {why}."
        )));
    }
    let skipped = record.report.skipped.iter();
    notes.extend(
        skipped.map(|(what, why)| note(format!("{}: {why}.", what.replace(" _ ", " ... ")))),
    );
    for told in record.told() {
        if let Told::Show {
            view: View::AsWouldShow { tool, why, .. },
            ..
        } = told
        {
            let text = format!("{tool} {why}: the same facts stand in, asked from the kernel.");
            if !notes.iter().any(|note| note.text == text) {
                notes.push(note(text));
            }
        }
    }
    notes
}

fn wrong(record: &Record) -> Vec<Note> {
    record
        .report
        .differences
        .iter()
        .map(|text| note(text.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handout::fixture;

    fn told(title: &str) -> Vec<String> {
        let topics = notes(&fixture::record());
        let topic = topics.into_iter().find(|topic| topic.title == title);
        let notes = topic.map(|topic| topic.notes).unwrap_or_default();
        notes.into_iter().map(|note| note.text).collect()
    }

    #[test]
    fn the_time_is_the_labs_own() {
        let expected = [
            "3.0 s without a pause to think; of this 1.0 s in which it only waits.",
            "Act 1, to one: 2.5 s",
            "Act 2, on: 0.5 s",
        ];
        assert_eq!(told("Time"), expected);
    }

    #[test]
    fn answers_variations_limits_and_stand_ins_are_taken_from_what_was_observed() {
        assert_eq!(told("Answers"), ["Question 1: 2) at one"]);
        let variation =
            "its name: uno instead of one is right as well: Italian kernels. So it was this time.";
        assert_eq!(told("What may come out otherwise"), [variation]);
        assert_eq!(
            told("Limits that a busy machine may miss"),
            ["it spoke ... later: less than 1.0 s; here 20 ms."]
        );
        let unseen = [
            "packets ... later: no namespaces here.",
            "ss is not installed: the same facts stand in, asked from the kernel.",
        ];
        assert_eq!(told("Not seen here"), unseen);
        assert_eq!(told("Wrong in this performance").len(), 1);
    }

    #[test]
    fn points_lead_to_their_places() {
        let topics = notes(&fixture::record());
        let points = topics.iter().find(|topic| topic.title == "Points to raise");
        let points = &points.expect("there are some").notes;
        assert_eq!(points[0].place, Some(Place::Point(1)));
        assert!(
            points[0].text.starts_with("The book says two."),
            "{points:?}"
        );
    }

    #[test]
    fn an_opening_is_a_sentence() {
        assert_eq!(
            opening("Yes. It is so, and that is all there is to say. More."),
            "Yes. It is so, and that is all there is to say."
        );
        assert_eq!(opening("One alone"), "One alone");
    }

    #[test]
    fn a_perfect_performance_has_nothing_wrong() {
        let mut record = fixture::record();
        record.report.differences.clear();
        assert!(
            notes(&record)
                .iter()
                .all(|topic| !topic.title.starts_with("Wrong"))
        );
    }
}
