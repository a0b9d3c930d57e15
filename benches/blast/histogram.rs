//! Latencies in buckets of constant relative width: 64 for each power of two, so a percentile is within 1.6 %.

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = ((64 - SUB_BITS + 1) as usize) << SUB_BITS;

pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }

    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest recorded value in microseconds.
    pub fn max_us(&self) -> f64 {
        self.max as f64 / 1e3
    }

    pub fn mean_us(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 / 1e3 }
    }

    /// The value in microseconds that `share` (0 to 1) of all recorded values do not exceed; 0 when there are none.
    pub fn percentile_us(&self, share: f64) -> f64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return (middle(index) as f64).min(self.max as f64) / 1e3;
            }
        }
        0.0
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + ((value >> shift) & (SUB - 1))) as usize
}

/// The middle of the range of values that fall into bucket `index`.
fn middle(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let shift = index / SUB - 1;
    ((SUB + index % SUB) << shift) + ((1u64 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_keep_relative_precision() {
        for value in [0, 1, 63, 64, 65, 127, 128, 1_000, 16_384, 1_234_567, 987_654_321_012] {
            let back = middle(bucket(value));
            assert!(back.abs_diff(value) <= value / 64 + 1, "{value} came back as {back}");
        }
    }

    #[test]
    fn percentiles_of_a_ramp() {
        let mut ramp = Histogram::new();
        (1..=1000).for_each(|micros| ramp.record(micros * 1000));
        assert!((ramp.percentile_us(0.5) - 500.0).abs() < 10.0);
        assert!((ramp.percentile_us(0.99) - 990.0).abs() < 16.0);
        assert_eq!(ramp.max_us(), 1000.0);
        assert_eq!(Histogram::new().percentile_us(0.5), 0.0);
    }
}
