//! `check`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use super::failure::fail_usage;
use super::haproxy_files::read_haproxy_cfg;
use super::host_args::HostArgs;
use crate::config::ConfigError;
use crate::config::parse_config;
use crate::error::Failure;
use crate::lint::{HaproxyCfg, judge_check, lint_haproxy};
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
    ///
    /// It may be given several times, and may be a directory: files are read in the order in which HAProxy reads its `-f`.
    #[arg(long, value_name = "FILE")]
    haproxy_cfg: Vec<PathBuf>,
    /// Check only haproxy.cfg: connect to no host and no balancer
    ///
    /// Works without switchman.yaml too: then the default ports and names are used.
    #[arg(long, requires = "haproxy_cfg", conflicts_with = "hosts")]
    offline: bool,
    /// Let this HAProxy program read the files too, by `haproxy -c`
    ///
    /// Only HAProxy itself knows everything that it refuses. It reads the certificates and maps that the files name, looks up
    /// names of servers and runs Lua scripts: use it where that HAProxy runs, and with files that you trust.
    #[arg(long, value_name = "PROGRAM", requires = "haproxy_cfg")]
    haproxy_program: Option<PathBuf>,
}

pub async fn run(args: CheckArgs, context: &Context) -> Result<(), Failure> {
    let cfg = read_haproxy_cfg(&args.haproxy_cfg)?;
    let checked = run_haproxy(&args, cfg.as_ref(), context).await?;
    if args.offline {
        return check_offline(cfg.as_ref(), checked, context);
    }
    let (file, fleet) = context.load_config().await?;
    let hosts = context.select_hosts(&fleet, args.hosts.select_or(HostSelection::ThisOrAll))?;
    let local = context.build_host_world(Some(&fleet));
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
    findings.extend(checked);
    print_findings(&findings, context)
}

/// The verdict of a HAProxy program, if one was named.
async fn run_haproxy(
    args: &CheckArgs,
    cfg: Option<&HaproxyCfg>,
    context: &Context,
) -> Result<Vec<Finding>, Failure> {
    let (Some(program), Some(cfg)) = (&args.haproxy_program, cfg) else { return Ok(vec![]) };
    let checked = (context.world_factory.check_haproxy_config)(program, &args.haproxy_cfg).await;
    let checked =
        checked.map_err(|reason| fail_usage("check", "run the program of `--haproxy-program`", reason))?;
    Ok(judge_check(&checked, cfg))
}

/// Checks haproxy.cfg alone; without a switchman.yaml against its defaults.
fn check_offline(cfg: Option<&HaproxyCfg>, checked: Vec<Finding>, context: &Context) -> Result<(), Failure> {
    let mut is_default = false;
    let (mut findings, fleet) = match context.load_written_config() {
        Ok((file, fleet)) => (vec![build_config_finding(&file)], fleet),
        Err(Failure::Config(ConfigError::NotFound)) => {
            let fleet = parse_config(Path::new("switchman.yaml"), "service: default\n")?;
            is_default = true;
            (vec![], fleet)
        }
        Err(error) => return Err(error),
    };
    findings.extend(lint_haproxy(&fleet, cfg));
    for finding in findings.iter_mut().filter(|finding| is_default && finding.id == "haproxy-no-backend") {
        finding.fix = "there is no switchman.yaml: `switchman init --from FILE` writes one, with the backend of the file".into();
    }
    findings.extend(checked);
    print_findings(&findings, context)
}

fn print_findings(findings: &[Finding], context: &Context) -> Result<(), Failure> {
    context.renderer.print_findings(findings);
    match findings.iter().filter(|finding| finding.severity == Severity::Problem).count() {
        0 => Ok(()),
        problems => Err(Failure::ProblemsFound { problems }),
    }
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
