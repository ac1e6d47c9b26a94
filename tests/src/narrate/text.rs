//! Words on a page: filling in names, breaking lines.

use std::fmt::Write as _;

use anyhow::{Result, bail};

/// Names that texts and commands mention in braces, with what they stand for right now.
pub type Names = Vec<(&'static str, String)>;

/// Replaces `{name}` by what it stands for. A name that nobody has explained is an error: it would
/// otherwise be read out in front of a class.
pub fn fill(template: &str, names: &Names) -> Result<String> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, name, after)) = next_name(rest) {
        let Some((_, meaning)) = names.iter().find(|(known, _)| *known == name) else {
            bail!("nothing on the stage is called {{{name}}}");
        };
        let _ = write!(filled, "{before}{meaning}");
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The names that a text mentions in braces, in its order.
pub fn names_in(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((_, name, after)) = next_name(rest) {
        names.push(name);
        rest = after;
    }
    names
}

/// Splits at the first `{name}`: what is before it, the name, what is after it.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// Breaks running text into lines of at most `width` characters. Line ends in the text count as
/// spaces, an empty line separates paragraphs; a longer word gets a line of its own.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split("\n\n") {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(wrap_paragraph(paragraph, width));
    }
    lines
}

fn wrap_paragraph(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in paragraph.split_whitespace() {
        let length = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && length > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_unknown_ones_refused() {
        let names = vec![("child", "4711".to_string()), ("port", "9877".to_string())];
        let filled = fill("kill -KILL {child} # {port}", &names).expect("known names");
        assert_eq!(filled, "kill -KILL 4711 # 9877");
        assert_eq!(fill("no names", &names).expect("none"), "no names");
        let error = fill("kill {parent}", &names).expect_err("an unknown name");
        assert!(error.to_string().contains("{parent}"), "{error}");
        assert_eq!(names_in("kill {child} # {port}"), ["child", "port"]);
    }

    #[test]
    fn lines_break_between_words_and_paragraphs_stay_apart() {
        assert_eq!(wrap("one two\nthree", 7), ["one two", "three"]);
        assert_eq!(wrap("a b\n\nc", 10), ["a b", "", "c"]);
        assert_eq!(wrap("unbreakable a", 4), ["unbreakable", "a"]);
        for width in 60..=120 {
            let text = "the quick brown fox jumps over the lazy dog ".repeat(20);
            assert!(wrap(&text, width).iter().all(|l| l.len() <= width));
        }
    }
}
