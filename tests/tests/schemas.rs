//! Is what the programs export what the schemas in tests/schemas say, and do these refuse the rest?

#[path = "common/schema.rs"]
mod schema;

use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use tcpecho_lab::compare::result::{self, Comparison};
use tcpecho_lab::handout::json::Session;
use tcpecho_lab::labs;
use tcpecho_lab::load::json;
use tcpecho_lab::load::latency::Recorder;
use tcpecho_lab::load::report::{self, Event, Latency, Mode, Report};
use tcpecho_lab::narrate::ladder::{Ladder, Side};
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::narrate::{
    self, Act, Expected, Lab, Names, Question, Renderer, Scene, Stage, Stop, Unseen, View, keys,
    shell,
};
use tcpecho_lab::netns::Isolation;
use tcpecho_lab::observe::calls::{CallRecord, Phase};

use schema::Schema;

fn latency() -> Option<Latency> {
    let mut recorder = Recorder::new();
    (1..=1000).for_each(|us| recorder.record(us * 1000));
    recorder.latency()
}

/// Everything is there.
fn full_report() -> Report {
    Report {
        format: report::FORMAT,
        command: vec!["tcpecho-load".into(), "::1".into()],
        target: "[::1]:9877".into(),
        load: report::Load {
            mode: Mode::Open { rate: 1000.0 },
            connections: 2,
            size: 64,
            duration_s: 1.0,
            warmup_s: 0.1,
            threads: 1,
        },
        outcome: report::Outcome::Failed,
        measured_s: 1.0,
        echoes: 1000,
        bytes: 64_000,
        connects: 2,
        latency: latency(),
        wire: latency(),
        stamps: Some(report::Stamps {
            both: 1000,
            shared: 1,
            no_departure: 2,
            no_arrival: 3,
            no_order: 4,
            apart_us: 1.5,
        }),
        service: latency(),
        connect: latency(),
        first_echo: latency(),
        shares: report::Shares {
            fewest: 499,
            most: 501,
            fairness: 0.999,
        },
        company: ["idle", "never-read", "firehose", "slow"]
            .map(company)
            .into(),
        warmup: report::Warmup {
            warm_rate: Some(1000.0),
            first_rate: 1000.0,
            last_rate: 1000.0,
            steady: true,
        },
        generator: report::Generator {
            engine: report::Engine::Epoll,
            user_s: 0.1,
            system_s: 0.2,
            busiest_thread: 0.3,
            bottleneck: false,
        },
        errors: vec![report::Failures {
            kind: "wrong-bytes".into(),
            count: 1,
            first: "connection 1: byte 7 is 0x00, should have been 0x41".into(),
        }],
        warnings: vec!["Doubtful.".into()],
    }
}

fn company(kind: &str) -> report::Company {
    report::Company {
        kind: kind.into(),
        connections: 1,
        sent: 10,
        read: 10,
    }
}

/// Only what must be there.
fn bare_report() -> Report {
    let warmup = report::Warmup {
        warm_rate: None,
        ..full_report().warmup
    };
    Report {
        outcome: report::Outcome::Interrupted,
        latency: None,
        wire: None,
        stamps: None,
        service: None,
        connect: None,
        first_echo: None,
        company: Vec::new(),
        warmup,
        errors: Vec::new(),
        warnings: Vec::new(),
        ..full_report()
    }
}

fn reports() -> Vec<Report> {
    let in_mode = |mode| Report {
        load: report::Load {
            mode,
            ..full_report().load
        },
        outcome: report::Outcome::Complete,
        ..full_report()
    };
    let modes = [
        Mode::Closed { depth: 8 },
        Mode::ConnectPerRequest,
        Mode::Bulk,
    ];
    let others = modes.into_iter().map(in_mode);
    [full_report(), bare_report()]
        .into_iter()
        .chain(others)
        .collect()
}

