//! A whole site in memory: hosts with links that can be cut, balancers that see their forwards after a while, a journal
//! that can fill up. For stories over a fleet with a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::MS;
use super::deployments::FakeArchives;
use super::journal::FakeJournal;
use super::paused::{Listener, PausedClock};
use super::site_balancer::SiteBalancer;
use super::site_traffic_split::SiteProxy;
use crate::model::api::deployments::UpdateRequest;
use crate::model::api::{
    API, Hello, HostView, PlacedRelease, ProbeRequest, Probed, Pulse, Question, RunEnd, RunRequest,
};
use crate::model::balancer::{Access, BalancerSpec};
use crate::model::deployment::Digest;
use crate::model::evidence::Evidence;
use crate::model::example;
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::forward::{Changed, Forward, Intent, KernelForward, Recorded, Switch};
use crate::model::history::Entry;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::model::roll::RollId;
use crate::model::rules::{Family, Transaction, Variant};
use crate::model::socket::SocketCount;
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;
use crate::world::commands::{CommandError, Commands};
use crate::world::link::{Heard, HostLink, LinkError};
use crate::world::notifier::{Notice, Notifier};
use crate::world::outputs::Outputs;
use crate::world::reporter::Event;
use crate::world::stop::{self, Stopper};

/// From a change of a forward to the balancers' verdict.
const LAG: Duration = Duration::from_millis(700);

/// One host as it really is.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct SiteHost {
    pub forward: bool,
    pub changed: Instant,
    /// What the balancers' checks had seen when it was changed.
    seen: bool,
    pub generation: u32,
    /// Of the main vhost's real port.
    pub healthy: bool,
    pub backup_up: bool,
    /// Whether its link answers.
    pub reachable: bool,
    /// Requests in flight while it is out: they end this long after the forward went off. `None`: never.
    pub drains_after: Option<Duration>,
    /// How often the command began and ended here, and whether it was in service when it did.
    pub commands: Vec<&'static str>,
    pub began: Vec<Instant>,
    /// The command is at work: it outlives the switchman that began it.
    pub running: bool,
    /// The forward went on while the command was at work.
    pub disturbed: bool,
    pub command_status: i32,
    pub command_takes: Duration,
    /// The main vhost is not healthy after the command.
    pub command_breaks: bool,
    pub switch_error: Option<LinkError>,
    /// The host does what it is told, and its next so many answers are lost.
    pub answers_lost: u32,
    /// Every second probe fails.
    pub flapping: bool,
    probes: u32,
    /// Somebody else switched it, and nobody since.
    pub by_other: bool,
    /// Which versions answer its two data ports.
    pub main: String,
    pub backup: String,
    /// Main is not healthy once it is another version.
    pub new_is_bad: bool,
    /// Main changed while the host was in service.
    pub assigned_in_service: bool,
    /// Its next assign is refused.
    pub assign_error: Option<LinkError>,
    /// Its agent puts a new main back at once, for that reason.
    pub put_back: Option<String>,
    /// When somebody first asked after the watch window of its main.
    pub watched: Option<Instant>,
    /// Neither its sockets nor its conntrack can be read.
    pub unread_kernel: bool,
    /// No port leads to the service.
    pub private: bool,
    pub updates: Vec<UpdateRequest>,
    /// An update is under way: whether its new instance has the traffic.
    pub updating: Option<bool>,
    /// What its proxy has seen of any shadow, and counted.
    pub evidence: Option<Evidence>,
    /// Asked for it, it answers so.
    pub evidence_error: Option<LinkError>,
    pub proxy: Option<ProxyStats>,
    pub layer7: SiteProxy,
}

#[derive(Debug)]
pub struct SiteState {
    pub hosts: BTreeMap<HostName, SiteHost>,
    pub unread: BTreeSet<String>,
    /// The fewest mains in service at any moment a forward went off.
    pub fewest_up: usize,
    pub notices: Vec<Notice>,
    pub lines: Vec<String>,
    pub hooks: Vec<(String, BTreeMap<String, String>)>,
    /// Exit status of command lines run by hooks.
    pub hook_status: BTreeMap<String, i32>,
    pub hooks_take: Duration,
    /// Whether the balancers' sockets are of level admin, and who was asked to close idle connections while what was true of
    /// web1's update.
    pub admin: bool,
    pub flushed: Vec<(String, Option<bool>)>,
}

/// The site, shared by all its doors.
#[derive(Debug, Clone)]
pub struct Site(pub Arc<Mutex<SiteState>>);

pub struct FakeSite {
    pub site: Site,
    pub fleet: Fleet,
    pub journal: Arc<FakeJournal>,
    pub world: FleetWorld,
    pub stopper: Stopper,
    pub clock: PausedClock,
    pub events: Arc<Mutex<Vec<Event>>>,
}

