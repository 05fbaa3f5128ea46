//! Rolls over a site in memory where anything may fail at any moment: each seed is one story of a few operators' commands,
//! killed, interrupted or left alone, while faults come and go. What must always hold is in `invariants`.
//!
//! A story that fails reports its seed and its size. To run it alone, with its journal, put them into [`AGAIN`].

use std::time::Duration;

use self::faults::Weather;
use self::invariants::{agrees, in_order, is_mended, never_broken};
use self::rng::Dice;
use crate::model::example;
use crate::model::history::Actor;
use crate::model::journal::RollResult;
use crate::model::port_forward::Switch;
use crate::model::roll::{Batch, OnFailure, RollSpec};
use crate::ops::fleet::balancer_cache::CachedBalancer;
use crate::ops::fleet::forward::{self, SwitchOptions};
use crate::ops::fleet::roll::{RollError, RollReport, abort, read_last, resume, run};
use crate::ops::testing::site::{FakeSite, site};
use crate::plan::roll::progress::{RollProgress, StepState};
use crate::world::FleetWorld;
use crate::world::balancer::Balancer;
use crate::world::fake::MS;
use crate::world::fake::paused::ready;
use crate::world::reporter::{Event, Reporter};
use crate::world::stop;

mod cost;
mod faults;
mod invariants;
mod rng;

/// The only story to run: seed and number of hosts.
const AGAIN: Option<(u64, usize)> = None;

/// No command takes longer on any site, however bad.
const FOREVER: Duration = Duration::from_hours(10);

struct Deaf;

impl Reporter for Deaf {
    fn report(&self, _: &Event) {}
}

/// The command that an operator types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Run,
    Resume,
    Abort,
}

/// The fate of a command while it runs.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Left,
    Killed { at: Duration },
    Interrupted { at: Duration },
}

struct Story {
    fake: FakeSite,
    spec: RollSpec,
    dice: Dice,
    weather: Weather,
    /// About how long the roll takes when all goes well.
    length: Duration,
    /// The actions so far, for the report of a failure.
    transcript: Vec<String>,
    killed: bool,
}

type Outcome = Option<Result<RollReport, RollError>>;

impl Story {
    fn new(seed: u64, hosts: usize) -> Self {
        let mut dice = Dice(seed);
        let mut fake = site(hosts, 3);
        let balancers = fake.world.balancers.iter();
        fake.world.balancers = balancers.map(|inner| shared(CachedBalancer::new(inner.clone()))).collect();
        fake.world.reporter = std::sync::Arc::new(Deaf);
        let spec = spec(&mut dice, &fake);
        let batches = spec.batches().count();
        let out = spec.batches().map(<[_]>::len).max().unwrap_or(0);
        let spare = dice.pick(&[0, 1, hosts / 10]);
        fake.fleet.limits.min_up = u32::try_from((hosts - out).saturating_sub(spare)).unwrap();
        if dice.percent(25) {
            fake.fleet.hooks.before_host.push("./warm.sh".to_owned());
            fake.site.lock().hook_duration = dice.pick(&[Duration::ZERO, MS * 100, MS * 5000]);
        }
        let length = MS * 3800 * u32::try_from(batches).unwrap();
        let weather = Weather::new(&mut dice, &fake, length);
        let transcript =
            vec![format!("{spec:?}, floor {}", fake.fleet.limits.min_up), format!("{:?}", weather.changes)];
        Self { fake, spec, dice, weather, length, transcript, killed: false }
    }

    /// Some commands while the faults come and go, then one without any.
    async fn play(&mut self) -> Result<(), String> {
        for _ in 0..=self.dice.below(4) {
            let verb = match self.read_last()? {
                None => Verb::Run,
                Some(now) if now.is_finished() => break,
                Some(_) if self.dice.percent(75) => Verb::Resume,
                Some(_) => Verb::Abort,
            };
            let at = self.dice.moment(self.length * 2);
            let fate = self.dice.pick(&[
                Fate::Left,
                Fate::Left,
                Fate::Killed { at },
                Fate::Killed { at: at / 4 },
                Fate::Interrupted { at },
            ]);
            let outcome = self.act(verb, fate).await?;
            self.check(fate, &outcome)?;
        }
        self.end().await
    }

