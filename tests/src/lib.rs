//! Everything that drives the programs from outside.
//!
//! [`binaries`] finds (and builds) them, [`server`] and [`client`] run them, [`wait`] waits for
//! what they do, [`observe`] asks the kernel what they did, [`netns`] gives an experiment a network
//! and process table of its own.

pub mod binaries;
pub mod client;
pub mod labs;
pub mod narrate;
pub mod netns;
pub mod observe;
pub mod server;
pub mod wait;

mod output;
mod program;
