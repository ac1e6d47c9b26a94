//! Statistics of few and noisy rounds: medians, and how two contestants stand to each other.
//!
//! **Pairs.** Two contestants are compared round by round: in a round they run next to each other, and
//! a machine that has grown slower meanwhile has done so for both. Their ratio is taken as a logarithm,
//! for which twice and half are equally far from 1.
//!
//! **Middle and interval.** The middle is the estimate of Hodges and Lehmann, the median of the means of
//! all two logarithms (each with itself as well); the interval is the exact one that belongs to
//! Wilcoxon's signed-rank test (Hollander and Wolfe, Nonparametric Statistical Methods, chapter 3.1-3.3;
//! Conover, Practical Nonparametric Statistics, chapter 5.7). It holds whatever the noise is like, as
//! long as the logarithms lie symmetrically about their middle. What it cannot do is to be sure with few
//! pairs: five give 93.8 % at best. An interval is given from six pairs on (96.9 %), from seven on the
//! narrowest with at least 98 %.
//!
//! **Outliers.** Seven pairs must all agree for that, and one round in which the machine did something
//! else would spoil the comparison. A pair is left out if its modified z-score is above 3.5 (Iglewicz and
//! Hoaglin, How to Detect and Handle Outliers, 1993; hyperfine warns by the same score), and if its ratio
//! is besides 1.4 times off the others', as long as six remain. The second condition keeps what is only
//! the edge of ordinary noise: without it intervals are too narrow more often than they say. Who has been
//! left out is told.
//!
//! **Many comparisons.** Each interval holds for itself. A table with many of them contains some that
//! miss: that is one more reason for 98 rather than 95 %, and the conclusions say how many to expect.
//!
//! The method was chosen by simulation, and a test repeats it in small: 20,000 comparisons each, with
//! noise in each figure, a walk of the machine's speed of 10 % from round to round, and 3 % of the
//! figures doubled. In how many the interval contained 1 when it should, and did not when one was 20 %
//! slower:
//!
//! | pairs | noise | contestants alike | one slower | without leaving out | 95 % instead of 98 % |
//! |---|---|---|---|---|---|
//! | 7 | 5 % | 97.9 % | 93.8 % | 98.5 %, 78.7 % | 95.8 %, 96.1 % |
//! | 7 | 8 % | 97.7 % | 66.7 % | 98.5 %, 55.9 % | 95.6 %, 82.7 % |
//! | 8 | 8 % | 98.2 % | 76.4 % | 98.5 %, 66.1 % | 95.7 %, 90.4 % |
//! | 9 | 8 % | 97.9 % | 86.3 % | 98.0 %, 71.8 % | 95.6 %, 93.1 % |
//!
//! Of four contestants that are all alike, some interval against the best missed in 9 % of the
//! comparisons with seven rounds (15 % with intervals of 95 %).

use super::result::Estimate;

/// An interval is at least so sure, or there is none.
pub const LEAST_CONFIDENCE: f64 = 0.95;

/// With enough pairs it is so sure.
pub const CONFIDENCE: f64 = 0.98;

/// With fewer pairs there is no interval.
pub const LEAST_PAIRS: usize = 6;

/// From this modified z-score on, a value is an outlier.
const OUTLYING: f64 = 3.5;

/// From this ratio to the middle on, a pair is left out if it is an outlier as well.
const FAR_OFF: f64 = 1.4;

/// The normal distribution's median absolute deviation, in standard deviations.
const MAD_OF_NORMAL: f64 = 0.6745;

/// How two contestants stand to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// The middle of the ratios.
    pub ratio: f64,
    /// Where the true ratio is; absent with too few pairs.
    pub interval: Option<Interval>,
    /// Pairs it was made from.
    pub pairs: usize,
    /// Those that were left out as outliers, by their index, ascending.
    pub left_out: Vec<usize>,
}

/// From `low` to `high`, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How often such intervals contain the true value; 0 to 1.
    pub confidence: f64,
}

