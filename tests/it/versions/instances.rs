//! A version with several instances on each host, under load: one is killed and stays down for a while, then its version is
//! replaced, updated and removed.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use switchman::lab::operator::LabTransport;

use super::{Site, Value, can_make_namespaces, up, write_release};

/// The instances of a version on web1.
async fn read_instances(site: &Site, version: &str) -> Vec<Value> {
    let listing = site.json(&["ls"]).await;
    let row = listing["rows"].as_array().unwrap().iter().find(|row| row["version"] == version);
    let hosts = row.map(|row| row["hosts"].as_array().unwrap().clone()).unwrap_or_default();
    let view = hosts.iter().find(|host| host[0] == "web1").map(|host| host[1].clone());
    view.and_then(|view| view["instances"].as_array().cloned()).unwrap_or_default()
}

fn count_connections(instance: &Value) -> u64 {
    let sockets = instance["sockets"]["value"].as_object().unwrap();
    sockets.values().filter_map(Value::as_u64).sum()
}

/// Waits until every instance of a version on web1 has connections, and is healthy.
async fn wait_for_spread(site: &Site, version: &str, count: usize) {
    site.until(&format!("{count} instances of {version} with connections"), async || {
        let all = read_instances(site, version).await;
        all.len() == count && all.iter().all(|one| one["healthy"] == true && count_connections(one) > 0)
    })
    .await;
}

/// Deploys a version whose instance with a number waits while a file says so.
async fn deploy_instances(site: &Site, version: &str, count: &str) {
    let source = write_release(&site.lab, version).unwrap().display().to_string();
    let hold = site.lab.dir().join("hold").display().to_string();
    let script = format!("while [ -e {hold}-$SWITCHMAN_INSTANCE ]; do sleep 0.1; done; exec sh serve.sh");
    site.well(&["deploy", "shop", version, &source, "--instances", count, "--", "sh", "-c", &script]).await;
}

async fn wait_for_answers(site: &Site, phase: &str, version: &str) {
    site.load.set_phase(phase);
    site.until(&format!("answers in the phase {phase}"), async || {
        site.load.take_snapshot().count_answers(phase, "web1", "main", Some(version)) > 100
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_instance_loses_only_what_is_in_flight_on_it() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("instances", LabTransport::Socket, 2).await;
    deploy_instances(&site, "4.0.0", "3").await;
    wait_for_spread(&site, "4.0.0", 3).await;

    assert_eq!(site.load.take_snapshot().strays, 0, "before the kill");
    site.load.set_phase("killed");
    let hold = site.lab.dir().join("hold-2");
    std::fs::write(&hold, "").unwrap();
    let victim = read_instances(&site, "4.0.0").await.remove(1);
    let pid = victim["process"]["value"]["pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    site.until("the killed instance out of the rules", async || {
        read_instances(&site, "4.0.0").await[1]["healthy"] == false
    })
    .await;
    wait_for_answers(&site, "out", "4.0.0").await;
    std::fs::remove_file(&hold).unwrap();
    site.load.set_phase("back");
    wait_for_spread(&site, "4.0.0", 3).await;

    site.load.set_phase("replaced");
    deploy_instances(&site, "5.0.0", "2").await;
    site.well(&["assign", "shop", "5.0.0", "--yes"]).await;
    wait_for_spread(&site, "5.0.0", 2).await;
    let newer = write_release(&site.lab, "5.0.1").unwrap().display().to_string();
    site.load.set_phase("updated");
    site.well(&["update", "shop", "5.0.0", &newer]).await;
    assert!(read_instances(&site, "5.0.0").await.iter().all(|one| one["build"] == 2));
    site.load.set_phase("proxied");
    site.well(&["canary", "shop", "4.0.0", "--percent", "50"]).await;
    wait_for_spread(&site, "4.0.0", 3).await;
    wait_for_spread(&site, "5.0.0", 2).await;
    site.well(&["canary", "shop", "--off"]).await;
    site.load.set_phase("removed");
    site.well(&["kill", "shop", "4.0.0", "--yes", "--drain-timeout", "40s"]).await;
    assert!(read_instances(&site, "4.0.0").await.is_empty());
    let account = site.down().await;
    let others: Vec<_> =
        account.report.failures.iter().filter(|(one, _)| !one.phase.starts_with("killed")).collect();
    assert!(others.is_empty(), "{others:?} {:#?}", account.clues);
    // Six of the clients and both uploads may have had a request on it; none of them fails twice.
    let lost = account.failed_in("killed");
    assert!(lost < 30, "{lost} requests failed: {:?}", account.report.failures);
    // HAProxy gives a request that was refused again and again to the other host (`option redispatch`), whatever its cookie is: only
    // requests that met the killed instance, and none after them.
    let strays = account.report.strays_by_start_phase;
    assert!(strays.keys().all(|phase| phase == "killed"), "{strays:?}");
    assert!(account.report.strays < 30, "{strays:?} answers of another host than the cookie's");
}
