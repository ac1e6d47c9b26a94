//! The classic mistakes that the server commits on request, so that their symptoms can be seen.
//!
//! A mistake is one small branch at the place where it is made. This file only knows their names,
//! the models in which they can be made, what one sees, and where the course comes to it.

use std::fmt::{self, Write as _};

use clap::ValueEnum;

use crate::Model;
use crate::usage::fill;

/// An error to commit on purpose. The first line of each comment is the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Mistake {
    // Children.
    /// Children are not waited for while the server runs: each leaves a zombie
    NoReaper,
    /// One wait per SIGCHLD, although signals do not queue: some zombies stay
    WaitOnce,
    /// `while (wait3(...) >= 0)`: 0 says that children are alive, and the reaper spins
    Wait3Spin,

    // Descriptors after fork.
    /// The parent does not close its copy of the connection: no FIN is ever sent
    LeakConnfd,
    /// The children keep the listening socket: it outlives the parent
    KeepListenfd,
    /// The connection is closed inside the read loop, after the first echo
    CloseInLoop,

    // Accepting.
    /// The listening socket is closed and the server returns after the first client
    OneClient,
    /// An interrupted accept ends the server
    FatalEintr,
    /// Bind without `SO_REUSEADDR`: no restart while `TIME_WAIT` lasts
    NoReuseaddr,
    /// Accept is tried again at once when descriptors have run out
    SpinOnEmfile,

    // Peers that vanish.
    /// SIGPIPE is left as it is: a write to a reset connection kills the process
    DefaultSigpipe,
    /// A failure of one connection ends the server
    DieOnReset,
    /// At a peer's FIN its connection is closed, whatever it is still owed
    CloseOnFin,

    // Bytes.
    /// A write that took a part is taken for one that took all
    ShortWrite,
    /// A write waits for one peer, and everybody else waits for the write
    BlockingWrite,
    /// One read per edge: what does not fit stays in the kernel until the next one
    ReadOnce,
    /// Reads on while the peer does not take its echoes
    UnboundedBuffer,
    /// All threads use one buffer
    StaticBuffer,

    // Answering.
    /// Each answer takes 10 ms to find, and the thread sleeps meanwhile, as in a database query
    ///
    /// Where each client has a process or a thread this is no mistake: it is what they are for, the
    /// others run meanwhile. It is one where a thread serves many: nobody else has his turn.
    SlowHandler,
}

/// Those that wait for children that come and go.
const CHILDREN: &[Model] = &[Model::Fork, Model::Exec];

/// Those that are driven by `EchoConn`.
const READINESS: &[Model] = &[Model::Select, Model::Poll, Model::Reactor];

