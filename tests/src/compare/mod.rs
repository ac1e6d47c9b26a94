//! `tcpecho-lab compare`: the models, and anybody else's server, under the same loads in turn.

pub mod account;
pub mod chart;
pub mod cli;
pub mod contestant;
pub mod environment;
pub mod export;
#[cfg(test)]
mod fixture;
pub mod hindered;
pub mod judge;
pub mod measure;
pub mod ranking;
pub mod result;
pub mod run;
pub mod schedule;
pub mod stats;
mod strace;
pub mod table;
pub mod terminal;
pub mod workload;
