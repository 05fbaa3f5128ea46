//! `deploy`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::CommandTarget;
use crate::cli::Context;
use crate::cli::host_args::HostArgs;
use crate::cli::web_server_arg::WebServerArg;
use crate::config::env;
use crate::error::Failure;
use crate::model::deployment::{InstanceLimits, RunSpec, RunSpecChange, WebServer, Workload};
use crate::model::duration;
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, DeployOptions, Source};

#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The service, as named in the configuration
    name: ServiceName,
    /// A semantic version, such as 1.0.0
    version: Version,
    /// A directory, a .tar.gz, or the http:// address of a running program.
    ///
    /// A program at an address already runs on the host; switchman does not start it.
    source: String,
    #[command(flatten)]
    hosts: HostArgs,
    /// Let its instances listen on this port [default: the first free one of versions.ports]
    #[arg(short, long, value_name = "PORT")]
    port: Option<Port>,
    /// Check its health at this path [default: that of the service]
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    #[command(flatten)]
    instance: InstanceArgs,
    /// Print the steps without changing anything
    #[arg(long)]
    dry_run: bool,
}

/// The options of instances, for `deploy` and `update`, with the defaults of `deploy`.
#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// Set an environment variable; may be given several times.
    ///
    /// A bare NAME copies the caller's value.
    #[arg(short, long = "env", visible_alias = "environment", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Run it as this user of the host [default: the user of the host's switchman]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Serve a release without CMD with this web server [default: nginx]
    #[arg(long, value_enum, value_name = "SERVER")]
    server: Option<WebServerArg>,
    /// Limit its memory, in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Limit its processes and threads
    #[arg(long, value_name = "N")]
    tasks: Option<u32>,
    /// Limit its open files
    #[arg(long, value_name = "N")]
    open_files: Option<u64>,
    /// Wait this long between TERM and KILL [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    grace: Option<Duration>,
    /// The program and its arguments; it has to listen on $PORT.
    ///
    /// It runs without a shell, in the release's directory.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl InstanceArgs {
    /// Returns the options that were given, and no others.
    pub(super) fn into_change(self, source: &str) -> RunSpecChange {
        let server = self.server.map(WebServer::from);
        let workload = if is_url(source) {
            Some(Workload::External { uri: source.to_owned() })
        } else if self.command.is_empty() {
            server.map(|server| Workload::Vhost { server })
        } else {
            Some(Workload::Command { argv: self.command })
        };
        RunSpecChange {
            workload,
            env: parse_env(self.env),
            user: self.user,
            resources: InstanceLimits {
                memory_bytes: self.memory.map(|mib| mib.saturating_mul(1024 * 1024)),
                tasks: self.tasks,
                open_files: self.open_files,
            },
            grace: self.grace,
        }
    }
}

/// Seed row D20 (docs/design/seed-systems.md#mvi-and-daeploy): a bare NAME copies the caller's value, or is empty.
fn parse_env(given: Vec<String>) -> BTreeMap<String, String> {
    let read = |text: String| {
        if let Some((name, value)) = text.split_once('=') {
            (name.to_owned(), value.to_owned())
        } else {
            let value = env::read_variable(&text).unwrap_or_default();
            (text, value)
        }
    };
    given.into_iter().map(read).collect()
}

fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

pub(super) fn parse_source(text: &str) -> Source {
    if is_url(text) { Source::External } else { Source::Release(PathBuf::from(text)) }
}

pub async fn deploy(args: DeployArgs, context: &Context) -> Result<(), Failure> {
    let target = CommandTarget::load_service_with_links(context, &args.name, &args.hosts)?;
    target.print_active_host(context);
    if !args.dry_run {
        context.renderer.print_line("Deploying service...");
        context.renderer.flush()?;
    }
    let health = args.health.map(|path| Health { path, ..target.fleet.health.clone() });
    let options = DeployOptions {
        service: args.name,
        version: args.version,
        source: parse_source(&args.source),
        run_spec: args
            .instance
            .into_change(&args.source)
            .apply_to(RunSpec::new(Workload::Vhost { server: WebServer::Nginx })),
        port: args.port,
        health,
        dry_run: args.dry_run,
        actor: env::read_actor(),
    };
    let report = deployments::deploy(&target.world, &target.fleet, &target.hosts, &options).await?;
    if options.dry_run {
        context.renderer.print_deploy_plan(&report);
        return Ok(());
    }
    context.renderer.print_line("Service deployed successfully");
    let listing = target.list().await.filter_by_id(&report.id);
    context.renderer.print_deploy(&report, &listing);
    if let Some(row) = listing.rows.first() {
        target.print_maintenance(context, row, "no user reaches this service by its data port");
    }
    Ok(())
}
