//! A report for people: what was done, what came of it, what is doubtful.
//!
//! Only what was measured is there. Units stand in the headers; no line is wider than the page.
//! Colours are the writer's business (anstream drops them where they are not wanted); no meaning
//! hangs on them alone.

use std::fmt::{self, Display, Formatter};

use anstyle::{AnsiColor, Style};

use crate::figures::{NONE, TimeUnit, bytes, percent, plain, time_us, whole};
use crate::load::report::{
    Company, Failures, Generator, Latency, Load, Mode, Outcome, Report, Shares, Stamps,
};
use crate::narrate::text::wrap;

const STRONG: Style = Style::new().bold();
const HEADER: Style = AnsiColor::Cyan.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// How far the lines of a paragraph after the first are indented.
const INDENT: usize = 2;

const DUE: &str = "latency: since a message was due; service: since it was sent. The difference is \
                   how long it had to wait to be sent.";
const WIRE: &str = "on the wire: from a message's last packet leaving to its echo's last arriving, by the \
                    kernel's time stamps. The rest of latency is the generator's own and the \
                    scheduler's.";
const WIRE_OPEN: &str = "on the wire: from a message's last packet leaving, not from when it was due, to \
                         its echo's last arriving, by the kernel's time stamps. The rest of service is \
                         the generator's own and the scheduler's.";
const CONNECT: &str = "connect: until the connection is established.";
const FIRST_ECHO: &str = "first echo: from connect to the whole first echo.";

/// A report on a page of `width` columns.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// What it says.
    pub report: &'a Report,
    /// Columns of the page; 60 are needed.
    pub width: usize,
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.report;
        for line in wrap(&done(report), self.width) {
            writeln!(f, "{STRONG}{line}{STRONG:#}")?;
        }
        if report.outcome == Outcome::Interrupted {
            let text = "what follows was measured until then.";
            self.paragraph(f, DOUBTFUL, "Interrupted:", text)?;
        }
        writeln!(f)?;
        write_grid(f, &throughput(report), 2)?;
        writeln!(f)?;
        self.times(f)?;
        self.remarks(f)?;
        for warning in &report.warnings {
            self.paragraph(f, DOUBTFUL, "Warning:", warning)?;
        }
        for failures in &report.errors {
            self.paragraph(f, BAD, "Error:", &failed(failures))?;
        }
        Ok(())
    }
}

impl Table<'_> {
    /// The times, a row for each kind; a column for each if a row has no room.
    fn times(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kinds = kinds(self.report);
        let Some(grid) = times(&kinds) else {
            return Ok(());
        };
        match [2, 1]
            .iter()
            .find(|gap| breadth(&grid, **gap) <= self.width)
        {
            Some(gap) => write_grid(f, &grid, *gap)?,
            None => write_grid(f, &transposed(&grid), 2)?,
        }
        let dash = grid.iter().flatten().any(|cell| cell == NONE);
        let dash = dash.then_some("-: fewer than ten samples lie beyond.");
        let notes = kinds.iter().filter_map(|kind| kind.note).chain(dash);
        for note in notes {
            self.paragraph(f, Style::new(), "", note)?;
        }
        writeln!(f)
    }

    /// What else there is to say.
    fn remarks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.report;
        let plain = Style::new();
        if let Some(stamps) = report.stamps.filter(|stamps| stamps.both > 0) {
            self.paragraph(f, plain, "Time stamps:", &stamped(&stamps))?;
        }
        if report.load.connections > 1 && report.echoes > 0 {
            self.paragraph(f, plain, "Fairness:", &shared(&report.shares))?;
        }
        if !report.company.is_empty() {
            let company: Vec<_> = report.company.iter().map(beside).collect();
            self.paragraph(f, plain, "Beside them:", &company.join("; "))?;
        }
        let own = own_cost(&report.generator, report.echoes);
        self.paragraph(f, plain, "Generator:", &own)
    }

    /// Text after a head; the lines that follow are indented.
    fn paragraph(
        &self,
        f: &mut Formatter<'_>,
        style: Style,
        head: &str,
        text: &str,
    ) -> fmt::Result {
        let text = format!("{head} {text}");
        let mut lines = wrap(&text, self.width);
        if lines.len() > 1 {
            lines = wrap(&text, self.width.saturating_sub(INDENT));
        }
        for (i, line) in lines.iter().enumerate() {
            match line.strip_prefix(head).filter(|_| i == 0) {
                Some(rest) => writeln!(f, "{style}{head}{style:#}{rest}")?,
                None => writeln!(f, "{:INDENT$}{line}", "")?,
            }
        }
        Ok(())
    }
}

