//! Before the version answers anybody: what its answers were like while it was a shadow.

use super::{Halt, Rollout};
use crate::model::rollout::{RolloutWhat, Verdict};
use crate::model::splits::SplitChange;
use crate::ops::versions::each;
use crate::plan::rollout::{Shown, shown};

impl Rollout<'_> {
    /// Until enough is compared. What passes gets no copies any more: a version cannot answer users and get copies of the same
    /// requests.
    pub(super) async fn shadow(&self) -> Result<(), Halt> {
        let mut told = String::new();
        loop {
            let verdict = match self.shown().await {
                Ok(shown) => shown,
                Err(why) => (Verdict::Hold { reason: why.clone() }, why),
            };
            let (passed, reason) = (verdict.0.passes(), verdict.1);
            if reason != told {
                self.record(&RolloutWhat::Compared { passed, reason: reason.clone() })?;
                told.clone_from(&reason);
            }
            match verdict.0 {
                Verdict::Breach { reason } => {
                    return Err(Halt::back(format!("its answers differ from main's: {reason}")));
                }
                Verdict::Hold { reason } => self.say(format!("holding: {reason}")),
                Verdict::Advance | Verdict::Done => {
                    self.say(format!("as a shadow: {reason}"));
                    let off = SplitChange::NoMirror(self.target.deployment.clone());
                    let done = self.tell(off, "").await;
                    return done.map_err(|why| Halt::back(format!("not every host ends its copies: {why}")));
                }
            }
            self.pause(self.spec.interval).await?;
        }
    }

    async fn shown(&self) -> Result<(Verdict, String), String> {
        let asked = each(self.world, &self.hosts, async |_, link| {
            let evidence = link.evidence(&self.spec.service, &self.target.deployment).await?;
            Ok(Shown { evidence, stats: link.proxy().await? })
        });
        let mut hosts = vec![];
        for (host, shown) in asked.await {
            hosts.push(shown.map_err(|error| format!("{host}: {error}"))?);
        }
        Ok(shown(&self.spec, &self.target, &hosts))
    }
}
