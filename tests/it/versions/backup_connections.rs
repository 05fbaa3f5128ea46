//! Connections that HAProxy keeps to the old version on the backup line, after a rolling assign.

use switchman::lab::operator::LabTransport;

use super::{Site, can_make_namespaces, deploy_shop};
use crate::site::Plan;

/// Without an admin socket, HAProxy cannot be requested to close what it keeps.
#[tokio::test(flavor = "multi_thread")]
async fn kill_after_rolling_assign_needs_no_admin_socket() {
    if !can_make_namespaces() {
        return;
    }
    let plan = Plan {
        pipe: LabTransport::Socket,
        yaml: "versions: {watch: 0s}\n",
        server_keywords: "pool-purge-delay 1h",
        ..Plan::default()
    };
    let site = Site::up("kept", plan).await;
    deploy_shop(&site, "4.0.0").await;
    deploy_shop(&site, "5.0.0").await;
    site.well(&["assign", "shop", "5.0.0", "--yes"]).await;
    site.well(&["kill", "shop", "4.0.0", "--yes", "--drain-timeout", "5s"]).await;
    site.down_without_loss().await;
}