/// The middle one; of an even number the mean of the two in the middle. None of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which the part `q` (0 to 1) of them lies, between two of them in proportion (type 7
/// of Hyndman and Fan, as in R and spreadsheets). What is not finite is no value. None of nothing.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let sorted = sorted(values);
    let last = sorted.len().checked_sub(1).filter(|_| !q.is_nan())?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    Some(below * (1.0 - place.fract()) + above * place.fract())
}

/// How far they lie from their median, in the median. None of nothing.
pub fn median_absolute_deviation(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    median(&distances(values, middle))
}

/// Their median, the smallest and the largest. None of nothing.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let sorted = sorted(values);
    Some(Estimate {
        median: median(&sorted)?,
        low: *sorted.first()?,
        high: *sorted.last()?,
        n: sorted.len() as u32,
    })
}

/// How much larger the largest is than the smallest, of the median; 0.1 = 10 %.
pub fn spread(estimate: &Estimate) -> Option<f64> {
    let spread = (estimate.high - estimate.low) / estimate.median;
    spread.is_finite().then_some(spread)
}

/// How many standard deviations each lies from the others' middle, judged by the median absolute
/// deviation (the modified z-score). Infinite for who differs where the others are all equal.
pub fn modified_z_scores(values: &[f64]) -> Vec<f64> {
    let middle = median(values).unwrap_or_default();
    let deviation = median_absolute_deviation(values).unwrap_or_default();
    let score = |value: &f64| match value - middle {
        0.0 => 0.0,
        distance => MAD_OF_NORMAL * distance / deviation,
    };
    values.iter().map(score).collect()
}

/// Which of them the modified z-score calls outliers, by their index.
pub fn outliers(values: &[f64]) -> Vec<usize> {
    let scores = modified_z_scores(values);
    let outlying = |at: &usize| scores[*at].abs() > OUTLYING;
    (0..values.len()).filter(outlying).collect()
}

/// How the first of each pair stands to the second. Pairs of which one is not positive (or not finite)
/// have no ratio and do not count. None without pairs.
pub fn paired_ratio(pairs: &[(f64, f64)]) -> Option<Paired> {
    let logs: Vec<(usize, f64)> = pairs
        .iter()
        .enumerate()
        .filter_map(|(at, (above, below))| Some((at, log_ratio(*above, *below)?)))
        .collect();
    let left_out = far_off(&logs);
    let kept = logs.iter().filter(|(at, _)| !left_out.contains(at));
    let kept: Vec<f64> = kept.map(|(_, log)| *log).collect();
    let means = walsh_averages(&kept);
    Some(Paired {
        ratio: median(&means)?.exp(),
        interval: signed_rank_interval(&means, kept.len()),
        pairs: kept.len(),
        left_out,
    })
}

fn log_ratio(above: f64, below: f64) -> Option<f64> {
    let log = (above / below).ln();
    (above > 0.0 && below > 0.0 && log.is_finite()).then_some(log)
}

/// The outliers to be left out, so that enough remain: the farthest first.
fn far_off(numbered: &[(usize, f64)]) -> Vec<usize> {
    let logs: Vec<f64> = numbered.iter().map(|(_, log)| *log).collect();
    let distances = distances(&logs, median(&logs).unwrap_or_default());
    let mut far = outliers(&logs);
    far.retain(|at| distances[*at] > FAR_OFF.ln());
    far.sort_by(|a, b| distances[*b].total_cmp(&distances[*a]));
    far.truncate(logs.len().saturating_sub(LEAST_PAIRS));
    let mut far: Vec<usize> = far.into_iter().map(|at| numbered[at].0).collect();
    far.sort_unstable();
    far
}

/// The means of all two of them, each with itself as well, ascending.
fn walsh_averages(values: &[f64]) -> Vec<f64> {
    let with = |at: usize| {
        values[at..]
            .iter()
            .map(move |other| f64::midpoint(values[at], *other))
    };
    sorted(&(0..values.len()).flat_map(with).collect::<Vec<_>>())
}

