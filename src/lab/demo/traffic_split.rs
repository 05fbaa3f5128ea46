//! The fourth act: a shadow whose answers differ is detected, a canary answers its share, a good version is promoted step by
//! step, and one that stops answering is rolled back automatically. Users notice none of it.

use super::release::{FIRST_VERSION, write_faulty_release, write_release};
use super::scenario::{Scenario, ScenarioReport, WAIT_TIMEOUT, wait_for_answers};
use crate::lab::Lab;
use crate::lab::error::LabError;
use crate::lab::load::Snapshot;
use crate::lab::operator::start_agent;
use crate::lab::options::SERVICE;

/// The version with one wrong price in ten.
const WRONG_VERSION: &str = "6.0.0";
const GOOD_VERSION: &str = "6.0.1";
const DEAF_VERSION: &str = "7.0.0";
/// Compared answers before there is a verdict on them.
const MIN_SAMPLES: &str = "200";

pub(super) async fn run_scenario(lab: &Lab, mut scenario: Scenario<'_>) -> Result<ScenarioReport, LabError> {
    let load = scenario.load;
    let mut agents = Vec::new();
    for host in &lab.hosts {
        agents.push(start_agent(lab, host.host.name.as_str(), &[]).await?);
    }
    let hosts = lab.host_names();

    let wrong = write_faulty_release(lab, WRONG_VERSION, "--fault prices")?.display().to_string();
    load.set_phase("mirror");
    scenario.run(&["deploy", SERVICE, WRONG_VERSION, &wrong, "--", "sh", "serve.sh"]).await?;
    scenario.run(&["mirror", SERVICE, WRONG_VERSION]).await?;
    wait_for_samples(&mut scenario, WRONG_VERSION).await?;
    scenario
        .run_expecting(
            &["compare", SERVICE, WRONG_VERSION, "--min-samples", MIN_SAMPLES],
            1,
            "answers do not match",
        )
        .await?;
    let wanted = ["--require-match", "99.9%", "--min-samples", MIN_SAMPLES];
    let assign = [&["assign", SERVICE, WRONG_VERSION, "--yes"], &wanted[..]].concat();
    scenario.run_expecting(&assign, 1, "answers match, 99.9% are wanted").await?;
    scenario.run(&["mirror", SERVICE, WRONG_VERSION, "--off"]).await?;
    scenario.check_no_answers_by(WRONG_VERSION);

    let good = write_release(lab, GOOD_VERSION)?.display().to_string();
    load.set_phase("canary");
    scenario.run(&["deploy", SERVICE, GOOD_VERSION, &good, "--", "sh", "serve.sh"]).await?;
    scenario.run(&["canary", SERVICE, GOOD_VERSION, "--percent", "25"]).await?;
    load.set_phase("canary 25%");
    scenario.check_canary_share(GOOD_VERSION, "canary 25%").await?;
    scenario.run(&["canary", SERVICE, GOOD_VERSION, "--off"]).await?;

    load.set_phase("promotion");
    let steps = ["--steps", "10,50,100", "--interval", "3s", "--min-samples", "20", "--max-p99-ratio", "3"];
    scenario.run(&[&["promote", SERVICE, GOOD_VERSION], &steps[..]].concat()).await?;
    load.set_phase("after the promotion");
    scenario.wait_for_main(&hosts, GOOD_VERSION, "after the promotion").await?;

    // It refuses connections after a while: main answers for it, so that no user notices, and the promotion does.
    let deaf = write_faulty_release(lab, DEAF_VERSION, "--fault deaf")?.display().to_string();
    load.set_phase("bad promotion");
    scenario.run(&["deploy", SERVICE, DEAF_VERSION, &deaf, "--", "sh", "serve.sh"]).await?;
    let promotion = [&["promote", SERVICE, DEAF_VERSION], &steps[..]].concat();
    scenario.run_expecting(&promotion, 1, "requests to the canary failed").await?;
    load.set_phase("after the return");
    scenario.wait_for_main(&hosts, GOOD_VERSION, "after the return").await?;
    scenario.run(&["ls", "--wide"]).await?;
    drop(agents);
    Ok(ScenarioReport { commands: scenario.commands, faults: scenario.faults })
}

/// Waits until enough answers were compared on all hosts together.
async fn wait_for_samples(scenario: &mut Scenario<'_>, version: &str) -> Result<(), LabError> {
    let args = ["compare", SERVICE, version, "--min-samples", MIN_SAMPLES, "--output", "json"];
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while scenario.operator.run_switchman(&args).await?.status == 2 {
        scenario.progress_sink.report_counts(&scenario.load.take_snapshot());
        if tokio::time::Instant::now() >= deadline {
            scenario.faults.push(format!("{MIN_SAMPLES} answers of {version} were not compared in time"));
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Ok(())
}

impl Scenario<'_> {
    /// Checks that no user was answered by a version.
    fn check_no_answers_by(&mut self, version: &str) {
        let now = self.load.take_snapshot();
        let answered: u64 = now
            .answers_by_start_phase
            .iter()
            .filter(|((_, by), _)| by == version)
            .map(|(_, count)| count)
            .sum();
        if answered > 0 {
            self.faults.push(format!("{answered} requests of users were answered by the shadow {version}"));
        }
    }

    /// A version answers about a quarter of what is begun in a phase; the main that is, the rest.
    async fn check_canary_share(&mut self, version: &str, phase: &str) -> Result<(), LabError> {
        let both = |now: &Snapshot| {
            let by = |version: &str| {
                now.answers_by_start_phase.get(&(phase.to_owned(), version.to_owned())).copied().unwrap_or(0)
            };
            (by(version), by(FIRST_VERSION))
        };
        let many = |now: &Snapshot| both(now).0 + both(now).1 >= 400;
        match wait_for_answers(self.load, self.progress_sink, "400 answers with a canary", many).await {
            Err(LabError::TimedOut { condition, .. }) => {
                self.faults.push(format!("{condition} were not seen"));
            }
            other => other?,
        }
        let (canary, main) = both(&self.load.take_snapshot());
        self.progress_sink
            .report_step(&format!("    {canary} of {} answers came from {version}", canary + main));
        // Exact by counting on each host; uploads and websockets are in it or not, and some end later than others.
        if canary * 100 < (canary + main) * 20 || canary * 100 > (canary + main) * 30 {
            self.faults.push(format!(
                "{canary} of {} answers came from the canary, a quarter was requested",
                canary + main
            ));
        }
        Ok(())
    }
}
