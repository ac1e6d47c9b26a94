//! What the points of a workload cost: does CPU time per echo grow with them?

use super::{list, rounds, span};
use crate::compare::judge::place::{Measured, Place};
use crate::compare::judge::ratio::compared;
use crate::compare::result::{Measure, Workload};
use crate::compare::stats::{Interval, Paired};
use crate::figures;

/// One contestant at its first and its last point.
struct Growth<'a> {
    name: &'a str,
    from: u64,
    to: u64,
    paired: Paired,
    /// CPU time that each of the difference costs an echo, in microseconds.
    each_us: f64,
}

/// Who needs more at the last point than at the first, by how much, and who does not.
pub(super) fn growth(workload: &Workload, places: &[Place<'_>]) -> Vec<String> {
    let mut growths: Vec<_> = names(places)
        .into_iter()
        .filter_map(|name| of(name, places))
        .collect();
    growths.sort_by(|a, b| b.paired.ratio.total_cmp(&a.paired.ratio));
    let furthest = growths
        .iter()
        .map(|growth| growth.to)
        .max()
        .unwrap_or_default();
    let points = workload.points.as_deref().unwrap_or("points");
    let (grows, flat): (Vec<_>, Vec<_>) = growths.iter().partition(|growth| growth.is_sure());
    let said = |growth: &&Growth<'_>| growth.words(workload, points, furthest);
    let mut all: Vec<_> = grows.iter().map(said).collect();
    all.extend(not_growing(workload, points, &flat));
    all
}

fn names<'a>(places: &[Place<'a>]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for who in places.iter().flat_map(|place| &place.measured) {
        if !names.contains(&who.name) {
            names.push(who.name);
        }
    }
    names
}

fn of<'a>(name: &'a str, places: &[Place<'a>]) -> Option<Growth<'a>> {
    let measured = |place: &Place<'a>| {
        let who = place.measured.iter().find(|who| who.name == name)?;
        Some((place.point?, *who))
    };
    let mut all = places.iter().filter_map(measured);
    let (from, first): (u64, Measured<'a>) = all.next()?;
    let (to, last) = all.next_back()?;
    let bulk = places.first()?.workload.is_bulk();
    let more = last.summary.cpu_us.median - first.summary.cpu_us.median;
    Some(Growth {
        name,
        from,
        to,
        paired: compared(last.cell, first.cell, Measure::Cpu, bulk)?.paired,
        each_us: more / to.saturating_sub(from) as f64,
    })
}

impl Growth<'_> {
    fn is_sure(&self) -> bool {
        self.paired
            .interval
            .is_some_and(|interval| interval.low > 1.0)
    }

    fn words(&self, workload: &Workload, points: &str, furthest: u64) -> String {
        let only = if self.to < furthest {
            ", the most it was measured with,"
        } else {
            ""
        };
        let (name, to, from) = (
            self.name,
            figures::whole(self.to),
            figures::whole(self.from),
        );
        let (times, unit) = (figures::plain(self.paired.ratio), workload.per());
        let span = self.paired.interval.map(spanned).unwrap_or_default();
        let each = figures::time_us(self.each_us);
        format!(
            "{}: with {to} {points}{only} {name} needs {times} times the CPU per {unit} that it needs with {from} ({span}): {each} more for each.",
            workload.name
        )
    }
}

/// Those whose interval contains 1; and, without intervals, what the rounds show.
fn not_growing(workload: &Workload, points: &str, flat: &[&Growth<'_>]) -> Option<String> {
    let first = flat.first()?;
    let of = |growth: &&Growth<'_>| {
        let ratio = figures::plain(growth.paired.ratio);
        let span = growth.paired.interval.map_or(
            format!("{ratio} in {}", rounds(growth.paired.pairs)),
            spanned,
        );
        let to = if growth.to == first.to {
            String::new()
        } else {
            format!("with {}: ", figures::whole(growth.to))
        };
        format!("{} ({to}{span})", growth.name)
    };
    let names = list(flat.iter().map(of));
    let (to, from, name) = (
        figures::whole(first.to),
        figures::whole(first.from),
        &workload.name,
    );
    let sure = flat.iter().any(|growth| growth.paired.interval.is_some());
    Some(if sure {
        format!(
            "{name}: no growth of CPU per {} from {from} to {to} {points} can be told of {names}.",
            workload.per()
        )
    } else {
        format!(
            "{name}: CPU per {} with {to} {points} against {from}: {names}. Too few rounds to be sure of that.",
            workload.per()
        )
    })
}

fn spanned(interval: Interval) -> String {
    span(interval.low, interval.high)
}
