//! `deploy`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::CommandTarget;
use super::assign::make_main;
use crate::cli::Context;
use crate::cli::failure::{fail_file, fail_usage, fail_version};
use crate::cli::host_args::HostArgs;
use crate::cli::interrupt::{self, InterruptPolicy};
use crate::cli::lock_wait_args::LockWaitArgs;
use crate::cli::permission_arg::PermissionArg;
use crate::cli::plain_text_arg::parse_plain_text;
use crate::cli::web_server_arg::WebServerArg;
use crate::config::env;
use crate::error::Failure;
use crate::model::account::Permission;
use crate::model::deployment::{InstanceLimits, RunSpec, RunSpecChange, WebServer, Workload};
use crate::model::duration;
use crate::model::environment_file::parse_environment_file;
use crate::model::health::Health;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::version::Version;
use crate::ops::fleet::deployments::{self, DeployOptions, Source};
use crate::plan::versions::MAX_INSTANCES;

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
    #[command(flatten)]
    pub(in crate::cli) lock_wait: LockWaitArgs,
    /// Let its instances listen on this port [default: the first free one of versions.ports]
    #[arg(short, long, value_name = "PORT")]
    port: Option<Port>,
    /// Run this many instances on each host [default: 1].
    ///
    /// Each has a port of its own and its number in $SWITCHMAN_INSTANCE. The kernel spreads new connections over them.
    #[arg(long, value_name = "N", conflicts_with = "port", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_INSTANCES)))]
    instances: Option<u32>,
    /// Check its health at this path [default: that of the service]
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    /// Record a fact, such as the commit; may be given several times.
    ///
    /// The variables GITHUB_SHA, GITHUB_RUN_ID, CI_COMMIT_SHA, CI_JOB_URL, GIT_COMMIT and BUILD_URL are recorded if they are set.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_metadata)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    instance: InstanceArgs,
    /// Make the version main after the deploy, as `switchman assign` does
    #[arg(long, conflicts_with = "dry_run")]
    assign: bool,
    /// Print the steps without changing anything
    #[arg(long)]
    dry_run: bool,
}

impl DeployArgs {
    pub const fn is_read_only(&self) -> bool {
        self.dry_run
    }

    /// Returns the reaction of the command to signals.
    pub const fn interrupt_policy(&self) -> InterruptPolicy {
        if self.assign { interrupt::DEPLOY_AND_ASSIGN } else { interrupt::DEPLOY }
    }
}

/// The options of instances, for `deploy` and `update`, with the defaults of `deploy`.
#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// Set an environment variable; may be given several times.
    ///
    /// A bare NAME copies the caller's value, so that no process list shows it. NAME has to be set there; NAME= is empty.
    #[arg(short, long = "env", visible_alias = "environment", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set the variables of this file; may be given several times.
    ///
    /// It has lines of NAME=VALUE. A value in double or single quotes may have several lines, and a line that begins with # is a
    /// comment. A variable of --env replaces that of a file.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Run the program as this user of the host [default: switchman-NAME, an account of the service]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Make an exception from the sandbox of the program; may be given several times.
    ///
    /// With new-privileges, it may run programs that get rights by their file, such as sudo and sendmail. With devices, it may open
    /// devices such as /dev/dri and /dev/net/tun, as far as their modes allow.
    #[arg(long, value_enum, value_name = "EXCEPTION")]
    allow: Vec<PermissionArg>,
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
    pub(super) fn into_change(self, command: &'static str, source: &str) -> Result<RunSpecChange, Failure> {
        let env = read_env(command, self.env, &self.env_file, env::read_variable)?;
        let server = self.server.map(WebServer::from);
        let workload = if is_url(source) {
            Some(Workload::External { uri: source.to_owned() })
        } else if self.command.is_empty() {
            server.map(|server| Workload::Vhost { server })
        } else {
            Some(Workload::Command { argv: self.command })
        };
        Ok(RunSpecChange {
            workload,
            env,
            user: self.user,
            allow: (!self.allow.is_empty()).then(|| self.allow.into_iter().map(Permission::from).collect()),
            resources: InstanceLimits {
                memory_bytes: self.memory.map(|mib| mib.saturating_mul(1024 * 1024)),
                tasks: self.tasks,
                open_files: self.open_files,
            },
            grace: self.grace,
        })
    }
}

