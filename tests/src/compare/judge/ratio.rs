//! How contestants stand to the best of them, from rounds with the same number.

use super::place::{Measured, Place, places};
use super::summary::{cpu_us, percentile, rate};
use crate::compare::result::{Cell, Comparison, Measure, Ratio, Round};
use crate::compare::stats::{LEAST_CONFIDENCE, Paired, paired_ratio};

/// Everybody against the best, under each workload and at each point: CPU time first, then rate, then
/// the 99th percentile; each in the order of the contestants' CPU time. The best is who has the least,
/// of the rate the most; without an interval the confidence is what an interval would need.
pub fn ratios(comparison: &Comparison) -> Vec<Ratio> {
    let measures = [Measure::Cpu, Measure::Rate, Measure::P99];
    let at = |place: Place<'_>| measures.map(|measure| of_place(&place, measure)).concat();
    places(comparison).into_iter().flat_map(at).collect()
}

fn of_place(place: &Place<'_>, measure: Measure) -> Vec<Ratio> {
    let Some(best) = best(place, measure) else {
        return Vec::new();
    };
    let others = place
        .measured
        .iter()
        .filter(|other| other.name != best.name);
    others
        .filter_map(|other| ratio(place, measure, other, &best))
        .collect()
}

fn ratio(
    place: &Place<'_>,
    measure: Measure,
    other: &Measured<'_>,
    best: &Measured<'_>,
) -> Option<Ratio> {
    let paired = compared(other.cell, best.cell, measure, place.workload.is_bulk())?.paired;
    Some(Ratio {
        workload: place.workload.name.clone(),
        point: place.point,
        measure,
        contestant: other.name.into(),
        reference: best.name.into(),
        ratio: paired.ratio,
        interval: paired
            .interval
            .map(|interval| (interval.low, interval.high)),
        confidence: paired
            .interval
            .map_or(LEAST_CONFIDENCE, |interval| interval.confidence),
        pairs: paired.pairs as u32,
    })
}

/// Who is best by the median of its rounds.
fn best<'a>(place: &Place<'a>, measure: Measure) -> Option<Measured<'a>> {
    let cost = |who: &Measured<'_>| match measure {
        Measure::Cpu => Some(who.summary.cpu_us.median),
        Measure::Rate => Some(-who.summary.rate.median),
        Measure::P99 => who.summary.p99_us.map(|p99| p99.median),
    };
    let known = place
        .measured
        .iter()
        .filter_map(|who| Some((cost(who)?, *who)));
    known
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, who)| who)
}

/// How one cell stands to another, and which rounds had to be left out of that.
#[derive(Debug)]
pub struct Compared {
    /// The result.
    pub paired: Paired,
    /// Numbers of the rounds left out as outliers.
    pub left_out: Vec<u32>,
}

/// Compares rounds with the same number. None if there are none.
pub fn compared(above: &Cell, below: &Cell, measure: Measure, bulk: bool) -> Option<Compared> {
    let mut rounds = Vec::new();
    let mut pairs = Vec::new();
    for one in &above.rounds {
        let same = below.rounds.iter().find(|other| other.round == one.round);
        let pair = same
            .and_then(|other| Some((figure(one, measure, bulk)?, figure(other, measure, bulk)?)));
        rounds.extend(pair.map(|_| one.round));
        pairs.extend(pair);
    }
    let paired = paired_ratio(&pairs)?;
    let left_out = paired.left_out.iter().map(|at| rounds[*at]).collect();
    Some(Compared { paired, left_out })
}

