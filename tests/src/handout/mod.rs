//! What remains of a performance when the class has gone: files to hand in, to play, to open.
//!
//! [`cast`] is what the terminal showed. The packets are [`crate::observe::pcap`]'s.

pub mod cast;
pub mod date;
