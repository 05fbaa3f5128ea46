//! A whole site in memory: hosts with links that can be cut, balancers that see their forwards after a while, a journal
//! that can fill up. For stories over a fleet with a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::MS;
use super::journal::FakeJournal;
use crate::model::api::{API, Hello, HostView, ProbeRequest, Probed, Pulse, Question, RunEnd, RunRequest};
use crate::model::balancer::{Access, BackendView, BalancerSpec, ServerWork, Verdict};
use crate::model::example::{self, server};
use crate::model::failure::ErrorCode;
use crate::model::fleet::Fleet;
use crate::model::forward::{Changed, Intent, Switch};
use crate::model::history::Entry;
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::Port;
use crate::model::rules::{Family, Transaction, Variant};
use crate::model::socket::SocketCount;
use crate::world::FleetWorld;
use crate::world::balancer::{Balancer, BalancerError};
use crate::world::clock::Clock;
use crate::world::commands::{CommandError, Commands};
use crate::world::link::{Heard, HostLink, LinkError};
use crate::world::notifier::{Notice, Notifier};
use crate::world::outputs::Outputs;
use crate::world::reporter::{Event, Reporter};
use crate::world::stop::{self, Stopper};

/// One host as it really is.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct SiteHost {
    pub forward: bool,
    pub changed: Instant,
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
    pub command_status: i32,
    pub command_takes: Duration,
    /// The main vhost is not healthy after the command.
    pub command_breaks: bool,
    pub switch_error: Option<LinkError>,
}

#[derive(Debug)]
pub struct SiteState {
    pub hosts: BTreeMap<HostName, SiteHost>,
    /// From a change of a forward to the verdict, by balancer.
    pub lag: Duration,
    pub unread: BTreeSet<String>,
    /// The fewest mains in service at any moment a forward went off.
    pub fewest_up: usize,
    pub notices: Vec<Notice>,
    pub lines: Vec<String>,
    pub hooks: Vec<(String, BTreeMap<String, String>)>,
    /// Exit status of command lines run by hooks.
    pub hook_status: BTreeMap<String, i32>,
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
    pub events: Arc<Mutex<Vec<Event>>>,
}

/// `hosts` hosts called web1, web2..., all in service and healthy, behind this many balancers.
pub fn site(hosts: usize, balancers: usize) -> FakeSite {
    let names: Vec<HostName> = (1..=hosts).map(|number| format!("web{number}").parse().unwrap()).collect();
    let state = SiteState {
        hosts: names.iter().map(|name| (name.clone(), SiteHost::well())).collect(),
        lag: MS * 700,
        unread: BTreeSet::new(),
        fewest_up: usize::MAX,
        notices: vec![],
        lines: vec![],
        hooks: vec![],
        hook_status: BTreeMap::new(),
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
    let link = |name: &HostName| {
        let link: Arc<dyn HostLink> = Arc::new(SiteLink { name: name.clone(), site: site.clone() });
        (name.clone(), link)
    };
    let balancer =
        |spec: BalancerSpec| -> Arc<dyn Balancer> { Arc::new(SiteBalancer { spec, site: site.clone() }) };
    let world = FleetWorld {
        links: names.iter().map(link).collect(),
        balancers: specs.into_iter().map(balancer).collect(),
        journal: journal.clone(),
        lock: journal.clone(),
        commands: Arc::new(site.clone()),
        notifier: Arc::new(site.clone()),
        outputs: Arc::new(site.clone()),
        clock: Arc::new(PausedClock(Instant::now())),
        reporter: Arc::new(Listener(events.clone())),
        stop,
    };
    FakeSite { site, fleet, journal, world, stopper, events }
}

impl Site {
    pub fn lock(&self) -> MutexGuard<'_, SiteState> {
        self.0.lock().unwrap()
    }

    pub fn with<T>(&self, host: &str, change: impl FnOnce(&mut SiteHost) -> T) -> T {
        change(self.lock().hosts.get_mut(&host.parse::<HostName>().unwrap()).unwrap())
    }
}

impl SiteHost {
    /// In service for a minute, healthy, with requests that end 1.5 s after it is taken out.
    fn well() -> Self {
        Self {
            forward: true,
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
        }
    }

    fn is_up(&self, lag: Duration) -> bool {
        let seen = if self.changed.elapsed() >= lag { self.forward } else { !self.forward };
        seen && self.healthy
    }
}

struct SiteLink {
    name: HostName,
    site: Site,
}

impl SiteLink {
    /// Half of the way; what happens in between happens on the host.
    async fn way(&self) -> Result<(), LinkError> {
        tokio::time::sleep(MS * 2).await;
        let reachable = self.site.with(self.name.as_str(), |host| host.reachable);
        let cut = || LinkError::Broken { via: "ssh fake".into(), why: "cut".into() };
        if reachable { Ok(()) } else { Err(cut()) }
    }

