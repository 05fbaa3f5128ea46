//! Shares of counts, and how sure they are.

use schemars::JsonSchema;
use serde::Serialize;

/// The two-sided 95 % quantile of the normal distribution.
pub(in crate::plan) const Z95: f64 = 1.959_963_984_540_054;

/// `part` of `of`, with the interval that holds the true share in 95 of 100 cases (Wilson's score interval: right for shares near
/// 0 and 1 and for few samples). Shares are 0.0 to 1.0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Rate {
    pub part: u64,
    pub of: u64,
    /// 0 of nothing.
    pub share: f64,
    pub low: f64,
    pub high: f64,
}

impl Rate {
    pub fn new(part: u64, of: u64) -> Self {
        let (low, high) = compute_wilson_interval(part, of, Z95);
        Self { part, of, share: compute_ratio(part, of), low, high }
    }
}

/// The bounds of a share; of nothing nothing is known.
pub(in crate::plan) fn compute_wilson_interval(part: u64, of: u64, z: f64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z2) = (to_f64(of), compute_ratio(part, of), z * z);
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At the ends the bound is exact, regardless of rounding.
    let low = if part == 0 { 0.0 } else { (middle - half).max(0.0) };
    let high = if part >= of { 1.0 } else { (middle + half).min(1.0) };
    (low, high)
}

/// The lower bound of `part`/`of` less `than_part`/`than_of`: above 0 where the first share is surely the greater one
/// (Newcombe's hybrid score interval, Statistics in Medicine 17, 1998, method 10).
pub(in crate::plan) fn compute_excess_lower_bound(
    part: u64,
    of: u64,
    than_part: u64,
    than_of: u64,
    z: f64,
) -> f64 {
    let (share, than) = (compute_ratio(part, of), compute_ratio(than_part, than_of));
    let ((low, _), (_, high)) =
        (compute_wilson_interval(part, of, z), compute_wilson_interval(than_part, than_of, z));
    share - than - (share - low).hypot(high - than)
}

/// The two-sided 95 % quantile for each of several questions, so that all answers together are right in 95 of 100 cases
/// (Bonferroni).
pub(super) fn compute_z_for_many(questions: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "some hundreds")]
    let tail = 0.025 / questions.max(1) as f64;
    // Abramowitz and Stegun 26.2.23, off by less than 0.00045.
    let t = (-2.0 * tail.ln()).sqrt();
    let above = 0.010_328_f64.mul_add(t, 0.802_853).mul_add(t, 2.515_517);
    let below = 0.001_308_f64.mul_add(t, 0.189_269).mul_add(t, 1.432_788).mul_add(t, 1.0);
    t - above / below
}

pub(in crate::plan) fn compute_ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { to_f64(part) / to_f64(of) }
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) const fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.000_6
    }

    #[test]
    fn wilson_interval_matches_published_tables() {
        // Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3.
        for (part, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let (found_low, found_high) = compute_wilson_interval(part, of, Z95);
            assert!(
                is_near(found_low, low) && is_near(found_high, high),
                "{part}/{of}: {found_low} {found_high}"
            );
        }
        assert_eq!(compute_wilson_interval(0, 0, Z95), (0.0, 1.0));
        assert_eq!(Rate::new(7, 7).high.to_bits(), 1.0f64.to_bits());
    }

    #[test]
    fn difference_bound_matches_published_tables() {
        // Newcombe 1998, 873-890, table II, method 10: 56/70 less 48/80 is 0.0524 at least; 9/10 less 3/10 is 0.1705.
        assert!(is_near(compute_excess_lower_bound(56, 70, 48, 80, Z95), 0.0524));
        assert!(is_near(compute_excess_lower_bound(9, 10, 3, 10, Z95), 0.1705));
        assert!(compute_excess_lower_bound(10, 10, 10, 10, Z95) < 0.0);
    }

    #[test]
    fn z_grows_with_number_of_comparisons() {
        assert!(is_near(compute_z_for_many(1), Z95));
        assert!(is_near(compute_z_for_many(10), 2.8070));
        assert!(is_near(compute_z_for_many(500), 3.8906));
    }
}
