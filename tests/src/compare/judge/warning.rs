//! What makes figures doubtful, and what to do about it: one sentence for the one, one for the other.

use super::conclusion::list;
use super::place::{Place, places};
use super::ratio::compared;
use super::summary::cpu_us;
use crate::compare::result::{Cell, Comparison, Measure, Outcome, Ratio, Round};
use crate::compare::stats::{LEAST_PAIRS, estimate, median, spread};
use crate::figures;

/// Of all processor time; more is not silence.
const FOREIGN: f64 = 0.1;

/// Such a part of the rounds is many.
const MANY: f64 = 0.1;

/// Rounds that lie further apart than this, of their median, are not one figure.
const WIDE: f64 = 0.3;

/// A first round that needs so many times the others' CPU is a warm-up.
const COLD: f64 = 1.1;

/// A ratio beyond this is a difference worth knowing, if it can be told.
const WORTH: f64 = 1.1;

/// All of them, the gravest first.
pub fn warnings(comparison: &Comparison) -> Vec<String> {
    let kinds: [fn(&Comparison) -> Option<String>; 13] = [
        interrupted,
        missing,
        debug_build,
        one_processor,
        few_rounds,
        hindered,
        foreign_load,
        bottleneck,
        crowded,
        cold,
        spread_out,
        left_out,
        undecided,
    ];
    kinds.iter().filter_map(|kind| kind(comparison)).collect()
}

fn interrupted(comparison: &Comparison) -> Option<String> {
    let could = |cell: &&Cell| matches!(cell.outcome, Outcome::Measured | Outcome::NotReached);
    let cells = || comparison.cells.iter().filter(could);
    let wanted = cells().count() * comparison.rounds as usize;
    let made: usize = cells().map(|cell| cell.rounds.len()).sum();
    comparison.interrupted.then(|| {
        format!("The comparison was interrupted: {made} of {wanted} measurements were made. Let it run to its end.")
    })
}

/// Cells with fewer rounds than others, in a comparison that ran to its end.
fn missing(comparison: &Comparison) -> Option<String> {
    let fewer = |cell: &&Cell| cell.rounds.len() < comparison.rounds as usize;
    let fewer: Vec<_> = measured(comparison).filter(fewer).map(name).collect();
    (!fewer.is_empty() && !comparison.interrupted).then(|| {
        let names = some(&fewer);
        format!("Not all of the {} rounds were measured: {names}. Its median stands for fewer rounds; compare again.", comparison.rounds)
    })
}

fn debug_build(comparison: &Comparison) -> Option<String> {
    (comparison.environment.build == "debug").then(|| {
        "These are debug builds: they compute many times as long in user mode as what one would use. Compare release builds: cargo build --release.".into()
    })
}

fn one_processor(comparison: &Comparison) -> Option<String> {
    (comparison.environment.processors == 1).then(|| {
        "Server and load generator share the only processor: rates and latencies are those of both together. Trust CPU per echo only, or compare on a machine with two.".into()
    })
}

fn few_rounds(comparison: &Comparison) -> Option<String> {
    let compared = comparison.contestants.len() > 1;
    (compared && (comparison.rounds as usize) < LEAST_PAIRS).then(|| {
        format!(
            "{} rounds are too few for an interval: what differs may do so by chance. Take more: --rounds 7.",
            comparison.rounds
        )
    })
}

/// Measurements that were thrown away.
fn hindered(comparison: &Comparison) -> Option<String> {
    let cells = comparison.cells.iter();
    let (loads, names): (Vec<_>, Vec<_>) = cells
        .filter(|cell| !cell.hindered.is_empty())
        .map(|cell| (cell.hindered.as_slice(), name(cell)))
        .unzip();
    let loads = loads.concat();
    let most = loads.iter().copied().fold(0.0, f64::max);
    (!loads.is_empty()).then(|| {
        format!(
            "In {} measurements nothing came back because other programs had the processors, up to {} of them: {}. These do not count; up to three for each were made again. End the other programs and compare again.",
            loads.len(),
            figures::percent(most),
            some(&names)
        )
    })
}

fn foreign_load(comparison: &Comparison) -> Option<String> {
    let all: Vec<f64> = rounds(comparison).map(|round| round.foreign_load).collect();
    let many = of_many(&all, |load| *load > FOREIGN)?;
    let most = all.iter().copied().fold(0.0, f64::max);
    Some(format!(
        "In {many} rounds other programs used more than {} of the processors, up to {}. End them and compare again.",
        figures::percent(FOREIGN),
        figures::percent(most)
    ))
}

fn bottleneck(comparison: &Comparison) -> Option<String> {
    let all: Vec<&Round> = rounds(comparison).collect();
    let many = of_many(&all, |round| round.generator_bottleneck)?;
    Some(format!(
        "In {many} rounds the load generator had no processor time left: a faster server would not show in rate and latency. CPU per echo is not touched by that; for the others give the generator more processors."
    ))
}

/// Contestants with more workers than processors to run them.
fn crowded(comparison: &Comparison) -> Option<String> {
    let processors = comparison.environment.server_processors.len() as u64;
    let crowded = comparison.contestants.iter().filter_map(|who| {
        let workers = who.workers.filter(|workers| *workers > processors)?;
        Some(format!("{} with {workers} workers", who.name))
    });
    let crowded: Vec<_> = crowded.collect();
    (processors > 0 && !crowded.is_empty()).then(|| {
        let on = if processors == 1 { "one processor".into() } else { format!("{processors} processors") };
        format!(
            "The servers ran on {on}, also {}: their rates are not what they reach with a processor for each. CPU per echo can be compared.",
            list(crowded)
        )
    })
}