fn events() -> Vec<Event> {
    let interval = |latency: Option<Latency>| Event::Interval {
        at_s: 1.0,
        length_s: 1.0,
        echoes: 1000,
        bytes: 64_000,
        wire: latency.clone(),
        latency,
    };
    vec![
        Event::Connected { at_s: 0.1 },
        Event::Measuring { at_s: 0.2 },
        interval(latency()),
        interval(None),
        Event::Measured { at_s: 1.2 },
        Event::End {
            report: Box::new(full_report()),
        },
    ]
}

const ESTIMATE: result::Estimate = result::Estimate {
    median: 2.0,
    low: 1.0,
    high: 3.0,
    n: 3,
};
const CPU: result::Cpu = result::Cpu {
    user_s: 0.1,
    system_s: 0.2,
};
const FOOTPRINT: result::Footprint = result::Footprint {
    processes: 1,
    threads: 2,
    descriptors: 3,
    pss: 4,
};

fn full_comparison() -> Comparison {
    Comparison {
        format: result::FORMAT,
        command: vec!["tcpecho-lab".into(), "compare".into()],
        began: "2026-11-21T16:00:00Z".into(),
        took_s: 80.0,
        environment: environment(),
        seed: u64::MAX,
        rounds: 3,
        duration_s: 2.0,
        interrupted: false,
        contestants: vec![contestant(Some(4), Some(1000)), contestant(None, None)],
        workloads: vec![workload(Some("idle connections".into())), workload(None)],
        cells: cells(),
        ratios: [
            result::Measure::Cpu,
            result::Measure::Rate,
            result::Measure::P99,
        ]
        .map(ratio)
        .into(),
        conclusions: vec!["The reactor needs least.".into()],
        warnings: vec!["Doubtful.".into()],
    }
}

fn environment() -> result::Environment {
    result::Environment {
        system: "Linux 6.18".into(),
        processor: "a processor".into(),
        processors: 2,
        server_processors: vec![0],
        load_processors: vec![1],
        memory: 1 << 33,
        descriptors: 20_000,
        build: "release".into(),
        version: "0.1.0".into(),
        sysctls: vec![("net.core.somaxconn".into(), "4096".into())],
    }
}

fn contestant(workers: Option<u64>, serves: Option<u64>) -> result::Contestant {
    result::Contestant {
        name: "reactor".into(),
        command: "tcpechod --model reactor".into(),
        foreign: false,
        structure: "one thread, epoll".into(),
        workers,
        buffers: "256 KiB, shared".into(),
        serves,
    }
}

fn workload(points: Option<String>) -> result::Workload {
    result::Workload {
        name: "echo-50".into(),
        title: "50 connections, 64 bytes".into(),
        shows: "what an echo costs".into(),
        points,
        command: "tcpecho-load 127.0.0.1 PORT -c 50".into(),
    }
}

fn cells() -> Vec<result::Cell> {
    let cell = |outcome| result::Cell {
        contestant: "reactor".into(),
        workload: "echo-50".into(),
        point: None,
        outcome,
        rounds: Vec::new(),
        summary: None,
        hindered: vec![0.97],
        calls: None,
    };
    let why = || "because".to_string();
    let measured = result::Cell {
        point: Some(8000),
        rounds: vec![round(latency()), round(None)],
        summary: Some(summary()),
        calls: Some(result::Calls {
            per_echo: 2.01,
            by_name: vec![("read".into(), 1.0), ("write".into(), 1.0)],
            copies: Some(2.0),
            echoes: 1000,
        }),
        ..cell(result::Outcome::Measured)
    };
    let bare = result::Summary {
        latency: None,
        p50_us: None,
        p99_us: None,
        pss_per_connection: None,
        ..summary()
    };
    let bare = result::Cell {
        summary: Some(bare),
        ..cell(result::Outcome::Measured)
    };
    vec![
        measured,
        bare,
        cell(result::Outcome::Cannot { why: why() }),
        cell(result::Outcome::Failed { why: why() }),
        cell(result::Outcome::Hindered { why: why() }),
        cell(result::Outcome::NotReached),
    ]
}