/// `hosts` hosts called web1, web2..., all in service and healthy, behind this many balancers.
pub fn site(hosts: usize, balancers: usize) -> FakeSite {
    let names: Vec<HostName> = (1..=hosts).map(|number| format!("web{number}").parse().unwrap()).collect();
    let state = SiteState {
        hosts: names.iter().map(|name| (name.clone(), SiteHost::well())).collect(),
        unread: BTreeSet::new(),
        fewest_up: usize::MAX,
        notices: vec![],
        lines: vec![],
        hooks: vec![],
        hook_status: BTreeMap::new(),
        hooks_take: Duration::ZERO,
        admin: false,
        flushed: vec![],
    };
    let site = Site(Arc::new(Mutex::new(state)));
    let socket = || Some(Access::Unix("/run/fake.sock".into()));
    let specs: Vec<BalancerSpec> =
        (1..=balancers).map(|number| example::balancer(&format!("lb{number}"), socket())).collect();
    let fleet = Fleet {
        hosts: (1u32..)
            .zip(&names)
            .map(|(number, name)| {
                let [_, b, c, d] = number.to_be_bytes();
                example::host(name.as_str(), &format!("10.{b}.{c}.{d}"))
            })
            .collect(),
        balancers: specs.clone(),
        ..example::fleet()
    };
    let journal = Arc::new(FakeJournal::default());
    let events = Arc::new(Mutex::new(vec![]));
    let (stopper, stop) = stop::channel();
    let clock = PausedClock(Instant::now());
    let link = |name: &HostName| {
        let link: Arc<dyn HostLink> = Arc::new(SiteLink { name: name.clone(), site: site.clone() });
        (name.clone(), link)
    };
    let balancer =
        |spec: BalancerSpec| -> Arc<dyn Balancer> { Arc::new(SiteBalancer::new(spec, site.clone())) };
    let world = FleetWorld {
        archives: Arc::new(FakeArchives),
        links: names.iter().map(link).collect(),
        balancers: specs.into_iter().map(balancer).collect(),
        journal: journal.clone(),
        lock: journal.clone(),
        rollouts: journal.clone(),
        commands: Arc::new(site.clone()),
        notifier: Arc::new(site.clone()),
        outputs: Arc::new(site.clone()),
        clock: Arc::new(clock),
        reporter: Arc::new(Listener(events.clone())),
        stop,
    };
    FakeSite { site, fleet, journal, world, stopper, clock, events }
}

impl SiteState {
    /// Mains that take users now: those still going down count as gone, those still coming up are not there yet. What
    /// another operator took out counts until the balancers have seen it: nobody can know before.
    fn in_service(&self) -> usize {
        let unseen = |host: &SiteHost| host.by_other && host.changed.elapsed() < LAG + MS * 100;
        let serves = |host: &&SiteHost| (host.forward && host.is_up()) || (host.healthy && unseen(host));
        self.hosts.values().filter(serves).count()
    }
}

impl Site {
    pub fn lock(&self) -> MutexGuard<'_, SiteState> {
        self.0.lock().unwrap()
    }

    pub fn with<T>(&self, host: &str, change: impl FnOnce(&mut SiteHost) -> T) -> T {
        self.of(&host.parse().unwrap(), change)
    }

    pub fn of<T>(&self, host: &HostName, change: impl FnOnce(&mut SiteHost) -> T) -> T {
        change(self.lock().hosts.get_mut(host).unwrap())
    }
}

impl SiteHost {
    /// In service for a minute, healthy, with requests that end 1.5 s after it is taken out.
    fn well() -> Self {
        Self {
            forward: true,
            seen: true,
            changed: Instant::now().checked_sub(Duration::from_mins(1)).unwrap_or_else(Instant::now),
            generation: 1,
            healthy: true,
            backup_up: true,
            reachable: true,
            drains_after: Some(MS * 1500),
            commands: vec![],
            command_status: 0,
            command_takes: MS * 300,
            command_breaks: false,
            switch_error: None,
            began: vec![],
            running: false,
            disturbed: false,
            answers_lost: 0,
            flapping: false,
            probes: 0,
            by_other: false,
            main: "1.0.0".to_owned(),
            backup: "1.0.0".to_owned(),
            new_is_bad: false,
            put_back: None,
            watched: None,
            assigned_in_service: false,
            assign_error: None,
            unread_kernel: false,
            private: false,
            updates: vec![],
            updating: None,
            evidence: None,
            evidence_error: None,
            proxy: None,
            layer7: SiteProxy::none(),
        }
    }

