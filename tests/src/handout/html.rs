//! HTML: one page with everything in it, pictures too. It needs no script and no network; what is
//! written into its boxes can be printed.

use std::fmt::Write as _;

use crate::date::utc;
use crate::handout::notes::{Place, Topic, notes};
use crate::handout::{
    Answer, Edition, Item, Line, Outcome, Paragraph, chapters, items, score, seconds, svg,
};
use crate::narrate::ladder::{Ladder, Layout};
use crate::narrate::record::{Input, Record};
use crate::narrate::step::TRY_IT;
use crate::narrate::view::View;
use crate::page::document;
use crate::page::markup::Markup;

const STYLE: &str = include_str!("handout.css");

/// What a page with several labs is called.
pub(super) const COURSE: &str = "The TCP echo laboratory";

/// Headings, from the highest.
const HEADINGS: [&str; 5] = ["h1", "h2", "h3", "h4", "h5"];

/// The whole page. Several labs have contents in front, by chapter where they have chapters.
pub fn html(records: &[Record], edition: Edition) -> String {
    let title = match records {
        [one] => &one.title,
        _ => COURSE,
    };
    document(title, STYLE, |page| match records {
        [one] => {
            page.tag("main")
                .holding(|page| Sheet::new(one, edition, 0, "lab").lab(page));
        }
        _ => course(page, records, edition),
    })
}

fn course(page: &mut Markup, records: &[Record], edition: Edition) {
    let ids = ids(records);
    page.tag("header").with("id", "contents").holding(|page| {
        page.tag("h1").saying(COURSE);
        if !edition.label().is_empty() {
            page.tag("p").class("kicker").saying(edition.label());
        }
        contents(page, records, &ids, edition);
    });
    let chaptered = records.iter().any(|record| !record.chapter.is_empty());
    page.tag("main").holding(|page| {
        let mut at = 0;
        for (chapter, labs) in chapters(records) {
            if !chapter.is_empty() {
                page.tag("h2").class("chapter").saying(chapter);
            }
            for record in labs {
                let level = if chaptered { 2 } else { 1 };
                Sheet::new(record, edition, level, &ids[at]).lab(page);
                way(page, &ids, at, records);
                at += 1;
            }
        }
    });
}

fn contents(page: &mut Markup, records: &[Record], ids: &[String], edition: Edition) {
    let nav = page.tag("nav").class("contents");
    nav.with("aria-label", "Contents").holding(|page| {
        let mut ids = ids.iter();
        for (chapter, labs) in chapters(records) {
            if !chapter.is_empty() {
                page.tag("h2").saying(chapter);
            }
            page.tag("ol").holding(|page| {
                for (record, id) in labs.iter().zip(ids.by_ref()) {
                    page.tag("li")
                        .holding(|page| entry(page, record, id, edition));
                }
            });
        }
    });
}

fn entry(page: &mut Markup, record: &Record, id: &str, edition: Edition) {
    page.tag("a")
        .with("href", &format!("#{id}"))
        .saying(&record.title);
    let mut about = format!("{} · UNP {}", record.lab, record.sections);
    if edition != Edition::Student {
        let _ = write!(about, " · {}", seconds(record.takes()));
    }
    page.tag("span").class("quiet").saying(&about);
    if !record.report.differences.is_empty() {
        page.tag("b")
            .class("different")
            .saying(Outcome::Different.word());
    }
}

/// From lab to lab.
fn way(page: &mut Markup, ids: &[String], at: usize, records: &[Record]) {
    let link = |page: &mut Markup, id: &str, text: &str| {
        page.tag("a").with("href", &format!("#{id}")).saying(text);
    };
    page.tag("nav")
        .class("way")
        .with("aria-label", "Labs")
        .holding(|page| {
            if at > 0 {
                let text = format!("Before: {}", records[at - 1].lab);
                link(page, &ids[at - 1], &text);
            }
            link(page, "contents", "Contents");
            if let Some(next) = records.get(at + 1) {
                link(page, &ids[at + 1], &format!("Next: {}", next.lab));
            }
        });
}

/// A name for each that is unique and can be linked to.
fn ids(records: &[Record]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for record in records {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = record.lab.chars().map(letter).collect();
        let number = (2..).map(|number| format!("lab-{name}-{number}"));
        let mut names = std::iter::once(format!("lab-{name}")).chain(number);
        ids.extend(names.find(|name| !ids.contains(name)));
    }
    ids
}