    /// What the journal has, whether or not an operator could read it now.
    fn read_last(&self) -> Result<Option<RollProgress>, String> {
        let read = || ready(read_last(&self.fake.world)).map_err(|error| error.to_string());
        self.fake.journal.read_reachable(read)
    }

    async fn act(&mut self, verb: Verb, fate: Fate) -> Result<Outcome, String> {
        self.transcript.push(format!("{verb:?}, {fate:?}"));
        let (fake, spec) = (&self.fake, &self.spec);
        let (stopper, stop) = stop::create_channel();
        let world = FleetWorld { stop, ..fake.world.clone() };
        let actor = example::make_actor();
        let command = async {
            match verb {
                Verb::Run => run(&world, &fake.fleet, spec, &actor).await,
                Verb::Resume => resume(&world, &fake.fleet, &actor).await,
                Verb::Abort => abort(&world, &fake.fleet, &actor).await,
            }
        };
        let fated = async {
            match fate {
                Fate::Left => std::future::pending().await,
                Fate::Killed { at } => tokio::time::sleep(at).await,
                Fate::Interrupted { at } => {
                    tokio::time::sleep(at).await;
                    stopper.stop();
                    std::future::pending::<()>().await;
                }
            }
        };
        let outcome = tokio::select! {
            outcome = command => Some(outcome),
            () = fated => None,
            never = self.weather.goes_on(fake) => match never {},
            () = tokio::time::sleep(FOREVER) => return Err("it never ends".to_owned()),
        };
        if outcome.is_none() {
            fake.journal.kill();
            self.killed = true;
            let pause = self.dice.pick(&[Duration::ZERO, MS, MS * 100, MS * 5000]);
            tokio::time::sleep(pause).await;
        } else if *fake.journal.has_lost_calls.lock().unwrap() {
            // The process has ended, and its lock may not be released.
            fake.journal.kill();
        }
        let transcript = match &outcome {
            None => "killed".to_owned(),
            Some(Ok(report)) => format!("{:?}, {:?}", report.progress.result, report.progress.stop_reason),
            Some(Err(error)) => error.to_string(),
        };
        self.transcript.push(transcript);
        Ok(outcome)
    }

    fn check(&self, fate: Fate, outcome: &Outcome) -> Result<(), String> {
        never_broken(&self.fake, &self.spec)?;
        let free = self.fake.journal.lock.lock().unwrap().is_none();
        let lost = *self.fake.journal.has_lost_calls.lock().unwrap();
        if !free && outcome.is_some() && !lost {
            return Err("the lock was not given back".to_owned());
        }
        let Some(standing) = self.read_last()? else {
            return Ok(());
        };
        in_order(&self.fake, &standing.spec)?;
        // Where the disk was full the journal may know less than was done; what was on its way at a kill may still arrive.
        let gaps = *self.fake.journal.has_gaps.lock().unwrap();
        if outcome.is_some() && !gaps {
            agrees(&self.fake, &standing, self.killed)?;
        }
        let interrupted = standing.stop_reason.as_deref() == Some("interrupted");
        if let (Fate::Interrupted { .. }, Some(Ok(_)), true, false) = (fate, outcome, interrupted, gaps) {
            invariants::nobody_in_between(&self.fake, &standing)?;
        }
        Ok(())
    }

    /// The faults are over, and one command must repair what can be repaired.
    async fn end(&mut self) -> Result<(), String> {
        let mended = self.dice.percent(70);
        self.weather.ends(&self.fake, mended);
        // Programs of killed switchmans end, balancers see what there is.
        tokio::time::sleep(MS * 25_000).await;
        if mended {
            self.weather.ends(&self.fake, mended);
            tokio::time::sleep(MS * 1000).await;
        }
        let verb = match self.read_last()? {
            None => Verb::Run,
            Some(now) if now.is_finished() => return self.enable_all().await,
            Some(_) => self.dice.pick(&[Verb::Resume, Verb::Abort]),
        };
        let outcome = self.act(verb, Fate::Left).await?;
        // An abort, and a resume after every repair, have covered every host.
        *self.fake.journal.has_gaps.lock().unwrap() &= verb == Verb::Resume && !mended;
        self.check(Fate::Left, &outcome)?;
        let report = outcome.ok_or("killed, not by us")?.map_err(|error| error.to_string())?;
        is_mended(&self.fake, verb == Verb::Abort || mended)?;
        let whole = match verb {
            Verb::Abort => report.progress.result == Some(RollResult::Aborted),
            _ => report.progress.hosts.iter().all(|host| host.state == StepState::Done),
        };
        if mended && !whole { Err(format!("not whole: {:?}", report.progress)) } else { Ok(()) }
    }

