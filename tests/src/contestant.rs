//! Who must keep the promises: every model, some of them with flags that send it down another path.

use std::fmt;

use tcpecho_common::Model;
use tcpecho_common::model::Serves;

use crate::server::Server;

/// A model and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contestant {
    /// The model.
    pub model: Model,
    /// What else is on the command line.
    pub flags: &'static [&'static str],
}

/// One client at a time.
pub const ITERATIVE: Contestant = Contestant::plain(Model::Iterative);
/// A process per client.
pub const FORK: Contestant = Contestant::plain(Model::Fork);
/// A process per client that runs another program.
pub const EXEC: Contestant = Contestant::plain(Model::Exec);
/// A thread per client.
pub const THREAD: Contestant = Contestant::plain(Model::Thread);
/// All clients in one thread that waits with select.
pub const SELECT: Contestant = Contestant::plain(Model::Select);
/// All clients in one thread that waits with poll.
pub const POLL: Contestant = Contestant::plain(Model::Poll);
/// All clients in one thread.
pub const REACTOR: Contestant = Contestant::plain(Model::Reactor);
/// A thread that accepts, and two that serve.
pub const REACTOR_WITH_WORKERS: Contestant = Contestant {
    model: Model::Reactor,
    flags: &["--workers", "2"],
};
/// Processes forked in advance.
pub const PREFORK: Contestant = Contestant::plain(Model::Prefork);
/// Threads created in advance.
pub const THREAD_POOL: Contestant = Contestant::plain(Model::ThreadPool);
/// Workers that take turns in accept.
pub const PREFORK_WITH_ACCEPT_LOCK: Contestant = Contestant {
    model: Model::Prefork,
    flags: &["--accept-lock"],
};
/// Enough workers for the clients of any test that is not about thousands.
pub const PREFORK_WITH_MANY_WORKERS: Contestant = Contestant {
    model: Model::Prefork,
    flags: &["--workers", "64"],
};
/// The same, and only one of them in accept.
pub const PREFORK_WITH_MANY_WORKERS_AND_ACCEPT_LOCK: Contestant = Contestant {
    model: Model::Prefork,
    flags: &["--workers", "64", "--accept-lock"],
};
/// One for each of three clients.
pub const PREFORK_WITH_THREE_WORKERS: Contestant = Contestant {
    model: Model::Prefork,
    flags: &["--workers", "3"],
};
/// Threads, as many as clients in any test that is not about thousands.
pub const THREAD_POOL_WITH_MANY_WORKERS: Contestant = Contestant {
    model: Model::ThreadPool,
    flags: &["--workers", "64"],
};
/// A task per client.
pub const ASYNC: Contestant = Contestant::plain(Model::Async);
/// All clients in one thread, by completions.
pub const URING: Contestant = Contestant::plain(Model::Uring);
/// Reads and writes that time out (`SO_RCVTIMEO`), so that calls return EAGAIN now and then.
pub const THREAD_WITH_IDLE_TIMEOUT: Contestant = Contestant {
    model: Model::Thread,
    flags: &["--idle-timeout", "30s"],
};
/// Waits that end because a clock ticks.
pub const REACTOR_WITH_IDLE_TIMEOUT: Contestant = Contestant {
    model: Model::Reactor,
    flags: &["--idle-timeout", "30s"],
};
/// Waits that end because a clock ticks.
pub const ASYNC_WITH_IDLE_TIMEOUT: Contestant = Contestant {
    model: Model::Async,
    flags: &["--idle-timeout", "30s"],
};

/// All of them, as `promised!` has them.
pub const ALL: &[Contestant] = &[
    ITERATIVE,
    FORK,
    EXEC,
    PREFORK,
    PREFORK_WITH_ACCEPT_LOCK,
    THREAD,
    THREAD_POOL,
    SELECT,
    POLL,
    REACTOR,
    REACTOR_WITH_WORKERS,
    ASYNC,
    URING,
    THREAD_WITH_IDLE_TIMEOUT,
    REACTOR_WITH_IDLE_TIMEOUT,
    ASYNC_WITH_IDLE_TIMEOUT,
];

