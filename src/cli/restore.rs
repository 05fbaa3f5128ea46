//! `restore`. Needs no configuration: the record is complete.

use super::Context;
use crate::config::env;
use crate::error::Failure;
use crate::ops::host::deployments;
use crate::ops::host::proxy;
use crate::ops::host::restore;

pub async fn run(context: &Context) -> Result<(), Failure> {
    let world = context.build_host_world(None);
    let actor = env::actor();
    // Rules that point to a proxy that died with this host forward to a closed port.
    let straightened = proxy::bypass_dead_proxy(&world, &actor).await;
    // If the rules of one service cannot bypass the proxy, the other services are restored all the same.
    let restored = restore::restore(&world, &actor).await.map_err(Failure::Restore)?;
    for text in deployments::restore_at_boot(&world).await.map_err(|error| other(&error))? {
        context.renderer.print_remark(&text);
    }
    context.renderer.print_restore(&restored);
    straightened.map_err(|error| Failure::Other {
        what: "route the rules around a dead proxy".to_owned(),
        why: error.to_string(),
    })
}

fn other(error: &deployments::error::HostDeployError) -> Failure {
    Failure::Other { what: "start the instances of this host".to_owned(), why: error.to_string() }
}
