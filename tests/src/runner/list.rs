//! `tcpecho-lab list`: what there is to see, chapter by chapter, a line each.

use std::io::{self, Write};

use anstyle::Style;

use crate::labs;
use crate::narrate::{Chapter, Lab, Need};

/// What a line may be long.
const WIDTH: usize = 80;

const STRONG: Style = Style::new().bold();

/// Writes the table of all labs.
pub fn table(out: &mut impl Write) -> io::Result<()> {
    for chapter in Chapter::ALL {
        let chapter_labs = labs::ALL.iter().filter(|lab| lab.chapter == chapter);
        let room = WIDTH - chapter.title().len();
        writeln!(out, "{STRONG}{chapter}{STRONG:#}{:>room$}", "seconds")?;
        for lab in chapter_labs {
            writeln!(out, "{}", row(lab))?;
        }
        writeln!(out)?;
    }
    legend(out)
}

/// Name, title, seconds, marks; at most 80 columns.
fn row(lab: &Lab) -> String {
    let (name, title, takes) = (lab.name, lab.title, lab.takes);
    let marks: String = lab.needs.iter().map(|need| need.mark()).collect();
    let widest = labs::ALL.iter().map(|lab| lab.name.len()).max();
    let name_width = widest.unwrap_or(0);
    let title_width = (WIDTH - 9).saturating_sub(name_width);
    let row = format!("{name:<name_width$}  {title:<title_width$} {marks:<2} {takes:>3}");
    row.trim_end().into()
}

fn legend(out: &mut impl Write) -> io::Result<()> {
    for need in Need::ALL {
        if labs::ALL.iter().any(|lab| lab.needs.contains(&need)) {
            writeln!(out, "{}  needs {}", need.mark(), need.in_words())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        table(&mut out).expect("a vector takes everything");
        String::from_utf8(out.into_inner()).expect("ASCII")
    }

    #[test]
    fn every_lab_has_one_line_of_at_most_eighty_columns() {
        let text = written();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        for lab in labs::ALL {
            let name = format!("{} ", lab.name);
            let rows = text.lines().filter(|line| line.starts_with(&name));
            assert_eq!(rows.count(), 1, "{}", lab.name);
            assert!(text.contains(lab.title), "{}", lab.name);
        }
    }

    #[test]
    fn the_list_is_in_the_order_of_the_course() {
        let chapters: Vec<_> = labs::ALL.iter().map(|lab| lab.chapter).collect();
        assert!(chapters.is_sorted(), "{chapters:?}");
        for chapter in Chapter::ALL {
            assert!(chapters.contains(&chapter), "{chapter} is empty");
        }
    }

    #[test]
    fn every_mark_is_explained() {
        let text = written();
        for need in labs::ALL.iter().flat_map(|lab| lab.needs) {
            let line = format!("\n{}  needs ", need.mark());
            assert!(text.contains(&line), "{need:?}");
        }
    }
}
