//! A comparison that never was, to try the reports on. Nothing in it was measured; it says so wherever
//! a reader might look, and it is compiled for tests only.

use std::sync::LazyLock;

use crate::compare::result::{
    Calls, Cell, Comparison, Contestant, Cpu, Environment, Estimate, FORMAT, Footprint, Measure,
    Outcome, Ratio, Round, Summary, Workload,
};
use crate::load::latency::Recorder;
pub(crate) use crate::page::markup::any_text;

const SEED: u64 = 1;
const ROUNDS: u32 = 5;
const DURATION_S: f64 = 1.0;
/// Latencies in a round.
const SAMPLES: u64 = 3000;

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2) + 1)
    }

    /// From 0 to below 1.
    pub(crate) fn part(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `value`, up to `part` more or less.
    fn about(&mut self, value: f64, part: f64) -> f64 {
        value * (1.0 + part * (2.0 * self.part() - 1.0))
    }
}

/// What a contestant is like, invented.
struct Traits {
    name: &'static str,
    structure: &'static str,
    workers: Option<u64>,
    serves: Option<u64>,
    /// CPU per echo, in us.
    cpu: f64,
    /// Of it, per idle connection.
    per_idle: f64,
    /// CPU per connection, in us.
    per_connect: f64,
    /// Bytes per connection.
    memory: f64,
    switches: f64,
    calls: f64,
    /// Processes or threads for each connection.
    tasks: (u64, u64),
}

const TRAITS: &[Traits] = &[
    Traits {
        name: "reactor",
        structure: "one thread, epoll",
        workers: Some(1),
        serves: None,
        cpu: 7.4,
        per_idle: 0.0,
        per_connect: 31.0,
        memory: 64.0,
        switches: 0.02,
        calls: 2.03,
        tasks: (0, 0),
    },
    Traits {
        name: "uring",
        structure: "one thread, io_uring",
        workers: None,
        serves: None,
        cpu: 6.7,
        per_idle: 0.0,
        per_connect: 33.0,
        memory: 104.0,
        switches: 0.02,
        calls: 0.05,
        tasks: (0, 0),
    },
    Traits {
        name: "async",
        structure: "one thread, a task per client",
        workers: None,
        serves: None,
        cpu: 7.6,
        per_idle: 0.0,
        per_connect: 34.0,
        memory: 400.0,
        switches: 0.02,
        calls: 2.04,
        tasks: (0, 0),
    },
    Traits {
        name: "poll",
        structure: "one thread, poll",
        workers: None,
        serves: None,
        cpu: 8.3,
        per_idle: 0.011,
        per_connect: 33.0,
        memory: 64.0,
        switches: 0.03,
        calls: 2.10,
        tasks: (0, 0),
    },
    Traits {
        name: "select",
        structure: "one thread, select",
        workers: None,
        serves: Some(1018),
        cpu: 8.4,
        per_idle: 0.016,
        per_connect: 33.0,
        memory: 64.0,
        switches: 0.03,
        calls: 2.10,
        tasks: (0, 0),
    },
    Traits {
        name: "thread",
        structure: "a thread per client",
        workers: None,
        serves: None,
        cpu: 14.2,
        per_idle: 0.0,
        per_connect: 58.0,
        memory: 12_600.0,
        switches: 1.02,
        calls: 2.0,
        tasks: (0, 1),
    },
    Traits {
        name: "fork",
        structure: "a process per client",
        workers: None,
        serves: None,
        cpu: 16.8,
        per_idle: 0.0,
        per_connect: 210.0,
        memory: 141_000.0,
        switches: 1.04,
        calls: 2.0,
        tasks: (1, 0),
    },
    Traits {
        name: "prefork",
        structure: "8 processes, each in accept",
        workers: Some(8),
        serves: Some(8),
        cpu: 14.9,
        per_idle: 0.0,
        per_connect: 41.0,
        memory: 141_000.0,
        switches: 1.03,
        calls: 2.0,
        tasks: (0, 0),
    },
    Traits {
        name: "iterative",
        structure: "one client at a time",
        workers: None,
        serves: Some(1),
        cpu: 9.0,
        per_idle: 0.0,
        per_connect: 29.0,
        memory: 0.0,
        switches: 1.0,
        calls: 2.0,
        tasks: (0, 0),
    },
    Traits {
        name: "<student's> & co.",
        structure: "unknown",
        workers: None,
        serves: None,
        cpu: 71.0,
        per_idle: 0.0,
        per_connect: 190.0,
        memory: 8_400.0,
        switches: 0.9,
        calls: 4.2,
        tasks: (0, 0),
    },
];

