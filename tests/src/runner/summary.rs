//! What is said at the end of several labs, and of each if they are quiet.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;

use crate::narrate::Lab;
use crate::narrate::perform::Report;
use crate::narrate::record::Record;
use crate::narrate::terminal::{BAD, DOUBTFUL, GOOD};
use crate::narrate::text::wrap;
use crate::runner::child::Outcome;

/// Where the words behind a verdict begin.
const MARK: usize = 11;

/// How all of them went.
#[derive(Debug)]
pub struct Summary<'a> {
    records: &'a [Record],
    took: Duration,
    strict: bool,
}

impl<'a> Summary<'a> {
    /// Of these, that took so long together. If `strict`, what is skipped counts as failure.
    pub fn of(records: &'a [Record], took: Duration, strict: bool) -> Self {
        Self {
            records,
            took,
            strict,
        }
    }

    /// Did everything hold?
    pub fn passed(&self) -> bool {
        self.reports().all(|report| report.passed(self.strict))
    }

    /// Was anything skipped?
    pub fn skips(&self) -> bool {
        self.reports().any(|report| !report.skipped.is_empty())
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.records.iter().map(|record| &record.report)
    }

    /// Writes the counts, and whatever was not simply as expected, in lines of `width` columns.
    pub fn write(&self, out: &mut impl Write, width: usize) -> io::Result<()> {
        let width = width.clamp(40, 120);
        writeln!(out, "\n{}", "=".repeat(width))?;
        let style = if self.passed() { GOOD } else { BAD };
        for line in wrap(&self.counts(), width) {
            writeln!(out, "{style}{line}{style:#}")?;
        }
        for report in self.reports() {
            for (what, why) in &report.varied {
                let text = format!("{}: {}: {why}", report.lab, blank(what));
                marked(out, DOUBTFUL, "VARIATION", &text, width)?;
            }
        }
        for report in self.reports() {
            for sentence in &report.differences {
                let text = format!("{}: {sentence}", report.lab);
                marked(out, BAD, "DIFFERENT", &text, width)?;
            }
        }
        for (why, whats) in self.skipped() {
            let text = format!("{why}: {}", whats.join("; "));
            marked(out, DOUBTFUL, "SKIP", &text, width)?;
        }
        if self.strict && self.skips() {
            strictly(out)?;
        }
        out.flush()
    }

    fn counts(&self) -> String {
        let labs = self.records.len();
        let seconds = self.took.as_secs_f64();
        let sum = |count: fn(&Report) -> usize| self.reports().map(count).sum::<usize>();
        let held = sum(|report| report.held);
        let varied = sum(|report| report.varied.len());
        let different = sum(|report| report.differences.len());
        let skipped = sum(|report| report.skipped.len());
        let quit = self.reports().any(|report| report.quit);
        let left = if quit { " (left early)" } else { "" };
        let plural = if labs == 1 { "" } else { "s" };
        format!(
            "{labs} demonstration{plural}, {seconds:.1} s: {held} facts as expected ({varied} by a \
             known variation), {different} different, {skipped} skipped{left}"
        )
    }

    /// By reason: which lab, and what of it.
    fn skipped(&self) -> BTreeMap<&str, Vec<String>> {
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for report in self.reports() {
            let mut of_this: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (what, why) in &report.skipped {
                of_this.entry(why).or_default().push(blank(what));
            }
            for (why, mut whats) in of_this {
                whats.dedup();
                let text = format!("{} ({})", report.lab, whats.join(", "));
                reasons.entry(why).or_default().push(text);
            }
        }
        reasons
    }
}

/// Says why the exit code is 1 although nothing differed.
pub fn strictly(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{DOUBTFUL}--strict: skipped counts as failure{DOUBTFUL:#}"
    )
}

/// How one lab went, in a line; what it showed before, if anything differed.
pub fn line(out: &mut impl Write, lab: &Lab, outcome: &Outcome) -> io::Result<()> {
    let Record {
        report, seconds, ..
    } = &outcome.record;
    if !report.differences.is_empty() {
        writeln!(out, "{}", outcome.text)?;
    }
    let (style, word) = match report {
        _ if !report.differences.is_empty() => (BAD, "DIFFERENT"),
        _ if report.held == 0 => (DOUBTFUL, "SKIP"),
        _ => (GOOD, "OK"),
    };
    writeln!(
        out,
        "{style}{word:<MARK$}{style:#}{:<22} {:>5.1} s  {}",
        lab.name,
        seconds,
        counts_of(report)
    )
}

