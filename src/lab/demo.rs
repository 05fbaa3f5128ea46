//! The demo on the lab, with every request accounted for. First the course of seed rows Z3 and H2 (docs/design/seed-systems.md#zero-downtime-deployment): traffic on main; on two hosts
//! `disable-forward`, replace and restart the main vhost, `enable-forward`. Then one command for all of it: a roll. Then deployments side by side. Then
//! shadows, a canary, and two promotions.

use std::time::Duration;

use serde::Serialize;

use super::Lab;
use super::error::LabError;
use super::load::{ClientKind, Load, LoadTarget, Report, Snapshot, default_mix};
use super::operator::{LabTransport, Operator};
use crate::model::duration;
use crate::model::shell::join_words;
use crate::world::stop::StopToken;

mod deployments;
pub mod release;
mod roll;
mod scenario;
mod traffic_split;

pub use roll::RollDemoReport;
pub use scenario::{ProgressSink, ScenarioReport};

use scenario::{Scenario, wait_for_answers};

/// The hosts of the first act.
const MANUAL_HOSTS: usize = 2;
const BASELINE_PHASE: &str = "before";
const OLD_VERSION: &str = "1.0.0";
const NEW_VERSION: &str = "2.0.0";
/// A switch of one host, as the operator's command reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    pub host: String,
    #[serde(rename = "down_after_ms", serialize_with = "duration::serialize_ms")]
    pub down_after: Duration,
    #[serde(rename = "drained_after_ms", serialize_with = "duration::serialize_ms")]
    pub drained_after: Duration,
    #[serde(rename = "up_after_ms", serialize_with = "duration::serialize_ms")]
    pub up_after: Duration,
    /// Answers of its backup vhost while it was out, and of its new main vhost after it was back.
    pub by_backup: u64,
    pub by_new_main: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DemoReport {
    pub load: Report,
    pub hosts: Vec<HostReport>,
    pub roll: RollDemoReport,
    pub versions: ScenarioReport,
    pub splits: ScenarioReport,
    /// Why the demo did not show what it should; empty when all is well.
    pub faults: Vec<String>,
    /// Log lines of HAProxy and nginx from the same time; read only when something is not as it should be.
    pub clues: Vec<String>,
}

/// Runs the demo on a lab that is up. Leaves the lab up.
pub async fn run(
    lab: &mut Lab,
    progress_sink: &dyn ProgressSink,
    stop: &StopToken,
) -> Result<DemoReport, LabError> {
    let names = lab.host_names();
    for name in &names {
        // Fresh hosts have no rule: the site runs on backups until now. No other main is UP yet for the floor to hold.
        run_switchman(lab, name, &["enable-forward"]).await?;
        progress_sink.report_step(&format!("{name}: forward on, main vhost UP"));
    }
    let target =
        LoadTarget { addresses: lab.targets(), host: "shop.example".to_owned(), cookies: names.clone() };
    let load = Load::start(Some(&lab.namespace_path("client")), target, &default_mix())?;
    load.set_phase(BASELINE_PHASE);
    let acts = async {
        let every_kind = |snapshot: &Snapshot| ClientKind::ALL.iter().all(|kind| snapshot.kinds[kind] > 0);
        wait_for_answers(&load, progress_sink, "an answer to every kind of client", every_kind).await?;
        let mut hosts = Vec::new();
        for (at, name) in names.iter().enumerate().take(MANUAL_HOSTS) {
            hosts.push(replace_host(lab, at, name, &load, progress_sink).await?);
        }
        let operator =
            Operator::start_with_admin_sockets(lab, LabTransport::Ssh, "versions: {watch: 2s}\n").await?;
        let roll = roll::run_scenario(lab, &operator, &load, progress_sink).await?;
        let begin =
            || Scenario { operator: &operator, load: &load, progress_sink, commands: vec![], faults: vec![] };
        let versions = deployments::run_scenario(lab, begin()).await?;
        let splits = traffic_split::run_scenario(lab, begin()).await?;
        Ok::<_, LabError>((hosts, roll, versions, splits))
    };
    let (hosts, roll, versions, splits) = tokio::select! {
        result = acts => result?,
        () = stop.wait() => return Err(LabError::Interrupted),
    };
    progress_sink.report_step("load stops, requests in flight end");
    let report = load.stop().await?;
    let faults = find_faults(&report, &hosts).into_iter().chain(roll.find_faults(names.len()));
    let faults: Vec<String> = faults.chain(versions.faults.clone()).chain(splits.faults.clone()).collect();
    let clues = if faults.is_empty() { vec![] } else { lab.read_log_excerpts() };
    Ok(DemoReport { faults, load: report, hosts, roll, versions, splits, clues })
}