/// Name, title, connections, what it shows, what its points are, the points.
type Load = (
    &'static str,
    &'static str,
    u64,
    &'static str,
    Option<&'static str>,
    &'static [u64],
);

const LOADS: &[Load] = &[
    (
        "echoes",
        "50 connections, 64 bytes",
        50,
        "What one small echo costs when many clients talk at once.",
        None,
        &[],
    ),
    (
        "latency",
        "one connection, 64 bytes",
        1,
        "How long one echo takes when nothing else is going on.",
        None,
        &[],
    ),
    (
        "connects",
        "a connection for each echo, 50 at a time",
        50,
        "What a connection costs: here fork and exec pay.",
        None,
        &[],
    ),
    (
        "bulk",
        "4 connections, as much as they take",
        4,
        "What moving bytes costs, per 64 KiB.",
        None,
        &[],
    ),
    (
        "idle",
        "50 connections beside 0 to 8,000 idle ones",
        50,
        "What silent connections cost those that talk: select and poll look at all of them, every time.",
        Some("idle connections"),
        &[0, 500, 1000, 2000, 4000, 8000],
    ),
    (
        "firehose",
        "one connection as fast as it can, 20 small ones",
        21,
        "Whether one greedy client starves the others.",
        None,
        &[],
    ),
];

/// All kinds of cells.
pub(crate) fn comparison() -> Comparison {
    static MADE_UP: LazyLock<Comparison> = LazyLock::new(make_up);
    MADE_UP.clone()
}

fn make_up() -> Comparison {
    let mut dice = Dice::new(SEED);
    let mut cells = Vec::new();
    for load in LOADS {
        let points = if load.5.is_empty() {
            vec![None]
        } else {
            load.5.iter().copied().map(Some).collect()
        };
        for point in points {
            cells.extend(TRAITS.iter().map(|who| cell(who, load, point, &mut dice)));
        }
    }
    let mut comparison = Comparison {
        format: FORMAT,
        command: ["tcpecho-lab", "compare", "--full", "--server", "python3 it's.py {port}"].map(String::from).to_vec(),
        began: "2000-01-01T00:00:00Z".into(),
        took_s: 271.0,
        environment: environment(),
        seed: SEED,
        rounds: ROUNDS,
        duration_s: DURATION_S,
        interrupted: false,
        contestants: TRAITS.iter().map(contestant).collect(),
        workloads: LOADS.iter().map(workload).collect(),
        ratios: Vec::new(),
        cells,
        conclusions: [
            "Made up: with 50 connections, uring needs least CPU per echo, 6.70 us; reactor needs 1.10 times as much (95 %: 1.08 to 1.12).",
            "Made up: thread needs 2.1 times as much as uring, because each echo wakes a thread: 1.02 switches per echo against 0.02.",
            "Made up: with 8,000 idle connections poll needs 13 times as much as reactor, which does not look at them.",
        ].map(String::from).to_vec(),
        warnings: vec!["Made up: others used 12 % of the processors in round 3. Close other programs and compare again, or take more rounds: --rounds 10.".into()],
    };
    comparison.ratios = ratios(&comparison);
    comparison
}

fn environment() -> Environment {
    Environment {
        system: "Linux 0.0.0 (made up)".into(),
        processor: "A processor that does not exist".into(),
        processors: 2,
        server_processors: vec![0],
        load_processors: vec![1],
        memory: 25_275_000_000,
        descriptors: 20_000,
        build: "release".into(),
        version: "0.0.0".into(),
        sysctls: vec![
            ("net.ipv4.tcp_congestion_control".into(), "cubic".into()),
            ("net.core.somaxconn".into(), "4096".into()),
        ],
    }
}

fn contestant(who: &Traits) -> Contestant {
    let foreign = who.structure == "unknown";
    Contestant {
        name: who.name.into(),
        command: format!("tcpechod --model '{}' --port PORT", who.name),
        foreign,
        structure: who.structure.into(),
        workers: who.workers,
        buffers: if foreign {
            "unknown"
        } else {
            "256 KiB, shared"
        }
        .into(),
        serves: who.serves,
    }
}