    async fn there_and_back<T>(&self, act: impl FnOnce(&mut SiteHost) -> T + Send) -> Result<T, LinkError>
    where
        T: Send,
    {
        self.way().await?;
        let value = self.site.with(self.name.as_str(), act);
        self.way().await?;
        Ok(value)
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

    async fn look(&self, _: &Question) -> Result<HostView, LinkError> {
        let none = || Err("not part of the fake".to_owned());
        self.there_and_back(|_| HostView {
            recorded: none(),
            kernel: Err("not part of the fake".to_owned()),
            drift: vec![],
            main_sockets: Ok(SocketCount::default()),
            main_health: Ok(()),
            last: None,
        })
        .await
    }

    async fn pulse(&self, _: &ServiceName, _: Port) -> Result<Pulse, LinkError> {
        self.there_and_back(|host| Pulse { generation: host.generation, sockets: Ok(SocketCount::default()) })
            .await
    }

    async fn probe(&self, _: &ProbeRequest) -> Result<Probed, LinkError> {
        let unhealthy = || Probed::Unhealthy { why: "status 500".into() };
        self.there_and_back(|host| if host.healthy { Probed::Healthy } else { unhealthy() }).await
    }

    async fn switch(&self, intent: &Intent) -> Result<Changed, LinkError> {
        let on = intent.switch == Switch::On;
        if let Some(error) = self.site.with(self.name.as_str(), |host| host.switch_error.clone()) {
            return Err(error);
        }
        self.way().await?;
        let changed = {
            let mut state = self.site.lock();
            let lag = state.lag;
            let host = state.hosts.get_mut(&self.name).unwrap();
            let moved = host.forward != on;
            if moved {
                // One that is not seen yet was not seen before either.
                host.changed = Instant::now();
                host.forward = on;
                host.generation += 1;
            }
            let generation = host.generation;
            if moved && !on {
                // Those still going down count as gone, those still coming up are not there yet.
                let up = state.hosts.values().filter(|host| host.forward && host.is_up(lag)).count();
                state.fewest_up = state.fewest_up.min(up);
            }
            let step = Transaction { family: Family::V4, variant: Variant::NfTables, text: String::new() };
            Changed {
                transactions: if moved { vec![step] } else { vec![] },
                generation,
                unfinished_history: None,
            }
        };
        self.way().await?;
        Ok(changed)
    }

    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, LinkError> {
        self.way().await?;
        let ended = self.site.run(request, heard).await;
        self.way().await?;
        ended.map_err(|error| LinkError::Refused {
            code: ErrorCode::CommandFailed,
            message: error.to_string(),
        })
    }

    async fn history(&self, _: Option<&ServiceName>, _: u32) -> Result<Vec<Entry>, LinkError> {
        Ok(vec![])
    }
}

/// The command, and hooks (`sh -c`).
#[async_trait]
impl Commands for Site {
    async fn run(&self, request: &RunRequest, heard: Heard) -> Result<RunEnd, CommandError> {
        let name = request.env.get("SWITCHMAN_HOST").cloned().unwrap_or_default();
        if request.argv[0] == "true" {
            return Ok(RunEnd { status: 0, timed_out: false });
        }
        if request.argv[0] == "sh" {
            let line = request.argv[2].clone();
            let status = self.lock().hook_status.get(&line).copied().unwrap_or(0);
            self.lock().hooks.push((line, request.env.clone()));
            return Ok(RunEnd { status, timed_out: false });
        }
        let takes = self.with(&name, |host| {
            // What the story promises: nobody works on a host that serves, or has requests in flight.
            let out = !host.forward && host.drains_after.is_some_and(|after| host.changed.elapsed() >= after);
            host.commands.push(if out { "began" } else { "began in service" });
            host.command_takes
        });
        heard(&format!("working on {name}"));
        tokio::time::sleep(takes).await;
        let status = self.with(&name, |host| {
            host.commands.push("ended");
            host.healthy = !host.command_breaks;
            host.command_status
        });
        Ok(RunEnd { status, timed_out: false })
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

struct SiteBalancer {
    spec: BalancerSpec,
    site: Site,
}

#[async_trait]
impl Balancer for SiteBalancer {
    fn spec(&self) -> &BalancerSpec {
        &self.spec
    }

    async fn read(&self) -> Result<Arc<BackendView>, BalancerError> {
        let state = self.site.lock();
        if state.unread.contains(self.spec.name.as_str()) {
            return Err(BalancerError::Silent { address: "/run/fake.sock".into(), waited: MS * 2000 });
        }
        let mut servers = Vec::with_capacity(state.hosts.len() * 2);
        for (name, host) in &state.hosts {
            let verdict = if host.is_up(state.lag) { Verdict::Up } else { Verdict::Down };
            let mut main = server(&format!("main-{name}"), verdict);
            let drained = host.drains_after.is_some_and(|after| host.changed.elapsed() >= after);
            main.work = ServerWork { sessions: u64::from(!drained), ..ServerWork::default() };
            let backup = if host.backup_up { Verdict::Up } else { Verdict::Down };
            servers.push(main);
            servers.push(server(&format!("backup-{name}"), backup));
        }
        Ok(Arc::new(BackendView { servers }))
    }
}

/// Wall-clock time that goes with tokio's.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(self.0.elapsed()).unwrap_or_default()
    }
}

struct Listener(Arc<Mutex<Vec<Event>>>);

impl Reporter for Listener {
    fn report(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}
