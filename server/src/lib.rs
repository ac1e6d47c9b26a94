//! `tcpechod`: a TCP echo server whose concurrency model is a command-line flag.
//!
//! A library with a thin program around it, so that manual pages and tests reach the pieces.
//! Reading order: [`cli`], [`listener`], [`accept`], then [`echo`] with `models/iterative.rs` and
//! its neighbours `fork` and `thread`, then [`conn`] with [`pipe`], [`table`], [`door`] and
//! [`event_loop`] with `models/reactor.rs` and its neighbours, then [`executor`] and [`driver`] with
//! `models/tasks.rs`.

pub mod accept;
pub mod children;
pub mod cli;
pub mod conn;
pub mod counters;
pub mod crew;
pub mod door;
pub mod driver;
pub mod echo;
pub mod end;
pub mod event_loop;
pub mod executor;
pub mod failure;
pub mod handler;
pub mod inetd;
pub mod inherited;
pub mod listener;
pub mod manager;
pub mod models;
pub mod pipe;
pub mod poller;
pub mod pool;
pub mod run_queue;
pub mod signals;
pub mod socket;
pub mod spin;
pub mod table;