/// A lab on its page.
struct Sheet<'a> {
    record: &'a Record,
    edition: Edition,
    /// The level of its heading.
    level: usize,
    id: &'a str,
}

impl<'a> Sheet<'a> {
    const fn new(record: &'a Record, edition: Edition, level: usize, id: &'a str) -> Self {
        Self {
            record,
            edition,
            level,
            id,
        }
    }

    fn lab(&self, page: &mut Markup) {
        page.tag("article")
            .class("lab")
            .with("id", self.id)
            .holding(|page| {
                self.head(page);
                if self.edition == Edition::Instructor {
                    self.notes(page);
                }
                for (i, items) in items(self.record, self.edition).iter().enumerate() {
                    let id = format!("{}-act-{}", self.id, i + 1);
                    page.tag("section")
                        .class("act")
                        .with("id", &id)
                        .holding(|page| {
                            let title = format!("Act {}: {}", i + 1, self.record.acts[i].title);
                            page.tag(HEADINGS[self.level + 1]).saying(&title);
                            for (nth, item) in items.iter().enumerate() {
                                self.item(page, item, &format!("{id}-{nth}"));
                            }
                        });
                }
                page.tag("p").class("quiet end").saying(&self.end());
            });
    }

    fn head(&self, page: &mut Markup) {
        let record = self.record;
        let mut kicker = vec![record.lab.clone(), format!("UNP {}", record.sections)];
        if self.level == 0 && !self.edition.label().is_empty() {
            kicker.push(self.edition.label().into());
        }
        page.tag("p").class("kicker").saying(&kicker.join(" · "));
        page.tag(HEADINGS[self.level])
            .class("title")
            .saying(&record.title);
        if self.edition == Edition::Student {
            page.tag("p").class("names").holding(|page| {
                for what in ["Name", "Date"] {
                    let label = page.tag("label");
                    label.holding(|page| blank(page, what, &format!("{what} ")));
                }
            });
        }
        page.tag("p").class("shows").saying(&record.about);
        if let Some(why) = record.plain() {
            let text = format!(
                "On plain loopback, without packets and among the host's other sockets: {why}."
            );
            page.tag("p").class("doubt").saying(&text);
        }
        self.wrong(page);
        self.acts(page);
    }

    /// A performance that went wrong says so in every edition: it is nothing to learn from.
    fn wrong(&self, page: &mut Markup) {
        let wrong = &self.record.report.differences;
        if wrong.is_empty() {
            return;
        }
        page.tag("div").class("doubt wrong").holding(|page| {
            page.tag("b")
                .saying("In this performance something was different:");
            page.tag("ul").holding(|page| {
                for text in wrong {
                    page.tag("li").saying(text);
                }
            });
        });
    }

    fn acts(&self, page: &mut Markup) {
        if self.record.acts.len() < 2 {
            return;
        }
        page.tag("nav").with("aria-label", "Acts").holding(|page| {
            for (i, act) in self.record.acts.iter().enumerate() {
                let href = format!("#{}-act-{}", self.id, i + 1);
                let text = format!("Act {}: {}", i + 1, act.title);
                page.tag("a").with("href", &href).saying(&text);
            }
        });
    }

    fn end(&self) -> String {
        let record = self.record;
        let place = record
            .plain()
            .map_or("in namespaces of its own", |_| "on plain loopback");
        let (when, system) = (utc(record.started), &record.system);
        let how = match self.edition {
            Edition::Student => String::new(),
            _ => format!(" {}; {}.", seconds(record.takes()), score(record)),
        };
        format!("Performed {when} on {system}, {place}.{how}")
    }

    fn notes(&self, page: &mut Markup) {
        page.tag("aside").class("notes").holding(|page| {
            page.tag(HEADINGS[self.level + 1])
                .saying("For the instructor");
            for Topic { title, notes } in notes(self.record) {
                page.tag(HEADINGS[self.level + 2]).saying(title);
                page.tag("ul").holding(|page| {
                    for note in notes {
                        page.tag("li").holding(|page| match note.place {
                            None => page.say(&note.text),
                            Some(place) => {
                                let href = format!("#{}", self.place(place));
                                page.tag("a").with("href", &href).saying(&note.text);
                            }
                        });
                    }
                });
            }
        });
    }