fn workload(load: &Load) -> Workload {
    let bulk = if load.0 == "bulk" { " --bulk" } else { "" };
    Workload {
        name: load.0.into(),
        title: load.1.into(),
        shows: load.3.into(),
        points: load.4.map(String::from),
        command: format!(
            "tcpecho-load 127.0.0.1 PORT -c {} -s 64 -d 1s{bulk} --json-stream",
            load.2
        ),
    }
}

fn cell(who: &Traits, load: &Load, point: Option<u64>, dice: &mut Dice) -> Cell {
    let wanted = load.2 + point.unwrap_or(0);
    let outcome = match who.serves {
        Some(serves) if serves < wanted && load.0 != "connects" => Outcome::Cannot {
            why: format!("serves {serves} at a time, this takes {wanted}"),
        },
        _ if who.structure == "unknown" && load.0 == "firehose" => Outcome::Failed {
            why: "connection 7: byte 1234 is 'x' and should be 'y'".into(),
        },
        _ => Outcome::Measured,
    };
    let rounds: Vec<_> = (0..ROUNDS)
        .filter(|_| outcome == Outcome::Measured)
        .map(|number| round(who, load, point.unwrap_or(0), number, dice))
        .collect();
    let calls = (load.0 != "idle" && outcome == Outcome::Measured).then(|| Calls {
        per_echo: who.calls,
        by_name: vec![
            ("recvfrom".into(), who.calls * 0.5),
            ("sendto".into(), who.calls * 0.48),
        ],
        copies: (who.name != "uring").then_some(if who.structure == "unknown" { 4.0 } else { 2.0 }),
        echoes: 10_000,
    });
    Cell {
        contestant: who.name.into(),
        workload: load.0.into(),
        point,
        outcome,
        summary: summary(&rounds, load.2),
        hindered: Vec::new(),
        rounds,
        calls,
    }
}

fn round(who: &Traits, load: &Load, idle: u64, number: u32, dice: &mut Dice) -> Round {
    let base = match load.0 {
        "connects" => who.cpu + who.per_connect,
        "bulk" => 12.0 + who.cpu * 0.2,
        _ => who.cpu + who.per_idle * idle as f64,
    };
    let cpu = dice.about(base, 0.03);
    let generator = dice.about(4.1, 0.03);
    let echoes = DURATION_S * 1e6 / cpu.max(generator) * 0.97;
    let user = if who.structure == "unknown" {
        0.7
    } else {
        0.08 + who.cpu / 200.0
    };
    let size = if load.0 == "bulk" { 65_536.0 } else { 64.0 };
    let connections = load.2 + idle;
    let own = who
        .workers
        .map_or(1, |workers| if workers > 1 { workers + 1 } else { 1 });
    let tasks = |each: u64, own: u64| own + each * connections;
    let (processes, threads) = (
        tasks(who.tasks.0, own),
        tasks(who.tasks.0 + who.tasks.1, own),
    );
    Round {
        round: number,
        measured_s: DURATION_S,
        echoes: echoes as u64,
        bytes: (echoes * size) as u64,
        cpu: Cpu {
            user_s: cpu * user * echoes / 1e6,
            system_s: cpu * (1.0 - user) * echoes / 1e6,
        },
        generator_cpu: Cpu {
            user_s: generator * 0.2 * echoes / 1e6,
            system_s: generator * 0.8 * echoes / 1e6,
        },
        generator_bottleneck: false,
        latency: latencies(cpu * load.2 as f64, load.0, dice).latency(),
        fairness: if load.0 == "firehose" {
            dice.about(if who.switches > 0.5 { 0.31 } else { 0.93 }, 0.05)
        } else {
            dice.about(0.99, 0.01)
        },
        voluntary_switches: Some((echoes * who.switches) as u64),
        involuntary_switches: Some((echoes * 0.001) as u64),
        footprint: Footprint {
            processes,
            threads,
            descriptors: connections + 5,
            pss: 1_900_000 + (who.memory * connections as f64) as u64,
        },
        at_rest: Footprint {
            processes: 1,
            threads: 1,
            descriptors: 5,
            pss: 1_900_000,
        },
        foreign_load: dice.about(0.03, 0.9),
    }
}

