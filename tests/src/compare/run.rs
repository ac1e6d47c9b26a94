//! Everybody does everything, in interleaved rounds; who fails is left out from then on, and the rest
//! goes on.

use anyhow::Result;

use crate::compare::contestant::Candidate;
use crate::compare::hindered::Hindered;
use crate::compare::judge::{Shape, summarize};
use crate::compare::result::{Calls, Cell, Outcome, Round};
use crate::compare::schedule::{self, Turn};
use crate::compare::workload::Task;

/// System calls are counted up to so many connections: under strace more would take too long.
const COUNTED_UP_TO: u64 = 500;

/// After so many measurements of a cell that others have hindered, none is made again: what is missing
/// stays away, and if that is all, so does the cell.
const TRIED: usize = 3;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By whom; the reason, of one that cannot run here at all.
    pub candidates: Vec<(Candidate, Option<String>)>,
    /// What, and at which points.
    pub tasks: Vec<(Task, Vec<Option<u64>>)>,
    /// How often.
    pub rounds: u32,
    /// The order is made from it.
    pub seed: u64,
    /// As many as a process may have.
    pub descriptors: u64,
    /// Count system calls, in runs of their own.
    pub count_calls: bool,
}

/// One measurement to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<'a> {
    /// By whom.
    pub candidate: &'a Candidate,
    /// What.
    pub task: &'a Task,
    /// Where, of a workload with several points.
    pub point: Option<u64>,
    /// Which round, from 0.
    pub round: u32,
}

/// Who makes the measurements. Tests have one that only notes them.
pub trait Executor {
    /// Starts, loads, accounts, stops. Error: in one line what the contestant did wrong.
    fn measure(&mut self, job: &Job<'_>) -> Result<Round>;

    /// The same with its system calls counted and nothing else.
    fn count_calls(&mut self, job: &Job<'_>) -> Result<Calls>;

    /// Have we been told to stop? Then what went wrong is nobody's fault.
    fn is_interrupted(&self) -> bool;
}

/// Told before each measurement: which, and how many have been made of how many.
pub type Watch<'a> = dyn FnMut(&Job<'_>, usize, usize) + 'a;

/// Makes all measurements, and counts system calls after them. The cells stand in the order of the
/// workloads, their points and the contestants.
pub fn run(plan: &Plan, executor: &mut impl Executor, watch: &mut Watch<'_>) -> Vec<Cell> {
    let mut run = Run::of(plan);
    let points: Vec<usize> = plan.tasks.iter().map(|(_, points)| points.len()).collect();
    let turns = schedule::turns(plan.candidates.len(), &points, plan.rounds, plan.seed);
    let places = run.cells.len() * usize::from(plan.count_calls);
    let total = turns.len() + places;
    for (done, turn) in turns.iter().enumerate() {
        let (job, at) = run.job(turn);
        if executor.is_interrupted() {
            break;
        }
        if run.cells[at].outcome == Outcome::NotReached {
            watch(&job, done, total);
            while run.is_again(at, &job, executor) {}
        }
    }
    run.summarize();
    if plan.count_calls {
        run.count(executor, &mut |job, at| watch(job, turns.len() + at, total));
    }
    run.cells
}

struct Run<'a> {
    plan: &'a Plan,
    cells: Vec<Cell>,
}

impl<'a> Run<'a> {
    fn of(plan: &'a Plan) -> Self {
        let mut run = Self {
            plan,
            cells: Vec::new(),
        };
        for (task, points) in &plan.tasks {
            for point in points {
                let cells = plan.candidates.iter().map(|(candidate, absent)| Cell {
                    contestant: candidate.name.clone(),
                    workload: task.name.to_owned(),
                    point: *point,
                    outcome: absent
                        .clone()
                        .or_else(|| task.cannot(*point, candidate, plan.descriptors))
                        .map_or(Outcome::NotReached, |why| Outcome::Cannot { why }),
                    rounds: Vec::new(),
                    summary: None,
                    hindered: Vec::new(),
                    calls: None,
                });
                run.cells.extend(cells);
            }
        }
        run
    }

