//! Who has more to do than one turn allows, and whose turn is next.
//!
//! In turn, one after the other, would be the obvious way. But what a client is sent is fresh in the
//! processor's cache, and so is what its next turn needs: to go round after every turn costs up to half as
//! much processor time again when several clients send all they can. So a connection has some turns in a
//! row. Nobody waits longer for that who has little to say: between two waits there are as many turns as
//! connections in the queue, whoever has them, and who becomes ready meanwhile is served first.

use std::collections::VecDeque;

/// Turns in a row, if others are waiting.
const STREAK: u32 = 16;

/// The run queue of a readiness loop, whose connections have keys.
#[derive(Debug)]
pub struct RunQueue<Key> {
    waiting: VecDeque<Key>,
    /// Who had the last turn, and how many of them in a row.
    last: Option<Key>,
    streak: u32,
}

impl<Key> Default for RunQueue<Key> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            last: None,
            streak: 0,
        }
    }
}

impl<Key: Copy + Eq> RunQueue<Key> {
    /// It has more to do. Each may be in the queue once.
    pub fn push(&mut self, key: Key) {
        if self.last == Some(key) && self.streak < STREAK {
            self.waiting.push_front(key);
        } else {
            self.waiting.push_back(key);
        }
    }

    /// Whose turn it is.
    pub fn pop(&mut self) -> Option<Key> {
        let key = self.waiting.pop_front()?;
        if self.last.replace(key) != Some(key) {
            self.streak = 0;
        }
        self.streak += 1;
        Some(key)
    }

    /// How many wait for a turn.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Does nobody?
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turns_in_a_row_and_then_the_others_have_theirs() {
        let mut queue = RunQueue::default();
        (0..3).for_each(|index| queue.push(index));
        let turns: Vec<_> = (0..4 * STREAK)
            .map(|_| {
                let key = queue.pop().expect("somebody");
                queue.push(key);
                key
            })
            .collect();
        let expected = [0, 1, 2, 0].into_iter();
        let expected: Vec<_> = expected.flat_map(|i| [i; STREAK as usize]).collect();
        assert_eq!(turns, expected);
    }

    #[test]
    fn who_has_nothing_more_to_do_keeps_nobody_waiting() {
        let mut queue = RunQueue::default();
        (7..9).for_each(|index| queue.push(index));
        assert_eq!(queue.pop(), Some(7));
        assert_eq!(queue.pop(), Some(8));
        assert!(queue.is_empty());
    }

    #[test]
    fn who_is_alone_goes_on() {
        let mut queue = RunQueue::default();
        for _ in 0..3 * STREAK {
            queue.push(7);
            assert_eq!((queue.len(), queue.pop()), (1, Some(7)));
        }
    }
}
