//! `restore`. Needs no configuration: the record is complete.

use super::Context;
use crate::config::env;
use crate::error::Failure;
use crate::model::history::Actor;
use crate::ops::host::deployments;
use crate::ops::host::proxy;
use crate::ops::host::restore;

pub async fn run(context: &Context) -> Result<(), Failure> {
    let world = context.build_host_world(None);
    let actor = Actor { is_host: true, ..env::read_actor() };
    // Rules that point to a proxy that died with this host forward to a closed port.
    let bypassed = proxy::bypass_dead_proxy(&world, &actor).await;
    // If the rules of one service cannot bypass the proxy, the other services are restored all the same.
    let restored = restore::restore(&world, &actor).await.map_err(Failure::Restore)?;
    let started = deployments::restore_at_boot(&world).await;
    for text in started.map_err(Failure::InstanceStart)? {
        context.renderer.print_remark(&text);
    }
    context.renderer.print_restore(&restored);
    bypassed.map_err(Failure::ProxyBypass)
}
