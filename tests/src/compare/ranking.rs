//! Who needed least under a workload, in order, and who could not: what the terminal, Markdown and
//! HTML all show.

use crate::compare::result::{
    Cell, Comparison, Contestant, Estimate, Measure, Outcome, Ratio, Summary, Workload,
};
use crate::figures::whole;

/// What a few rounds show below this is no difference.
const ABOUT_ONE: f64 = 1.05;

/// A figure for each point of a workload, in microseconds; none where it was not measured.
pub type Course = Vec<Option<f64>>;

/// Those who had the same load.
#[derive(Debug)]
pub struct Ranking<'a> {
    /// The load.
    pub workload: &'a Workload,
    /// Which point of it.
    pub point: Option<u64>,
    /// Who was measured; least CPU time per echo first.
    pub rows: Vec<Row<'a>>,
    /// Who was not, and why.
    pub without: Vec<(&'a str, String)>,
}

/// One who was measured.
#[derive(Debug)]
pub struct Row<'a> {
    /// Who.
    pub contestant: &'a Contestant,
    /// All there is.
    pub cell: &'a Cell,
    /// What the rounds have in common.
    pub summary: &'a Summary,
    /// CPU time to the least; absent for the least itself.
    pub ratio: Option<&'a Ratio>,
}

impl Comparison {
    /// A ranking for each workload and point, in the order of the workloads and ascending points.
    pub fn rankings(&self) -> Vec<Ranking<'_>> {
        let ranked = |workload| {
            let points = self.points(workload).into_iter();
            points.map(move |point| self.ranking(workload, point))
        };
        self.workloads.iter().flat_map(ranked).collect()
    }

    /// The points of a workload, ascending; `None` alone if it has only one.
    pub fn points(&self, workload: &Workload) -> Vec<Option<u64>> {
        let cells = self.cells.iter().filter(|c| c.workload == workload.name);
        let mut points: Vec<_> = cells.map(|cell| cell.point).collect();
        points.sort_unstable();
        points.dedup();
        points
    }

    /// Does the load change from point to point, so that it matters how the figures go?
    pub fn is_swept(&self, workload: &Workload) -> bool {
        self.points(workload).len() > 1
    }

    /// The ranking at one point.
    pub fn ranking<'a>(&'a self, workload: &'a Workload, point: Option<u64>) -> Ranking<'a> {
        let here = |cell: &&Cell| cell.workload == workload.name && cell.point == point;
        let cells: Vec<_> = self.cells.iter().filter(here).collect();
        let mut rows: Vec<_> = cells.iter().filter_map(|cell| self.row(cell)).collect();
        rows.sort_by(|a, b| a.summary.cpu_us.median.total_cmp(&b.summary.cpu_us.median));
        let measured = |cell: &&Cell| rows.iter().any(|row| std::ptr::eq(row.cell, *cell));
        let without = cells.iter().filter(|cell| !measured(cell));
        Ranking {
            workload,
            point,
            without: without
                .map(|c| (c.contestant.as_str(), c.outcome.words()))
                .collect(),
            rows,
        }
    }

    /// CPU time per echo of one contestant, point by point.
    pub fn course(&self, workload: &Workload, contestant: &str) -> Course {
        let at = |point| {
            let mut rows = self.ranking(workload, point).rows.into_iter();
            let row = rows.find(|row| row.contestant.name == contestant)?;
            Some(row.summary.cpu_us.finite()?.median)
        };
        self.points(workload).into_iter().map(at).collect()
    }

    fn row<'a>(&'a self, cell: &'a Cell) -> Option<Row<'a>> {
        let measured = cell.outcome == Outcome::Measured;
        Some(Row {
            contestant: self
                .contestants
                .iter()
                .find(|c| c.name == cell.contestant)?,
            summary: cell.summary.as_ref().filter(|_| measured)?,
            ratio: self.ratios.iter().find(|ratio| ratio.is_of(cell)),
            cell,
        })
    }
}

impl Ranking<'_> {
    /// What the server's CPU time is divided by, and beside what: `echo`, or `echo, with 1,000 idle
    /// connections`.
    pub fn per(&self) -> String {
        let per = self.workload.per();
        match (self.point, &self.workload.points) {
            (Some(point), Some(what)) => format!("{per}, with {} {what}", whole(point)),
            _ => per.into(),
        }
    }
}

