//! The form of times in the output for people. JSON has RFC 3339 in every case.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

/// How times are printed (seed row R24, docs/design/seed-systems.md#restate).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeFormat {
    /// Such as 2026-11-27 08:30:05 UTC
    #[default]
    Human,
    /// Such as 2026-11-27T08:30:05Z, which is RFC 3339 too
    #[value(alias = "rfc3339")]
    Iso8601,
    /// Such as Fri, 27 Nov 2026 08:30:05 +0000
    Rfc2822,
}

impl TimeFormat {
    /// Formats a time of the past, in UTC.
    pub(super) fn format(self, at: Timestamp) -> String {
        match self {
            Self::Human => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            Self::Iso8601 => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            // Years that RFC 2822 has no form for are not those of a past change.
            Self::Rfc2822 => {
                rfc2822::to_string(&at.to_zoned(TimeZone::UTC)).unwrap_or_else(|_| at.to_string())
            }
        }
    }

    /// Formats the time since which an instance runs: for people, in the time zone of this machine (seed row D6,
    /// docs/design/seed-systems.md#mvi-and-daeploy).
    pub(super) fn format_since(self, at: Timestamp) -> String {
        match self {
            Self::Human => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Self::Iso8601 | Self::Rfc2822 => self.format(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: R24.
    #[test]
    fn times_have_the_chosen_form() {
        let at: Timestamp = "2026-11-27T08:30:05.123Z".parse().unwrap();
        assert_eq!(TimeFormat::Human.format(at), "2026-11-27 08:30:05 UTC");
        assert_eq!(TimeFormat::Iso8601.format(at), "2026-11-27T08:30:05Z");
        assert_eq!(TimeFormat::Rfc2822.format(at), "Fri, 27 Nov 2026 08:30:05 +0000");
        assert_eq!(TimeFormat::Rfc2822.format_since(at), TimeFormat::Rfc2822.format(at));
    }
}
