//! Who runs when, and how long all of it takes.
//!
//! A comparison that measures one contestant to the end and then the next compares two hours of the
//! machine as well. Here everybody has one measurement in every round, next to each other: ABC, then
//! BCA, then CAB, so that nobody is always first (a Latin square by rotation). The second time through,
//! the orders are turned round, CBA, ACB, BAC, so that nobody always comes after the same other. Which
//! contestant is A is drawn by lot, anew for every workload and point.

use std::time::Duration;

use crate::chance::Chance;

/// One measurement to be made.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Turn {
    /// Which round, from 0.
    pub round: u32,
    /// Which workload, by its index.
    pub workload: usize,
    /// Which of its points, by its index; 0 if it has only one.
    pub point: usize,
    /// Who, by the index.
    pub contestant: usize,
}

/// All measurements, in the order in which they are to be made: round by round, so that a comparison
/// that is interrupted has measured everybody equally often; in a round workload by workload and point
/// by point, so that contestants to be compared are next to each other. `points` says how many each
/// workload has.
pub fn turns(contestants: usize, points: &[usize], rounds: u32, seed: u64) -> Vec<Turn> {
    let mut chance = Chance::new(seed);
    let places = points.iter().enumerate();
    let places =
        places.flat_map(|(workload, points)| (0..*points).map(move |point| (workload, point)));
    let drawn: Vec<_> = places
        .map(|place| (place, lot(contestants, &mut chance)))
        .collect();
    let mut turns = Vec::new();
    for round in 0..rounds {
        for ((workload, point), lot) in &drawn {
            turns.extend(order(lot, round).into_iter().map(|contestant| Turn {
                round,
                workload: *workload,
                point: *point,
                contestant,
            }));
        }
    }
    turns
}

fn lot(contestants: usize, chance: &mut Chance) -> Vec<usize> {
    let mut lot: Vec<usize> = (0..contestants).collect();
    chance.shuffle(&mut lot);
    lot
}

/// ABC, BCA, CAB, CBA, ACB, BAC, and again.
fn order(lot: &[usize], round: u32) -> Vec<usize> {
    let (pass, shift) = (
        round as usize / lot.len().max(1),
        round as usize % lot.len().max(1),
    );
    let mut order = lot.to_vec();
    order.rotate_left(shift);
    if pass % 2 == 1 {
        order.reverse();
    }
    order
}

/// How often, and how long each time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Measurements of each contestant at each workload and point.
    pub rounds: u32,
    /// How long each of them measures.
    pub duration: Duration,
}

/// What a workload takes beside measuring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Effort {
    /// Contestants times points.
    pub cells: u32,
    /// For each measurement: start, connect, warm up, stop.
    pub each: Duration,
    /// Once for each cell: the run in which system calls are counted.
    pub once: Duration,
}

impl Plan {
    /// How long all of it takes.
    pub fn takes(&self, efforts: &[Effort]) -> Duration {
        let one = |effort: &Effort| (self.duration + effort.each) * self.rounds + effort.once;
        efforts
            .iter()
            .map(|effort| one(effort) * effort.cells)
            .sum()
    }