impl Mistake {
    /// All mistakes, in the order of the tables.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoReaper => "no-reaper",
            Self::WaitOnce => "wait-once",
            Self::Wait3Spin => "wait3-spin",
            Self::LeakConnfd => "leak-connfd",
            Self::KeepListenfd => "keep-listenfd",
            Self::CloseInLoop => "close-in-loop",
            Self::OneClient => "one-client",
            Self::FatalEintr => "fatal-eintr",
            Self::NoReuseaddr => "no-reuseaddr",
            Self::SpinOnEmfile => "spin-on-emfile",
            Self::DefaultSigpipe => "default-sigpipe",
            Self::DieOnReset => "die-on-reset",
            Self::CloseOnFin => "close-on-fin",
            Self::ShortWrite => "short-write",
            Self::BlockingWrite => "blocking-write",
            Self::ReadOnce => "read-once",
            Self::UnboundedBuffer => "unbounded-buffer",
            Self::StaticBuffer => "static-buffer",
            Self::SlowHandler => "slow-handler",
        }
    }

    /// The models in which it can be made; also those that are not on the command line (yet).
    pub fn models(self) -> &'static [Model] {
        match self {
            Self::NoReaper | Self::WaitOnce | Self::Wait3Spin => CHILDREN,
            // exec closes it by itself, if it is marked so; in a pool each has it for a reason.
            Self::LeakConnfd | Self::KeepListenfd => &[Model::Fork],
            // Where a process has one connection at a time: elsewhere the number may be somebody
            // else's by the time it is closed again.
            Self::CloseInLoop => &[Model::Iterative, Model::Fork],
            Self::OneClient => &[Model::Iterative],
            Self::FatalEintr => &[Model::Iterative, Model::Fork, Model::Exec, Model::Thread],
            Self::NoReuseaddr | Self::SlowHandler => Model::all(),
            // Whoever calls accept() and write(): io_uring accepts in the kernel, and sends without the
            // signal.
            Self::SpinOnEmfile | Self::DefaultSigpipe => &[
                Model::Iterative,
                Model::Fork,
                Model::Exec,
                Model::Prefork,
                Model::Thread,
                Model::ThreadPool,
                Model::Select,
                Model::Poll,
                Model::Reactor,
                Model::Async,
            ],
            // Where the process that ends serves others, too.
            Self::DieOnReset => &[
                Model::Iterative,
                Model::Thread,
                Model::ThreadPool,
                Model::Select,
                Model::Poll,
                Model::Reactor,
            ],
            Self::ShortWrite | Self::BlockingWrite | Self::UnboundedBuffer => READINESS,
            Self::CloseOnFin | Self::ReadOnce => &[Model::Reactor],
            Self::StaticBuffer => &[Model::Thread, Model::ThreadPool],
        }
    }

    /// What one sees when it has been made.
    pub const fn symptom(self) -> &'static str {
        match self {
            Self::NoReaper => "ps shows a <defunct> child for every client that has left",
            Self::WaitOnce => {
                "when several clients leave at once, ps shows some <defunct> children"
            }
            Self::Wait3Spin => {
                "when one of two clients has left, top shows the parent at 100 % CPU, and the next client is not accepted before the other has left too"
            }
            Self::LeakConnfd => {
                "the client closes its half and waits for ever: ss shows CLOSE-WAIT at the parent, one more for every client, until its descriptors run out"
            }
            Self::KeepListenfd => {
                "after kill -9 of the parent clients connect and get no answer, and a restart fails with EADDRINUSE as long as a child lives"
            }
            Self::CloseInLoop => {
                "the first line (of up to 4096 bytes) comes back, then the connection ends; -vvv shows read failing with EBADF"
            }
            Self::OneClient => "the first client is served well, the second is refused",
            Self::FatalEintr => {
                "the server exits when a signal arrives during accept: where it has children, when the first of them ends"
            }
            Self::NoReuseaddr => "a restart fails with EADDRINUSE for the 60 s of TIME_WAIT",
            Self::SpinOnEmfile => {
                "with no descriptor left (a low ulimit -Hn, many clients), top shows the server at 100 % CPU when a client comes, and strace accept failing with EMFILE again and again"
            }
            Self::DefaultSigpipe => {
                "a client that has closed its half and vanishes while the server writes to it kills the server without a word (for fork: its child), and so does kill -PIPE; the shell's $? is 141"
            }
            Self::DieOnReset => {
                "one client's reset ends the server with exit code 1, and everybody's connection with it"
            }
            Self::CloseOnFin => {
                "a client that closes its half before all has come back loses the rest: FIN or RST instead of bytes"
            }
            Self::ShortWrite => {
                "a client that does not read for a while misses what did not fit into the kernel's buffers meanwhile"
            }
            Self::BlockingWrite => {
                "one client that sends and never reads stops the echoes of all others; -vvv shows it waiting: write(N) ..."
            }
            Self::ReadOnce => {
                "of a message of more than 4096 bytes the rest comes back only when the client sends more; ss shows it in Recv-Q; a client that has no more to send waits for ever"
            }
            Self::UnboundedBuffer => {
                "the memory of the server (RSS in ps) grows with what a client sends and never reads; here up to 512 MB"
            }
            Self::StaticBuffer => "clients that send at the same time get each other's bytes",
            Self::SlowHandler => {
                "each echo takes 10 ms; where one thread serves all clients, each also waits for the echoes of all others: 100 in a second, for all together; where each has a process or a thread there is nothing more to see, for it is meant to sleep"
            }
        }
    }

    /// Which section of UNP comes to it, or which manual page where UNP does not.
    pub const fn section(self) -> &'static str {
        match self {
            Self::NoReaper | Self::FatalEintr => "UNP 5.9",
            Self::WaitOnce | Self::Wait3Spin => "UNP 5.10",
            Self::LeakConnfd | Self::KeepListenfd => "UNP 4.8",
            Self::CloseInLoop => "UNP 5.3",
            Self::OneClient => "UNP 1.5",
            Self::NoReuseaddr => "UNP 7.5",
            Self::SpinOnEmfile => "accept(2)",
            Self::DefaultSigpipe => "UNP 5.13",
            Self::DieOnReset => "UNP 6.11",
            Self::CloseOnFin => "UNP 6.6",
            Self::ShortWrite => "UNP 3.9",
            Self::BlockingWrite | Self::SlowHandler => "UNP 6.8",
            Self::ReadOnce => "epoll(7)",
            Self::UnboundedBuffer => "UNP 16.2",
            Self::StaticBuffer => "UNP 26.5",
        }
    }

    /// The table of all of them, for a terminal of 100 columns.
    pub fn table() -> String {
        let mut table = format!("{:<18}{:<11}MODELS\n", "MISTAKE", "SECTION");
        for mistake in Self::all() {
            let there = |model: &&Model| mistake.models().contains(model);
            let models: Vec<_> = Model::all()
                .iter()
                .filter(there)
                .map(|m| m.name())
                .collect();
            // Writing to a String cannot fail.
            let _ = write!(table, "{:<18}{:<11}", mistake.name(), mistake.section());
            fill(&mut table, 29, &models.join(", "));
            table += &" ".repeat(18);
            fill(&mut table, 18, mistake.symptom());
        }
        table
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for mistake in Mistake::all() {
            let value = mistake.to_possible_value().expect("no mistake is hidden");
            assert_eq!(value.get_name(), mistake.name());
        }
    }

    #[test]
    fn each_can_be_made_by_a_model_of_the_command_line() {
        for mistake in Mistake::all() {
            let mut models = mistake.models().iter();
            assert!(
                models.any(|model| Model::all().contains(model)),
                "{mistake}"
            );
        }
    }

    #[test]
    fn the_table_fits_and_leaves_nothing_out() {
        let table = Mistake::table();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for mistake in Mistake::all() {
            assert!(
                words(&table).contains(&words(mistake.symptom())),
                "{mistake}"
            );
        }
        for line in table.lines() {
            assert!(line.len() <= 100 && line.trim_end() == line, "{line}");
        }
    }
}
