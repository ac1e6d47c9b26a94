//! A comparison on a terminal or in a pipe: who needed least, with bars, and what it means, last,
//! where one is looking when it is over.
//!
//! Colours are the writer's business (anstream drops them where they are not wanted); no meaning
//! hangs on them alone.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use crate::compare::ranking::{Ranking, Row};
use crate::compare::result::{Comparison, Workload};
use crate::compare::table::{self, Table};
use crate::figures;
use crate::narrate::text::wrap;

const HEADING: Style = AnsiColor::Cyan.on_default().bold();
const STRONG: Style = Style::new().bold();
const BAR: Style = AnsiColor::Blue.on_default();
const QUIET: Style = Style::new().dimmed();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();

/// Words are not set wider than this, however wide the terminal.
const READABLE: usize = 100;
/// The shortest bar that says anything, and the longest that is needed.
const BARS: (usize, usize) = (6, 40);
/// Letters of a name.
const LETTERS: usize = 20;
/// Between two columns.
const GAP: &str = "  ";

/// What bars are made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Glyphs {
    /// Blocks, to an eighth of a column.
    Blocks,
    /// ASCII.
    Signs,
}

impl Glyphs {
    /// What a terminal shows whose locale (`LC_ALL`, `LC_CTYPE` or `LANG`, the first that is set) is this.
    pub fn of_locale(locale: &str) -> Self {
        let locale = locale.to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            Self::Blocks
        } else {
            Self::Signs
        }
    }

    /// So much of `width` columns, 0 to 1.
    fn bar(self, part: f64, width: usize) -> String {
        const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let eighths = (part.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
        match self {
            Self::Blocks => "█".repeat(eighths / 8) + EIGHTHS[eighths % 8],
            Self::Signs => "#".repeat((eighths + 4) / 8),
        }
    }

    /// Heights of a line, from 0 to 1; a blank where there is none.
    fn sparkline(self, heights: impl Iterator<Item = Option<f64>>) -> String {
        let levels = match self {
            Self::Blocks => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Self::Signs => ['_', '.', '-', '=', '+', '*', '#', '@'],
        };
        let level = |height: f64| levels[(height.clamp(0.0, 1.0) * 7.0).round() as usize];
        heights.map(|height| height.map_or(' ', level)).collect()
    }
}

/// All of it, with colours. Lines have at most `width` columns, but at least 80.
pub fn terminal(comparison: &Comparison, width: usize, glyphs: Glyphs) -> String {
    let mut page = Page {
        text: String::new(),
        width: width.max(80),
        glyphs,
    };
    page.environment(comparison);
    for workload in &comparison.workloads {
        page.workload(comparison, workload);
    }
    page.sentences("What the figures say", STRONG, &comparison.conclusions);
    if comparison.interrupted {
        let missing = "Interrupted: what is missing was not measured.".to_string();
        page.sentences("", DOUBTFUL, &[missing]);
    }
    page.sentences("What makes them doubtful", DOUBTFUL, &comparison.warnings);
    page.text
}

struct Page {
    text: String,
    width: usize,
    glyphs: Glyphs,
}

impl Page {
    fn line(&mut self, style: Style, text: &str) {
        let _ = writeln!(self.text, "{style}{}{style:#}", text.trim_end());
    }

    fn paragraph(&mut self, style: Style, text: &str) {
        for line in wrap(&clean(text), self.width.min(READABLE)) {
            self.line(style, &line);
        }
    }

    fn environment(&mut self, comparison: &Comparison) {
        let here = &comparison.environment;
        let facts = format!(
            "{}, {}; servers on processor {}, load generator on {}; {} build, version {}; {} rounds of {}, seed {}",
            here.processor,
            here.system,
            table::processors_of(&here.server_processors),
            table::processors_of(&here.load_processors),
            here.build,
            here.version,
            comparison.rounds,
            table::duration(comparison),
            comparison.seed,
        );
        self.paragraph(QUIET, &facts);
    }

    fn workload(&mut self, comparison: &Comparison, workload: &Workload) {
        let heading = clean(&format!("-- {}: {} ", workload.name, workload.title));
        let rest = "-".repeat(self.width.min(READABLE).saturating_sub(length(&heading)));
        self.line(HEADING, &format!("\n{heading}{rest}"));
        self.paragraph(QUIET, &workload.shows);
        if comparison.is_swept(workload) {
            self.points(comparison, workload);
        } else {
            for point in comparison.points(workload) {
                let ranking = comparison.ranking(workload, point);
                self.bars(&ranking);
                self.table(&table::figures_of(&ranking));
                self.table(&table::of_causes(&ranking));
            }
        }
        for reason in table::reasons(comparison, workload) {
            self.paragraph(DOUBTFUL, &reason);
        }
    }

