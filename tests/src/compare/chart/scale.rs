//! Where a value lies on an axis, and which values are written beside it.

use std::ops::RangeInclusive;

/// What can be measured here in any unit; an axis for anything else has a range of its own.
const SENSIBLE: RangeInclusive<f64> = 1e-9..=1e18;

/// An axis: an interval of values on an interval of places.
#[derive(Clone, Debug)]
pub struct Scale {
    /// From tick to tick; none on a logarithmic axis.
    step: Option<f64>,
    values: (f64, f64),
    places: (f64, f64),
}

impl Scale {
    /// From 0 to at least `highest`, in equal steps; both ends are ticks.
    pub fn linear(highest: f64, places: (f64, f64)) -> Self {
        let highest = if SENSIBLE.contains(&highest) {
            highest
        } else {
            1.0
        };
        let step = step(highest);
        Self {
            step: Some(step),
            values: (0.0, (highest / step - 1e-9).ceil().max(1.0) * step),
            places,
        }
    }

    /// From at most `lowest` to at least `highest`, both above 0; equal ratios are equally long.
    pub fn logarithmic(lowest: f64, highest: f64, places: (f64, f64)) -> Self {
        let sensible = SENSIBLE.contains(&lowest) && SENSIBLE.contains(&highest);
        let (lowest, highest) = if sensible && lowest <= highest {
            (lowest, highest)
        } else {
            (1.0, 10.0)
        };
        let low = round_values(lowest, highest)
            .rfind(|value| *value <= lowest * (1.0 + 1e-9))
            .unwrap_or(lowest);
        let high = round_values(lowest, highest)
            .find(|value| *value >= highest * (1.0 - 1e-9) && *value > low)
            .unwrap_or(highest);
        Self {
            step: None,
            values: (low, high),
            places,
        }
    }

    /// The same from exactly `lowest` to exactly `highest`.
    pub fn logarithmic_exactly(lowest: f64, highest: f64, places: (f64, f64)) -> Self {
        Self {
            step: None,
            values: (lowest, highest),
            places,
        }
    }

    /// Where `value` is; at the end of the axis if it is beyond.
    pub fn place(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let value = value.clamp(low, high);
        let part = match self.step {
            None => (value / low).ln() / (high / low).ln(),
            Some(_) => (value - low) / (high - low),
        };
        self.places.0 + part * (self.places.1 - self.places.0)
    }

    /// Where the axis begins and ends.
    pub fn ends(&self) -> (f64, f64) {
        self.places
    }

    /// Round values along the axis, ascending, at most a dozen.
    pub fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.values;
        if let Some(step) = self.step {
            let count = (high / step).round() as u32;
            return (0..=count).map(|i| f64::from(i) * step).collect();
        }
        let inside = |value: &f64| *value >= low * (1.0 - 1e-9) && *value <= high * (1.0 + 1e-9);
        let all: Vec<_> = round_values(low, high).filter(inside).collect();
        if all.len() <= 8 {
            return all;
        }
        let decades: Vec<_> = all.into_iter().filter(|value| is_decade(*value)).collect();
        let every = decades.len().div_ceil(8).max(1);
        decades.into_iter().step_by(every).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that three to five of them are enough.
fn step(highest: f64) -> f64 {
    let rough = highest / 5.0 * (1.0 - 1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = match rough / power {
        x if x <= 1.0 => 1.0,
        x if x <= 2.0 => 2.0,
        x if x <= 5.0 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// All 1, 2 and 5 times a power of ten from below `low` to above `high`, ascending.
fn round_values(low: f64, high: f64) -> impl DoubleEndedIterator<Item = f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    (first..=last).flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(exponent)))
}

fn is_decade(value: f64) -> bool {
    let exponent = value.log10();
    (exponent - exponent.round()).abs() < 1e-6
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= expected * 1e-9, "{found}");
        }
    }

    #[test]
    fn ticks_are_round() {
        near(
            &Scale::linear(8.3, (0.0, 1.0)).ticks(),
            &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0],
        );
        near(
            &Scale::linear(0.05, (0.0, 1.0)).ticks(),
            &[0.0, 0.01, 0.02, 0.03, 0.04, 0.05],
        );
        let log = |low, high| Scale::logarithmic(low, high, (0.0, 1.0)).ticks();
        near(&log(12.0, 180.0), &[10.0, 20.0, 50.0, 100.0, 200.0]);
        near(&log(3.0, 40_000.0), &[10.0, 100.0, 1e3, 1e4]);
        near(&log(7.0, 7.0), &[5.0, 10.0]);
    }

    #[test]
    fn an_axis_has_room_for_what_is_written() {
        for highest in 1..2000 {
            let ticks = Scale::linear(f64::from(highest), (0.0, 1.0)).ticks();
            assert!((3..=6).contains(&ticks.len()), "{highest}: {ticks:?}");
        }
    }

    #[test]
    fn a_scale_of_nothing_is_still_a_scale() {
        for highest in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-308, 1e300] {
            assert!(Scale::linear(highest, (0.0, 9.0)).place(0.5).is_finite());
            let log = Scale::logarithmic(highest, highest, (0.0, 9.0));
            assert!(log.place(0.0).is_finite() && !log.ticks().is_empty());
        }
    }

    #[test]
    fn equal_ratios_are_equally_long() {
        let scale = Scale::logarithmic(1.0, 1000.0, (300.0, 0.0));
        assert!((scale.place(10.0) - 200.0).abs() < 1e-9);
        assert!((scale.place(100.0) - 100.0).abs() < 1e-9);
        assert!((scale.place(0.0) - 300.0).abs() < 1e-9, "beyond the end");
    }

    fn any_scale() -> impl Strategy<Value = (Scale, f64, f64)> {
        (-6.0..9.0_f64, 0.0..6.0_f64, any::<bool>()).prop_map(|(low, decades, log)| {
            let (low, high) = (10_f64.powf(low), 10_f64.powf(low + decades));
            let scale = if log {
                Scale::logarithmic(low, high, (0.0, 100.0))
            } else {
                Scale::linear(high, (0.0, 100.0))
            };
            (scale, low, high)
        })
    }

    proptest! {
        #[test]
        fn ticks_ascend_inside((scale, _, _) in any_scale()) {
            let ticks = scale.ticks();
            prop_assert!((2..=12).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]));
            let (low, high) = scale.values;
            prop_assert!(ticks.iter().all(|t| *t >= low * (1.0 - 1e-6) && *t <= high * (1.0 + 1e-6)));
        }

        #[test]
        fn what_is_larger_lies_farther((scale, low, high) in any_scale(), a in 0.0..1.0_f64, b in 0.0..1.0_f64) {
            let (a, b) = (low + a.min(b) * (high - low), low + a.max(b) * (high - low));
            prop_assert!(scale.place(a) <= scale.place(b));
            prop_assert!((0.0..=100.0 + 1e-6).contains(&scale.place(b)));
            prop_assert!(b <= a * 1.01 || scale.place(a) < scale.place(b));
        }
    }
}
