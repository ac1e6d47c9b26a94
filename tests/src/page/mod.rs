//! What the pages that we write have in common: tags, the look, the words that Markdown leaves alone.

pub mod markdown;
pub mod markup;
pub mod svg;

use crate::page::markup::Markup;

const LOOK: &str = include_str!("look.css");

/// A page that needs no network and no script: its title, its styles behind the common ones, its body.
pub fn document(title: &str, style: &str, body: impl FnOnce(&mut Markup)) -> String {
    let mut page = Markup::default();
    page.raw("<!DOCTYPE html>\n");
    page.tag("html").with("lang", "en").holding(|page| {
        page.tag("head").holding(|page| {
            page.tag("meta").with("charset", "utf-8").empty();
            let viewport = "width=device-width, initial-scale=1";
            page.tag("meta")
                .with("name", "viewport")
                .with("content", viewport)
                .empty();
            page.tag("title").saying(title);
            page.tag("style").holding(|page| {
                page.raw(LOOK);
                page.raw(style);
            });
        });
        page.tag("body").holding(body);
    });
    page.finish()
}
