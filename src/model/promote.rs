//! A promotion: a version gets a growing share of the requests for as long as it is no worse than main, and becomes main.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deployment::DeploymentId;
use super::duration;
use super::field::Field;
use super::name::{HostName, ServiceName};
use super::percent::Percent;
use super::proxy::Sticky;
use super::run_id::run_id;
use super::version::Version;

mod journal;
mod window;

pub use journal::{OperatorRequest, PromotionEntry, PromotionEntryKind, PromotionRequest, PromotionResult};
pub use window::{Judgement, RequestCounts, RequestSample, StepVerdict};

run_id!(
    /// `o20261121-071503-5f3a`: sorts by time, fits in a file name.
    PromotionId, 'o', "a promotion", PromotionIdError
);

/// The shares of a promotion, one after another: each greater than the one before, the first below 100 %, because at 100 % main
/// answers nothing that could be compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Percent>", into = "Vec<Percent>")]
pub struct Steps(Vec<Percent>);

/// Shares that are no steps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a list of steps: expected rising shares from below 100%, such as 1,5,25,50,100")]
pub struct StepsError {
    pub found: String,
}

/// More make no sense, and would fill the journal.
const MAX_STEPS: usize = 100;

impl Steps {
    pub fn shares(&self) -> &[Percent] {
        &self.0
    }

    /// Returns the share of the step at an index, from 0.
    pub fn share_at(&self, step: usize) -> Option<Percent> {
        self.0.get(step).copied()
    }

    pub fn is_last(&self, step: usize) -> bool {
        step + 1 >= self.0.len()
    }
}

impl TryFrom<Vec<Percent>> for Steps {
    type Error = StepsError;
    fn try_from(shares: Vec<Percent>) -> Result<Self, StepsError> {
        let rising = shares.windows(2).all(|pair| pair[0] < pair[1]);
        let first = shares.first().copied().unwrap_or_default();
        if rising && first > Percent::ZERO && first < Percent::FULL && shares.len() <= MAX_STEPS {
            return Ok(Self(shares));
        }
        Err(StepsError { found: Self(shares).to_string() })
    }
}

impl From<Steps> for Vec<Percent> {
    fn from(steps: Steps) -> Self {
        steps.0
    }
}

impl FromStr for Steps {
    type Err = StepsError;
    fn from_str(text: &str) -> Result<Self, StepsError> {
        let error = || StepsError { found: text.to_owned() };
        let shares: Result<Vec<Percent>, _> = text.split(',').map(|share| share.trim().parse()).collect();
        Self::try_from(shares.map_err(|_| error())?).map_err(|_| error())
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.pad(&shares.join(", "))
    }
}

/// How many times as slow something may be, in hundredths: `1.2`. From 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(u16);

/// A text that is not a ratio.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a ratio: expected 1 to 100 with at most two decimals, such as 1.2")]
pub struct RatioError {
    pub found: String,
}

impl Ratio {
    /// That many times a duration; both in the same unit.
    pub const fn multiply(self, duration: u64) -> u64 {
        duration.saturating_mul(self.0 as u64) / 100
    }
}

impl FromStr for Ratio {
    type Err = RatioError;
    fn from_str(text: &str) -> Result<Self, RatioError> {
        let error = || RatioError { found: text.to_owned() };
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |part: &str, most| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 3) || !digits(decimals, 2) {
            return Err(error());
        }
        let hundredths = format!("{whole}{decimals:0<2}").parse().map_err(|_| error())?;
        if (100..=10_000).contains(&hundredths) { Ok(Self(hundredths)) } else { Err(error()) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        let text = match rest {
            0 => whole.to_string(),
            rest if rest % 10 == 0 => format!("{whole}.{}", rest / 10),
            rest => format!("{whole}.{rest:02}"),
        };
        f.pad(&text)
    }
}

/// The request for a promotion; recorded whole, so that a resume needs no flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionSpec {
    pub service: ServiceName,
    pub version: Version,
    pub hosts: Vec<HostName>,
    pub steps: Steps,
    /// How long each share is judged at least.
    #[serde(rename = "interval_ms", with = "duration::ms")]
    pub interval: Duration,
    /// Limit of the canary's failed requests in an interval, as a share of its requests.
    pub max_error_rate: Percent,
    /// The version's p99 against main's; absent: latency is not judged.
    pub max_p99_ratio: Option<Ratio>,
    /// The share of its answers that must have been the same as main's while it was a shadow; absent: not judged.
    pub require_match: Option<Percent>,
    /// Differences in these do not count.
    #[serde(default)]
    pub ignore: Vec<Field>,
    /// Requests to the version in an interval; with fewer nothing is decided. Answers to be compared before the first step.
    pub min_samples: u64,
    pub sticky: Option<Sticky>,
    /// Each step waits for `promote --approve` once it has passed.
    #[serde(alias = "approve")]
    pub require_approval: bool,
    /// How long every host watches the new main; zero: not at all.
    #[serde(rename = "watch_ms", with = "duration::ms")]
    pub watch: Duration,
}

/// The roles of a version on the hosts of a promotion when it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionTarget {
    pub deployment: DeploymentId,
    pub main: DeploymentId,
    pub main_version: Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_must_rise_and_start_below_100_percent() {
        let steps: Steps = "1,5,25,50,100".parse().unwrap();
        assert_eq!(steps.to_string(), "1%, 5%, 25%, 50%, 100%");
        assert_eq!("0.5%, 10".parse::<Steps>().unwrap().share_at(0).unwrap().parts(), 50);
        assert!(steps.is_last(4) && !steps.is_last(3));
        let json = serde_json::to_string(&steps).unwrap();
        assert_eq!(serde_json::from_str::<Steps>(&json).unwrap(), steps);
        for bad in ["", "100", "0,5", "5,5", "10,5", "5,,10", "5,101", "a"] {
            assert_eq!(bad.parse::<Steps>(), Err(StepsError { found: bad.to_owned() }), "{bad}");
        }
        assert!(serde_json::from_str::<Steps>(r#"["25%","5%"]"#).is_err());
    }

    #[test]
    fn ratios_read_back() {
        for (text, shown) in [("1.2", "1.2"), ("1", "1"), ("1.05", "1.05"), ("100", "100"), ("2.00", "2")] {
            let ratio: Ratio = text.parse().unwrap();
            assert_eq!(ratio.to_string(), shown);
            assert_eq!(ratio.to_string().parse(), Ok(ratio));
        }
        assert_eq!("1.25".parse::<Ratio>().unwrap().multiply(2_000), 2_500);
        for bad in ["", ".", "1.", ".5", "0.9", "100.01", "1.234", "-1", "+1", "1e1", "x"] {
            assert_eq!(bad.parse::<Ratio>(), Err(RatioError { found: bad.to_owned() }), "{bad}");
        }
    }

    #[test]
    fn promotion_id_round_trips_and_is_not_a_roll_id() {
        let id = PromotionId::new(jiff::Timestamp::UNIX_EPOCH, 0xbeef);
        assert_eq!(id.as_str(), "o19700101-000000-beef");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("r19700101-000000-beef".parse::<PromotionId>().is_err());
    }
}
