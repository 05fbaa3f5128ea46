//! The fourth act: a shadow whose answers differ is found out, a canary answers its share, a good version is rolled out step by
//! step, and one that stops answering is taken back by itself. Users notice none of it.

use super::Audience;
use super::deployments::{FIRST, Story, VersionStory, faulty, release};
use crate::lab::load::{Load, Snapshot};
use crate::lab::operator::{Operator, start_agent};
use crate::lab::{Lab, LabError};

const SERVICE: &str = crate::lab::SERVICE;
/// One price of ten is wrong.
const WRONG: &str = "6.0.0";
const GOOD: &str = "6.0.1";
const DEAF: &str = "7.0.0";
/// Compared answers before anything is said of them.
const SAMPLES: &str = "200";

pub(super) async fn story(
    lab: &Lab,
    operator: &Operator,
    load: &Load,
    audience: &dyn Audience,
) -> Result<VersionStory, LabError> {
    let mut agents = Vec::new();
    for host in &lab.hosts {
        agents.push(start_agent(lab, host.host.name.as_str(), &[]).await?);
    }
    let hosts: Vec<String> = lab.hosts.iter().map(|host| host.host.name.to_string()).collect();
    let mut story = Story { operator, load, audience, told: vec![], faults: vec![] };

    let wrong = faulty(lab, WRONG, "--fault prices")?.display().to_string();
    load.phase("mirror");
    story.run(&["deploy", SERVICE, WRONG, &wrong, "--", "sh", "serve.sh"]).await?;
    story.run(&["mirror", SERVICE, WRONG]).await?;
    enough(&mut story, WRONG).await?;
    story.run_to(&["compare", SERVICE, WRONG, "--min-samples", SAMPLES], 1, "answers do not match").await?;
    let wanted = ["--require-match", "99.9%", "--min-samples", SAMPLES];
    let assign = [&["assign", SERVICE, WRONG, "--yes"], &wanted[..]].concat();
    story.run_to(&assign, 1, "answers match, 99.9% are wanted").await?;
    story.run(&["mirror", SERVICE, WRONG, "--off"]).await?;
    story.nobody(WRONG);

    let good = release(lab, GOOD)?.display().to_string();
    load.phase("canary");
    story.run(&["deploy", SERVICE, GOOD, &good, "--", "sh", "serve.sh"]).await?;
    story.run(&["canary", SERVICE, GOOD, "--percent", "25"]).await?;
    load.phase("canary 25%");
    story.share(GOOD, "canary 25%").await?;
    story.run(&["canary", SERVICE, GOOD, "--off"]).await?;

    load.phase("rollout");
    let steps = ["--steps", "10,50,100", "--interval", "3s", "--min-samples", "20", "--max-p99-ratio", "3"];
    story.run(&[&["rollout", SERVICE, GOOD], &steps[..]].concat()).await?;
    load.phase("after the rollout");
    story.main_is(&hosts, GOOD, "after the rollout").await?;

    // It refuses connections after a while: main answers for it, so that no user notices, and the roll-out does.
    let deaf = faulty(lab, DEAF, "--fault deaf")?.display().to_string();
    load.phase("bad rollout");
    story.run(&["deploy", SERVICE, DEAF, &deaf, "--", "sh", "serve.sh"]).await?;
    let rollout = [&["rollout", SERVICE, DEAF], &steps[..]].concat();
    story.run_to(&rollout, 1, "requests to the canary failed").await?;
    load.phase("after the return");
    story.main_is(&hosts, GOOD, "after the return").await?;
    story.run(&["ls", "--wide"]).await?;
    drop(agents);
    Ok(VersionStory { told: story.told, faults: story.faults })
}

/// Until enough answers were compared on all hosts together.
async fn enough(story: &mut Story<'_>, version: &str) -> Result<(), LabError> {
    let args = ["compare", SERVICE, version, "--min-samples", SAMPLES, "--output", "json"];
    let deadline = tokio::time::Instant::now() + crate::lab::demo::PATIENCE;
    while story.operator.switchman(&args).await?.status == 2 {
        story.audience.count(&story.load.snapshot());
        if tokio::time::Instant::now() >= deadline {
            story.faults.push(format!("{SAMPLES} answers of {version} were not compared in time"));
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Ok(())
}

impl Story<'_> {
    /// No user was answered by a version.
    fn nobody(&mut self, version: &str) {
        let now = self.load.snapshot();
        let answered: u64 =
            now.begun.iter().filter(|((_, by), _)| by == version).map(|(_, count)| count).sum();
        if answered > 0 {
            self.faults.push(format!("{answered} requests of users were answered by the shadow {version}"));
        }
    }

    /// A version answers about a quarter of what is begun in a phase; the main that is, the rest.
    async fn share(&mut self, version: &str, phase: &str) -> Result<(), LabError> {
        let both = |now: &Snapshot| {
            let by =
                |version: &str| now.begun.get(&(phase.to_owned(), version.to_owned())).copied().unwrap_or(0);
            (by(version), by(FIRST))
        };
        let many = |now: &Snapshot| both(now).0 + both(now).1 >= 400;
        match crate::lab::demo::seen(self.load, self.audience, "400 answers with a canary", many).await {
            Err(LabError::Late { what, .. }) => self.faults.push(format!("{what} were not seen")),
            other => other?,
        }
        let (canary, main) = both(&self.load.snapshot());
        self.audience.step(&format!("    {canary} of {} answers came from {version}", canary + main));
        // Exact by counting on each host; uploads and websockets are in it or not, and some end later than others.
        if canary * 100 < (canary + main) * 20 || canary * 100 > (canary + main) * 30 {
            self.faults.push(format!(
                "{canary} of {} answers came from the canary, a quarter was asked for",
                canary + main
            ));
        }
        Ok(())
    }
}
