//! A whole site in memory: hosts with links that can be cut, balancers that see their forwards after a while, a journal
//! that can fill up. For stories over a fleet with a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::site_balancer::SiteBalancer;
use super::site_link::SiteLink;
use super::site_traffic_split::SiteProxy;
use super::site_world::{FirstState, build_host_world};
use crate::model::api::deployments::UpdateRequest;
use crate::model::api::{RunOutcome, RunRequest};
use crate::model::balancer::{BalancerSpec, StatsEndpoint};
use crate::model::evidence::Evidence;
use crate::model::example;
use crate::model::fleet::Fleet;
use crate::model::name::HostName;
use crate::model::proxy::ProxyStats;
use crate::model::roll::RollId;
use crate::ops::host::api::LocalHost;
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;
use crate::world::commands::{CommandError, CommandRunner};
use crate::world::fake::MS;
use crate::world::fake::deployments::FakeArchives;
use crate::world::fake::journal::FakeJournal;
use crate::world::fake::paused::{EventRecorder, PausedClock, wait_until};
use crate::world::journal::Journal;
use crate::world::link::{HostLink, LinkError, SharedLineSink};
use crate::world::notifier::{Notice, Notifier};
use crate::world::outputs::OutputStore;
use crate::world::reporter::Event;
use crate::world::stop::{self, StopHandle};

/// The delay between a change of a forward and the balancers' verdict.
const BALANCER_LAG: Duration = Duration::from_millis(700);

/// The real state of one host.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct SiteHost {
    pub forward: bool,
    /// When its forward was last switched; `None`: long ago.
    changed_at: Option<Instant>,
    /// The state that the balancers' checks had seen when it was changed.
    observed_up: bool,
    pub generation: u32,
    /// Health of the main vhost's real port.
    pub is_healthy: bool,
    pub is_backup_up: bool,
    /// Whether its link answers.
    pub is_reachable: bool,
    /// Requests in flight while it is out: they end this long after the forward went off. `None`: never.
    pub drain_duration: Option<Duration>,
    /// How often the command began and ended here, and whether it was in service when it did.
    pub commands: Vec<&'static str>,
    pub began: Vec<Instant>,
    /// The command is at work: it outlives the switchman that began it.
    pub running: bool,
    /// The forward went on while the command was at work.
    pub is_disturbed: bool,
    pub command_status: i32,
    pub command_duration: Duration,
    /// The main vhost is not healthy after the command.
    pub command_breaks_health: bool,
    pub switch_error: Option<LinkError>,
    /// How many of the next answers are lost, although the host carries out the requests.
    pub lost_answers: u32,
    /// Every second probe fails.
    pub is_flapping: bool,
    probes: u32,
    /// Another operator switched it last.
    pub is_switched_by_other: bool,
    /// Which versions answer its two data ports.
    pub main: String,
    pub backup: String,
    /// Main is not healthy once it is another version.
    pub new_main_unhealthy: bool,
    /// Main changed while the host was in service.
    pub was_assigned_in_service: bool,
    /// The error of its next assign.
    pub assign_error: Option<LinkError>,
    /// The reason for which its agent puts a new main back at once.
    pub rollback_reason: Option<String>,
    /// When the watch window of its main was first requested.
    pub watch_started_at: Option<Instant>,
    /// Neither its sockets nor its conntrack can be read.
    pub kernel_unreadable: bool,
    /// No port routes to the service.
    pub is_private: bool,
    pub updates: Vec<UpdateRequest>,
    /// An update is under way: whether its new instance has the traffic.
    pub update_has_traffic: Option<bool>,
    /// The evidence of its proxy on any shadow.
    pub evidence: Option<Evidence>,
    /// The error of a request for the evidence.
    pub evidence_error: Option<LinkError>,
    pub proxy: Option<ProxyStats>,
    pub layer7: SiteProxy,
    /// Every request that was sent to it, by the name of the link's method.
    pub calls: Vec<&'static str>,
}

#[derive(Debug, Default)]
pub struct SiteState {
    pub hosts: BTreeMap<HostName, SiteHost>,
    pub unreadable_balancers: BTreeSet<String>,
    /// The fewest mains in service at any moment a forward went off.
    pub min_up_observed: usize,
    pub notices: Vec<Notice>,
    pub lines: Vec<String>,
    pub hooks: Vec<(String, BTreeMap<String, String>)>,
    /// Exit status of command lines run by hooks.
    pub hook_status: BTreeMap<String, i32>,
    pub hook_duration: Duration,
    /// Whether the balancers' sockets are of level admin, and who was asked to close idle connections while what was true of
    /// web1's update.
    pub has_admin_socket: bool,
    /// No program can be started: neither here nor on the hosts.
    pub has_no_programs: bool,
    pub flushed: Vec<(String, Option<bool>)>,
}

/// The site, shared by all its doors.
#[derive(Debug, Clone)]
pub struct SharedSite(pub Arc<Mutex<SiteState>>);