/// The interval that leaves out equally many of the means (ascending) at both ends.
fn signed_rank_interval(means: &[f64], n: usize) -> Option<Interval> {
    let (cut, confidence) = cut(n)?;
    Some(Interval {
        low: means.get(cut)?.exp(),
        high: means.get(means.len() - 1 - cut)?.exp(),
        confidence,
    })
}

/// How many means to leave out at each end, and how sure that is: as many as [`CONFIDENCE`] allows, or
/// none if only [`LEAST_CONFIDENCE`] can be had.
fn cut(n: usize) -> Option<(usize, f64)> {
    let mut tail = 0.0;
    let mut best = None;
    for (cut, probability) in rank_sums(n).into_iter().enumerate() {
        tail += probability;
        let confidence = 1.0 - 2.0 * tail;
        let enough = if cut == 0 {
            LEAST_CONFIDENCE
        } else {
            CONFIDENCE
        };
        if confidence < enough {
            break;
        }
        best = Some((cut, confidence));
    }
    best
}

/// The probabilities that the ranks 1 to `n`, each taken or not by a coin, add up to 0, 1, 2, ...
fn rank_sums(n: usize) -> Vec<f64> {
    let mut sums = vec![0.0; n * (n + 1) / 2 + 1];
    sums[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..sums.len()).rev() {
            let with = sum.checked_sub(rank).map_or(0.0, |rest| sums[rest]);
            sums[sum] = f64::midpoint(sums[sum], with);
        }
    }
    sums
}

