//! Pictures of a comparison, as SVG inside a page. [`scale`] knows where things lie, [`lines`] and
//! [`bars`] draw, [`pictures`] knows what. Colours, fonts and dashes are the style sheet's
//! (`report.css`), so that a picture follows its page into the dark and onto paper.

pub mod bars;
pub mod lines;
pub mod pictures;
pub mod scale;

use crate::page::markup::{Markup, place};
use crate::page::svg::{line, words};

/// How wide every picture is drawn; the page scales it.
const WIDTH: f64 = 540.0;

/// About how wide a letter is, in the size that labels have.
const LETTER: f64 = 7.6;

/// Looks of lines there are: as many as the style sheet has classes `look-0`, `look-1`, ...
const LOOKS: usize = 8;

/// What stands above, beneath and behind a picture.
#[derive(Clone, Debug)]
pub struct Text {
    /// Unique in its page, made of letters, digits and dashes.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// The same as the picture, for those who cannot see it.
    pub description: String,
    /// How to read it.
    pub how: String,
}

/// A picture on a page: heading, drawing, how to read it.
fn figure(text: &Text, height: f64, draw: impl FnOnce(&mut Markup)) -> String {
    let mut page = Markup::default();
    page.tag("figure").holding(|page| {
        page.tag("h4").saying(&text.title);
        svg(page, text, height, draw);
        page.tag("figcaption").holding(|page| {
            page.tag("b").saying("How to read this:");
            page.say(&format!(" {}", text.how));
        });
    });
    page.finish()
}

fn svg(page: &mut Markup, text: &Text, height: f64, draw: impl FnOnce(&mut Markup)) {
    let (title, description) = (format!("{}-title", text.id), format!("{}-desc", text.id));
    page.tag("svg")
        .with(
            "viewBox",
            &format!("0 0 {} {}", place(WIDTH), place(height)),
        )
        .with("role", "img")
        .with("aria-labelledby", &format!("{title} {description}"))
        .holding(|page| {
            page.tag("title").with("id", &title).saying(&text.title);
            page.tag("desc")
                .with("id", &description)
                .saying(&text.description);
            draw(page);
        });
}

/// A contestant's name where there is room for `letters`: the whole of a longer one shows when it is
/// pointed at.
fn name(page: &mut Markup, class: &str, at: (f64, f64), name: &str, letters: usize) {
    let text = page.tag("text").class(class).at("x", at.0).at("y", at.1);
    if name.chars().count() <= letters {
        return text.saying(name);
    }
    let start: String = name.chars().take(letters - 1).collect();
    text.holding(|page| {
        page.tag("title").saying(name);
        page.say(&format!("{}\u{2026}", start.trim_end()));
    });
}

/// A mark of the kind that belongs to a look, so that lines can be told apart without colours.
fn mark(page: &mut Markup, look: usize, (x, y): (f64, f64)) {
    let shape = [
        "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        "M-4-4h8v8h-8z",
        "M0-5l5 9h-10z",
        "M0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
        "M0 5l5-9h-10z",
    ];
    page.tag("path")
        .class(&format!("mark look-{}", look % LOOKS))
        .with("d", shape[look % shape.len()])
        .with(
            "transform",
            &format!("translate({} {})", place(x), place(y)),
        )
        .empty();
}

/// Places as near to `wanted` as can be, in the same order, at least `gap` apart, within `room`.
fn apart(wanted: &[f64], gap: f64, room: (f64, f64)) -> Vec<f64> {
    let gap = gap.min((room.1 - room.0) / wanted.len().max(2) as f64);
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = wanted.to_vec();
    let mut free = room.0;
    for &i in &order {
        places[i] = wanted[i].max(free);
        free = places[i] + gap;
    }
    let mut free = room.1;
    for &i in order.iter().rev() {
        places[i] = places[i].min(free);
        free = places[i] - gap;
    }
    places
}

/// A number with its unit as short as an axis has it: `10 us`, not `10.0 us`.
pub(crate) fn short(figure: &str) -> String {
    let (number, unit) = figure.split_once(' ').unwrap_or((figure, ""));
    let number = match number.split_once('.') {
        Some(_) => number.trim_end_matches('0').trim_end_matches('.'),
        None => number,
    };
    match number {
        "0" => number.into(),
        _ => format!("{number} {unit}").trim_end().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn axes_write_their_numbers_short() {
        assert_eq!(short("10.0 us"), "10 us");
        assert_eq!(short("1.50 ms"), "1.5 ms");
        assert_eq!(short("100 us"), "100 us");
        assert_eq!(short("0 ns"), "0");
        assert_eq!(short("8,000"), "8,000");
    }

    #[test]
    fn a_long_name_is_cut_and_kept() {
        let mut page = Markup::default();
        name(&mut page, "left", (1.0, 2.0), "a long <name> indeed", 7);
        let text = page.finish();
        assert!(
            text.contains("<title>a long &lt;name&gt; indeed</title>"),
            "{text}"
        );
        assert!(text.contains("\na long\u{2026}</text>"), "{text}");
    }

    proptest! {
        #[test]
        fn labels_keep_apart_and_in_order(wanted in prop::collection::vec(0.0..300.0_f64, 1..25)) {
            let places = apart(&wanted, 16.0, (10.0, 290.0));
            let gap = 16.0_f64.min(280.0 / wanted.len().max(2) as f64);
            for (i, a) in places.iter().enumerate() {
                prop_assert!((9.99..=290.01).contains(a), "{places:?}");
                for (j, b) in places.iter().enumerate().skip(i + 1) {
                    prop_assert!((a - b).abs() >= gap - 1e-6, "{places:?}");
                    prop_assert!(wanted[i] >= wanted[j] || a < b, "{places:?}");
                }
            }
        }
    }
}