fn round(latency: Option<Latency>) -> result::Round {
    result::Round {
        round: 0,
        measured_s: 2.0,
        echoes: 1000,
        bytes: 64_000,
        cpu: CPU,
        generator_cpu: CPU,
        generator_bottleneck: false,
        latency,
        fairness: 1.0,
        voluntary_switches: Some(5),
        involuntary_switches: Some(6),
        footprint: FOOTPRINT,
        at_rest: FOOTPRINT,
        foreign_load: 0.01,
    }
}

fn summary() -> result::Summary {
    result::Summary {
        cpu_us: ESTIMATE,
        generator_cpu_us: ESTIMATE,
        rate: ESTIMATE,
        latency: latency(),
        p50_us: Some(ESTIMATE),
        p99_us: Some(ESTIMATE),
        switches: Some(ESTIMATE),
        pss_per_connection: Some(ESTIMATE),
        fairness: ESTIMATE,
        footprint: FOOTPRINT,
    }
}

fn ratio(measure: result::Measure) -> result::Ratio {
    let cpu = measure == result::Measure::Cpu;
    result::Ratio {
        workload: "echo-50".into(),
        point: cpu.then_some(8000),
        measure,
        contestant: "fork".into(),
        reference: "reactor".into(),
        ratio: 1.5,
        interval: cpu.then_some((1.4, 1.6)),
        confidence: 0.95,
        pairs: 3,
    }
}

/// A stage on which nothing stands.
struct Empty;

impl Stage for Empty {
    fn names(&self) -> Names {
        Names::new()
    }
}

/// An act in which everything happens that can be told.
fn eventful() -> Act<Empty> {
    const SECOND: Duration = Duration::from_secs(1);
    let now = |_: &Empty| Ok(Duration::ZERO);
    Act::open("everything", |_| Ok(Empty))
        .explain("Words.")
        .predict("Which?", &[("1", "one"), ("2", "two")])
        .predict("And who does not answer?", &[("1", "one")])
        .act("Do it.", shell("do it"), |_| Ok(()))
        .act("Type it.", keys("it"), |_| Ok(()))
        .wait("Wait.", Duration::from_millis(1))
        .answer("it", "1", |_| Ok("1"))
        .or_known("2", "two is one too many")
        .answer("it", "1", |_| Ok("2"))
        .or_known("2", "two is one too many")
        .expect("_ later", Expected::Below(SECOND), now)
        .expect("_ later", Expected::AtLeast(SECOND), now)
        .expect("packets", "1", |_| -> Result<usize> {
            Err(Unseen("there is no network".into()).into())
        })
        .observe("Look.", "echo it", |_| Ok(String::new()))
        .observe("Look.", "no-such-tool", |_| Ok("it".into()))
        .show("Its story:", |_| Ok(View::Ladder(ladder())))
        .try_it("1$ do it")
        .read("Read: it(1).")
        .act("Break it.", shell("break it"), |_| {
            anyhow::bail!("it broke")
        })
}

fn ladder() -> Ladder {
    let call = |at, phase| CallRecord {
        at,
        pid: 1,
        tid: 1,
        phase,
        call: "read".into(),
        fd: 3,
        result: 0,
        errno: None,
    };
    let calls = [
        call(3, Phase::Enter),
        call(5, Phase::Return),
        call(6, Phase::Enter),
    ];
    Ladder::new(1)
        .prologue("what was before")
        .descriptor(Side::Client, 3, "the connection")
        .remark("It is made up.")
        .note(2, Side::Server, "a word")
        .calls(Side::Server, &calls)
        .state(7, Side::Client, "CLOSE-WAIT")
        .outcome(8, "it is over")
}

/// An audience that believes in the first choice.
struct Certain(Quiet);

impl Renderer for Certain {
    fn show(&mut self, event: &narrate::Event<'_>) -> std::io::Result<()> {
        self.0.show(event)
    }

