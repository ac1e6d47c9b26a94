//! Threads that block, and how the main thread counts them, interrupts them and waits for their end.
//!
//! Only a call that is blocked can be interrupted, and whether it is blocked already nobody can
//! tell; so they are interrupted again and again until they have noticed (see [`signals`]).

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc;

use crate::signals;

/// Enough for echo() and a log line; the buffer is on the heap.
pub const STACK: usize = 128 * 1024;

/// The threads of a server.
///
/// They are not detached but joined, by those that leave later: pthread_detach(3) looks at the
/// thread a last time after it has let go of it, and if the thread has ended meanwhile and its
/// stack has been given back, that is a crash (glibc 2.36; rare, for it keeps 40 MiB of stacks).
#[derive(Default)]
pub struct Crew {
    threads: Mutex<Threads>,
    one_left: Condvar,
    leaving: Mutex<Vec<JoinHandle<()>>>,
}

type Threads = HashMap<u64, Place>;

/// What is known of a thread; both come some time after it has been started.
#[derive(Default)]
struct Place {
    itself: Option<libc::pthread_t>,
    handle: Option<JoinHandle<()>>,
}

impl Crew {
    /// A place for the thread with this number, which is to be started now.
    pub fn join(self: &Arc<Self>, nth: u64) -> Member {
        self.lock().insert(nth, Place::default());
        Member {
            crew: Arc::clone(self),
            nth,
        }
    }

    /// The thread of this member has been started.
    pub fn keep(&self, nth: u64, handle: JoinHandle<()>) {
        if let Some(place) = self.lock().get_mut(&nth) {
            place.handle = Some(handle);
            return;
        }
        // It has left already.
        join(handle);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Interrupts the blocked calls of all. Returns how many there are.
    pub fn interrupt(&self) -> usize {
        let threads = self.lock();
        // A thread that is in the table has not ended: it leaves under this lock.
        threads
            .values()
            .filter_map(|place| place.itself)
            .for_each(signals::interrupt);
        threads.len()
    }

    /// Waits for a thread to leave, but not for long: a signal does not end this wait.
    pub fn wait_for_one_to_leave(&self, at_most: Duration) {
        let threads = self.lock();
        drop(self.one_left.wait_timeout(threads, at_most));
    }

    /// Waits for all to leave, but not for long. To interrupt the others whenever one leaves would be
    /// quadratic, under the lock that the leaving wait for: 4,000 threads took 10 s to stop.
    pub fn wait_for_all_to_leave(&self, at_most: Duration) {
        let threads = self.lock();
        let some_left = |threads: &mut Threads| !threads.is_empty();
        drop(
            self.one_left
                .wait_timeout_while(threads, at_most, some_left),
        );
    }

    /// Of a thread that leaves: joins those that have come to their end, and is joined later. It
    /// does not wait for those that are still leaving: they do the same, and all would queue up.
    fn leave(&self, handle: JoinHandle<()>) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, mut others): (Vec<_>, Vec<_>) = std::mem::take(&mut *leaving)
            .into_iter()
            .partition(JoinHandle::is_finished);
        others.push(handle);
        *leaving = others;
        drop(leaving);
        ended.into_iter().for_each(join);
    }

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For threads that are about to end.
fn join(handle: JoinHandle<()>) {
    // A panic has been told by the one that panicked.
    let _ = handle.join();
}

/// One thread's place in the crew, left when it is dropped: also by a panic, and also when the
/// thread could not be created.
pub struct Member {
    crew: Arc<Crew>,
    /// Its number.
    pub nth: u64,
}

impl Member {
    /// Called by the thread itself.
    pub fn can_be_interrupted(&self) {
        if let Some(place) = self.crew.lock().get_mut(&self.nth) {
            place.itself = Some(signals::this_thread());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let place = self.crew.lock().remove(&self.nth);
        self.crew.one_left.notify_one();
        // If it has not been kept yet, the one who comes to keep it joins it.
        if let Some(handle) = place.and_then(|place| place.handle) {
            self.crew.leave(handle);
        }
    }
}
