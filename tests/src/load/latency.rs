//! Times, counted in buckets so that a run of any length takes the same memory: a HdrHistogram.
//!
//! Costs 270 kB and, per time, an increment. What is lost is precision: a time comes back as the upper
//! end of its bucket, at most 0.1 % above what it was. Percentiles are nearest-rank ones, and of those
//! only such that enough times lie beyond: the 99.99th of a thousand is no figure, it is the maximum.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::load::report::{Latency, Percentile};

/// The longest time told apart, an hour in nanoseconds; what is longer counts as this.
const LONGEST: u64 = 3_600_000_000_000;

/// Decimal digits that are right.
const DIGITS: u8 = 3;

/// What is reported, in thousandths of a percent.
const PERCENTILES: [u64; 6] = [50_000, 90_000, 99_000, 99_900, 99_990, 99_999];

/// All there is, in thousandths of a percent.
const WHOLE: u64 = 100_000;

/// So many times must lie beyond a percentile.
const BEYOND: u64 = 10;

/// Counts times.
#[derive(Clone, Debug)]
pub struct Recorder(Histogram<u64>);

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// One without times. All the memory it will ever need is taken now.
    #[expect(clippy::missing_panics_doc, reason = "these bounds are in order")]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that are in order"))
    }

    /// Counts a time, in nanoseconds. Never fails and never allocates.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Counts all that `other` has counted.
    #[expect(clippy::missing_panics_doc, reason = "recorders are all alike")]
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all recorders are alike");
    }

    /// Forgets all of them.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// How many are at least this long, in nanoseconds, as far as buckets can tell.
    pub fn count_from(&self, ns: u64) -> u64 {
        self.0.count_between(ns, LONGEST)
    }

    /// So many percent of them are at most as long as what this returns, in microseconds; nothing if
    /// fewer than ten lie beyond.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let thousandths = (percent * 1e3).round() as u64;
        self.supported(&[thousandths]).first().map(|p| p.us)
    }

    /// What is reported of them; nothing if there are none.
    pub fn latency(&self) -> Option<Latency> {
        if self.is_empty() {
            return None;
        }
        Some(Latency {
            count: self.count(),
            min_us: us(self.0.min()),
            mean_us: self.0.mean() / 1e3,
            max_us: us(self.0.max()),
            percentiles: self.supported(&PERCENTILES),
            histogram: self.serialized(),
        })
    }

    /// The histogram itself, of nanoseconds.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Those of the percentiles (in thousandths of a percent, ascending) that have enough beyond them.
    fn supported(&self, percentiles: &[u64]) -> Vec<Percentile> {
        let mut buckets = self.0.iter_recorded();
        let mut reached = 0;
        let mut value = 0;
        let supported = percentiles.iter().map(|p| (p, rank(*p, self.count())));
        supported
            .filter(|(_, rank)| self.count() >= rank + BEYOND)
            .map(|(thousandths, rank)| {
                while reached < rank {
                    let Some(bucket) = buckets.next() else { break };
                    reached += bucket.count_since_last_iteration();
                    value = bucket.value_iterated_to();
                }
                Percentile {
                    percent: *thousandths as f64 / 1e3,
                    us: us(value),
                }
            })
            .collect()
    }

    fn serialized(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .expect("a vector takes everything");
        BASE64_STANDARD.encode(bytes)
    }
}

impl Latency {
    /// What was recorded, back from its histogram. Fails if that is damaged, or of something else.
    pub fn recorder(&self) -> Result<Recorder> {
        let bytes = BASE64_STANDARD
            .decode(&self.histogram)
            .context("this histogram is not base64")?;
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .context("this is not a HdrHistogram (V2, compressed)")?;
        let mut recorder = Recorder::new();
        recorder
            .0
            .add(&read)
            .context("this histogram has times of more than an hour")?;
        Ok(recorder)
    }

    /// One of the percentiles in microseconds, if it is there.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let same = |p: &&Percentile| (p.percent - percent).abs() < 1e-6;
        self.percentiles.iter().find(same).map(|p| p.us)
    }
}

