//! A performance, written down: to be told again as a page, a transcript, a recording, JSON.
//!
//! [`Recorder`] stands between a performance and the renderer that shows it; the audience notices
//! nothing. A [`Record`] owns all it says, can be written and read as JSON, and says nothing that was
//! not shown or observed.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::compare::environment;
use crate::narrate::fact::{Expected, Judgement, Variation};
use crate::narrate::perform::{Event, Lab, Renderer, Report, Stop};
use crate::narrate::step::{Question, Typed};
use crate::narrate::view::View;
use crate::netns::Isolation;

/// The place of a record that was made in namespaces.
pub const NAMESPACES: &str = "namespaces";

/// A lab as it was performed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub lab: String,
    /// One line: what it is about.
    pub title: String,
    /// The sections of UNP.
    pub sections: String,
    /// The chapter of the course that it belongs to; empty: none.
    pub chapter: String,
    /// The question that it answers.
    pub about: String,
    /// Where it ran: [`NAMESPACES`], or why on plain loopback.
    pub place: String,
    /// The kernel: its name and release.
    pub system: String,
    /// When it began, in seconds since the epoch.
    pub started: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How long of this the audience was waited for, in seconds.
    pub paused: f64,
    /// What was performed, in this order.
    pub acts: Vec<ActRecord>,
    /// How it went; nothing if it broke off.
    pub report: Report,
}

impl Record {
    /// Why it ran on plain loopback, if it did.
    pub fn plain(&self) -> Option<&str> {
        (self.place != NAMESPACES).then_some(&self.place)
    }

    /// How long it takes if nobody stops to think, in seconds.
    pub fn takes(&self) -> f64 {
        (self.seconds - self.paused).max(0.0)
    }

    /// Everything that was told, in this order.
    pub fn told(&self) -> impl Iterator<Item = &Told> {
        let entries = self.acts.iter().flat_map(|act| &act.entries);
        entries.map(|entry| &entry.what)
    }
}

/// An act as it was performed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActRecord {
    /// What happens, in a few words.
    pub title: String,
    /// When it began, in seconds since the lab did.
    pub at: f64,
    /// How long it takes if nobody stops to think, in seconds.
    pub seconds: f64,
    /// What was told.
    pub entries: Vec<Entry>,
}

/// Something that was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in seconds since the lab began.
    pub at: f64,
    /// What.
    pub what: Told,
}

/// Who or what took in what was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A shell.
    Shell,
    /// The program that had the keyboard.
    Keys,
    /// Nothing was typed.
    Nothing,
}

impl From<Typed> for Input {
    fn from(typed: Typed) -> Self {
        match typed {
            Typed::Shell(_) => Self::Shell,
            Typed::Keys(_) => Self::Keys,
            Typed::Nothing => Self::Nothing,
        }
    }
}

/// What there was to tell. Names are filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Words; an empty line separates paragraphs.
    Explain(String),
    /// Commands to try oneself, one a line: `1$` is terminal 1.
    Try(String),
    /// Where to read on.
    Read(String),
    /// A question with its choices, in words.
    Ask {
        /// The question.
        question: String,
        /// What the audience could say.
        choices: Vec<String>,
    },
    /// Something was made to happen.
    Do {
        /// What.
        what: String,
        /// Was anything typed?
        typed: Input,
        /// What was typed.
        text: String,
    },
    /// Something was looked at.
    Show {
        /// What.
        what: String,
        /// Is there a command that shows it? [`Input::Shell`] or [`Input::Nothing`].
        command: Input,
        /// That command.
        text: String,
        /// What was seen.
        view: View,
    },
    /// A question was answered by the kernel.
    Answer {
        /// The question.
        question: String,
        /// Which choice is right, counted from 0; None: none of them.
        choice: Option<usize>,
        /// The answer, in words.
        words: String,
        /// Which choice the audience believed in.
        guess: Option<usize>,
    },
    /// An expectation came out.
    Verdict {
        /// What it is about; a ` _ ` in it is the place of the fact.
        what: String,
        /// What was expected.
        expected: Expected,
        /// How it came out.
        judgement: Judgement,
        /// What else would have been right, and why.
        known: Vec<Variation>,
    },
    /// Time passed in which nobody did anything, in seconds.
    Wait(f64),
    /// A step could not be performed.
    Trouble {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
}