    /// The longest measurements, `shortest` to this plan's, with which all of it is done within `budget`;
    /// if even the shortest take too long, fewer rounds, but at least `fewest`. Rather shorter than fewer:
    /// it is the number of rounds that makes an interval sure. Whether it fits in the end, [`Plan::takes`]
    /// says.
    #[must_use]
    pub fn within(
        self,
        budget: Duration,
        efforts: &[Effort],
        shortest: Duration,
        fewest: u32,
    ) -> Self {
        let plan = (fewest..=self.rounds)
            .rev()
            .map(|rounds| Self {
                rounds,
                duration: shortest,
            })
            .find(|plan| plan.takes(efforts) <= budget);
        let Some(plan) = plan else {
            let rounds = fewest.min(self.rounds);
            return Self {
                rounds,
                duration: shortest.min(self.duration),
            };
        };
        let measurements = plan.rounds * efforts.iter().map(|effort| effort.cells).sum::<u32>();
        let spare = budget.saturating_sub(plan.takes(efforts)) / measurements.max(1);
        Self {
            duration: (shortest + spare).min(self.duration),
            ..plan
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn three_take_turns_as_in_the_book() {
        let orders: Vec<_> = (0..7).map(|round| order(&[0, 1, 2], round)).collect();
        let written = orders
            .iter()
            .map(|order| order.iter().map(|who| ["A", "B", "C"][*who]).collect());
        let written: Vec<String> = written.collect();
        assert_eq!(written, ["ABC", "BCA", "CAB", "CBA", "ACB", "BAC", "ABC"]);
    }

    #[test]
    fn nobody_has_no_turn() {
        assert!(turns(0, &[1, 3], 5, 1).is_empty());
        assert!(turns(3, &[], 5, 1).is_empty());
        assert!(turns(3, &[0], 5, 1).is_empty());
        assert_eq!(turns(1, &[1], 2, 1).len(), 2);
    }

    #[test]
    fn different_seeds_give_different_orders() {
        let of = |seed| turns(4, &[1, 1, 9], 7, seed);
        let orders: BTreeSet<_> = (0..50).map(of).collect();
        assert_eq!(orders.len(), 50);
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn effort(cells: u32) -> Effort {
        Effort {
            cells,
            each: SECOND / 2,
            once: SECOND,
        }
    }

    #[test]
    fn it_takes_what_its_parts_take() {
        let plan = Plan {
            rounds: 7,
            duration: 2 * SECOND,
        };
        assert_eq!(
            plan.takes(&[effort(4), effort(2)]),
            6 * (7 * (5 * SECOND / 2) + SECOND)
        );
        assert_eq!(plan.takes(&[]), Duration::ZERO);
    }

    #[test]
    fn a_budget_shortens_the_measurements_first_and_then_takes_rounds_away() {
        let (plan, efforts) = (
            Plan {
                rounds: 7,
                duration: 2 * SECOND,
            },
            [effort(4)],
        );
        let within = |seconds: u32| plan.within(seconds * SECOND, &efforts, SECOND / 2, 3);
        assert_eq!(within(1000), plan);
        assert_eq!(within(74), plan, "exactly");
        assert_eq!(
            within(60),
            Plan {
                rounds: 7,
                duration: 3 * SECOND / 2
            }
        );
        assert_eq!(
            within(32),
            Plan {
                rounds: 7,
                duration: SECOND / 2
            }
        );
        assert_eq!(
            within(25),
            Plan {
                rounds: 5,
                duration: Duration::from_millis(550)
            }
        );
        assert_eq!(
            within(1),
            Plan {
                rounds: 3,
                duration: SECOND / 2
            }
        );
    }

    proptest! {
        #[test]
        fn every_contestant_has_one_turn_per_round_and_place(
            contestants in 1..9_usize, points in prop::collection::vec(1..4_usize, 1..4),
            rounds in 0..12_u32, seed in any::<u64>(),
        ) {
            let turns = turns(contestants, &points, rounds, seed);
            let all = contestants * points.iter().sum::<usize>() * rounds as usize;
            prop_assert_eq!(turns.len(), all);
            prop_assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), all);
            prop_assert!(turns.iter().all(|turn| turn.contestant < contestants
                && turn.point < points[turn.workload]));
            for group in turns.chunks(contestants) {
                let place = |turn: &Turn| (turn.round, turn.workload, turn.point);
                prop_assert!(group.iter().all(|turn| place(turn) == place(&group[0])));
            }
            prop_assert!(turns.is_sorted_by_key(|turn| turn.round));
        }

        #[test]
        fn everybody_is_first_second_and_last_equally_often(
            contestants in 1..9_usize, rounds in 1..30_u32, seed in any::<u64>(),
        ) {
            let mut counts = BTreeMap::new();
            for who in 0..contestants {
                (0..contestants).for_each(|position| { counts.insert((who, position), 0); });
            }
            for group in turns(contestants, &[1], rounds, seed).chunks(contestants) {
                for (position, turn) in group.iter().enumerate() {
                    *counts.entry((turn.contestant, position)).or_insert(0) += 1;
                }
            }
            let (fewest, most) = (counts.values().min(), counts.values().max());
            prop_assert!(most.zip(fewest).is_some_and(|(most, fewest)| most - fewest <= 1));
        }

        #[test]
        fn the_same_seed_gives_the_same_order(contestants in 0..6_usize, seed in any::<u64>()) {
            prop_assert_eq!(turns(contestants, &[2, 1], 5, seed), turns(contestants, &[2, 1], 5, seed));
        }

        #[test]
        fn what_fits_stays_within_the_budget(
            cells in prop::collection::vec(1..40_u32, 1..6), rounds in 3..12_u32, budget in 1..2000_u64,
        ) {
            let efforts: Vec<_> = cells.into_iter().map(effort).collect();
            let plan = Plan { rounds, duration: 2 * SECOND };
            let least = Plan { rounds: 3, duration: SECOND / 4 };
            let budget = Duration::from_secs(budget);
            let fitted = plan.within(budget, &efforts, least.duration, least.rounds);
            prop_assert!(fitted.takes(&efforts) <= budget.max(least.takes(&efforts)));
            prop_assert!(fitted.rounds <= plan.rounds && fitted.duration <= plan.duration);
        }
    }
}
