//! The cost of a roll over a thousand hosts on the operator machine.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::{CachedBalancer, Deaf, shared};
use crate::model::example;
use crate::model::roll::{Batch, RollSpec};
use crate::ops::fleet::roll::run;
use crate::ops::testing::site::site;

const HOSTS: usize = 1000;

/// A line of /proc/self/status in KiB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap()))
        .sum()
}

#[allow(clippy::disallowed_macros, reason = "as a benchmark it prints what it measured")]
#[tokio::test(start_paused = true)]
#[ignore = "prints what it costs: make bench runs it"]
async fn cost_of_a_roll_over_a_thousand_hosts() {
    let mut fake = site(HOSTS, 3);
    fake.world.balancers =
        fake.world.balancers.iter().map(|inner| shared(CachedBalancer::new(inner.clone()))).collect();
    fake.world.reporter = std::sync::Arc::new(Deaf);
    let hosts = fake.fleet.hosts.iter().map(|host| host.name.clone()).collect();
    let spec = RollSpec { hosts, batch: Batch::Percent(5), ..example::make_roll_spec(&[]) };
    let actor = example::make_actor();
    let (resident, used, began) = (memory("VmRSS:"), processor_time(), tokio::time::Instant::now());
    let report = run(&fake.world, &fake.fleet, &spec, &actor).await.unwrap();
    assert!(report.is_complete());
    let rows = fake.journal.rolls.lock().unwrap().len();
    println!(
        "a roll over {HOSTS} hosts, 3 balancers, batches of 5 %: {:.1} s of simulated time, {rows} rows\n\
         processor time {} ms, peak memory {} KiB ({resident} KiB before it began); both with the site, its balancers\n\
         and the journal in the same process",
        began.elapsed().as_secs_f64(),
        (processor_time().checked_sub(used).unwrap()).as_millis(),
        memory("VmHWM:"),
    );
}
