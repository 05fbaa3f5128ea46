//! `restore`. Needs no configuration: the record says everything.

use super::Context;
use crate::config::env;
use crate::error::Failure;
use crate::ops::restore;

pub async fn run(context: &Context) -> Result<(), Failure> {
    let world = context.world(None);
    let restored = restore::restore(&world, &env::actor()).await.map_err(Failure::Restore)?;
    context.render.restored(&restored);
    Ok(())
}