/// Writes down what it hands on to another renderer.
pub struct Recorder<'a> {
    shown: &'a mut dyn Renderer,
    began: Instant,
    /// How long the audience had been waited for when the act began, in seconds.
    paused: f64,
    records: Vec<Record>,
}

impl<'a> Recorder<'a> {
    /// Nothing has been recorded yet; everything will be shown by `shown` as well.
    pub fn new(shown: &'a mut dyn Renderer) -> Self {
        Self {
            shown,
            began: Instant::now(),
            paused: 0.0,
            records: Vec::new(),
        }
    }

    /// The labs that were performed, in this order; the last one may have broken off.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    fn at(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn begin(&mut self, lab: &Lab, place: &Isolation) {
        self.began = Instant::now();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.records.push(Record {
            lab: lab.name.into(),
            title: lab.title.into(),
            sections: lab.sections.into(),
            chapter: lab.chapter.title().into(),
            about: lab.about.into(),
            place: match place {
                Isolation::Namespaces => NAMESPACES.into(),
                Isolation::Plain(why) => why.clone(),
            },
            system: environment::system(),
            started: now.map_or(0, |now| now.as_secs()),
            ..Record::default()
        });
    }

    fn write(&mut self, event: &Event<'_>) {
        let at = self.at();
        if let Event::Lab(lab, place) = event {
            return self.begin(lab, place);
        }
        let Some(record) = self.records.last_mut() else {
            return;
        };
        record.seconds = at;
        if let Some(act) = record.acts.last_mut() {
            act.seconds = at - act.at - (record.paused - self.paused);
        }
        match event {
            Event::Act(_, title) => {
                self.paused = record.paused;
                record.acts.push(ActRecord {
                    title: (*title).into(),
                    at,
                    ..ActRecord::default()
                });
            }
            Event::End(report) => record.report = (*report).clone(),
            _ => self.note(at, told(event)),
        }
    }

    fn note(&mut self, at: f64, what: Option<Told>) {
        let act = self.records.last_mut().and_then(|lab| lab.acts.last_mut());
        if let (Some(act), Some(what)) = (act, what) {
            act.entries.push(Entry { at, what });
        }
    }

    /// Hands the audience's turn on, and counts its time.
    fn turn<T>(&mut self, turn: impl FnOnce(&mut dyn Renderer) -> T) -> T {
        let began = Instant::now();
        let done = turn(self.shown);
        if let Some(record) = self.records.last_mut() {
            record.paused += began.elapsed().as_secs_f64();
        }
        done
    }
}

impl Renderer for Recorder<'_> {
    fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.write(event);
        self.shown.show(event)
    }

    fn has_room(&self, event: &Event<'_>) -> bool {
        self.shown.has_room(event)
    }

    fn pause(&mut self) -> Result<(), Stop> {
        self.turn(|shown| shown.pause())
    }

    fn sketch(&mut self, what: &str, view: &View) -> io::Result<()> {
        self.shown.sketch(what, view)
    }

    fn wait(&mut self, time: Duration) -> io::Result<()> {
        self.note(self.at(), Some(Told::Wait(time.as_secs_f64())));
        self.shown.wait(time)
    }

    fn guess(&mut self, question: &Question) -> Result<Option<usize>, Stop> {
        self.turn(|shown| shown.guess(question))
    }
}

