//! The second act: one command over every host, from the operator machine, over ssh. One host's command fails half-way;
//! the host comes back by itself, the roll stops, and goes on when the cause is fixed.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::scenario::{ProgressSink, wait_for_answers};
use crate::lab::Lab;
use crate::lab::error::{LabError, to_load_error};
use crate::lab::files::write;
use crate::lab::load::{Load, Snapshot};
use crate::lab::operator::Operator;
use crate::model::duration;

const NEWEST_VERSION: &str = "3.0.0";
const ROLL_PHASE: &str = "roll";
const AFTER_PHASE: &str = "after the roll";
/// Interval between two progress reports of the load.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// The result of the act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RollDemoReport {
    /// The host whose command was made to fail.
    pub failed_host: String,
    /// Exit code of the first command: partly done.
    pub stopped_with: i32,
    /// How the failed host was left, in the words of the roll's report.
    pub left: String,
    /// Exit code of `roll --resume`.
    pub resumed_with: i32,
    #[serde(rename = "took_ms", serialize_with = "duration::serialize_ms")]
    pub took: Duration,
    /// Hosts whose new version answered afterwards.
    pub answered_by_new: Vec<String>,
}

impl RollDemoReport {
    /// Finds the deviations from what should happen.
    pub(super) fn find_faults(&self, hosts: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let host = &self.failed_host;
        if self.stopped_with != 3 {
            faults.push(format!(
                "the roll with a failing host ended with status {} instead of 3",
                self.stopped_with
            ));
        }
        if self.left != "returned" {
            faults.push(format!("{host} was left `{}` instead of put back", self.left));
        }
        if self.resumed_with != 0 {
            faults.push(format!("the resumed roll ended with status {}", self.resumed_with));
        }
        if self.answered_by_new.len() != hosts {
            let list = self.answered_by_new.join(", ");
            faults.push(format!("the new version answered on {list} only, of {hosts} hosts"));
        }
        faults
    }
}

pub(super) async fn run_scenario(
    lab: &Lab,
    operator: &Operator,
    load: &Load,
    progress_sink: &dyn ProgressSink,
) -> Result<RollDemoReport, LabError> {
    let names = lab.host_names();
    let failed_host = names.get(1).or(names.first()).cloned().unwrap_or_default();
    load.set_phase(ROLL_PHASE);
    let began = std::time::Instant::now();
    let lab_name = lab.dir().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let dir = lab.dir().display();
    let script = format!(
        "if [ $SWITCHMAN_HOST = {failed_host} ] && [ ! -e repaired ]; then echo 'no space left on device'; exit 1; fi; \
         ip netns exec swm-{lab_name}-$SWITCHMAN_HOST sh {dir}/$SWITCHMAN_HOST/replace-main.sh {NEWEST_VERSION}"
    );
    progress_sink.report_step(&format!(
        "operator: switchman roll -- ./deploy.sh   (over ssh; it will fail on {failed_host})"
    ));
    let (stopped_with, progress) =
        follow_command(operator, &["roll", "--", "sh", "-c", &script], load, progress_sink).await?;
    let hosts = progress["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let left = hosts.iter().find(|host| host["host"] == failed_host.as_str()).map(|host| &host["end"]);
    let left = left.and_then(Value::as_str).unwrap_or("nothing recorded").to_owned();
    write(&operator.dir().join("repaired"), "")?;
    progress_sink.report_step("operator: the cause is fixed; switchman roll --resume");
    let (resumed_with, _) = follow_command(operator, &["roll", "--resume"], load, progress_sink).await?;
    let took = began.elapsed();
    load.set_phase(AFTER_PHASE);
    let on_new = |now: &Snapshot| -> Vec<String> {
        let answers = |name: &&String| now.count_answers(AFTER_PHASE, name, "main", Some(NEWEST_VERSION)) > 0;
        names.iter().filter(answers).cloned().collect()
    };
    // Whether they all answered is judged by the faults.
    let all = |now: &Snapshot| on_new(now).len() == names.len();
    match wait_for_answers(load, progress_sink, "an answer of the newest version on every host", all).await {
        Ok(()) | Err(LabError::TimedOut { .. }) => {}
        Err(error) => return Err(error),
    }
    let answered_by_new = on_new(&load.take_snapshot());
    Ok(RollDemoReport { failed_host, stopped_with, left, resumed_with, took, answered_by_new })
}

/// Runs one of the operator's commands and reports its events to the progress sink; returns its exit code and the state of the roll.
async fn follow_command(
    operator: &Operator,
    args: &[&str],
    load: &Load,
    progress_sink: &dyn ProgressSink,
) -> Result<(i32, Value), LabError> {
    let json = [&["--output", "json"], args].concat();
    let mut child = operator.program(&json).spawn_piped()?;
    drop(child.stdin.take());
    let Some(stdout) = child.stdout.take() else {
        return Err(to_load_error("no output of the roll"));
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut progress = Value::Null;
    loop {
        tokio::select! {
            line = lines.next_line() => match line.map_err(to_load_error)? {
                None => break,
                Some(line) => {
                    let value: Value = serde_json::from_str(&line).unwrap_or_default();
                    if let Some(text) = describe_event(&value) {
                        progress_sink.report_step(&text);
                    }
                    if value["kind"] == "roll" {
                        progress = value["progress"].clone();
                    }
                }
            },
            () = tokio::time::sleep(COUNT_INTERVAL) => progress_sink.report_counts(&load.take_snapshot()),
        }
    }
    let status = child.wait().await.map_err(to_load_error)?;
    Ok((crate::sys::exec::to_exit_status(status), progress))
}

/// The events worth a line on a stage.
fn describe_event(event: &Value) -> Option<String> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let host = text("host");
    match text("event") {
        "step-done" if text("step") == "down" => Some(format!("{host}: DOWN ({})", text("detail"))),
        "step-done" if text("step") == "drained" => Some(format!("{host}: {}", text("detail"))),
        "output" => Some(format!("{host} | {}", text("line"))),
        "step-failed" => Some(format!("{host}: failed at {}: {}", text("step"), text("reason"))),
        "settled" => Some(format!("{host}: {} by itself", text("end"))),
        "host-done" => {
            let took = Duration::from_millis(event["took_ms"].as_u64().unwrap_or(0));
            Some(format!("{host}: done after {}", duration::format(took)))
        }
        "ended" => Some(format!("roll: {}", text("reason"))),
        _ => None,
    }
}
