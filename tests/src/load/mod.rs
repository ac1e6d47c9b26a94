//! The load generator behind `tcpecho-load`: connections that send, wait for the echo, and compare
//! every byte of it.

pub mod hdr;
pub mod json;
pub mod latency;
pub mod progress;
pub mod report;
pub mod table;
