//! Giving the service back to the node that is preferred. Never by itself unless it is configured; never because a person
//! moved the service away from a node that was well; and each time the preferred node was lost within the hour, it must be
//! well for twice as long.
//!
//! Pure. Whether a hand-over is possible at all is for the [decision](super::decision).

use crate::time::{Duration, Instant};

/// Losses that count.
const LOSSES_WINDOW: Duration = Duration::from_secs(3600);
const DOUBLINGS_MAX: u32 = 6;

/// See the module.
#[derive(Debug)]
pub struct Failback {
    after: Duration,
    /// The preferred node was lost while it served, or since.
    owed: bool,
    was_fit: bool,
    fit_since: Option<Instant>,
    losses: Vec<Instant>,
}

impl Failback {
    /// `after`: how long the preferred node must be well.
    pub fn new(after: Duration) -> Self {
        Self { after, owed: false, was_fit: false, fit_since: None, losses: Vec::new() }
    }

    /// `fit`: the preferred node is alive, willing, whole, and in sync. `here`: this node serves, the other one follows.
    /// Returns from when on the service is to be given back.
    pub fn look(&mut self, now: Instant, fit: bool, here: bool) -> Option<Instant> {
        self.losses.retain(|at| now.since(*at) < LOSSES_WINDOW);
        if !fit {
            if self.was_fit {
                self.losses.push(now);
            }
            (self.was_fit, self.owed, self.fit_since) = (false, true, None);
            return None;
        }
        self.was_fit = true;
        let since = *self.fit_since.get_or_insert(now);
        if !here {
            self.owed = false;
            return None;
        }
        let doublings = (self.losses.len() as u32).saturating_sub(1).min(DOUBLINGS_MAX);
        self.owed.then(|| since + self.after * (1 << doublings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn what_a_person_moved_stays_and_what_a_loss_moved_goes_back() {
        let mut failback = Failback::new(Duration::from_secs(60));
        assert_eq!(failback.look(at(0), true, false), None);
        // A switchover: the preferred node was well all the time.
        assert_eq!(failback.look(at(10), true, true), None);
        assert_eq!(failback.look(at(1000), true, true), None);
        // It is lost, and comes back.
        assert_eq!(failback.look(at(1001), false, true), None);
        assert_eq!(failback.look(at(1100), true, true), Some(at(1160)));
        assert_eq!(failback.look(at(1159), true, true), Some(at(1160)));
        // It serves again: nothing is owed.
        assert_eq!(failback.look(at(1161), true, false), None);
        assert_eq!(failback.look(at(1162), true, true), None);
    }

    #[test]
    fn a_node_that_is_lost_again_and_again_must_be_well_for_longer() {
        let mut failback = Failback::new(Duration::from_secs(60));
        failback.look(at(0), true, false);
        for (loss, wait) in [(100, 60), (200, 120), (300, 240)] {
            assert_eq!(failback.look(at(loss), false, true), None);
            assert_eq!(failback.look(at(loss + 10), true, true), Some(at(loss + 10 + wait)));
        }
        // An hour later it counts as new.
        assert_eq!(failback.look(at(4000), false, true), None);
        assert_eq!(failback.look(at(4010), true, true), Some(at(4070)));
    }
}
