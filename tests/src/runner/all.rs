//! Several labs side by side, each in a process and namespaces of its own, told one after the other.
//!
//! Those that take longest begin first, since most of their time is waiting for the kernel. Those that
//! measure come last, with nothing beside them.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::narrate::{Lab, Need};
use crate::runner::child::{Outcome, Stagehand};
use crate::sweep;

/// No eye follows faster.
const LOOK: Duration = Duration::from_millis(200);

/// What becomes of labs that run side by side.
pub enum News<'a> {
    /// The next in the order of the course is complete.
    Complete(&'static Lab, &'a Outcome),
    /// A while has passed: so many are done, and these are running.
    Running(usize, &'a [&'static str]),
}

/// What a thread that performs labs tells.
enum Event {
    Begun(usize),
    Ended(usize, Box<Result<Outcome>>),
}

/// Performs labs side by side, so many at a time, and tells of each in the given order as soon as that
/// is possible. Returns the outcomes in this order. An error, be it one of `tell`, ends everything.
pub fn side_by_side(
    stagehand: &Stagehand,
    labs: &[&'static Lab],
    jobs: usize,
    tell: impl FnMut(News<'_>) -> Result<()>,
) -> Result<Vec<Outcome>> {
    let queue = Queue::of(labs);
    thread::scope(|scope| {
        let (events, heard) = mpsc::channel();
        let begun = (0..jobs.clamp(1, labs.len().max(1))).try_for_each(|_| {
            let (queue, events) = (&queue, events.clone());
            let perform = move || queue.perform(stagehand, labs, &events);
            let performer = thread::Builder::new().spawn_scoped(scope, perform);
            performer.map(drop).context("start a thread")
        });
        drop(events);
        let told = begun.and_then(|()| Telling::new(labs, tell).listen(&heard));
        if told.is_err() {
            queue.close();
            // Until nobody performs any more, not even what was being started.
            let is_over = |event| matches!(event, Err(RecvTimeoutError::Disconnected));
            while !is_over(heard.recv_timeout(LOOK)) {
                sweep::clear_away();
            }
        }
        told
    })
}

/// The labs that nobody performs yet, and the machine that they share.
struct Queue {
    waiting: Mutex<VecDeque<usize>>,
    /// Read by those who share it, written by who needs it for himself.
    machine: RwLock<()>,
}

impl Queue {
    fn of(labs: &[&'static Lab]) -> Self {
        let mut order: Vec<_> = (0..labs.len()).collect();
        order.sort_by_key(|i| (is_alone(labs[*i]), Reverse(labs[*i].takes)));
        Self {
            waiting: Mutex::new(order.into()),
            machine: RwLock::new(()),
        }
    }

    fn perform(&self, stagehand: &Stagehand, labs: &[&'static Lab], events: &Sender<Event>) {
        while let Some(i) = self.next() {
            let lab = labs[i];
            // Whoever hears it has gone only when everything has ended anyway.
            let perform = || {
                let _ = events.send(Event::Begun(i));
                let outcome = stagehand.apart(lab, patience(lab));
                let _ = events.send(Event::Ended(i, outcome.into()));
            };
            if is_alone(lab) {
                let _alone = self.machine.write();
                perform();
            } else {
                let _beside_others = self.machine.read();
                perform();
            }
        }
    }

    fn next(&self) -> Option<usize> {
        self.lock().pop_front()
    }

    fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_alone(lab: &Lab) -> bool {
    lab.needs.contains(&Need::Calm)
}

/// When a lab that has not ended is stuck. A loaded machine is slow, and a lab that finds differences
/// waits for each.
fn patience(lab: &Lab) -> Duration {
    Duration::from_secs(120) + 5 * Duration::from_secs(lab.takes.into())
}

/// What is told of the labs, in their order.
struct Telling<'a, F> {
    labs: &'a [&'static Lab],
    tell: F,
    ended: Vec<Option<Outcome>>,
    /// How many of the first ones have been told.
    told: usize,
    running: Vec<usize>,
}

impl<'a, F: FnMut(News<'_>) -> Result<()>> Telling<'a, F> {
    fn new(labs: &'a [&'static Lab], tell: F) -> Self {
        Self {
            labs,
            tell,
            ended: labs.iter().map(|_| None).collect(),
            told: 0,
            running: Vec::new(),
        }
    }

    fn listen(mut self, heard: &Receiver<Event>) -> Result<Vec<Outcome>> {
        loop {
            match heard.recv_timeout(LOOK) {
                Ok(Event::Begun(i)) => self.running.push(i),
                Ok(Event::Ended(i, outcome)) => {
                    self.running.retain(|running| *running != i);
                    self.ended[i] = Some((*outcome)?);
                    self.tell_complete()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_running()?;
        }
        let all: Option<Vec<_>> = self.ended.into_iter().collect();
        all.context("not every demonstration was performed")
    }

    fn tell_complete(&mut self) -> Result<()> {
        while let Some(Some(outcome)) = self.ended.get(self.told) {
            (self.tell)(News::Complete(self.labs[self.told], outcome))?;
            self.told += 1;
        }
        Ok(())
    }

    fn tell_running(&mut self) -> Result<()> {
        let names: Vec<_> = self.running.iter().map(|i| self.labs[*i].name).collect();
        let done = self.ended.iter().flatten().count();
        (self.tell)(News::Running(done, &names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs;
    use crate::narrate::record::Record;

    #[test]
    fn the_longest_begin_first_and_those_that_measure_come_last() {
        let order: Vec<_> = Queue::of(labs::ALL).lock().iter().copied().collect();
        let key = |i: &usize| (is_alone(labs::ALL[*i]), Reverse(labs::ALL[*i].takes));
        assert_eq!(order.len(), labs::ALL.len());
        assert!(order.iter().map(key).collect::<Vec<_>>().is_sorted());
        let longest = labs::ALL
            .iter()
            .filter(|lab| !is_alone(lab))
            .map(|lab| lab.takes);
        assert_eq!(Some(labs::ALL[order[0]].takes), longest.max());
    }

    #[test]
    fn whatever_ends_first_is_told_in_the_order_of_the_course() {
        let three = &labs::ALL[..3];
        let (events, heard) = mpsc::channel();
        for i in [2, 0, 1] {
            let (record, text) = (Record::default(), three[i].name.to_owned());
            events
                .send(Event::Ended(
                    i,
                    Ok(Outcome {
                        record,
                        text,
                        packets: Vec::new(),
                    })
                    .into(),
                ))
                .expect("a listener");
        }
        drop(events);
        let mut told = Vec::new();
        let tell = |news: News<'_>| {
            if let News::Complete(lab, outcome) = news {
                assert_eq!(lab.name, outcome.text);
                told.push(lab.name);
            }
            Ok(())
        };
        let outcomes = Telling::new(three, tell)
            .listen(&heard)
            .expect("no trouble");
        assert_eq!(outcomes.len(), 3);
        assert_eq!(told, [three[0].name, three[1].name, three[2].name]);
    }
}
