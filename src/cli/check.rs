//! `check`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use super::failure::fail_file;
use super::host_args::HostArgs;
use crate::error::Failure;
use crate::lint::HaproxyCfg;
use crate::model::finding::{Finding, Severity};
use crate::model::host::Transport;
use crate::ops::fleet;
use crate::ops::host::check;
use crate::plan::host_selection::HostSelection;

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Check this host only; may be given several times [default: this machine, or all if it is no host]")))]
pub struct CheckArgs {
    #[command(flatten)]
    hosts: HostArgs,
    /// Check this haproxy.cfg too, for every known trap
    #[arg(long, value_name = "FILE")]
    haproxy_cfg: Option<PathBuf>,
}

pub async fn run(args: CheckArgs, context: &Context) -> Result<(), Failure> {
    let (file, fleet) = context.load_config()?;
    let hosts = context.select_hosts(&fleet, args.hosts.select_or(HostSelection::ThisOrAll))?;
    let local = context.build_host_world(Some(&fleet));
    let cfg = args.haproxy_cfg.as_deref().map(read_haproxy_cfg).transpose()?;
    let mut findings = vec![build_config_finding(&file)];
    findings.extend(match hosts.as_slice() {
        [host] if host.transport == Transport::Local => {
            check::check(&local, &fleet, host, cfg.as_ref()).await
        }
        hosts => {
            let world = context.build_fleet_world(&file, &fleet, hosts);
            fleet::check::check(&world, local.files.as_ref(), &fleet, hosts, cfg.as_ref()).await
        }
    });
    context.renderer.print_findings(&findings);
    match findings.iter().filter(|finding| finding.severity == Severity::Problem).count() {
        0 => Ok(()),
        problems => Err(Failure::ProblemsFound { problems }),
    }
}

fn read_haproxy_cfg(file: &Path) -> Result<HaproxyCfg, Failure> {
    let text = std::fs::read_to_string(file).map_err(fail_file("read", file))?;
    Ok(HaproxyCfg { file: file.display().to_string(), text })
}

fn build_config_finding(file: &Path) -> Finding {
    let subject = file.display().to_string();
    Finding {
        severity: Severity::Ok,
        id: "config",
        subject,
        reason: "read and checked".into(),
        fix: String::new(),
    }
}
