//! The other figures, under the workloads that are about them: the rate of bulk and of connecting, the
//! slowest echoes where somebody might have to wait.

use super::{found, list, not_told_apart, spanned};
use crate::compare::judge::place::{Measured, Place};
use crate::compare::result::{Measure, Ratio};
use crate::figures;

/// Who echoes most in a second.
pub(super) fn rate(place: &Place<'_>, ratios: &[Ratio]) -> Option<String> {
    if !["bulk", "connect", "slow-handler"].contains(&place.workload.name.as_str()) {
        return None;
    }
    let (best, others) = of(place, ratios, Measure::Rate)?;
    let rate = best.summary.rate.median;
    let most = if place.workload.is_bulk() {
        format!("most bytes, {} MB per second", figures::plain(rate))
    } else {
        format!("most messages, {} per second", figures::count(rate))
    };
    Some(format!(
        "{}: {} echoes {most}{others}.",
        place.name(),
        best.name
    ))
}

/// With whom the slowest of a hundred echoes is fastest.
pub(super) fn slowest(place: &Place<'_>, ratios: &[Ratio]) -> Option<String> {
    let about = ["latency", "never-read", "firehose", "burst"];
    if !about.contains(&place.workload.name.as_str()) {
        return None;
    }
    let (best, others) = of(place, ratios, Measure::P99)?;
    let within = figures::time_us(best.summary.p99_us?.median);
    Some(format!(
        "{}: with {} 99 % of all echoes are back within {within}{others}.",
        place.name(),
        best.name
    ))
}

/// The best, and a clause about all others.
fn of<'a>(
    place: &'a Place<'a>,
    ratios: &[Ratio],
    measure: Measure,
) -> Option<(&'a Measured<'a>, String)> {
    let mut ratios = found(place, ratios, measure);
    ratios.retain(|ratio| ratio.interval.is_some());
    let reference = &ratios.first()?.reference;
    let best = place.measured.iter().find(|who| who.name == reference)?;
    let (apart, alike): (Vec<_>, Vec<_>) = ratios.iter().partition(|ratio| is_apart(ratio));
    let times = |ratio: &&Ratio| {
        let times = figures::plain(ratio.ratio);
        format!(
            "{} {times} times that ({})",
            ratio.contestant,
            spanned(ratio)
        )
    };
    let apart = list(apart.iter().map(times));
    let apart = if apart.is_empty() {
        apart
    } else {
        format!("; {apart}")
    };
    Some((best, format!("{apart}{}", not_told_apart(&alike))))
}

fn is_apart(ratio: &Ratio) -> bool {
    ratio
        .interval
        .is_some_and(|(low, high)| low > 1.0 || high < 1.0)
}
