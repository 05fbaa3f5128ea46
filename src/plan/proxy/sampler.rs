//! Exact shares by counting.

use crate::model::percent::Percent;

/// Takes every so-manieth: of any 10,000 in a row exactly the parts of the share, and of any other number that share to
/// within one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sampler {
    /// The fraction of a whole left by the previous requests.
    remainder: u16,
}

impl Sampler {
    pub fn sample(&mut self, share: Percent) -> bool {
        // At most 9,999 + 10,000.
        self.remainder += share.parts();
        let takes = self.remainder >= Percent::WHOLE;
        if takes {
            self.remainder -= Percent::WHOLE;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_sampled(sampler: &mut Sampler, share: &str, of: usize) -> usize {
        (0..of).filter(|_| sampler.sample(share.parse().unwrap())).count()
    }

    #[test]
    fn sampler_shares_are_exact() {
        for (share, of, expected) in [
            ("25", 400, 100),
            ("0", 1_000, 0),
            ("100", 1_000, 1_000),
            ("0.01", 10_000, 1),
            ("99.99", 10_000, 9_999),
            ("33.33", 10_000, 3_333),
        ] {
            assert_eq!(count_sampled(&mut Sampler::default(), share, of), expected, "{share}");
        }
    }

    #[test]
    fn samples_are_spread_evenly() {
        let mut sampler = Sampler::default();
        for _ in 0..100 {
            assert_eq!(count_sampled(&mut sampler, "25", 4), 1);
        }
    }

    #[test]
    fn share_change_keeps_the_remainder() {
        let mut sampler = Sampler::default();
        assert_eq!(count_sampled(&mut sampler, "10", 5), 0);
        assert_eq!(count_sampled(&mut sampler, "50", 1), 1);
        assert_eq!(count_sampled(&mut sampler, "100", 3), 3);
    }
}
