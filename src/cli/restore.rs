//! `restore`. Needs no configuration: the record says everything.

use super::Context;
use crate::config::env;
use crate::error::Failure;
use crate::ops::{here, restore};

pub async fn run(context: &Context) -> Result<(), Failure> {
    let world = context.world(None);
    let actor = env::actor();
    // What leads to a proxy that died with this host leads nowhere.
    here::straighten(&world, &actor).await.map_err(|error| other(&error))?;
    let restored = restore::restore(&world, &actor).await.map_err(Failure::Restore)?;
    for text in here::at_boot(&world).await.map_err(|error| other(&error))? {
        context.render.remark(&text);
    }
    context.render.restored(&restored);
    Ok(())
}

fn other(error: &here::VersionError) -> Failure {
    Failure::Other { what: "start what runs on this host".to_owned(), why: error.to_string() }
}
