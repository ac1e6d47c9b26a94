//! The load generator behind `tcpecho-load`: connections that send, wait for the echo, and compare
//! every byte of it.
//!
//! In reading order: [`cli`] and [`plan`] say what is to be done, [`run`] does it with [`worker`]s,
//! each with a poll (and a [`ring`]) and its share of the [`connection`]s; [`pattern`] is what they send,
//! [`pace`] when, [`stamps`] when it was on the wire, [`meter`] what of it counts, [`failure`] what can go
//! wrong; [`summary`] adds it up to the
//! [`report`], which [`table`], [`json`] and [`hdr`] tell in different tongues.

pub mod cli;
pub mod clock;
pub mod connection;
pub mod failure;
pub mod hdr;
pub mod interrupt;
pub mod json;
pub mod latency;
pub mod meter;
pub mod output;
pub mod pace;
pub mod pattern;
pub mod plan;
pub mod processor;
pub mod progress;
pub mod report;
pub mod ring;
pub mod run;
pub mod source;
pub mod stamps;
pub mod summary;
pub mod table;
pub mod worker;
