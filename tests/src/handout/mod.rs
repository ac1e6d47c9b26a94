//! What remains of a performance when the class has gone: files to hand in, to play, to read.
//!
//! [`transcript`] is the dated log, written while it happens; [`cast`] what the terminal showed;
//! [`json`] all of it as data. The packets are [`crate::observe::pcap`]'s.

pub mod cast;
pub mod files;
pub mod json;
pub mod transcript;
