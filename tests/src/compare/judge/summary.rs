//! What the rounds of a cell have in common.

use crate::compare::result::{Footprint, Round, Summary};
use crate::compare::stats::estimate;
use crate::load::report::Latency;

/// Bytes to which CPU time is related where there are no messages.
const BULK_UNIT: f64 = 65_536.0;

/// From so many connections on, memory is divided among them: a few pages more or less, which a server
/// needs anyway, are then little for each.
const ENOUGH_CONNECTIONS: u64 = 100;

/// What a load was like, as far as its figures depend on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// It moves streams: CPU time is per 64 KiB, the rate in MB per second.
    pub bulk: bool,
    /// Connections that the server has at a time while it is measured, idle ones as well.
    pub connections: u64,
}

/// Medians of the rounds, all latencies together, the largest footprint. None without rounds, and if
/// nothing came back in any of them.
pub fn summarize(rounds: &[Round], shape: Shape) -> Option<Summary> {
    let all = |figure: &dyn Fn(&Round) -> Option<f64>| {
        estimate(&rounds.iter().filter_map(figure).collect::<Vec<_>>())
    };
    let bulk = shape.bulk;
    Some(Summary {
        cpu_us: all(&|round| cpu_us(round, bulk))?,
        generator_cpu_us: all(&|round| per_unit(round, bulk, round.generator_cpu.total_s() * 1e6))?,
        rate: all(&|round| rate(round, bulk))?,
        latency: latency(rounds),
        p50_us: all(&|round| percentile(round, 50.0)),
        p99_us: all(&|round| percentile(round, 99.0)),
        switches: all(&|round| per_unit(round, bulk, switches(round)?)),
        pss_per_connection: all(&|round| pss_per_connection(round, shape.connections)),
        fairness: all(&|round| Some(round.fairness))?,
        footprint: rounds.iter().map(|round| round.footprint).reduce(larger)?,
    })
}

/// The server's CPU time in microseconds, per echo or per 64 KiB. None if nothing came back.
pub fn cpu_us(round: &Round, bulk: bool) -> Option<f64> {
    per_unit(round, bulk, round.cpu.total_s() * 1e6)
}

/// Echoes, or MB, per second.
pub fn rate(round: &Round, bulk: bool) -> Option<f64> {
    let units = if bulk {
        round.bytes as f64 / 1e6
    } else {
        round.echoes as f64
    };
    Some(units / round.measured_s).filter(|rate| rate.is_finite())
}

/// A percentile of latency in microseconds, if the round has enough samples for it.
pub fn percentile(round: &Round, percent: f64) -> Option<f64> {
    round.latency.as_ref()?.percentile(percent)
}

/// So much of something, per echo or per 64 KiB. None if nothing came back.
pub fn per_unit(round: &Round, bulk: bool, amount: f64) -> Option<f64> {
    let units = if bulk {
        round.bytes as f64 / BULK_UNIT
    } else {
        round.echoes as f64
    };
    Some(amount / units).filter(|each| each.is_finite())
}

fn switches(round: &Round) -> Option<f64> {
    Some((round.voluntary_switches? + round.involuntary_switches?) as f64)
}

fn pss_per_connection(round: &Round, connections: u64) -> Option<f64> {
    if connections < ENOUGH_CONNECTIONS || round.footprint.pss == 0 || round.at_rest.pss == 0 {
        return None;
    }
    let more = round.footprint.pss.saturating_sub(round.at_rest.pss);
    Some(more as f64 / connections as f64)
}

/// Those of all rounds together. None if a histogram cannot be read: a part would pass for the whole.
fn latency(rounds: &[Round]) -> Option<Latency> {
    let mut latencies = rounds.iter().filter_map(|round| round.latency.as_ref());
    let mut all = latencies.next()?.recorder().ok()?;
    for latency in latencies {
        all.merge(&latency.recorder().ok()?);
    }
    all.latency()
}