    fn guess(&mut self, question: &Question) -> Result<Option<usize>, Stop> {
        Ok((question.choices.len() > 1).then_some(0))
    }
}

/// Performed once: a lab that differs waits for what does not come.
static SESSION: LazyLock<Session> = LazyLock::new(session);

fn session() -> Session {
    let lab = Lab {
        acts: || vec![Box::new(eventful()) as Box<dyn Scene>],
        ..*labs::ALL[0]
    };
    let mut audience = Certain(Quiet::new());
    let mut recorder = narrate::Recorder::new(&mut audience);
    let plain = Isolation::Plain("a test".into());
    lab.perform(&plain, &mut recorder).expect("a Vec takes it");
    Session::new(
        vec!["tcpecho-lab".into(), "run".into()],
        recorder.into_records(),
    )
}

/// As it is written, and read again.
fn written(value: &impl Serialize) -> Value {
    let text = serde_json::to_string(value).expect("it can be written");
    serde_json::from_str(&text).expect("it is JSON")
}

/// What the schema describes, with a name of the schema for each.
fn samples() -> Vec<(&'static str, Value)> {
    let reports = reports().iter().map(written).collect::<Vec<_>>();
    let events = events().iter().map(written).collect::<Vec<_>>();
    let load = reports
        .into_iter()
        .chain(events)
        .map(|value| ("load", value));
    load.chain([
        ("compare", written(&full_comparison())),
        ("lab", written(&*SESSION)),
    ])
    .collect()
}

#[test]
fn what_is_exported_is_what_the_schema_describes() -> Result<()> {
    for (name, value) in samples() {
        Schema::open(name)?
            .check(&value)
            .with_context(|| value.to_string())?;
    }
    Ok(())
}

#[test]
fn a_report_and_a_stream_are_as_described_when_written() -> Result<()> {
    let schema = Schema::open("load")?;
    let mut out = Vec::new();
    json::report(&mut out, &full_report())?;
    schema.check(&serde_json::from_slice(&out)?)?;
    let mut out = Vec::new();
    for event in events() {
        json::event(&mut out, &event)?;
    }
    let lines = String::from_utf8(out)?;
    assert_eq!(lines.lines().count(), events().len());
    lines
        .lines()
        .try_for_each(|line| schema.check(&serde_json::from_str(line)?))
}

#[test]
fn a_missing_field_one_too_many_and_a_wrong_type_are_refused() -> Result<()> {
    let mut tried = 0;
    for (name, value) in samples() {
        let schema = Schema::open(name)?;
        for (what, spoilt) in spoilt(&value) {
            assert!(
                schema.check(&spoilt).is_err(),
                "{name} takes {what}: {spoilt}"
            );
            tried += 1;
        }
    }
    assert!(tried > 1000, "only {tried} were tried");
    Ok(())
}

