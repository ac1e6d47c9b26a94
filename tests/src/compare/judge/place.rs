//! Those who had the same to do.

use crate::compare::result::{Cell, Comparison, Outcome, Summary, Workload};
use crate::figures::whole;

/// One workload at one point, and who was measured there.
#[derive(Debug)]
pub struct Place<'a> {
    /// The load.
    pub workload: &'a Workload,
    /// Which of its points.
    pub point: Option<u64>,
    /// Who was measured; least CPU time per echo first.
    pub measured: Vec<Measured<'a>>,
}

/// One who was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Its name.
    pub name: &'a str,
    /// All there is.
    pub cell: &'a Cell,
    /// What the rounds have in common.
    pub summary: &'a Summary,
}

/// All places, in the order of the workloads, points ascending.
pub fn places(comparison: &Comparison) -> Vec<Place<'_>> {
    let of = |workload| places_of(comparison, workload);
    comparison.workloads.iter().flat_map(of).collect()
}

/// Those of one workload, points ascending.
pub fn places_of<'a>(comparison: &'a Comparison, workload: &'a Workload) -> Vec<Place<'a>> {
    let cells = || {
        comparison
            .cells
            .iter()
            .filter(|cell| cell.workload == workload.name)
    };
    let place = |point| Place {
        workload,
        point,
        measured: sorted(
            cells()
                .filter(|cell| cell.point == point)
                .filter_map(measured)
                .collect(),
        ),
    };
    comparison.points(workload).into_iter().map(place).collect()
}

fn measured(cell: &Cell) -> Option<Measured<'_>> {
    let summary = cell
        .summary
        .as_ref()
        .filter(|_| cell.outcome == Outcome::Measured)?;
    Some(Measured {
        name: &cell.contestant,
        cell,
        summary,
    })
}

fn sorted(mut measured: Vec<Measured<'_>>) -> Vec<Measured<'_>> {
    measured.sort_by(|a, b| a.summary.cpu_us.median.total_cmp(&b.summary.cpu_us.median));
    measured
}

impl Place<'_> {
    /// Its name, as in `echo-small` or `idle, 8,000 idle connections`.
    pub fn name(&self) -> String {
        let points = self.workload.points.as_deref().unwrap_or("points");
        match self.point {
            Some(point) => format!("{}, {} {points}", self.workload.name, whole(point)),
            None => self.workload.name.clone(),
        }
    }
}
