//! Made-up comparisons to try the judge on. Nothing in them was measured.

use crate::compare::judge::{Shape, judge, summarize};
use crate::compare::result::{
    Calls, Cell, Comparison, Contestant, Cpu, Environment, FORMAT, Footprint, Outcome, Round,
    Workload,
};
use crate::load::latency::Recorder;
use crate::load::report::Latency;

/// Rounds per cell.
pub const ROUNDS: u32 = 7;

/// A round of 100,000 echoes in a second, with so many microseconds of CPU time for each.
pub fn round(number: u32, cpu_us: f64) -> Round {
    Round {
        round: number,
        measured_s: 1.0,
        echoes: 100_000,
        bytes: 6_400_000,
        cpu: Cpu {
            user_s: 0.01 * cpu_us,
            system_s: 0.09 * cpu_us,
        },
        generator_cpu: Cpu {
            user_s: 0.1,
            system_s: 0.3,
        },
        generator_bottleneck: false,
        latency: None,
        fairness: 1.0,
        voluntary_switches: Some(2000),
        involuntary_switches: Some(1000),
        footprint: Footprint {
            processes: 1,
            threads: 1,
            descriptors: 60,
            pss: 2_000_000,
        },
        at_rest: Footprint {
            processes: 1,
            threads: 1,
            descriptors: 10,
            pss: 0,
        },
        foreign_load: 0.01,
    }
}

/// So many times of so many nanoseconds.
pub fn latency_of(ns: u64, count: u32) -> Option<Latency> {
    let mut recorder = Recorder::new();
    (0..count).for_each(|_| recorder.record(ns));
    recorder.latency()
}

/// Equal but for rounding.
pub fn about(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs()
}

/// Who takes part.
pub fn contestant(name: &str) -> Contestant {
    Contestant {
        name: name.into(),
        command: format!("tcpechod --model {name} --port 0"),
        foreign: false,
        structure: "made up".into(),
        workers: None,
        buffers: "256 KiB, shared".into(),
        serves: None,
    }
}

/// What they have to do.
pub fn workload(name: &str) -> Workload {
    let bulk = if name == "bulk" { " --bulk" } else { "" };
    Workload {
        name: name.into(),
        title: "made up".into(),
        shows: "nothing".into(),
        points: (name == "idle").then(|| "idle connections".into()),
        command: format!("tcpecho-load 127.0.0.1 PORT -c 50{bulk}"),
    }
}

/// A measured cell: about so many microseconds per echo, a little different in each round.
pub fn cell(who: &str, workload: &str, point: Option<u64>, cpu_us: f64) -> Cell {
    let noise = |number: u32| 1.0 + 0.005 * f64::from((number * 5 + who.len() as u32) % 7);
    Cell {
        contestant: who.into(),
        workload: workload.into(),
        point,
        outcome: Outcome::Measured,
        rounds: (0..ROUNDS)
            .map(|number| round(number, cpu_us * noise(number)))
            .collect(),
        summary: None,
        hindered: Vec::new(),
        calls: None,
    }
}

/// The same, with system calls counted.
pub fn with_calls(cell: Cell, by_name: &[(&str, f64)]) -> Cell {
    let by_name: Vec<_> = by_name
        .iter()
        .map(|(name, each)| ((*name).to_string(), *each))
        .collect();
    let per_echo = by_name.iter().map(|(_, each)| each).sum();
    Cell {
        calls: Some(Calls {
            per_echo,
            by_name,
            copies: Some(2.0),
            echoes: 1000,
        }),
        ..cell
    }
}

/// The same, with something changed in every round.
pub fn with_rounds(mut cell: Cell, change: impl FnMut(&mut Round)) -> Cell {
    cell.rounds.iter_mut().for_each(change);
    cell
}

/// A cell that was not measured.
pub fn without(who: &str, workload: &str, outcome: Outcome) -> Cell {
    Cell {
        outcome,
        rounds: Vec::new(),
        ..cell(who, workload, None, 1.0)
    }
}

/// A comparison of these cells, judged.
pub fn comparison(cells: Vec<Cell>) -> Comparison {
    let mut comparison = Comparison {
        format: FORMAT,
        command: vec!["tcpecho-lab".into(), "compare".into()],
        began: "2000-01-01T00:00:00Z".into(),
        took_s: 60.0,
        environment: environment(),
        seed: 1,
        rounds: ROUNDS,
        duration_s: 1.0,
        interrupted: false,
        contestants: names(&cells, |cell| &cell.contestant)
            .iter()
            .map(|name| contestant(name))
            .collect(),
        workloads: names(&cells, |cell| &cell.workload)
            .iter()
            .map(|name| workload(name))
            .collect(),
        cells,
        ratios: Vec::new(),
        conclusions: Vec::new(),
        warnings: Vec::new(),
    };
    again(&mut comparison);
    comparison
}

/// Judges it again, after a change.
pub fn again(comparison: &mut Comparison) {
    for cell in &mut comparison.cells {
        let shape = Shape {
            bulk: cell.workload == "bulk",
            connections: 50 + cell.point.unwrap_or(0),
        };
        cell.summary = summarize(&cell.rounds, shape);
    }
    judge(comparison);
}

fn names(cells: &[Cell], name: fn(&Cell) -> &String) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for cell in cells {
        if !names.contains(name(cell)) {
            names.push(name(cell).clone());
        }
    }
    names
}

fn environment() -> Environment {
    Environment {
        system: "Linux 0 (made up)".into(),
        processor: "none".into(),
        processors: 2,
        server_processors: vec![0],
        load_processors: vec![1],
        memory: 8_000_000_000,
        descriptors: 20_000,
        build: "release".into(),
        version: "0".into(),
        sysctls: Vec::new(),
    }
}
