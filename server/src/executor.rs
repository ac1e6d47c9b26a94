//! A small executor: what it takes to run `async` functions. Many tasks take turns in one thread.
//!
//! Four words, and who does what to whom:
//!
//! - A **future** is a value with a method `poll`, which goes on with the work and answers either
//!   `Ready(result)`, or `Pending`: I must wait, and I have seen to it that I am woken. It does
//!   nothing by itself.
//! - `x.await` in an `async fn` is: poll x; if it is pending, return `Pending` from here; when
//!   polled again, go on here. So the compiler makes of an `async fn` a state machine: an enum with
//!   a variant per `await`, which holds the local variables that are still needed after it. That
//!   is all a waiting connection consists of: no stack, no thread. Its size is known at compile
//!   time (`size_of_val`); `models/tasks.rs` asserts it.
//! - A **task** is a future that the executor owns and polls: the outermost one, which nobody
//!   awaits. It is in a box, because it must not move once it has been polled: local variables
//!   of an `async fn` may refer to each other. `Pin` is that promise.
//! - A **waker** is the task's call button. Every `poll` is handed one; a future that answers
//!   `Pending` gives a clone to whoever will know when it can go on. `wake` polls nothing: it puts
//!   the task on the list of those to be polled.
//!
//! So a turn goes round like this: the executor polls the task; it comes to an `await` that must
//! wait for a socket, which leaves its waker with the [driver](crate::driver) and returns
//! `Pending`; the executor has nobody else to poll and lets the driver wait; the kernel reports an
//! event; the driver calls the waker that was left for it; the task is on the list; the executor
//! polls it. Nobody ever looks at a task that was not woken.
//!
//! Real runtimes add: several threads that steal tasks from each other, join handles, cancellation.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use crate::driver::Driver;
use crate::failure::Failure;

/// Polls tasks that were woken; waits when there is none.
pub struct Executor {
    driver: Driver,
    tasks: RefCell<Slab<Task>>,
    woken: Arc<Woken>,
    polls: Cell<u64>,
}

/// A future that nobody awaits. It is out of its place while it is being polled.
struct Task {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    button: Arc<Button>,
}

/// What is behind a task's wakers: all of them are clones of one pointer to this.
struct Button {
    /// The task's place in the table.
    index: usize,
    /// Is it on the list? Two reasons to wake it are one poll.
    pressed: AtomicBool,
    woken: Arc<Woken>,
}

/// The tasks to be polled, in the order in which they were woken. A waker may be sent to any
/// thread, hence the lock. (Ours never are. If they were, `wake` would also have to end the
/// driver's wait, which is what `mio::Waker` is for.)
#[derive(Default)]
struct Woken(Mutex<Vec<Arc<Button>>>);

/// The place of the future given to [`Executor::block_on`], which is in no table.
const MAIN: usize = usize::MAX;

impl Executor {
    /// An executor that waits with this driver.
    pub fn new(driver: Driver) -> Self {
        Self {
            driver,
            tasks: RefCell::default(),
            woken: Arc::default(),
            polls: Cell::new(0),
        }
    }

    /// What futures wait with.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// How many tasks there are, the main one not counted.
    pub fn tasks(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// How often a task has been polled.
    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Makes a task of this future. It is polled for the first time when its turn comes.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        let place = tasks.vacant_entry();
        let button = self.button(place.key());
        button.wake_by_ref();
        place.insert(Task {
            future: Some(Box::pin(future)),
            button,
        });
    }

    /// Polls this future and all tasks until it is ready; the tasks that are left then stay
    /// unfinished. Errors: the driver cannot wait.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> Result<T, Failure> {
        let mut main = pin!(main);
        self.button(MAIN).wake_by_ref();
        let mut now = Vec::new();
        loop {
            // One turn for each that is on the list by now: who is woken meanwhile has the next, and
            // the sockets are looked at in between.
            mem::swap(&mut now, &mut *self.woken.lock());
            for button in now.drain(..) {
                if button.index != MAIN {
                    self.poll_task(button);
                } else if let Poll::Ready(result) = self.poll(main.as_mut(), button) {
                    return Ok(result);
                }
            }
            let somebody_is_woken = !self.woken.lock().is_empty();
            self.driver.wait(somebody_is_woken)?;
        }
    }

    fn poll_task(&self, button: Arc<Button>) {
        let index = button.index;
        let task = |tasks: &mut Slab<Task>| {
            // A waker may outlive its task, and the place may be another's by now.
            let task = tasks.get_mut(index)?;
            let is_its_own = Arc::ptr_eq(&task.button, &button);
            is_its_own.then(|| task.future.take()).flatten()
        };
        let Some(mut future) = task(&mut self.tasks.borrow_mut()) else {
            return;
        };
        // It costs nothing as long as nobody panics; and then it ends one task instead of all.
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll(future.as_mut(), button)));
        if matches!(polled, Ok(Poll::Pending)) {
            self.tasks.borrow_mut()[index].future = Some(future);
            return;
        }
        if polled.is_err() {
            log::error!("a task has panicked, and is over");
        }
        // What it owned is dropped while its place is still taken: it may wake others.
        drop(future);
        self.tasks.borrow_mut().remove(index);
    }

    fn poll<F: Future + ?Sized>(
        &self,
        future: Pin<&mut F>,
        button: Arc<Button>,
    ) -> Poll<F::Output> {
        self.polls.set(self.polls.get() + 1);
        // Before it is polled: if it is woken from now on, it has to be polled again.
        button.pressed.swap(false, AcqRel);
        let waker = Waker::from(button);
        future.poll(&mut Context::from_waker(&waker))
    }

    fn button(&self, index: usize) -> Arc<Button> {
        Arc::new(Button {
            index,
            pressed: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        })
    }
}