pub struct FakeSite {
    pub site: SharedSite,
    pub fleet: Fleet,
    pub journal: Arc<FakeJournal>,
    pub world: FleetWorld,
    pub stopper: StopHandle,
    pub clock: PausedClock,
    pub events: Arc<Mutex<Vec<Event>>>,
}

/// `hosts` hosts called web1, web2..., all in service and healthy, behind this many balancers.
pub fn site(hosts: usize, balancers: usize) -> FakeSite {
    let names: Vec<HostName> = (1..=hosts).map(|number| format!("web{number}").parse().unwrap()).collect();
    let state = SiteState {
        hosts: names.iter().map(|name| (name.clone(), SiteHost::new_healthy())).collect(),
        min_up_observed: usize::MAX,
        ..SiteState::default()
    };
    let site = SharedSite(Arc::new(Mutex::new(state)));
    let socket = || Some(StatsEndpoint::Unix("/run/fake.sock".into()));
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
    let (stopper, stop) = stop::create_channel();
    let clock = PausedClock(Instant::now());
    let first = FirstState::new_in_service();
    let link = |name: &HostName| {
        let host = Arc::new(LocalHost::new(build_host_world(name, &site, clock, &first)));
        let link: Arc<dyn HostLink> = Arc::new(SiteLink { name: name.clone(), site: site.clone(), host });
        (name.clone(), link)
    };
    let balancer =
        |spec: BalancerSpec| -> Arc<dyn Balancer> { Arc::new(SiteBalancer::new(spec, site.clone())) };
    let world = FleetWorld {
        archives: Arc::new(FakeArchives),
        links: names.iter().map(link).collect(),
        balancers: specs.into_iter().map(balancer).collect(),
        journal: Journal::new(journal.clone()),
        lock: journal.fleet_lock(),
        promotions: Journal::new(journal.clone()),
        commands: Arc::new(site.clone()),
        notifier: Arc::new(site.clone()),
        outputs: Arc::new(site.clone()),
        clock: Arc::new(clock),
        reporter: Arc::new(EventRecorder(events.clone())),
        stop,
    };
    FakeSite { site, fleet, journal, world, stopper, clock, events }
}

impl FakeSite {
    /// Runs a command until something has happened, and kills its process then.
    pub async fn kill_when<T: std::fmt::Debug>(
        &self,
        command: impl Future<Output = T>,
        happened: impl Future<Output = ()>,
    ) {
        tokio::select! {
            ended = command => panic!("{ended:?}"),
            () = happened => self.journal.kill(),
        }
    }

    /// Waits until a host is as wanted, and looks once a step.
    pub async fn wait_for_host(&self, step: Duration, name: &str, is_so: impl Fn(&SiteHost) -> bool) {
        wait_until(step, || self.site.with_host(name, |host| is_so(host))).await;
    }
}

impl SiteState {
    /// Mains that take users now: those still going down do not count, those still coming up are not there yet. What
    /// another operator took out counts until the balancers have seen it: switchman cannot know before.
    fn count_in_service(&self) -> usize {
        let unseen =
            |host: &SiteHost| host.is_switched_by_other && !host.is_unchanged_for(BALANCER_LAG + MS * 100);
        let serves = |host: &&SiteHost| (host.forward && host.is_up()) || (host.is_healthy && unseen(host));
        self.hosts.values().filter(serves).count()
    }
}

impl SharedSite {
    pub fn lock(&self) -> MutexGuard<'_, SiteState> {
        self.0.lock().unwrap()
    }

    pub fn with_host<T>(&self, host: &str, change: impl FnOnce(&mut SiteHost) -> T) -> T {
        self.of(&host.parse().unwrap(), change)
    }

    pub fn of<T>(&self, host: &HostName, change: impl FnOnce(&mut SiteHost) -> T) -> T {
        change(self.lock().hosts.get_mut(host).unwrap())
    }

    /// A switch that a host recorded takes place.
    pub(super) fn switch(&self, name: &HostName, on: bool, generation: u32) {
        let mut state = self.lock();
        let host = state.hosts.get_mut(name).unwrap();
        let moved = host.set_forward(on);
        host.generation = generation;
        if moved && !on {
            let up = state.count_in_service();
            state.min_up_observed = state.min_up_observed.min(up);
        }
    }
}

impl SiteHost {
    /// In service since long ago, healthy, with requests that end 1.5 s after it is taken out.
    fn new_healthy() -> Self {
        Self {
            forward: true,
            observed_up: true,
            generation: 1,
            is_healthy: true,
            is_backup_up: true,
            is_reachable: true,
            drain_duration: Some(MS * 1500),
            command_duration: MS * 300,
            main: "1.0.0".to_owned(),
            backup: "1.0.0".to_owned(),
            ..Self::default()
        }
    }

