//! A program that was started in a process group of its own.
