//! What the figures say, in words a student understands.
//!
//! One small function for each kind of sentence; each looks at the figures and says something or
//! nothing. What the rounds cannot tell apart is not ranked.

mod best;
mod cause;
mod conduct;
mod sweep;
mod unable;

use super::place::{Measured, Place, places_of};
use crate::compare::result::{Comparison, Measure, Ratio, Workload};
use crate::figures;

/// Of more than so many who need more, only the one that needs most is explained.
const EXPLAINED: usize = 3;

/// All of them: for each workload who needs least and why, then what it was built to show; then
/// memory, who could not, and how sure all of it is.
pub fn conclusions(comparison: &Comparison) -> Vec<String> {
    let of = |workload| of_workload(comparison, workload);
    let mut all: Vec<String> = comparison.workloads.iter().flat_map(of).collect();
    all.extend(conduct::memory(comparison));
    all.extend(unable::cannot(comparison));
    all.extend(unable::failed(comparison));
    all.extend(certainty(&comparison.ratios));
    all
}

fn of_workload(comparison: &Comparison, workload: &Workload) -> Vec<String> {
    let places = places_of(comparison, workload);
    if places.len() > 1 {
        return sweep::growth(workload, &places);
    }
    let of = |place: &Place<'_>| {
        let mut said = Vec::new();
        // Where servers sleep most of the time, CPU time is not what tells them apart.
        if place.workload.name != "slow-handler" {
            said.extend(least_cpu(place, &comparison.ratios));
        }
        said.extend(best::rate(place, &comparison.ratios));
        said.extend(best::slowest(place, &comparison.ratios));
        said.extend(conduct::waiting(place));
        said.extend(conduct::stalled(comparison, place));
        said.extend(conduct::unfair(comparison, place));
        said
    };
    places.iter().flat_map(of).collect()
}

/// Who needs least CPU time, who cannot be told apart from that, who needs more, and why.
fn least_cpu(place: &Place<'_>, ratios: &[Ratio]) -> Vec<String> {
    let Some(best) = place.measured.first() else {
        return Vec::new();
    };
    let (at, unit) = (place.name(), place.workload.per());
    let cost = figures::time_us(best.summary.cpu_us.median);
    let ratios = found(place, ratios, Measure::Cpu);
    if ratios.is_empty() {
        return vec![format!(
            "{at}: {} needs {cost} of CPU per {unit}.",
            best.name
        )];
    }
    if ratios.iter().all(|ratio| ratio.interval.is_none()) {
        return vec![tendency(&at, unit, best.name, &cost, &ratios)];
    }
    let (more, others): (Vec<_>, Vec<_>) = ratios.into_iter().partition(|ratio| is_more(ratio));
    let (less, alike): (Vec<_>, Vec<_>) = others.into_iter().partition(|ratio| is_less(ratio));
    let alike = not_told_apart(&alike);
    let mut said = vec![format!(
        "{at}: {} needs least CPU per {unit}, {cost}{alike}.",
        best.name
    )];
    said.extend(less.iter().map(|ratio| contradiction(ratio)));
    said.extend(needs_more(place, &more, best));
    said
}

/// The median says one thing, the rounds pair by pair another.
fn contradiction(ratio: &Ratio) -> String {
    format!(
        "That is by the median; but where both ran next to each other, {} needed {} ({}) times as much: this one is undecided.",
        ratio.contestant,
        figures::plain(ratio.ratio),
        spanned(ratio)
    )
}

/// Too few rounds for intervals: what they show, as what it is worth.
fn tendency(at: &str, unit: &str, best: &str, cost: &str, ratios: &[&Ratio]) -> String {
    let of = |ratio: &&Ratio| {
        let name = &ratio.contestant;
        if ratio.is_about_one() {
            format!("{name} about as much")
        } else {
            format!("{name} {} times as much", figures::plain(ratio.ratio))
        }
    };
    let others = list(ratios.iter().map(of));
    let rounds = ratios
        .iter()
        .map(|ratio| ratio.pairs)
        .min()
        .unwrap_or_default();
    format!(
        "{at}: in {rounds} rounds {best} needed least CPU per {unit}, {cost}; {others}. Too few rounds to be sure of that."
    )
}

