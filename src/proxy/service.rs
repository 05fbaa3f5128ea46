//! A service of the configuration, as a worker uses it: never changed, replaced as a whole. What is counted, and what was
//! learned of shadows, outlives it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use hyper::header::HeaderMap;

use super::addresses::InstanceAddresses;
use super::collector::{Collector, CollectorHandle};
use super::counters::{Gauge, ServiceCounts, ShadowCounts, UpstreamCounts, increment};
use super::upstream::Pool;
use crate::model::compare::ComparedShadow;
use crate::model::deployment::DeploymentId;
use crate::model::proxy::{Canary, Mirror, ProxiedService, Upstream};
use crate::model::version::Version;
use crate::plan::proxy::breaker::CircuitBreaker;
use crate::plan::proxy::canary::{self, RouteChoice, ShareCounters};
use crate::plan::proxy::request_filter::{PatternError, RequestFilter};
use crate::plan::proxy::sampler::Sampler;

pub struct Service {
    pub config: ProxiedService,
    pub counts: Rc<ServiceCounts>,
    pub main: Target,
    pub canary: Option<CanaryTarget>,
    pub shadows: Vec<Shadow>,
    /// Beside main, through the gateway.
    pub others: Vec<Target>,
    cookie: String,
    carried_state: Rc<CarriedState>,
}

/// A target that answers users.
#[derive(Clone)]
pub struct Target {
    pub addresses: Rc<InstanceAddresses>,
    pub version: Version,
    pub counts: Rc<UpstreamCounts>,
}

pub struct CanaryTarget {
    config: Canary,
    pub target: Target,
    breaker: Rc<RefCell<CircuitBreaker>>,
}

/// A request that the canary is to answer. An attempt dropped without a report, as when its client disconnects, is no
/// evidence about the canary,
/// and the next one may try.
pub struct CanaryAttempt<'a> {
    pub target: &'a Target,
    breaker: &'a RefCell<CircuitBreaker>,
}

impl CanaryAttempt<'_> {
    /// Records that the canary did not accept the request, and main answers instead. The breaker limits how often an absent
    /// canary costs a wait.
    pub fn record_refusal(self, now: Instant) {
        increment(&self.target.counts.fallbacks);
        self.breaker.borrow_mut().record_failure(now);
    }

    pub fn record_success(self) {
        self.breaker.borrow_mut().record_success();
    }
}

impl Drop for CanaryAttempt<'_> {
    fn drop(&mut self) {
        // Changes nothing where its end is reported already.
        self.breaker.borrow_mut().record_inconclusive();
    }
}

/// A target that gets copies.
pub struct Shadow {
    pub config: Mirror,
    pub filter: RequestFilter,
    pub addresses: InstanceAddresses,
    pub version: Version,
    /// Handle to the collector, which compares its answers with main's.
    pub collector: Option<CollectorHandle>,
    pub state: Rc<ShadowState>,
}

pub struct ShadowState {
    /// To the evidence that its counts began with.
    collector: Option<CollectorHandle>,
    pub counts: Rc<ShadowCounts>,
    pub sampler: RefCell<Sampler>,
    /// Selects the compared requests that main gets twice.
    pub control: RefCell<Sampler>,
    pub breaker: RefCell<CircuitBreaker>,
    pub pool: Pool,
    /// When it last fell behind.
    pub slow_since: Cell<Option<Instant>>,
}

/// State that a service's configurations hand down to the next.
#[derive(Default)]
pub struct CarriedState {
    counts: Rc<ServiceCounts>,
    shares: RefCell<ShareCounters>,
    canary_breakers: RefCell<HashMap<DeploymentId, Rc<RefCell<CircuitBreaker>>>>,
    /// Connections to main for what is sent a second time, and how much of it there is now.
    control_pool: Pool,
    control_requests: Gauge,
    shadows: RefCell<HashMap<DeploymentId, Rc<ShadowState>>>,
}

impl ShadowState {
    fn shares_evidence_with(&self, handle: &CollectorHandle) -> bool {
        self.collector.as_ref().is_some_and(|known| known.shares_evidence_with(handle))
    }
}

