//! Tells a hung device from a slow one, on the node that serves beside a peer in sync: then somebody else can serve.
//!
//! A device that fails says so. One that hangs says nothing, and every request that it has waits with it. Two signs,
//! looked for every now and then, at no cost for a request: of all reads, or of all else (writes, flushes, metadata), none
//! was answered for [`QUIET_MAX`] although some were asked; or one operation is not answered for [`OPERATION_MAX`],
//! whatever happens to the others. A slow device answers something.
//!
//! Absent on purpose: the same for the peer's device ([`patience`](super::patience)), and for the only copy, which can
//! but be waited for.

use alloc::vec::Vec;

use crate::time::{Duration, Instant};

/// As long as a leader waits for its peer's device.
const QUIET_MAX: Duration = Duration::from_secs(7);
/// A device that reads a bad sector again and again takes seconds; initiators give up after half a minute or a whole one.
const OPERATION_MAX: Duration = Duration::from_secs(20);
const CHECK_PAUSE: Duration = Duration::from_millis(1750);

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    Read = 0,
    Other = 1,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct DeviceWatch {
    next_check: Option<Instant>,
    /// Something of the sort was answered since the last check.
    answered: [bool; 2],
    /// Since when nothing of the sort was, as far as a check has seen.
    quiet: [Option<Instant>; 2],
    /// Operations that were under way at the last check, and when a check first saw them.
    seen: Vec<(u64, Instant)>,
}

impl DeviceWatch {
    /// Watches from now on, or not.
    pub fn begin(&mut self, now: Instant, on: bool) {
        match (on, self.next_check) {
            (true, None) => *self = Self { next_check: Some(now), ..Self::default() },
            (false, Some(_)) => *self = Self::default(),
            _ => {}
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next_check
    }

    pub fn on_answer(&mut self, sort: Sort) {
        self.answered[sort as usize] = true;
    }

    /// The deadline has passed. `running`: what the device has been asked and has not answered, by name. Returns whether it
    /// hangs.
    pub fn check(&mut self, now: Instant, running: impl Iterator<Item = (u64, Sort)>) -> bool {
        self.next_check = Some(now + CHECK_PAUSE);
        let before = core::mem::take(&mut self.seen);
        let mut asked = [false; 2];
        for (name, sort) in running {
            asked[sort as usize] = true;
            let first = before.iter().find(|(known, _)| *known == name).map_or(now, |(_, first)| *first);
            self.seen.push((name, first));
        }
        let mut hangs = self.seen.iter().any(|(_, first)| now.since(*first) >= OPERATION_MAX);
        let answered = core::mem::take(&mut self.answered);
        for ((quiet, asked), answered) in self.quiet.iter_mut().zip(asked).zip(answered) {
            *quiet = (asked && !answered).then(|| quiet.unwrap_or(now));
            hangs |= quiet.is_some_and(|since| now.since(since) >= QUIET_MAX);
        }
        hangs
    }
}

/// It passes with time alone: to an explorer, whose time stands still, two parts that differ in it are one state.
impl core::hash::Hash for DeviceWatch {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    /// Checks until `end`; `running` and `answered` for each moment. Returns when it was found to hang.
    fn watch(
        end: u64,
        running: impl Fn(u64) -> Vec<(u64, Sort)>,
        answered: impl Fn(u64) -> Option<Sort>,
    ) -> Option<u64> {
        let mut watch = DeviceWatch::default();
        watch.begin(at(0), true);
        for now in (0..end).step_by(50) {
            if let Some(sort) = answered(now) {
                watch.on_answer(sort);
            }
            if watch.deadline().is_some_and(|due| due <= at(now))
                && watch.check(at(now), running(now).into_iter())
            {
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn a_device_that_answers_nothing_hangs_and_one_at_rest_does_not() {
        let found =
            watch(60_000, |now| if now >= 1000 { [(7, Sort::Other)].into() } else { Vec::new() }, |_| None);
        assert!(found.is_some_and(|at| (8000..11_000).contains(&at)), "{found:?}");
        assert_eq!(watch(60_000, |_| Vec::new(), |_| None), None);
    }

    #[test]
    fn a_slow_device_answers_something() {
        // Every operation takes six seconds, another each.
        let found = watch(
            120_000,
            |now| [(now / 6000, Sort::Other)].into(),
            |now| (now % 6000 == 0).then_some(Sort::Other),
        );
        assert_eq!(found, None);
    }

    #[test]
    fn reads_that_are_answered_do_not_hide_writes_that_hang() {
        let found = watch(60_000, |now| [(1, Sort::Other), (now, Sort::Read)].into(), |_| Some(Sort::Read));
        assert!(found.is_some_and(|at| at < 10_000), "{found:?}");
    }

    #[test]
    fn one_operation_that_hangs_among_others_is_noticed_in_the_end() {
        let found = watch(60_000, |now| [(1, Sort::Other), (now, Sort::Other)].into(), |_| Some(Sort::Other));
        assert!(found.is_some_and(|at| (20_000..23_000).contains(&at)), "{found:?}");
    }
}
