//! A map of limited size that merges the same way in any order.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Two of a kind become one; commutative and associative.
pub trait Merge {
    fn absorb(&mut self, other: Self);

    #[cfg(test)]
    #[must_use]
    fn merge(mut self, other: Self) -> Self
    where
        Self: Sized,
    {
        self.absorb(other);
        self
    }
}

/// Absorbs fields of one value into those of another.
macro_rules! absorb_fields {
    ($sum:ident, $other:ident: $($field:ident),+) => {
        $($sum.$field.absorb($other.$field);)+
    };
}

pub(super) use absorb_fields;

impl Merge for u64 {
    fn absorb(&mut self, other: Self) {
        *self = self.saturating_add(other);
    }
}

impl Merge for BTreeMap<String, u64> {
    fn absorb(&mut self, other: Self) {
        for (key, count) in other {
            self.entry(key).or_default().absorb(count);
        }
    }
}

/// Keeps the `CAP` smallest keys that were ever added, and the sum of everything under the others. Which those are does not
/// depend on the order, so that what several hosts saw adds up to what one would have seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"))]
pub struct CappedMap<K, V, const CAP: usize> {
    #[serde(alias = "kept")]
    pub entries: BTreeMap<K, V>,
    /// The sum of all keys beyond the cap; absent where there were none.
    #[serde(default)]
    #[serde(alias = "rest")]
    pub overflow: Option<V>,
}

impl<K, V, const CAP: usize> Default for CappedMap<K, V, CAP> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), overflow: None }
    }
}

impl<K: Ord, V: Merge, const CAP: usize> CappedMap<K, V, CAP> {
    pub fn add(&mut self, key: K, value: V) {
        match self.entries.get_mut(&key) {
            Some(there) => there.absorb(value),
            None => {
                self.entries.insert(key, value);
            }
        }
        while self.entries.len() > CAP {
            if let Some((_, last)) = self.entries.pop_last() {
                self.add_rest(last);
            }
        }
    }

    fn add_rest(&mut self, value: V) {
        match &mut self.overflow {
            Some(rest) => rest.absorb(value),
            None => self.overflow = Some(value),
        }
    }
}

impl<K: Ord, V: Merge, const CAP: usize> Merge for CappedMap<K, V, CAP> {
    fn absorb(&mut self, other: Self) {
        for (key, value) in other.entries {
            self.add(key, value);
        }
        if let Some(rest) = other.overflow {
            self.add_rest(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build_capped(pairs: &[(u8, u64)]) -> CappedMap<u8, u64, 4> {
        let mut capped = CappedMap::default();
        for (key, value) in pairs {
            capped.add(*key, *value);
        }
        capped
    }

    proptest! {
        #[test]
        fn capped_merge_keeps_the_sum_and_is_commutative(
            a in prop::collection::vec((0u8..12, 1u64..100), 0..30),
            b in prop::collection::vec((0u8..12, 1u64..100), 0..30),
        ) {
            let at_once: Vec<_> = a.iter().chain(&b).copied().collect();
            let mut merged = build_capped(&b);
            merged.absorb(build_capped(&a));
            prop_assert_eq!(&merged, &build_capped(&at_once));
            let sum = merged.entries.values().sum::<u64>() + merged.overflow.unwrap_or(0);
            prop_assert_eq!(sum, at_once.iter().map(|(_, value)| value).sum::<u64>());
            prop_assert!(merged.entries.len() <= 4);
        }
    }
}
