//! One file per concurrency model, each with its own whole accept loop. No model imports another.

mod fork;
mod iterative;
mod reactor;
mod thread;

use tcpecho_common::Model;

use crate::cli::Config;
use crate::counters::Counters;
use crate::failure::Failure;
use crate::listener::Listener;
use crate::signals::Wake;

/// What every model is given.
pub struct Server {
    /// Where clients arrive.
    pub listener: Listener,
    /// What the command line says.
    pub config: Config,
    /// What SIGUSR1 shows.
    pub counters: &'static Counters,
}

/// Serves until a signal ends it. Errors: only what makes the listening socket unusable.
pub fn serve(server: Server) -> Result<(), Failure> {
    match server.config.model {
        Model::Iterative => iterative::serve(server),
        Model::Fork => fork::serve(server),
        Model::Thread => thread::serve(server),
        Model::Reactor => reactor::serve(server),
    }
}

/// How the model's loop gets to know of signals.
pub fn wake(model: Model) -> Wake {
    match model {
        Model::Iterative | Model::Fork | Model::Thread => Wake::Interrupt,
        Model::Reactor => Wake::Pipe,
    }
}
