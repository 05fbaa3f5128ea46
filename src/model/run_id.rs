//! The ids of runs that a journal records: one letter for the kind of run, the second it began, and a salt.

/// Defines an id type with its first letter, what it identifies, and its error.
macro_rules! run_id {
    ($(#[$doc:meta])* $id:ident, $letter:literal, $noun:literal, $error:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, schemars::JsonSchema)]
        #[serde(transparent)]
        #[schemars(extend("pattern" = concat!("^", $letter, "[0-9a-z-]{0,62}$")))]
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

        impl<'de> serde::Deserialize<'de> for $id {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
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

/// The salt distinguishes runs of the same second: also those of one container, whose processes have the same pid each time.
pub fn derive_salt(now: jiff::Timestamp, pid: u32) -> u16 {
    let micros = now.subsec_nanosecond().unsigned_abs() / 1000;
    u16::try_from((pid ^ micros) & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_second_and_one_pid_have_different_salts() {
        let at = |micros| jiff::Timestamp::from_microsecond(micros).unwrap();
        assert_ne!(derive_salt(at(1_000_001), 2), derive_salt(at(1_700_000), 2));
        assert_ne!(derive_salt(at(1_000_001), 2), derive_salt(at(1_000_001), 3));
    }
}
