//! JSON: everything, for programs; the format is [`crate::compare::result`].

use anyhow::{Context, Result};

use crate::compare::result::Comparison;

/// The whole comparison, indented. Fails if it has a number that JSON does not know.
pub fn json(comparison: &Comparison) -> Result<String> {
    let text = serde_json::to_string_pretty(comparison).context("this comparison is no JSON")?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;

    #[test]
    fn what_is_written_can_be_read_again() {
        let comparison = fixture::comparison();
        let text = json(&comparison).expect("numbers");
        let read: Comparison = serde_json::from_str(&text).expect("what was written");
        assert_eq!(read, comparison);
        assert!(text.contains("\n  \"rounds\": 5,\n"), "indented");
    }
}
