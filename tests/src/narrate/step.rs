//! The steps a lab is made of: values that run and describe themselves.
//!
//! An [`Act`] opens a stage (starts the programs) and lists its steps in the order in which a
//! class sees them; it reads like a screenplay:
//!
//! ```
//! # use tcpecho_lab::narrate::{Act, Names, Stage, shell};
//! # struct Counter(usize);
//! # impl Stage for Counter { fn names(&self) -> Names { Names::new() } }
//! Act::open("counting", |_surroundings| Ok(Counter(0)))
//!     .explain("A counter that nobody has touched stands at zero.")
//!     .predict("Where does it stand after one push?", &[("0", "still at zero"), ("1", "at one")])
//!     .act("Push it.", shell("push"), |counter| Ok(counter.0 += 1))
//!     .answer("the counter", "1", |counter| Ok(counter.0));
//! ```
//!
//! Nothing runs while the list is made. The same list is performed aloud, performed quietly as a
//! test, and (without being performed) says what it would do.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::narrate::fact::{Expected, Fact, Variation};
use crate::narrate::text::Names;
use crate::narrate::view::View;
use crate::netns::Isolation;

/// What the steps of an act work with: the programs it started, the capture, the clock. Dropping
/// it must leave nothing behind.
pub trait Stage {
    /// What `{name}` means in the texts and commands of this act, at this moment.
    fn names(&self) -> Names;
}

/// What somebody types to make a step happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A command, in a shell.
    Shell(&'static str),
    /// A line, into the program that has the keyboard.
    Keys(&'static str),
    /// Nothing: time passes.
    Nothing,
}

impl Typed {
    /// What is typed, names still in braces.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Shell(text) | Self::Keys(text) => text,
            Self::Nothing => "",
        }
    }
}

/// A command typed in a shell.
pub const fn shell(command: &'static str) -> Typed {
    Typed::Shell(command)
}

/// A line typed into the program that has the keyboard.
pub const fn keys(line: &'static str) -> Typed {
    Typed::Keys(line)
}

/// A question to the audience. The choices are facts that the kernel may show; the answer is the
/// one it does show.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The question.
    pub text: &'static str,
    /// The fact that would answer it, and what it means in words.
    pub choices: &'static [(&'static str, &'static str)],
}

/// What commands for the students are headed by.
pub const TRY_IT: &str = "Try it yourself (1$: in terminal 1; 2>: to what runs in terminal 2):";

/// Changes what is on the stage.
type Deed<S> = Box<dyn Fn(&mut S) -> Result<()>>;
/// Looks, and changes nothing.
type Look<S, T> = Box<dyn Fn(&S) -> Result<T>>;
/// Works for a while, and shows how far it is to whoever it is given.
type Watch<S> = Box<dyn Fn(&mut S, &mut dyn FnMut(&View)) -> Result<View>>;
/// Makes a stage.
type Open<S> = Box<dyn Fn(&Isolation) -> Result<S>>;

/// A description of everything that could move: two that are alike say that nothing has.
pub type Moment = String;

/// One step; see [`Act`] for how to write one.
pub struct Step<S> {
    /// What it is, in words; `{name}`s are filled in when it is performed.
    pub what: &'static str,
    /// What kind of step it is, and what it does.
    pub kind: Kind<S>,
}

