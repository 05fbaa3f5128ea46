//! A version that is deployed to one host after another is one deployment, under load; a store that is split is healed.

use serde_json::Value;
use switchman::lab::operator::LabTransport;

use super::{Site, can_make_namespaces, deploy_shop, up, write_release};

async fn deploy_on(site: &Site, host: &str, version: &str, source: &str) -> String {
    site.well(&["deploy", "shop", version, source, "--host", host, "--", "sh", "serve.sh"]).await
}

/// Version, id and number of hosts of each row.
async fn list_rows(site: &Site) -> Vec<(String, String, usize)> {
    let rows = site.json(&["ls", "shop"]).await["rows"].take();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(row, "version"), text(row, "id"), row["hosts"].as_array().unwrap().len())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn version_deployed_host_by_host_is_one_deployment() {
    if !can_make_namespaces() {
        return;
    }
    let site = up("hostwise", LabTransport::Socket, 2).await;
    deploy_shop(&site, "4.0.0").await;
    let source = write_release(&site.lab, "5.0.0").unwrap().display().to_string();
    let other = write_release(&site.lab, "5.0.1").unwrap().display().to_string();
    deploy_on(&site, "web1", "5.0.0", &source).await;
    let refused =
        site.run(&["deploy", "shop", "5.0.0", &other, "--host", "web2", "--", "sh", "serve.sh"]).await;
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    assert!(refused.stderr.contains("already exists! `web1` has release "), "{}", refused.stderr);
    deploy_on(&site, "web2", "5.0.0", &source).await;
    let rows = list_rows(&site).await;
    assert_eq!(rows.iter().map(|(_, _, hosts)| *hosts).collect::<Vec<_>>(), [2, 2], "{rows:?}");

    // An operator machine that knows one host only cannot read the other.
    let yaml = site.operator.dir().join("switchman.yaml");
    let whole = std::fs::read_to_string(&yaml).unwrap();
    let third = write_release(&site.lab, "6.0.0").unwrap().display().to_string();
    deploy_on(&site, "web1", "6.0.0", &third).await;
    let without: String =
        whole.lines().filter(|line| !line.contains("web1:")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&yaml, without).unwrap();
    deploy_on(&site, "web2", "6.0.0", &third).await;
    std::fs::write(&yaml, whole).unwrap();
    let split = site.run(&["assign", "shop", "6.0.0", "--strategy", "flip", "--yes"]).await;
    assert_eq!(split.status, 1);
    assert!(split.stderr.contains("`switchman merge shop 6.0.0`"), "{}", split.stderr);
    assert_eq!(list_rows(&site).await.len(), 4);
    site.well(&["merge", "shop", "6.0.0"]).await;
    assert_eq!(list_rows(&site).await.len(), 3);
    // Everything that needs one deployment works on it.
    site.well(&["mirror", "shop", "6.0.0", "--percent", "10"]).await;
    site.well(&["mirror", "shop", "6.0.0", "--off"]).await;
    site.well(&["canary", "shop", "6.0.0", "--percent", "20"]).await;
    let wide = site.well(&["ls", "--wide"]).await;
    assert!(wide.contains("Canary 20%"), "{wide}");
    site.well(&["canary", "shop", "6.0.0", "--off"]).await;
    site.well(&["logs", "shop", "6.0.0"]).await;
    site.well(&["assign", "shop", "6.0.0", "--strategy", "flip", "--yes"]).await;
    site.answered_by("web2", "6.0.0").await;
    // The agent finds what runs under its old name.
    site.restart_agent("web2").await;
    site.well(&["update", "shop", "6.0.0", &other, "--", "sh", "serve.sh"]).await;
    let rows = site.json(&["ls", "shop", "6.0.0"]).await["rows"].take();
    let builds = rows[0]["hosts"].as_array().unwrap().iter();
    let builds: Vec<_> = builds.map(|host| host[1]["deployment"]["instance"]["build"].clone()).collect();
    assert_eq!(builds, [2, 2], "{rows}");
    site.well(&["kill", "shop", "5.0.0", "--yes", "--drain-timeout", "40s"]).await;
    assert_eq!(list_rows(&site).await.len(), 2);
    site.down_without_loss().await;
}
