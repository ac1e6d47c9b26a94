//! Bars that lie, one for each name, with its figure beside it.

use crate::compare::chart::scale::Scale;
use crate::compare::chart::{LETTER, Text, WIDTH, figure, line, mark, name, words};
use crate::page::markup::Markup;

/// From bar to bar.
const ROW: f64 = 30.0;
const THICK: f64 = 17.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = WIDTH - 84.0;
const LETTERS: usize = ((LEFT - 10.0) / LETTER) as usize;

/// From where to where the axis goes.
pub const X: (f64, f64) = (LEFT, RIGHT);

/// A picture of bars.
#[derive(Debug)]
pub struct Bars {
    /// Its words.
    pub text: Text,
    /// What is along the axis.
    pub axis: String,
    /// Where. A logarithmic one has dots, because a bar would have no beginning.
    pub scale: Scale,
    /// What is written where.
    pub ticks: Vec<(f64, String)>,
    /// What the parts of a bar are; empty if there is one part only.
    pub parts: Vec<&'static str>,
    /// What the line across a bar is, if there are such lines.
    pub mark: Option<&'static str>,
    /// Dots instead of bars?
    pub dots: bool,
    /// From top to bottom.
    pub rows: Vec<Bar>,
}

/// One of them.
#[derive(Debug)]
pub struct Bar {
    /// Whose.
    pub name: String,
    /// One after the other.
    pub parts: Vec<f64>,
    /// From the smallest to the largest of the rounds.
    pub spread: Option<(f64, f64)>,
    /// Something to compare it with.
    pub mark: Option<f64>,
    /// Its figure.
    pub figure: String,
}

impl Bars {
    /// Draws it.
    pub fn draw(&self) -> String {
        let top = if self.parts.is_empty() && self.mark.is_none() {
            8.0
        } else {
            34.0
        };
        let bottom = top + ROW * self.rows.len() as f64;
        figure(&self.text, bottom + 46.0, |page| {
            self.key(page);
            self.axis(page, top, bottom);
            for (i, row) in self.rows.iter().enumerate() {
                self.row(page, row, top + ROW * (i as f64 + 0.5));
            }
        })
    }

    /// What the parts are, above the bars.
    fn key(&self, page: &mut Markup) {
        let mut x = LEFT;
        for (i, part) in self.parts.iter().enumerate() {
            bar(page, i, (x, 7.0), 22.0);
            words(page, "label", (x + 28.0, 21.0), part);
            x += 28.0 + LETTER * part.chars().count() as f64 + 22.0;
        }
        if let Some(text) = self.mark {
            reference(page, (x + 4.0, 15.5));
            words(page, "label", (x + 13.0, 21.0), text);
        }
    }

    fn axis(&self, page: &mut Markup, top: f64, bottom: f64) {
        for (value, label) in &self.ticks {
            let x = self.scale.place(*value);
            line(page, "grid", (x, top), (x, bottom));
            words(page, "tick middle", (x, bottom + 17.0), label);
        }
        line(page, "axis", (LEFT, top), (LEFT, bottom));
        words(
            page,
            "axis-title middle",
            (f64::midpoint(LEFT, RIGHT), bottom + 38.0),
            &self.axis,
        );
    }

    fn row(&self, page: &mut Markup, row: &Bar, y: f64) {
        name(
            page,
            "label left",
            (LEFT - 9.0, y + 5.0),
            &row.name,
            LETTERS,
        );
        let mut end = LEFT;
        let mut sum = 0.0;
        for (i, part) in row
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| **part > 0.0)
        {
            sum += part;
            let next = self.scale.place(sum);
            if self.dots {
                line(page, "stem", (end, y), (next, y));
                mark(page, 0, (next, y));
            } else {
                bar(page, i, (end, y - THICK / 2.0), next - end);
            }
            end = next;
        }
        if let Some((low, high)) = row.spread {
            let (low, high) = (self.scale.place(low), self.scale.place(high));
            line(page, "spread", (low, y), (high, y));
            end = end.max(high);
        }
        if let Some(value) = row.mark {
            reference(page, (self.scale.place(value), y));
        }
        words(page, "figure", (end + 9.0, y + 5.0), &row.figure);
    }
}

/// A line across a bar.
fn reference(page: &mut Markup, (x, y): (f64, f64)) {
    line(
        page,
        "reference",
        (x, y - THICK * 0.75),
        (x, y + THICK * 0.75),
    );
}

fn bar(page: &mut Markup, part: usize, (x, y): (f64, f64), width: f64) {
    page.tag("rect")
        .class(&format!("part-{part}"))
        .at("x", x)
        .at("y", y)
        .at("width", width.max(0.5))
        .at("height", THICK)
        .empty();
}
