//! One file per concurrency model, each with its own whole accept loop. No model imports another.

mod exec;
mod fork;
mod iterative;
mod poll;
mod prefork;
mod reactor;
mod select;
mod tasks;
mod thread;
mod thread_pool;
#[cfg(all(feature = "uring", target_os = "linux"))]
mod uring;

use nix::libc::STDOUT_FILENO;
use tcpecho_common::Model;
use tcpecho_common::ready::Ready;
use tcpecho_common::sink::Sink;

use crate::cli::Config;
use crate::counters::Counters;
use crate::failure::Failure;
use crate::listener::Listener;
use crate::manager;
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

impl Server {
    /// Prints the ready line, and tells the service manager; each model does, once it has everything it needs to accept. A stdout
    /// that nobody reads is no reason not to serve.
    fn announce(&self) {
        let ready = Ready {
            address: self.listener.address(),
            model: self.config.model,
            pid: std::process::id(),
        };
        let told =
            Sink::over(STDOUT_FILENO).and_then(|mut out| out.line(format!("{ready}\n").as_bytes()));
        if let Err(errno) = told {
            log::warn!("the ready line could not be printed: {errno}");
        }
        log::info!("{ready}");
        manager::tell("READY=1");
    }
}

/// Serves until a signal ends it. Errors: only what keeps it from starting to, or makes the
/// listening socket unusable.
pub fn serve(server: Server) -> Result<(), Failure> {
    match server.config.model {
        Model::Iterative => iterative::serve(server),
        Model::Fork => fork::serve(server),
        Model::Exec => exec::serve(server),
        Model::Prefork => prefork::serve(&server),
        Model::Thread => thread::serve(server),
        Model::ThreadPool => thread_pool::serve(server),
        Model::Select => select::serve(server),
        Model::Poll => poll::serve(server),
        Model::Reactor => reactor::serve(server),
        Model::Async => tasks::serve(server),
        #[cfg(all(feature = "uring", target_os = "linux"))]
        Model::Uring => uring::serve(server),
        #[cfg(not(all(feature = "uring", target_os = "linux")))]
        Model::Uring => Err(Failure::plain(NO_URING)),
    }
}

/// Why the model cannot be had in this build, where it cannot.
pub fn missing(model: Model) -> Option<&'static str> {
    let built = cfg!(all(feature = "uring", target_os = "linux"));
    (model == Model::Uring && !built).then_some(NO_URING)
}

const NO_URING: &str = "not in this build, which is without the cargo feature uring";

/// To be called before anything is opened or logged: has the model other plans for the descriptors
/// that the command line names?
pub fn prepare(config: &mut Config) -> Result<(), Failure> {
    match config.model {
        Model::Exec => exec::put_aside(config),
        _ => Ok(()),
    }
}

/// How the model's loop gets to know of signals.
pub fn wake(model: Model) -> Wake {
    match model {
        Model::Iterative
        | Model::Fork
        | Model::Exec
        | Model::Prefork
        | Model::Thread
        | Model::ThreadPool => Wake::Interrupt,
        Model::Select | Model::Poll | Model::Reactor | Model::Async | Model::Uring => Wake::Pipe,
    }
}