fn larger(a: Footprint, b: Footprint) -> Footprint {
    Footprint {
        processes: a.processes.max(b.processes),
        threads: a.threads.max(b.threads),
        descriptors: a.descriptors.max(b.descriptors),
        pss: a.pss.max(b.pss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::judge::example::{about, latency_of, round};
    use proptest::prelude::*;
    use std::slice::from_ref;

    const SMALL: Shape = Shape {
        bulk: false,
        connections: 50,
    };

    #[test]
    fn without_rounds_or_echoes_there_is_no_summary() {
        assert_eq!(summarize(&[], SMALL), None);
        let silent = Round {
            echoes: 0,
            bytes: 0,
            ..round(0, 7.0)
        };
        assert_eq!(summarize(from_ref(&silent), SMALL), None);
        let summary = summarize(&[silent, round(1, 7.0)], SMALL).expect("an echo");
        assert_eq!((summary.cpu_us.n, summary.rate.n), (1, 2));
    }

    #[test]
    fn what_did_not_come_back_has_no_cost() {
        let silent = Round {
            echoes: 0,
            ..round(0, 7.0)
        };
        assert_eq!(cpu_us(&silent, false), None);
        assert!(cpu_us(&silent, true).is_some());
    }

    #[test]
    fn figures_are_medians_per_echo() {
        let rounds = [round(0, 9.0), round(1, 7.0), round(2, 7.5)];
        let summary = summarize(&rounds, SMALL).expect("rounds");
        assert!(about(summary.cpu_us.median, 7.5) && about(summary.cpu_us.high, 9.0));
        assert!(about(summary.generator_cpu_us.median, 4.0));
        assert!(about(summary.rate.median, 100_000.0));
        assert!(
            summary
                .switches
                .is_some_and(|switches| about(switches.median, 0.03))
        );
        assert_eq!(summary.pss_per_connection, None);
    }

    #[test]
    fn bulk_is_per_64_kib_and_in_megabytes() {
        let bulk = Round {
            bytes: 65_536_000,
            ..round(0, 7.0)
        };
        let summary = summarize(
            &[bulk],
            Shape {
                bulk: true,
                connections: 4,
            },
        )
        .expect("a round");
        assert!(about(summary.cpu_us.median, 700.0), "{:?}", summary.cpu_us);
        assert!(about(summary.rate.median, 65.536));
    }

    #[test]
    fn memory_is_divided_among_many_connections_only() {
        let mut big = round(0, 7.0);
        (big.at_rest.pss, big.footprint.pss) = (1_000_000, 6_000_000);
        let of = |connections, round: &Round| {
            let shape = Shape {
                bulk: false,
                connections,
            };
            summarize(from_ref(round), shape)
                .expect("a round")
                .pss_per_connection
        };
        assert!(of(5000, &big).is_some_and(|each| about(each.median, 1000.0)));
        assert_eq!(of(99, &big), None);
        big.at_rest.pss = 0;
        assert_eq!(of(5000, &big), None, "not measured");
    }

    #[test]
    fn latencies_of_all_rounds_are_counted_together() {
        let mut rounds = [round(0, 7.0), round(1, 7.0), round(2, 7.0)];
        rounds[0].latency = latency_of(20_000, 1000);
        rounds[1].latency = latency_of(40_000, 500);
        rounds[2].latency = None;
        let summary = summarize(&rounds, SMALL).expect("rounds");
        assert_eq!(summary.latency.map(|latency| latency.count), Some(1500));
        assert!(
            summary
                .p50_us
                .is_some_and(|p50| p50.n == 2 && p50.low < 20.1)
        );
        assert_eq!(summary.p99_us.map(|p99| p99.n), Some(1), "500 are too few");
        rounds[1].latency.as_mut().expect("set").histogram = "damaged".into();
        assert_eq!(summarize(&rounds, SMALL).expect("rounds").latency, None);
    }

    #[test]
    fn the_footprint_is_the_largest() {
        let mut rounds = [round(0, 7.0), round(1, 7.0)];
        (rounds[0].footprint.threads, rounds[1].footprint.processes) = (9, 5);
        let footprint = summarize(&rounds, SMALL).expect("rounds").footprint;
        assert_eq!((footprint.threads, footprint.processes), (9, 5));
    }

    proptest! {
        #[test]
        fn whatever_is_measured_the_figures_are_finite(
            measured_s in prop_oneof![Just(0.0), 0.0..10.0], echoes in 0..3_u64, bytes in 0..3_u64,
            cpu in prop_oneof![Just(0.0), 0.0..1e9], fairness in any::<f64>(), bulk: bool, connections in 0..300_u64,
        ) {
            let mut odd = Round { measured_s, echoes, bytes, fairness, ..round(0, 7.0) };
            odd.cpu.user_s = cpu;
            if let Some(summary) = summarize(&[odd], Shape { bulk, connections }) {
                let switches = summary.switches.expect("they are counted");
                for e in [summary.cpu_us, summary.rate, switches, summary.fairness] {
                    prop_assert!(e.median.is_finite() && e.low.is_finite() && e.high.is_finite());
                }
            }
        }
    }
}
