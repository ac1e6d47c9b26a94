//! The figures as tables of text, before they are drawn: each exporter draws the same ones.

use std::fmt::Write as _;

use crate::compare::ranking::{Ranking, Row};
use crate::compare::result::{Comparison, Estimate, Workload};
use crate::figures::{self, NONE, TimeUnit};

/// Rows of text under heads.
#[derive(Debug, Default)]
pub struct Table {
    /// What each column is.
    pub heads: Vec<Head>,
    /// As long as `heads`, each.
    pub rows: Vec<Vec<String>>,
    /// So many of the first columns are words and begin at the left; the others are figures.
    pub words: usize,
}

/// What a column is.
#[derive(Clone, Debug)]
pub struct Head {
    /// In one or two words.
    pub name: String,
    /// In what; may be empty.
    pub unit: String,
}

impl Head {
    fn new(name: &str, unit: &str) -> Self {
        Self {
            name: name.into(),
            unit: unit.into(),
        }
    }
}

impl Table {
    fn of_rows(rows: &[Row<'_>]) -> Self {
        Self {
            heads: vec![Head::new("contestant", "")],
            rows: rows
                .iter()
                .map(|row| vec![row.contestant.name.clone()])
                .collect(),
            words: 1,
        }
    }

    /// Adds a column, unless there would be nothing in it.
    fn column(&mut self, name: &str, unit: &str, figures: impl Iterator<Item = String>) {
        let figures: Vec<_> = figures.collect();
        if figures.iter().all(|figure| figure == NONE) {
            return;
        }
        self.heads.push(Head::new(name, unit));
        for (row, figure) in self.rows.iter_mut().zip(figures) {
            row.push(figure);
        }
    }

    /// Adds a column of times, all in the same unit.
    fn times(&mut self, name: &str, rows: &[Row<'_>], figure: impl Fn(&Row<'_>) -> Option<f64>) {
        let all: Vec<_> = rows.iter().map(figure).collect();
        let unit = unit_for(all.iter().copied().flatten());
        self.column(
            name,
            unit.name,
            all.into_iter().map(|us| written(us, |us| unit.write(us))),
        );
    }

    /// Adds the median and the spread of a time in a column each.
    fn estimates(
        &mut self,
        name: &str,
        rows: &[Row<'_>],
        of: impl Fn(&Row<'_>) -> Option<Estimate>,
    ) {
        let all: Vec<_> = rows.iter().map(of).collect();
        let unit = unit_for(all.iter().flatten().map(|estimate| estimate.median));
        let median = |e: &Option<Estimate>| written(e.map(|e| e.median), |us| unit.write(us));
        self.column(name, unit.name, all.iter().map(median));
        let write = |us| unit.write(us);
        self.column(
            "spread",
            unit.name,
            all.iter().map(|e| spread(e.as_ref(), write)),
        );
    }
}

/// All figures of a ranking, CPU per echo first.
pub fn of_ranking(ranking: &Ranking<'_>) -> Table {
    let rows = &ranking.rows[..];
    let per = ranking.workload.per();
    let per_one = format!("per {per}");
    let mut table = Table::of_rows(rows);
    table.estimates(&format!("CPU/{per}"), rows, |row| Some(row.summary.cpu_us));
    table.column(
        "to the least",
        confidence(rows).as_str(),
        rows.iter().map(to_the_least),
    );
    let rate = |row: &Row<'_>| figures::plain(row.summary.rate.median);
    let (name, unit) = if ranking.workload.is_bulk() {
        ("MB/s", "")
    } else {
        ("echoes/s", "")
    };
    table.column(name, unit, rows.iter().map(rate));
    table.times("p50", rows, |row| Some(row.summary.p50_us?.median));
    table.times("p99", rows, |row| Some(row.summary.p99_us?.median));
    table.column(
        "switches",
        &per_one,
        rows.iter()
            .map(|row| figures::plain(row.summary.switches.median)),
    );
    let calls = |row: &Row<'_>| Some(row.cell.calls.as_ref()?.per_echo);
    table.column(
        "calls",
        &per_one,
        rows.iter().map(|row| written(calls(row), figures::plain)),
    );
    table.column("memory", "B/connection", rows.iter().map(memory));
    table.column(
        "processes",
        "",
        rows.iter()
            .map(|row| row.summary.footprint.processes.to_string()),
    );
    table.column(
        "threads",
        "",
        rows.iter()
            .map(|row| row.summary.footprint.threads.to_string()),
    );
    table.column(
        "fairness",
        "1 = even",
        rows.iter()
            .map(|row| figures::plain(row.summary.fairness.median)),
    );
    table.estimates_of_generator(rows, per);
    table
}

impl Table {
    fn estimates_of_generator(&mut self, rows: &[Row<'_>], per: &str) {
        let name = format!("generator/{per}");
        self.times(&name, rows, |row| Some(row.summary.generator_cpu_us.median));
    }
}

/// CPU per echo of everybody at each point of a workload; who needs most at the last is last.
pub fn of_points(comparison: &Comparison, workload: &Workload) -> Table {
    let points = comparison.points(workload);
    let rankings: Vec<_> = points
        .iter()
        .map(|p| comparison.ranking(workload, *p))
        .collect();
    let of = |ranking: &Ranking<'_>, name: &str| {
        let row = ranking.rows.iter().find(|row| row.contestant.name == name);
        row.map(|row| row.summary.cpu_us.median)
    };
    let mut series: Vec<(&str, Vec<Option<f64>>)> = (comparison.contestants.iter())
        .map(|who| {
            (
                who.name.as_str(),
                rankings.iter().map(|r| of(r, &who.name)).collect(),
            )
        })
        .filter(|(_, values): &(_, Vec<Option<f64>>)| values.iter().any(Option::is_some))
        .collect();
    let measured = |values: &[Option<f64>]| values.iter().rposition(Option::is_some);
    let last = |values: &[Option<f64>]| values.iter().copied().flatten().last().unwrap_or(0.0);
    series.sort_by(|(_, a), (_, b)| {
        measured(b)
            .cmp(&measured(a))
            .then(last(a).total_cmp(&last(b)))
    });
    let unit = unit_for(
        series
            .iter()
            .flat_map(|(_, values)| values.iter().copied().flatten()),
    );
    Table {
        heads: std::iter::once(Head::new("contestant", ""))
            .chain(points.iter().map(|p| Head::new(&count_of(*p), unit.name)))
            .collect(),
        rows: (series.iter())
            .map(|(name, values)| {
                let figures = values.iter().map(|us| written(*us, |us| unit.write(us)));
                std::iter::once((*name).to_string())
                    .chain(figures)
                    .collect()
            })
            .collect(),
        words: 1,
    }
}

/// Who takes part, and what each is made of.
pub fn of_contestants(comparison: &Comparison) -> Table {
    let number = |n: Option<u64>, none: &str| n.map_or(none.into(), |n| n.to_string());
    Table {
        heads: [
            "contestant",
            "structure",
            "workers",
            "serves at a time",
            "buffers",
        ]
        .map(|name| Head::new(name, ""))
        .to_vec(),
        rows: (comparison.contestants.iter())
            .map(|who| {
                let whose = if who.foreign {
                    " (not of this project)"
                } else {
                    ""
                };
                vec![
                    who.name.clone(),
                    format!("{}{whose}", who.structure),
                    number(who.workers, NONE),
                    number(who.serves, "all"),
                    who.buffers.clone(),
                ]
            })
            .collect(),
        words: 5,
    }
}

/// Where it ran: names and values.
pub fn of_environment(comparison: &Comparison) -> Vec<(String, String)> {
    let here = &comparison.environment;
    let list = |processors: &[usize]| {
        let numbers: Vec<_> = processors.iter().map(ToString::to_string).collect();
        numbers.join(", ")
    };
    let mut facts = vec![
        ("system", here.system.clone()),
        (
            "processor",
            format!("{} ({} usable)", here.processor, here.processors),
        ),
        ("servers on processors", list(&here.server_processors)),
        ("load generator on", list(&here.load_processors)),
        ("memory", figures::bytes(here.memory as f64)),
        ("descriptors", figures::plain(here.descriptors as f64)),
        (
            "programs",
            format!("version {}, {} build", here.version, here.build),
        ),
        ("began", comparison.began.clone()),
        ("took", figures::time_us(comparison.took_s * 1e6)),
        (
            "rounds",
            format!(
                "{} of {} each",
                comparison.rounds,
                figures::time_us(comparison.duration_s * 1e6)
            ),
        ),
        ("seed of their order", comparison.seed.to_string()),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    let facts = facts
        .into_iter()
        .map(|(name, value)| (name.to_string(), value));
    facts.chain(here.sysctls.iter().cloned()).collect()
}

/// Why who was not measured at which points; the same reason at several points once.
pub fn reasons(comparison: &Comparison, workload: &Workload) -> Vec<String> {
    let mut found: Vec<(&str, String, Vec<u64>)> = Vec::new();
    for point in comparison.points(workload) {
        for (name, why) in comparison.ranking(workload, point).without {
            // The reason differs in its numbers from point to point: the first one tells it.
            let known = found
                .iter_mut()
                .find(|(who, reason, _)| *who == name && same_kind(reason, &why));
            match known {
                Some((_, _, points)) => points.extend(point),
                None => found.push((name, why, point.into_iter().collect())),
            }
        }
    }
    found
        .iter()
        .map(|(name, why, points)| told(name, why, points))
        .collect()
}

fn told(name: &str, why: &str, points: &[u64]) -> String {
    let mut text = name.to_string();
    if !points.is_empty() {
        let points: Vec<_> = points.iter().map(|p| count_of(Some(*p))).collect();
        let _ = write!(text, " at {}", points.join("; "));
    }
    format!("{text} {why}")
}

fn same_kind(a: &str, b: &str) -> bool {
    let words = |text: &str| {
        text.split(|c: char| c.is_ascii_digit())
            .map(String::from)
            .collect::<String>()
    };
    words(a) == words(b)
}

/// How a row stands to the least, with its interval.
pub fn to_the_least(row: &Row<'_>) -> String {
    let Some(ratio) = row.ratio else {
        return "least".into();
    };
    let number = |value| figures::ratio(value).trim_end_matches('x').to_string();
    let even = if ratio.may_be_one() { " even" } else { "" };
    match ratio.interval {
        Some((low, high)) => format!(
            "{} ({} to {}){even}",
            number(ratio.ratio),
            number(low),
            number(high)
        ),
        None => number(ratio.ratio),
    }
}

fn confidence(rows: &[Row<'_>]) -> String {
    let known = rows
        .iter()
        .filter_map(|row| row.ratio)
        .find(|ratio| ratio.interval.is_some());
    known.map_or(String::new(), |ratio| {
        format!("{} interval", figures::percent(ratio.confidence))
    })
}

fn memory(row: &Row<'_>) -> String {
    written(
        row.summary.pss_per_connection.map(|e| e.median),
        figures::plain,
    )
}

/// From the smallest to the largest of the rounds.
fn spread(estimate: Option<&Estimate>, write: impl Fn(f64) -> String) -> String {
    match estimate.and_then(Estimate::finite) {
        Some(estimate) => format!("{} to {}", write(estimate.low), write(estimate.high)),
        None => NONE.into(),
    }
}

fn written(figure: Option<f64>, write: impl Fn(f64) -> String) -> String {
    figure.map_or(NONE.into(), write)
}

/// A point, with its thousands apart.
pub fn count_of(point: Option<u64>) -> String {
    match point {
        Some(point) if point < 1000 => point.to_string(),
        Some(point) => figures::plain(point as f64),
        None => String::new(),
    }
}

/// The unit that suits the smallest of these times.
fn unit_for(times: impl Iterator<Item = f64>) -> TimeUnit {
    let smallest = times.filter(|us| *us > 0.0).min_by(f64::total_cmp);
    TimeUnit::fitting(smallest.unwrap_or(1.0))
}

/// The command line as one would type it.
pub fn command_line(comparison: &Comparison) -> String {
    let words: Vec<_> = comparison.command.iter().map(|word| typed(word)).collect();
    words.join(" ")
}

/// A word in quotes, if the shell would take it apart.
fn typed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
