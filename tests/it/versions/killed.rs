//! The agent is killed at any moment of a deploy, an assign, an update and a kill, with the load running: what it finds when it
//! is started again is the old state or the new one, and the same command ends the work.

use switchman::lab::operator::LabTransport;

use super::{MS, Site, Value, can_make_namespaces, deploy_shop, up, write_release};

/// Milliseconds from the start of the command to the kill. The commands take between 100 ms and some seconds.
const MOMENTS: [u32; 6] = [5, 40, 120, 260, 500, 900];
/// What the suite takes of them.
const FEW_MOMENTS: [u32; 3] = [5, 120, 500];

/// Every row of `ls` is at rest, and main answers.
async fn is_at_rest(site: &Site) -> Vec<(String, bool)> {
    let mut rows = Vec::new();
    site.until("every deployment at rest", async || {
        let listing = site.json(&["ls"]).await;
        let all = listing["rows"].as_array().cloned().unwrap_or_default();
        let calm = |row: &Value| {
            let hosts = row["hosts"].as_array().unwrap();
            hosts.iter().all(|host| {
                let view = &host[1];
                view["deployment"]["stage"] == "ready" && view["process"]["value"]["state"] == "running"
            })
        };
        rows = all
            .iter()
            .map(|row| (row["version"].as_str().unwrap().to_owned(), row["main"] == true))
            .collect();
        listing["unread"] == Value::Array(vec![]) && all.iter().all(calm)
    })
    .await;
    rows
}

async fn killed_during(site: &Site, args: &[&str], moment: u32) {
    let running = site.operator.program(args);
    let command = tokio::spawn(async move { running.run(b"", MS * 60_000).await });
    tokio::time::sleep(MS * moment).await;
    site.restart_agent("web1").await;
    // It may have ended well before the kill, or by the other agent; it must not hang.
    let _ = command.await.unwrap().unwrap();
    is_at_rest(site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_at_three_moments_resumes_or_reverts() {
    kill_agent_at("killed", &FEW_MOMENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes three minutes: `make soak`"]
async fn agent_killed_at_any_time_resumes_or_reverts() {
    kill_agent_at("killed-all", &MOMENTS).await;
}

async fn kill_agent_at(name: &str, moments: &[u32]) {
    if !can_make_namespaces() {
        return;
    }
    let site = up(name, LabTransport::Socket, 2).await;
    deploy_shop(&site, "4.0.0").await;
    let fresh = write_release(&site.lab, "5.0.0").unwrap().display().to_string();
    let newer = write_release(&site.lab, "5.0.1").unwrap().display().to_string();
    for &moment in moments {
        let deploy = ["deploy", "shop", "5.0.0", &fresh, "--", "sh", "serve.sh"];
        killed_during(&site, &deploy, moment).await;
        site.well(&deploy).await;
        let assign = ["assign", "shop", "5.0.0", "--strategy", "flip", "--yes"];
        killed_during(&site, &assign, moment).await;
        site.well(&assign).await;
        assert_eq!(is_at_rest(&site).await, [("4.0.0".into(), false), ("5.0.0".into(), true)]);
        let update = ["update", "shop", "4.0.0", &newer, "--", "sh", "serve.sh"];
        killed_during(&site, &update, moment).await;
        site.well(&["rollback", "shop"]).await;
        let kill = ["kill", "shop", "5.0.0", "--yes", "--drain-timeout", "40s"];
        killed_during(&site, &kill, moment).await;
        let again = site.run(&kill).await;
        assert!(again.status == 0 || again.stderr.contains("No services match"), "{}", again.stderr);
        assert_eq!(is_at_rest(&site).await, [("4.0.0".into(), true)], "after {moment} ms");
        // The same code again, so that the next round begins as this one did.
        let source = write_release(&site.lab, "4.0.0").unwrap().display().to_string();
        site.well(&["update", "shop", "4.0.0", &source, "--", "sh", "serve.sh"]).await;
    }
    site.down_without_loss().await;
}
