//! Before the version answers anybody: what its answers were like while it was a shadow.

use super::set_share::is_lost;
use super::{Halt, Rollout};
use crate::model::promote::RolloutWhat;
use crate::model::traffic_split::SplitChange;
use crate::ops::fleet::deployments::compare;
use crate::ops::fleet::deployments::{CompareOptions, VersionsError};
use crate::plan::compare::{Demand, Verdict};

impl Rollout<'_> {
    /// Until enough is compared.
    pub(super) async fn shadow(&self) -> Result<(), Halt> {
        let mut told = String::new();
        loop {
            self.not_overtaken().await?;
            let (verdict, reason) = match self.shown().await {
                Ok(shown) => shown,
                // A host that cannot be asked now may be the one where answers differ.
                Err(error) if is_unread(&error) => (Verdict::Insufficient, error.to_string()),
                Err(error) => return Err(Halt::back(format!("its answers cannot be compared: {error}"))),
            };
            if reason != told {
                let passed = verdict == Verdict::Same;
                self.record(&RolloutWhat::Compared { passed, reason: reason.clone() })?;
                told.clone_from(&reason);
            }
            match verdict {
                Verdict::Differs => {
                    return Err(Halt::back(format!("its answers differ from main's: {reason}")));
                }
                Verdict::Insufficient => self.say(format!("holding: {reason}")),
                Verdict::Same => {
                    self.say(format!("as a shadow: {reason}"));
                    return Ok(());
                }
            }
            self.pause(self.spec.interval).await?;
        }
    }

    /// A version cannot answer users and get copies of the same requests.
    pub(super) async fn no_copies(&self) -> Result<(), Halt> {
        let off = SplitChange::NoMirror(self.target.deployment.clone());
        let told = self.tell(off, "").await;
        told.map_err(|why| Halt::back(format!("not every host ends its copies: {why}")))
    }

    async fn shown(&self) -> Result<(Verdict, String), VersionsError> {
        let options = CompareOptions {
            service: self.spec.service.clone(),
            version: self.spec.version.clone(),
            demand: Demand {
                require_match: self.spec.require_match,
                min_samples: self.spec.min_samples,
                ignore: self.spec.ignore.clone(),
            },
        };
        let report = compare(self.world, &self.hosts, &options).await?;
        Ok((report.verdict, report.reason))
    }
}

/// What mends itself.
fn is_unread(error: &VersionsError) -> bool {
    matches!(error, VersionsError::Unread(_)) || is_lost(error)
}
