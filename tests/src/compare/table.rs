//! The figures as tables of text, before they are drawn: each exporter draws the same ones.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::compare::chart::short;
use crate::compare::ranking::{Course, Ranking, Row};
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
    /// A name and a unit.
    pub fn new(name: &str, unit: &str) -> Self {
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

/// How fast, with what each is made of beside its name.
pub fn of_ranking(ranking: &Ranking<'_>) -> Table {
    let mut table = figures_of(ranking);
    table.heads.insert(1, Head::new("structure", ""));
    for (cells, row) in table.rows.iter_mut().zip(&ranking.rows) {
        cells.insert(1, row.structure());
    }
    table.words = 2;
    table
}

/// How fast: CPU time first, then what the clients notice of it.
pub fn figures_of(ranking: &Ranking<'_>) -> Table {
    let rows = &ranking.rows[..];
    let mut table = Table::of_rows(rows);
    let name = format!("CPU/{}", ranking.workload.per());
    table.estimates(&name, rows, |row| Some(row.summary.cpu_us));
    table.column(
        "to the least",
        &confidence(rows),
        rows.iter().map(to_the_least),
    );
    let rate = |row: &Row<'_>| figures::plain(row.summary.rate.median);
    let name = if ranking.workload.is_bulk() {
        "MB/s"
    } else {
        "echoes/s"
    };
    table.column(name, "", rows.iter().map(rate));
    table.times("p50", rows, |row| Some(row.summary.p50_us?.median));
    table.times("p99", rows, |row| Some(row.summary.p99_us?.median));
    table
}

/// Why, and at what price.
pub fn of_causes(ranking: &Ranking<'_>) -> Table {
    let rows = &ranking.rows[..];
    let per = ranking.workload.per();
    let unit = format!("per {per}");
    let mut table = Table::of_rows(rows);
    let mut add = |name: &str, unit: &str, figure: &dyn Fn(&Row<'_>) -> Option<String>| {
        let figures = rows.iter().map(|row| figure(row).unwrap_or(NONE.into()));
        table.column(name, unit, figures);
    };
    let plain = figures::plain;
    add("calls", &unit, &|row| {
        Some(plain(row.cell.calls.as_ref()?.per_echo))
    });
    add("switches", &unit, &|row| {
        Some(plain(row.summary.switches?.median))
    });
    add("copies", "per byte", &|row| {
        Some(plain(row.cell.calls.as_ref()?.copies?))
    });
    add("memory", "B/connection", &|row| {
        Some(plain(row.summary.pss_per_connection?.median))
    });
    add("processors", "busy", &|row| Some(plain(processors(row)?)));
    add("fairness", "1 = even", &|row| {
        Some(plain(row.summary.fairness.median))
    });
    let name = format!("generator/{per}");
    table.times(&name, rows, |row| Some(row.summary.generator_cpu_us.median));
    table
}

/// How many processors the server kept busy, over all rounds.
fn processors(row: &Row<'_>) -> Option<f64> {
    let rounds = &row.cell.rounds;
    let cpu: f64 = rounds.iter().map(|round| round.cpu.total_s()).sum();
    let time: f64 = rounds.iter().map(|round| round.measured_s).sum();
    (time > 0.0).then(|| cpu / time)
}

/// A number of things, with its thousands apart.
pub fn whole(n: u64) -> String {
    if n < 1000 {
        n.to_string()
    } else {
        figures::plain(n as f64)
    }
}

/// The calls each makes, most frequent first; no rows where they were not counted.
pub fn of_calls(ranking: &Ranking<'_>) -> Table {
    let unit = format!("per {}", ranking.workload.per());
    let counted = ranking
        .rows
        .iter()
        .filter_map(|row| Some((row, row.cell.calls.as_ref()?)));
    let name = |(name, n): &(String, f64)| format!("{name} {}", figures::plain(*n));
    Table {
        heads: vec![
            Head::new("contestant", ""),
            Head::new("system calls", &unit),
            Head::new("of", "echoes"),
        ],
        rows: counted
            .map(|(row, calls)| {
                let names: Vec<_> = calls.by_name.iter().map(name).collect();
                vec![
                    row.contestant.name.clone(),
                    names.join(", "),
                    whole(calls.echoes),
                ]
            })
            .collect(),
        words: 2,
    }
}

/// CPU per echo of everybody at each point of a workload, as text and in microseconds; who needs most
/// at the last is last.
pub fn of_points(comparison: &Comparison, workload: &Workload) -> (Table, Vec<Course>) {
    let points = comparison.points(workload);
    let mut courses: Vec<_> = (comparison.contestants.iter())
        .map(|who| (&who.name, comparison.course(workload, &who.name)))
        .filter(|(_, course)| course.iter().any(Option::is_some))
        .collect();
    courses.sort_by(|(_, a), (_, b)| by_last(a, b));
    let unit = unit_for(
        courses
            .iter()
            .flat_map(|(_, course)| course.iter().copied().flatten()),
    );
    let heads = points.iter().map(|p| Head::new(&count_of(*p), unit.name));
    let row = |(name, course): &(&String, Course)| {
        let figures = course.iter().map(|us| written(*us, |us| unit.write(us)));
        std::iter::once((*name).clone()).chain(figures).collect()
    };
    let table = Table {
        heads: std::iter::once(Head::new("contestant", ""))
            .chain(heads)
            .collect(),
        rows: courses.iter().map(row).collect(),
        words: 1,
    };
    (
        table,
        courses.into_iter().map(|(_, course)| course).collect(),
    )
}

/// Who got farther comes first; of those who got equally far, who needed less there.
fn by_last(a: &Course, b: &Course) -> Ordering {
    let end = |course: &Course| course.iter().rposition(Option::is_some);
    let last = |course: &Course| course.iter().copied().flatten().last().unwrap_or(0.0);
    end(b).cmp(&end(a)).then(last(a).total_cmp(&last(b)))
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
    let mut facts = vec![
        ("system", here.system.clone()),
        (
            "processor",
            format!("{} ({} usable)", here.processor, here.processors),
        ),
        (
            "servers on processors",
            processors_of(&here.server_processors),
        ),
        ("load generator on", processors_of(&here.load_processors)),
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
            format!("{} of {} each", comparison.rounds, duration(comparison)),
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
    let all = comparison.points(workload).len();
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
        .map(|(name, why, points)| told(name, why, points, points.len() == all))
        .collect()
}

fn told(name: &str, why: &str, points: &[u64], everywhere: bool) -> String {
    let mut text = name.to_string();
    if !points.is_empty() && !everywhere {
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

/// How a row stands to the least, with its interval. Where that contains 1 it is all there is to say:
/// the middle of the ratios may be below 1 though the median is above, and means nothing.
pub fn to_the_least(row: &Row<'_>) -> String {
    let Some(ratio) = row.ratio else {
        return "least".into();
    };
    let number = |value| figures::ratio(value).trim_end_matches('x').to_string();
    match ratio.interval {
        Some((low, high)) if ratio.may_be_one() => {
            format!("even ({}-{})", number(low), number(high))
        }
        Some((low, high)) => format!("{} ({}-{})", number(ratio.ratio), number(low), number(high)),
        None if ratio.is_about_one() => "about 1".into(),
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

/// From the smallest to the largest of the rounds.
fn spread(estimate: Option<&Estimate>, write: impl Fn(f64) -> String) -> String {
    match estimate.and_then(Estimate::finite) {
        Some(estimate) => format!("{}-{}", write(estimate.low), write(estimate.high)),
        None => NONE.into(),
    }
}

fn written(figure: Option<f64>, write: impl Fn(f64) -> String) -> String {
    figure.map_or(NONE.into(), write)
}

/// A point, with its thousands apart; nothing if there is none.
pub fn count_of(point: Option<u64>) -> String {
    point.map_or(String::new(), whole)
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

/// How long a round was measured.
pub fn duration(comparison: &Comparison) -> String {
    short(&figures::time_us(comparison.duration_s * 1e6))
}

/// Their numbers.
pub fn processors_of(numbers: &[usize]) -> String {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}