/// Which of `count` is the percentile, counted from 1: the smallest that so many are not above.
fn rank(thousandths: u64, count: u64) -> u64 {
    let exact = (u128::from(count) * u128::from(thousandths)).div_ceil(u128::from(WHOLE));
    (exact as u64).max(1)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn recorded(times: &[u64]) -> Recorder {
        let mut recorder = Recorder::new();
        for ns in times {
            recorder.record(*ns);
        }
        recorder
    }

    /// Times as they are: mostly of one magnitude, some far out.
    fn times(most: usize) -> impl Strategy<Value = Vec<u64>> {
        let time = prop_oneof![8 => 1_000..100_000_u64, 2 => 1..=LONGEST];
        vec(time, 1..most)
    }

    /// The upper end of a bucket lies at most this far above what is in it.
    fn close(reported_us: f64, exact_ns: u64) -> bool {
        let exact = exact_ns as f64 / 1e3;
        reported_us >= exact && reported_us <= exact * 1.001 + 0.001
    }

    #[test]
    fn nothing_has_no_latency() {
        assert!(Recorder::new().is_empty());
        assert_eq!(Recorder::new().latency(), None);
        assert_eq!(Recorder::new().percentile(50.0), None);
        let mut recorder = recorded(&[1, 2, 3]);
        assert_eq!(recorder.count(), 3);
        recorder.reset();
        assert_eq!(recorder.latency(), None);
    }

    #[test]
    fn percentiles_need_ten_beyond_them() {
        let percents = |count| {
            let latency = recorded(&vec![5000; count]).latency().expect("times");
            latency
                .percentiles
                .iter()
                .map(|p| p.percent)
                .collect::<Vec<_>>()
        };
        assert!(percents(1).is_empty());
        assert!(percents(19).is_empty());
        assert_eq!(percents(20), [50.0]);
        assert_eq!(percents(99), [50.0]);
        assert_eq!(percents(100), [50.0, 90.0]);
        assert_eq!(percents(999), [50.0, 90.0]);
        assert_eq!(percents(1000), [50.0, 90.0, 99.0]);
        assert_eq!(percents(9_999), [50.0, 90.0, 99.0]);
        assert_eq!(percents(10_000), [50.0, 90.0, 99.0, 99.9]);
        let most = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
        assert_eq!(percents(1_000_000), most);
    }

    #[test]
    fn what_is_out_of_range_counts_as_the_longest() {
        let latency = recorded(&[u64::MAX, 0]).latency().expect("times");
        assert_eq!(latency.count, 2);
        assert!(close(latency.max_us, LONGEST), "{}", latency.max_us);
    }

    #[test]
    fn recording_needs_no_more_memory() {
        let mut recorder = Recorder::new();
        let before = recorder.0.distinct_values();
        for shift in 0..64 {
            recorder.record(1 << shift);
        }
        assert_eq!(recorder.0.distinct_values(), before);
        assert!(before * size_of::<u64>() < 300_000, "{before} buckets");
    }

    #[test]
    fn a_damaged_histogram_is_refused() {
        let good = recorded(&[1, 2, 3]).latency().expect("times");
        for histogram in ["", "?", "AAAA", &good.histogram[..8]] {
            let bad = Latency {
                histogram: histogram.into(),
                ..good.clone()
            };
            assert!(bad.recorder().is_err(), "{histogram}");
        }
    }

    proptest! {
        // Each case walks some hundred thousand buckets.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn merging_is_recording_both(a in times(200), b in times(200)) {
            let mut merged = recorded(&a);
            merged.merge(&recorded(&b));
            let both = recorded(&[a, b].concat());
            prop_assert_eq!(merged.latency(), both.latency());
        }

        #[test]
        fn percentiles_are_those_of_the_sorted_times(mut all in times(3000)) {
            let latency = recorded(&all).latency().expect("times");
            all.sort_unstable();
            let count = all.len() as u64;
            prop_assert_eq!(latency.count, count);
            for p in &latency.percentiles {
                let thousandths = (p.percent * 1e3).round() as u64;
                // Nearest rank by its definition: the first that enough of them do not exceed.
                let enough = |n: &u64| n * WHOLE >= thousandths * count;
                let rank = (1..=count).find(enough).expect("the last");
                prop_assert!(count - rank >= BEYOND);
                let exact = all[rank as usize - 1];
                prop_assert!(close(p.us, exact), "{}: {} for {exact}", p.percent, p.us);
            }
            let first_missing = PERCENTILES.get(latency.percentiles.len());
            prop_assert!(first_missing.is_none_or(|p| count < rank(*p, count) + BEYOND));
        }

        #[test]
        fn extremes_and_mean_are_right(all in times(300)) {
            let latency = recorded(&all).latency().expect("times");
            let min = *all.iter().min().expect("times");
            prop_assert!(latency.min_us <= us(min) && latency.min_us * 1.001 + 0.001 >= us(min));
            prop_assert!(close(latency.max_us, *all.iter().max().expect("times")));
            let mean = all.iter().map(|ns| *ns as f64).sum::<f64>() / all.len() as f64 / 1e3;
            prop_assert!((latency.mean_us - mean).abs() <= mean * 0.001 + 0.001);
        }

        #[test]
        fn what_is_written_can_be_read_and_added_to(a in times(300), b in times(300)) {
            let latency = recorded(&a).latency().expect("times");
            let mut read = latency.recorder().expect("our own");
            prop_assert_eq!(read.latency(), Some(latency));
            read.merge(&recorded(&b));
            let both = recorded(&[a, b].concat()).latency().expect("times");
            let merged = read.latency().expect("times");
            prop_assert_eq!(merged.percentiles, both.percentiles);
            prop_assert_eq!(merged.count, both.count);
        }
    }
}
