//! Performs the acts of a lab, step by step, before a renderer, and keeps the score.

use std::collections::VecDeque;
use std::time::Duration;
use std::{fmt, io};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::narrate::course::{Chapter, Need};
use crate::narrate::fact::{Expected, Fact, Judgement, Unseen, Variation};
use crate::narrate::plan::Planned;
use crate::narrate::step::{Act, Expectation, Kind, Question, Stage, Step, Typed};
use crate::narrate::text::fill;
use crate::narrate::view::View;
use crate::netns::Isolation;
use crate::wait;

/// How long an expectation may take to come true. The kernel needs microseconds; a machine that
/// does other work besides may need more.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same, once something has differed: what follows mostly differs as well.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// A demonstration that checks itself.
#[derive(Clone, Copy)]
pub struct Lab {
    /// The name on the command line.
    pub name: &'static str,
    /// One line: what it is about.
    pub title: &'static str,
    /// The sections of UNP (Stevens, Fenner, Rudoff: UNIX Network Programming, volume 1).
    pub sections: &'static str,
    /// Where it stands in the course.
    pub chapter: Chapter,
    /// How long it takes if nobody stops to think, in seconds.
    pub takes: u32,
    /// What it needs beside the programs.
    pub needs: &'static [Need],
    /// A paragraph to begin with: the question that the lab answers.
    pub about: &'static str,
    /// What is performed, in this order.
    pub acts: fn() -> Vec<Box<dyn Scene>>,
}