    /// Switches as an operator who does not use switchman.
    pub fn switch_by_other(&mut self, on: bool) {
        let disturbed = self.is_disturbed;
        self.is_switched_by_other |= self.set_forward(on);
        self.is_disturbed = disturbed;
    }

    /// Whether it had to be changed.
    fn set_forward(&mut self, on: bool) -> bool {
        let moved = self.forward != on;
        if moved {
            self.observed_up = self.is_observed_on();
            self.changed_at = Some(Instant::now());
            self.forward = on;
            self.generation += 1;
            self.is_switched_by_other = false;
            self.is_disturbed |= on && self.running;
        }
        moved
    }

    /// Whether its main vhost answers a probe as healthy.
    pub(super) fn answer_probe(&mut self) -> bool {
        self.probes += 1;
        self.is_healthy && !(self.is_flapping && self.probes.is_multiple_of(2))
    }

    fn is_unchanged_for(&self, time: Duration) -> bool {
        self.changed_at.is_none_or(|at| at.elapsed() >= time)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drain_duration.is_some_and(|after| self.is_unchanged_for(after))
    }

    /// Whether the balancers report its main vhost UP.
    pub fn is_up(&self) -> bool {
        self.is_observed_on() && self.is_healthy
    }

    /// A change that was taken back before it was seen is never seen.
    fn is_observed_on(&self) -> bool {
        if self.is_unchanged_for(BALANCER_LAG) { self.forward } else { self.observed_up }
    }
}

/// How long an earlier run of the same command is waited for.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

impl SharedSite {
    async fn run_hook(&self, request: &RunRequest) -> RunOutcome {
        let takes = self.lock().hook_duration;
        tokio::time::sleep(takes).await;
        let mut state = self.lock();
        let line = request.argv[2].clone();
        let status = state.hook_status.get(&line).copied().unwrap_or(0);
        state.hooks.push((line, request.env.clone()));
        RunOutcome { status, timed_out: false }
    }

    /// As an end of the real thing: two runs with the same key never overlap.
    async fn wait_for_exclusive_run(&self, name: &HostName, program: &str) -> Result<(), CommandError> {
        let ended = wait_until(MS * 50, || !self.of(name, |host| host.running));
        let busy = |_| CommandError::StillRunning { program: program.to_owned(), waited: COMMAND_TIMEOUT };
        tokio::time::timeout(COMMAND_TIMEOUT, ended).await.map_err(busy)
    }

    async fn run_command(self, name: HostName) -> RunOutcome {
        let takes = self.of(&name, |host| {
            // The promise of the story: no command works on a host that serves, or has requests in flight.
            // An operator who switches it on at this very moment is not noticed any more.
            let overtaken = host.is_switched_by_other && !host.is_unchanged_for(MS * 300);
            let out = overtaken || !host.forward && host.is_drained();
            host.commands.push(if out { "began" } else { "began in service" });
            host.began.push(Instant::now());
            host.running = true;
            host.command_duration
        });
        tokio::time::sleep(takes).await;
        let status = self.of(&name, |host| {
            host.commands.push("ended");
            host.running = false;
            host.is_healthy = !host.command_breaks_health;
            host.command_status
        });
        RunOutcome { status, timed_out: false }
    }
}

/// The command, and hooks (`sh -c`). A command that began goes on to its end, as one whose switchman was killed does.
#[async_trait]
impl CommandRunner for SharedSite {
    fn check_startable(&self, program: &str) -> Result<(), CommandError> {
        if self.lock().has_no_programs {
            return Err(CommandError::Missing { program: program.to_owned() });
        }
        Ok(())
    }

    async fn run(&self, request: &RunRequest, heard: SharedLineSink) -> Result<RunOutcome, CommandError> {
        if request.key.ends_with("-preflight") {
            let status = i32::from(self.lock().has_no_programs);
            return Ok(RunOutcome { status, timed_out: false });
        }
        if request.argv[0] == "sh" {
            return Ok(self.run_hook(request).await);
        }
        // `r20261121-071503-5f3a-web1`
        let name: HostName = request.key.splitn(4, '-').nth(3).unwrap().parse().unwrap();
        self.wait_for_exclusive_run(&name, &request.argv[0]).await?;
        if request.argv[0] == "true" {
            return Ok(RunOutcome { status: 0, timed_out: false });
        }
        heard.write_line(&format!("working on {name}")).await;
        Ok(tokio::spawn(self.clone().run_command(name)).await.unwrap())
    }
}

/// Nothing is kept.
impl OutputStore for SharedSite {
    fn append_line(&self, _: &RollId, _: Option<&HostName>, line: &str) {
        self.lock().lines.push(line.to_owned());
    }

    fn locate(&self, _: &RollId, _: Option<&HostName>) -> Option<String> {
        None
    }
}

#[async_trait]
impl Notifier for SharedSite {
    fn send(&self, notice: Notice) {
        self.lock().notices.push(notice);
    }

    async fn flush(&self) -> Vec<String> {
        vec![]
    }
}