/// Makes one `#[test]` per promise and contestant, called `promise::contestant`. A promise is a
/// function `fn promise(&Contestant) -> anyhow::Result<()>` beside it.
///
/// By whom: `everybody`; `every model`, where flags make no difference or would be in the way;
/// `those that serve many at once`; `those that write by themselves`, where the kernel does not do it
/// for them, and it is clear who; `those that fork for each`; `those with a child for each of three`;
/// `pools`.
#[macro_export]
macro_rules! promised {
    (by everybody: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        iterative ITERATIVE,
        fork FORK,
        exec EXEC,
        prefork PREFORK,
        prefork_with_accept_lock PREFORK_WITH_ACCEPT_LOCK,
        thread THREAD,
        thread_pool THREAD_POOL,
        select SELECT,
        poll POLL,
        reactor REACTOR,
        reactor_with_workers REACTOR_WITH_WORKERS,
        r#async ASYNC,
        uring URING,
        thread_with_idle_timeout THREAD_WITH_IDLE_TIMEOUT,
        reactor_with_idle_timeout REACTOR_WITH_IDLE_TIMEOUT,
        async_with_idle_timeout ASYNC_WITH_IDLE_TIMEOUT,
    ])+); };
    (by every model: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        iterative ITERATIVE,
        fork FORK,
        exec EXEC,
        prefork PREFORK,
        thread THREAD,
        thread_pool THREAD_POOL,
        select SELECT,
        poll POLL,
        reactor REACTOR,
        reactor_with_workers REACTOR_WITH_WORKERS,
        r#async ASYNC,
        uring URING,
    ])+); };
    (by those that serve many at once: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        fork FORK,
        exec EXEC,
        prefork_with_many_workers PREFORK_WITH_MANY_WORKERS,
        prefork_with_many_workers_and_accept_lock PREFORK_WITH_MANY_WORKERS_AND_ACCEPT_LOCK,
        thread THREAD,
        thread_pool_with_many_workers THREAD_POOL_WITH_MANY_WORKERS,
        select SELECT,
        poll POLL,
        reactor REACTOR,
        reactor_with_workers REACTOR_WITH_WORKERS,
        r#async ASYNC,
        uring URING,
    ])+); };
    (by those that write by themselves: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        iterative ITERATIVE,
        fork FORK,
        exec EXEC,
        thread THREAD,
        thread_pool THREAD_POOL,
        select SELECT,
        poll POLL,
        reactor REACTOR,
        reactor_with_workers REACTOR_WITH_WORKERS,
        r#async ASYNC,
    ])+); };
    (by those that fork for each: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        fork FORK,
        exec EXEC,
    ])+); };
    (by those with a child for each of three: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        fork FORK,
        exec EXEC,
        prefork PREFORK_WITH_THREE_WORKERS,
    ])+); };
    (by pools: $($promise:ident)+) => { $crate::promised!(@ $($promise [
        prefork PREFORK,
        prefork_with_accept_lock PREFORK_WITH_ACCEPT_LOCK,
        thread_pool THREAD_POOL,
    ])+); };
    (@ $($promise:ident $contestants:tt)+) => {
        $(mod $promise { $crate::promised!(@@ $promise $contestants); })+
    };
    (@@ $promise:ident [$($name:ident $contestant:ident,)+]) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            super::$promise(&$crate::contestant::$contestant)
        })+
    };
}

impl Contestant {
    const fn plain(model: Model) -> Self {
        Self { model, flags: &[] }
    }

    /// This contestant, still to be started.
    pub fn server(&self) -> Server {
        let server = Server::model(self.model);
        self.flags.iter().copied().fold(server, Server::arg)
    }

    /// The same, serving no more than this many at a time: a pool has so many workers, the others are
    /// told not to accept more.
    pub fn capped(&self, at: usize) -> Server {
        let flag = match self.model.serves() {
            Serves::Workers => "--workers",
            Serves::One | Serves::All => "--max-connections",
        };
        self.server().arg(flag).arg(at.to_string())
    }

    /// The same, telling the life of its connections: for tests that are not about thousands.
    pub fn talkative(&self) -> Server {
        self.server().arg("-v")
    }
}

/// As on the command line.
impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.model)?;
        self.flags.iter().try_for_each(|flag| write!(f, " {flag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_is_a_contestant() {
        for model in Model::all() {
            assert!(
                ALL.iter().any(|contestant| contestant.model == *model),
                "{model}"
            );
        }
    }
}