    /// One who does not ask switchman first.
    pub fn switched_by_other(&mut self, on: bool) {
        let disturbed = self.disturbed;
        self.by_other |= self.set(on);
        self.disturbed = disturbed;
    }

    /// Whether it had to be changed.
    fn set(&mut self, on: bool) -> bool {
        let moved = self.forward != on;
        if moved {
            self.seen = self.is_seen_on();
            self.changed = Instant::now();
            self.forward = on;
            self.generation += 1;
            self.by_other = false;
            self.disturbed |= on && self.running;
        }
        moved
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drains_after.is_some_and(|after| self.changed.elapsed() >= after)
    }

    /// What the balancers say of its main vhost.
    pub fn is_up(&self) -> bool {
        self.is_seen_on() && self.healthy
    }

    /// A change that was taken back before it was seen is never seen.
    fn is_seen_on(&self) -> bool {
        if self.changed.elapsed() >= LAG { self.forward } else { self.seen }
    }
}

#[derive(Clone)]
pub(super) struct SiteLink {
    pub(super) name: HostName,
    pub(super) site: Site,
}

pub fn cut() -> LinkError {
    LinkError::Broken { via: "ssh fake".into(), why: "cut".into() }
}

impl SiteLink {
    /// Half of the way; what happens in between happens on the host.
    pub(super) async fn way(&self) -> Result<(), LinkError> {
        tokio::time::sleep(MS * 2).await;
        if self.site.of(&self.name, |host| host.reachable) { Ok(()) } else { Err(cut()) }
    }

    /// The answer may be lost.
    pub(super) async fn way_back(&self) -> Result<(), LinkError> {
        self.way().await?;
        let lost = self.site.of(&self.name, |host| {
            let left = host.answers_lost.checked_sub(1);
            host.answers_lost = left.unwrap_or_default();
            left.is_some()
        });
        if lost { Err(cut()) } else { Ok(()) }
    }

    pub(super) async fn there_and_back<T>(
        &self,
        act: impl FnOnce(&mut SiteHost) -> T + Send,
    ) -> Result<T, LinkError>
    where
        T: Send,
    {
        self.way().await?;
        let value = self.site.of(&self.name, act);
        self.way().await?;
        Ok(value)
    }

    fn changed(&self, on: bool) -> Changed {
        let mut state = self.site.lock();
        let host = state.hosts.get_mut(&self.name).unwrap();
        let moved = host.set(on);
        let generation = host.generation;
        if moved && !on {
            let up = state.in_service();
            state.fewest_up = state.fewest_up.min(up);
        }
        let step = Transaction { family: Family::V4, variant: Variant::NfTables, text: String::new() };
        let transactions = if moved { vec![step] } else { vec![] };
        Changed { transactions, generation, unfinished_history: None }
    }
}

#[async_trait]
impl HostLink for SiteLink {
    fn via(&self) -> String {
        format!("ssh {}", self.name)
    }

    async fn hello(&self) -> Result<Hello, LinkError> {
        let hello = Hello { api: API, oldest_api: API, version: "0".into(), machine: self.name.to_string() };
        self.there_and_back(|_| hello).await
    }

    async fn look(&self, question: &Question) -> Result<HostView, LinkError> {
        let forward = Forward {
            service: question.service.clone(),
            check: question.ports.check,
            target: question.ports.main,
        };
        self.there_and_back(|host| HostView {
            recorded: Ok(Some(Recorded {
                forward: forward.clone(),
                switch: if host.forward { Switch::On } else { Switch::Off },
                from_self: false,
                generation: host.generation,
                changed_at: jiff::Timestamp::UNIX_EPOCH,
                routes: None,
                access: crate::model::deployment::Access::Public,
                trial: None,
                layer7: crate::model::proxy::Layer7::default(),
            })),
            kernel: Ok(vec![KernelForward {
                family: Family::V4,
                variant: Variant::NfTables,
                forward: host.forward.then_some(forward),
                hooked: true,
            }]),
            drift: vec![],
            main_sockets: Ok(SocketCount::default()),
            main_health: if host.healthy { Ok(()) } else { Err("status 500".to_owned()) },
            last: None,
        })
        .await
    }

    async fn pulse(&self, _: &ServiceName, _: Port) -> Result<Pulse, LinkError> {
        self.there_and_back(|host| Pulse {
            generation: host.generation,
            switch: Some(if host.forward { Switch::On } else { Switch::Off }),
            sockets: Ok(SocketCount::default()),
        })
        .await
    }

