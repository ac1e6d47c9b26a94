//! What pictures are drawn with; colours, fonts and strokes are the style sheets'.

use crate::page::markup::Markup;

/// A straight line.
pub(crate) fn line(page: &mut Markup, class: &str, from: (f64, f64), to: (f64, f64)) {
    page.tag("line")
        .class(class)
        .at("x1", from.0)
        .at("y1", from.1)
        .at("x2", to.0)
        .at("y2", to.1)
        .empty();
}

/// Words; `class` says on which side of the place they are.
pub(crate) fn words(page: &mut Markup, class: &str, at: (f64, f64), text: &str) {
    page.tag("text")
        .class(class)
        .at("x", at.0)
        .at("y", at.1)
        .saying(text);
}
