//! How a server treats its clients: whom it lets wait, how it shares, what each costs in memory.

use super::list;
use crate::compare::judge::place::{Measured, Place, places};
use crate::compare::result::{Cell, Comparison, Outcome, Round};
use crate::figures;

/// Below this index of Jain, echoes were not shared alike.
const UNFAIR: f64 = 0.8;

/// Who waits so long, of the time measured, was stalled.
const STALLED: f64 = 0.5;

/// Under a load with somebody who might stall others: whose clients were stalled, and whose were not.
pub(super) fn stalled(comparison: &Comparison, place: &Place<'_>) -> Option<String> {
    let beside = match place.workload.name.as_str() {
        "never-read" => "a client that never reads",
        "firehose" => "a client that sends as fast as it can",
        _ => return None,
    };
    let here = |cell: &&Cell| cell.workload == place.workload.name && cell.point == place.point;
    let cells = comparison.cells.iter().filter(here);
    let cells: Vec<_> = cells
        .filter(|cell| cell.outcome == Outcome::Measured && !cell.rounds.is_empty())
        .collect();
    let (stalled, served): (Vec<_>, Vec<_>) = cells.into_iter().partition(|cell| stalls(cell) > 0);
    let of = |cell: &&Cell| {
        format!(
            "{} (in {} of {} rounds)",
            cell.contestant,
            stalls(cell),
            cell.rounds.len()
        )
    };
    let stalled = list(stalled.iter().map(of));
    let served = list(served.iter().map(|cell| cell.contestant.clone()));
    let said = match (stalled.is_empty(), served.is_empty()) {
        (true, true) => return None,
        (true, false) => {
            format!("none of the others waits for half the time measured with {served}")
        }
        (false, true) => {
            format!("others get no echo for half the time measured or more with {stalled}")
        }
        (false, false) => format!(
            "others get no echo for half the time measured or more with {stalled}; nobody waits so long with {served}"
        ),
    };
    Some(format!("{}: beside {beside}, {said}.", place.name()))
}

/// In how many rounds somebody got no echo for long.
fn stalls(cell: &Cell) -> usize {
    let long = |round: &Round| {
        round
            .latency
            .as_ref()
            .is_some_and(|l| l.max_us >= STALLED * round.measured_s * 1e6)
    };
    cell.rounds
        .iter()
        .filter(|round| round.echoes == 0 || long(round))
        .count()
}

/// Where each answer takes its time: how long a client waits for his with whom. There are too few echoes
/// for the slowest of a hundred.
pub(super) fn waiting(place: &Place<'_>) -> Option<String> {
    if place.workload.name != "slow-handler" {
        return None;
    }
    let each = place.measured.iter();
    let mut each: Vec<_> = each
        .filter_map(|who| Some((who.summary.p50_us?.median, who.name)))
        .collect();
    each.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let of = |(us, name): &(f64, &str)| format!("{} with {name}", figures::time_us(*us));
    let each = list(each.iter().map(of));
    (!each.is_empty()).then(|| {
        format!(
            "{}: half of the echoes are back within {each}.",
            place.name()
        )
    })
}

/// Who serves some of its clients much more than others.
pub(super) fn unfair(comparison: &Comparison, place: &Place<'_>) -> Option<String> {
    let unfair = |who: &&Measured<'_>| who.summary.fairness.median < UNFAIR;
    let of = |who: &Measured<'_>| {
        let part = who.summary.fairness.median;
        format!(
            "{} {}{}",
            who.name,
            figures::percent(part),
            at_a_time(comparison, who.name)
        )
    };
    let mut unfair: Vec<_> = place.measured.iter().filter(unfair).collect();
    unfair.sort_by(|a, b| {
        a.summary
            .fairness
            .median
            .total_cmp(&b.summary.fairness.median)
    });
    if unfair.is_empty() {
        return None;
    }
    let names = list(unfair.into_iter().map(of));
    Some(format!(
        "{}: echoes are shared unevenly, as if only so many of the clients had got all of them: {names} (Jain's index).",
        place.name()
    ))
}

fn at_a_time(comparison: &Comparison, name: &str) -> String {
    let serves = comparison.contestants.iter().find(|who| who.name == name);
    let serves = serves.and_then(|who| who.serves);
    serves
        .map(|n| format!(", serving {n} at a time"))
        .unwrap_or_default()
}

/// What a connection takes in memory, where most contestants were measured with most connections.
pub(super) fn memory(comparison: &Comparison) -> Option<String> {
    let places = places(comparison);
    let known = |place: &Place<'_>| {
        place
            .measured
            .iter()
            .filter(|who| memory_of(who).is_some())
            .count()
    };
    let place = places
        .iter()
        .max_by_key(|place| known(place))
        .filter(|place| known(place) > 0)?;
    let mut each: Vec<_> = place
        .measured
        .iter()
        .filter_map(|who| Some((memory_of(who)?, who.name)))
        .collect();
    each.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let names = list(
        each.iter()
            .map(|(bytes, name)| format!("{name} {}", figures::bytes(*bytes))),
    );
    Some(format!(
        "Memory for each connection, without the kernel's ({}): {names}.",
        place.name()
    ))
}

fn memory_of(who: &Measured<'_>) -> Option<f64> {
    who.summary.pss_per_connection.map(|each| each.median)
}