    /// Who needs least, with what it is made of beside it; beneath it, where there is no room.
    fn bars(&mut self, ranking: &Ranking<'_>) {
        let per = clean(&ranking.per());
        self.line(STRONG, &format!("\nCPU time of the server per {per}"));
        let most = ranking.rows.iter().map(cpu).fold(0.0, f64::max);
        let names = ranking
            .rows
            .iter()
            .map(|row| length(&short(&row.contestant.name)));
        let names = names.max().unwrap_or(0);
        let structures = ranking.rows.iter().map(|row| length(&structure(row)));
        let room = self.width - names - 16;
        let beside = room.saturating_sub(structures.max().unwrap_or(0));
        let (bars, beneath) = if beside < BARS.0 {
            (BARS.1, true)
        } else {
            (beside, false)
        };
        let bars = bars.min(BARS.1);
        for (i, row) in ranking.rows.iter().enumerate() {
            let bar = self.glyphs.bar(cpu(row) / most, bars);
            let pad = " ".repeat(bars - length(&bar));
            let end = if beneath {
                format!("\n    {}", structure(row))
            } else {
                format!("{pad} {}", structure(row))
            };
            let _ = writeln!(
                self.text,
                "{:>2} {:names$} {STRONG}{:>9}{STRONG:#}  {BAR}{bar}{BAR:#}{QUIET}{end}{QUIET:#}",
                i + 1,
                short(&row.contestant.name),
                figures::time_us(row.summary.cpu_us.median),
            );
        }
    }

    /// CPU per echo at each point, and how it goes in one glance.
    fn points(&mut self, comparison: &Comparison, workload: &Workload) {
        let what = workload.points.as_deref().unwrap_or_default();
        let per = workload.per();
        self.line(
            STRONG,
            &format!("\nCPU time of the server per {per}, over {}", clean(what)),
        );
        let (mut table, courses) = table::of_points(comparison, workload);
        table
            .heads
            .insert(1, table::Head::new("course", "0 to most"));
        table.words = 2;
        for (row, course) in table.rows.iter_mut().zip(&courses) {
            let most = course.iter().copied().flatten().fold(0.0, f64::max);
            let heights = course.iter().map(|us| us.map(|us| us / most));
            row.insert(1, self.glyphs.sparkline(heights));
        }
        self.table(&table);
    }

    /// A table, in several pieces where it is too wide; each begins with the first column.
    fn table(&mut self, table: &Table) {
        let widths: Vec<_> = (0..table.heads.len()).map(|i| width_of(table, i)).collect();
        let mut rest = 1..widths.len();
        while !rest.is_empty() {
            let mut end = rest.start;
            let mut used = widths[0];
            while end < rest.end
                && (end == rest.start || used + GAP.len() + widths[end] <= self.width)
            {
                used += GAP.len() + widths[end];
                end += 1;
            }
            let columns: Vec<_> = std::iter::once(0).chain(rest.start..end).collect();
            self.text.push('\n');
            self.piece(table, &columns, &widths);
            rest.start = end;
        }
    }

    fn piece(&mut self, table: &Table, columns: &[usize], widths: &[usize]) {
        let mut row = |style: Style, text: &dyn Fn(usize) -> String| {
            let cells = columns.iter().map(|&i| {
                let (text, width) = (short(&text(i)), widths[i]);
                if i < table.words {
                    format!("{text:width$}")
                } else {
                    format!("{text:>width$}")
                }
            });
            let cells: Vec<_> = cells.collect();
            self.line(style, &cells.join(GAP));
        };
        row(STRONG, &|i| table.heads[i].name.clone());
        if columns.iter().any(|i| !table.heads[*i].unit.is_empty()) {
            row(QUIET, &|i| table.heads[i].unit.clone());
        }
        for cells in &table.rows {
            row(Style::new(), &|i| cells[i].clone());
        }
    }

    fn sentences(&mut self, heading: &str, style: Style, sentences: &[String]) {
        if sentences.is_empty() {
            return;
        }
        if !heading.is_empty() {
            self.line(HEADING, &format!("\n{heading}"));
        }
        for sentence in sentences {
            for (i, line) in wrap(&clean(sentence), self.width.min(READABLE) - 2)
                .iter()
                .enumerate()
            {
                let mark = if i == 0 { "* " } else { "  " };
                self.line(style, &format!("{mark}{line}"));
            }
        }
    }
}

fn cpu(row: &Row<'_>) -> f64 {
    row.summary.cpu_us.median
}

fn structure(row: &Row<'_>) -> String {
    clean(&row.structure())
}

