//! Which pictures a comparison has, and what is in them. A picture for which there are no figures is
//! none.

use crate::compare::chart::bars::{self, Bar, Bars};
use crate::compare::chart::lines::{self, Axis, Lines, Series};
use crate::compare::chart::scale::Scale;
use crate::compare::chart::{Text, short};
use crate::compare::ranking::{Ranking, Row};
use crate::compare::result::{Comparison, Contestant, Estimate, Workload};
use crate::compare::table::whole;
use crate::figures;
use crate::load::latency::Recorder;
use crate::load::report::Latency;

/// Where something would be uneven enough to show it: Jain's index of the least fair.
const UNEVEN: f64 = 0.9;

/// Values that lie farther apart than this get a logarithmic axis.
const FAR_APART: f64 = 30.0;

/// The percentiles that are marked.
const MARKED: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

/// CPU time per echo, in user mode and in the kernel, and the generator's.
pub fn cpu(ranking: &Ranking<'_>, id: &str) -> Option<String> {
    let rows: Vec<_> = ranking.rows.iter().filter_map(cpu_bar).collect();
    let per = ranking.workload.per();
    let highest = rows.iter().map(largest).fold(0.0, f64::max);
    let scale = Scale::linear(highest, bars::X);
    let told = |row: &Bar| {
        format!(
            "{}: {}, of it {} in the kernel",
            row.name,
            row.figure,
            figures::time_us(row.parts[1])
        )
    };
    bars(rows, |rows| Bars {
        text: Text {
            id: format!("{id}-cpu"),
            title: format!("CPU time of the server per {}", ranking.per()),
            description: format!("Bars, shortest first. {}.", list(&rows, told)),
            how: format!(
                "the shorter, the more clients one processor can serve. The left part is the server's own instructions, the right part the kernel on its behalf, mostly TCP. The thin line at the end goes from the smallest to the largest round; the line across is what the load generator needed itself per {per}."
            ),
        },
        axis: format!("CPU time per {per}"),
        ticks: times(&scale),
        scale,
        parts: vec!["user", "kernel"],
        mark: Some("load generator"),
        dots: false,
        rows,
    })
}

fn cpu_bar(row: &Row<'_>) -> Option<Bar> {
    let cpu = row.summary.cpu_us.finite()?;
    let (user, total) = row
        .cell
        .rounds
        .iter()
        .fold((0.0, 0.0), |(user, total), round| {
            (user + round.cpu.user_s, total + round.cpu.total_s())
        });
    let user = if total > 0.0 {
        cpu.median * user / total
    } else {
        0.0
    };
    Some(Bar {
        name: row.contestant.name.clone(),
        parts: vec![user, cpu.median - user],
        spread: Some((cpu.low, cpu.high)),
        mark: row
            .summary
            .generator_cpu_us
            .finite()
            .map(|generator| generator.median),
        figure: figures::time_us(cpu.median),
    })
}

/// Latency over percentiles.
pub fn latency(comparison: &Comparison, ranking: &Ranking<'_>, id: &str) -> Option<String> {
    let series: Vec<_> = (ranking.rows.iter())
        .filter_map(|row| {
            Some(Series {
                name: row.contestant.name.clone(),
                look: look(comparison, &row.contestant.name),
                points: curve(row.summary.latency.as_ref()?)?,
                marks: MARKED.map(one_in).to_vec(),
            })
        })
        .collect();
    let all = || series.iter().flat_map(|series| &series.points);
    let longest = all().map(|(x, _)| *x).fold(2.0, f64::max);
    let lowest = all().map(|(_, us)| *us).fold(f64::INFINITY, f64::min);
    let highest = all().map(|(_, us)| *us).fold(0.0, f64::max);
    let x = Scale::logarithmic_exactly(1.0, longest, lines::X);
    let y = Scale::logarithmic(lowest, highest, lines::Y);
    let marked = MARKED
        .into_iter()
        .filter(|percent| one_in(*percent) <= longest * 1.000_001);
    lines(series, |series| Lines {
        text: latency_text(ranking, id),
        x: Axis {
            title: "percent of the echoes that came at least as soon".into(),
            ticks: std::iter::once((1.0, "0".into()))
                .chain(marked.map(|p| (one_in(p), p.to_string())))
                .collect(),
            scale: x,
        },
        y: Axis {
            title: "latency (logarithmic)".into(),
            ticks: times(&y),
            scale: y,
        },
        series,
    })
}

fn latency_text(ranking: &Ranking<'_>, id: &str) -> Text {
    let told = |row: &Row<'_>| {
        let percentiles = row
            .summary
            .latency
            .iter()
            .flat_map(|latency| &latency.percentiles);
        let parts: Vec<_> = percentiles
            .map(|p| format!("{} % within {}", p.percent, figures::time_us(p.us)))
            .collect();
        format!("{}: {}", row.contestant.name, parts.join(", "))
    };
    Text {
        id: format!("{id}-latency"),
        title: "Latency: how long an echo takes".into(),
        description: format!("A line for each, rising to the right. {}.", list(&ranking.rows, told)),
        how: "all rounds together (the table has the median of the rounds); the lower, the sooner the echo. Above 50 is what half of the echoes stayed below, above 99 what only one in 100 exceeded; 90, 99, 99.9 and so on are each ten times as rare as the one before. A line that turns upwards on the right is a server that is quick most of the time and now and then is not.".into(),
    }
}