fn counts_of(report: &Report) -> String {
    let held = format!("{} facts", report.held);
    let others = [
        (report.varied.len(), "by variation"),
        (report.differences.len(), "different"),
        (report.skipped.len(), "skipped"),
    ];
    let others = others.iter().filter(|(number, _)| *number > 0);
    let others = others.map(|(number, what)| format!("{number} {what}"));
    std::iter::once(held)
        .chain(others)
        .collect::<Vec<_>>()
        .join(", ")
}

/// What an expectation is about, without its fact.
fn blank(what: &str) -> String {
    what.replace(" _ ", " ... ")
}

fn marked(
    out: &mut impl Write,
    style: Style,
    word: &str,
    text: &str,
    width: usize,
) -> io::Result<()> {
    for (i, line) in wrap(text, width - MARK).iter().enumerate() {
        let word = if i == 0 { word } else { "" };
        writeln!(out, "{style}{word:<MARK$}{style:#}{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs;

    fn record(report: Report) -> Record {
        Record {
            report,
            seconds: 1.25,
            ..Record::default()
        }
    }

    fn zombies() -> Report {
        Report {
            lab: "zombies".into(),
            held: 3,
            ..Report::default()
        }
    }

    fn shy() -> Report {
        let why = "no namespaces";
        Report {
            lab: "nagle".into(),
            held: 2,
            skipped: vec![
                ("packets since".into(), why.into()),
                ("it came _ later".into(), why.into()),
            ],
            ..Report::default()
        }
    }

    fn wrong() -> Report {
        Report {
            lab: "wait3".into(),
            differences: vec!["x should have been 1, but was 2".into()],
            varied: vec![("y".into(), "old kernels".into())],
            ..Report::default()
        }
    }

    fn written(reports: &[Report], strict: bool) -> (String, bool) {
        let records: Vec<_> = reports.iter().cloned().map(record).collect();
        let summary = Summary::of(&records, Duration::from_millis(2500), strict);
        let mut out = anstream::StripStream::new(Vec::new());
        summary.write(&mut out, 80).expect("a vector");
        let text = String::from_utf8(out.into_inner()).expect("ASCII");
        (text, summary.passed())
    }

    #[test]
    fn everything_is_counted_and_whatever_is_odd_is_named() {
        let (text, passed) = written(&[zombies(), shy(), wrong()], false);
        assert!(!passed);
        for part in [
            "3 demonstrations, 2.5 s: 5 facts as expected (1 by a known variation), 1\ndifferent, 2 skipped",
            "VARIATION  wait3: y: old kernels",
            "DIFFERENT  wait3: x should have been 1, but was 2",
            "SKIP       no namespaces: nagle (packets since, it came ... later)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn skipped_counts_only_if_strict() {
        let (text, passed) = written(&[zombies(), shy()], false);
        assert!(passed && !text.contains("--strict"), "{text}");
        let (text, passed) = written(&[zombies(), shy()], true);
        assert!(!passed && text.contains("--strict"), "{text}");
        assert!(written(&[zombies()], true).1);
    }

    #[test]
    fn a_quiet_lab_is_a_line_unless_it_differs() {
        let lab = labs::find("wait3").expect("there is one");
        let line = |report| {
            let mut out = anstream::StripStream::new(Vec::new());
            let (record, text) = (record(report), "all its steps".into());
            line(
                &mut out,
                lab,
                &Outcome {
                    record,
                    text,
                    packets: Vec::new(),
                },
            )
            .expect("a vector");
            String::from_utf8(out.into_inner()).expect("ASCII")
        };
        assert_eq!(
            line(zombies()),
            "OK         wait3                    1.2 s  3 facts\n"
        );
        assert!(line(shy()).contains("2 facts, 2 skipped"));
        let text = line(wrong());
        assert!(
            text.starts_with("all its steps\nDIFFERENT  wait3"),
            "{text}"
        );
        assert!(
            text.ends_with("0 facts, 1 by variation, 1 different\n"),
            "{text}"
        );
    }
}
