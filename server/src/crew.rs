//! Threads that block, and how the main thread counts them, interrupts them and waits for their end.
//!
//! Only a call that is blocked can be interrupted, and whether it is blocked already nobody can
//! tell; so they are interrupted again and again until they have noticed (see [`signals`]).
//!
//! They are plain POSIX threads, detached from the start (UNP 26.2). [`std::thread`] gives each a
//! stack for signal handlers, to tell of an overflow: six system calls, of which munmap makes all
//! processors forget addresses; with a thread per connection that was a quarter of the whole cost.
//! Here an overflow meets the guard page, and is a SIGSEGV without a word.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_name;

use crate::signals;

/// Enough for echo() and a log line.
const STACK: usize = 128 * 1024;

/// The threads of a server.
#[derive(Default)]
pub struct Crew {
    threads: Mutex<Threads>,
    one_left: Condvar,
}

/// By their numbers; each tells which it is when it has begun.
type Threads = HashMap<u64, Option<libc::pthread_t>>;

impl Crew {
    /// Starts a thread for the `nth` connection or place; ps(1) shows it as `KIND NTH`. A panic in
    /// `body` ends this thread only. Errors: EAGAIN (threads-max, a cgroup's pids.max, `ulimit -u`),
    /// ENOMEM; then `body` and what it had are gone.
    pub fn start(
        self: &Arc<Self>,
        kind: &'static str,
        nth: u64,
        body: impl FnOnce() + Send + 'static,
    ) -> nix::Result<()> {
        let mut threads = self.lock();
        threads.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        threads.insert(nth, None);
        drop(threads);
        let member = Member {
            crew: Arc::clone(self),
            nth,
        };
        start_detached(move || {
            signals::leave_to_main_thread();
            member.can_be_interrupted();
            call_oneself(kind, nth);
            body();
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Interrupts the blocked calls of all. Returns how many there are.
    pub fn interrupt(&self) -> usize {
        let threads = self.lock();
        // A thread that is in the table has not ended: it leaves under this lock.
        let begun = threads.values().flatten().copied();
        begun.for_each(signals::interrupt);
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

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's place in the crew, left when it is dropped: also by a panic, and also when the
/// thread could not be created.
struct Member {
    crew: Arc<Crew>,
    nth: u64,
}

impl Member {
    /// Called by the thread itself.
    fn can_be_interrupted(&self) {
        let place = (self.nth, Some(signals::this_thread()));
        self.crew.lock().extend([place]);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crew.lock().remove(&self.nth);
        self.crew.one_left.notify_one();
    }
}

/// The calling thread's name, as far as it fits. On the stack: who has got the last memory for that
/// one can serve a client without any more.
fn call_oneself(kind: &str, nth: u64) {
    let mut name = [0; 16];
    let room = name.len() - 1;
    let _ = write!(&mut name[..room], "{kind} {nth}");
    if let Ok(name) = CStr::from_bytes_until_nul(&name) {
        // Without a name it serves as well.
        let _ = set_name(name);
    }
}

/// Starts a thread for which nobody waits; pthread_create(3).
#[expect(unsafe_code)]
fn start_detached<F: FnOnce() + Send + 'static>(body: F) -> nix::Result<()> {
    let checked = |code: c_int| match code {
        0 => Ok(()),
        code => Err(Errno::from_raw(code)),
    };
    // Box::new would end the server where there is no memory left.
    let mut handed_over = Vec::new();
    handed_over
        .try_reserve_exact(1)
        .map_err(|_| Errno::ENOMEM)?;
    handed_over.push(body);
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: it makes them valid, or fails.
    checked(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: they are valid.
    let mut attributes = unsafe { attributes.assume_init() };
    let handed_over: *mut [F] = Box::into_raw(handed_over.into_boxed_slice());
    // SAFETY: the attributes are valid until they are destroyed; `begin` takes the pointer back,
    // once, and what it points to may be sent to it.
    let started = unsafe {
        libc::pthread_attr_setstacksize(&raw mut attributes, STACK);
        libc::pthread_attr_setdetachstate(&raw mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut thread = MaybeUninit::uninit();
        let code = libc::pthread_create(
            thread.as_mut_ptr(),
            &raw const attributes,
            begin::<F>,
            handed_over.cast(),
        );
        libc::pthread_attr_destroy(&raw mut attributes);
        checked(code)
    };
    if started.is_err() {
        // SAFETY: there is no thread that could take it back.
        drop(unsafe { Box::from_raw(handed_over) });
    }
    started
}

extern "C" fn begin<F: FnOnce()>(body: *mut c_void) -> *mut c_void {
    #[expect(unsafe_code)]
    // SAFETY: see start_detached(); a slice of one is laid out as that one.
    let body = unsafe { Box::from_raw(body.cast::<F>()) };
    // Nothing may unwind into C. A panic has been told by the one that panicked.
    let _ = catch_unwind(AssertUnwindSafe(body));
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    const A_WHILE: Duration = Duration::from_secs(20);

    #[test]
    fn every_thread_does_its_work_and_leaves_even_if_it_panics() {
        static SUM: AtomicU64 = AtomicU64::new(0);
        let crew = Arc::new(Crew::default());
        for nth in 1..=100 {
            let work = move || {
                SUM.fetch_add(nth, Relaxed);
                assert_ne!(nth, 50, "this one panics");
            };
            crew.start("test", nth, work).expect("a thread");
        }
        crew.wait_for_all_to_leave(A_WHILE);
        assert_eq!((crew.count(), SUM.load(Relaxed)), (0, 5050));
    }

    #[test]
    fn a_thread_has_the_name_that_ps_shows() {
        let crew = Arc::new(Crew::default());
        let (tell, told) = std::sync::mpsc::channel();
        let work = move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm");
            tell.send(name.expect("a name")).expect("the test waits");
        };
        crew.start("echo", 7, work).expect("a thread");
        assert_eq!(told.recv_timeout(A_WHILE).expect("told"), "echo 7\n");
    }
}
