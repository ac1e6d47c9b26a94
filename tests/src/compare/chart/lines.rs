//! Lines over an axis, each with its name beside it.

use std::fmt::Write as _;

use crate::compare::chart::scale::Scale;
use crate::compare::chart::{LETTER, LOOKS, Text, WIDTH, apart, figure, line, mark, name, words};
use crate::page::markup::{Markup, place};

const HEIGHT: f64 = 370.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 132.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 50.0;
/// From label to label.
const LABEL: f64 = 17.0;
/// Letters of a name that fit beside the lines.
const LETTERS: usize = ((WIDTH - RIGHT - 28.0) / LETTER) as usize;

/// A picture of lines.
#[derive(Debug)]
pub struct Lines {
    /// Its words.
    pub text: Text,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// At least one.
    pub series: Vec<Series>,
}

/// One of its sides.
#[derive(Debug)]
pub struct Axis {
    /// What is along it, with the unit where the ticks have none.
    pub title: String,
    /// Where.
    pub scale: Scale,
    /// What is written where.
    pub ticks: Vec<(f64, String)>,
}

/// One of its lines.
#[derive(Debug)]
pub struct Series {
    /// Whose.
    pub name: String,
    /// Which colour, dash and mark.
    pub look: usize,
    /// At least one, from left to right, all numbers.
    pub points: Vec<(f64, f64)>,
    /// Those of the points that get a mark, by x; all, if there is none.
    pub marks: Vec<f64>,
}

/// From where to where the axes go.
pub const X: (f64, f64) = (LEFT, RIGHT);
/// The other one, upwards.
pub const Y: (f64, f64) = (BOTTOM, TOP);

impl Lines {
    /// Draws it.
    pub fn draw(&self) -> String {
        figure(&self.text, HEIGHT, |page| {
            self.axes(page);
            for series in &self.series {
                self.series(page, series);
            }
            self.labels(page);
        })
    }

    fn axes(&self, page: &mut Markup) {
        for (value, label) in &self.y.ticks {
            let y = self.y.scale.place(*value);
            line(page, "grid", (LEFT, y), (RIGHT, y));
            words(page, "tick left", (LEFT - 7.0, y + 4.5), label);
        }
        for (value, label) in &self.x.ticks {
            let x = self.x.scale.place(*value);
            line(page, "grid", (x, TOP), (x, BOTTOM));
            words(page, "tick middle", (x, BOTTOM + 19.0), label);
        }
        line(page, "axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
        words(page, "axis-title", (0.0, 13.0), &self.y.title);
        words(
            page,
            "axis-title middle",
            (f64::midpoint(LEFT, RIGHT), HEIGHT - 8.0),
            &self.x.title,
        );
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.scale.place(x), self.y.scale.place(y))
    }

    fn series(&self, page: &mut Markup, series: &Series) {
        let mut path = String::new();
        for (i, point) in series.points.iter().enumerate() {
            let (x, y) = self.at(*point);
            let command = if i == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{} {}", place(x), place(y));
        }
        let class = format!(
            "line look-{} dash-{}",
            series.look % LOOKS,
            series.look % DASHES
        );
        page.tag("path").class(&class).with("d", &path).empty();
        let marked = |x: f64| {
            series.marks.is_empty() || series.marks.iter().any(|m| (m / x - 1.0).abs() < 1e-6)
        };
        for point in series.points.iter().filter(|(x, _)| marked(*x)) {
            mark(page, series.look, self.at(*point));
        }
    }

    /// Names at the right, near the ends of their lines, each tied to its end.
    fn labels(&self, page: &mut Markup) {
        let ends: Vec<_> = self
            .series
            .iter()
            .map(|s| s.points.last().map_or((LEFT, BOTTOM), |end| self.at(*end)))
            .collect();
        let wanted: Vec<_> = ends.iter().map(|(_, y)| *y).collect();
        let places = apart(&wanted, LABEL, (TOP, BOTTOM));
        for ((series, end), y) in self.series.iter().zip(&ends).zip(places) {
            let class = format!("tie look-{}", series.look % LOOKS);
            line(page, &class, (end.0 + 5.0, end.1), (RIGHT + 14.0, y));
            mark(page, series.look, (RIGHT + 18.0, y));
            name(
                page,
                "label",
                (RIGHT + 27.0, y + 5.0),
                &series.name,
                LETTERS,
            );
        }
    }
}

/// Kinds of dashes in the style sheet. It has no common factor with the number of colours or of marks
/// that would make two looks alike too soon.
const DASHES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_dozen_lines_look_different() {
        let look = |i: usize| (i % LOOKS, i % DASHES);
        for i in 0..24 {
            for j in 0..i {
                assert_ne!(look(i), look(j));
            }
        }
    }
}
