//! Chance from a seed: xoshiro256** seeded by splitmix64. Everything that the simulator leaves to chance comes from
//! one of these, so a seed replays exactly. Absent on purpose: floats, the machine's entropy.

/// A deterministic source of numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        let state = core::array::from_fn(|_| {
            mix = mix.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = mix;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^ (word >> 31)
        });
        Self { state }
    }

    pub fn next_u64(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number in `0..limit`. `limit` is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "a choice of nothing");
        // The bias of the multiplication is 2^-32 at the sizes used here.
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high);
        low + self.below(high - low + 1)
    }

    /// True `parts` times out of a thousand.
    pub fn per_mille(&mut self, parts: u64) -> bool {
        self.below(1000) < parts
    }

    pub fn coin(&mut self) -> bool {
        self.next_u64() & 1 == 1
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A number in `low..=high` whose magnitude is as likely small as large.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let top = self.range(low, high);
        let second = self.range(low, top);
        if self.coin() { second } else { top }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_replays_and_covers_its_range() {
        let (mut first, mut second) = (Rng::new(7), Rng::new(7));
        let mut seen = [false; 10];
        for _ in 0..1000 {
            let value = first.below(10);
            assert_eq!(value, second.below(10));
            seen[value as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_ne!(Rng::new(1).next_u64(), Rng::new(2).next_u64());
    }
}