/// Returns the variables of the files, and the given ones, which win. Seed row D20
/// (docs/design/seed-systems.md#mvi-and-daeploy): a bare NAME copies the caller's value.
fn read_env(
    command: &'static str,
    given: Vec<String>,
    files: &[PathBuf],
    read_variable: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(fail_file("read the environment", file))?;
        let variables = parse_environment_file(&text).map_err(|error| {
            fail_usage(command, format!("read the environment `{}`", file.display()), error.to_string())
        })?;
        env.extend(variables);
    }
    for text in given {
        let (name, value) = if let Some((name, value)) = text.split_once('=') {
            (name.to_owned(), value.to_owned())
        } else {
            let reason = format!("it is not set here; write `{text}=` for an empty value");
            let value = read_variable(&text);
            (
                text.clone(),
                value.ok_or_else(|| fail_usage(command, format!("copy the variable `{text}`"), reason))?,
            )
        };
        env.insert(name, value);
    }
    Ok(env)
}

/// Variables of CI systems that identify the code and the build.
const CI_VARIABLES: [&str; 6] =
    ["GITHUB_SHA", "GITHUB_RUN_ID", "CI_COMMIT_SHA", "CI_JOB_URL", "GIT_COMMIT", "BUILD_URL"];

/// Seed row R36 (docs/design/seed-systems.md#restate).
fn parse_metadata(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("invalid name=value: no `=` found in `{text}`"))?;
    Ok((parse_plain_text(name)?, parse_plain_text(value)?))
}

/// Returns the facts of the CI job, and the given ones, which win.
fn collect_metadata(
    given: Vec<(String, String)>,
    read: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let of_job = CI_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?)));
    of_job.filter(|(_, value)| !value.is_empty()).chain(given).collect()
}

