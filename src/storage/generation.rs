//! Generation identifiers: which history of writes a copy holds.
//!
//! A generation is a random 64-bit number, never 0. A node that goes on alone starts a new one, so that two copies
//! with different last writes can never claim to be the same. What the numbers of two nodes mean for each other is
//! decided where the nodes meet, in the volume's coordinator; equal generations never justify dropping bits (D4).

/// Generations remembered beyond the current one and the bitmap's base.
pub const GENERATION_HISTORY: usize = 8;

/// The generations of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Generations {
    /// The generation this copy's data belongs to. 0: there is no data yet.
    pub current: u64,
    /// The generation from which the bitmap counts: every block this copy changed since is marked. 0: in sync.
    pub base: u64,
    /// Earlier generations, newest first; 0 marks an empty place. While `base` is set and also stands here, those
    /// before it are newer than it: the bitmap covers them too (see [`covers`](Self::covers)).
    pub history: [u64; GENERATION_HISTORY],
}

/// Where a generation was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// It is the generation of this copy's data.
    Current,
    /// The bitmap counts from it: a copy of that generation needs only the marked blocks.
    Base,
    /// It is an ancestor, but the bitmap says nothing about it; the place in the history, 0 is the newest.
    History(usize),
}

impl Generations {
    /// A copy whose data starts with generation `first`.
    pub fn new(first: u64) -> Self {
        assert!(first != 0, "generation 0 means none");
        Self { current: first, base: 0, history: [0; GENERATION_HISTORY] }
    }

    /// From here on this copy takes writes that the other does not get. The bitmap goes on counting from the
    /// generation that both last shared, however often this is called before they meet again.
    pub fn go_alone(&mut self, new: u64) {
        assert!(new != 0, "generation 0 means none");
        if self.base == 0 {
            self.base = self.current;
        } else {
            // The other copy may have finished a resync to this generation without our hearing of it.
            if !self.history.contains(&self.base) {
                self.push(self.base);
            }
            self.push(self.current);
        }
        self.current = new;
    }

    /// The other copy has everything again: the bitmap's base becomes history.
    pub fn back_in_sync(&mut self) {
        if !self.history.contains(&self.base) {
            self.push(self.base);
        }
        self.base = 0;
    }

    /// Does a copy of `generation` lack no more than the bitmap marks? That is so for the base, and for every
    /// generation of this copy since: the other took it over only when it had everything, and bits were cleared only
    /// for what it had on stable media.
    pub fn covers(&self, generation: u64) -> bool {
        if generation == 0 || self.base == 0 {
            return false;
        }
        let since = self.history.iter().position(|&past| past == self.base).unwrap_or(0);
        generation == self.base || self.history[..since].contains(&generation)
    }

    /// This copy has received everything `source` has: it takes over the source's generations as the source will
    /// write them ([`back_in_sync`](Self::back_in_sync)).
    pub fn adopt(&mut self, source: &Self) {
        *self = *source;
        self.back_in_sync();
    }

    /// Was this copy ever of generation `generation`? Never for 0.
    pub fn knows(&self, generation: u64) -> bool {
        self.find(generation).is_some()
    }

    /// The closest place where `generation` is remembered.
    pub fn find(&self, generation: u64) -> Option<Known> {
        if generation == 0 {
            None
        } else if generation == self.current {
            Some(Known::Current)
        } else if generation == self.base {
            Some(Known::Base)
        } else {
            self.history.iter().position(|&past| past == generation).map(Known::History)
        }
    }

    fn push(&mut self, generation: u64) {
        if generation == 0 || self.history[0] == generation {
            return;
        }
        self.history.rotate_right(1);
        self.history[0] = generation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_counts_from_the_last_shared_generation() {
        let mut mine = Generations::new(10);
        mine.go_alone(11);
        mine.go_alone(12);
        assert_eq!((mine.current, mine.base), (12, 10));
        assert_eq!(mine.find(11), Some(Known::History(0)));
        assert_eq!(mine.find(10), Some(Known::Base));
        let mut other = Generations::new(10);
        other.adopt(&mine);
        mine.back_in_sync();
        assert_eq!(mine, other);
        assert_eq!((mine.base, mine.find(10)), (0, Some(Known::History(1))));
        assert!(mine.knows(12) && !mine.knows(0) && !mine.knows(13));
    }

    /// The other's resync ended, but the news of it was lost; then this copy went on alone.
    #[test]
    fn the_bitmap_covers_every_generation_since_its_base() {
        let mut mine = Generations::new(9);
        mine.go_alone(10);
        mine.back_in_sync();
        mine.go_alone(11);
        let mut other = Generations::new(10);
        other.adopt(&mine);
        mine.go_alone(12);
        assert!(mine.covers(other.current) && mine.covers(10) && !mine.covers(9) && !mine.covers(12));
        other.adopt(&mine);
        mine.go_alone(13);
        assert!(mine.covers(12) && mine.covers(11) && mine.covers(10) && !mine.covers(9) && !mine.covers(0));
        other.adopt(&mine);
        mine.back_in_sync();
        assert_eq!(mine, other);
        assert!(
            !mine.covers(12) && mine.knows(12) && mine.knows(9),
            "in sync the bitmap says nothing of the past"
        );
    }

    #[test]
    fn history_is_bounded_and_newest_first() {
        let mut mine = Generations::new(1);
        for generation in 2..40 {
            mine.go_alone(generation);
            mine.back_in_sync();
        }
        assert_eq!(mine.current, 39);
        assert_eq!(mine.history, [38, 37, 36, 35, 34, 33, 32, 31]);
        mine.back_in_sync();
        assert_eq!(mine.history[0], 38, "nothing to push when already in sync");
    }
}
