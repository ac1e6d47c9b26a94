use super::*;
use crate::compare::judge::example::{again, cell, comparison, with_rounds};
use proptest::prelude::*;

fn quiet() -> Comparison {
    comparison(vec![
        cell("reactor", "echo-small", None, 7.0),
        cell("fork", "echo-small", None, 14.0),
    ])
}

/// The only warning after this change.
#[track_caller]
fn warned(change: impl FnOnce(&mut Comparison)) -> String {
    let mut comparison = quiet();
    change(&mut comparison);
    again(&mut comparison);
    assert_eq!(comparison.warnings.len(), 1, "{:#?}", comparison.warnings);
    comparison.warnings.remove(0)
}

#[test]
fn a_quiet_comparison_has_no_warnings() {
    assert!(quiet().warnings.is_empty(), "{:#?}", quiet().warnings);
    assert!(comparison(Vec::new()).warnings.is_empty());
}

#[test]
fn the_surroundings_are_judged() {
    assert!(warned(|c| c.environment.build = "debug".into()).starts_with("These are debug builds"));
    assert!(warned(|c| c.environment.processors = 1).contains("the only processor"));
    assert_eq!(
        warned(|c| c.contestants[0].workers = Some(2)),
        "The servers ran on one processor, also reactor with 2 workers: their rates are not what they reach with a processor for each. CPU per echo can be compared."
    );
    let interrupted = warned(|c| {
        c.interrupted = true;
        c.cells[0].rounds.truncate(5);
        c.cells[1].outcome = Outcome::NotReached;
        c.cells[1].rounds.clear();
    });
    assert!(
        interrupted.contains("interrupted: 5 of 14 measurements"),
        "{interrupted}"
    );
}

#[test]
fn a_worker_for_each_processor_is_in_order() {
    let mut comparison = quiet();
    comparison.contestants[0].workers = Some(1);
    again(&mut comparison);
    assert!(comparison.warnings.is_empty(), "{:?}", comparison.warnings);
}

#[test]
fn few_rounds_are_told_unless_there_is_nobody_to_compare() {
    let few = |c: &mut Comparison| {
        c.rounds = 3;
        c.cells.iter_mut().for_each(|cell| cell.rounds.truncate(3));
    };
    assert!(warned(few).starts_with("3 rounds are too few for an interval"));
    let mut alone = comparison(vec![cell("reactor", "echo-small", None, 7.0)]);
    few(&mut alone);
    again(&mut alone);
    assert!(alone.warnings.is_empty(), "{:?}", alone.warnings);
}

#[test]
fn missing_rounds_are_named() {
    let missing = warned(|c| c.cells[1].rounds.truncate(6));
    assert!(
        missing.starts_with("Not all of the 7 rounds were measured: fork under echo-small."),
        "{missing}"
    );
}

#[test]
fn others_on_the_machine_are_noticed_in_many_rounds_only() {
    let load = warned(|c| {
        (
            c.cells[0].rounds[1].foreign_load,
            c.cells[1].rounds[1].foreign_load,
        ) = (0.3, 0.2);
    });
    assert!(
        load.starts_with(
            "In 2 of 14 rounds other programs used more than 10 % of the processors, up to 30 %."
        ),
        "{load}"
    );
    let mut comparison = quiet();
    comparison.cells[0].rounds[1].foreign_load = 0.3;
    again(&mut comparison);
    assert!(comparison.warnings.is_empty(), "one of 14");
}

#[test]
fn what_was_thrown_away_is_told() {
    let hindered = warned(|c| {
        c.cells[0].hindered = vec![0.5, 0.97];
        c.cells[1].hindered = vec![0.6];
    });
    assert!(
        hindered.starts_with("In 3 measurements nothing came back because other programs had the processors, up to 97 % of them: reactor under echo-small and fork under echo-small."),
        "{hindered}"
    );
}

#[test]
fn a_generator_without_time_is_told() {
    let warning = warned(|c| {
        c.cells[0]
            .rounds
            .iter_mut()
            .for_each(|r| r.generator_bottleneck = true);
    });
    assert!(
        warning.starts_with("In 7 of 14 rounds the load generator had no"),
        "{warning}"
    );
}