    /// What a turn means, and the cell it belongs to.
    fn job(&self, turn: &Turn) -> (Job<'a>, usize) {
        let before = self.plan.tasks[..turn.workload].iter();
        let points: usize = before.map(|(_, points)| points.len()).sum::<usize>() + turn.point;
        let (task, its_points) = &self.plan.tasks[turn.workload];
        let job = Job {
            candidate: &self.plan.candidates[turn.contestant].0,
            task,
            point: its_points[turn.point],
            round: turn.round,
        };
        (job, points * self.plan.candidates.len() + turn.contestant)
    }

    /// Measures. Is that to be done again?
    fn is_again(&mut self, at: usize, job: &Job<'_>, executor: &mut impl Executor) -> bool {
        let cell = &mut self.cells[at];
        let error = match executor.measure(job) {
            Ok(round) => {
                cell.rounds.push(round);
                return false;
            }
            Err(_) if executor.is_interrupted() => return false,
            Err(error) => error,
        };
        let why = in_one_line(&error);
        let Some(hindered) = error.downcast_ref::<Hindered>() else {
            cell.outcome = Outcome::Failed { why };
            return false;
        };
        cell.hindered.push(hindered.foreign_load);
        let again = cell.hindered.len() < TRIED;
        if !again && cell.rounds.is_empty() {
            cell.outcome = Outcome::Hindered { why };
        }
        again
    }

    fn summarize(&mut self) {
        for (cell, (task, point)) in self.cells.iter_mut().zip(places(self.plan)) {
            let shape = Shape {
                bulk: task.is_bulk(),
                // With a connection for each message nobody knows how many there are at a moment.
                connections: if task.connects() {
                    0
                } else {
                    task.all_connections(point)
                },
            };
            if cell.outcome == Outcome::NotReached && !cell.rounds.is_empty() {
                cell.outcome = Outcome::Measured;
                cell.summary = summarize(&cell.rounds, shape);
            }
        }
    }

    /// Where it fails there is no figure; that it serves has been seen.
    fn count(&mut self, executor: &mut impl Executor, watch: &mut dyn FnMut(&Job<'_>, usize)) {
        let candidates = self
            .plan
            .candidates
            .iter()
            .map(|(candidate, _)| candidate)
            .cycle();
        let places = places(self.plan).zip(candidates);
        for (at, (cell, ((task, point), candidate))) in
            self.cells.iter_mut().zip(places).enumerate()
        {
            let few = task.all_connections(point) <= COUNTED_UP_TO;
            if executor.is_interrupted() || cell.outcome != Outcome::Measured || !few {
                continue;
            }
            let job = Job {
                candidate,
                task,
                point,
                round: 0,
            };
            watch(&job, at);
            cell.calls = executor.count_calls(&job).ok();
        }
    }
}

/// The workload and the point of each cell.
fn places(plan: &Plan) -> impl Iterator<Item = (&Task, Option<u64>)> {
    let candidates = plan.candidates.len();
    plan.tasks.iter().flat_map(move |(task, points)| {
        let points = points.iter();
        points.flat_map(move |point| std::iter::repeat_n((task, *point), candidates))
    })
}

/// With its causes, whatever lines it has; what a server has said may hold anything, and is to move no
/// terminal's cursor.
fn in_one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let text = text.replace(|c: char| c.is_control() && c != '\n', " ");
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::contestant::model;
    use crate::compare::result::{Cpu, Footprint};
    use crate::compare::workload;
    use anyhow::bail;