    fn place(&self, place: Place) -> String {
        let (what, number) = match place {
            Place::Act(number) => ("act", number),
            Place::Question(number) => ("question", number),
            Place::Point(number) => ("point", number),
        };
        format!("{}-{what}-{number}", self.id)
    }

    fn item(&self, page: &mut Markup, item: &Item<'_>, id: &str) {
        match item {
            Item::Words(paragraphs) => {
                for words in paragraphs {
                    self.words(page, words);
                }
            }
            Item::Try(lines) => {
                page.tag("div").class("try").holding(|page| {
                    page.tag("p").class("what").saying(TRY_IT);
                    terminal(page, TRY_IT, |page| page.say(lines));
                });
            }
            Item::Read(text) => page.tag("p").class("read").saying(text),
            Item::Question(number, text, choices) => self.question(page, *number, text, choices),
            Item::Answer(number, answer) => {
                page.tag("p").class("answer").saying(&told(*number, answer));
            }
            Item::Room(what, lines) => room(page, what, *lines),
            Item::Step(what, input, text) => step(page, what, *input, text),
            Item::View(what, command, seen) => view(page, what, *command, seen, id),
            Item::Facts(lines) => facts(page, lines),
            Item::Passed(time) => {
                let text = format!("For {} nobody does anything.", seconds(*time));
                page.tag("p").class("quiet").saying(&text);
            }
            Item::Trouble(what, why) => {
                page.tag("p").class("doubt").holding(|page| {
                    page.tag("b").class("different").saying("TROUBLE");
                    page.say(&format!("{what}: {why}"));
                });
            }
        }
    }

    fn words(&self, page: &mut Markup, words: &Paragraph) {
        match words.point {
            None => page.tag("p").saying(&words.text),
            Some(number) => {
                let id = self.place(Place::Point(number));
                let point = page.tag("p").class("point").with("id", &id);
                point.saying(&words.text);
            }
        }
    }

    fn question(&self, page: &mut Markup, number: usize, text: &str, choices: &[String]) {
        let id = self.place(Place::Question(number));
        page.tag("div")
            .class("question")
            .with("id", &id)
            .holding(|page| {
                page.tag("p")
                    .class("what")
                    .saying(&format!("Question {number}. {text}"));
                page.tag("ol").class("choices").holding(|page| {
                    for words in choices {
                        page.tag("li").holding(|page| self.choice(page, &id, words));
                    }
                });
                if self.edition == Edition::Student {
                    room(page, "Why do you think so?", 2);
                }
            });
    }

    fn choice(&self, page: &mut Markup, question: &str, words: &str) {
        if self.edition != Edition::Student {
            return page.say(words);
        }
        page.tag("label").holding(|page| {
            let radio = page.tag("input").with("type", "radio");
            radio.with("name", question).empty();
            page.say(words);
        });
    }
}

fn view(page: &mut Markup, what: &str, command: Option<&str>, view: &View, id: &str) {
    page.tag("p").class("what").saying(what);
    match view {
        View::Printed(text) => output(page, what, command, text),
        View::AsWouldShow { tool, why, text } => {
            output(page, what, command, text);
            let note =
                format!("({tool} {why}; these are the same facts, as {tool} would show them)");
            page.tag("p").class("quiet stand-in").saying(&note);
        }
        View::Ladder(ladder) => picture(page, what, ladder, id),
    }
}

/// From the moment that it is about; what came before, on demand.
fn picture(page: &mut Markup, what: &str, ladder: &Ladder, id: &str) {
    let title = what.trim_end_matches(':');
    let layout = ladder.layout(false);
    let draw = |page: &mut Markup, id: &str, title: &str, layout: &Layout| {
        page.tag("figure").class("ladder").holding(|page| {
            frame(page, title, |page| svg::draw(page, id, title, layout));
        });
    };
    draw(page, id, title, &layout);
    // Drawn with letters they would be brackets.
    let legend = layout.legend.replace("In brackets:", "In boxes:");
    let bars = "A bar along a rail: a call waits, until it returns.";
    page.tag("p")
        .class("quiet legend")
        .saying(&format!("{legend} {bars}"));
    if layout.prologue.is_some() {
        page.tag("details").holding(|page| {
            page.tag("summary")
                .saying("The same from the first packet on");
            let title = format!("{title}, from the first packet on");
            draw(page, &format!("{id}-all"), &title, &ladder.layout(true));
        });
    }
}