/// What was done, in a sentence.
fn done(report: &Report) -> String {
    let load = &report.load;
    let warmup = if load.warmup_s > 0.0 {
        format!(" after {} s of warm-up", short(load.warmup_s))
    } else {
        String::new()
    };
    let measured = time_us(report.measured_s * 1e6);
    format!(
        "{}, measured for {measured}{warmup}",
        loaded(load, &report.target)
    )
}

fn loaded(load: &Load, target: &str) -> String {
    let to = format!("{} to {target}", plural(load.connections, "connection"));
    let size = format!("{} B", whole(load.size));
    match load.mode {
        Mode::Closed { depth: 1 } => {
            format!("{to}, a message of {size} under way on each (closed loop)")
        }
        Mode::Closed { depth } => {
            format!("{to}, {depth} messages of {size} under way on each (closed loop)")
        }
        Mode::Open { rate } => {
            format!(
                "{to}, {} messages of {size} per second (open loop)",
                short(rate)
            )
        }
        Mode::ConnectPerRequest => format!("{to}, a new one for each message of {size}"),
        Mode::Bulk => format!("{to}, messages of {size}, as many as they take (bulk)"),
    }
}

/// A number that somebody has given, as short as they may have written it.
fn short(number: f64) -> String {
    if number.fract() == 0.0 && number >= 0.0 {
        whole(number as u64)
    } else {
        number.to_string()
    }
}

fn plural(n: u64, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {noun}{s}", whole(n))
}

/// How much came back.
fn throughput(report: &Report) -> Vec<Vec<String>> {
    let row = |name: &str, total: String, n: f64| {
        vec![name.to_string(), total, plain(n / report.measured_s)]
    };
    let mb = report.bytes as f64 / 1e6;
    let mut rows = vec![
        vec![String::new(), "total".into(), "per second".into()],
        row("echoes", whole(report.echoes), report.echoes as f64),
        row("MB", plain(mb), mb),
    ];
    if report.connects > 0 {
        let connects = report.connects;
        rows.push(row("connects", whole(connects), connects as f64));
    }
    rows
}

/// Times of one kind.
struct Kind<'a> {
    name: &'static str,
    times: &'a Latency,
    /// What has to be said about them.
    note: Option<&'static str>,
}

/// Those that were measured.
fn kinds(report: &Report) -> Vec<Kind<'_>> {
    let due = report.service.is_some().then_some(DUE);
    let wire = match report.service {
        Some(_) => WIRE_OPEN,
        None => WIRE,
    };
    let kinds = [
        ("latency", &report.latency, due),
        ("on the wire", &report.wire, Some(wire)),
        ("service", &report.service, None),
        ("connect", &report.connect, Some(CONNECT)),
        ("first echo", &report.first_echo, Some(FIRST_ECHO)),
    ];
    let measured = kinds.into_iter().filter_map(|(name, times, note)| {
        let times = times.as_ref()?;
        Some(Kind { name, times, note })
    });
    measured.collect()
}

