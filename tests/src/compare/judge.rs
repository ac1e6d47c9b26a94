//! From measured rounds to what they mean: [`summary`] of a cell, [`ratio`]s of pairs, [`conclusion`]s
//! in words and [`warning`]s.
//!
//! Every sentence is made from figures of the comparison at hand; a cause is named only if it was
//! counted there.

pub mod conclusion;
#[cfg(test)]
pub(super) mod example;
mod place;
pub mod ratio;
pub mod summary;
pub mod warning;

pub use summary::{Shape, summarize};

use super::result::Comparison;

/// Fills in ratios, conclusions and warnings, whatever was there before. The cells must have their
/// summaries.
pub fn judge(comparison: &mut Comparison) {
    comparison.ratios = ratio::ratios(comparison);
    comparison.conclusions = conclusion::conclusions(comparison);
    comparison.warnings = warning::warnings(comparison);
}
