//! What a comparison is written as, to be kept or handed on: each a function of the comparison alone.

pub mod csv;
pub mod html;
pub mod json;
pub mod markdown;
