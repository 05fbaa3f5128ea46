//! A share in hundredths of a percent.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// 0 to 100 %, to the hundredth: `25`, `25%`, `0.5%`, `99.95%`. In JSON a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Percent(u16);

/// A text that is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a percentage: expected 0 to 100 with at most two decimals, such as 25 or 0.5%")]
pub struct PercentError {
    pub found: String,
}

impl Percent {
    pub const ZERO: Self = Self(0);
    pub const FULL: Self = Self(Self::WHOLE);
    /// The number of parts that make 100 %.
    pub const WHOLE: u16 = 10_000;

    /// Parts of [`Self::WHOLE`]; more than the whole is the whole.
    pub const fn from_parts(parts: u16) -> Self {
        Self(if parts > Self::WHOLE { Self::WHOLE } else { parts })
    }

    /// 0 to 10,000.
    pub const fn parts(self) -> u16 {
        self.0
    }

    /// 0.0 to 1.0.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

impl FromStr for Percent {
    type Err = PercentError;
    fn from_str(text: &str) -> Result<Self, PercentError> {
        let error = || PercentError { found: text.to_owned() };
        let number = text.strip_suffix('%').unwrap_or(text);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 2 {
            return Err(error());
        }
        let hundredths: u16 = format!("{decimals:0<2}").parse().map_err(|_| error())?;
        let parts = whole.parse::<u16>().map_err(|_| error())? * 100 + hundredths;
        if parts > Self::WHOLE { Err(error()) } else { Ok(Self(parts)) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        let text = match rest {
            0 => format!("{whole}%"),
            rest if rest % 10 == 0 => format!("{whole}.{}%", rest / 10),
            rest => format!("{whole}.{rest:02}%"),
        };
        f.pad(&text)
    }
}

impl Serialize for Percent {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_read_back() {
        for (text, parts, shown) in [
            ("25", 2500, "25%"),
            ("0.5%", 50, "0.5%"),
            ("99.95%", 9995, "99.95%"),
            ("0.05", 5, "0.05%"),
            ("100%", 10_000, "100%"),
            ("0", 0, "0%"),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!((percent.parts(), percent.to_string().as_str()), (parts, shown));
            assert_eq!(percent.to_string().parse(), Ok(percent));
        }
        for bad in ["", "%", "101", "100.01", "-1", "+1", "1e1", "1.234", ".5", "5.", "5 %", "65536", "１"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }
}
