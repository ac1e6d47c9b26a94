//! Everything that drives the programs from outside.