impl CarriedState {
    /// Starts over with the evidence: a verdict is about what was copied since then.
    fn get_or_create_shadow(
        &self,
        upstream: &Upstream,
        collector: Option<&CollectorHandle>,
    ) -> Rc<ShadowState> {
        let mut shadows = self.shadows.borrow_mut();
        let known = shadows.get(&upstream.deployment);
        if let Some(known) =
            known.filter(|known| collector.is_none_or(|handle| known.shares_evidence_with(handle)))
        {
            return known.clone();
        }
        let new = Rc::new(ShadowState {
            collector: collector.cloned(),
            counts: self.counts.new_shadow(&upstream.deployment, &upstream.version),
            sampler: RefCell::default(),
            control: RefCell::default(),
            breaker: RefCell::default(),
            pool: Pool::default(),
            slow_since: Cell::new(None),
        });
        shadows.insert(upstream.deployment.clone(), new.clone());
        new
    }

    /// Drops counts and pools of removed deployments, and connections to addresses that no deployment has any more.
    pub fn forget(&self, config: &ProxiedService) {
        let is_named = |id: &DeploymentId| {
            config.main.deployment == *id
                || config.other_upstreams.iter().any(|other| other.deployment == *id)
        };
        self.counts.forget(is_named);
        self.control_pool.keep_only(|address| config.main.addresses().any(|one| one == address));
        let mut shadows = self.shadows.borrow_mut();
        shadows.retain(|id, _| is_named(id));
        for other in &config.other_upstreams {
            if let Some(shadow) = shadows.get(&other.deployment) {
                shadow.pool.keep_only(|address| other.addresses().any(|one| one == address));
            }
        }
        self.canary_breakers.borrow_mut().retain(|id, _| is_named(id));
    }

    /// Returns the breaker of this canary: what was learned of one canary is no evidence about the next.
    fn get_or_create_breaker(&self, canary: &DeploymentId) -> Rc<RefCell<CircuitBreaker>> {
        self.canary_breakers.borrow_mut().entry(canary.clone()).or_default().clone()
    }

    pub const fn control_pool(&self) -> &Pool {
        &self.control_pool
    }

    pub const fn control_requests(&self) -> &Gauge {
        &self.control_requests
    }

    pub const fn counts(&self) -> &Rc<ServiceCounts> {
        &self.counts
    }

    pub fn sweep(&self) {
        self.control_pool.sweep();
        self.shadows.borrow().values().for_each(|shadow| shadow.pool.sweep());
    }
}

impl Service {
    /// A mirror or a canary of a deployment that is not among those it can reach is left out: it is on its way in or out.
    pub fn new(
        config: &ProxiedService,
        state: &Rc<CarriedState>,
        collector: Option<&Collector>,
    ) -> Result<Self, PatternError> {
        let counts = state.counts.clone();
        let target = |upstream: &Upstream| Target {
            addresses: Rc::new(InstanceAddresses::new(upstream)),
            version: upstream.version.clone(),
            counts: counts.get_or_insert_upstream(&upstream.deployment, &upstream.version),
        };
        let reachable =
            |id: &DeploymentId| config.other_upstreams.iter().find(|other| other.deployment == *id);
        let mut shadows = Vec::new();
        for mirror in &config.traffic_split.mirrors {
            let filter = RequestFilter::new(&mirror.methods, &mirror.paths)?;
            if let Some(upstream) = reachable(&mirror.deployment) {
                let handle = collector.filter(|_| mirror.compare).map(|collector| {
                    let deployment = mirror.deployment.clone();
                    collector.open_handle(&ComparedShadow { service: config.service.clone(), deployment })
                });
                shadows.push(Shadow {
                    config: mirror.clone(),
                    filter,
                    addresses: InstanceAddresses::new(upstream),
                    version: upstream.version.clone(),
                    state: state.get_or_create_shadow(upstream, handle.as_ref()),
                    collector: handle,
                });
            }
        }
        let canary = config.traffic_split.canary.as_ref().and_then(|canary| {
            let upstream = reachable(&canary.deployment)?;
            let breaker = state.get_or_create_breaker(&canary.deployment);
            Some(CanaryTarget { config: canary.clone(), target: target(upstream), breaker })
        });
        Ok(Self {
            main: target(&config.main),
            others: config.other_upstreams.iter().map(target).collect(),
            canary,
            shadows,
            cookie: canary::format_cookie_name(config.service.as_str()),
            carried_state: state.clone(),
            config: config.clone(),
            counts,
        })
    }

