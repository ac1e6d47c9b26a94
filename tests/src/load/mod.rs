//! The load generator behind `tcpecho-load`: connections that send, wait for the echo, and compare
//! every byte of it.

pub mod latency;
pub mod report;
