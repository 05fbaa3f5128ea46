//! The user-given label of one version of a service: a semantic version (semver.org 2.0.0).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest label: it is part of a file's name.
const MAX_LENGTH: usize = 64;
/// The pattern of the API's description: semver.org's own, without the names of its groups.
const PATTERN: &str = concat!(
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)",
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?",
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
);

/// `1.0.0`, `2.1.0-rc.1+build5`. Plain ASCII without `/`, so it is a safe file name; ordered by precedence, then by build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = PATTERN, "maxLength" = MAX_LENGTH))]
pub struct Version(#[schemars(with = "String")] semver::Version);

/// A text that is not a version. The message is seed row D23 (docs/design/seed-systems.md#mvi-and-daeploy).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Version must be a semantic version string.")]
pub struct ParseVersionError {
    pub found: String,
}

impl Version {
    /// Returns the version `MAJOR.0.0`.
    pub const fn from_major(major: u64) -> Self {
        Self(semver::Version::new(major, 0, 0))
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let error = || ParseVersionError { found: text.to_owned() };
        if text.len() > MAX_LENGTH {
            return Err(error());
        }
        text.parse().map(Self).map_err(|_| error())
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: D23.
    #[test]
    fn version_accepts_only_semver() {
        for good in ["0.1.0", "1.0.0", "2.1.0-rc.1+build.5"] {
            assert_eq!(good.parse::<Version>().unwrap().to_string(), good);
        }
        let long = format!("1.0.0-{}", "a".repeat(64));
        for bad in ["", "1", "1.0", "v1.0.0", "1.0.0/..", "../1.0.0", "1.0.0 ", "1.0.0;id", "１.0.0", &long]
        {
            assert_eq!(bad.parse::<Version>(), Err(ParseVersionError { found: bad.to_owned() }), "{bad}");
        }
    }
}
