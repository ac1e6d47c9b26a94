//! Two threads that add to one variable: each reads it, adds one, and stores the sum a millisecond
//! later. Meanwhile the other may have stored, too; with `lock` it must wait. `pthread_mutex_lock(3)`,
//! UNP 26.7.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::actors::{Actor, say, wait_for_ever};

/// `adding [lock]`.
pub static ACTOR: Actor = Actor {
    name: "adding",
    about: "[lock]: two threads add one to the same variable, 100 times each",
    perform,
};

/// How often each of them adds.
pub const TIMES: usize = 100;

/// What else a thread does between reading and storing.
const WORK: Duration = Duration::from_millis(1);

fn perform(args: &[String]) -> Result<()> {
    let locked = match args {
        [] => false,
        [word] if word == "lock" => true,
        _ => bail!("usage: adding {}", ACTOR.about),
    };
    let (test, lock, begin) = (AtomicUsize::new(0), Mutex::new(()), Barrier::new(2));
    let add = || {
        begin.wait();
        for _ in 0..TIMES {
            let _held = locked.then(|| lock.lock());
            let old = test.load(Relaxed);
            sleep(WORK);
            test.store(old + 1, Relaxed);
        }
    };
    scope(|scope| {
        scope.spawn(add);
        scope.spawn(add);
    });
    say(&format!("ready: test = {}", test.into_inner()))?;
    wait_for_ever()
}
