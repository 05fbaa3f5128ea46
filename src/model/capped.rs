//! A map of bounded size that merges the same way in any order.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Two of a kind become one; commutative and associative.
pub trait Merge {
    fn absorb(&mut self, other: Self);

    #[must_use]
    fn merged(mut self, other: Self) -> Self
    where
        Self: Sized,
    {
        self.absorb(other);
        self
    }
}

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
pub struct Capped<K, V, const CAP: usize> {
    pub kept: BTreeMap<K, V>,
    /// Of all keys beyond the cap together; absent where there were none.
    #[serde(default)]
    pub rest: Option<V>,
}

impl<K, V, const CAP: usize> Default for Capped<K, V, CAP> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), rest: None }
    }
}

impl<K: Ord, V: Merge, const CAP: usize> Capped<K, V, CAP> {
    pub fn add(&mut self, key: K, value: V) {
        match self.kept.get_mut(&key) {
            Some(there) => there.absorb(value),
            None => {
                self.kept.insert(key, value);
            }
        }
        while self.kept.len() > CAP {
            if let Some((_, last)) = self.kept.pop_last() {
                self.add_rest(last);
            }
        }
    }

    fn add_rest(&mut self, value: V) {
        match &mut self.rest {
            Some(rest) => rest.absorb(value),
            None => self.rest = Some(value),
        }
    }
}

impl<K: Ord, V: Merge, const CAP: usize> Merge for Capped<K, V, CAP> {
    fn absorb(&mut self, other: Self) {
        for (key, value) in other.kept {
            self.add(key, value);
        }
        if let Some(rest) = other.rest {
            self.add_rest(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(u8, u64)]) -> Capped<u8, u64, 4> {
        let mut capped = Capped::default();
        for (key, value) in pairs {
            capped.add(*key, *value);
        }
        capped
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_order_does_not_matter(
            a in prop::collection::vec((0u8..12, 1u64..100), 0..30),
            b in prop::collection::vec((0u8..12, 1u64..100), 0..30),
        ) {
            let at_once: Vec<_> = a.iter().chain(&b).copied().collect();
            let mut merged = of(&b);
            merged.absorb(of(&a));
            prop_assert_eq!(&merged, &of(&at_once));
            let sum = merged.kept.values().sum::<u64>() + merged.rest.unwrap_or(0);
            prop_assert_eq!(sum, at_once.iter().map(|(_, value)| value).sum::<u64>());
            prop_assert!(merged.kept.len() <= 4);
        }
    }
}
