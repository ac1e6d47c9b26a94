//! `tcpecho-lab compare`: the models, and anybody else's server, under the same loads in turn.

pub mod judge;
pub mod result;
pub mod schedule;
pub mod stats;
