//! The proxy of a host of the site: users who ask at an even pace, and two versions that answer as they are told to.

use async_trait::async_trait;
use tokio::time::Instant;

use super::site::{SiteHost, SiteLink};
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::latencies::bucket;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::proxy::{Latencies, Layer7, LegStats, Place, ProxyStats, ServiceStats, Splits};
use crate::model::traffic_split::{Split, SplitChange, SplitRequest};
use crate::world::link::{HostSplits, LinkError};

/// How a version answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    pub latency_us: u64,
    /// Every so manieth answer is a 500; 0: none.
    pub error_every: u64,
    /// It takes no connection: as a canary, main answers instead.
    pub refuses: bool,
}

/// What stands before main, and what passes through it.
#[derive(Debug, Clone)]
pub struct SiteProxy {
    pub splits: Splits,
    /// Its process lives and the rules lead to it.
    pub inserted: bool,
    pub pid: u32,
    /// Requests of users.
    pub per_minute: u64,
    pub main: Behaviour,
    pub canary: Behaviour,
    /// A share that this host does not take.
    pub refuses: Option<Percent>,
    /// Every share of the canary it was told, `None` where there is none any more.
    pub told: Vec<Option<Percent>>,
    main_leg: LegStats,
    canary_leg: LegStats,
    at: Instant,
    /// Remainders: of requests in parts of a minute, and of the canary's share.
    rest: u128,
    rest_of_share: u64,
}

const WELL: Behaviour = Behaviour { latency_us: 20_000, error_every: 0, refuses: false };

fn leg(version: &str) -> LegStats {
    let one = example::deployment("shop", version, 20000);
    LegStats {
        deployment: one.id,
        version: one.version,
        answers: [].into(),
        errors: [].into(),
        latency: Latencies::default(),
        fallbacks: 0,
    }
}

/// `count` more answers, evenly made.
fn answer(leg: &mut LegStats, behaviour: Behaviour, count: u64) {
    let all = |leg: &LegStats| leg.answers.values().sum::<u64>();
    let failed = |all: u64| all.checked_div(behaviour.error_every).unwrap_or(0);
    let before = all(leg);
    let bad = failed(before + count) - failed(before);
    *leg.answers.entry("5".to_owned()).or_default() += bad;
    *leg.answers.entry("2".to_owned()).or_default() += count - bad;
    *leg.latency.0.entry(bucket(behaviour.latency_us)).or_default() += count;
}

impl SiteProxy {
    /// 12,000 requests a minute to come.
    pub(super) fn none() -> Self {
        Self {
            splits: Splits::default(),
            inserted: false,
            pid: 1,
            per_minute: 12_000,
            main: WELL,
            canary: WELL,
            refuses: None,
            told: vec![],
            main_leg: leg("1.0.0"),
            canary_leg: leg("2.0.0"),
            at: Instant::now(),
            rest: 0,
            rest_of_share: 0,
        }
    }

    pub(super) fn layer7(&self) -> Layer7 {
        let place = Place { port: example::port(29_999), inserted: self.inserted };
        Layer7 { splits: self.splits.clone(), place: (!self.splits.is_empty()).then_some(place) }
    }

    pub fn share(&self) -> Option<Percent> {
        self.splits.canary.as_ref().and_then(|canary| canary.percent)
    }

    /// Another process, which has counted nothing.
    pub fn restart(&mut self) {
        self.pass();
        self.pid += 1;
        (self.main_leg, self.canary_leg) = (leg("1.0.0"), leg("2.0.0"));
    }

    /// What came since the last look has passed.
    pub fn pass(&mut self) {
        const MINUTE: u128 = 60_000_000;
        let all = self.at.elapsed().as_micros() * u128::from(self.per_minute) + self.rest;
        self.at = Instant::now();
        self.rest = all % MINUTE;
        if !self.inserted {
            return;
        }
        let all = u64::try_from(all / MINUTE).unwrap();
        let parts = self.share().map_or(0, |share| u64::from(share.parts()));
        let of_canary = all * parts + self.rest_of_share;
        self.rest_of_share = of_canary % u64::from(Percent::WHOLE);
        let of_canary = of_canary / u64::from(Percent::WHOLE);
        let of_main = all - of_canary.min(all);
        if self.canary.refuses {
            self.canary_leg.fallbacks += of_canary;
            answer(&mut self.main_leg, self.main, of_canary);
        } else {
            answer(&mut self.canary_leg, self.canary, of_canary);
        }
        answer(&mut self.main_leg, self.main, of_main);
    }

    pub(super) fn is_main_now(&mut self, deployment: &DeploymentId) {
        self.pass();
        self.splits = self.splits.without(deployment);
        self.inserted &= !self.splits.is_empty();
    }

    fn take(&mut self, change: &SplitChange) -> Result<Split, LinkError> {
        self.pass();
        let before = self.splits.clone();
        match change {
            SplitChange::Canary(canary) => {
                if self.refuses.is_some() && self.refuses == canary.percent {
                    let message = "the proxy refuses: it is full".to_owned();
                    return Err(LinkError::Refused { code: ErrorCode::Busy, message });
                }
                if self.splits.mirrors.iter().any(|mirror| mirror.deployment == canary.deployment) {
                    let message = "it is a shadow that gets copies".to_owned();
                    return Err(LinkError::Refused { code: ErrorCode::NotAllowed, message });
                }
                self.splits.canary = Some(canary.clone());
                self.told.push(canary.percent);
            }
            SplitChange::NoCanary => {
                self.splits.canary = None;
                self.told.push(None);
            }
            SplitChange::Mirror(mirror) => self.splits.mirrors.push(mirror.clone()),
            SplitChange::NoMirror(id) => self.splits.mirrors.retain(|one| one.deployment != *id),
        }
        self.inserted = !self.splits.is_empty();
        Ok(Split { splits: self.splits.clone(), inserted: self.inserted, known: self.splits == before })
    }

    fn stats(&mut self) -> Option<ProxyStats> {
        self.pass();
        let service = ServiceStats {
            service: "shop".parse().unwrap(),
            connections: 0,
            upgraded: 0,
            in_flight: 0,
            legs: vec![self.main_leg.clone(), self.canary_leg.clone()],
            shadows: vec![],
            rejected: [].into(),
        };
        let services = vec![service];
        let stats =
            ProxyStats { services, pid: self.pid, resident_bytes: 0, suspended: false, gateway: None };
        (!self.splits.is_empty()).then_some(stats)
    }
}

#[async_trait]
impl HostSplits for SiteLink {
    async fn split(&self, _: &ServiceName, request: &SplitRequest) -> Result<Split, LinkError> {
        self.way().await?;
        let split = self.site.of(&self.name, |host: &mut SiteHost| host.layer7.take(&request.change))?;
        self.way_back().await?;
        Ok(split)
    }

    async fn proxy(&self) -> Result<Option<ProxyStats>, LinkError> {
        self.there_and_back(|host| host.proxy.clone().or_else(|| host.layer7.stats())).await
    }

    async fn evidence(&self, _: &ServiceName, _: &DeploymentId) -> Result<Option<Evidence>, LinkError> {
        let evidence =
            |host: &mut SiteHost| host.evidence_error.clone().map_or(Ok(host.evidence.clone()), Err);
        self.there_and_back(evidence).await?
    }
}