/// So many percent are at most, as one in how many is more.
fn one_in(percent: f64) -> f64 {
    1.0 / (1.0 - percent / 100.0)
}

/// Percentiles, close together if the histogram can be read.
fn curve(latency: &Latency) -> Option<Vec<(f64, f64)>> {
    let mut points = vec![(1.0, latency.min_us)];
    points.extend(
        latency
            .percentiles
            .iter()
            .map(|p| (one_in(p.percent), p.us)),
    );
    if let Ok(recorder) = latency.recorder() {
        points.extend(quantiles(&recorder));
    }
    points.retain(|(x, us)| x.is_finite() && us.is_finite() && *us > 0.0);
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    (points.len() > 1).then_some(points)
}

/// One in how many is more, and than what; as far as ten lie beyond, and no closer than one can see.
fn quantiles(recorder: &Recorder) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    let (mut below, mut next) = (0, 1.0);
    for bucket in recorder.histogram().iter_recorded() {
        below += bucket.count_since_last_iteration();
        let beyond = recorder.count() - below;
        let x = recorder.count() as f64 / beyond as f64;
        if beyond >= 10 && x >= next {
            points.push((x, bucket.value_iterated_to() as f64 / 1e3));
            next = x * 1.1;
        }
    }
    points
}

/// CPU time per echo over the points of a workload.
pub fn sweep(comparison: &Comparison, workload: &Workload, id: &str) -> Option<String> {
    let series = sweep_series(comparison, workload);
    let all = || series.iter().flat_map(|series| &series.points);
    let (farthest, highest) = all().fold((0.0_f64, 0.0_f64), |(x, y), point| {
        (x.max(point.0), y.max(point.1))
    });
    let (x, y) = (
        Scale::linear(farthest, lines::X),
        Scale::linear(highest, lines::Y),
    );
    let what = workload.points.clone().unwrap_or_default();
    let per = workload.per();
    lines(series, |series| Lines {
        text: Text {
            id: format!("{id}-sweep"),
            title: format!("CPU time of the server per {per}, over {what}"),
            description: format!(
                "A line for each. {}.",
                list(&series, |series| sweep_told(series, &what))
            ),
            how: format!(
                "flat: {what} cost nothing. The steeper a line climbs, the more work they make for each {per}. A line that ends early belongs to a server that cannot go on; the table says why."
            ),
        },
        x: Axis {
            title: what,
            ticks: x
                .ticks()
                .into_iter()
                .map(|v| (v, whole(v as u64)))
                .collect(),
            scale: x,
        },
        y: Axis {
            title: format!("CPU time per {per}"),
            ticks: times(&y),
            scale: y,
        },
        series,
    })
}

fn sweep_series(comparison: &Comparison, workload: &Workload) -> Vec<Series> {
    let last = comparison.points(workload).into_iter().flatten().last();
    let series = |who: &Contestant| {
        let points = points_of(comparison, workload, &who.name);
        let (end, _) = *points.last()?;
        let early = last.is_some_and(|last| end < last as f64);
        let to = if early {
            format!(" to {}", whole(end as u64))
        } else {
            String::new()
        };
        Some(Series {
            name: format!("{}{to}", who.name),
            look: look(comparison, &who.name),
            points,
            marks: Vec::new(),
        })
    };
    comparison.contestants.iter().filter_map(series).collect()
}

fn sweep_told(series: &Series, what: &str) -> String {
    let parts = series
        .points
        .iter()
        .map(|(x, us)| format!("{} at {}", figures::time_us(*us), whole(*x as u64)));
    format!(
        "{}: {} {what}",
        series.name,
        parts.collect::<Vec<_>>().join(", ")
    )
}

fn points_of(comparison: &Comparison, workload: &Workload, name: &str) -> Vec<(f64, f64)> {
    let points = comparison.points(workload).into_iter();
    let course = comparison.course(workload, name).into_iter();
    let known = points
        .zip(course)
        .filter_map(|(point, us)| Some((point? as f64, us?)));
    known.collect()
}