fn figure(round: &Round, measure: Measure, bulk: bool) -> Option<f64> {
    match measure {
        Measure::Cpu => cpu_us(round, bulk),
        Measure::Rate => rate(round, bulk),
        Measure::P99 => percentile(round, 99.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::judge::example::{cell, comparison, latency_of, with_rounds, without};
    use crate::compare::result::Outcome;

    fn of(ratios: &[Ratio], measure: Measure) -> Vec<&Ratio> {
        ratios
            .iter()
            .filter(|ratio| ratio.measure == measure)
            .collect()
    }

    #[test]
    fn everybody_is_compared_with_who_needs_least() {
        let cells = [("fork", 10.0), ("reactor", 7.0), ("thread", 14.0)];
        let cells = cells.map(|(who, cpu)| cell(who, "echo-small", None, cpu));
        let ratios = comparison(cells.to_vec()).ratios;
        let cpu = of(&ratios, Measure::Cpu);
        let pairs: Vec<_> = cpu
            .iter()
            .map(|r| (r.contestant.as_str(), r.reference.as_str()))
            .collect();
        assert_eq!(pairs, [("fork", "reactor"), ("thread", "reactor")]);
        assert!((cpu[1].ratio - 2.0).abs() < 0.1, "{cpu:?}");
        let (low, high) = cpu[1].interval.expect("seven rounds");
        assert!(low > 1.9 && low < cpu[1].ratio && cpu[1].ratio < high && high < 2.1);
        assert!(cpu[1].confidence > 0.98 && cpu[1].pairs == 7);
        assert_eq!(of(&ratios, Measure::Rate).len(), 2);
        assert!(of(&ratios, Measure::P99).is_empty(), "no latencies");
    }

    #[test]
    fn only_rounds_with_the_same_number_are_pairs() {
        let mut slow = cell("fork", "echo-small", None, 14.0);
        slow.rounds.retain(|round| round.round != 3);
        slow.rounds[0].round = 99;
        let ratios = comparison(vec![cell("reactor", "echo-small", None, 7.0), slow]).ratios;
        let cpu = of(&ratios, Measure::Cpu)[0];
        assert_eq!((cpu.pairs, cpu.interval), (5, None));
        assert!((cpu.confidence - LEAST_CONFIDENCE).abs() < 1e-9);
    }

    #[test]
    fn the_best_rate_is_the_highest_and_the_best_latency_the_lowest() {
        let with = |who: &str, echoes, ns| {
            with_rounds(cell(who, "latency", None, 7.0), |round| {
                round.echoes = echoes;
                round.latency = latency_of(ns, 1000);
            })
        };
        let ratios = comparison(vec![with("a", 1000, 30_000), with("b", 2000, 60_000)]).ratios;
        let (rate, p99) = (of(&ratios, Measure::Rate)[0], of(&ratios, Measure::P99)[0]);
        assert_eq!(
            (rate.reference.as_str(), p99.reference.as_str()),
            ("b", "a")
        );
        assert!((rate.ratio - 0.5).abs() < 0.01 && (p99.ratio - 2.0).abs() < 0.01);
    }

    #[test]
    fn who_was_not_measured_has_no_ratio() {
        let why = || "only one at a time".into();
        let outcomes = [
            Outcome::Cannot { why: why() },
            Outcome::Failed { why: why() },
            Outcome::NotReached,
        ];
        let mut cells = vec![cell("reactor", "echo-small", None, 7.0)];
        cells.extend(outcomes.map(|outcome| without("iterative", "echo-small", outcome)));
        let half = cell("fork", "echo-small", None, 7.0);
        cells.push(crate::compare::result::Cell {
            outcome: Outcome::Failed { why: why() },
            ..half
        });
        assert!(comparison(cells).ratios.is_empty());
        assert!(comparison(Vec::new()).ratios.is_empty());
    }

    #[test]
    fn points_are_not_mixed() {
        let cells = [
            ("a", 0, 7.0),
            ("b", 0, 8.0),
            ("a", 8000, 7.0),
            ("b", 8000, 70.0),
        ];
        let cells = cells.map(|(who, point, cpu)| cell(who, "idle", Some(point), cpu));
        let ratios = comparison(cells.to_vec()).ratios;
        let found: Vec<_> = of(&ratios, Measure::Cpu)
            .iter()
            .map(|r| (r.point, r.ratio.round()))
            .collect();
        assert_eq!(found, [(Some(0), 1.0), (Some(8000), 10.0)]);
    }
}
