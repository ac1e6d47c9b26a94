//! Markdown, as GitHub reads it: words that are only words, and blocks that end where they are to end.

/// Words that Markdown is to leave alone, on one line.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' => {
                escaped.push('\\');
                escaped.push(char);
            }
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Text as it is, in a fence longer than any in it; `language` may be empty.
pub fn fenced(language: &str, text: &str) -> String {
    let runs = text.split(|char| char != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or(0).max(2) + 1);
    format!(
        "{fence}{language}\n{}\n{fence}\n",
        text.trim_end_matches('\n')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_and_fences_hold() {
        assert_eq!(escaped("a | b\n<c>"), "a \\| b \\<c\\>");
        assert_eq!(fenced("text", "a\n"), "```text\na\n```\n");
        assert!(fenced("", "a ```` b").starts_with("`````\n"));
    }
}