fn width_of(table: &Table, i: usize) -> usize {
    let head = &table.heads[i];
    let cells = table.rows.iter().map(|row| &row[i]);
    let all = cells.chain([&head.name, &head.unit]);
    all.map(|text| length(&short(text))).max().unwrap_or(0)
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Names can be long: no more of them than there is room for.
fn short(name: &str) -> String {
    let name = clean(name);
    if length(&name) <= LETTERS {
        return name;
    }
    name.chars().take(LETTERS - 2).chain("..".chars()).collect()
}

/// Nothing that moves the cursor.
fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;
    use proptest::prelude::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn lines_stay_within_the_terminal() {
        for width in [80, 100, 140, 300] {
            for glyphs in [Glyphs::Blocks, Glyphs::Signs] {
                let text = plain(&terminal(&fixture::comparison(), width, glyphs));
                let longest = text.lines().map(length).max();
                assert!(longest <= Some(width), "{width}: {longest:?}");
            }
        }
    }

    #[test]
    fn without_colours_nothing_is_lost_and_signs_are_ascii() {
        let text = plain(&terminal(&fixture::comparison(), 80, Glyphs::Signs));
        assert!(text.is_ascii(), "{text}");
        assert!(
            text.contains("prefork cannot: serves 8 at a time, this takes 50"),
            "{text}"
        );
        assert!(text.contains("What the figures say\n* Made up"), "{text}");
        assert!(text.contains(" 1 uring "), "{text}");
    }

    #[test]
    fn conclusions_come_after_the_figures_and_doubts_last() {
        let text = plain(&terminal(&fixture::comparison(), 80, Glyphs::Signs));
        let at = |words: &str| text.find(words).expect("it is said");
        assert!(at("-- firehose") < at("What the figures say"));
        assert!(at("What the figures say") < at("What makes them doubtful"));
    }

    #[test]
    fn a_single_point_is_a_ranking_and_no_course() {
        let mut comparison = fixture::comparison();
        let heading = "per echo, with 1,000 idle connections\n 1 ";
        let page = |comparison: &Comparison| plain(&terminal(comparison, 80, Glyphs::Signs));
        assert!(!page(&comparison).contains(heading));
        let idle = |point: Option<u64>| point == Some(1000) || point.is_none();
        comparison.cells.retain(|cell| idle(cell.point));
        let text = page(&comparison);
        assert!(text.contains(heading), "{text}");
        assert!(!text.contains("0 to most"), "{text}");
    }

    #[test]
    fn a_ratio_that_may_be_one_is_its_interval_only_and_not_cut_off() {
        let mut comparison = fixture::comparison();
        let ratio = &mut comparison.ratios[0];
        (ratio.ratio, ratio.interval) = (0.986, Some((0.795, 2.09)));
        let text = plain(&terminal(&comparison, 80, Glyphs::Signs));
        assert!(text.contains("even (0.795-2.09)"), "{text}");
        assert!(!text.contains("0.986 ("), "{text}");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        let mut comparison = fixture::comparison();
        let evil = "a\x1b[2J\rb".to_string();
        comparison
            .cells
            .iter_mut()
            .filter(|cell| cell.contestant == "uring")
            .for_each(|cell| cell.contestant.clone_from(&evil));
        comparison.contestants[1].name = evil;
        let text = terminal(&comparison, 80, Glyphs::Blocks);
        assert!(!text.contains("\x1b[2J") && !text.contains('\r'));
        assert!(text.contains("a [2J b"), "{text}");
    }

    #[test]
    fn bars_and_lines_are_as_long_and_high_as_their_figures() {
        assert_eq!(Glyphs::Blocks.bar(0.5, 10), "█████");
        assert_eq!(Glyphs::Blocks.bar(0.0625, 10), "▋");
        assert_eq!(Glyphs::Signs.bar(0.52, 10), "#####");
        let course = [Some(0.0), None, Some(0.5), Some(1.0)];
        assert_eq!(Glyphs::Blocks.sparkline(course.into_iter()), "▁ ▅█");
        assert_eq!(Glyphs::Signs.sparkline(course.into_iter()), "_ +@");
    }

    #[test]
    fn blocks_are_for_terminals_that_have_them() {
        assert_eq!(Glyphs::of_locale("de_DE.UTF-8"), Glyphs::Blocks);
        assert_eq!(Glyphs::of_locale("C.utf8"), Glyphs::Blocks);
        assert_eq!(Glyphs::of_locale("C"), Glyphs::Signs);
        assert_eq!(Glyphs::of_locale(""), Glyphs::Signs);
    }

    proptest! {
        #[test]
        fn a_longer_bar_is_never_shorter(a in 0.0..1.0_f64, b in 0.0..1.0_f64, width in 1_usize..60) {
            for glyphs in [Glyphs::Blocks, Glyphs::Signs] {
                let (low, high) = (glyphs.bar(a.min(b), width), glyphs.bar(a.max(b), width));
                prop_assert!(length(&low) <= length(&high));
                prop_assert!(length(&high) <= width);
            }
        }
    }
}