impl Ratio {
    fn is_of(&self, cell: &Cell) -> bool {
        self.measure == Measure::Cpu
            && self.contestant == cell.contestant
            && self.workload == cell.workload
            && self.point == cell.point
    }

    /// Is it 1 or less, or hardly more? All that too few rounds can tell.
    pub fn is_about_one(&self) -> bool {
        self.ratio < ABOUT_ONE
    }

    /// May the true ratio be 1, as far as the rounds can tell?
    pub fn may_be_one(&self) -> bool {
        self.interval
            .is_some_and(|(low, high)| low <= 1.0 && high >= 1.0)
    }
}

impl Workload {
    /// Does it move streams instead of messages? Then CPU time is per 64 KiB, and the rate in MB/s.
    pub fn is_bulk(&self) -> bool {
        self.command.split_whitespace().any(|word| word == "--bulk")
    }

    /// What CPU time and calls are divided by.
    pub fn per(&self) -> &'static str {
        if self.is_bulk() { "64 KiB" } else { "echo" }
    }
}

impl Outcome {
    /// In words, for the place where figures would be.
    pub fn words(&self) -> String {
        match self {
            Self::Measured => "not enough was measured".into(),
            Self::Cannot { why } => format!("cannot: {why}"),
            Self::Failed { why } => format!("failed: {why}"),
            Self::Hindered { why } => format!("not measured: {why}"),
            Self::NotReached => "not reached: the comparison was interrupted before".into(),
        }
    }
}

impl Estimate {
    /// The median and the ends, if all are numbers.
    pub fn finite(&self) -> Option<&Self> {
        let ends = [self.median, self.low, self.high];
        ends.iter().all(|value| value.is_finite()).then_some(self)
    }
}

impl Row<'_> {
    /// What it is made of, as it says and as it was seen.
    pub fn structure(&self) -> String {
        format!("{} ({})", self.contestant.structure, self.tasks())
    }

    /// How many processes and threads it ran as, in words; threads only where there are more of them.
    pub fn tasks(&self) -> String {
        let footprint = self.summary.footprint;
        let some = |n, one: &str, many: &str| match n {
            1 => format!("1 {one}"),
            n => format!("{n} {many}"),
        };
        let threads = some(footprint.threads, "thread", "threads");
        match footprint.processes {
            0 | 1 => threads,
            n if n == footprint.threads => some(n, "process", "processes"),
            n => format!("{}, {threads}", some(n, "process", "processes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    #[test]
    fn the_least_comes_first_and_nobody_is_left_out() {
        let comparison = fixture::comparison();
        let rankings = comparison.rankings();
        assert_eq!(rankings.len(), 11);
        for ranking in rankings {
            let cpu: Vec<_> = ranking
                .rows
                .iter()
                .map(|r| r.summary.cpu_us.median)
                .collect();
            assert!(cpu.windows(2).all(|pair| pair[0] <= pair[1]), "{cpu:?}");
            let count = ranking.rows.len() + ranking.without.len();
            assert_eq!(count, comparison.contestants.len());
            let least = ranking.rows.iter().filter(|row| row.ratio.is_none());
            assert_eq!(least.count(), 1);
            assert!(ranking.rows[0].ratio.is_none());
        }
    }

    #[test]
    fn who_failed_has_no_rank_even_with_figures() {
        let mut comparison = fixture::comparison();
        comparison.cells[0].outcome = Outcome::Failed { why: "x".into() };
        let name = comparison.cells[0].contestant.clone();
        let ranking = comparison.ranking(&comparison.workloads[0], None);
        assert!(ranking.rows.iter().all(|row| row.contestant.name != name));
        assert!(
            ranking
                .without
                .contains(&(name.as_str(), "failed: x".into()))
        );
    }

    #[test]
    fn tasks_are_told_in_words() {
        let comparison = fixture::comparison();
        let ranking = comparison.ranking(&comparison.workloads[0], None);
        let of = |name: &str| {
            let row = ranking.rows.iter().find(|row| row.contestant.name == name);
            row.expect("it is there").tasks()
        };
        assert_eq!(of("reactor"), "1 thread");
        assert_eq!(of("thread"), "51 threads");
        assert_eq!(of("fork"), "51 processes");
    }
}