async fn replace_host(
    lab: &mut Lab,
    at: usize,
    name: &str,
    load: &Load,
    progress_sink: &dyn ProgressSink,
) -> Result<HostReport, LabError> {
    let (out, back) = (format!("{name} out"), format!("{name} back"));
    progress_sink.report_step(&format!("{name}: switchman disable-forward --drain"));
    load.set_phase(&out);
    let off = run_switchman(lab, name, &["disable-forward", "--drain"]).await?;
    let (down_after, drained_after) = (find_longest_wait(&off), parse_millis(&off["drained_after_ms"]));
    let (down, drained) = (duration::format(down_after), duration::format(drained_after));
    progress_sink.report_step(&format!(
        "{name}: DOWN after {down}, drained {drained} later; its users are on its backup vhost"
    ));
    wait_for_answers(load, progress_sink, "an answer of the backup vhost", |now| {
        now.count_answers(&out, name, "backup", None) > 0
    })
    .await?;
    lab.replace_main(at, NEW_VERSION).await?;
    progress_sink.report_step(&format!(
        "{name}: main vhost replaced, {OLD_VERSION} -> {NEW_VERSION}; switchman enable-forward"
    ));
    let on = run_switchman(lab, name, &["enable-forward"]).await?;
    let by_backup = load.take_snapshot().count_answers(&out, name, "backup", None);
    load.set_phase(&back);
    let up_after = find_longest_wait(&on);
    progress_sink.report_step(&format!("{name}: UP after {}", duration::format(up_after)));
    wait_for_answers(load, progress_sink, "an answer of the new version", |now| {
        now.count_answers(&back, name, "main", Some(NEW_VERSION)) > 0
    })
    .await?;
    // A whole websocket and a whole slow answer on the new version, before the next host goes.
    let settled = load.take_snapshot();
    let more = move |now: &Snapshot| {
        [ClientKind::Slow, ClientKind::Websocket, ClientKind::Upload]
            .iter()
            .all(|kind| now.kinds[kind] > settled.kinds[kind] + 1)
    };
    wait_for_answers(load, progress_sink, "more of every kind", more).await?;
    let by_new_main = load.take_snapshot().count_answers(&back, name, "main", Some(NEW_VERSION));
    Ok(HostReport { host: name.to_owned(), down_after, drained_after, up_after, by_backup, by_new_main })
}

/// Runs the real command on the host, and reads its result.
async fn run_switchman(lab: &Lab, host: &str, args: &[&str]) -> Result<serde_json::Value, LabError> {
    let args = [args, &["--host", host, "--output", "json"]].concat();
    let output = lab.run_switchman(host, &args).await?;
    let result = serde_json::from_str(&output.stdout).ok().filter(|_| output.status == 0);
    result.ok_or_else(|| LabError::Command {
        command: format!("switchman {} (on {host})", join_words(args)),
        status: output.status,
        stderr: output.stderr,
    })
}

fn find_longest_wait(result: &serde_json::Value) -> Duration {
    let observed = result["observed"].as_array().map(Vec::as_slice).unwrap_or_default();
    observed.iter().map(|one| parse_millis(&one["after_ms"])).max().unwrap_or_default()
}

fn parse_millis(value: &serde_json::Value) -> Duration {
    Duration::from_millis(value.as_u64().unwrap_or(0))
}

/// Finds the faults that would make a green report worth nothing.
fn find_faults(report: &Report, hosts: &[HostReport]) -> Vec<String> {
    let mut faults = Vec::new();
    if report.total_failed() > 0 {
        let reasons: Vec<String> = report
            .failures
            .iter()
            .map(|(failed, count)| {
                format!("{count} x {} in `{}`: {}", failed.kind.as_str(), failed.phase, failed.reason)
            })
            .collect();
        let reasons = reasons.join(", ");
        faults.push(format!(
            "{} of {} requests failed ({reasons})",
            report.total_failed(),
            report.total_requests()
        ));
    }
    for kind in report.kinds.iter().filter(|kind| kind.requests == kind.failed) {
        faults.push(format!("no request of the kind `{}` succeeded", kind.kind.as_str()));
    }
    if report.strays > 0 {
        faults
            .push(format!("{} answers came from another host than the client's cookie names", report.strays));
    }
    for host in hosts {
        if host.by_backup == 0 {
            faults.push(format!("the backup vhost of {} answered nothing while it was out", host.host));
        }
        if host.by_new_main == 0 {
            faults.push(format!("the new main vhost of {} answered nothing after it was back", host.host));
        }
    }
    faults
}
