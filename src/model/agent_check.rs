//! The answers of a host to HAProxy's `agent-check` (configuration manual, 5.2).

use std::fmt;
use std::str::FromStr;

/// How a host reports that it is in maintenance, and that it is back in service. Both answers make HAProxy send it no new users and let requests in flight
/// finish; they differ in the users who hold its cookie and in what else they touch (measured: docs/design/measurements.md#m41).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MaintenanceReply {
    /// `stopped` and `up`: the operating state, which a passing or failing health check has too. HAProxy shows
    /// `DOWN (agent)`, cookie holders go to the backup vhost, and a MAINT or DRAIN set by HAProxy's own operator stays.
    #[default]
    Stopped,
    /// `drain` and `ready`: the administrative state. HAProxy shows `DRAIN (agent)`, cookie holders stay until the
    /// check fails, and `ready` undoes a MAINT or DRAIN set by HAProxy's own operator.
    Drain,
}

/// A share of the weight on the server line, 1 to 100 percent. 0 % would be a drain under another name; more than 100 %
/// depends on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u8);

/// A text that is not a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a weight: expected 1% to 100%")]
pub struct WeightError {
    pub found: String,
}

/// The inputs of one service's answers, beside its switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentCheckConfig {
    pub maintenance_reply: MaintenanceReply,
    /// `None`: not spoken of, so that a weight set on HAProxy's side stays.
    pub weight: Option<Weight>,
}

impl FromStr for Weight {
    type Err = WeightError;

    /// Reads `75%`.
    fn from_str(text: &str) -> Result<Self, WeightError> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok());
        let percent = percent.filter(|percent| (1..=100).contains(percent));
        percent.map(Self).ok_or_else(|| WeightError { found: text.to_owned() })
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_accepts_1_to_100_percent() {
        for good in ["1%", "75%", "100%"] {
            assert_eq!(good.parse::<Weight>().unwrap().to_string(), good);
        }
        for bad in ["0%", "101%", "256%", "75", "%", "", "+5%", "-1%", "7 5%", "75%%", "1.5%"] {
            let error = bad.parse::<Weight>().unwrap_err();
            assert_eq!(error.to_string(), format!("`{bad}` is not a weight: expected 1% to 100%"));
        }
    }
}
