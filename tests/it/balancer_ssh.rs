//! Every command that reads or changes HAProxy, with admin sockets that the operator machine reaches through ssh.

use switchman::lab::demo::release::write_release;

use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

const OLD: &str = "4.0.0";
const NEW: &str = "5.0.0";

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_admin_socket_through_ssh() {
    if !can_make_namespaces() {
        return;
    }
    let plan = Plan { hosts: 2, ssh_balancers: true, yaml: "versions: {watch: 0s}\n", ..Plan::default() };
    let site = Site::up("sshlb", plan).await;
    let status = site.well(&["status"]).await;
    assert!(status.contains("UP") && !status.contains("cannot be read"), "{status}");
    let checked = site
        .run(&["check", "--haproxy-cfg", &site.lab.dir().join("lb1/haproxy.cfg").display().to_string()])
        .await;
    assert!(
        checked.stdout.contains("its 4 server lines are there, every backup vhost is UP"),
        "{}",
        checked.stdout
    );
    assert!(!checked.stdout.contains("haproxy-no-endpoint"), "{}", checked.stdout);

    for version in [OLD, NEW] {
        let source = write_release(&site.lab, version).unwrap().display().to_string();
        site.well(&["deploy", "shop", version, &source, "--", "sh", "serve.sh"]).await;
    }
    // Without an admin socket, a flip warns about the idle connections that it cannot close.
    site.well(&["assign", "shop", OLD, "--strategy", "flip", "--yes"]).await;
    let flip = site.run(&["assign", "shop", NEW, "--strategy", "flip", "--yes"]).await;
    assert_eq!(flip.status, 0, "{}", flip.stderr);
    assert!(!flip.stderr.contains("stats socket of level admin"), "{}", flip.stderr);
    site.well(&["assign", "shop", OLD, "--host", "web2", "--yes"]).await;
    site.well(&["canary", "shop", OLD, "--percent", "25", "--via", "haproxy"]).await;
    let view = site.view("lb1").await;
    let weight = |server: &str| view.find_server(server).unwrap().weight;
    assert_eq!((weight("main-web1"), weight("main-web2")), (100, 33));
    site.well(&["canary", "shop", OLD, "--off", "--via", "haproxy"]).await;
    site.well(&["assign", "shop", NEW, "--strategy", "rolling", "--yes"]).await;
    site.well(&["roll", "--", "true"]).await;
    site.well(&["disable-forward", "--host", "web1", "--drain"]).await;
    site.well(&["enable-forward", "--host", "web1"]).await;
    site.down_without_loss().await;
}
