//! One service of the configuration, as a worker uses it: never changed, replaced as a whole. What is counted, and what was
//! learned of shadows, outlives it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use hyper::header::HeaderMap;

use super::collector::{Collector, Line};
use super::counters::{Gauge, LegCounts, ServiceCounts, ShadowCounts, up};
use super::upstream::Pool;
use crate::model::compare::Subject;
use crate::model::deployment::DeploymentId;
use crate::model::proxy::{Canary, Mirror, ProxiedService, Upstream};
use crate::model::version::Version;
use crate::plan::proxy::breaker::Breaker;
use crate::plan::proxy::canary::{self, Choice, Shares};
use crate::plan::proxy::matching::{Matching, PatternError};
use crate::plan::proxy::sampler::Sampler;

pub struct Service {
    pub told: ProxiedService,
    pub counts: Rc<ServiceCounts>,
    pub main: Target,
    pub canary: Option<CanaryTarget>,
    pub shadows: Vec<Shadow>,
    /// Beside main, through the gateway.
    pub others: Vec<Target>,
    cookie: String,
    memory: Rc<Memory>,
}

/// One who answers users.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub version: Version,
    pub counts: Rc<LegCounts>,
}

pub struct CanaryTarget {
    told: Canary,
    pub target: Target,
    breaker: Rc<RefCell<Breaker>>,
}

/// A request that the canary is to answer. Dropped without a word, as when its client goes away, it says nothing of the canary,
/// and the next one may try.
pub struct Try<'a> {
    pub target: &'a Target,
    breaker: &'a RefCell<Breaker>,
}

impl Try<'_> {
    /// The canary did not take it, and main answers instead. One that is not there costs a wait only now and then.
    pub fn refused(self, now: Instant) {
        up(&self.target.counts.fallbacks);
        self.breaker.borrow_mut().failed(now);
    }

    pub fn taken(self) {
        self.breaker.borrow_mut().succeeded();
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        // Changes nothing where its end is told already.
        self.breaker.borrow_mut().undecided();
    }
}

/// One who gets copies.
pub struct Shadow {
    pub told: Mirror,
    pub matching: Matching,
    pub address: SocketAddr,
    pub version: Version,
    /// To whoever compares its answers with main's.
    pub line: Option<Line>,
    pub state: Rc<ShadowState>,
}

pub struct ShadowState {
    /// To the evidence that its counts began with.
    line: Option<Line>,
    pub counts: Rc<ShadowCounts>,
    pub sampler: RefCell<Sampler>,
    /// Which of the compared requests are asked of main twice.
    pub control: RefCell<Sampler>,
    pub breaker: RefCell<Breaker>,
    pub pool: Pool,
    /// When it last fell behind.
    pub slow: Cell<Option<Instant>>,
}

/// What a service's configurations hand down to the next.
#[derive(Default)]
pub struct Memory {
    counts: Rc<ServiceCounts>,
    shares: RefCell<Shares>,
    canaries: RefCell<HashMap<DeploymentId, Rc<RefCell<Breaker>>>>,
    /// To main, for what is asked a second time, and how much of it there is now.
    again: Pool,
    asking: Gauge,
    shadows: RefCell<HashMap<DeploymentId, Rc<ShadowState>>>,
}

impl ShadowState {
    fn leads_where(&self, line: &Line) -> bool {
        self.line.as_ref().is_some_and(|known| known.leads_where(line))
    }
}

impl Memory {
    /// Begins anew with the evidence: a verdict is about what was copied since then.
    fn shadow(&self, upstream: &Upstream, line: Option<&Line>) -> Rc<ShadowState> {
        let mut shadows = self.shadows.borrow_mut();
        let known = shadows.get(&upstream.deployment);
        if let Some(known) = known.filter(|known| line.is_none_or(|line| known.leads_where(line))) {
            return known.clone();
        }
        let new = Rc::new(ShadowState {
            line: line.cloned(),
            counts: self.counts.new_shadow(&upstream.deployment, &upstream.version),
            sampler: RefCell::default(),
            control: RefCell::default(),
            breaker: RefCell::default(),
            pool: Pool::default(),
            slow: Cell::new(None),
        });
        shadows.insert(upstream.deployment.clone(), new.clone());
        new
    }

    /// Counts and pools of deployments that are gone, and connections to where nobody is any more.
    pub fn forget(&self, told: &ProxiedService) {
        let named = |id: &DeploymentId| {
            told.main.deployment == *id || told.others.iter().any(|other| other.deployment == *id)
        };
        self.counts.forget(named);
        self.again.keep_only(told.main.address);
        let mut shadows = self.shadows.borrow_mut();
        shadows.retain(|id, _| named(id));
        for other in &told.others {
            if let Some(shadow) = shadows.get(&other.deployment) {
                shadow.pool.keep_only(other.address);
            }
        }
        self.canaries.borrow_mut().retain(|id, _| named(id));
    }

    /// What was learned of one canary says nothing of the next.
    fn breaker(&self, canary: &DeploymentId) -> Rc<RefCell<Breaker>> {
        self.canaries.borrow_mut().entry(canary.clone()).or_default().clone()
    }

    pub const fn again(&self) -> &Pool {
        &self.again
    }

    pub const fn asking(&self) -> &Gauge {
        &self.asking
    }

    pub const fn counts(&self) -> &Rc<ServiceCounts> {
        &self.counts
    }

    pub fn sweep(&self) {
        self.again.sweep();
        self.shadows.borrow().values().for_each(|shadow| shadow.pool.sweep());
    }
}

