//! The ids of runs that a journal records: one letter for the kind of run, the second it began, and a salt.

/// Defines an id type with its first letter, what it identifies, and its error.
macro_rules! run_id {
    ($(#[$doc:meta])* $id:ident, $letter:literal, $noun:literal, $error:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $id(String);

        impl $id {
            pub fn new(now: jiff::Timestamp, salt: u16) -> Self {
                Self(format!("{}{}-{salt:04x}", $letter, now.strftime("%Y%m%d-%H%M%S")))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $id {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        #[doc = concat!("A text that is not the id of ", $noun, ".")]
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("`{}` is not {}: expected something like {}20261121-071503-5f3a", .found.escape_debug(), $noun, $letter)]
        pub struct $error {
            pub found: String,
        }

        impl std::str::FromStr for $id {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                if text.starts_with($letter) && text.len() < 64 && text.chars().all(plain) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err($error { found: text.to_owned() })
                }
            }
        }
    };
}
pub(crate) use run_id;