/// A header and a row for each kind, all in one unit; nothing if there are none.
fn times(kinds: &[Kind<'_>]) -> Option<Vec<Vec<String>>> {
    let unit = unit(kinds)?;
    // Who has one percentile has all the lower ones.
    let most = kinds
        .iter()
        .max_by_key(|kind| kind.times.percentiles.len())?;
    let percents: Vec<_> = most.times.percentiles.iter().map(|p| p.percent).collect();
    let mut header = vec![format!("time ({})", unit.name), "mean".into(), "min".into()];
    header.extend(percents.iter().map(|percent| format!("{percent}%")));
    header.push("max".into());
    let rows = kinds.iter().map(|kind| times_row(kind, &percents, unit));
    Some(std::iter::once(header).chain(rows).collect())
}

fn times_row(kind: &Kind<'_>, percents: &[f64], unit: TimeUnit) -> Vec<String> {
    let times = kind.times;
    let mut row = vec![kind.name.to_string()];
    row.extend([times.mean_us, times.min_us].map(|us| unit.write(us)));
    let percentiles = percents.iter().map(|percent| times.percentile(*percent));
    row.extend(percentiles.map(|us| us.map_or(NONE.into(), |us| unit.write(us))));
    row.push(unit.write(times.max_us));
    row
}

/// The unit that suits the typical time, unless the longest would then have more than seven digits.
fn unit(kinds: &[Kind<'_>]) -> Option<TimeUnit> {
    let first = kinds.first()?.times;
    let typical = first.percentile(50.0).unwrap_or(first.mean_us);
    let longest = kinds
        .iter()
        .map(|kind| kind.times.max_us)
        .fold(0.0, f64::max);
    Some(TimeUnit::fitting(typical.max(longest / 1e4)))
}

/// How many messages have both time stamps, what the others have not, and what was done to the times.
fn stamped(stamps: &Stamps) -> String {
    let all = whole(stamps.all());
    let have = match stamps.all() - stamps.both {
        0 => format!("all {all} messages have both"),
        others => format!("of {all} messages {} have not both", whole(others)),
    };
    let counted = [
        (stamps.no_departure, "do not say when they left"),
        (stamps.no_arrival, "do not say when their echoes arrived"),
        (stamps.no_order, "cannot be, the clock was set meanwhile"),
        (stamps.shared, "share one with later messages, whose it is"),
    ];
    let counted = counted.into_iter().filter(|(count, _)| *count > 0);
    let counted = counted.map(|(count, what)| format!("{} {what}", whole(count)));
    let apart = (stamps.apart_us > 0.0).then(|| {
        let apart = time_us(stamps.apart_us);
        format!("{apart} that stamping takes on loopback are taken off")
    });
    let said: Vec<_> = std::iter::once(have).chain(counted).chain(apart).collect();
    said.join("; ")
}

fn shared(shares: &Shares) -> String {
    format!(
        "{} (1: all connections alike), {} to {} echoes each",
        plain(shares.fairness),
        whole(shares.fewest),
        whole(shares.most)
    )
}

fn beside(company: &Company) -> String {
    let who = format!("{} {}", whole(company.connections), company.kind);
    if company.sent == 0 && company.read == 0 {
        return who;
    }
    let (sent, read) = (bytes(company.sent as f64), bytes(company.read as f64));
    format!("{who} (sent {sent}, read {read})")
}

/// What the generator needed, per echo if there were any.
fn own_cost(generator: &Generator, echoes: u64) -> String {
    let (per, each) = match echoes {
        0 => (1.0, "in all"),
        _ => (echoes as f64, "per echo"),
    };
    let [user, system] = [generator.user_s, generator.system_s].map(|s| s * 1e6 / per);
    let unit = TimeUnit::fitting(user + system);
    format!(
        "{} {} CPU {each} by {} (user {}, system {}), busiest thread {}",
        unit.write(user + system),
        unit.name,
        generator.engine.name(),
        unit.write(user),
        unit.write(system),
        percent(generator.busiest_thread)
    )
}

fn failed(failures: &Failures) -> String {
    let Failures { kind, count, first } = failures;
    match count {
        1 => format!("{kind}: {first}"),
        _ => format!("{kind}, {} times; the first: {first}", whole(*count)),
    }
}

fn transposed(grid: &[Vec<String>]) -> Vec<Vec<String>> {
    let columns = grid.first().map_or(0, Vec::len);
    let column = |i: usize| grid.iter().map(|row| row[i].clone()).collect();
    (0..columns).map(column).collect()
}

fn widths(grid: &[Vec<String>]) -> Vec<usize> {
    let longest = |column: Vec<String>| column.iter().map(String::len).max().unwrap_or(0);
    transposed(grid).into_iter().map(longest).collect()
}

fn breadth(grid: &[Vec<String>], gap: usize) -> usize {
    let widths = widths(grid);
    widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1)
}

/// Names at the left, figures right under their headers.
fn write_grid(f: &mut Formatter<'_>, grid: &[Vec<String>], gap: usize) -> fmt::Result {
    let widths = widths(grid);
    for (i, row) in grid.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<_> = cells
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        let line = line.join(&" ".repeat(gap));
        let style = if i == 0 { HEADER } else { Style::new() };
        writeln!(f, "{style}{line}{style:#}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::latency::Recorder;
    use crate::load::report::{Engine, FORMAT, Warmup};

    /// `count` times from `least` to ten times as many microseconds, and one of a second.
    fn times(least: u64, count: u64) -> Option<Latency> {
        let mut recorder = Recorder::new();
        for i in 0..count {
            recorder.record(least * (1000 + 9000 * i / count));
        }
        recorder.record(1_000_000_000);
        recorder.latency()
    }

    fn report() -> Report {
        Report {
            format: FORMAT,
            command: vec!["tcpecho-load".into(), "127.0.0.1".into()],
            target: "127.0.0.1:9877".into(),
            load: Load {
                mode: Mode::Closed { depth: 1 },
                connections: 50,
                size: 64,
                duration_s: 10.0,
                warmup_s: 1.0,
                threads: 1,
            },
            outcome: Outcome::Complete,
            measured_s: 10.0,
            echoes: 1_523_402,
            bytes: 97_497_728,
            connects: 0,
            latency: times(40, 1_100_000),
            wire: None,
            stamps: None,
            service: None,
            connect: None,
            first_echo: None,
            shares: Shares {
                fewest: 30_120,
                most: 30_511,
                fairness: 0.9987,
            },
            company: Vec::new(),
            warmup: Warmup {
                warm_rate: Some(151_000.0),
                first_rate: 152_000.0,
                last_rate: 153_000.0,
                steady: true,
            },
            generator: Generator {
                engine: Engine::Epoll,
                user_s: 0.93,
                system_s: 2.59,
                busiest_thread: 0.352,
                bottleneck: false,
            },
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Everything there can be, and much of it.
    fn full() -> Report {
        let company = |kind: &str, sent, read| Company {
            kind: kind.into(),
            connections: 100,
            sent,
            read,
        };
        let load = Load {
            mode: Mode::Open { rate: 123_456.0 },
            ..report().load
        };
        Report {
            load,
            outcome: Outcome::Failed,
            connects: 50,
            service: times(20, 1_100_000),
            connect: times(100, 50),
            first_echo: times(300, 50),
            company: vec![
                company("firehose", 1_250_000_000, 1_250_000_000),
                company("idle", 0, 0),
            ],
            errors: vec![Failures {
                kind: "wrong-bytes".into(),
                count: 3,
                first: "connection 17: byte 4711 of its stream is 0x00, should have been 0x41"
                    .into(),
            }],
            warnings: vec!["Something makes all of it doubtful. ".repeat(5)],
            ..report()
        }
    }

    fn shown(report: &Report, width: usize) -> String {
        let table = Table { report, width }.to_string();
        anstream::adapter::strip_str(&table).to_string()
    }

    #[test]
    fn a_good_run_is_short() {
        let expected = "\
50 connections to 127.0.0.1:9877, a message of 64 B under way on each (closed
loop), measured for 10.0 s after 1 s of warm-up

            total  per second
echoes  1,523,402     152,340
MB           97.5        9.75

time (us)  mean   min  50%  90%  99%  99.9%  99.99%  99.999%        max
latency     221  40.0  220  364  397    400     400      400  1,000,342

Fairness: 0.999 (1: all connections alike), 30,120 to 30,511 echoes each
Generator: 2.31 us CPU per echo by epoll (user 0.610, system 1.70), busiest
  thread 35.2 %
";
        assert_eq!(shown(&report(), 80), expected);
    }

    #[test]
    fn everything_stays_on_the_page() {
        for width in [60, 80, 120] {
            for report in [report(), full()] {
                let text = shown(&report, width);
                let widest = text.lines().map(str::len).max();
                assert!(widest <= Some(width), "{width}:\n{text}");
            }
        }
    }

    #[test]
    fn what_has_no_room_in_rows_is_written_in_columns() {
        let text = shown(&full(), 80);
        let line = |begin: &str| text.lines().find(|l| l.starts_with(begin));
        let rows = [
            "time (us)",
            "latency ",
            "service ",
            "connect ",
            "first echo ",
        ];
        assert!(rows.iter().all(|row| line(row).is_some()), "{text}");
        let text = shown(&full(), 60);
        let header = "time (us)    latency    service    connect  first echo";
        assert!(text.contains(header), "{text}");
        assert!(text.contains("99.999%"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_explained() {
        let text = shown(&full(), 80);
        let connect = text.lines().find(|l| l.starts_with("connect  "));
        assert!(
            connect.is_some_and(|l| l.matches(" -").count() == 5),
            "{text}"
        );
        assert!(text.contains("-: fewer than ten"), "{text}");
        assert!(!shown(&report(), 80).contains("fewer than ten"));
    }

    #[test]
    fn open_loop_has_both_times_and_their_difference() {
        let text = shown(&full(), 80);
        assert!(
            text.contains("latency: since a message was due; service: since"),
            "{text}"
        );
        assert!(
            text.contains("123,456 messages of 64 B per second (open"),
            "{text}"
        );
        assert!(!shown(&report(), 80).contains("service"));
    }

    #[test]
    fn what_was_on_the_wire_stands_beneath_latency() {
        let stamps = Stamps {
            both: 1_100_001,
            ..Stamps::default()
        };
        let wired = |report| Report {
            wire: times(20, 1_100_000),
            stamps: Some(stamps),
            ..report
        };
        let text = shown(&wired(report()), 80);
        let mut lines = text.lines().skip_while(|l| !l.starts_with("latency "));
        let next = lines.nth(1);
        assert!(
            next.is_some_and(|l| l.starts_with("on the wire  ")),
            "{text}"
        );
        assert!(text.contains("The rest of latency is"), "{text}");
        assert!(
            text.contains("Time stamps: all 1,100,001 messages have both\n"),
            "{text}"
        );
        let text = shown(&wired(full()), 200);
        assert!(text.contains("not from when it was due"), "{text}");
        let none = Report {
            stamps: Some(Stamps {
                both: 0,
                no_departure: 5,
                ..stamps
            }),
            ..report()
        };
        let text = shown(&none, 80);
        assert!(
            !text.contains("on the wire") && !text.contains("Time stamps"),
            "{text}"
        );
    }

    #[test]
    fn what_has_no_stamps_is_counted_by_reason() {
        let stamps = Stamps {
            both: 90,
            shared: 7,
            no_departure: 6,
            no_arrival: 3,
            no_order: 1,
            apart_us: 1.09,
        };
        let expected = "of 100 messages 10 have not both; 6 do not say when they left; \
                        3 do not say when their echoes arrived; \
                        1 cannot be, the clock was set meanwhile; \
                        7 share one with later messages, whose it is; \
                        1.09 us that stamping takes on loopback are taken off";
        assert_eq!(stamped(&stamps), expected);
    }

    #[test]
    fn company_warnings_and_errors_are_named() {
        let text = shown(&full(), 200);
        for part in [
            "Beside them: 100 firehose (sent 1.25 GB, read 1.25 GB); 100 idle\n",
            "Warning: Something",
            "Error: wrong-bytes, 3 times; the first: connection 17: byte 4711",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn every_mode_has_its_sentence() {
        let said = |mode, connections| {
            let load = Load {
                mode,
                connections,
                ..report().load
            };
            loaded(&load, "[::1]:7")
        };
        let closed = said(Mode::Closed { depth: 8 }, 1);
        assert_eq!(
            closed,
            "1 connection to [::1]:7, 8 messages of 64 B under way on each (closed loop)"
        );
        let each = said(Mode::ConnectPerRequest, 2);
        assert_eq!(
            each,
            "2 connections to [::1]:7, a new one for each message of 64 B"
        );
        let open = said(Mode::Open { rate: 0.5 }, 1);
        assert_eq!(
            open,
            "1 connection to [::1]:7, 0.5 messages of 64 B per second (open loop)"
        );
        assert!(said(Mode::Bulk, 1).ends_with("as many as they take (bulk)"));
    }

    #[test]
    fn a_run_without_a_single_echo_has_no_invented_figures() {
        let report = Report {
            outcome: Outcome::Interrupted,
            measured_s: 0.0,
            echoes: 0,
            bytes: 0,
            latency: None,
            ..report()
        };
        let text = shown(&report, 80);
        assert!(text.contains("Interrupted: what follows"), "{text}");
        assert!(text.contains("echoes      0           -\n"), "{text}");
        assert!(
            !text.contains("time (") && !text.contains("Fairness"),
            "{text}"
        );
        assert!(
            text.contains("Generator: 3.52 s CPU in all by epoll"),
            "{text}"
        );
    }
}