    /// Returns the attempt where the canary is to answer this request, and the cookie for a new user.
    pub fn choose_canary(
        &self,
        headers: &HeaderMap,
        now: Instant,
    ) -> (Option<CanaryAttempt<'_>>, Option<String>) {
        let Some(canary) = &self.canary else { return (None, None) };
        let mut shares = self.carried_state.shares.borrow_mut();
        let RouteChoice { is_canary, new_bucket } =
            canary::choose_route(&canary.config, &self.cookie, headers, &mut shares);
        let cookie =
            new_bucket.map(|bucket| format!("{}={bucket}; Path=/; HttpOnly; SameSite=Lax", self.cookie));
        let is_admitted = is_canary && canary.breaker.borrow_mut().try_admit(now);
        if is_canary && !is_admitted {
            increment(&canary.target.counts.fallbacks);
        }
        (is_admitted.then(|| CanaryAttempt { target: &canary.target, breaker: &canary.breaker }), cookie)
    }

    pub const fn carried_state(&self) -> &Rc<CarriedState> {
        &self.carried_state
    }

    /// Whether connections to it may be kept for the next request.
    pub fn routes_to(&self, address: SocketAddr) -> bool {
        self.main.addresses.contains(address)
            || self.canary.as_ref().is_some_and(|canary| canary.target.addresses.contains(address))
    }

    /// Whether main or another version listens at this address.
    pub fn has_upstream(&self, address: SocketAddr) -> bool {
        std::iter::once(&self.main).chain(&self.others).any(|target| target.addresses.contains(address))
    }

    pub fn find_version(&self, version: &Version) -> Option<&Target> {
        std::iter::once(&self.main).chain(&self.others).find(|target| target.version == *version)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::deployment::Access;
    use crate::model::example;
    use crate::model::ports::Port;
    use crate::model::proxy::TrafficSplit;

    fn build_upstream(number: u16) -> Upstream {
        Upstream {
            deployment: format!("dp_{number:010}").parse().unwrap(),
            version: format!("{number}.0.0").parse().unwrap(),
            address: ([127, 0, 0, 1], number).into(),
            more_addresses: vec![],
        }
    }

    /// Main is 1; every request is for the canary.
    fn build_service_config(canary: u16) -> ProxiedService {
        let others = vec![build_upstream(2), build_upstream(3)];
        let canary = example::make_canary(&build_upstream(canary).deployment, "100");
        ProxiedService {
            service: "shop".parse().unwrap(),
            port: Port::new(8000).unwrap(),
            check: Port::new(8888).unwrap(),
            access: Access::Public,
            main: build_upstream(1),
            other_upstreams: others,
            traffic_split: TrafficSplit { canary: Some(canary), ..TrafficSplit::default() },
            draining: false,
        }
    }

    fn choose(service: &Service, now: Instant) -> Option<CanaryAttempt<'_>> {
        service.choose_canary(&HeaderMap::new(), now).0
    }

    /// A service whose canary is not there, and when that one may be tried again.
    fn build_refusing_service(state: &Rc<CarriedState>) -> (Service, Instant) {
        let (service, now) = (Service::new(&build_service_config(2), state, None).unwrap(), Instant::now());
        while let Some(attempt) = choose(&service, now) {
            attempt.record_refusal(now);
        }
        (service, now + Duration::from_millis(100))
    }

    #[test]
    fn canary_attempt_is_repeated_after_client_disconnect() {
        let (service, later) = build_refusing_service(&Rc::default());
        let attempt = choose(&service, later);
        assert!(attempt.is_some() && choose(&service, later).is_none(), "one finds out");
        drop(attempt);
        let attempt = choose(&service, later).unwrap();
        attempt.record_success();
        assert!(choose(&service, later).is_some() && choose(&service, later).is_some());
    }

    #[test]
    fn breaker_state_does_not_carry_to_next_canary() {
        let state = Rc::default();
        let (_service, later) = build_refusing_service(&state);
        let before = later.checked_sub(Duration::from_millis(100)).unwrap();
        let same = Service::new(&build_service_config(2), &state, None).unwrap();
        assert!(choose(&same, before).is_none(), "another configuration, the same canary");
        let next = Service::new(&build_service_config(3), &state, None).unwrap();
        assert!(choose(&next, before).is_some());
    }
}
