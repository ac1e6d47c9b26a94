//! What the programs must agree on, and nothing else: the models and mistakes and their names,
//! how a system call of ours is observed, where log lines go, the ready line, exit codes,
//! units, how a wrong command line is told, what the kernel's queues hold, buffers for io_uring.

pub mod calls;
pub mod defaults;
pub mod exit;
pub mod logging;
pub mod mistake;
pub mod model;
#[cfg(feature = "uring")]
pub mod provided;
pub mod queues;
pub mod ready;
pub mod sink;
pub mod units;
pub mod usage;

pub use exit::Exit;
pub use mistake::Mistake;
pub use model::Model;