/// What scrolls by itself where the page is too narrow, with the keyboard too.
fn frame(page: &mut Markup, label: &str, content: impl FnOnce(&mut Markup)) {
    let frame = page.tag("div").class("frame").with("role", "region");
    frame
        .with("aria-label", label)
        .with("tabindex", "0")
        .holding(content);
}

/// What stands in a terminal's window.
fn terminal(page: &mut Markup, label: &str, content: impl FnOnce(&mut Markup)) {
    let window = page.tag("pre").with("role", "region");
    window
        .with("aria-label", label)
        .with("tabindex", "0")
        .holding(content);
}

fn output(page: &mut Markup, what: &str, command: Option<&str>, text: &str) {
    terminal(page, what, |page| {
        if let Some(command) = command {
            page.tag("b").saying(&format!("$ {command}"));
        }
        for line in text.trim_end().lines() {
            page.say(line.trim_end());
            page.say("\n");
        }
    });
}

fn step(page: &mut Markup, what: &str, input: Input, text: &str) {
    page.tag("p").class("what").saying(what);
    let typed = match input {
        Input::Shell => format!("$ {text}"),
        Input::Keys => format!("keyboard: {text}"),
        Input::Nothing => return,
    };
    terminal(page, what, |page| page.tag("b").saying(&typed));
}

/// The answer to a question, and what was guessed.
pub(super) fn told(number: usize, answer: &Answer<'_>) -> String {
    let which = match answer.choice {
        Some(choice) => format!("{}: {}", choice + 1, answer.words),
        None => answer.words.into(),
    };
    let guess = match answer.guess {
        None => String::new(),
        Some(guess) if answer.choice == Some(guess) => " You were right.".into(),
        Some(guess) => format!(" You said {}.", guess + 1),
    };
    format!("The kernel's answer to question {number} is {which}.{guess}")
}

fn facts(page: &mut Markup, lines: &[Line]) {
    page.tag("ul").class("facts").holding(|page| {
        for line in lines {
            page.tag("li").holding(|page| fact(page, line));
        }
    });
}

fn fact(page: &mut Markup, line: &Line) {
    let word = line.outcome.word();
    if !word.is_empty() {
        page.tag("b").class(&word.to_lowercase()).saying(word);
    }
    page.tag("span").holding(|page| match &line.fact {
        None => {
            blank(page, line.before.trim_end_matches([' ', ':']), &line.before);
            page.say(&line.after);
        }
        Some(fact) => {
            page.say(&line.before);
            page.tag("span").class("fact").inline(fact);
            page.say(&line.after);
        }
    });
}

/// A line to write on, behind these words.
fn blank(page: &mut Markup, label: &str, before: &str) {
    page.say(before);
    let input = page.tag("input").class("blank").with("type", "text");
    input.with("aria-label", label).empty();
}