    /// A finished roll that left hosts out recommends to enable their forwards.
    async fn enable_all(&mut self) -> Result<(), String> {
        self.transcript.push("enable-forward of all".to_owned());
        let actor = Actor::new("ops", 8);
        let options = SwitchOptions { actor, wait: true, drain: false, force: false, timeout: None };
        let fake = &self.fake;
        forward::switch_many(&fake.world, &fake.fleet, &fake.fleet.hosts, Switch::On, &options)
            .await
            .map_err(|error| error.to_string())?;
        is_mended(&self.fake, true)
    }
}

fn shared(balancer: CachedBalancer) -> std::sync::Arc<dyn Balancer> {
    std::sync::Arc::new(balancer)
}

fn spec(dice: &mut Dice, fake: &FakeSite) -> RollSpec {
    let hosts = fake.fleet.hosts.len();
    let batch = dice.pick(&[Batch::Percent(5), Batch::Percent(5), Batch::Percent(25), Batch::Hosts(3)]);
    let batch = if hosts < 100 && dice.percent(20) { Batch::Hosts(1) } else { batch };
    RollSpec {
        hosts: fake.fleet.hosts.iter().map(|host| host.name.clone()).collect(),
        batch: if hosts >= 1000 { Batch::Percent(5) } else { batch },
        max_failures: dice.pick(&[0, 1, 3, u32::try_from(hosts / 5).unwrap()]),
        on_failure: dice.pick(&[OnFailure::Stop, OnFailure::Return]),
        work: example::make_command(dice.percent(50)),
        force: dice.percent(15),
        ..example::make_roll_spec(&[])
    }
}

/// Runs one story from its seed; the error contains all that is known of it.
fn tell(seed: u64, hosts: usize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut story = Story::new(seed, hosts);
        let ended = story.play().await;
        if AGAIN.is_some() {
            let rows = story.fake.journal.rolls.lock().unwrap();
            story
                .transcript
                .extend(rows.iter().map(|row| format!("{} {:?} {:?}", row.at, row.host, row.kind)));
        }
        ended.map_err(|why| format!("seed {seed}, {hosts} hosts: {why}\n  {}", story.transcript.join("\n  ")))
    })
}

/// Runs every seed and reports those that fail.
fn tell_all(seeds: std::ops::Range<u64>, threads: usize, hosts: impl Fn(u64) -> usize + Sync) {
    if let Some((seed, hosts)) = AGAIN {
        return tell(seed, hosts).unwrap_or_else(|why| panic!("{why}"));
    }
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(Vec::new());
    let worker = || {
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if let Err(why) = tell(seed, hosts(seed)) {
                failed.lock().unwrap().push(why);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    let failed = failed.into_inner().unwrap();
    let heads: String =
        failed.iter().filter_map(|why| why.lines().next()).map(|head| format!("\n{head:.250}")).collect();
    assert!(failed.is_empty(), "{} of {} stories failed{heads}", failed.len(), seeds.end - seeds.start);
}

/// 150 stories over 20 to 40 hosts.
fn tell_quarter(number: u64) {
    tell_all(number * 150..number * 150 + 150, 1, |seed| 20 + usize::try_from(seed % 21).unwrap());
}

#[test]
fn rolls_over_small_fleets_1_of_4() {
    tell_quarter(0);
}

#[test]
fn rolls_over_small_fleets_2_of_4() {
    tell_quarter(1);
}

#[test]
fn rolls_over_small_fleets_3_of_4() {
    tell_quarter(2);
}

#[test]
fn rolls_over_small_fleets_4_of_4() {
    tell_quarter(3);
}

#[test]
fn rolls_over_a_thousand_hosts() {
    tell_all(1000..1004, 1, |_| 1000);
}

/// All of it, on every processor: `make bench`.
#[test]
#[ignore = "takes minutes in release: make bench runs it"]
fn a_thousand_rolls_over_a_thousand_hosts() {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tell_all(0..1000, threads, |_| 1000);
}
