//! `check`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use crate::error::Failure;
use crate::lint::HaproxyCfg;
use crate::model::finding::{Finding, Severity};
use crate::model::host::Way;
use crate::model::name::HostName;
use crate::ops::fleet;
use crate::ops::host::check;
use crate::plan::this_host::Asked;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Only this host; may be given several times [default: this machine, or every host when it is none of them]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<HostName>,
    /// Also look for every known trap in this haproxy.cfg
    #[arg(long, value_name = "FILE")]
    haproxy_cfg: Option<PathBuf>,
}

pub async fn run(args: CheckArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.config()?;
    let asked = if args.hosts.is_empty() { Asked::Anything } else { Asked::These(&args.hosts) };
    let hosts = context.hosts(&fleet, asked)?;
    let here = context.world(Some(&fleet));
    let cfg = args.haproxy_cfg.as_deref().map(read).transpose()?;
    let mut findings = vec![config_is_fine(&file)];
    findings.extend(match hosts.as_slice() {
        [host] if host.way == Way::Here => check::check(&here, &fleet, host, cfg.as_ref()).await,
        hosts => {
            let world = context.fleet_world(&file, &fleet, hosts);
            fleet::check::check(&world, here.files.as_ref(), &fleet, hosts, cfg.as_ref()).await
        }
    });
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
