//! All that the workers have told, added up: the report.

use std::collections::BTreeMap;

use crate::figures;
use crate::load::clock::seconds;
use crate::load::failure::Ledger;
use crate::load::latency::Recorder;
use crate::load::meter::{Parts, Slice, Times};
use crate::load::plan::{Kind, Plan};
use crate::load::processor::Usage;
use crate::load::report::{
    Company, Engine, FORMAT, Generator, Mode, Outcome, Report, Shares, Stamps, Warmup,
};
use crate::load::worker::{self, Shared};

/// A thread that is busy for more of the time has none left.
const BUSY: f64 = 0.9;

/// In less time than this, in seconds, a rate is never steady.
const LONG_ENOUGH: f64 = 1.0;

/// What is to be said where every figure is 0.
const NOTHING: &str = "nothing came back in the time measured, which says nothing of the server: \
                       measure longer (--duration)";

/// Adds up.
#[derive(Debug)]
pub struct Summary {
    /// When is what; never, if the load has not begun.
    pub times: Times,
    /// A signal has ended it.
    pub interrupted: bool,
    slice: Slice,
    parts: Parts,
    echoes: Vec<u64>,
    company: BTreeMap<Kind, Company>,
    failures: Ledger,
    unsent: u64,
    /// All workers had a ring.
    by_ring: bool,
    usage: Vec<Usage>,
    ended: u64,
}

impl Summary {
    /// Of nothing yet.
    pub fn new(plan: &Plan) -> Self {
        Self {
            times: Times::default(),
            interrupted: false,
            slice: Slice::of(plan.load.mode, plan.wire),
            parts: Parts::default(),
            echoes: Vec::new(),
            company: BTreeMap::new(),
            failures: Ledger::default(),
            unsent: 0,
            by_ring: true,
            usage: Vec::new(),
            ended: 0,
        }
    }

    /// Adds a slice of time.
    pub fn slice(&mut self, slice: &Slice) {
        self.slice.merge(slice);
    }

    /// Adds what a worker has to say in the end.
    pub fn outcome(&mut self, outcome: worker::Outcome) {
        self.parts.merge(&outcome.parts);
        self.echoes.extend(outcome.echoes);
        for (kind, sent, read) in outcome.company {
            let company = self.company.entry(kind).or_insert_with(|| Company {
                kind: kind.name().into(),
                connections: 0,
                sent: 0,
                read: 0,
            });
            company.connections += 1;
            company.sent += sent;
            company.read += read;
        }
        self.failures.merge(outcome.failures);
        self.unsent += outcome.unsent;
        self.by_ring &= outcome.engine == Engine::IoUring;
        self.usage.push(outcome.usage);
        self.ended = self.ended.max(outcome.ended);
    }

    /// The report.
    pub fn report(self, shared: &Shared, command: Vec<String>) -> Report {
        let times = self.times();
        let measured_s = seconds(times.end - times.begin);
        let generator = self.generator(measured_s);
        let warmup = self.parts.warmup(&self.times, times.end);
        let mut warnings = self.warnings(shared, &generator);
        if !warmup.steady && measured_s >= LONG_ENOUGH {
            warnings.push(unsteady(&warmup));
        }
        if measured_s > 0.0 && self.slice.bytes == 0 && self.failures.is_empty() {
            warnings.push(NOTHING.into());
        }
        let recorded = |recorder: Option<&Recorder>| recorder.and_then(Recorder::latency);
        let recorders = &self.slice.times;
        Report {
            format: FORMAT,
            command,
            target: shared.address.to_string(),
            load: shared.plan.load.clone(),
            outcome: self.how(),
            measured_s,
            echoes: self.slice.echoes,
            bytes: self.slice.bytes,
            connects: self.slice.connects,
            latency: recorders.latency.latency(),
            wire: recorded(recorders.wire.as_ref()),
            stamps: shared.plan.wire.then_some(Stamps {
                apart_us: shared.apart as f64 / 1e3,
                ..self.slice.stamps
            }),
            service: recorded(recorders.service.as_ref()),
            connect: recorded(recorders.connect.as_ref()),
            first_echo: recorded(recorders.first_echo.as_ref()),
            shares: shares(&self.echoes),
            warmup,
            company: self.company.into_values().collect(),
            generator,
            errors: self.failures.report(),
            warnings,
        }
    }

