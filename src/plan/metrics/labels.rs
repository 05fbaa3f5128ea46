//! The versions that have metrics of their own, and the role of each.

use std::collections::BTreeMap;

use crate::model::name::ServiceName;
use crate::model::version::Version;

/// Limit of versions of a service on a page: main first, then the canary, then the newest.
pub const MAX_VERSIONS: usize = 50;

/// The role of a version in its service now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VersionRole {
    Main,
    Canary,
    /// The version answered users before, or is called by its own name.
    Other,
}

impl VersionRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Canary => "canary",
            Self::Other => "other",
        }
    }
}

/// The versions that have metrics of their own, by service.
pub type ListedVersions = BTreeMap<ServiceName, BTreeMap<Version, VersionRole>>;
