//! Who could not do what, by its nature, and who should have and did not.

use super::list;
use crate::compare::result::{Cell, Comparison, Outcome, Workload};
use crate::figures;

/// For each contestant the workloads that it cannot do, and why; of several reasons one.
pub(super) fn cannot(comparison: &Comparison) -> Vec<String> {
    let of = |name: &String| {
        let reasons: Vec<_> = comparison
            .workloads
            .iter()
            .filter_map(|w| reason(comparison, name, w))
            .collect();
        let (first, why) = reasons.first()?;
        let names = list(reasons.iter().map(|(workload, _)| workload.clone()));
        let same = reasons.iter().all(|(_, other)| other == why);
        let why = plain(why);
        let why = if same {
            format!(": {why}")
        } else {
            format!(" ({first}: {why})")
        };
        Some(format!("{name} cannot do {names}{why}."))
    };
    comparison
        .contestants
        .iter()
        .filter_map(|who| of(&who.name))
        .collect()
}

/// The first point of a workload that a contestant cannot do, and why.
fn reason<'a>(
    comparison: &'a Comparison,
    name: &str,
    workload: &Workload,
) -> Option<(String, &'a str)> {
    let here = |cell: &&Cell| cell.contestant == name && cell.workload == workload.name;
    let cells = || comparison.cells.iter().filter(here);
    let why = |cell: &'a Cell| match &cell.outcome {
        Outcome::Cannot { why } => Some((cell.point, why.as_str())),
        _ => None,
    };
    let (point, why) = cells().filter_map(why).min_by_key(|(point, _)| *point)?;
    let less = cells().any(|cell| cell.point < point && cell.outcome == Outcome::Measured);
    let points = workload.points.as_deref().unwrap_or("points");
    let name = match point.filter(|_| less) {
        Some(point) => format!(
            "{} from {} {points} on",
            workload.name,
            figures::whole(point)
        ),
        None => workload.name.clone(),
    };
    Some((name, why))
}

/// Every failure, once for each contestant and reason, with the workloads.
pub(super) fn failed(comparison: &Comparison) -> Vec<String> {
    let mut found: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for cell in &comparison.cells {
        let Outcome::Failed { why } = &cell.outcome else {
            continue;
        };
        let known = found
            .iter_mut()
            .find(|(who, reason, _)| *who == cell.contestant && *reason == plain(why));
        match known {
            Some((_, _, names)) if names.contains(&cell.workload) => {}
            Some((_, _, names)) => names.push(cell.workload.clone()),
            None => found.push((&cell.contestant, plain(why), vec![cell.workload.clone()])),
        }
    }
    let told = |(who, why, names)| format!("{who} failed under {}: {why}.", list(names));
    found.into_iter().map(told).collect()
}

/// Without the full stop that it may have.
fn plain(why: &str) -> &str {
    why.trim_end_matches(['.', '\n', ' '])
}