    /// Notes what it is to do, fails where it is told to, and is interrupted after so many.
    #[derive(Default)]
    struct Fake {
        done: Vec<(String, String, u32)>,
        counted: Vec<String>,
        fails: Option<(&'static str, u32)>,
        /// So many of its measurements, after so many, are hindered.
        hindered: Option<(&'static str, usize, usize)>,
        at_most: Option<usize>,
    }

    impl Executor for Fake {
        fn measure(&mut self, job: &Job<'_>) -> Result<Round> {
            let name = job.candidate.name.clone();
            self.done
                .push((name.clone(), job.task.name.to_owned(), job.round));
            if let Some((who, after, count)) = self.hindered {
                let times = self.done.iter().filter(|job| job.0 == who).count();
                if name == who && (after + 1..=after + count).contains(&times) {
                    return Err(Hindered { foreign_load: 0.9 }.into());
                }
            }
            if self.is_interrupted() || self.fails == Some((&name, job.round)) {
                bail!("it fell over\n  the\x1b[2Jreason\r\n");
            }
            Ok(round(job.round))
        }

        fn count_calls(&mut self, job: &Job<'_>) -> Result<Calls> {
            self.counted.push(job.candidate.name.clone());
            Ok(Calls {
                per_echo: 2.0,
                by_name: Vec::new(),
                copies: None,
                echoes: 1,
            })
        }

        fn is_interrupted(&self) -> bool {
            self.at_most.is_some_and(|most| self.done.len() >= most)
        }
    }

    fn round(round: u32) -> Round {
        Round {
            round,
            measured_s: 1.0,
            echoes: 1000,
            bytes: 64_000,
            cpu: Cpu {
                user_s: 0.25,
                system_s: 0.25,
            },
            generator_cpu: Cpu {
                user_s: 0.1,
                system_s: 0.1,
            },
            generator_bottleneck: false,
            latency: None,
            fairness: 1.0,
            voluntary_switches: Some(10),
            involuntary_switches: Some(1),
            footprint: Footprint::default(),
            at_rest: Footprint::default(),
            foreign_load: 0.0,
        }
    }

    fn plan(models: &[&str], tasks: &[&str], rounds: u32) -> Plan {
        let candidate = |name: &&str| (model(name).expect(name), None);
        let task = |name: &&str| {
            let task = *workload::find(name).expect(name);
            (task, task.points())
        };
        Plan {
            candidates: models.iter().map(candidate).collect(),
            tasks: tasks.iter().map(task).collect(),
            rounds,
            seed: 7,
            descriptors: 20_000,
            count_calls: true,
        }
    }

    fn compare(plan: &Plan, fake: &mut Fake) -> Vec<Cell> {
        run(plan, fake, &mut |_, done, total| assert!(done < total))
    }

    #[test]
    fn everybody_has_every_round_beside_the_others() {
        let plan = plan(&["fork", "thread", "poll"], &["echo-small", "latency"], 3);
        let mut fake = Fake::default();
        let cells = compare(&plan, &mut fake);
        assert_eq!((cells.len(), fake.done.len()), (6, 18));
        for beside in fake.done.chunks(3) {
            let same =
                |a: &(String, String, u32), b: &(String, String, u32)| a.1 == b.1 && a.2 == b.2;
            assert!(beside.iter().all(|job| same(job, &beside[0])), "{beside:?}");
        }
        for cell in &cells {
            let rounds: Vec<u32> = cell.rounds.iter().map(|round| round.round).collect();
            assert_eq!((rounds, &cell.outcome), (vec![0, 1, 2], &Outcome::Measured));
            assert!(cell.summary.is_some() && cell.calls.is_some());
        }
        let places: Vec<_> = cells
            .iter()
            .map(|c| (&*c.workload, &*c.contestant))
            .collect();
        assert_eq!(places[0], ("echo-small", "fork"));
        assert_eq!(places[5], ("latency", "poll"));
    }

    #[test]
    fn who_fails_is_left_out_and_the_rest_goes_on() {
        let plan = plan(&["fork", "thread"], &["echo-small"], 3);
        let mut fake = Fake {
            fails: Some(("fork", 1)),
            ..Fake::default()
        };
        let cells = compare(&plan, &mut fake);
        let why = "it fell over | the [2Jreason".to_owned();
        assert_eq!(cells[0].outcome, Outcome::Failed { why });
        assert!(cells[0].summary.is_none() && cells[0].calls.is_none());
        assert_eq!(
            (&cells[1].outcome, cells[1].rounds.len()),
            (&Outcome::Measured, 3)
        );
        let forks = fake.done.iter().filter(|job| job.0 == "fork").count();
        assert_eq!((forks, fake.counted), (2, vec!["thread".to_owned()]));
    }

    /// Measures twice four rounds; so many measurements of fork, after so many, are hindered.
    fn hindered(after: usize, count: usize) -> (Vec<Cell>, usize) {
        let plan = plan(&["fork", "thread"], &["echo-small"], 4);
        let mut fake = Fake {
            hindered: Some(("fork", after, count)),
            ..Fake::default()
        };
        let cells = compare(&plan, &mut fake);
        assert_eq!(
            cells[1].rounds.len(),
            4,
            "the other has nothing to do with it"
        );
        assert!(cells[1].hindered.is_empty());
        let forks = fake.done.iter().filter(|job| job.0 == "fork").count();
        (cells, forks)
    }

    #[test]
    fn who_was_hindered_is_measured_again() {
        let (cells, forks) = hindered(1, 2);
        let rounds: Vec<u32> = cells[0].rounds.iter().map(|round| round.round).collect();
        assert_eq!((rounds, forks), (vec![0, 1, 2, 3], 6));
        assert_eq!(cells[0].outcome, Outcome::Measured);
        assert_eq!(cells[0].hindered, [0.9, 0.9]);
    }

    #[test]
    fn who_is_always_hindered_is_given_up_and_not_blamed() {
        let (cells, forks) = hindered(0, 100);
        assert_eq!(forks, TRIED);
        assert!(cells[0].rounds.is_empty() && cells[0].calls.is_none());
        let why = "other programs had the processors (90 % of them)".to_owned();
        assert_eq!(cells[0].outcome, Outcome::Hindered { why });
    }

    #[test]
    fn who_has_been_measured_keeps_that_when_others_come() {
        let (cells, forks) = hindered(2, 100);
        // Of the third round all tries, of the fourth one.
        assert_eq!((cells[0].rounds.len(), forks), (2, 2 + TRIED + 1));
        assert_eq!(cells[0].outcome, Outcome::Measured);
    }

    #[test]
    fn who_cannot_is_not_started() {
        let mut plan = plan(
            &["iterative", "fork", "uring"],
            &["echo-small", "latency"],
            2,
        );
        plan.candidates[2].1 = Some("forbidden here".into());
        let mut fake = Fake::default();
        let cells = compare(&plan, &mut fake);
        let cannot = |at: usize| matches!(&cells[at].outcome, Outcome::Cannot { .. });
        assert_eq!(
            (0..6).filter(|at| cannot(*at)).collect::<Vec<_>>(),
            [0, 2, 5]
        );
        assert!(fake.done.iter().all(|job| job.0 != "uring"));
        assert_eq!(fake.done.len(), 6);
    }

    #[test]
    fn what_was_measured_before_an_interruption_stays() {
        let plan = plan(&["fork", "thread"], &["echo-small", "latency"], 3);
        let mut fake = Fake {
            at_most: Some(4),
            ..Fake::default()
        };
        let cells = compare(&plan, &mut fake);
        assert_eq!(fake.done.len(), 4);
        let reached: usize = cells.iter().map(|cell| cell.rounds.len()).sum();
        assert_eq!(
            reached, 3,
            "the fourth was interrupted, which is nobody's fault"
        );
        let not = cells
            .iter()
            .filter(|cell| cell.outcome == Outcome::NotReached);
        assert_eq!(not.count(), 1);
        assert!(fake.counted.is_empty());
    }

    #[test]
    fn calls_are_not_counted_with_thousands_of_connections() {
        let plan = plan(&["fork"], &["idle"], 1);
        let mut fake = Fake::default();
        let cells = compare(&plan, &mut fake);
        let counted: Vec<_> = cells.iter().map(|cell| cell.calls.is_some()).collect();
        assert_eq!(counted, [true, false, false, false, false]);
    }
}