/// The first round of most cells was dearer than the others.
fn cold(comparison: &Comparison) -> Option<String> {
    let firsts: Vec<f64> = measured(comparison)
        .filter_map(|cell| first_to_others(comparison, cell))
        .collect();
    let middle = median(&firsts).filter(|ratio| *ratio > COLD)?;
    Some(format!(
        "The first round needed {} times the CPU of the later ones (in the median of all): the machine was not warm. Compare again at once.",
        figures::plain(middle)
    ))
}

fn first_to_others(comparison: &Comparison, cell: &Cell) -> Option<f64> {
    let bulk = bulk(comparison, cell);
    let first = cell.rounds.iter().find(|round| round.round == 0)?;
    let others = cell.rounds.iter().filter(|round| round.round > 0);
    let others: Vec<_> = others.filter_map(|round| cpu_us(round, bulk)).collect();
    if others.len() < 2 {
        return None;
    }
    Some(cpu_us(first, bulk)? / median(&others)?).filter(|ratio| ratio.is_finite())
}

fn spread_out(comparison: &Comparison) -> Option<String> {
    let wide = |cell: &Cell| {
        let bulk = bulk(comparison, cell);
        let costs: Vec<_> = cell
            .rounds
            .iter()
            .filter_map(|round| cpu_us(round, bulk))
            .collect();
        let spread = estimate(&costs).and_then(|estimate| spread(&estimate))?;
        (spread > WIDE).then(|| format!("{} ({})", name(cell), figures::percent(spread)))
    };
    let wide: Vec<_> = measured(comparison).filter_map(wide).collect();
    (!wide.is_empty()).then(|| {
        format!(
            "CPU per echo differs between rounds by more than {} of its median: {}. Make the machine quiet, or measure longer: --duration.",
            figures::percent(WIDE),
            some(&wide)
        )
    })
}

/// Rounds that are not in a ratio because something else happened in them.
fn left_out(comparison: &Comparison) -> Option<String> {
    let of = |ratio: &Ratio| {
        let rounds = rounds_left_out(comparison, ratio)?;
        let rounds = list(rounds.iter().map(|round| (round + 1).to_string()));
        Some(format!(
            "{} against {} under {}, round {rounds}",
            ratio.contestant, ratio.reference, ratio.workload
        ))
    };
    let cpu = comparison
        .ratios
        .iter()
        .filter(|ratio| ratio.measure == Measure::Cpu);
    let left_out: Vec<_> = cpu.filter_map(of).collect();
    (!left_out.is_empty()).then(|| {
        format!(
            "Left out of the ratios, because they lie far off the other rounds: {}. Look at their figures; if it happens again, it is no accident.",
            some(&left_out)
        )
    })
}

fn rounds_left_out(comparison: &Comparison, ratio: &Ratio) -> Option<Vec<u32>> {
    let places = places(comparison);
    let here =
        |place: &&Place<'_>| place.workload.name == ratio.workload && place.point == ratio.point;
    let place = places.iter().find(here)?;
    let cell = |name: &str| Some(place.measured.iter().find(|who| who.name == name)?.cell);
    let (above, below) = (cell(&ratio.contestant)?, cell(&ratio.reference)?);
    let left_out = compared(above, below, ratio.measure, place.workload.is_bulk())?.left_out;
    (!left_out.is_empty()).then_some(left_out)
}

/// Differences worth knowing that the rounds cannot tell from chance.
fn undecided(comparison: &Comparison) -> Option<String> {
    let open = |ratio: &&Ratio| {
        let contains_one = ratio
            .interval
            .is_some_and(|(low, high)| low <= 1.0 && 1.0 <= high);
        ratio.measure == Measure::Cpu
            && contains_one
            && (ratio.ratio > WORTH || ratio.ratio < WORTH.recip())
    };
    let of = |ratio: &Ratio| {
        format!(
            "{} against {} under {} ({} times)",
            ratio.contestant,
            ratio.reference,
            ratio.workload,
            figures::plain(ratio.ratio)
        )
    };
    let open: Vec<_> = comparison.ratios.iter().filter(open).map(of).collect();
    (!open.is_empty()).then(|| {
        format!(
            "Too noisy to tell whether there is a difference: {}. Take more rounds (--rounds {}), or make the machine quiet.",
            some(&open),
            2 * comparison.rounds.max(LEAST_PAIRS as u32)
        )
    })
}

fn measured(comparison: &Comparison) -> impl Iterator<Item = &Cell> {
    comparison
        .cells
        .iter()
        .filter(|cell| cell.outcome == Outcome::Measured)
}

fn rounds(comparison: &Comparison) -> impl Iterator<Item = &Round> {
    measured(comparison).flat_map(|cell| &cell.rounds)
}

fn bulk(comparison: &Comparison, cell: &Cell) -> bool {
    comparison
        .workloads
        .iter()
        .any(|workload| workload.name == cell.workload && workload.is_bulk())
}

fn name(cell: &Cell) -> String {
    let point = cell
        .point
        .map(|point| format!(" {}", figures::whole(point)))
        .unwrap_or_default();
    format!("{} under {}{point}", cell.contestant, cell.workload)
}

/// As in `12 of 84`, if these are many.
fn of_many<T>(all: &[T], is: impl Fn(&T) -> bool) -> Option<String> {
    let count = all.iter().filter(|one| is(one)).count();
    (count > 0 && count as f64 >= MANY * all.len() as f64)
        .then(|| format!("{count} of {}", all.len()))
}

/// Not more of them than one reads.
fn some(items: &[String]) -> String {
    let (first, more) = items.split_at(items.len().min(3));
    let more = (!more.is_empty()).then(|| format!("{} more", more.len()));
    list(first.iter().cloned().chain(more))
}

#[cfg(test)]
mod tests;
