//! `restore`. Needs no configuration: the record says everything.

use super::Context;
use crate::config::env;
use crate::error::Failure;
use crate::ops::host::deployments;
use crate::ops::host::proxy;
use crate::ops::host::restore;

pub async fn run(context: &Context) -> Result<(), Failure> {
    let world = context.build_host_world(None);
    let actor = env::actor();
    // What leads to a proxy that died with this host leads nowhere.
    let straightened = proxy::bypass_dead_proxy(&world, &actor).await;
    // Of one service that cannot be led past it the others know nothing: they are restored all the same.
    let restored = restore::restore(&world, &actor).await.map_err(Failure::Restore)?;
    for text in deployments::restore_at_boot(&world).await.map_err(|error| other(&error))? {
        context.renderer.print_remark(&text);
    }
    context.renderer.print_restore(&restored);
    straightened.map_err(|error| Failure::Other {
        what: "lead the rules past a proxy that is gone".to_owned(),
        why: error.to_string(),
    })
}

fn other(error: &deployments::HostDeployError) -> Failure {
    Failure::Other { what: "start what runs on this host".to_owned(), why: error.to_string() }
}