    async fn probe(&self, _: &ProbeRequest) -> Result<Probed, LinkError> {
        self.there_and_back(|host| {
            host.probes += 1;
            let healthy = host.healthy && !(host.flapping && host.probes % 2 == 0);
            if healthy { Probed::Healthy } else { Probed::Unhealthy { why: "status 500".into() } }
        })
        .await
    }

    /// What is on its way arrives, even when nobody waits for the answer any more.
    async fn switch(&self, intent: &Intent) -> Result<Changed, LinkError> {
        let on = intent.switch == Switch::On;
        if let Some(error) = self.site.of(&self.name, |host| host.switch_error.clone()) {
            return Err(error);
        }
        let link = self.clone();
        let arrives = async move { link.way().await.map(|()| link.changed(on)) };
        let changed = tokio::spawn(arrives).await.unwrap()?;
        self.way_back().await?;
        Ok(changed)
    }

    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, LinkError> {
        self.way().await?;
        let ended = self.site.run(request, heard).await;
        self.way().await?;
        let code = |error: &CommandError| match error {
            CommandError::StillRunning { .. } => ErrorCode::Busy,
            _ => ErrorCode::CommandFailed,
        };
        ended.map_err(|error| LinkError::Refused { code: code(&error), message: error.to_string() })
    }

    async fn history(&self, _: Option<&ServiceName>, _: u32) -> Result<Vec<Entry>, LinkError> {
        self.there_and_back(|_| vec![]).await
    }

    /// As [`FakeArchives`] packs.
    async fn place(&self, _: &ServiceName, _: &str, archive: &Path) -> Result<Digest, LinkError> {
        self.there_and_back(|_| Digest(archive.display().to_string())).await
    }

    async fn releases(&self, _: &ServiceName) -> Result<Vec<PlacedRelease>, LinkError> {
        self.there_and_back(|_| vec![]).await
    }
}

/// How long an earlier run of the same command is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Site {
    async fn hook(&self, request: &RunRequest) -> RunEnd {
        let takes = self.lock().hooks_take;
        tokio::time::sleep(takes).await;
        let mut state = self.lock();
        let line = request.argv[2].clone();
        let status = state.hook_status.get(&line).copied().unwrap_or(0);
        state.hooks.push((line, request.env.clone()));
        RunEnd { status, timed_out: false }
    }

    /// As an end of the real thing: two runs with the same key never overlap.
    async fn alone(&self, name: &HostName, program: &str) -> Result<(), CommandError> {
        let deadline = Instant::now() + PATIENCE;
        while self.of(name, |host| host.running) {
            if Instant::now() >= deadline {
                return Err(CommandError::StillRunning { program: program.to_owned(), waited: PATIENCE });
            }
            tokio::time::sleep(MS * 50).await;
        }
        Ok(())
    }

    async fn command(self, name: HostName) -> RunEnd {
        let takes = self.of(&name, |host| {
            // What the story promises: nobody works on a host that serves, or has requests in flight.
            // Whoever switches it on at this very moment is not noticed any more.
            let overtaken = host.by_other && host.changed.elapsed() < MS * 300;
            let out = overtaken || !host.forward && host.is_drained();
            host.commands.push(if out { "began" } else { "began in service" });
            host.began.push(Instant::now());
            host.running = true;
            host.command_takes
        });
        tokio::time::sleep(takes).await;
        let status = self.of(&name, |host| {
            host.commands.push("ended");
            host.running = false;
            host.healthy = !host.command_breaks;
            host.command_status
        });
        RunEnd { status, timed_out: false }
    }
}

/// The command, and hooks (`sh -c`). A command that began goes on to its end, as one whose switchman was killed does.
#[async_trait]
impl Commands for Site {
    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, CommandError> {
        if request.argv[0] == "sh" {
            return Ok(self.hook(request).await);
        }
        // `r20261121-071503-5f3a-web1`
        let name: HostName = request.key.splitn(4, '-').nth(3).unwrap().parse().unwrap();
        self.alone(&name, &request.argv[0]).await?;
        if request.argv[0] == "true" {
            return Ok(RunEnd { status: 0, timed_out: false });
        }
        heard.hear(&format!("working on {name}")).await;
        Ok(tokio::spawn(self.clone().command(name)).await.unwrap())
    }
}

/// Nothing is kept.
impl Outputs for Site {
    fn keep(&self, _: &RollId, _: Option<&HostName>, line: &str) {
        self.lock().lines.push(line.to_owned());
    }

    fn place(&self, _: &RollId, _: Option<&HostName>) -> Option<String> {
        None
    }
}

#[async_trait]
impl Notifier for Site {
    fn send(&self, notice: Notice) {
        self.lock().notices.push(notice);
    }

    async fn flush(&self) -> Vec<String> {
        vec![]
    }
}
