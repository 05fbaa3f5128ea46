//! The proxy of a host of the site: users with an even rate of requests, and two versions that answer as configured.

use async_trait::async_trait;
use tokio::time::Instant;

use super::site_link::SiteLink;
use crate::model::deployment::DeploymentId;
use crate::model::evidence::Evidence;
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::latencies::round_to_bucket;
use crate::model::name::ServiceName;
use crate::model::percent::Percent;
use crate::model::proxy::{Layer7, ProxyPlacement, ProxyStats, TrafficSplit, UpstreamStats};
use crate::model::traffic_split::{TrafficSplitChange, TrafficSplitRequest, TrafficSplitResponse};
use crate::world::link::{HostTrafficSplit, LinkError, LinkResult};

/// How a version answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionBehaviour {
    pub latency_us: u64,
    /// Every so manieth answer is a 500; 0: none.
    pub error_every: u64,
    /// The version takes no connection: as a canary, main answers instead.
    pub refuses_connections: bool,
}

/// The proxy before main, and the traffic through it.
#[derive(Debug, Clone)]
pub struct SiteProxy {
    pub traffic_split: TrafficSplit,
    /// Whether its process lives and the rules route to it.
    pub inserted: bool,
    pub pid: u32,
    /// Requests of users.
    pub per_minute: u64,
    pub main: VersionBehaviour,
    pub canary: VersionBehaviour,
    /// No agent runs on the host.
    pub has_no_agent: bool,
    /// A share that this host does not take.
    pub refused_share: Option<Percent>,
    /// Every share of the canary it received, `None` where there is none any more.
    pub shares: Vec<Option<Percent>>,
    main_stats: UpstreamStats,
    canary_stats: UpstreamStats,
    updated_at: Instant,
    /// Remainders: of requests in parts of a minute, and of the canary's share.
    request_remainder: u128,
    share_remainder: u64,
}

const HEALTHY: VersionBehaviour =
    VersionBehaviour { latency_us: 20_000, error_every: 0, refuses_connections: false };

fn new_stats(version: &str) -> UpstreamStats {
    example::make_upstream_stats(&example::deployment("shop", version, 20000))
}

/// `count` more answers, evenly made.
fn add_answers(leg: &mut UpstreamStats, behaviour: VersionBehaviour, count: u64) {
    let all = |leg: &UpstreamStats| leg.answers.values().sum::<u64>();
    let failed = |all: u64| all.checked_div(behaviour.error_every).unwrap_or(0);
    let before = all(leg);
    let bad = failed(before + count) - failed(before);
    *leg.answers.entry("5".to_owned()).or_default() += bad;
    *leg.answers.entry("2".to_owned()).or_default() += count - bad;
    *leg.latency.0.entry(round_to_bucket(behaviour.latency_us)).or_default() += count;
}

impl Default for SiteProxy {
    /// Returns a proxy that is not inserted, with 12,000 requests a minute to come.
    fn default() -> Self {
        Self {
            traffic_split: TrafficSplit::default(),
            inserted: false,
            pid: 1,
            per_minute: 12_000,
            main: HEALTHY,
            canary: HEALTHY,
            has_no_agent: false,
            refused_share: None,
            shares: vec![],
            main_stats: new_stats("1.0.0"),
            canary_stats: new_stats("2.0.0"),
            updated_at: Instant::now(),
            request_remainder: 0,
            share_remainder: 0,
        }
    }
}

impl SiteProxy {
    pub(super) fn layer7(&self) -> Layer7 {
        let place = ProxyPlacement { port: example::port(29_999), inserted: self.inserted };
        Layer7 {
            traffic_split: self.traffic_split.clone(),
            place: (!self.traffic_split.is_empty()).then_some(place),
        }
    }

    pub fn share(&self) -> Option<Percent> {
        self.traffic_split.canary.as_ref().and_then(|canary| canary.percent)
    }

    /// Another process, which has counted nothing.
    pub fn restart(&mut self) {
        self.advance();
        self.pid += 1;
        (self.main_stats, self.canary_stats) = (new_stats("1.0.0"), new_stats("2.0.0"));
    }

