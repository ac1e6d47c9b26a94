//! Shows that a lab can fail: performs its acts with something else than they expect.

use std::io;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result, ensure};
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::narrate::{Event, Judgement, Lab, Renderer, Scene, Stop};
use tcpecho_lab::netns::{self, Isolation};

/// Acts, and what of them is different first.
pub type Case = (fn() -> Vec<Box<dyn Scene>>, &'static str);

/// Performs acts of a lab on plain loopback, all at once: most of the time goes into waiting for
/// what does not come.
pub fn all_differ(lab: &Lab, cases: &[Case]) -> Result<()> {
    let plain = Isolation::Plain("this test wants it so".into());
    thread::scope(|scope| {
        let cases = cases
            .iter()
            .map(|case| scope.spawn(|| differs(lab, case, &plain)));
        let cases: Vec<_> = cases.collect();
        let mut ended = cases.into_iter().map(ScopedJoinHandle::join);
        ended.try_for_each(|case| case.expect("no panic"))
    })
}

/// Performs acts of a lab in this place, until something differs.
pub fn differs(lab: &Lab, (acts, first): &Case, place: &Isolation) -> Result<()> {
    let mut critic = Critic::default();
    let report = Lab {
        acts: *acts,
        ..*lab
    }
    .perform(place, &mut critic)?;
    let transcript = critic.seen.transcript();
    ensure!(!report.passed(false), "nothing differs:\n{transcript}");
    let difference = report.differences.first().context("no difference")?;
    ensure!(difference.contains(first), "{difference}\n{transcript}");
    Ok(())
}

/// For the test `name`: performs a lab with these acts in namespaces, to its end. It must find these
/// differences, whatever else it finds.
pub fn finds(
    name: &str,
    lab: &Lab,
    acts: fn() -> Vec<Box<dyn Scene>>,
    what: &[&str],
) -> Result<()> {
    netns::test(name, || {
        let mut quiet = Quiet::new();
        let report = Lab { acts, ..*lab }.perform(&Isolation::Namespaces, &mut quiet)?;
        for what in what {
            let found = report.differences.iter().any(|d| d.starts_with(what));
            ensure!(found, "{what}: {report}\n{}", quiet.transcript());
        }
        Ok(())
    })
}

/// Leaves as soon as something differs: what follows mostly differs as well, and is waited for.
#[derive(Default)]
struct Critic {
    seen: Quiet,
    has_enough: bool,
}

impl Renderer for Critic {
    fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        let differs = matches!(event, Event::Verdict(_, _, Judgement::Different(..), _));
        self.has_enough |= differs;
        self.seen.show(event)
    }

    fn has_room(&self, _: &Event<'_>) -> bool {
        !self.has_enough
    }

    fn pause(&mut self) -> Result<(), Stop> {
        if self.has_enough {
            return Err(Stop::Quit);
        }
        Ok(())
    }
}

/// `lab { act => "what is different first"; ... }`: a test for each lab.
macro_rules! red {
    ($($lab:ident { $($act:expr => $first:expr;)* })*) => {
        $(
            #[test]
            fn $lab() -> Result<()> {
                red::all_differ(&labs::$lab::LAB, &[
                    $((|| vec![Box::new($act) as Box<dyn Scene>], $first)),*
                ])
            }
        )*
    };
}
pub(crate) use red;