/// Most around `typical` us, some much later.
fn latencies(typical: f64, load: &str, dice: &mut Dice) -> Recorder {
    let mut recorder = Recorder::new();
    for _ in 0..if load == "bulk" { 0 } else { SAMPLES } {
        let tail = 1.0 / (1.0 - dice.part());
        let us = typical * dice.about(1.0, 0.15) * tail.powf(0.22) + 9.0;
        recorder.record((us * 1e3) as u64);
    }
    recorder
}

fn estimate(values: impl Iterator<Item = f64>) -> Estimate {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    Estimate {
        median: values[values.len() / 2],
        low: values[0],
        high: values[values.len() - 1],
        n: values.len() as u32,
    }
}

fn summary(rounds: &[Round], connections: u64) -> Option<Summary> {
    let last = rounds.last()?;
    let of = |figure: &dyn Fn(&Round) -> f64| estimate(rounds.iter().map(figure));
    let percentile = |percent| {
        let of_round = |round: &Round| round.latency.as_ref()?.percentile(percent);
        let values: Vec<_> = rounds.iter().filter_map(of_round).collect();
        (!values.is_empty()).then(|| estimate(values.into_iter()))
    };
    let mut all = Recorder::new();
    for latency in rounds.iter().filter_map(|round| round.latency.as_ref()) {
        all.merge(&latency.recorder().expect("just made"));
    }
    let grown = |round: &Round| (round.footprint.pss - round.at_rest.pss) as f64;
    Some(Summary {
        cpu_us: of(&|round| round.cpu.total_s() * 1e6 / round.echoes as f64),
        generator_cpu_us: of(&|round| round.generator_cpu.total_s() * 1e6 / round.echoes as f64),
        rate: of(&|round| round.echoes as f64 / round.measured_s),
        latency: all.latency(),
        p50_us: percentile(50.0),
        p99_us: percentile(99.0),
        switches: Some(of(&|round| {
            let both = round.voluntary_switches.zip(round.involuntary_switches);
            both.map_or(0, |(one, other)| one + other) as f64 / round.echoes as f64
        })),
        pss_per_connection: (connections >= 50)
            .then(|| of(&|round| grown(round) / connections as f64)),
        fairness: of(&|round| round.fairness),
        footprint: last.footprint,
    })
}

/// Each to the least, with intervals as wide as they may well be.
fn ratios(comparison: &Comparison) -> Vec<Ratio> {
    let cpu = |cell: &Cell| cell.summary.as_ref().map(|summary| summary.cpu_us.median);
    let mut ratios = Vec::new();
    for cell in comparison
        .cells
        .iter()
        .filter(|cell| cell.summary.is_some())
    {
        let rivals = comparison.cells.iter().filter(|other| {
            other.workload == cell.workload && other.point == cell.point && other.summary.is_some()
        });
        let Some(best) = rivals.min_by(|a, b| cpu(a).partial_cmp(&cpu(b)).expect("numbers")) else {
            continue;
        };
        if best.contestant == cell.contestant {
            continue;
        }
        let ratio = cpu(cell).unwrap_or(1.0) / cpu(best).unwrap_or(1.0);
        ratios.push(Ratio {
            workload: cell.workload.clone(),
            point: cell.point,
            measure: Measure::Cpu,
            contestant: cell.contestant.clone(),
            reference: best.contestant.clone(),
            ratio,
            interval: Some((ratio * 0.98, ratio * 1.02)),
            confidence: 0.95,
            pairs: ROUNDS,
        });
    }
    ratios
}

/// `cargo test -p tcpecho-lab --lib for_the_eye -- --ignored` writes what a designer is to look at.
#[test]
#[ignore = "writes to target/fixture, for somebody to look at"]
fn for_the_eye() {
    use crate::compare::export::{csv::csv, html::html, json::json, markdown::markdown};
    use crate::compare::terminal::{Glyphs, terminal};
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/fixture");
    std::fs::create_dir_all(place).expect("a directory");
    let made_up = comparison();
    let write = |name: &str, text: String| {
        std::fs::write(format!("{place}/{name}"), text).expect("room");
    };
    for width in [80, 140] {
        let text = terminal(&made_up, width, Glyphs::Blocks);
        write(&format!("report-{width}.txt"), text);
    }
    write("report.html", html(&made_up));
    write("report.md", markdown(&made_up));
    write("report.csv", csv(&made_up));
    write("report.json", json(&made_up).expect("numbers"));
}
