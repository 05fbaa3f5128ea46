//! JSON bodies by path. What is hostile (deep, wide, broken) is not JSON here, and is compared as bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::differences::Differences;
use super::redact;
use crate::model::evidence::DifferenceKind;
use crate::model::field::{Field, JsonPath};

/// Values in one body.
const MAX_NODES: usize = 20_000;
/// Arrays and objects inside each other.
const MAX_DEPTH: usize = 64;
/// Bytes of a path; what is deeper is counted under `...`.
const MAX_PATH_LENGTH: usize = 160;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    /// Whole numbers from -2^63 to 2^64.
    Integer(i128),
    Float(f64),
    Text(String),
    Array(Vec<Node>),
    Object(BTreeMap<String, Node>),
    /// The values of a key that an object has more than once.
    Repeated(Vec<Node>),
}

/// `None`: not JSON, or more than the bounds allow.
pub(super) fn parse(bytes: &[u8]) -> Option<Node> {
    let left = Cell::new(MAX_NODES);
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let node = BoundedSeed { remaining_nodes: &left, depth: 0 }.deserialize(&mut from).ok()?;
    from.end().ok()?;
    Some(node)
}

/// Every path of either is counted, and the differences are reported.
pub(super) fn compare(main: &Node, shadow: &Node, differences: &mut Differences) {
    JsonComparison { path: "$".to_owned(), hidden_keys: 0, differences }.compare_nodes(main, shadow);
}

struct JsonComparison<'a> {
    path: String,
    /// How many keys above this one are left out of the path, and look like a secret's.
    hidden_keys: usize,
    differences: &'a mut Differences,
}

impl JsonComparison<'_> {
    fn compare_nodes(&mut self, main: &Node, shadow: &Node) {
        match (main, shadow) {
            (Node::Object(ours), Node::Object(theirs)) => {
                self.add_equal();
                self.compare_objects(ours, theirs);
            }
            (Node::Array(ours), Node::Array(theirs)) => {
                self.compare_lengths(ours.len(), theirs.len(), main, shadow);
                let before = self.push(&["[]"]);
                for (main, shadow) in ours.iter().zip(theirs) {
                    self.compare_nodes(main, shadow);
                }
                self.path.truncate(before);
            }
            (Node::Repeated(ours), Node::Repeated(theirs)) => {
                self.compare_lengths(ours.len(), theirs.len(), main, shadow);
                for (main, shadow) in ours.iter().zip(theirs) {
                    self.compare_nodes(main, shadow);
                }
            }
            _ if main.type_name() != shadow.type_name() => {
                self.add_difference(DifferenceKind::Type, Some(main), Some(shadow));
            }
            _ if main == shadow || main.is_same_number(shadow) => self.add_equal(),
            _ => self.add_difference(DifferenceKind::Value, Some(main), Some(shadow)),
        }
    }

    fn compare_objects(&mut self, main: &BTreeMap<String, Node>, shadow: &BTreeMap<String, Node>) {
        let only_shadow = shadow.keys().filter(|key| !main.contains_key(*key));
        for key in main.keys().chain(only_shadow) {
            let before = self.path.len();
            let secret = usize::from(self.push_key(key) && redact::is_secret(key));
            self.hidden_keys += secret;
            match (main.get(key), shadow.get(key)) {
                (Some(main), Some(shadow)) => self.compare_nodes(main, shadow),
                (main, None) => self.add_difference(DifferenceKind::Missing, main, None),
                (None, shadow) => self.add_difference(DifferenceKind::Extra, None, shadow),
            }
            self.hidden_keys -= secret;
            self.path.truncate(before);
        }
    }

    fn compare_lengths(&mut self, ours: usize, theirs: usize, main: &Node, shadow: &Node) {
        if ours == theirs {
            self.add_equal();
        } else {
            self.add_difference(DifferenceKind::Length, Some(main), Some(shadow));
        }
    }

    /// Goes one step down; returns where the path was.
    fn push(&mut self, step: &[&str]) -> usize {
        let before = self.path.len();
        if self.path.ends_with("...") {
            return before;
        }
        if before + step.iter().map(|part| part.len()).sum::<usize>() > MAX_PATH_LENGTH {
            self.path.push_str("...");
        } else {
            self.path.extend(step.iter().copied());
        }
        before
    }

    /// Whether the key itself is left out. Keys that are ids are all one: else every request would have fields of its own.
    fn push_key(&mut self, key: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if redact::is_id(key) {
            self.push(&[".{id}"]);
            return true;
        }
        if !key.is_empty() && key.bytes().all(plain) {
            self.push(&[".", key]);
        } else {
            self.push(&["[\"", &key.escape_debug().to_string(), "\"]"]);
        }
        self.path.ends_with("...")
    }

    fn add_equal(&mut self) {
        self.differences.add_equal_path(&self.path);
    }

    fn add_difference(&mut self, kind: DifferenceKind, main: Option<&Node>, shadow: Option<&Node>) {
        let field = Field::Json(JsonPath::new(self.path.clone()));
        let (path, counted) = (&self.path, self.hidden_keys);
        self.differences.add_difference(field, kind, || {
            // Names of secrets are looked for where something is shown: most values are the same.
            let hidden = counted > 0 || redact::is_secret(path);
            match (main, shadow) {
                (Some(Node::Text(main)), Some(Node::Text(shadow))) if !hidden => {
                    redact::redact_pair(main, shadow)
                }
                _ => {
                    let absent = || "(absent)".to_owned();
                    let show = |node: Option<&Node>| node.map_or_else(absent, |node| node.format(hidden));
                    (show(main), show(shadow))
                }
            }
        });
    }
}

impl Node {
    const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Integer(_) | Self::Float(_) => "number",
            Self::Text(_) => "text",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
            Self::Repeated(_) => "repeated",
        }
    }

    /// `1` is `1.0`.
    fn is_same_number(&self, other: &Self) -> bool {
        #[allow(
            clippy::cast_precision_loss,
            clippy::float_cmp,
            reason = "a whole number that a float cannot hold is not that float"
        )]
        match (self, other) {
            (Self::Integer(whole), Self::Float(float)) | (Self::Float(float), Self::Integer(whole)) => {
                *whole as f64 == *float && whole.unsigned_abs() <= 1 << 53
            }
            _ => false,
        }
    }

    /// Formats a value for an example.
    fn format(&self, hidden: bool) -> String {
        match self {
            Self::Null => "null".into(),
            _ if hidden => format!("({}, hidden)", self.type_name()),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => redact::redact_text(&value.to_string()),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => redact::quote_redacted(value),
            Self::Array(items) => format!("(array of {})", items.len()),
            Self::Object(entries) => format!("(object of {})", entries.len()),
            Self::Repeated(values) => format!("(the key {} times)", values.len()),
        }
    }
}

struct BoundedSeed<'a> {
    remaining_nodes: &'a Cell<usize>,
    depth: usize,
}

impl BoundedSeed<'_> {
    fn descend<E: Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("too deep"));
        }
        Ok(Self { remaining_nodes: self.remaining_nodes, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for BoundedSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        let left =
            self.remaining_nodes.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.remaining_nodes.set(left);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BoundedSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(self.descend()?)? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = from.next_key::<String>()? {
            let value = from.next_value_seed(self.descend()?)?;
            match entries.get_mut(&key) {
                None => {
                    entries.insert(key, value);
                }
                Some(Node::Repeated(values)) => values.push(value),
                Some(first) => {
                    let before = std::mem::replace(first, Node::Null);
                    *first = Node::Repeated(vec![before, value]);
                }
            }
        }
        Ok(Node::Object(entries))
    }
}
