//! Numbers in text, as a reader wants them: three significant digits, and a unit that keeps them short.
//!
//! What is less than a thousand and whole is written whole. What was not measured (no number, infinite)
//! is a dash. Units are SI: 1 kB is 1000 bytes.

/// From small to large, each a thousand of the one before.
type Units = &'static [&'static str];

const TIMES: Units = &["ns", "us", "ms", "s"];
const COUNTS: Units = &["", "k", "M", "G", "T"];
const SIZES: Units = &["B", "kB", "MB", "GB", "TB"];

/// What stands where there is no figure.
pub const NONE: &str = "-";

/// A time given in microseconds: `850 ns`, `12.3 us`, `1.25 s`.
pub fn time_us(us: f64) -> String {
    with_unit(us * 1e3, TIMES)
}

/// How many: `50`, `2.01`, `12.3 k`, `1.25 M`.
pub fn count(n: f64) -> String {
    with_unit(n, COUNTS)
}

/// Bytes: `64 B`, `4.6 kB`, `1.25 GB`.
pub fn bytes(bytes: f64) -> String {
    with_unit(bytes, SIZES)
}

/// How many times as much: `0.950x`, `1.25x`, `31.4x`.
pub fn ratio(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("{}x", digits(ratio))
    } else {
        NONE.into()
    }
}

/// A part of 1 in percent: `0.05 %`, `12.3 %`, `100 %`.
pub fn percent(part: f64) -> String {
    if !part.is_finite() {
        return NONE.into();
    }
    // What is not quite all must not be written as all.
    let percent = match significant(part * 100.0) {
        100.0 if part < 1.0 => 99.9,
        percent => percent,
    };
    format!("{} %", shortened(&digits_at_most(percent, 2)))
}

/// A number for a column whose header has the unit: at least three significant digits, and thousands
/// apart: `0.012`, `12.3`, `1,234,567`.
pub fn plain(value: f64) -> String {
    if !value.is_finite() {
        return NONE.into();
    }
    if value.abs() < 999.5 {
        return digits(value);
    }
    let whole = format!("{:.0}", value.abs());
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", thousands(&whole))
}

/// A whole number, all its digits, thousands apart: `64`, `1,234,567`.
pub fn whole(n: u64) -> String {
    thousands(&n.to_string())
}

/// A unit of time for a whole column or row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeUnit {
    /// As in the header: `us`.
    pub name: &'static str,
    exponent: usize,
}

impl TimeUnit {
    /// The one in which `us` microseconds are written with one to three digits before the point.
    pub fn fitting(us: f64) -> Self {
        let exponent = exponent(us * 1e3, TIMES);
        Self {
            name: TIMES[exponent],
            exponent,
        }
    }

    /// So many microseconds in this unit, without its name.
    pub fn write(self, us: f64) -> String {
        plain(us * 1e3 / power(self.exponent))
    }
}

fn with_unit(value: f64, units: Units) -> String {
    if !value.is_finite() {
        return NONE.into();
    }
    let exponent = exponent(value, units);
    let number = plain(value / power(exponent));
    let number = if exponent == 0 {
        shortened_if_whole(&number)
    } else {
        &number
    };
    format!("{number} {}", units[exponent]).trim_end().into()
}

/// Which of the units makes the number shortest, after rounding: 999.7 us are 1.00 ms.
fn exponent(value: f64, units: Units) -> usize {
    let rounded = significant(value.abs());
    let largest = units.len() - 1;
    (0..largest)
        .find(|e| rounded < power(e + 1))
        .unwrap_or(largest)
}

fn power(exponent: usize) -> f64 {
    1e3_f64.powi(exponent as i32)
}

