//! A promotion: its progress, step by step, and its result.

use std::fmt::Write as _;

use owo_colors::OwoColorize;
use serde::Serialize;

use super::renderer::Renderer;
use super::roll::{format_lock, to_json_word};
use super::table;
use super::time_format::TimeFormat;
use crate::error::Failure;
use crate::model::lock::{Liveness, LockView};
use crate::model::name::HostName;
use crate::model::promote::{PromotionResult, RequestSample, StepVerdict};
use crate::ops::fleet::promote::PromotionReport;
use crate::plan::compare::count;
use crate::plan::promote::{PromotionProgress, StepProgress, format_latency, format_share};

/// A snapshot of the last promotion and the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromotionView {
    pub progress: Option<PromotionProgress>,
    pub lock: Option<LockView>,
}

impl Renderer {
    pub fn print_promotion_status(&self, view: &PromotionView) {
        self.print("promotion-status", view, || format_status(view, self.time_format));
    }

    pub fn print_approval(&self, progress: &PromotionProgress) {
        self.print("promotion-promoted", progress, || {
            let step = progress.awaiting_approval.and_then(|step| progress.steps.get(step));
            let share = step.map(|step| step.share.to_string()).unwrap_or_default();
            format!("{} was approved to continue after {share}\n", progress.promotion)
        });
    }

    /// Prints the result of a promotion; anything but promoted is a failure.
    pub fn print_promotion_result(&self, report: &PromotionReport) -> Result<(), Failure> {
        self.print_promotion(report);
        match report.progress.result {
            Some(PromotionResult::Promoted) => Ok(()),
            _ => Err(to_failure(&report.progress)),
        }
    }

    /// Prints the result of an abort: a failure if not every host was reached, or if the version became main before.
    pub fn print_abort_result(&self, report: &PromotionReport) -> Result<(), Failure> {
        self.print_promotion(report);
        let progress = &report.progress;
        let (service, version) = (&progress.spec.service, &progress.spec.version);
        match progress.result {
            Some(PromotionResult::Aborted | PromotionResult::RolledBack) => Ok(()),
            Some(PromotionResult::Promoted) => {
                Err(Failure::AlreadyPromoted { service: service.clone(), version: version.clone() })
            }
            None => Err(to_failure(progress)),
        }
    }

    fn print_promotion(&self, report: &PromotionReport) {
        self.print("promotion", report, || format_promotion(&report.progress, self.time_format));
    }
}

fn to_failure(progress: &PromotionProgress) -> Failure {
    let stopped = progress.stop_reason.clone().unwrap_or_else(|| "not finished".to_owned());
    Failure::NotPromoted {
        service: progress.spec.service.clone(),
        version: progress.spec.version.clone(),
        reason: if progress.is_finished() { progress.reason.clone() } else { stopped },
        unreached_hosts: progress.unreachable_hosts.iter().map(|(host, _)| host.clone()).collect(),
        finished: progress.is_finished(),
    }
}

fn format_status(view: &PromotionView, time: TimeFormat) -> String {
    let Some(progress) = &view.progress else { return "no promotion yet\n".to_owned() };
    let mut report = format_promotion(progress, time);
    if let Some(lock) = &view.lock {
        let _ = write!(report, "lock: {}", format_lock(lock, time));
    }
    if !progress.is_finished() {
        let _ = writeln!(report, "next: {}", suggest_next_command(progress, view.lock.as_ref()));
    }
    report
}

/// Returns the next command for the operator.
fn suggest_next_command(progress: &PromotionProgress, lock: Option<&LockView>) -> String {
    let service = &progress.spec.service;
    let command = format!("switchman promote {service}");
    if !progress.unreachable_hosts.is_empty() {
        let names: Vec<&str> =
            progress.unreachable_hosts.iter().map(|(host, _)| HostName::as_str(host)).collect();
        return format!(
            "{} may still have its canary: `{command} --abort` retries the removal",
            names.join(", ")
        );
    }
    let runs = lock.is_some_and(|lock| lock.liveness != Liveness::Dead);
    match (&progress.stop_reason, runs, progress.awaiting_approval) {
        (Some(_), ..) => format!(
            "main answers everything: `{command} --resume` goes on at this step, `{command} --abort` ends it"
        ),
        (None, true, Some(_)) => format!("`{command} --approve` lets it go on, `{command} --abort` ends it"),
        (None, true, None) => format!("it is running; `{command} --abort` ends it"),
        (None, false, _) => format!(
            "it was cut off (killed, or power lost), and its canary is NOT JUDGED: `{command} --resume` goes on, `{command} \
             --abort` leaves main to answer everything"
        ),
    }
}

fn format_promotion(progress: &PromotionProgress, time: TimeFormat) -> String {
    let spec = &progress.spec;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} by {} at {}: {} {} beside {}: {}",
        progress.promotion.bold(),
        progress.actor.user,
        time.format(progress.began_at),
        spec.service,
        spec.version,
        progress.target.main_version,
        format_state(progress),
    );
    if let Some((_, reason)) = &progress.comparison {
        let _ = writeln!(text, "as a shadow: {reason}");
    }
    let header = ["STEP", "SHARE", "STATE", "SINCE", "REQUESTS", "FAILED", "MAIN", "P99", "MAIN", "VERDICT"];
    let rows = (1..).zip(&progress.steps).map(|(number, step)| format_step_row(number, step, time)).collect();
    text.push_str(&table::format_table(&header, rows));
    text
}

