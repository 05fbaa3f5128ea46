//! Which header fields decide a comparison.

use std::convert::Infallible;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::compare::ComparisonRules;
use crate::model::field::Field;

/// The header fields that decide. Those left out are named where they differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ComparedHeaders {
    /// Those that a client acts on.
    #[default]
    Usual,
    All,
    /// Names in lower case.
    Named(Vec<String>),
}

impl FromStr for ComparedHeaders {
    type Err = Infallible;

    /// Reads `usual`, `all`, or names between commas.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.trim().to_ascii_lowercase().as_str() {
            "usual" => Self::Usual,
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        })
    }
}

impl ComparedHeaders {
    /// Whether a field decides. Every field that is no header does.
    pub(super) fn includes(&self, field: &Field) -> bool {
        let Field::Header(name) = field else { return true };
        match self {
            Self::Usual => ComparisonRules::default().has_rule_for(name),
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }

    /// Lists the names for people: `etag, vary`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Usual => {
                let rules = ComparisonRules::default().headers;
                rules.into_iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ")
            }
            Self::All => "all but those of the connection".to_owned(),
            Self::Named(names) => names.join(", "),
        }
    }
}