/// Memory per connection.
pub fn memory(ranking: &Ranking<'_>, id: &str) -> Option<String> {
    let mut rows: Vec<_> = (ranking.rows.iter())
        .filter_map(|row| one_bar(row, row.summary.pss_per_connection?, figures::bytes))
        .collect();
    rows.sort_by(|a, b| a.parts[0].total_cmp(&b.parts[0]));
    let above = || {
        rows.iter()
            .map(|row| row.parts[0])
            .filter(|bytes| *bytes > 0.0)
    };
    let (lowest, highest) = (
        above().fold(f64::INFINITY, f64::min),
        rows.iter().map(largest).fold(0.0, f64::max),
    );
    let dots = highest > lowest * FAR_APART;
    let scale = if dots {
        Scale::logarithmic(lowest, highest, bars::X)
    } else {
        Scale::linear(highest, bars::X)
    };
    let kind = if dots {
        " (logarithmic: equal distances are equal ratios)"
    } else {
        ""
    };
    bars(rows, |rows| Bars {
        text: Text {
            id: format!("{id}-memory"),
            title: "Memory of the server per connection".into(),
            description: format!(
                "Least first. {}.",
                list(&rows, |row| format!("{}: {}", row.name, row.figure))
            ),
            how: format!(
                "what the server's processes occupy together while all connections are open, less what they occupied before the first, divided by the connections{kind}. The kernel's own buffers are not in it."
            ),
        },
        axis: if dots {
            "bytes per connection (logarithmic)"
        } else {
            "bytes per connection"
        }
        .into(),
        ticks: scale
            .ticks()
            .into_iter()
            .map(|v| (v, short(&figures::bytes(v))))
            .collect(),
        scale,
        parts: Vec::new(),
        mark: None,
        dots,
        rows,
    })
}

/// How evenly the connections were served, if anybody was not even.
pub fn fairness(ranking: &Ranking<'_>, id: &str) -> Option<String> {
    let mut rows: Vec<_> = (ranking.rows.iter())
        .filter_map(|row| one_bar(row, row.summary.fairness, figures::count))
        .collect();
    rows.sort_by(|a, b| b.parts[0].total_cmp(&a.parts[0]));
    let uneven = rows.last().is_some_and(|row| row.parts[0] < UNEVEN);
    let scale = Scale::linear(1.0, bars::X);
    bars(rows, |rows| Bars {
        text: Text {
            id: format!("{id}-fairness"),
            title: "Fairness: is everybody served alike?".into(),
            description: format!("Jain's index, fairest first. {}.", list(&rows, |row| format!("{}: {}", row.name, row.figure))),
            how: "1 = every connection got as many echoes as every other; 0.5 = as if half of them had shared everything and the others had nothing (Jain's index).".into(),
        },
        axis: "Jain's index of the echoes per connection".into(),
        ticks: scale.ticks().into_iter().map(|v| (v, short(&figures::count(v)))).collect(),
        scale,
        parts: Vec::new(),
        mark: None,
        dots: true,
        rows,
    })
    .filter(|_| uneven)
}

fn one_bar(row: &Row<'_>, estimate: Estimate, write: fn(f64) -> String) -> Option<Bar> {
    let estimate = estimate.finite()?;
    Some(Bar {
        name: row.contestant.name.clone(),
        parts: vec![estimate.median],
        spread: Some((estimate.low, estimate.high)),
        mark: None,
        figure: write(estimate.median),
    })
}

/// How far a bar and what belongs to it reach.
fn largest(bar: &Bar) -> f64 {
    let end = bar.parts.iter().sum::<f64>();
    let high = bar.spread.map_or(end, |(_, high)| high);
    end.max(high).max(bar.mark.unwrap_or(0.0))
}

/// The same look for the same contestant in all pictures.
fn look(comparison: &Comparison, name: &str) -> usize {
    comparison
        .contestants
        .iter()
        .position(|who| who.name == name)
        .unwrap_or(0)
}

fn times(scale: &Scale) -> Vec<(f64, String)> {
    scale
        .ticks()
        .into_iter()
        .map(|us| (us, short(&figures::time_us(us))))
        .collect()
}

fn list<T>(all: &[T], told: impl Fn(&T) -> String) -> String {
    all.iter().map(told).collect::<Vec<_>>().join("; ")
}

fn bars(rows: Vec<Bar>, make: impl FnOnce(Vec<Bar>) -> Bars) -> Option<String> {
    (!rows.is_empty()).then(|| make(rows).draw())
}

fn lines(series: Vec<Series>, make: impl FnOnce(Vec<Series>) -> Lines) -> Option<String> {
    (!series.is_empty()).then(|| make(series).draw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_ten_lie_beyond() {
        let mut recorder = Recorder::new();
        (1..=1000).for_each(|us| recorder.record(us * 1000));
        let latency = recorder.latency().expect("a thousand");
        let points = curve(&latency).expect("enough");
        let (last, us) = *points.last().expect("not empty");
        assert!(
            (last - 100.0).abs() < 1e-6 && (us / 990.0 - 1.0).abs() < 0.002,
            "{last} {us}"
        );
        assert!(
            points
                .windows(2)
                .all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1)
        );
        let (_, half) = points.iter().find(|(x, _)| *x >= 2.0).expect("a median");
        assert!((half / 500.0 - 1.0).abs() < 0.01, "{half}");
        assert!(points.len() > 20, "not the percentiles alone");
    }

    #[test]
    fn without_its_histogram_a_curve_has_the_percentiles() {
        let mut recorder = Recorder::new();
        (1..=1000).for_each(|us| recorder.record(us * 1000));
        let mut latency = recorder.latency().expect("a thousand");
        latency.histogram.clear();
        assert_eq!(
            curve(&latency).expect("enough").len(),
            1 + latency.percentiles.len()
        );
    }
}