fn format_state(progress: &PromotionProgress) -> String {
    let because = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match (progress.result, &progress.rolling_back, &progress.stop_reason) {
        (Some(result), ..) => format!("{}{}", to_json_word(&result), because(&progress.reason)),
        (None, Some((_, reason)), _) => format!("going back{}", because(reason)),
        (None, None, Some(reason)) => format!("stopped{}", because(reason)),
        (None, None, None) if progress.is_promoting => "becoming main".to_owned(),
        (None, None, None) => match progress.steps.get(progress.step) {
            Some(step) => format!("{}, {}", step.share, to_json_word(&step.state)),
            None => "all steps passed".to_owned(),
        },
    }
}

fn format_step_row(number: usize, step: &StepProgress, time: TimeFormat) -> Vec<String> {
    let since = step.changed_at.map(|at| time.format(at)).unwrap_or_default();
    let mut cells = vec![number.to_string(), step.share.to_string(), to_json_word(&step.state), since];
    let Some(judged) = &step.judgement else {
        cells.resize(10, String::new());
        return cells;
    };
    let p99 = |sample: &RequestSample| sample.p99_us.map_or_else(|| "-".to_owned(), format_latency);
    cells.extend([
        count(judged.canary.requests),
        format_share(judged.canary.failed, judged.canary.requests),
        format_share(judged.main.failed, judged.main.requests),
        p99(&judged.canary),
        p99(&judged.main),
        match &judged.verdict {
            StepVerdict::Advance | StepVerdict::Done => "no worse".to_owned(),
            StepVerdict::Hold { reason } => format!("holding: {reason}"),
            StepVerdict::Breach { reason } => format!("breach: {reason}"),
        },
    ]);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example;
    use crate::model::promote::{Judgement, PromotionEntryKind};
    use crate::plan::promote::build_progress;

    fn judged(step: usize, verdict: StepVerdict, canary: u64) -> PromotionEntryKind {
        let canary = RequestSample { requests: canary, failed: 1, p99_us: Some(21_300) };
        let main = RequestSample { requests: 11_880, failed: 2, p99_us: Some(20_100) };
        PromotionEntryKind::Judged { step, judgement: Judgement { verdict, canary, main } }
    }

    fn shown(whats: Vec<PromotionEntryKind>) -> String {
        let entries = example::make_promotion_entries((1..).map(|minute| minute * 60), whats);
        let text = format_status(
            &PromotionView { progress: build_progress(&entries), lock: None },
            TimeFormat::Iso8601,
        );
        anstream::adapter::strip_str(&text).to_string()
    }

    const STATUS: &str = "\
o19700101-000000-0007 by ops at 1970-01-01T00:01:00Z: shop 2.0.0 beside 1.0.0: 5%, judging
STEP  SHARE  STATE    SINCE                 REQUESTS  FAILED  MAIN   P99     MAIN    VERDICT
1     1%     passed   1970-01-01T00:05:00Z  1,204     0.08%   0.02%  21.3ms  20.1ms  no worse
2     5%     judging  1970-01-01T00:07:00Z  5         20%     0.02%  21.3ms  20.1ms  holding: 5 requests to the canary in 1m, 100 are needed
3     25%    pending
4     50%    pending
5     100%   pending
next: it was cut off (killed, or power lost), and its canary is NOT JUDGED: `switchman promote shop --resume` goes on, `switchman promote shop --abort` leaves main to answer everything
";

    #[test]
    fn status_shows_progress_and_next_command() {
        let reason = "5 requests to the canary in 1m, 100 are needed".to_owned();
        let so_far = || {
            vec![
                PromotionEntryKind::StepBegan { step: 0 },
                PromotionEntryKind::StepSet { step: 0 },
                judged(0, StepVerdict::Advance, 1_204),
                PromotionEntryKind::StepPassed { step: 0, main: None },
                PromotionEntryKind::StepBegan { step: 1 },
                PromotionEntryKind::StepSet { step: 1 },
                judged(1, StepVerdict::Hold { reason: reason.clone() }, 5),
            ]
        };
        assert_eq!(shown(so_far()), STATUS);
        let stopped = PromotionEntryKind::Stopped {
            reason: "interrupted".into(),
            unreachable_hosts: vec![("web2".parse().unwrap(), "the connection broke".into())],
        };
        let last = shown(so_far().into_iter().chain([stopped]).collect());
        let last = last.lines().last().unwrap().to_owned();
        assert_eq!(
            last,
            "next: web2 may still have its canary: `switchman promote shop --abort` retries the removal"
        );
        assert_eq!(
            format_status(&PromotionView { progress: None, lock: None }, TimeFormat::Iso8601),
            "no promotion yet\n"
        );
    }
}
