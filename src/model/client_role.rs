//! The role of a client of the host API: what it may send to a host. Each endpoint names the role that it needs.

use std::fmt;
use std::str::FromStr;

/// A role permits everything that the roles before it permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientRole {
    /// Reads the state, the history and the logs.
    Read,
    /// Switches forwards, versions and traffic of what is deployed.
    Switch,
    /// Deploys, updates and removes programs, and runs commands: as root.
    All,
}

/// A text that is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a role: the roles are `read`, `switch` and `all`", .found.escape_debug())]
pub struct RoleError {
    pub found: String,
}

impl ClientRole {
    pub const ALL: [Self; 3] = [Self::Read, Self::Switch, Self::All];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Switch => "switch",
            Self::All => "all",
        }
    }
}

impl FromStr for ClientRole {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| RoleError { found: text.to_owned() })
    }
}

impl fmt::Display for ClientRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