/// Rounded to three significant digits, as in decimal.
fn significant(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn digits(value: f64) -> String {
    digits_at_most(value, 3)
}

/// Three significant digits, but no more than so many behind the point. What would then be 0 and is
/// not says so.
fn digits_at_most(value: f64, decimals: usize) -> String {
    let smallest = 0.1_f64.powi(decimals as i32);
    let rounded = significant(value);
    match rounded.abs() {
        0.0 => "0".into(),
        x if x < smallest / 2.0 => format!("<{smallest:.decimals$}"),
        x if x < 1.0 => format!("{rounded:.decimals$}"),
        x if x < 10.0 => format!("{rounded:.2}"),
        x if x < 100.0 => format!("{rounded:.1}"),
        _ => format!("{rounded:.0}"),
    }
}

/// Without the zeros at the end of a fraction.
fn shortened(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

/// Without a fraction that is all zeros.
fn shortened_if_whole(number: &str) -> &str {
    match number.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => number,
    }
}

/// Digits, with a comma before every third from the end.
fn thousands(digits: &str) -> String {
    let first = (digits.len() + 2) % 3 + 1;
    let (head, tail) = digits.split_at(first);
    let groups = (0..tail.len()).step_by(3).map(|i| &tail[i..i + 3]);
    std::iter::once(head)
        .chain(groups)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_take_the_unit_that_fits() {
        assert_eq!(time_us(0.0), "0 ns");
        assert_eq!(time_us(0.85), "850 ns");
        assert_eq!(time_us(12.345), "12.3 us");
        assert_eq!(time_us(7.0), "7.00 us");
        assert_eq!(time_us(999.4), "999 us");
        assert_eq!(time_us(999.7), "1.00 ms");
        assert_eq!(time_us(1_250_000.0), "1.25 s");
        assert_eq!(time_us(7.2e9), "7,200 s");
        assert_eq!(time_us(f64::NAN), "-");
    }

    #[test]
    fn counts_below_a_thousand_are_whole_if_they_are() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(50.0), "50");
        assert_eq!(count(2.014), "2.01");
        assert_eq!(count(0.05), "0.050");
        assert_eq!(count(0.0001), "<0.001");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(12_345.0), "12.3 k");
        assert_eq!(count(1_250_000.0), "1.25 M");
        assert_eq!(count(-1500.0), "-1.50 k");
    }

    #[test]
    fn sizes_are_si() {
        assert_eq!(bytes(64.0), "64 B");
        assert_eq!(bytes(4600.0), "4.60 kB");
        assert_eq!(bytes(65_536.0), "65.5 kB");
        assert_eq!(bytes(1e9), "1.00 GB");
        assert_eq!(bytes(f64::INFINITY), "-");
    }

    #[test]
    fn ratios_and_percentages() {
        assert_eq!(ratio(0.95), "0.950x");
        assert_eq!(ratio(1.254), "1.25x");
        assert_eq!(ratio(31.4159), "31.4x");
        assert_eq!(ratio(1234.0), "1230x");
        assert_eq!(ratio(f64::NAN), "-");
        assert_eq!(percent(0.123), "12.3 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.9999), "99.9 %");
        assert_eq!(percent(0.0005), "0.05 %");
        assert_eq!(percent(0.00001), "<0.01 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(-0.05), "-5 %");
    }

    #[test]
    fn columns_have_thousands_apart() {
        assert_eq!(plain(0.0123), "0.012");
        assert_eq!(plain(12.0), "12.0");
        assert_eq!(plain(999.4), "999");
        assert_eq!(plain(999.6), "1,000");
        assert_eq!(plain(1_234_567.0), "1,234,567");
        assert_eq!(plain(-12_345.0), "-12,345");
        assert_eq!(whole(64), "64");
        assert_eq!(whole(1_234_567), "1,234,567");
    }

    #[test]
    fn a_column_of_times_has_one_unit() {
        let unit = TimeUnit::fitting(123.0);
        assert_eq!(unit.name, "us");
        assert_eq!(unit.write(12.34), "12.3");
        assert_eq!(unit.write(45_678.0), "45,678");
        assert_eq!(TimeUnit::fitting(999.9).name, "ms");
        assert_eq!(TimeUnit::fitting(0.3).write(0.3), "300");
    }

    proptest! {
        #[test]
        fn what_is_written_is_right_to_three_digits(value in 1.0..1e14_f64) {
            let written = bytes(value);
            let (number, unit) = written.split_once(' ').expect("a unit");
            let number: f64 = number.replace(',', "").parse().expect("a number");
            let factor = power(SIZES.iter().position(|u| *u == unit).expect("known"));
            prop_assert!((number * factor / value - 1.0).abs() <= 0.00501, "{written}");
        }
    }
}
