//! The fields compared in one pair of answers, and those that differ.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;

use crate::model::evidence::DifferenceKind;
use crate::model::field::{Field, JsonPath};

/// The first difference in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub kind: DifferenceKind,
    /// Both sides as they may be shown.
    pub main: String,
    pub shadow: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// The fields compared; a field that differs may be here as well: an array's path is seen once per item.
    same: BTreeSet<Field>,
    /// The JSON paths among them, for lookups without a copy.
    paths: HashSet<String>,
    pub differing: BTreeMap<Field, Difference>,
    /// Header fields without a rule, and whether they differ: they decide nothing unless the operator chooses them.
    pub others: BTreeMap<Field, Option<Difference>>,
    /// A body was not read to its end, or has an unknown coding: it was not compared.
    pub body_unread: bool,
}

impl Differences {
    pub fn add_equal(&mut self, field: Field) {
        self.same.insert(field);
    }

    pub fn add_equal_path(&mut self, path: &str) {
        if !self.paths.contains(path) {
            self.paths.insert(path.to_owned());
            self.same.insert(Field::Json(JsonPath::new(path.to_owned())));
        }
    }

    /// `show` is called only for the first difference of a field.
    pub fn add_difference(
        &mut self,
        field: Field,
        kind: DifferenceKind,
        show: impl FnOnce() -> (String, String),
    ) {
        self.differing.entry(field).or_insert_with(|| {
            let (main, shadow) = show();
            Difference { kind, main, shadow }
        });
    }

    /// Every field once, with its difference.
    pub fn into_fields(self) -> impl Iterator<Item = (Field, Option<Difference>)> {
        let Self { same, differing, .. } = self;
        let same: Vec<Field> = same.into_iter().filter(|field| !differing.contains_key(field)).collect();
        let same = same.into_iter().map(|field| (field, None));
        same.chain(differing.into_iter().map(|(field, difference)| (field, Some(difference))))
    }
}