impl Service {
    /// A mirror or a canary of a deployment that is not among those it can reach is left out: it is on its way in or out.
    pub fn new(
        told: &ProxiedService,
        memory: &Rc<Memory>,
        collector: Option<&Collector>,
    ) -> Result<Self, PatternError> {
        let counts = memory.counts.clone();
        let target = |upstream: &Upstream| Target {
            address: upstream.address,
            version: upstream.version.clone(),
            counts: counts.leg(&upstream.deployment, &upstream.version),
        };
        let reachable = |id: &DeploymentId| told.others.iter().find(|other| other.deployment == *id);
        let mut shadows = Vec::new();
        for mirror in &told.splits.mirrors {
            let matching = Matching::new(&mirror.methods, &mirror.paths)?;
            if let Some(upstream) = reachable(&mirror.deployment) {
                let line = collector.filter(|_| mirror.compare).map(|collector| {
                    let deployment = mirror.deployment.clone();
                    collector.line(&Subject { service: told.service.clone(), deployment })
                });
                shadows.push(Shadow {
                    told: mirror.clone(),
                    matching,
                    address: upstream.address,
                    version: upstream.version.clone(),
                    state: memory.shadow(upstream, line.as_ref()),
                    line,
                });
            }
        }
        let canary = told.splits.canary.as_ref().and_then(|canary| {
            let upstream = reachable(&canary.deployment)?;
            let breaker = memory.breaker(&canary.deployment);
            Some(CanaryTarget { told: canary.clone(), target: target(upstream), breaker })
        });
        Ok(Self {
            main: target(&told.main),
            others: told.others.iter().map(target).collect(),
            canary,
            shadows,
            cookie: canary::cookie_name(told.service.as_str()),
            memory: memory.clone(),
            told: told.clone(),
            counts,
        })
    }

    /// Whether the canary answers this one, and the line that makes its user known again.
    pub fn choose(&self, headers: &HeaderMap, now: Instant) -> (Option<Try<'_>>, Option<String>) {
        let Some(canary) = &self.canary else { return (None, None) };
        let mut shares = self.memory.shares.borrow_mut();
        let Choice { canary: chosen, new_bucket } =
            canary::choose(&canary.told, &self.cookie, headers, &mut shares);
        let cookie =
            new_bucket.map(|bucket| format!("{}={bucket}; Path=/; HttpOnly; SameSite=Lax", self.cookie));
        let taken = chosen && canary.breaker.borrow_mut().admits(now);
        if chosen && !taken {
            up(&canary.target.counts.fallbacks);
        }
        (taken.then(|| Try { target: &canary.target, breaker: &canary.breaker }), cookie)
    }

    pub const fn memory(&self) -> &Rc<Memory> {
        &self.memory
    }

    /// Whether connections to it may be kept for the next request.
    pub fn leads_to(&self, address: SocketAddr) -> bool {
        self.main.address == address
            || self.canary.as_ref().is_some_and(|canary| canary.target.address == address)
    }

    /// Main or another.
    pub fn has(&self, address: SocketAddr) -> bool {
        std::iter::once(&self.main).chain(&self.others).any(|target| target.address == address)
    }

    pub fn version(&self, version: &Version) -> Option<&Target> {
        std::iter::once(&self.main).chain(&self.others).find(|target| target.version == *version)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::deployment::Access;
    use crate::model::percent::Percent;
    use crate::model::ports::Port;
    use crate::model::proxy::Splits;

    fn upstream(number: u16) -> Upstream {
        Upstream {
            deployment: format!("dp_{number:010}").parse().unwrap(),
            version: format!("{number}.0.0").parse().unwrap(),
            address: ([127, 0, 0, 1], number).into(),
        }
    }

    /// Main is 1; every request is for the canary.
    fn told(canary: u16) -> ProxiedService {
        let others = vec![upstream(2), upstream(3)];
        let canary = Canary {
            deployment: upstream(canary).deployment,
            percent: Some(Percent::ALL),
            sticky: None,
            header: None,
            cookie: None,
        };
        ProxiedService {
            service: "shop".parse().unwrap(),
            port: Port::new(8000).unwrap(),
            check: Port::new(8888).unwrap(),
            access: Access::Public,
            main: upstream(1),
            others,
            splits: Splits { canary: Some(canary), ..Splits::default() },
            draining: false,
        }
    }

    fn chosen(service: &Service, now: Instant) -> Option<Try<'_>> {
        service.choose(&HeaderMap::new(), now).0
    }

    /// A service whose canary is not there, and when that one may be tried again.
    fn refusing(memory: &Rc<Memory>) -> (Service, Instant) {
        let (service, now) = (Service::new(&told(2), memory, None).unwrap(), Instant::now());
        while let Some(tried) = chosen(&service, now) {
            tried.refused(now);
        }
        (service, now + Duration::from_millis(100))
    }

    #[test]
    fn a_try_whose_client_went_away_is_made_again() {
        let (service, later) = refusing(&Rc::default());
        let tried = chosen(&service, later);
        assert!(tried.is_some() && chosen(&service, later).is_none(), "one finds out");
        drop(tried);
        let tried = chosen(&service, later).unwrap();
        tried.taken();
        assert!(chosen(&service, later).is_some() && chosen(&service, later).is_some());
    }

    #[test]
    fn what_was_learned_of_one_canary_says_nothing_of_the_next() {
        let memory = Rc::default();
        let (_service, later) = refusing(&memory);
        let before = later.checked_sub(Duration::from_millis(100)).unwrap();
        let same = Service::new(&told(2), &memory, None).unwrap();
        assert!(chosen(&same, before).is_none(), "another configuration, the same canary");
        let next = Service::new(&told(3), &memory, None).unwrap();
        assert!(chosen(&next, before).is_some());
    }
}
