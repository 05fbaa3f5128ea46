//! Names that end up in kernel rules, server lines, file paths and shell environments.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("it is empty")]
    Empty,
    #[error("it has {found} characters, at most {max} are allowed")]
    TooLong { found: usize, max: usize },
    #[error("`{}` is not allowed: a name has letters, digits, `-`, `_` and `.`", .found.escape_debug())]
    Character { found: char },
    #[error("it starts with `{}`: a name starts with a letter or a digit", .found.escape_debug())]
    Start { found: char },
}

/// Longest name: a DNS label's length (RFC 1035, 2.3.4), well inside the 255 bytes of an iptables comment.
const MAX_LENGTH: usize = 63;

fn check_name(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    let found = text.chars().count();
    if found > MAX_LENGTH {
        return Err(NameError::TooLong { found, max: MAX_LENGTH });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(found) = text.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character { found });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Start { found: first });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(extend("pattern" = "^[0-9A-Za-z][0-9A-Za-z._-]{0,62}$"))]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text).map(|()| Self(text.to_owned()))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(|error| {
                    serde::de::Error::custom(format!("`{}` is not a name: {error}", text.escape_debug()))
                })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name of a web host: the `H` of `main-H` and `backup-H` in haproxy.cfg.
    HostName
);
name!(
    /// The name that clients use for a service; part of the comment on every rule of ours.
    ServiceName
);
impl ServiceName {
    /// Returns the name under which the history has what belongs to no service, or to several.
    pub fn of_host() -> Self {
        Self("host".to_owned())
    }
}

name!(
    /// The name of a load balancer in messages.
    BalancerName
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: D23.
    #[test]
    fn name_accepts_ordinary_names() {
        for good in ["web1", "shop", "a", "front-1.example.org", "Shop_2", "9lives"] {
            assert_eq!(good.parse::<HostName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn name_rejects_shell_path_and_unicode_tricks() {
        let bad = |text: &str| text.parse::<ServiceName>().unwrap_err();
        assert_eq!(bad(""), NameError::Empty);
        assert_eq!(bad("../etc"), NameError::Character { found: '/' });
        assert_eq!(bad("..etc"), NameError::Start { found: '.' });
        assert_eq!(bad("-j"), NameError::Start { found: '-' });
        assert_eq!(bad("a b"), NameError::Character { found: ' ' });
        assert_eq!(bad("a;rm"), NameError::Character { found: ';' });
        assert_eq!(bad("a\"b"), NameError::Character { found: '"' });
        assert_eq!(bad("a\nCOMMIT"), NameError::Character { found: '\n' });
        assert_eq!(bad("wеb1"), NameError::Character { found: 'е' });
        assert_eq!(bad(&"a".repeat(64)), NameError::TooLong { found: 64, max: 63 });
    }
}