#[test]
fn a_cold_first_round_is_told() {
    let cold = warned(|c| {
        c.cells
            .iter_mut()
            .for_each(|cell| cell.rounds[0].cpu.system_s *= 1.25);
    });
    assert!(cold.starts_with("The first round needed 1.2"), "{cold}");
    // The order in which they are listed does not matter.
    let cold = warned(|c| {
        for cell in &mut c.cells {
            cell.rounds[0].cpu.system_s *= 1.25;
            cell.rounds.reverse();
        }
    });
    assert!(cold.starts_with("The first round needed 1.2"), "{cold}");
}

#[test]
fn rounds_far_apart_and_left_out_are_named() {
    let mut comparison = quiet();
    comparison.cells[1].rounds[4].cpu.system_s *= 2.0;
    again(&mut comparison);
    let warnings = &comparison.warnings;
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("CPU per echo differs between rounds by more than 30 % of its median: fork under echo-small ("));
    assert!(
        warnings[1].contains(
            "lie far off the other rounds: fork against reactor under echo-small, round 5."
        ),
        "{warnings:?}"
    );
}

#[test]
fn a_difference_that_cannot_be_told_asks_for_more_rounds() {
    let open = warned(|c| {
        for (number, round) in c.cells[1].rounds.iter_mut().enumerate() {
            let noise = [0.48, 0.55, 0.6, 0.6, 0.61, 0.62, 0.55][number];
            round.cpu.user_s *= noise;
            round.cpu.system_s *= noise;
        }
    });
    assert!(open.starts_with("Too noisy to tell whether there is a difference: fork against reactor under echo-small (1.1"), "{open}");
    assert!(open.contains("--rounds 14"), "{open}");
}

#[test]
fn nobody_reads_twenty_names() {
    let names: Vec<String> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(some(&names), "1, 2, 3 and 17 more");
    assert_eq!(some(&names[..3]), "1, 2 and 3");
}

prop_compose! {
    /// Something that no load generator should report, but a kernel may.
    fn odd_cell()(
        who in "[a-d]", workload in "(echo-small|bulk|idle|never-read|connect)", point in prop::option::of(0..3_u64),
        cpu in prop_oneof![Just(0.0), 0.0..1e12], echoes in 0..3_u64, rounds in 0..9_usize,
        fairness in prop_oneof![Just(f64::NAN), 0.0..1.0], foreign in prop_oneof![Just(f64::INFINITY), 0.0..1.0],
        measured_s in prop_oneof![Just(0.0), 0.0..2.0], outcome in 0..4_usize,
    ) -> Cell {
        let mut odd = with_rounds(cell(&who, &workload, point, cpu), |round| {
            (round.echoes, round.bytes, round.measured_s) = (echoes + u64::from(round.round % 2), echoes, measured_s);
            (round.fairness, round.foreign_load) = (fairness, foreign);
        });
        odd.rounds.truncate(rounds);
        let why = || String::new();
        odd.outcome = [Outcome::Measured, Outcome::Cannot { why: why() }, Outcome::Failed { why: why() }, Outcome::NotReached][outcome].clone();
        odd
    }
}

proptest! {
    #[test]
    fn whatever_was_measured_no_sentence_has_a_hole(cells in prop::collection::vec(odd_cell(), 0..12)) {
        let judged = comparison(cells);
        for sentence in judged.conclusions.iter().chain(&judged.warnings) {
            prop_assert!(!sentence.contains("NaN") && !sentence.contains("inf"), "{}", sentence);
            prop_assert!(!sentence.contains("  ") && !sentence.contains("()"), "{}", sentence);
            prop_assert!(sentence.ends_with('.'), "{}", sentence);
        }
        for ratio in &judged.ratios {
            prop_assert!(ratio.ratio.is_finite() && ratio.confidence.is_finite());
            prop_assert!(ratio.interval.is_none_or(|(low, high)| low.is_finite() && high.is_finite()));
        }
    }
}