fn not_told_apart(alike: &[&Ratio]) -> String {
    if alike.is_empty() {
        return String::new();
    }
    let of = |ratio: &&Ratio| format!("{} ({})", ratio.contestant, spanned(ratio));
    let names = list(alike.iter().map(of));
    format!("; {names} cannot be told apart from it")
}

fn needs_more(place: &Place<'_>, more: &[&Ratio], best: &Measured<'_>) -> Vec<String> {
    let listed = if more.len() > EXPLAINED {
        more.len() - 1
    } else {
        0
    };
    let (listed, explained) = more.split_at(listed);
    let mut said = Vec::new();
    if !listed.is_empty() {
        let of = |ratio: &&Ratio| {
            format!(
                "{} {} times ({})",
                ratio.contestant,
                figures::plain(ratio.ratio),
                spanned(ratio)
            )
        };
        said.push(format!(
            "More than {}: {}.",
            best.name,
            list(listed.iter().map(of))
        ));
    }
    said.extend(
        explained
            .iter()
            .map(|ratio| explanation(place, ratio, best)),
    );
    said
}

fn explanation(place: &Place<'_>, ratio: &Ratio, best: &Measured<'_>) -> String {
    let unit = place.workload.per();
    let times = format!("{} ({}) times", figures::plain(ratio.ratio), spanned(ratio));
    let who = place
        .measured
        .iter()
        .find(|who| who.name == ratio.contestant);
    let cause = who
        .map(|who| cause::cause(who, best, place.workload))
        .unwrap_or_default();
    format!(
        "{} needs {times} the CPU of {} per {unit}{cause}.",
        ratio.contestant, best.name
    )
}

/// How many intervals there are, and how many of them to expect to be wrong.
fn certainty(ratios: &[Ratio]) -> Option<String> {
    let sure: Vec<f64> = ratios
        .iter()
        .filter(|r| r.interval.is_some())
        .map(|r| r.confidence)
        .collect();
    if sure.len() < 2 {
        return None;
    }
    let least = sure.iter().copied().fold(1.0, f64::min);
    let missing: f64 = sure.iter().map(|confidence| 1.0 - confidence).sum();
    let to_miss = match missing {
        few if few < 1.0 => "fewer than one".into(),
        some => format!("about {some:.0}"),
    };
    Some(format!(
        "Each interval by itself contains the true ratio with at least {}. There are {} of them: expect {to_miss} to miss.",
        figures::percent(least),
        figures::whole(sure.len() as u64),
    ))
}

fn found<'a>(place: &Place<'_>, ratios: &'a [Ratio], measure: Measure) -> Vec<&'a Ratio> {
    let here = |r: &&Ratio| {
        r.workload == place.workload.name && r.point == place.point && r.measure == measure
    };
    let mut found: Vec<_> = ratios.iter().filter(here).collect();
    found.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    found
}

fn is_more(ratio: &Ratio) -> bool {
    ratio.interval.is_some_and(|(low, _)| low > 1.0)
}

fn is_less(ratio: &Ratio) -> bool {
    ratio.interval.is_some_and(|(_, high)| high < 1.0)
}

/// As in `1.38 to 1.55`; without an interval how many rounds there are instead.
fn spanned(ratio: &Ratio) -> String {
    match ratio.interval {
        Some((low, high)) => span(low, high),
        None => format!("only {} rounds", ratio.pairs),
    }
}

/// As in `3 rounds`.
fn rounds(count: usize) -> String {
    match count {
        1 => "1 round".into(),
        n => format!("{n} rounds"),
    }
}

/// As in `1.38 to 1.55`.
fn span(low: f64, high: f64) -> String {
    format!("{} to {}", figures::plain(low), figures::plain(high))
}

/// As in `a, b and c`.
pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() {
        last
    } else {
        format!("{} and {last}", items.join(", "))
    }
}

#[cfg(test)]
mod tests;