/// Some lines to write on.
fn room(page: &mut Markup, what: &str, lines: usize) {
    page.tag("div").class("room").holding(|page| {
        page.tag("p").class("what").saying(what);
        let area = page.tag("textarea").with("rows", &lines.to_string());
        area.with("aria-label", what).empty();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handout::fixture;
    use crate::narrate::record::Told;
    use crate::page::markup::{self, any_text};
    use proptest::prelude::*;

    const EDITIONS: [Edition; 3] = [Edition::Complete, Edition::Student, Edition::Instructor];

    fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
        let begin = format!(" {attribute}=\"");
        let parts = page.split(begin.as_str());
        let value = |part: &'a str| part.split_once('"').map(|(value, _)| value);
        parts.skip(1).filter_map(value).collect()
    }

    /// Well-formed, complete in itself, all links lead somewhere, no name is given twice.
    fn check(page: &str) -> Result<(), String> {
        markup::check(page)?;
        let mut ids = values(page, "id");
        ids.sort_unstable();
        let named = ids.len();
        ids.dedup();
        if ids.len() < named {
            return Err("a name is given twice".into());
        }
        for href in values(page, "href") {
            let id = href
                .strip_prefix('#')
                .ok_or(format!("{href} leads outside"))?;
            if !ids.contains(&id) {
                return Err(format!("#{id} leads nowhere"));
            }
        }
        let needs = [
            "http:", "https:", "src=", "<script", "@import", "url(", "<link",
        ];
        let foreign = needs.iter().find(|need| page.contains(**need));
        foreign.map_or(Ok(()), |foreign| Err(format!("it needs {foreign}")))
    }

    #[test]
    fn every_edition_is_well_formed_and_needs_nothing_else() {
        let mut other = fixture::record();
        other.chapter = "Another chapter".into();
        for edition in EDITIONS {
            let one = html(&[fixture::record()], edition);
            assert_eq!(check(&one), Ok(()), "{edition:?}");
            let records = [fixture::record(), fixture::record(), other.clone()];
            let course = html(&records, edition);
            assert_eq!(check(&course), Ok(()), "{edition:?}");
            assert!(
                course.contains("href=\"#lab-counting-2\""),
                "the same lab twice"
            );
            assert!(course.contains("Another chapter"));
        }
        assert_eq!(check(&html(&[], Edition::Complete)), Ok(()));
    }

    #[test]
    fn a_student_finds_room_and_no_answers() {
        let page = html(&[fixture::record()], Edition::Student);
        for secret in fixture::SECRETS {
            assert!(!page.contains(secret), "{secret}");
        }
        assert!(!page.contains("kernel's answer"), "an answer");
        assert_eq!(page.matches("type=\"radio\"").count(), 2);
        // Why, which was it, in your words; name, date, and a blank for each fact.
        assert_eq!(page.matches("<textarea").count(), 3);
        assert_eq!(page.matches("class=\"blank\"").count(), 2 + 3);
        assert!(
            page.contains("ss -tan | grep '&lt;9877&gt;'"),
            "the commands stay"
        );
    }

    #[test]
    fn an_instructor_finds_answers_and_points_in_front() {
        let page = html(&[fixture::record()], Edition::Instructor);
        let notes = page.find("For the instructor").expect("notes");
        assert!(notes < page.find("Act 1: to one</h2>").expect("an act"));
        for part in [
            "Question 1: 2) at one",
            "id=\"lab-point-2\"",
            "Italian kernels",
            "The kernel's answer to question 1 is 2: at one.",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("You said"), "that was another audience");
        assert!(html(&[fixture::record()], Edition::Complete).contains("You said 1."));
    }

    #[test]
    fn what_went_wrong_is_said_in_every_edition() {
        for edition in EDITIONS {
            let page = html(&[fixture::record()], edition);
            assert!(
                page.contains("a second push should have been 2, but was 1"),
                "{edition:?}"
            );
            let mut fine = fixture::record();
            fine.report.differences.clear();
            assert!(!html(&[fine], edition).contains("something was different"));
        }
    }

    #[test]
    fn a_picture_that_was_shortened_is_there_whole_as_well() {
        let page = html(&[fixture::record()], Edition::Complete);
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("from the first packet on"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn nothing_that_was_told_breaks_the_page(text in any_text(), which in 0..18_usize) {
            let mut record = fixture::record();
            record.lab.clone_from(&text);
            record.title.clone_from(&text);
            record.chapter.clone_from(&text);
            let entries = record.acts.iter_mut().flat_map(|act| &mut act.entries);
            for entry in entries.skip(which).step_by(3) {
                entry.what = match &entry.what {
                    Told::Ask { .. } => Told::Ask { question: text.clone(), choices: vec![text.clone()] },
                    Told::Show { command, .. } => Told::Show {
                        what: text.clone(),
                        command: *command,
                        text: text.clone(),
                        view: View::Printed(text.clone()),
                    },
                    Told::Do { typed, .. } => Told::Do { what: text.clone(), typed: *typed, text: text.clone() },
                    Told::Try(_) => Told::Try(text.clone()),
                    _ => Told::Explain(text.clone()),
                };
            }
            for edition in EDITIONS {
                prop_assert_eq!(check(&html(&[record.clone(), fixture::record()], edition)), Ok(()));
            }
        }
    }
}