/// Adds `http://` to an address without a scheme, unless such a file exists (seed row R35,
/// docs/design/seed-systems.md#restate).
fn complete_source(source: String) -> String {
    let (address, _) = source.split_once('/').unwrap_or((&source, ""));
    let is_address = match address.rsplit_once(':') {
        Some((host, port)) => {
            (host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
                && port.parse::<Port>().is_ok()
        }
        None => false,
    };
    if is_address && !Path::new(&source).exists() { format!("http://{source}") } else { source }
}

fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

pub(super) fn parse_source(text: &str) -> Source {
    if is_url(text) { Source::External } else { Source::Release(PathBuf::from(text)) }
}

pub async fn deploy(args: DeployArgs, context: &Context) -> Result<(), Failure> {
    let target = CommandTarget::load_service_with_links(context, &args.name, &args.hosts).await;
    let target = target.map_err(|failure| match failure {
        // A first version has no main to match.
        Failure::NoSuchService { requested, known } => {
            Failure::UnknownService { action: "deploy", requested, known }
        }
        failure => failure,
    })?;
    target.print_active_host(context);
    if !args.dry_run {
        context.renderer.print_line("Deploying service...");
        context.renderer.flush()?;
    }
    let source = complete_source(args.source);
    let health = args.health.map(|path| Health { path, ..target.fleet.health.clone() });
    let options = DeployOptions {
        service: args.name,
        version: args.version,
        source: parse_source(&source),
        run_spec: args
            .instance
            .into_change("deploy", &source)?
            .apply_to(RunSpec::new(Workload::Vhost { server: WebServer::Nginx })),
        port: args.port,
        instances: args.instances,
        metadata: collect_metadata(args.metadata, env::read_variable),
        health,
        becomes_main: args.assign,
        dry_run: args.dry_run,
        actor: env::read_actor(),
    };
    let action = format!("deploy {} {}", options.service, options.version);
    let report = deployments::deploy(&target.world, &target.fleet, &target.hosts, &options).await;
    let report = report.map_err(fail_version(action, &options.service, Some(&options.version)))?;
    if options.dry_run {
        context.renderer.print_deploy_plan(&report);
        return Ok(());
    }
    context.renderer.print_line("Service deployed successfully");
    if args.assign {
        return make_main(context, &target, &report.id).await;
    }
    let listing = target.list().await.filter_by_id(&report.id);
    context.renderer.print_deploy(&report, &listing);
    if let Some(row) = listing.rows.first() {
        let consequence = format!(
            "load balancers mark main of {} DOWN there, and users reach it by its backup port only",
            row.service
        );
        target.print_maintenance(context, row, &consequence);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[&str], files: &[PathBuf]) -> Result<BTreeMap<String, String>, String> {
        let given = given.iter().map(|text| (*text).to_owned()).collect();
        let read_variable = |name: &str| match name {
            "TOKEN" => Some("hunter2".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        read_env("deploy", given, files, read_variable).map_err(|failure| failure.to_string())
    }

    /// Rows: D20.
    #[test]
    fn bare_name_of_the_environment_copies_the_value_of_the_caller() {
        let parsed = read(&["A=1=2", "TOKEN", "EMPTY", "NOT_SET="], &[]).unwrap();
        let expected = [("A", "1=2"), ("EMPTY", ""), ("NOT_SET", ""), ("TOKEN", "hunter2")];
        assert_eq!(parsed, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    /// An instance without its password would start, and fail at its first use of it.
    #[test]
    fn bare_name_that_is_not_set_is_refused() {
        let error = read(&["A=1", "NOT_SET"], &[]).unwrap_err();
        assert!(error.contains("`NOT_SET`") && error.contains("write `NOT_SET=`"), "{error}");
    }

    #[test]
    fn variables_of_files_are_read_and_those_of_flags_win() {
        let dir = tempfile::tempdir().unwrap();
        let (one, broken) = (dir.path().join("one.env"), dir.path().join("broken.env"));
        std::fs::write(&one, "A=1\nKEY=\"-----BEGIN\nhunter2\n\"\n").unwrap();
        std::fs::write(&broken, "A=1\nhunter2\n").unwrap();
        let parsed = read(&["A=2"], std::slice::from_ref(&one)).unwrap();
        assert_eq!((parsed["A"].as_str(), parsed["KEY"].as_str()), ("2", "-----BEGIN\nhunter2\n"));
        let error = read(&[], &[one, broken]).unwrap_err();
        assert!(
            error.contains("broken.env") && error.contains("line 2") && !error.contains("hunter2"),
            "{error}"
        );
        let error = read(&[], &[dir.path().join("missing.env")]).unwrap_err();
        assert!(error.contains("missing.env"), "{error}");
    }

    /// Rows: R36.
    #[test]
    fn r36_metadata_comes_from_flags_and_ci_variables() {
        assert_eq!(parse_metadata("team=web=2"), Ok(("team".into(), "web=2".into())));
        assert_eq!(parse_metadata("team"), Err("invalid name=value: no `=` found in `team`".into()));
        let read = |name: &str| (name == "GITHUB_SHA").then(|| "3f2a".to_owned());
        let given = vec![("team".to_owned(), "web".to_owned())];
        let metadata: Vec<String> = collect_metadata(given, read)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(metadata, ["GITHUB_SHA=3f2a", "team=web"]);
    }

    /// Rows: R35.
    #[test]
    fn r35_address_without_scheme_is_http() {
        let complete = |text: &str| complete_source(text.to_owned());
        assert_eq!(complete("127.0.0.1:9000"), "http://127.0.0.1:9000");
        assert_eq!(complete("localhost:9000/app"), "http://localhost:9000/app");
        assert_eq!(complete("[::1]:9000"), "http://[::1]:9000");
        for same in ["http://127.0.0.1:9000", "build", "./build:1", "a.tar.gz", "localhost", "127.0.0.1:x"] {
            assert_eq!(complete(same), same);
        }
    }
}
