//! Durations as people write them: `500ms`, `2s`, `1m30s`, `2h`.

use std::fmt::Write as _;
use std::time::Duration;

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a duration: expected a number with a unit, such as 500ms, 2s, 1m30s or 2h")]
pub struct DurationError {
    pub found: String,
}

/// Reads whole numbers, each with a unit of `ms`, `s`, `m`, `h` or `d`, one after another. The sum fits in 10 years.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    parse_sum(text).ok_or_else(|| DurationError { found: text.to_owned() })
}

const MAX_DURATION: Duration = Duration::from_hours(10 * 365 * 24);

fn parse_sum(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let scale = match &rest[..unit_end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        total = total.checked_add(Duration::from_millis(number.checked_mul(scale)?))?;
    }
    (!text.is_empty() && total <= MAX_DURATION).then_some(total)
}

/// Writes what [`parse`] reads, rounded to milliseconds: `1.5 s` is `1s500ms`, zero is `0s`.
pub fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, scale) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= scale {
            let _ = write!(text, "{}{unit}", left / scale);
            left %= scale;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Serializes for JSON: whole milliseconds.
pub fn serialize_ms<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Serializes for JSON: whole milliseconds or null.
pub fn serialize_optional_ms<S: serde::Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serialize_ms(duration, to),
        None => to.serialize_none(),
    }
}

/// A number of whole milliseconds, at most ten years.
#[derive(schemars::JsonSchema)]
#[schemars(inline)]
pub struct Milliseconds(
    #[allow(dead_code, reason = "only its shape is of use")]
    #[schemars(range(max = 315_360_000_000_u64))]
    u64,
);

/// Serialization for JSON, both ways: whole milliseconds.
pub mod ms {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    pub use super::serialize_ms as serialize;

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let duration = Duration::from_millis(u64::deserialize(from)?);
        if duration > super::MAX_DURATION {
            return Err(D::Error::custom("a duration is at most 10 years"));
        }
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duration_parses_common_notations() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("2h"), Ok(Duration::from_hours(2)));
        for bad in ["", "5", "s", "1.5s", "-1s", "1 s", "5x", "99999999999999999999s", "4000d"] {
            assert_eq!(parse(bad), Err(DurationError { found: bad.to_owned() }), "{bad}");
        }
    }

    #[test]
    fn duration_rejects_overlong_values() {
        let read = |ms: u64| ms::deserialize(serde_json::json!(ms));
        assert_eq!(read(315_360_000_000).ok(), Some(MAX_DURATION));
        assert!(read(315_360_000_001).is_err() && read(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn shown_durations_read_back(ms in 0u64..1_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn duration_parse_never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
