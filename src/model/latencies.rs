//! Counting durations in buckets that several hosts' counts can be added of.

use std::collections::BTreeMap;

use super::capped::Merge;
use super::proxy::Latencies;

/// Buckets a power of two is cut into: each is at most 1/64 wide of where it begins.
const BUCKETS_PER_OCTAVE: u64 = 64;

/// The upper end of the bucket that a duration falls into, both in microseconds.
pub const fn round_to_bucket(us: u64) -> u64 {
    if us < 2 * BUCKETS_PER_OCTAVE {
        return us;
    }
    let shift = us.ilog2() - BUCKETS_PER_OCTAVE.ilog2();
    us | ((1 << shift) - 1)
}

impl Latencies {
    pub fn record(&mut self, us: u64) {
        *self.0.entry(round_to_bucket(us)).or_default() += 1;
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The duration that a share `part`/`whole` of the counted ones does not exceed, in microseconds; `None` of nothing.
    /// `part` 0 is the smallest.
    pub fn quantile(&self, part: u64, whole: u64) -> Option<u64> {
        let rank = u128::from(self.count()) * u128::from(part);
        let rank = rank.div_ceil(u128::from(whole.max(1))).max(1);
        let mut seen = 0u128;
        self.0
            .iter()
            .find(|(_, count)| {
                seen += u128::from(**count);
                seen >= rank
            })
            .map(|(us, _)| *us)
    }
}

impl Merge for Latencies {
    fn absorb(&mut self, other: Self) {
        for (bucket, count) in other.0 {
            self.0.entry(bucket).or_default().absorb(count);
        }
    }
}

impl FromIterator<u64> for Latencies {
    fn from_iter<I: IntoIterator<Item = u64>>(all: I) -> Self {
        let mut latencies = Self(BTreeMap::new());
        all.into_iter().for_each(|us| latencies.record(us));
        latencies
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bucket_is_at_most_two_percent_wide(us in 0u64..) {
            let top = round_to_bucket(us);
            prop_assert!(top >= us && top - us <= us / 64);
            prop_assert_eq!(round_to_bucket(top), top);
        }

        #[test]
        fn bucket_is_monotonic(us in 0u64..u64::MAX) {
            prop_assert!(round_to_bucket(us + 1) >= round_to_bucket(us));
        }
    }

    #[test]
    fn quantiles_match_sorted_durations() {
        let latencies: Latencies = (1..=100).collect();
        assert_eq!(latencies.count(), 100);
        assert_eq!(latencies.quantile(50, 100), Some(50));
        assert_eq!(latencies.quantile(99, 100), Some(99));
        assert_eq!((latencies.quantile(0, 100), latencies.quantile(100, 100)), (Some(1), Some(100)));
        assert_eq!(Latencies::default().quantile(50, 100), None);
    }
}
