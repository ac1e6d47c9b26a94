//! Everything that drives the programs from outside.
//!
//! [`binaries`] finds (and builds) them, [`server`] and [`client`] run them ([`program`] is what these
//! have in common), [`contestant`] names
//! the servers that all must keep the same promises, [`peer`] talks to them as no decent client
//! would, [`limit`] takes their descriptors away, [`wait`] waits for what they do, [`observe`] asks
//! the kernel what they did, [`netns`] gives an experiment a network and process table of its own,
//! [`skip`] says why there is none, [`sweep`] ends what was started when we are interrupted,
//! [`deathwatch`] when we are killed, [`stdout`] waits for no reader then, [`chance`] makes up what is
//! the same again for the same seed, [`actors`] are small programs for its labs, [`runner`] is what
//! performs these, [`soak`] does everything at once for a long
//! time; [`load`] is the load generator, [`compare`] puts the servers side by side under it,
//! [`figures`] writes their numbers, [`date`] dates, [`file`](mod@file) files that are all there or not at all,
//! [`page`] is what all pages have in common, [`handout`] what remains of a lab when it is over.

pub mod actors;
pub mod apart;
pub mod binaries;
pub mod chance;
pub mod client;
pub mod compare;
pub mod contestant;
pub mod date;
pub mod deathwatch;
pub mod figures;
pub mod file;
pub mod handout;
pub mod labs;
pub mod limit;
pub mod load;
pub mod narrate;
pub mod netns;
pub mod observe;
pub mod page;
pub mod peer;
pub mod program;
pub mod runner;
pub mod server;
pub mod skip;
pub mod soak;
pub mod stdout;
pub mod sweep;
pub mod wait;

mod output;
