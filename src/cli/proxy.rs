//! `proxy`: a host's data path at layer 7. The agent starts it.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::model::duration;
use crate::proxy::{self, ProxyOptions};

#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Receive the configuration on this unix socket
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Run this many threads
    #[arg(long, value_name = "N", default_value = "1")]
    workers: NonZeroUsize,
    /// Limit the drain of open connections when the proxy ends
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    drain_limit: Duration,
}

pub async fn run(args: ProxyArgs, context: &Context) -> Result<(), Failure> {
    let ProxyArgs { control, workers, drain_limit } = args;
    let options = ProxyOptions { control, workers, drain_timeout: drain_limit };
    Ok(proxy::run(options, context.stop.wait()).await?)
}
