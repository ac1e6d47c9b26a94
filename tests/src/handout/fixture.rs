//! A record made up for tests: everything that can be told, once.

use std::time::Duration;

use crate::narrate::fact::{Expected, Judgement, Variation};
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::record::{ActRecord, Entry, Input, NAMESPACES, Record, Told};
use crate::narrate::view::View;
use crate::narrate::{Fact, Report};

/// What a student is to find out.
pub(super) const SECRETS: &[&str] = &["20 ms", "The book says two", "one push, one step"];

const MS: u64 = 1_000_000;

fn verdict(what: &str, expected: Expected, judgement: Judgement, known: Vec<Variation>) -> Told {
    Told::Verdict {
        what: what.into(),
        expected,
        judgement,
        known,
    }
}

fn held(what: &str, fact: &str) -> Told {
    verdict(what, fact.into(), Judgement::Held(fact.into()), Vec::new())
}

fn done(what: &str, typed: Input, text: &str) -> Told {
    Told::Do {
        what: what.into(),
        typed,
        text: text.into(),
    }
}

fn act(title: &str, at: f64, seconds: f64, told: Vec<Told>) -> ActRecord {
    let entries = told.into_iter().map(|what| Entry { at, what });
    ActRecord {
        title: title.into(),
        at,
        seconds,
        entries: entries.collect(),
    }
}

/// A time line with everything that can be on one.
pub(super) fn ladder() -> Ladder {
    Ladder::new(10 * MS)
        .prologue("the first push")
        .descriptor(Side::Client, 3, "the connection")
        .remark("All of it is made up.")
        .note(MS, Side::Client, "write(3) = 6")
        .rung(12 * MS, Side::Client, "PSH,ACK seq=1 len=6")
        .rung(13 * MS, Side::Server, "ACK ack=7")
        .note(
            14 * MS,
            Side::Server,
            "a rather long remark <b> about what had happened",
        )
        .rung(1512 * MS, Side::Server, "FIN,ACK seq=7")
        .state(1513 * MS, Side::Client, "CLOSE-WAIT")
        .state(1513 * MS, Side::Server, "FIN-WAIT-2")
        .rung(1514 * MS, Side::Server, "RST seq=8")
        .outcome(1515 * MS, "tcpecho: server terminated prematurely & so on")
}

fn to_one() -> Vec<Told> {
    let limit = Expected::Below(Duration::from_secs(1));
    let soon = Fact::Time(Duration::from_millis(20));
    vec![
        Told::Explain("It stands at 0.\nNobody has touched it.".into()),
        Told::Ask {
            question: "And then?".into(),
            choices: vec!["at zero".into(), "at one".into()],
        },
        done("Push it.", Input::Shell, "push 0"),
        done("Wait.", Input::Nothing, ""),
        Told::Wait(1.0),
        Told::Answer {
            question: "And then?".into(),
            choice: Some(1),
            words: "at one".into(),
            guess: Some(0),
        },
        held("the counter", "1"),
        verdict("it spoke _ later", limit, Judgement::Held(soon), Vec::new()),
        Told::Show {
            what: "Look.".into(),
            command: Input::Shell,
            text: "ss -tan | grep '<9877>'".into(),
            view: View::AsWouldShow {
                tool: "ss".into(),
                why: "is not installed".into(),
                text: "ESTAB 0 0 127.0.0.1:9877\n".into(),
            },
        },
        Told::Explain(
            "The book says two. This kernel says one, and it is right.\n\n\
             Verdict: one push, one step."
                .into(),
        ),
    ]
}

fn on() -> Vec<Told> {
    let known = vec![Variation {
        fact: "uno".into(),
        reason: "Italian kernels".into(),
    }];
    let varied = Judgement::Varied("uno".into(), "Italian kernels".into());
    let unseen = Judgement::Unseen("no namespaces here".into());
    let different = Judgement::Different("2".into(), "1".into());
    vec![
        done("Type.", Input::Keys, "hello"),
        verdict("its name", "one".into(), varied, known),
        verdict("packets _ later", "1".into(), unseen, Vec::new()),
        Told::Show {
            what: "The story:".into(),
            command: Input::Nothing,
            text: String::new(),
            view: View::Ladder(ladder()),
        },
        Told::Show {
            what: "It says:".into(),
            command: Input::Nothing,
            text: String::new(),
            view: View::Printed(format!("{}\n", "a long line ".repeat(20))),
        },
        verdict("a second push", "2".into(), different, Vec::new()),
        Told::Try("1$ push {it}\n2$ look        (again)".into()),
        Told::Read("Read: counter(1).".into()),
    ]
}

/// All of it, in two acts.
pub(super) fn record() -> Record {
    Record {
        lab: "counting".into(),
        title: "How far does it count?".into(),
        sections: "0.1, 0.2".into(),
        about: "A counter, and <you>.".into(),
        place: NAMESPACES.into(),
        system: "Linux 6.1".into(),
        started: 1_795_276_800,
        seconds: 4.0,
        paused: 1.0,
        acts: vec![act("to one", 0.0, 2.5, to_one()), act("on", 2.5, 0.5, on())],
        report: Report {
            lab: "counting".into(),
            held: 3,
            varied: vec![("its name".into(), "Italian kernels".into())],
            differences: vec!["a second push should have been 2, but was 1".into()],
            skipped: vec![("packets _ later".into(), "no namespaces here".into())],
            predictions: 1,
            ..Report::default()
        },
        ..Record::default()
    }
}