    /// Lets the traffic since the last look pass.
    pub fn advance(&mut self) {
        const MINUTE: u128 = 60_000_000;
        let all =
            self.updated_at.elapsed().as_micros() * u128::from(self.per_minute) + self.request_remainder;
        self.updated_at = Instant::now();
        self.request_remainder = all % MINUTE;
        if !self.inserted {
            return;
        }
        let all = u64::try_from(all / MINUTE).unwrap();
        let parts = self.share().map_or(0, |share| u64::from(share.parts()));
        let of_canary = all * parts + self.share_remainder;
        self.share_remainder = of_canary % u64::from(Percent::WHOLE);
        let of_canary = of_canary / u64::from(Percent::WHOLE);
        let of_main = all - of_canary.min(all);
        if self.canary.refuses_connections {
            self.canary_stats.fallbacks += of_canary;
            add_answers(&mut self.main_stats, self.main, of_canary);
        } else {
            add_answers(&mut self.canary_stats, self.canary, of_canary);
        }
        add_answers(&mut self.main_stats, self.main, of_main);
    }

    pub(super) fn set_main(&mut self, deployment: &DeploymentId) {
        self.advance();
        self.traffic_split = self.traffic_split.without_deployment(deployment);
        self.inserted &= !self.traffic_split.is_empty();
    }

    fn check_agent(&self) -> LinkResult<()> {
        if !self.has_no_agent {
            return Ok(());
        }
        let message = "no agent runs on this host".to_owned();
        Err(LinkError::Refused { code: ErrorCode::NoAgent, message })
    }

    fn apply_change(&mut self, change: &TrafficSplitChange) -> LinkResult<TrafficSplitResponse> {
        self.advance();
        if matches!(change, TrafficSplitChange::SetCanary(_)) {
            self.check_agent()?;
        }
        let before = self.traffic_split.clone();
        match change {
            TrafficSplitChange::SetCanary(canary) => {
                if self.refused_share.is_some() && self.refused_share == canary.percent {
                    let message = "the proxy refuses: it is full".to_owned();
                    return Err(LinkError::Refused { code: ErrorCode::Busy, message });
                }
                if self.traffic_split.mirrors.iter().any(|mirror| mirror.deployment == canary.deployment) {
                    let message = "it is a shadow that gets copies".to_owned();
                    return Err(LinkError::Refused { code: ErrorCode::NotAllowed, message });
                }
                self.traffic_split.canary = Some(canary.clone());
                self.shares.push(canary.percent);
            }
            TrafficSplitChange::RemoveCanary => {
                self.traffic_split.canary = None;
                self.shares.push(None);
            }
            TrafficSplitChange::SetMirror(mirror) => self.traffic_split.mirrors.push(mirror.clone()),
            TrafficSplitChange::RemoveMirror(id) => {
                self.traffic_split.mirrors.retain(|one| one.deployment != *id);
            }
        }
        self.inserted = !self.traffic_split.is_empty();
        Ok(TrafficSplitResponse {
            traffic_split: self.traffic_split.clone(),
            inserted: self.inserted,
            known: self.traffic_split == before,
        })
    }

    fn stats(&mut self) -> Option<ProxyStats> {
        self.advance();
        let upstreams = vec![self.main_stats.clone(), self.canary_stats.clone()];
        let stats = example::make_proxy_stats(self.pid, vec![example::make_service_stats("shop", upstreams)]);
        (!self.traffic_split.is_empty()).then_some(stats)
    }
}

#[async_trait]
impl HostTrafficSplit for SiteLink {
    async fn change_traffic_split(
        &self,
        _: &ServiceName,
        request: &TrafficSplitRequest,
    ) -> LinkResult<TrafficSplitResponse> {
        if request.dry_run {
            return self
                .read("preview_traffic_split", |host| {
                    host.layer7.check_agent()?;
                    Ok(TrafficSplitResponse {
                        traffic_split: host.layer7.traffic_split.clone(),
                        inserted: host.layer7.inserted,
                        known: false,
                    })
                })
                .await;
        }
        self.change("change_traffic_split", |host| host.layer7.apply_change(&request.change)).await
    }

    async fn read_proxy_stats(&self) -> LinkResult<Option<ProxyStats>> {
        self.read("read_proxy_stats", |host| Ok(host.proxy.clone().or_else(|| host.layer7.stats()))).await
    }

    async fn read_evidence(&self, _: &ServiceName, _: &DeploymentId) -> LinkResult<Option<Evidence>> {
        self.read("read_evidence", |host| host.evidence_error.clone().map_or(Ok(host.evidence.clone()), Err))
            .await
    }
}
