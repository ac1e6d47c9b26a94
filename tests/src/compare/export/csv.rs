//! CSV (RFC 4180): one line per round, for spreadsheets and statistics. What was not measured is empty.

use crate::compare::result::{Cell, Comparison, Round};

/// What is in a line, by column: who, under what, which round, then its figures.
type Column = (&'static str, fn(&Round) -> Option<f64>);

const COLUMNS: &[Column] = &[
    ("measured_s", |round| Some(round.measured_s)),
    ("echoes", |round| Some(round.echoes as f64)),
    ("bytes", |round| Some(round.bytes as f64)),
    ("cpu_user_s", |round| Some(round.cpu.user_s)),
    ("cpu_system_s", |round| Some(round.cpu.system_s)),
    ("cpu_per_echo_us", |round| {
        per_echo(round, round.cpu.total_s() * 1e6)
    }),
    ("generator_cpu_user_s", |round| {
        Some(round.generator_cpu.user_s)
    }),
    ("generator_cpu_system_s", |round| {
        Some(round.generator_cpu.system_s)
    }),
    ("generator_bottleneck", |round| {
        Some(f64::from(u8::from(round.generator_bottleneck)))
    }),
    ("latency_min_us", |round| {
        Some(round.latency.as_ref()?.min_us)
    }),
    ("latency_mean_us", |round| {
        Some(round.latency.as_ref()?.mean_us)
    }),
    ("latency_p50_us", |round| percentile(round, 50.0)),
    ("latency_p90_us", |round| percentile(round, 90.0)),
    ("latency_p99_us", |round| percentile(round, 99.0)),
    ("latency_p99.9_us", |round| percentile(round, 99.9)),
    ("latency_p99.99_us", |round| percentile(round, 99.99)),
    ("latency_max_us", |round| {
        Some(round.latency.as_ref()?.max_us)
    }),
    ("fairness_jain", |round| Some(round.fairness)),
    ("voluntary_switches", |round| {
        Some(round.voluntary_switches? as f64)
    }),
    ("involuntary_switches", |round| {
        Some(round.involuntary_switches? as f64)
    }),
    ("processes", |round| Some(round.footprint.processes as f64)),
    ("threads", |round| Some(round.footprint.threads as f64)),
    ("descriptors", |round| {
        Some(round.footprint.descriptors as f64)
    }),
    ("pss_bytes", |round| Some(round.footprint.pss as f64)),
    ("pss_at_rest_bytes", |round| Some(round.at_rest.pss as f64)),
    ("foreign_load_part", |round| Some(round.foreign_load)),
];

/// A header and one line per round; a cell without rounds has one line that says why.
pub fn csv(comparison: &Comparison) -> String {
    let names = ["workload", "point", "contestant", "outcome", "round"];
    let names = names
        .into_iter()
        .chain(COLUMNS.iter().map(|(name, _)| *name));
    let mut text = line(names.map(String::from));
    for cell in &comparison.cells {
        let rounds: Vec<_> = cell.rounds.iter().map(Some).collect();
        let rounds = if rounds.is_empty() {
            vec![None]
        } else {
            rounds
        };
        for round in rounds {
            text += &line(key(cell, round).into_iter().chain(figures(round)));
        }
    }
    text
}

fn key(cell: &Cell, round: Option<&Round>) -> [String; 5] {
    [
        cell.workload.clone(),
        cell.point.map_or(String::new(), |point| point.to_string()),
        cell.contestant.clone(),
        match round {
            Some(_) if cell.outcome == crate::compare::result::Outcome::Measured => {
                "measured".into()
            }
            _ => cell.outcome.words(),
        },
        round.map_or(String::new(), |round| round.round.to_string()),
    ]
}

fn figures(round: Option<&Round>) -> impl Iterator<Item = String> + '_ {
    COLUMNS
        .iter()
        .map(move |(_, figure)| match round.and_then(figure) {
            Some(figure) if figure.is_finite() => figure.to_string(),
            _ => String::new(),
        })
}

fn per_echo(round: &Round, figure: f64) -> Option<f64> {
    (round.echoes > 0).then(|| figure / round.echoes as f64)
}

fn percentile(round: &Round, percent: f64) -> Option<f64> {
    round.latency.as_ref()?.percentile(percent)
}

/// Fields with commas between them. Lines end as RFC 4180 wants them.
fn line(fields: impl Iterator<Item = String>) -> String {
    let fields: Vec<_> = fields.map(|field| quoted(&field)).collect();
    fields.join(",") + "\r\n"
}

/// In quotes where it must be.
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;
    use proptest::prelude::*;

    /// The fields of one line, read as RFC 4180 says.
    fn read(line: &str) -> Vec<String> {
        let mut fields = vec![String::new()];
        let mut quoted = false;
        let mut chars = line.chars().peekable();
        while let Some(char) = chars.next() {
            let field = fields.last_mut().expect("at least one");
            match char {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    field.push(chars.next().expect("seen"));
                }
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                '\r' | '\n' if !quoted => panic!("the line ends too soon"),
                char => field.push(char),
            }
        }
        fields
    }

    #[test]
    fn each_round_has_a_line_and_each_line_all_columns() {
        let comparison = fixture::comparison();
        let text = csv(&comparison);
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        let rounds: usize = comparison
            .cells
            .iter()
            .map(|cell| cell.rounds.len().max(1))
            .sum();
        assert_eq!(lines.len(), 1 + rounds);
        assert!(
            lines
                .iter()
                .all(|line| read(line).len() == COLUMNS.len() + 5)
        );
    }

    #[test]
    fn who_could_not_is_there_with_the_reason_and_without_figures() {
        let text = csv(&fixture::comparison());
        let cannot = text
            .lines()
            .find(|line| line.contains("cannot"))
            .expect("one");
        let fields = read(cannot);
        assert!(
            fields[3].starts_with("cannot: serves 8 at a time, this takes"),
            "{fields:?}"
        );
        assert!(fields[4..].iter().all(String::is_empty));
    }

    #[test]
    fn figures_are_those_of_the_round() {
        let comparison = fixture::comparison();
        let text = csv(&comparison);
        let names = read(text.lines().next().expect("a header"));
        let first = read(text.lines().nth(1).expect("a round"));
        let of = |name: &str| &first[names.iter().position(|n| n == name).expect("there")];
        let round = &comparison.cells[0].rounds[0];
        assert_eq!(of("echoes"), &round.echoes.to_string());
        assert_eq!(of("cpu_system_s"), &round.cpu.system_s.to_string());
        let p99 = round
            .latency
            .as_ref()
            .and_then(|latency| latency.percentile(99.0));
        assert_eq!(
            of("latency_p99_us"),
            &p99.expect("20,000 samples").to_string()
        );
    }

    proptest! {
        #[test]
        fn any_field_comes_back(fields in prop::collection::vec(fixture::any_text(), 1..5)) {
            let written = line(fields.iter().cloned());
            let written = written.strip_suffix("\r\n").expect("the end of a line");
            prop_assert_eq!(read(written), fields);
        }
    }
}