/// With this, std makes a [`Waker`] of an `Arc<Button>`.
impl Wake for Button {
    fn wake(self: Arc<Self>) {
        if !self.pressed.swap(true, AcqRel) {
            Arc::clone(&self.woken).lock().push(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Arc::clone(self).wake();
    }
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Button>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the others have their turn: pending once, and woken at once.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for whichever comes first, and drops the other.
pub async fn either<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Pending => other.as_mut().poll(context),
        ready @ Poll::Ready(_) => ready,
    })
    .await
}

/// One task waits for something that another does. Nothing is remembered: who is not listening
/// does not hear it.
#[derive(Default)]
pub struct Bell(Cell<Option<Waker>>);

impl Bell {
    /// Wakes who listens.
    pub fn ring(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }

    /// Waits for the next ring.
    pub async fn heard(&self) {
        let mut is_listening = false;
        poll_fn(|context| {
            let has_rung = self.0.take().is_none();
            if mem::replace(&mut is_listening, true) && has_rung {
                return Poll::Ready(());
            }
            self.0.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::time::Duration;

    fn executor() -> &'static Executor {
        Box::leak(Box::new(Executor::new(Driver::new().expect("a poller"))))
    }

    type Diary = Rc<RefCell<Vec<&'static str>>>;

    /// Until nobody but the main task has anything to do.
    async fn until_idle(executor: &'static Executor) {
        while executor.tasks() > 0 {
            yield_now().await;
        }
    }

    #[test]
    fn tasks_take_turns_where_they_yield() {
        let (executor, diary) = (executor(), Diary::default());
        for names in [["a1", "a2"], ["b1", "b2"]] {
            let diary = Rc::clone(&diary);
            executor.spawn(async move {
                for name in names {
                    diary.borrow_mut().push(name);
                    yield_now().await;
                }
            });
        }
        executor.block_on(until_idle(executor)).expect("a wait");
        assert_eq!(*diary.borrow(), ["a1", "b1", "a2", "b2"]);
    }

    #[test]
    fn who_is_not_woken_is_not_polled_and_two_wakes_are_one_poll() {
        let executor = executor();
        let bells: &[Bell; 2] = Box::leak(Box::default());
        for bell in bells {
            executor.spawn(async move {
                loop {
                    bell.heard().await;
                }
            });
        }
        let rings = async {
            yield_now().await;
            let before = executor.polls();
            for _ in 0..10 {
                let waker = bells[0].0.take().expect("it listens");
                waker.wake_by_ref();
                waker.wake();
                yield_now().await;
            }
            executor.polls() - before
        };
        // Ten of the task, ten of the one that counts.
        assert_eq!(executor.block_on(rings), Ok(20));
    }

    #[test]
    fn a_waker_that_outlives_its_task_wakes_nobody() {
        let executor = executor();
        let bell: &Bell = Box::leak(Box::default());
        let kept: &Cell<Option<Waker>> = Box::leak(Box::default());
        executor.spawn(poll_fn(|context| {
            kept.set(Some(context.waker().clone()));
            Poll::Ready(())
        }));
        let main = async {
            until_idle(executor).await;
            // It gets the same place.
            executor.spawn(bell.heard());
            yield_now().await;
            let before = executor.polls();
            kept.take().expect("the waker").wake();
            yield_now().await;
            executor.polls() - before
        };
        assert_eq!(executor.block_on(main), Ok(1));
    }

    #[test]
    fn a_panic_ends_one_task() {
        let (executor, diary) = (executor(), Diary::default());
        for name in ["panics", "goes on"] {
            let diary = Rc::clone(&diary);
            executor.spawn(async move {
                yield_now().await;
                diary.borrow_mut().push(name);
                assert_ne!(name, "panics", "on purpose");
                yield_now().await;
                diary.borrow_mut().push("to its end");
            });
        }
        executor.block_on(until_idle(executor)).expect("a wait");
        assert_eq!(*diary.borrow(), ["panics", "goes on", "to its end"]);
        assert_eq!(Rc::strong_count(&diary), 1, "what it owned is dropped");
    }

    #[test]
    fn the_first_of_two_timers_ends_the_wait_and_the_other_is_forgotten() {
        let executor = executor();
        let sleep = |ms| executor.driver().sleep(Duration::from_millis(ms));
        let start = std::time::Instant::now();
        let wait = either(sleep(60_000), sleep(20));
        executor.block_on(wait).expect("a wait");
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(executor.driver().timers(), 0);
    }
}
