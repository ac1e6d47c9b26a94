//! A writer of tags, for HTML and for the pictures in it. It closes what it opens and escapes what
//! comes from outside; what it has written is well-formed XML, whatever it was given.

use std::fmt::Write as _;

/// Elements without content, in the same way for XML and for HTML.
const VOID: &[&str] = &[
    "br", "input", "meta", "circle", "line", "path", "rect", "use",
];

/// What has been written so far.
#[derive(Debug, Default)]
pub struct Markup {
    text: String,
}

impl Markup {
    /// Begins an element; its attributes follow, then its content.
    pub fn tag(&mut self, name: &'static str) -> Tag<'_> {
        let _ = write!(self.text, "<{name}");
        Tag { markup: self, name }
    }

    /// Text, as it is to be read.
    pub fn say(&mut self, text: &str) {
        escape(&mut self.text, text);
    }

    /// What is markup already.
    pub fn raw(&mut self, markup: &str) {
        self.text.push_str(markup);
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }
}

/// An element whose attributes are being written.
#[derive(Debug)]
#[must_use = "it is not closed yet"]
pub struct Tag<'a> {
    markup: &'a mut Markup,
    name: &'static str,
}

impl Tag<'_> {
    /// An attribute in words.
    pub fn with(self, name: &str, value: &str) -> Self {
        let _ = write!(self.markup.text, " {name}=\"");
        escape(&mut self.markup.text, value);
        self.markup.text.push('"');
        self
    }

    /// The same, under the name that style sheets look for.
    pub fn class(self, value: &str) -> Self {
        self.with("class", value)
    }

    /// An attribute that is a length or a place, to a tenth. What is no number, or is on no page, is
    /// left out.
    pub fn at(self, name: &str, value: f64) -> Self {
        if value.abs() < 1e6 {
            self.with(name, &place(value))
        } else {
            self
        }
    }

    /// Closes it at once.
    pub fn empty(self) {
        if VOID.contains(&self.name) {
            self.markup.text.push_str("/>\n");
        } else {
            self.holding(|_| ());
        }
    }

    /// Text and nothing else in it.
    pub fn saying(self, text: &str) {
        self.holding(|markup| markup.say(text));
    }

    /// The same in the middle of a line: nothing behind it, not even a line end.
    pub fn inline(self, text: &str) {
        let name = self.name;
        self.markup.text.push('>');
        self.markup.say(text);
        let _ = write!(self.markup.text, "</{name}>");
    }

    /// Anything in it.
    pub fn holding(self, content: impl FnOnce(&mut Markup)) {
        self.markup.text.push('>');
        content(self.markup);
        let _ = writeln!(self.markup.text, "</{}>", self.name);
    }
}

/// A place in a picture: no more digits than one can see.
pub fn place(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    // Adding 0 makes -0 an ordinary one.
    format!("{}", rounded + 0.0)
}

/// As text and in attributes. What XML cannot hold at all (control characters) becomes a replacement
/// character.
fn escape(into: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '&' => into.push_str("&amp;"),
            '"' => into.push_str("&quot;"),
            '\n' | '\t' => into.push(char),
            '\u{fffe}' | '\u{ffff}' => into.push(char::REPLACEMENT_CHARACTER),
            char if char.is_control() => into.push(char::REPLACEMENT_CHARACTER),
            char => into.push(char),
        }
    }
}

/// Is every element closed where it must be, and everything escaped? For tests: says what is wrong.
#[cfg(test)]
pub(crate) fn check(document: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = document.trim_start_matches("<!DOCTYPE html>\n");
    while let Some(start) = rest.find('<') {
        check_text(&rest[..start])?;
        let end = rest[start..].find('>').ok_or("a tag without end")? + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes something else"));
            }
        } else {
            let name = check_tag(tag.trim_end_matches('/'))?;
            if !tag.ends_with('/') {
                open.push(name);
            }
            if name == "style" {
                rest = &rest[rest.find("</style>").ok_or("a style without end")?..];
            }
        }
    }
    check_text(rest)?;
    open.is_empty()
        .then_some(())
        .ok_or(format!("not closed: {open:?}"))
}

/// Any text, with much of what is special somewhere.
#[cfg(test)]
pub(crate) fn any_text() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let special: Vec<char> = "\0\r\n\t\x1b\u{fffe}\"',<>&|`*_".chars().collect();
    let char = prop_oneof![any::<char>(), prop::sample::select(special)];
    prop::collection::vec(char, 0..20).prop_map(String::from_iter)
}

#[cfg(test)]
fn check_text(text: &str) -> Result<(), String> {
    let stray = text.split('&').skip(1).find(|after| {
        !["lt;", "gt;", "amp;", "quot;"]
            .iter()
            .any(|known| after.starts_with(known))
    });
    match stray {
        None if text.contains(['>', '"']) => Err(format!("not escaped: {text}")),
        None => Ok(()),
        Some(stray) => Err(format!("not escaped: &{stray}")),
    }
}

/// The tag's name, if each attribute is there once, quoted and escaped.
#[cfg(test)]
fn check_tag(tag: &str) -> Result<&str, String> {
    let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
    let mut seen = Vec::new();
    while !attributes.is_empty() {
        let (attribute, rest) = attributes
            .split_once("=\"")
            .ok_or(format!("<{tag}> has an attribute without value"))?;
        let (value, rest) = rest.split_once('"').ok_or(format!("<{tag}>: no end"))?;
        check_text(value)?;
        let drawn = ["d", "transform", "viewBox"].contains(&attribute);
        let endless = value == "inf" || value == "-inf" || drawn && value.contains("inf");
        if seen.contains(&attribute) || drawn && value.contains("NaN") || endless {
            return Err(format!("<{tag}>: {attribute}=\"{value}\""));
        }
        seen.push(attribute);
        attributes = rest.trim_start();
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_are_closed_and_text_is_escaped() {
        let mut markup = Markup::default();
        markup.tag("p").class("a").holding(|markup| {
            markup.say("1 < 2 & \"x\"");
            markup.tag("br").empty();
            markup.tag("b").at("x", -0.04).at("y", f64::NAN).empty();
        });
        let expected = "<p class=\"a\">1 &lt; 2 &amp; &quot;x&quot;<br/>\n<b x=\"0\"></b>\n</p>\n";
        assert_eq!(markup.finish(), expected);
    }

    #[test]
    fn the_check_finds_what_is_wrong() {
        assert_eq!(check("<p a=\"1\">x<br/></p>"), Ok(()));
        for wrong in [
            "<p>",
            "<p></b>",
            "<p>&</p>",
            "a > b",
            "<p a=1></p>",
            "<p d=\"M1 NaN\"/>",
            "<p a=\"1\" a=\"2\"/>",
            "</p>",
            "<p",
            "<p a=\"1></p>",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_stays_well_formed(text in any_text(), x in any::<f64>()) {
            let mut markup = Markup::default();
            markup.tag("p").with("title", &text).at("x", x).saying(&text);
            let written = markup.finish();
            prop_assert_eq!(check(&written), Ok(()));
            prop_assert!(!written.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
        }
    }
}