/// An event in words of its own; None for what is no entry of an act.
pub(crate) fn told(event: &Event<'_>) -> Option<Told> {
    let told = match event {
        Event::Lab(..) | Event::Act(..) | Event::End(_) => return None,
        Event::Explain(text) => Told::Explain((*text).into()),
        Event::Try(lines) => Told::Try((*lines).into()),
        Event::Read(text) => Told::Read((*text).into()),
        Event::Ask(question) => Told::Ask {
            question: question.text.into(),
            choices: question.choices.iter().map(|c| c.1.into()).collect(),
        },
        Event::Do(what, typed, text) => Told::Do {
            what: (*what).into(),
            typed: (*typed).into(),
            text: (*text).into(),
        },
        Event::Show(what, command, text, view) => Told::Show {
            what: (*what).into(),
            command: (*command).into(),
            text: (*text).into(),
            view: (*view).clone(),
        },
        Event::Answer(question, choice, guess) => Told::Answer {
            question: question.text.into(),
            choice: *choice,
            words: choice
                .map_or("none of the choices", |i| question.choices[i].1)
                .into(),
            guess: *guess,
        },
        Event::Verdict(what, expected, judgement, known) => Told::Verdict {
            what: (*what).into(),
            expected: (*expected).clone(),
            judgement: (*judgement).clone(),
            known: known.to_vec(),
        },
        Event::Trouble(what, why) => Told::Trouble {
            what: (*what).into(),
            why: (*why).into(),
        },
    };
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handout::transcript::Transcript;
    use std::thread::sleep;

    use crate::labs;
    use crate::narrate::ladder::{Ladder, Side};
    use crate::narrate::quiet::Quiet;
    use crate::narrate::{Act, Names, Scene, Stage, shell};

    struct Counter(usize);

    impl Stage for Counter {
        fn names(&self) -> Names {
            vec![("n", self.0.to_string())]
        }
    }

    fn lab() -> Lab {
        let mut lab = *labs::ALL[0];
        (lab.name, lab.title) = ("counting", "How far it counts");
        lab.acts = || vec![Box::new(counting()) as Box<dyn Scene>];
        lab
    }

    fn counting() -> Act<Counter> {
        Act::open("to one", |_| Ok(Counter(0)))
            .explain("It stands at {n}.")
            .predict("And then?", &[("0", "at zero"), ("1", "at one")])
            .act("Push it.", shell("push {n}"), |counter| {
                counter.0 += 1;
                Ok(())
            })
            .wait("Wait.", Duration::from_millis(1))
            .answer("the counter", "1", |counter| Ok(counter.0))
            .or_known("2", "it bounces")
            .expect("after _ pushes", 2, |_| Ok(1))
            .observe("Look.", "echo {n} it is", |_| Ok(String::new()))
            .show("Its story:", |_| {
                let ladder = Ladder::new(5).note(7, Side::Client, "a push");
                Ok(View::Ladder(ladder.prologue("nothing")))
            })
            .try_it("1$ push {it}\n2$ look")
            .read("Read: counter(1).")
    }

    /// An audience that thinks for a while, and believes in the first choice.
    struct Slow(Quiet);

    const THOUGHT: Duration = Duration::from_millis(20);

    impl Renderer for Slow {
        fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
            self.0.show(event)
        }

        fn guess(&mut self, _: &Question) -> Result<Option<usize>, Stop> {
            sleep(THOUGHT);
            Ok(Some(0))
        }
    }

    /// Counts how often it is told how far a view is, and has no room for that which has been shown.
    #[derive(Default)]
    struct Narrow {
        sketched: usize,
        turned: usize,
    }

    impl Renderer for Narrow {
        fn show(&mut self, _: &Event<'_>) -> io::Result<()> {
            Ok(())
        }

        fn has_room(&self, _: &Event<'_>) -> bool {
            self.turned > 0
        }

        fn pause(&mut self) -> Result<(), Stop> {
            self.turned += 1;
            Ok(())
        }

        fn sketch(&mut self, _: &str, _: &View) -> io::Result<()> {
            self.sketched += 1;
            Ok(())
        }
    }

    #[test]
    fn who_writes_down_or_logs_hands_on_what_is_drawn_and_asked() {
        let lab = Lab {
            acts: || {
                let measured =
                    Act::open("measured", |_| Ok(Counter(0))).measure("it", |_, tell| {
                        tell(&View::Printed("1".into()));
                        Ok(View::Printed("12".into()))
                    });
                vec![Box::new(measured)]
            },
            ..lab()
        };
        let mut audience = Narrow::default();
        let mut log = Transcript::new(io::sink(), &mut audience);
        let mut recorder = Recorder::new(&mut log);
        let plain = Isolation::Plain("a unit test".into());
        lab.perform(&plain, &mut recorder).expect("it shows");
        assert_eq!(audience.sketched, 1);
        assert!(audience.turned > 1, "for room, and before the view");
    }

    fn played() -> (Record, String) {
        let mut audience = Slow(Quiet::new());
        let mut recorder = Recorder::new(&mut audience);
        let plain = Isolation::Plain("a unit test".into());
        lab().perform(&plain, &mut recorder).expect("it shows");
        let records = recorder.into_records();
        let [record] = &records[..] else {
            panic!("{records:?}");
        };
        (record.clone(), audience.0.transcript())
    }

    fn name(told: &Told) -> &'static str {
        match told {
            Told::Explain(_) => "explain",
            Told::Try(_) => "try",
            Told::Read(_) => "read",
            Told::Ask { .. } => "ask",
            Told::Do { .. } => "do",
            Told::Show { .. } => "show",
            Told::Answer { .. } => "answer",
            Told::Verdict { .. } => "verdict",
            Told::Wait(_) => "wait",
            Told::Trouble { .. } => "trouble",
        }
    }

    #[test]
    fn what_is_shown_is_written_down_in_order() {
        let (record, shown) = played();
        assert_eq!(
            (&*record.lab, record.plain()),
            ("counting", Some("a unit test"))
        );
        assert_eq!(record.acts[0].title, "to one");
        let kinds: Vec<_> = record.told().map(name).collect();
        let expected = "explain ask do do wait answer verdict verdict show show try read";
        assert_eq!(kinds.join(" "), expected);
        assert!(shown.contains("$ push 0") && shown.contains("DIFFERENT"));
        assert_eq!(record.report.differences.len(), 1);
        let times: Vec<_> = record.acts[0].entries.iter().map(|e| e.at).collect();
        assert!(
            times.is_sorted() && record.seconds >= times[11],
            "{times:?}"
        );
        assert!(record.started > 1_700_000_000, "{}", record.started);
    }

    #[test]
    fn answers_know_what_was_guessed_and_what_else_would_be_right() {
        let (record, _) = played();
        let answer = record.told().find(|told| name(told) == "answer");
        let expected = Told::Answer {
            question: "And then?".into(),
            choice: Some(1),
            words: "at one".into(),
            guess: Some(0),
        };
        assert_eq!(answer, Some(&expected));
        let verdict = record.told().find(|told| name(told) == "verdict");
        let Some(Told::Verdict { known, .. }) = verdict else {
            panic!("{record:?}");
        };
        assert_eq!(known[0].reason, "it bounces");
    }

    #[test]
    fn the_time_that_an_audience_thinks_is_not_the_labs() {
        let (record, _) = played();
        assert!(record.paused >= THOUGHT.as_secs_f64(), "{}", record.paused);
        assert!(record.takes() <= record.seconds - THOUGHT.as_secs_f64());
        assert!(record.acts[0].seconds <= record.takes());
    }

    #[test]
    fn what_was_written_is_read_again_as_it_was() {
        let (record, _) = played();
        let json = serde_json::to_string(&record).expect("no map with odd keys");
        let read: Record = serde_json::from_str(&json).expect("as written");
        assert_eq!(read, record);
    }

    #[test]
    fn commands_to_try_are_shown_as_they_are_and_headed() {
        let (record, shown) = played();
        assert!(
            record
                .told()
                .any(|told| *told == Told::Try("1$ push {it}\n2$ look".into()))
        );
        let heading = "Try it yourself (1$: in terminal 1; 2>: to what runs in terminal 2):\n    1$ push {it}\n    2$ look\n";
        assert!(shown.contains(heading), "{shown}");
        assert!(shown.contains("\n\nRead: counter(1).\n"), "{shown}");
    }
}
