//! How long initiators' requests are kept without an answer. One rule for every way of keeping them: while the node may
//! answer nothing (`Held`), between two primaries (`hold`), and where a leader turned a carried request back.
//!
//! When the limit has passed, what is kept is answered NOT READY, which initiators retry, and so is what comes from then
//! on; until the node answers again. NOT READY is no word on whether a write was done: it may be on one disk, on both,
//! or on none, but nothing of it happens later (S4). A request that is at the leader is not given up here: only the
//! leader knows that, and has the same limit. So is one at a disk.

use crate::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Hash, Debug)]
pub(super) struct Hold {
    /// `None`: for ever.
    limit: Option<Duration>,
    ends: Option<Instant>,
    is_over: bool,
}

impl Hold {
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, ends: None, is_over: false }
    }

    /// Requests are kept now, or they are not. Said after every input.
    pub fn note(&mut self, now: Instant, keeping: bool) {
        if !keeping {
            self.ends = None;
            self.is_over = false;
        } else if self.ends.is_none() && !self.is_over {
            self.ends = self.limit.map(|limit| now + limit);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.ends
    }

    /// Takes the end of the hold, if it has come.
    pub fn take_end(&mut self, now: Instant) -> bool {
        let ends = self.ends.take_if(|ends| *ends <= now).is_some();
        self.is_over |= ends;
        ends
    }

    /// Is the limit behind, and still nothing to be answered?
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn the_limit_runs_from_the_first_moment_of_one_hold_and_ends_once() {
        let mut hold = Hold::new(Some(Duration::from_secs(45)));
        hold.note(at(1), true);
        hold.note(at(30), true);
        assert_eq!(hold.deadline(), Some(at(46)));
        assert!(!hold.take_end(at(45)) && !hold.is_over());
        assert!(hold.take_end(at(46)) && hold.is_over());
        hold.note(at(47), true);
        assert!(hold.deadline().is_none() && !hold.take_end(at(99)) && hold.is_over());
        hold.note(at(100), false);
        assert!(!hold.is_over());
        hold.note(at(101), true);
        assert_eq!(hold.deadline(), Some(at(146)));
    }

    #[test]
    fn without_a_limit_it_lasts() {
        let mut hold = Hold::new(None);
        hold.note(at(1), true);
        assert!(hold.deadline().is_none() && !hold.take_end(at(1_000_000)) && !hold.is_over());
    }
}