/// An act, whatever its stage.
pub trait Scene {
    /// What happens, in a few words.
    fn title(&self) -> &'static str;
    /// The steps, described without performing them.
    fn outline(&self) -> Vec<String>;
    /// The lines that students may type, as given to [`Act::try_it`].
    fn try_it(&self) -> Vec<&'static str>;
    /// Where to read on, as given to [`Act::read`].
    fn read(&self) -> Vec<&'static str>;
    /// The steps, one by one, without performing them.
    fn plan(&self) -> Vec<Planned>;
    /// Every question is answered, and by one of its choices; else what is wrong.
    fn rehearse(&self) -> Result<(), String>;
    /// Opens the stage and performs the steps.
    fn perform(&self, place: &Isolation, show: &mut Performance<'_>) -> Result<(), Stop>;
}

/// Shows a performance to somebody.
pub trait Renderer {
    /// Shows what happened.
    fn show(&mut self, event: &Event<'_>) -> io::Result<()>;

    /// Can this be shown without pushing away what the audience has not been asked to read yet?
    fn has_room(&self, _event: &Event<'_>) -> bool {
        true
    }

    /// Waits until the audience is ready; not at all unless somebody is there.
    fn pause(&mut self) -> Result<(), Stop> {
        Ok(())
    }

    /// Shows how far a view is that is still being made; the whole is shown in the end.
    fn sketch(&mut self, _what: &str, _view: &View) -> io::Result<()> {
        Ok(())
    }

    /// Lets this time pass, the audience watching.
    fn wait(&mut self, time: Duration) -> io::Result<()> {
        std::thread::sleep(time);
        Ok(())
    }

    /// The number of the choice that the audience believes in, counted from 0, if it has an
    /// opinion. The question has been shown.
    fn guess(&mut self, _question: &Question) -> Result<Option<usize>, Stop> {
        Ok(None)
    }
}

/// What there is to show.
pub enum Event<'a> {
    /// A lab begins.
    Lab(&'a Lab, &'a Isolation),
    /// An act begins: its number and title.
    Act(usize, &'a str),
    /// Something is told.
    Explain(&'a str),
    /// The audience is asked.
    Ask(&'a Question),
    /// Something is about to happen: what, how it is typed, with names filled in.
    Do(&'a str, Typed, &'a str),
    /// Something was seen: what, the command that shows it, and the view.
    Show(&'a str, Typed, &'a str, &'a View),
    /// A question is answered: by which choice (None: by none of them), and what was guessed.
    Answer(&'a Question, Option<usize>, Option<usize>),
    /// Commands for the students to type, line by line.
    Try(&'a str),
    /// Where to read on.
    Read(&'a str),
    /// An expectation came out: what it is about, what was expected, the judgement, and what else
    /// would have been right.
    Verdict(&'a str, &'a Expected, &'a Judgement, &'a [Variation]),
    /// A step could not be performed: what, and why.
    Trouble(&'a str, &'a str),
    /// The lab is over.
    End(&'a Report),
}

/// Why a performance ends before its end.
#[derive(Debug)]
pub enum Stop {
    /// The audience has had enough.
    Quit,
    /// What is shown cannot be written.
    Output(io::Error),
    /// A step could not be performed; it has been reported.
    Trouble,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// How a lab went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub lab: String,
    /// How many expectations held, known variations included.
    pub held: usize,
    /// Known variations: what, and why.
    pub varied: Vec<(String, String)>,
    /// What differed, as sentences: "X should have been Y, but was Z".
    pub differences: Vec<String>,
    /// What could not be seen here: what, and why.
    pub skipped: Vec<(String, String)>,
    /// How many predictions the audience made, and how many of them were right.
    pub predictions: usize,
    /// See `predictions`.
    pub right: usize,
    /// Did the audience leave before the end?
    pub quit: bool,
}

impl Report {
    /// Did everything that was looked at hold? If `strict`, everything must have been looked at.
    pub fn passed(&self, strict: bool) -> bool {
        self.differences.is_empty() && (!strict || self.skipped.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} facts as expected", self.lab, self.held)?;
        if !self.varied.is_empty() {
            write!(f, " ({} by a known variation)", self.varied.len())?;
        }
        write!(f, ", {} different", self.differences.len())?;
        if !self.skipped.is_empty() {
            write!(f, ", {} skipped", self.skipped.len())?;
        }
        Ok(())
    }
}

impl Lab {
    /// Performs the lab before `renderer`. The only error is that it cannot be shown.
    pub fn perform(&self, place: &Isolation, renderer: &mut dyn Renderer) -> io::Result<Report> {
        let mut performance = Performance::of(self, renderer);
        performance.renderer.show(&Event::Lab(self, place))?;
        match performance.acts(&(self.acts)(), place) {
            Ok(()) | Err(Stop::Trouble) => {}
            Err(Stop::Quit) => performance.report.quit = true,
            Err(Stop::Output(error)) => return Err(error),
        }
        let Performance {
            renderer, report, ..
        } = performance;
        renderer.show(&Event::End(&report))?;
        Ok(report)
    }
}

/// A performance that is under way.
pub struct Performance<'a> {
    renderer: &'a mut dyn Renderer,
    report: Report,
    open_questions: VecDeque<(Question, Option<usize>)>,
    patience: Duration,
    /// Has the audience just had its time to think?
    rested: bool,
    /// Has something been shown that the audience has not had time to read?
    just_shown: bool,
}

impl<'a> Performance<'a> {
    fn of(lab: &Lab, renderer: &'a mut dyn Renderer) -> Self {
        wait::begin_anew();
        Self {
            renderer,
            report: Report {
                lab: lab.name.into(),
                ..Report::default()
            },
            open_questions: VecDeque::new(),
            patience: PATIENCE,
            rested: false,
            just_shown: false,
        }
    }

    fn acts(&mut self, acts: &[Box<dyn Scene>], place: &Isolation) -> Result<(), Stop> {
        for (i, act) in acts.iter().enumerate() {
            // The next heading would push what is being read off the screen.
            if i > 0 {
                self.pause()?;
            }
            self.show(&Event::Act(i + 1, act.title()))?;
            self.open_questions.clear();
            act.perform(place, self)?;
        }
        Ok(())
    }

    fn step<S: Stage>(&mut self, step: &Step<S>, stage: &mut S) -> Result<(), Stop> {
        let what = self.filled(step.what, stage)?;
        match &step.kind {
            Kind::Explain => self.tell(&Event::Explain(&what))?,
            Kind::Read => self.tell(&Event::Read(&what))?,
            Kind::Try(lines) => {
                self.pause()?;
                self.just_shown = true;
                self.show(&Event::Try(lines))?;
            }
            Kind::Predict(question) => self.ask(*question)?,
            Kind::Act(typed, body) => {
                self.pause()?;
                let input = self.filled(typed.text(), stage)?;
                self.show(&Event::Do(&what, *typed, &input))?;
                self.attempt(&what, body(stage))?;
            }
            Kind::Wait(time) => {
                self.pause()?;
                self.show(&Event::Do(&what, Typed::Nothing, ""))?;
                self.renderer.wait(*time)?;
            }
            // Looked at now, shown when the audience is ready: the facts are of this moment.
            Kind::Observe(command, facts) => {
                let input = self.filled(command, stage)?;
                if let Some(facts) = self.attempt(&what, facts(stage))? {
                    let view = View::by(&input, facts);
                    self.present(&what, Typed::Shell(command), &input, &view)?;
                }
            }
            Kind::ObserveStill(command, facts, moment) => {
                let input = self.filled(command, stage)?;
                let look = || Ok(View::by(&input, facts(stage)?));
                let seen = while_still(&what, self.patience, || moment(stage), look);
                if let Some(view) = self.attempt(&what, seen)? {
                    self.present(&what, Typed::Shell(command), &input, &view)?;
                }
            }
            Kind::List(text) => {
                let view = View::Printed((*text).into());
                self.present(&what, Typed::Nothing, "", &view)?;
            }
            Kind::Show(look) => {
                if let Some(view) = self.attempt(&what, look(stage))? {
                    self.present(&what, Typed::Nothing, "", &view)?;
                }
            }
            Kind::Measure(body) => {
                self.pause()?;
                let mut shown = Ok(());
                let made = body(stage, &mut |view| {
                    if shown.is_ok() {
                        shown = self.renderer.sketch(&what, view);
                    }
                });
                shown?;
                if let Some(view) = self.attempt(&what, made)? {
                    self.reveal(&what, Typed::Nothing, "", &view)?;
                }
            }
            Kind::Expect(expectation) => self.judge(&what, expectation, stage)?,
        }
        Ok(())
    }

    /// A page that is full is turned first.
    fn show(&mut self, event: &Event<'_>) -> Result<(), Stop> {
        if !self.renderer.has_room(event) {
            self.renderer.pause()?;
        }
        Ok(self.renderer.show(event)?)
    }

    /// First look, then listen.
    fn tell(&mut self, event: &Event<'_>) -> Result<(), Stop> {
        if std::mem::take(&mut self.just_shown) {
            self.pause()?;
        }
        self.show(event)
    }

    fn present(&mut self, what: &str, typed: Typed, input: &str, view: &View) -> Result<(), Stop> {
        self.pause()?;
        self.reveal(what, typed, input, view)
    }

    fn reveal(&mut self, what: &str, typed: Typed, input: &str, view: &View) -> Result<(), Stop> {
        self.just_shown = true;
        let event = Event::Show(what, typed, input, view);
        self.show(&event)
    }

    /// A guess is a pause already.
    fn pause(&mut self) -> Result<(), Stop> {
        self.just_shown = false;
        if std::mem::take(&mut self.rested) {
            return Ok(());
        }
        self.renderer.pause()
    }

    fn ask(&mut self, question: Question) -> Result<(), Stop> {
        self.show(&Event::Ask(&question))?;
        let guess = self.renderer.guess(&question)?;
        self.rested = true;
        self.open_questions.push_back((question, guess));
        Ok(())
    }

    fn judge<S>(
        &mut self,
        what: &str,
        expectation: &Expectation<S>,
        stage: &S,
    ) -> Result<(), Stop> {
        let (judgement, fact) = settle(what, expectation, stage, self.patience);
        if expectation.answers {
            self.answer(fact.as_ref())?;
        }
        let Expectation {
            expected,
            variations,
            ..
        } = expectation;
        let verdict = Event::Verdict(what, expected, &judgement, variations);
        self.show(&verdict)?;
        self.score(what, judgement);
        Ok(())
    }

    fn answer(&mut self, fact: Option<&Fact>) -> Result<(), Stop> {
        let Some((question, guess)) = self.open_questions.pop_front() else {
            return Ok(());
        };
        let fact = fact.map(ToString::to_string);
        let choice = question
            .choices
            .iter()
            .position(|(choice, _)| Some(*choice) == fact.as_deref());
        self.report.predictions += usize::from(guess.is_some());
        self.report.right += usize::from(guess.is_some() && guess == choice);
        let answer = Event::Answer(&question, choice, guess);
        self.show(&answer)
    }

    fn score(&mut self, what: &str, judgement: Judgement) {
        let report = &mut self.report;
        match judgement {
            Judgement::Held(_) => report.held += 1,
            Judgement::Varied(_, why) => {
                report.held += 1;
                report.varied.push((what.into(), why));
            }
            Judgement::Different(expected, observed) => {
                self.patience = self.patience.min(IMPATIENCE);
                let what = what.replace(" _ ", " ... ");
                let excuse = wait::stood_still().map_or_else(String::new, |time| {
                    format!(
                        " (the machine had stood still for {}: run it again)",
                        Fact::Time(time)
                    )
                });
                report.differences.push(format!(
                    "{what} should have been {expected}, but was {observed}{excuse}"
                ));
            }
            Judgement::Unseen(why) => report.skipped.push((what.into(), why)),
        }
    }

    /// What a step gave; None if it cannot be performed here and is skipped.
    fn attempt<T>(&mut self, what: &str, result: Result<T>) -> Result<Option<T>, Stop> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is::<Unseen>() => {
                let unseen = Judgement::Unseen(error.to_string());
                let nothing = Expected::from("");
                let verdict = Event::Verdict(what, &nothing, &unseen, &[]);
                self.show(&verdict)?;
                self.score(what, unseen);
                Ok(None)
            }
            Err(error) => {
                let why = format!("{error:#}");
                self.show(&Event::Trouble(what, &why))?;
                let sentence = format!("{what} should have been possible, but: {why}");
                self.report.differences.push(sentence);
                Err(Stop::Trouble)
            }
        }
    }

    fn filled(&mut self, template: &str, stage: &impl Stage) -> Result<String, Stop> {
        let filled = fill(template, &stage.names());
        self.attempt(template, filled)
            .map(Option::unwrap_or_default)
    }
}

/// Looks until nothing has moved during the look.
fn while_still<M: PartialEq, T>(
    what: &str,
    patience: Duration,
    moment: impl Fn() -> Result<M>,
    look: impl Fn() -> Result<T>,
) -> Result<T> {
    let mut why = None;
    let attempt = || -> Result<Option<T>> {
        let before = moment()?;
        let seen = look()?;
        Ok((moment()? == before).then_some(seen))
    };
    let seen = wait::eventually(what, patience, || {
        attempt().unwrap_or_else(|error| {
            why = Some(error);
            None
        })
    });
    // The last reason says more than that time is up.
    seen.map_err(|error| why.map_or(error, |why| why.context("it never comes to rest")))
}

/// Observes until the fact is as expected, or cannot be seen here, or patience ends.
fn settle<S>(
    what: &str,
    expectation: &Expectation<S>,
    stage: &S,
    patience: Duration,
) -> (Judgement, Option<Fact>) {
    let expected = &expectation.expected;
    let mut last = Ok(Fact::from("nothing"));
    let as_expected = wait::eventually(what, patience, || {
        last = (expectation.observe)(stage);
        match &last {
            Ok(fact) => expected.holds(fact).then_some(()),
            Err(error) => error.is::<Unseen>().then_some(()),
        }
    });
    match last {
        Err(error) if error.is::<Unseen>() => (Judgement::Unseen(error.to_string()), None),
        Err(error) => (different(expected, &format!("{error:#}")), None),
        Ok(fact) if as_expected.is_ok() => (Judgement::Held(fact.clone()), Some(fact)),
        Ok(fact) => (vary(expectation, &fact), Some(fact)),
    }
}

fn vary<S>(expectation: &Expectation<S>, fact: &Fact) -> Judgement {
    let expected = &expectation.expected;
    let known = expectation.variations.iter().find(|v| v.fact == *fact);
    let reason = known.map(|variation| variation.reason.clone());
    let reason = reason.or_else(|| late(expected, fact, wait::stood_still()?));
    reason.map_or_else(
        || different(expected, &fact.to_string()),
        |reason| Judgement::Varied(fact.clone(), reason),
    )
}

/// Why a time may be too long though everybody was quick: it is so by no more than the machine has stood
/// still. Of a time that is short in comparison that says nothing.
fn late(expected: &Expected, fact: &Fact, stood_still: Duration) -> Option<String> {
    let (Expected::Below(limit), Fact::Time(time)) = (expected, fact) else {
        return None;
    };
    let may_be = stood_still < *limit && time.saturating_sub(stood_still) < *limit;
    may_be.then(|| {
        format!(
            "the machine had stood still for {}",
            Fact::Time(stood_still)
        )
    })
}

fn different(expected: &Expected, observed: &str) -> Judgement {
    Judgement::Different(expected.clone(), observed.into())
}

impl<S: Stage> Scene for Act<S> {
    fn title(&self) -> &'static str {
        self.title
    }

    fn outline(&self) -> Vec<String> {
        self.steps.iter().map(ToString::to_string).collect()
    }

    fn try_it(&self) -> Vec<&'static str> {
        let lines = self.steps.iter().map(|step| match step.kind {
            Kind::Try(lines) => Some(lines),
            _ => None,
        });
        lines.flatten().collect()
    }

    fn read(&self) -> Vec<&'static str> {
        let tells = self
            .steps
            .iter()
            .filter(|step| matches!(step.kind, Kind::Read));
        tells.map(|step| step.what).collect()
    }

    fn plan(&self) -> Vec<Planned> {
        self.steps.iter().map(Step::planned).collect()
    }

    fn rehearse(&self) -> Result<(), String> {
        let mut open = VecDeque::new();
        for step in &self.steps {
            match &step.kind {
                Kind::Predict(question) => open.push_back(question),
                Kind::Expect(it) if it.answers => {
                    let question = open.pop_front().ok_or("an answer, but no question")?;
                    let expected = it.expected.to_string();
                    if !question.choices.iter().any(|(fact, _)| *fact == expected) {
                        return Err(format!("'{expected}' answers none of: {}", question.text));
                    }
                }
                _ => {}
            }
        }
        open.pop_front().map_or(Ok(()), |question| {
            Err(format!("no answer to: {}", question.text))
        })
    }

    fn perform(&self, place: &Isolation, show: &mut Performance<'_>) -> Result<(), Stop> {
        let opened = show.attempt("setting the stage", (self.open)(place))?;
        let Some(mut stage) = opened else {
            return Ok(());
        };
        for step in &self.steps {
            show.step(step, &mut stage)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narrate::quiet::Quiet;
    use crate::narrate::{keys, shell};
    use anyhow::{anyhow, bail};
    use std::cell::Cell;

    struct Counter(usize);

    impl Stage for Counter {
        fn names(&self) -> crate::narrate::Names {
            vec![("n", self.0.to_string())]
        }
    }

    fn counting() -> Act<Counter> {
        Act::open("counting", |_| Ok(Counter(0)))
            .explain("It stands at {n}.")
            .predict(
                "Where does it stand next?",
                &[("0", "at zero"), ("1", "at one")],
            )
            .act("Push it.", shell("push {n}"), |counter| {
                counter.0 += 1;
                Ok(())
            })
            .answer("the counter", "1", |counter| Ok(counter.0))
            .observe("Look.", "echo {n} it is", |counter| {
                Ok(format!("{}", counter.0))
            })
    }

    fn play(act: Act<Counter>) -> (Report, String) {
        let mut quiet = Quiet::new();
        let plain = Isolation::Plain("a unit test".into());
        let lab = Lab {
            name: "counting",
            title: "How far it counts",
            sections: "0.0",
            chapter: Chapter::Life,
            takes: 0,
            needs: &[],
            about: "A counter.",
            acts: Vec::new,
        };
        let mut performance = Performance::of(&lab, &mut quiet);
        performance.patience = Duration::from_millis(20);
        let acts: [Box<dyn Scene>; 1] = [Box::new(act)];
        let outcome = performance.acts(&acts, &plain);
        assert!(matches!(outcome, Ok(()) | Err(Stop::Trouble)));
        let report = performance.report;
        (report, quiet.transcript())
    }

    #[test]
    fn a_list_of_steps_is_performed_in_order_with_names_filled_in() {
        let (report, transcript) = play(counting());
        assert!(report.passed(true), "{transcript}");
        assert_eq!(report.held, 1);
        let told = [
            "It stands at 0",
            "Where does it",
            "$ push 0",
            "OK",
            "1 it is",
        ];
        let places: Vec<_> = told.iter().map(|t| transcript.find(t)).collect();
        assert!(places.iter().all(Option::is_some), "{transcript}");
        assert!(places.is_sorted(), "{transcript}");
    }

    #[test]
    fn a_look_counts_only_if_nothing_moved_meanwhile() {
        let (moments, looks) = (Cell::new(0), Cell::new(0));
        // It moves for the first five times it is asked: restless, or different every time.
        let moment = || {
            moments.set(moments.get() + 1);
            match moments.get() {
                1 | 2 => bail!("restless"),
                early => Ok(early.min(6)),
            }
        };
        let look = || {
            looks.set(looks.get() + 1);
            Ok(looks.get())
        };
        let seen = while_still("rest", Duration::from_secs(10), moment, look);
        assert_eq!(seen.expect("it comes to rest"), 3);
        let never = || bail!("restless");
        let seen = while_still::<(), _>("rest", Duration::ZERO, never, || Ok(()));
        assert!(format!("{:#}", seen.expect_err("never")).contains("restless"));
    }

    #[test]
    fn what_is_measured_is_shown_once_it_is_whole() {
        let act = counting().measure("Count.", |counter, tell| {
            for _ in 0..3 {
                counter.0 += 1;
                tell(&View::Printed(format!("so far {}", counter.0)));
            }
            Ok(View::Printed(format!("all in all {}", counter.0)))
        });
        let (report, transcript) = play(act);
        assert!(report.passed(true), "{transcript}");
        assert!(transcript.contains("all in all 4"), "{transcript}");
        assert!(!transcript.contains("so far"), "{transcript}");
    }

    #[test]
    fn the_same_list_describes_itself_without_running() {
        let outline = counting().outline();
        assert_eq!(outline[0], "explain  It stands at {n}.");
        assert_eq!(outline[2], "act      Push it. [$ push {n}]");
        assert_eq!(outline[3], "expect   the counter: 1");
    }

    #[test]
    fn what_differs_is_said_with_what_should_have_been() {
        let (report, transcript) = play(counting().expect("a second push", 2, |c| Ok(c.0)));
        assert!(!report.passed(false));
        let sentence = "a second push should have been 2, but was 1";
        assert_eq!(report.differences, [sentence]);
        assert!(transcript.contains("DIFFERENT"), "{transcript}");
        assert!(
            transcript.contains("$ push 0"),
            "the steps so far: {transcript}"
        );
    }

    #[test]
    fn a_time_that_is_too_long_may_be_the_machines() {
        let s = Duration::from_secs;
        let late = |limit, time, still| {
            let late = late(&Expected::Below(s(limit)), &Fact::Time(s(time)), s(still));
            late.is_some()
        };
        assert!(late(5, 7, 3));
        assert!(!late(5, 9, 3), "too late even so");
        assert!(!late(1, 2, 3), "of no account beside the standstill");
        assert!(super::late(&Expected::AtLeast(s(5)), &Fact::Time(s(4)), s(3)).is_none());
    }

    #[test]
    fn a_known_variation_is_right_and_named() {
        let act = counting()
            .expect("the counter in words", "one", |_| Ok("uno"))
            .or_known("uno", "Italian kernels");
        let (report, transcript) = play(act);
        assert!(report.passed(true), "{transcript}");
        assert_eq!(report.varied.len(), 1);
        assert!(transcript.contains("Italian kernels"), "{transcript}");
    }

    #[test]
    fn what_cannot_be_seen_is_skipped_and_strictness_minds() {
        let act = counting().expect("packets", 1, |_| -> Result<usize> {
            Err(Unseen("no namespaces here".into()).into())
        });
        let (report, transcript) = play(act);
        assert!(report.passed(false) && !report.passed(true));
        assert!(transcript.contains("SKIP"), "{transcript}");
        assert!(transcript.contains("no namespaces here"), "{transcript}");
    }

    #[test]
    fn trouble_ends_the_lab_and_counts_as_different() {
        let act = counting()
            .act("Break it.", keys("crash"), |_| bail!("it broke"))
            .explain("never told");
        let (report, transcript) = play(act);
        assert!(!report.passed(false));
        assert!(transcript.contains("it broke"), "{transcript}");
        assert!(!transcript.contains("never told"), "{transcript}");
    }

    #[test]
    fn a_name_that_nobody_explains_is_trouble() {
        let (report, _) = play(counting().explain("{who} is that?"));
        assert!(report.differences[0].contains("{who}"), "{report:?}");
    }

    #[test]
    fn rehearsing_finds_questions_without_answers() {
        assert_eq!(counting().rehearse(), Ok(()));
        let act = counting().predict("And then?", &[("2", "two")]);
        assert!(act.rehearse().is_err_and(|e| e.contains("And then?")));
        let act = counting()
            .predict("And then?", &[("2", "two")])
            .answer("it", "3", |_| Err::<usize, _>(anyhow!("never asked")));
        assert!(act.rehearse().is_err_and(|e| e.contains("'3'")));
    }
}
