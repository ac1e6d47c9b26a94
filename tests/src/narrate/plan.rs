//! What an act would do, as its list has it: for whoever wants to read and not to watch.

use std::time::Duration;

use crate::narrate::fact::{Expected, Variation};
use crate::narrate::step::{Kind, Question, Step, Typed};

/// A step that nobody performs; `{name}`s are still in braces.
#[derive(Clone, Debug)]
pub enum Planned {
    /// Something is told.
    Explain(&'static str),
    /// Commands for the students to type.
    Try(&'static str),
    /// Where to read on.
    Read(&'static str),
    /// The audience is asked.
    Ask(Question),
    /// Something is made to happen: what, how it is typed.
    Do(&'static str, Typed),
    /// Time passes.
    Wait(&'static str, Duration),
    /// Somebody looks: at what, with which command.
    Look(&'static str, Typed),
    /// Something is shown that is always the same: what, and the text.
    List(&'static str, &'static str),
    /// A fact is expected.
    Expect {
        /// What it is about.
        what: &'static str,
        /// What it must be.
        expected: Expected,
        /// What else it may be.
        known: Vec<Variation>,
        /// Is it the answer to the oldest open question?
        answers: bool,
    },
}

impl<S> Step<S> {
    /// What this step would do.
    pub fn planned(&self) -> Planned {
        let what = self.what;
        match &self.kind {
            Kind::Explain => Planned::Explain(what),
            Kind::Try(lines) => Planned::Try(lines),
            Kind::Read => Planned::Read(what),
            Kind::Predict(question) => Planned::Ask(*question),
            Kind::Act(typed, _) => Planned::Do(what, *typed),
            Kind::Wait(time) => Planned::Wait(what, *time),
            Kind::Observe(command, _) | Kind::ObserveStill(command, ..) => {
                Planned::Look(what, Typed::Shell(command))
            }
            Kind::List(text) => Planned::List(what, text),
            Kind::Show(_) | Kind::Measure(_) => Planned::Look(what, Typed::Nothing),
            Kind::Expect(it) => Planned::Expect {
                what,
                expected: it.expected.clone(),
                known: it.variations.clone(),
                answers: it.answers,
            },
        }
    }
}