#[test]
fn figures_that_cannot_be_are_refused() -> Result<()> {
    let load = Schema::open("load")?;
    for (pointer, wrong) in [
        ("/format", json!(2)),
        ("/outcome", json!("done")),
        ("/measured_s", json!(-1.0)),
        ("/echoes", json!(1.5)),
        ("/shares/fairness", json!(1.1)),
        ("/load/mode/name", json!("bulk")),
        ("/company/0/kind", json!("noisy")),
        ("/errors/0/kind", json!("Wrong bytes")),
        ("/latency/percentiles/0/percent", json!(100)),
        ("/latency/histogram", json!("no histogram")),
    ] {
        let value = with(&full_report(), pointer, wrong);
        assert!(load.check(&value).is_err(), "{pointer}");
    }
    let lab = Schema::open("lab")?;
    for (pointer, wrong) in [
        ("/format", json!(2)),
        ("/labs/0/lab", json!("Normal life")),
        ("/labs/0/started", json!(1.5)),
        ("/labs/0/report/varied/0", json!(["what"])),
        ("/labs/0/acts/0/entries/0/what", json!({"said": "words"})),
        (
            "/labs/0/acts/0/entries/0/what",
            json!({"explain": "a", "read": "b"}),
        ),
        ("/labs/0/acts/0/entries/3/what/do/typed", json!("mouse")),
    ] {
        let value = with(&*SESSION, pointer, wrong);
        assert!(lab.check(&value).is_err(), "{pointer}");
    }
    let compare = Schema::open("compare")?;
    for (pointer, wrong) in [
        ("/began", json!("yesterday")),
        ("/environment/build", json!("fast")),
        ("/cells/0/outcome/name", json!("cannot")),
        ("/cells/0/rounds/0/latency/histogram", json!("")),
        ("/cells/0/hindered/0", json!(1.5)),
        ("/cells/0/calls/by_name/0", json!(["read"])),
        ("/ratios/0/interval", json!([1.0, 1.1, 1.2])),
        ("/ratios/0/measure", json!("beauty")),
    ] {
        let value = with(&full_comparison(), pointer, wrong);
        assert!(compare.check(&value).is_err(), "{pointer}");
    }
    Ok(())
}

#[test]
fn every_field_is_described_and_required() -> Result<()> {
    for name in ["load", "compare", "lab"] {
        let path = format!("{}/schemas/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
        let schema: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let places = places(&schema);
        let all = places.iter().filter_map(|place| schema.pointer(place));
        all.filter(|object| object["type"] == "object")
            .try_for_each(|object| is_strict(object).with_context(|| object.to_string()))?;
    }
    Ok(())
}

/// Nothing is optional, nothing undescribed, and there is nothing else.
fn is_strict(object: &Value) -> Result<()> {
    let properties = object["properties"].as_object().context("no properties")?;
    let required = object["required"]
        .as_array()
        .context("no list of what is required")?;
    let required: BTreeSet<_> = required.iter().filter_map(Value::as_str).collect();
    let names: BTreeSet<_> = properties.keys().map(String::as_str).collect();
    ensure!(names == required, "required is {required:?}");
    ensure!(
        object["additionalProperties"] == json!(false),
        "more is allowed"
    );
    let described = |field: &Value| field["description"].is_string() || field["const"].is_string();
    ensure!(
        properties.values().all(described),
        "a description is missing"
    );
    Ok(())
}

/// With something else in one place.
fn with(value: &impl Serialize, pointer: &str, other: Value) -> Value {
    let mut value = written(value);
    *value.pointer_mut(pointer).expect(pointer) = other;
    value
}

/// Where there is a value: a JSON pointer each, its own first.
fn places(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(key, child)| {
        places(child)
            .into_iter()
            .map(move |place| format!("/{key}{place}"))
    });
    std::iter::once(String::new()).chain(below).collect()
}

/// All the ways to leave a field out, to add one, and to put something else in its place.
fn spoilt(value: &Value) -> Vec<(String, Value)> {
    let mut spoilt = Vec::new();
    for place in places(value) {
        let original = value.pointer(&place).expect("it is there");
        for (what, other) in spoilt_one(original) {
            spoilt.push((format!("{what} at {place:?}"), with(value, &place, other)));
        }
    }
    spoilt
}

/// The same for what is at one place, without what is below it.
fn spoilt_one(original: &Value) -> Vec<(String, Value)> {
    let mut spoilt = vec![("a list".into(), json!([true]))];
    if original.is_string() {
        spoilt.push(("a number".into(), json!(0)));
    } else if !original.is_null() {
        spoilt.push(("a text".into(), json!("0")));
    }
    if let Value::Object(fields) = original {
        for name in fields.keys() {
            let mut fewer = fields.clone();
            fewer.remove(name);
            spoilt.push((format!("no {name}"), fewer.into()));
        }
        let mut more = fields.clone();
        more.insert("more".into(), json!(1));
        spoilt.push(("one more".into(), more.into()));
    }
    spoilt
}
