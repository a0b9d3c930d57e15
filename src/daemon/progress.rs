//! How fast a resync goes and when it will be done, from what remains to be done.
//!
//! The rate is a moving average weighted by time, so that neither a busy moment nor a pause makes the estimate jump.
//! What remains may also grow, because clients write meanwhile; that counts as no progress, never as a negative rate.

use crate::time::{Duration, Instant};

/// Time over which the past loses its weight.
const MEMORY: Duration = Duration::from_secs(10);
/// Shortest time between two samples that count.
const SAMPLE_MIN: Duration = Duration::from_millis(200);

/// One resync, from its first sample to its last.
#[derive(Clone, Debug)]
pub struct Progress {
    total: u64,
    remaining: u64,
    sampled: Instant,
    moved: Instant,
    /// Bytes per second; `None` before the second sample.
    rate: Option<f64>,
}

impl Progress {
    pub fn begin(now: Instant, remaining: u64) -> Self {
        Self { total: remaining, remaining, sampled: now, moved: now, rate: None }
    }

    /// Tells what remains at `now`.
    pub fn sample(&mut self, now: Instant, remaining: u64) {
        let passed = now.since(self.sampled);
        if passed < SAMPLE_MIN {
            return;
        }
        let done = self.remaining.saturating_sub(remaining);
        let seconds = passed.as_secs_f64();
        let fresh = done as f64 / seconds;
        self.rate = Some(match self.rate {
            None => fresh,
            Some(rate) => {
                let weight = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
                rate + weight * (fresh - rate)
            }
        });
        if done > 0 {
            self.moved = now;
        }
        self.sampled = now;
        self.remaining = remaining;
        self.total = self.total.max(remaining);
    }

    /// What there was to do; at least what remains.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    pub fn bytes_per_second(&self) -> u64 {
        self.rate.unwrap_or(0.0) as u64
    }

    /// Seconds until it is done at the present rate; `None` while there is no rate to speak of.
    pub fn eta_seconds(&self) -> Option<u64> {
        let rate = self.rate.filter(|rate| *rate >= 1.0)?;
        Some((self.remaining as f64 / rate).ceil() as u64)
    }

    /// Whole seconds since anything moved.
    pub fn stalled_seconds(&self, now: Instant) -> u64 {
        now.since(self.moved).as_secs()
    }
}

/// Done so far in tenths of a percent, never 1000 before nothing remains.
pub fn permille_done(total: u64, remaining: u64) -> u64 {
    if remaining == 0 {
        return 1000;
    }
    let done = total.saturating_sub(remaining);
    ((u128::from(done) * 1000 / u128::from(total.max(1))) as u64).min(999)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    #[test]
    fn a_steady_resync_is_foretold() {
        let mut progress = Progress::begin(at(0), 1000 << 20);
        for second in 1..=10 {
            progress.sample(at(second * 1000), (1000 - second * 10) << 20);
        }
        assert_eq!(progress.bytes_per_second() >> 20, 10);
        assert_eq!(progress.eta_seconds(), Some(90));
        assert_eq!(permille_done(progress.total(), progress.remaining()), 100);
    }

    #[test]
    fn a_standstill_has_no_end_in_sight_and_says_so() {
        let mut progress = Progress::begin(at(0), 1000);
        for second in 1..=600 {
            progress.sample(at(second * 1000), 1000);
        }
        assert_eq!(progress.eta_seconds(), None);
        assert_eq!(progress.stalled_seconds(at(600_000)), 600);
        assert_eq!(permille_done(1 << 40, 1), 999);
        assert_eq!(permille_done(0, 0), 1000);
    }

    proptest! {
        #[test]
        fn estimates_stay_sane(samples in proptest::collection::vec((0u64..5_000, 0u64..u64::MAX), 1..50)) {
            let mut progress = Progress::begin(at(0), samples[0].1);
            let mut now = 0;
            for (pause, remaining) in samples {
                now += pause;
                progress.sample(at(now), remaining);
                prop_assert!(progress.total() >= progress.remaining());
                prop_assert!(permille_done(progress.total(), progress.remaining()) <= 1000);
                prop_assert!(progress.eta_seconds().is_none_or(|eta| eta > 0 || progress.remaining() == 0));
            }
        }
    }
}
