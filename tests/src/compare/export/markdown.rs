//! Markdown, as GitHub reads it: for an issue, or to be handed in.

use std::fmt::Write as _;

use crate::compare::result::{Comparison, Workload};
use crate::compare::table::{self, Table};
use crate::page::markdown::{escaped, fenced};

/// The conclusions, the tables and where it ran.
pub fn markdown(comparison: &Comparison) -> String {
    let mut text = String::from("# Echo servers compared\n\n");
    if comparison.interrupted {
        text += "**Interrupted: what is missing was not measured.**\n\n";
    }
    list(&mut text, "", &comparison.conclusions);
    list(&mut text, "## Doubtful\n\n", &comparison.warnings);
    text += "## Who took part\n\n";
    draw(&mut text, &table::of_contestants(comparison));
    for workload in &comparison.workloads {
        section(&mut text, comparison, workload);
    }
    text += "## Where and how\n\n| | |\n|---|---|\n";
    for (name, value) in table::of_environment(comparison) {
        let _ = writeln!(text, "| {} | {} |", escaped(&name), escaped(&value));
    }
    text += "\n";
    commands(&mut text, comparison);
    text
}

fn section(text: &mut String, comparison: &Comparison, workload: &Workload) {
    let (name, title) = (escaped(&workload.name), escaped(&workload.title));
    let _ = writeln!(text, "## {name}: {title}\n\n{}\n", escaped(&workload.shows));
    let swept = comparison.is_swept(workload);
    if let Some(points) = workload.points.as_ref().filter(|_| swept) {
        let _ = writeln!(
            text,
            "CPU time per {}, over {}:\n",
            workload.per(),
            escaped(points)
        );
        draw(text, &table::of_points(comparison, workload).0);
    } else {
        for point in comparison.points(workload) {
            let ranking = comparison.ranking(workload, point);
            if point.is_some() {
                let _ = writeln!(text, "CPU time per {}:\n", escaped(&ranking.per()));
            }
            draw(text, &table::of_ranking(&ranking));
            draw(text, &table::of_causes(&ranking));
        }
    }
    list(text, "", &table::reasons(comparison, workload));
}

fn list(text: &mut String, heading: &str, sentences: &[String]) {
    if sentences.is_empty() {
        return;
    }
    text.push_str(heading);
    for sentence in sentences {
        let _ = writeln!(text, "- {}", escaped(sentence));
    }
    text.push('\n');
}

fn draw(text: &mut String, table: &Table) {
    if table.rows.is_empty() {
        return;
    }
    let heads = table
        .heads
        .iter()
        .map(|head| format!("{} {}", head.name, head.unit));
    row(text, heads);
    let sides = (0..table.heads.len()).map(|i| if i < table.words { "---" } else { "---:" });
    let _ = writeln!(text, "|{}|", sides.collect::<Vec<_>>().join("|"));
    for cells in &table.rows {
        row(text, cells.iter().cloned());
    }
    text.push('\n');
}

fn row(text: &mut String, cells: impl Iterator<Item = String>) {
    let cells: Vec<_> = cells.map(|cell| escaped(cell.trim())).collect();
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The command lines, as they are.
fn commands(text: &mut String, comparison: &Comparison) {
    let lines: Vec<_> = std::iter::once(table::command_line(comparison))
        .chain(comparison.contestants.iter().map(|who| who.command.clone()))
        .chain(
            comparison
                .workloads
                .iter()
                .map(|workload| workload.command.clone()),
        )
        .map(|line| line.replace(['\n', '\r'], " "))
        .collect();
    *text += &fenced("", &lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    /// Bars that divide cells, not those that are written with a backslash.
    fn bars(line: &str) -> usize {
        line.replace("\\|", "").matches('|').count()
    }

    #[test]
    fn tables_have_the_same_columns_in_each_line() {
        let mut comparison = fixture::comparison();
        comparison.contestants[0].structure = "a | b\nc".into();
        let text = markdown(&comparison);
        let mut last = 0;
        for line in text.lines() {
            let here = if line.starts_with('|') { bars(line) } else { 0 };
            assert!(last == 0 || here == 0 || here == last, "{line}");
            last = here;
        }
        assert!(text.contains("a \\| b c"), "{text}");
    }

    #[test]
    fn what_could_not_be_is_told_in_words() {
        let text = markdown(&fixture::comparison());
        assert!(
            text.contains("- iterative cannot: serves 1 at a time, this takes 50"),
            "{text}"
        );
        assert!(
            text.contains("- \\<student's\\> \\& co. failed: connection 7"),
            "{text}"
        );
        let sweep = "- select at 1,000; 2,000; 4,000; 8,000 cannot: serves 1018 at a time";
        assert!(text.contains(sweep), "{text}");
        assert!(
            !text.contains("prefork at 0"),
            "everywhere is no list of points"
        );
    }

    #[test]
    fn a_command_cannot_end_its_fence() {
        let mut comparison = fixture::comparison();
        comparison.contestants[0].command = "a ```` b".into();
        let text = markdown(&comparison);
        assert_eq!(text.lines().filter(|line| *line == "`````").count(), 2);
    }
}
