//! `check`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::model::finding::{Finding, Severity};
use crate::model::name::HostName;
use crate::ops::check::{self, HaproxyCfg};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The host, when this machine's name and addresses do not tell
    #[arg(long, value_name = "HOST")]
    host: Option<HostName>,
    /// Also look for every known trap in this haproxy.cfg
    #[arg(long, value_name = "FILE")]
    haproxy_cfg: Option<PathBuf>,
}

pub async fn run(args: CheckArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.config()?;
    let world = context.world(Some(&fleet));
    let host = context.this_host(&fleet, args.host.as_ref())?;
    let cfg = args.haproxy_cfg.as_deref().map(read).transpose()?;
    let mut findings = vec![config_is_fine(&file)];
    findings.extend(check::check(&world, &fleet, &host, cfg.as_ref()).await);
    context.render.findings(&findings);
    match findings.iter().filter(|finding| finding.severity == Severity::Problem).count() {
        0 => Ok(()),
        problems => Err(Failure::Unsound { problems }),
    }
}

fn read(file: &Path) -> Result<HaproxyCfg, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file);
    let text =
        text.map_err(|error| Failure::Other { what: format!("read `{name}`"), why: error.to_string() })?;
    Ok(HaproxyCfg { file: name, text })
}

fn config_is_fine(file: &Path) -> Finding {
    let subject = file.display().to_string();
    Finding {
        severity: Severity::Ok,
        id: "config",
        subject,
        reason: "read and checked".into(),
        fix: String::new(),
    }
}