/// The kinds of steps.
pub enum Kind<S> {
    /// Tells something.
    Explain,
    /// Commands for the students to type; shown as they are, braces too.
    Try(&'static str),
    /// Says where to read on.
    Read,
    /// Asks the audience what will happen. A later [`Kind::Expect`] answers.
    Predict(Question),
    /// Makes something happen.
    Act(Typed, Deed<S>),
    /// Lets time pass in which nobody does anything.
    Wait(Duration),
    /// Runs a command that looks; the facts stand in where it is not installed.
    Observe(&'static str, Look<S, String>),
    /// The same, while nothing moves: the last is the moment that must not pass meanwhile.
    ObserveStill(&'static str, Look<S, String>, Look<S, Moment>),
    /// Shows a text that is always the same, such as a program to read.
    List(&'static str),
    /// Shows what no command would.
    Show(Look<S, View>),
    /// The same, while it comes into being.
    Measure(Watch<S>),
    /// Asserts a fact.
    Expect(Expectation<S>),
}

/// A fact that must be observed.
pub struct Expectation<S> {
    /// What the fact must be.
    pub expected: Expected,
    /// What else it may be.
    pub variations: Vec<Variation>,
    /// Is it the answer to the oldest open question?
    pub answers: bool,
    /// Asks the kernel. Asked again until the fact is as expected or the patience ends.
    pub observe: Look<S, Fact>,
}

/// A stage and the steps performed on it.
pub struct Act<S> {
    /// What happens, in a few words.
    pub title: &'static str,
    pub(crate) open: Open<S>,
    pub(crate) steps: Vec<Step<S>>,
}

impl<S: Stage> Act<S> {
    /// An act on a stage that `open` makes, knowing where it runs.
    pub fn open(title: &'static str, open: impl Fn(&Isolation) -> Result<S> + 'static) -> Self {
        Self {
            title,
            open: Box::new(open),
            steps: Vec::new(),
        }
    }

    /// Tells something: what is on the stage, what the book says, what this kernel did.
    #[must_use]
    pub fn explain(self, text: &'static str) -> Self {
        self.then(text, Kind::Explain)
    }

    /// Commands for the students to try themselves, line by line as they are typed;
    /// [`try_it`](crate::narrate::try_it) has the rules, tests/tests/try_it.rs types them.
    #[must_use]
    pub fn try_it(self, lines: &'static str) -> Self {
        self.then(TRY_IT, Kind::Try(lines))
    }

    /// Where to read on.
    #[must_use]
    pub fn read(self, text: &'static str) -> Self {
        self.then(text, Kind::Read)
    }

    /// Asks the audience; each choice is the fact that would answer, and the same in words. Say
    /// with [`Act::answer`] later how the kernel answers.
    #[must_use]
    pub fn predict(
        self,
        text: &'static str,
        choices: &'static [(&'static str, &'static str)],
    ) -> Self {
        self.then(text, Kind::Predict(Question { text, choices }))
    }

    /// Makes something happen, the way a student would by typing `typed`.
    #[must_use]
    pub fn act(
        self,
        what: &'static str,
        typed: Typed,
        body: impl Fn(&mut S) -> Result<()> + 'static,
    ) -> Self {
        self.then(what, Kind::Act(typed, Box::new(body)))
    }

    /// Lets time pass in which nobody does anything.
    #[must_use]
    pub fn wait(self, what: &'static str, time: Duration) -> Self {
        self.then(what, Kind::Wait(time))
    }

    /// Looks, the way a student would, with `command`. It is run for real; where it is not
    /// installed, `facts` (the same, asked from the kernel) are shown instead, marked as such.
    #[must_use]
    pub fn observe(
        self,
        what: &'static str,
        command: &'static str,
        facts: impl Fn(&S) -> Result<String> + 'static,
    ) -> Self {
        self.then(what, Kind::Observe(command, Box::new(facts)))
    }

    /// As [`Act::observe`], but looks when nothing moves. `moment` is an error as long as something
    /// does; it is asked before and after the look, and only two answers alike make the look count.
    #[must_use]
    pub fn observe_still(
        self,
        what: &'static str,
        command: &'static str,
        facts: impl Fn(&S) -> Result<String> + 'static,
        moment: impl Fn(&S) -> Result<Moment> + 'static,
    ) -> Self {
        let kind = Kind::ObserveStill(command, Box::new(facts), Box::new(moment));
        self.then(what, kind)
    }

    /// Shows a text that is always the same, such as a program to read.
    #[must_use]
    pub fn listing(self, what: &'static str, text: &'static str) -> Self {
        self.then(what, Kind::List(text))
    }

    /// Shows what no command would.
    #[must_use]
    pub fn show(self, what: &'static str, body: impl Fn(&S) -> Result<View> + 'static) -> Self {
        self.then(what, Kind::Show(Box::new(body)))
    }

    /// Measures for a while, and shows what came out. Where somebody watches, it is also shown how
    /// far it is, whenever `body` tells the second of those that it is given.
    #[must_use]
    pub fn measure(
        self,
        what: &'static str,
        body: impl Fn(&mut S, &mut dyn FnMut(&View)) -> Result<View> + 'static,
    ) -> Self {
        self.then(what, Kind::Measure(Box::new(body)))
    }

    /// Asserts that the kernel shows `expected`, now or very soon. A ` _ ` in `what` makes it
    /// a sentence, with the fact in that place.
    #[must_use]
    pub fn expect<T: Into<Fact>>(
        self,
        what: &'static str,
        expected: impl Into<Expected>,
        observe: impl Fn(&S) -> Result<T> + 'static,
    ) -> Self {
        self.then(what, Kind::Expect(expectation(expected, observe)))
    }

    /// As [`Act::expect`], and the fact answers the oldest question that is still open.
    #[must_use]
    pub fn answer<T: Into<Fact>>(
        self,
        what: &'static str,
        expected: impl Into<Expected>,
        observe: impl Fn(&S) -> Result<T> + 'static,
    ) -> Self {
        let expectation = Expectation {
            answers: true,
            ..expectation(expected, observe)
        };
        self.then(what, Kind::Expect(expectation))
    }

    /// The expectation just stated also holds with this value, for this reason.
    ///
    /// # Panics
    ///
    /// If the last step is not an expectation.
    #[must_use]
    pub fn or_known(mut self, fact: impl Into<Fact>, reason: impl Into<String>) -> Self {
        let last = self.steps.last_mut().map(|step| &mut step.kind);
        let Some(Kind::Expect(expectation)) = last else {
            panic!("or_known varies the expectation before it, and there is none");
        };
        let (fact, reason) = (fact.into(), reason.into());
        expectation.variations.push(Variation { fact, reason });
        self
    }

    fn then(mut self, what: &'static str, kind: Kind<S>) -> Self {
        self.steps.push(Step { what, kind });
        self
    }
}

fn expectation<S, T: Into<Fact>>(
    expected: impl Into<Expected>,
    observe: impl Fn(&S) -> Result<T> + 'static,
) -> Expectation<S> {
    Expectation {
        expected: expected.into(),
        variations: Vec::new(),
        answers: false,
        observe: Box::new(move |stage| observe(stage).map(Into::into)),
    }
}

/// Steps describe themselves without being performed; names stay in braces.
impl<S> fmt::Display for Step<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Explain => write!(f, "explain  {}", self.what),
            Kind::Try(lines) => write!(f, "try      {lines}"),
            Kind::Read => write!(f, "read     {}", self.what),
            Kind::Predict(_) => write!(f, "predict  {}", self.what),
            Kind::Act(typed, _) => write!(f, "act      {}{typed}", self.what),
            Kind::Wait(time) => write!(f, "wait     {} [{}]", self.what, Fact::Time(*time)),
            Kind::Observe(command, _) | Kind::ObserveStill(command, ..) => {
                write!(f, "observe  {}{}", self.what, Typed::Shell(command))
            }
            Kind::List(_) | Kind::Show(_) => write!(f, "show     {}", self.what),
            Kind::Measure(_) => write!(f, "measure  {}", self.what),
            Kind::Expect(it) => write!(f, "expect   {}: {}", self.what, it.expected),
        }
    }
}

impl fmt::Display for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(command) => write!(f, " [$ {command}]"),
            Self::Keys(line) => write!(f, " [type: {line}]"),
            Self::Nothing => Ok(()),
        }
    }
}