    /// The times as they were, if it has ended early.
    pub fn times(&self) -> Times {
        let times = self.times;
        let end = match self.ended {
            0 => times.end,
            ended => times.end.min(ended).max(times.begin),
        };
        Times { end, ..times }
    }

    fn how(&self) -> Outcome {
        if !self.failures.is_empty() {
            Outcome::Failed
        } else if self.interrupted {
            Outcome::Interrupted
        } else {
            Outcome::Complete
        }
    }

    fn generator(&self, measured_s: f64) -> Generator {
        let sum = |time: fn(&Usage) -> f64| self.usage.iter().map(time).sum();
        let totals = self.usage.iter().map(|usage| usage.total().as_secs_f64());
        let busiest_thread = totals.fold(0.0, f64::max) / measured_s.max(1e-9);
        Generator {
            engine: if self.by_ring && !self.usage.is_empty() {
                Engine::IoUring
            } else {
                Engine::Epoll
            },
            user_s: sum(|usage| usage.user.as_secs_f64()),
            system_s: sum(|usage| usage.system.as_secs_f64()),
            busiest_thread,
            bottleneck: busiest_thread > BUSY,
        }
    }

    fn warnings(&self, shared: &Shared, generator: &Generator) -> Vec<String> {
        let mut warnings = Vec::new();
        if generator.bottleneck {
            warnings.push(format!(
                "the generator's busiest thread had {:.0} % of a processor: a faster server would not \
                 show; give it more --threads, or processors of its own",
                generator.busiest_thread * 100.0
            ));
        }
        if let (Mode::Open { rate }, 1..) = (shared.plan.load.mode, self.unsent) {
            warnings.push(format!(
                "{} messages were due and could not even be sent: {rate} a second are more than the \
                 server takes; their latency is counted as what they had waited in the end",
                self.unsent
            ));
        }
        warnings.extend(unstamped(&self.slice.stamps));
        warnings
    }
}

/// Messages came back, and none of them has both time stamps.
fn unstamped(stamps: &Stamps) -> Option<String> {
    let of = match (stamps.no_departure, stamps.no_arrival) {
        _ if stamps.both > 0 => return None,
        (1.., 0) => "of what leaves",
        (_, 1..) => "of what arrives",
        _ => return None,
    };
    Some(format!(
        "this device gives no time stamps {of}: nothing is known of times on the wire (--wire)"
    ))
}

fn unsteady(warmup: &Warmup) -> String {
    format!(
        "the rate changed from {} a second in the first quarter to {} in the last: a longer \
         --warmup or --duration, or a quieter machine",
        figures::plain(warmup.first_rate),
        figures::plain(warmup.last_rate)
    )
}

fn shares(echoes: &[u64]) -> Shares {
    let sum: f64 = echoes.iter().map(|n| *n as f64).sum();
    let squares: f64 = echoes.iter().map(|n| (*n as f64).powi(2)).sum();
    let equal = sum * sum / (echoes.len() as f64 * squares);
    Shares {
        fewest: echoes.iter().min().copied().unwrap_or(0),
        most: echoes.iter().max().copied().unwrap_or(0),
        fairness: if squares > 0.0 { equal } else { 1.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_gives_no_stamps_is_named_once() {
        let none = Stamps {
            no_departure: 9,
            ..Stamps::default()
        };
        let told = unstamped(&none).expect("none has both");
        assert!(
            told.starts_with("this device gives no time stamps of what leaves"),
            "{told}"
        );
        let half = Stamps {
            no_departure: 0,
            no_arrival: 9,
            ..none
        };
        let told = unstamped(&half).expect("none has both");
        assert!(told.contains("of what arrives"), "{told}");
        assert_eq!(unstamped(&Stamps { both: 1, ..none }), None);
        assert_eq!(unstamped(&Stamps::default()), None);
    }
}