fn distances(values: &[f64], from: f64) -> Vec<f64> {
    values.iter().map(|value| (value - from).abs()).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    #[test]
    fn medians_and_quantiles_are_the_well_known_ones() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&values), Some(2.5));
        assert_eq!(quantile(&values, 0.25), Some(1.75));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 2.0), Some(4.0));
        assert_eq!(quantile(&values, f64::NAN), None);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[f64::NAN, 7.0, f64::INFINITY]), Some(7.0));
        assert_eq!(
            median_absolute_deviation(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0]),
            Some(1.0)
        );
    }

    #[test]
    fn an_estimate_is_median_and_range() {
        let estimate = estimate(&[3.0, 1.0, 2.0]).expect("values");
        let expected = Estimate {
            median: 2.0,
            low: 1.0,
            high: 3.0,
            n: 3,
        };
        assert_eq!(estimate, expected);
        assert_eq!(spread(&estimate), Some(1.0));
        assert_eq!(
            spread(&Estimate {
                median: 0.0,
                low: 0.0,
                high: 0.0,
                n: 1
            }),
            None
        );
    }

    #[test]
    fn an_outlier_is_found_and_ordinary_noise_is_not() {
        assert_eq!(outliers(&[1.0, 1.02, 0.98, 2.0, 1.01]), [3]);
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 1.5]), [3], "the others are equal");
        assert!(outliers(&[1.0, 1.1, 0.9, 1.05, 1.15]).is_empty());
        assert!(outliers(&[5.0, 5.0]).is_empty());
    }

    #[test]
    fn the_cuts_are_those_of_the_printed_tables() {
        // Two-sided 2 %, as in the tables of the signed-rank test: 0, 1, 3, 5, 7, 9.
        let cuts: Vec<_> = (7..=12).map(|n| cut(n).map(|(cut, _)| cut)).collect();
        assert_eq!(cuts, [0, 1, 3, 5, 7, 9].map(Some));
        assert_eq!(cut(6), Some((0, 1.0 - 2.0 / 64.0)));
        assert_eq!(cut(5), None);
        assert_eq!(cut(0), None);
    }

    #[test]
    fn rank_sums_are_counted_one_by_one() {
        for n in 0..10_usize {
            let mut counted = vec![0.0; n * (n + 1) / 2 + 1];
            for taken in 0..1_usize << n {
                let sum: usize = (0..n)
                    .filter(|bit| taken >> bit & 1 == 1)
                    .map(|bit| bit + 1)
                    .sum();
                counted[sum] += 0.5_f64.powi(n as i32);
            }
            assert_eq!(rank_sums(n), counted);
        }
    }

    #[test]
    fn with_few_pairs_there_is_a_ratio_and_no_interval() {
        let paired = paired_ratio(&[(2.0, 1.0); 5]).expect("pairs");
        assert!((paired.ratio - 2.0).abs() < 1e-12);
        assert_eq!((paired.interval, paired.pairs), (None, 5));
        assert_eq!(paired_ratio(&[]), None);
    }

    #[test]
    fn what_has_no_ratio_does_not_count() {
        let pairs = [
            (1.0, 0.0),
            (0.0, 1.0),
            (-1.0, -1.0),
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
        ];
        assert_eq!(paired_ratio(&pairs), None);
        let with_one = [&pairs[..], &[(3.0, 2.0)]].concat();
        assert_eq!(paired_ratio(&with_one).map(|paired| paired.pairs), Some(1));
    }

    #[test]
    fn a_round_that_was_disturbed_is_left_out_if_enough_remain() {
        let mut pairs: Vec<_> = (0..7).map(|i| (1.2 + 0.01 * f64::from(i), 1.0)).collect();
        pairs[2].1 = 2.0;
        let paired = paired_ratio(&pairs).expect("pairs");
        assert_eq!((paired.left_out.as_slice(), paired.pairs), (&[2][..], 6));
        assert!(paired.interval.expect("six").low > 1.0);
        let paired = paired_ratio(&pairs[..6]).expect("pairs");
        assert_eq!((paired.left_out.len(), paired.pairs), (0, 6));
        assert!(paired.interval.expect("six").low < 1.0);
    }

    #[test]
    fn of_too_many_outliers_the_farthest_go() {
        let mut pairs: Vec<_> = (0..7).map(|i| (1.0 + 0.01 * f64::from(i), 1.0)).collect();
        pairs[1].0 = 2.0;
        pairs[4].0 = 3.0;
        // Who has no ratio is counted along.
        pairs.insert(0, (1.0, 0.0));
        assert_eq!(paired_ratio(&pairs).expect("pairs").left_out, [5]);
    }

    #[test]
    fn the_edge_of_ordinary_noise_is_not_left_out() {
        let mut pairs: Vec<_> = (0..9).map(|i| (1.0 + 0.001 * f64::from(i), 1.0)).collect();
        pairs[4].0 = 1.3;
        assert!(paired_ratio(&pairs).expect("pairs").left_out.is_empty());
    }

    /// From the normal distribution (Box and Muller).
    fn normal(chance: &mut Chance) -> f64 {
        let mut unit = || (chance.number() >> 11) as f64 / (1_u64 << 53) as f64;
        let (radius, angle) = (1.0 - unit(), unit());
        (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
    }

    /// One figure: noise, and now and then twice as much.
    fn figure(chance: &mut Chance, noise: f64) -> f64 {
        let disturbed = if chance.up_to(100) < 3 { 2.0 } else { 1.0 };
        (noise * normal(chance)).exp() * disturbed
    }

    /// Rounds of two contestants on a machine whose speed walks; the first needs `ratio` times as much.
    fn rounds(chance: &mut Chance, n: usize, noise: f64, ratio: f64) -> Vec<(f64, f64)> {
        let mut speed = 1.0;
        let mut round = || {
            speed *= (0.1 * normal(chance)).exp();
            (
                ratio * speed * figure(chance, noise),
                speed * figure(chance, noise),
            )
        };
        (0..n).map(|_| round()).collect()
    }

    /// The part of 1000 comparisons in which the interval contains 1.
    fn contain_one(n: usize, noise: f64, ratio: f64) -> f64 {
        let mut chance = Chance::new(n as u64);
        let contains = |chance: &mut Chance| {
            let paired = paired_ratio(&rounds(chance, n, noise, ratio)).expect("pairs");
            let interval = paired.interval.expect("enough");
            interval.low <= 1.0 && 1.0 <= interval.high
        };
        (0..1000).filter(|_| contains(&mut chance)).count() as f64 / 1000.0
    }

    #[test]
    fn who_is_compared_with_itself_is_not_told_apart() {
        for n in [6, 7, 8, 9, 11] {
            for noise in [0.02, 0.05, 0.08] {
                let part = contain_one(n, noise, 1.0);
                assert!(part >= 0.95, "{n} rounds, noise {noise}: {part}");
            }
        }
    }

    #[test]
    fn who_is_a_fifth_slower_is_told_apart() {
        for (n, noise, at_most) in [
            (7, 0.05, 0.1),
            (7, 0.08, 0.4),
            (8, 0.08, 0.3),
            (9, 0.08, 0.2),
        ] {
            let part = contain_one(n, noise, 1.2);
            assert!(part <= at_most, "{n} rounds, noise {noise}: {part}");
        }
    }

    fn figures() -> impl Strategy<Value = Vec<(f64, f64)>> {
        prop::collection::vec((0.001..1e6, 0.001..1e6), 1..20)
    }

    proptest! {
        #[test]
        fn upside_down_it_is_the_reciprocal(pairs in figures()) {
            let swapped: Vec<_> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
            let (one, other) = (paired_ratio(&pairs).expect("pairs"), paired_ratio(&swapped).expect("pairs"));
            prop_assert!((one.ratio * other.ratio - 1.0).abs() < 1e-9);
            prop_assert_eq!(&one.left_out, &other.left_out);
            if let (Some(one), Some(other)) = (one.interval, other.interval) {
                prop_assert!((one.low * other.high - 1.0).abs() < 1e-9);
            }
        }

        #[test]
        fn the_ratio_is_in_its_interval_and_the_interval_among_the_pairs(pairs in figures()) {
            let paired = paired_ratio(&pairs).expect("pairs");
            prop_assert_eq!(paired.interval.is_some(), pairs.len() >= LEAST_PAIRS);
            prop_assert_eq!(paired.pairs + paired.left_out.len(), pairs.len());
            if let Some(interval) = paired.interval {
                prop_assert!(interval.low <= paired.ratio && paired.ratio <= interval.high);
                let ratios: Vec<f64> = pairs.iter().map(|(a, b)| a / b).collect();
                let range = estimate(&ratios).expect("ratios");
                prop_assert!(range.low <= interval.low * (1.0 + 1e-9));
                prop_assert!(interval.high <= range.high * (1.0 + 1e-9));
            }
        }

        #[test]
        fn a_machine_twice_as_fast_changes_nothing(pairs in figures(), factor in 0.01..100.0) {
            let faster: Vec<_> = pairs.iter().map(|(a, b)| (a * factor, b * factor)).collect();
            let (one, other) = (paired_ratio(&pairs).expect("pairs"), paired_ratio(&faster).expect("pairs"));
            prop_assert!((one.ratio / other.ratio - 1.0).abs() < 1e-9);
        }

        #[test]
        fn anything_at_all_gives_finite_figures(values in prop::collection::vec(any::<f64>(), 0..12), q in any::<f64>()) {
            let any_pairs: Vec<_> = values.iter().zip(values.iter().rev()).map(|(a, b)| (*a, *b)).collect();
            if let Some(paired) = paired_ratio(&any_pairs) {
                prop_assert!(paired.ratio >= 0.0 && !paired.ratio.is_nan());
            }
            prop_assert!(quantile(&values, q).is_none_or(|value| !value.is_nan()));
            let _ = modified_z_scores(&values);
        }
    }
}
