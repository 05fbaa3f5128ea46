//! `init`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::Context;
use super::failure::{fail_file, fail_usage};
use super::host_address_arg::{HostAddressArg, find_duplicate};
use super::register_args::{DEFAULT_SLOTS, MAX_SLOTS};
use super::web_server_arg::WebServerArg;
use crate::config::parse_config;
use crate::error::Failure;
use crate::lint::AdoptionOptions;
use crate::model::balancer::CheckTiming;
use crate::model::host::Host;
use crate::model::name::ServiceName;
use crate::model::ports::{Port, Ports};
use crate::ops::init;
use crate::plan::init_steps::{NewSet, list_new_set_steps};
use crate::plan::registration::derive_catalog_name;
use crate::templates::working_set::{BalancerParams, SlotParams, WorkingSet};
use add_host::add_hosts;
use from::{FromParams, init_from_haproxy};

mod add_host;
mod from;

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Write the files into this directory [default: ./PROJECT]
    dir: Option<PathBuf>,
    /// Set the project's name; without it, switchman prompts for one
    ///
    /// With --from, the default is the name of the backend.
    #[arg(long, value_name = "PROJECT")]
    name: Option<ServiceName>,
    /// Write the two vhosts and their systemd units for this web server
    #[arg(long, value_enum, default_value_t = WebServerArg::Nginx, conflicts_with = "from")]
    server: WebServerArg,
    /// Add a web host and the address HAProxy connects to; once for each [default: web1 and web2]
    ///
    /// With --from, it gives the address of a host whose server line has a name instead.
    #[arg(long = "host", value_name = "NAME=ADDRESS")]
    hosts: Vec<HostAddressArg>,
    /// Let hosts come and go: HAProxy resolves slots in Consul, and agents claim them.
    ///
    /// haproxy.cfg gets slots instead of hosts, switchman.yaml lists the hosts of Consul, and the agent's unit registers its host.
    #[arg(long, value_enum, value_name = "SOURCE", conflicts_with_all = ["hosts", "from"])]
    discovery: Option<DiscoveryKind>,
    /// Write this number of slots [default: 5]
    #[arg(long, value_name = "N", requires = "discovery", value_parser = RangedU64ValueParser::<u16>::new().range(1..=MAX_SLOTS))]
    slots: Option<u16>,
    /// Read HAProxy's state at this address of the load balancer [default: 10.0.0.2]
    ///
    /// With --from, the default is the address of a stats socket of the files.
    #[arg(long, value_name = "ADDRESS")]
    balancer: Option<IpAddr>,
    /// Let the balancer health-check this port [default: 8888]
    #[arg(long, value_name = "PORT")]
    check_port: Option<Port>,
    /// Let the main vhost listen on this port [default: 8080]
    #[arg(long, value_name = "PORT", conflicts_with = "from")]
    main_port: Option<Port>,
    /// Let the backup vhost listen on this port [default: 80]
    #[arg(long, value_name = "PORT")]
    backup_port: Option<Port>,
    /// Write only switchman.yaml, from this haproxy.cfg, and print the lines that it lacks
    ///
    /// It may be given several times, and may be a directory: files are read in the order in which HAProxy reads its `-f`.
    /// The files are not changed.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Take this backend of the files; the first is the main service, more become `services`
    #[arg(long, value_name = "NAME", requires = "from")]
    backend: Vec<String>,
    /// Add a host to an existing switchman.yaml, and print its lines for haproxy.cfg
    ///
    /// Comments and order of the file stay as they are. It may be given several times.
    #[arg(
        long,
        value_name = "NAME=ADDRESS",
        conflicts_with_all = ["dir", "name", "server", "hosts", "discovery", "balancer", "check_port", "main_port", "backup_port", "from", "force"]
    )]
    add_host: Vec<HostAddressArg>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DiscoveryKind {
    Consul,
}

/// The address of the load balancer in the example of the README.
const EXAMPLE_BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

pub async fn run(args: InitArgs, context: &Context) -> Result<(), Failure> {
    if !args.add_host.is_empty() {
        return add_hosts(&args.add_host, context);
    }
    if let Some(reason) = find_duplicate(&[], &args.hosts) {
        return Err(fail_usage("init", "use the hosts", reason));
    }
    if !args.from.is_empty() {
        return init_from_haproxy(&build_from_params(args), context);
    }
    let project = match args.name {
        Some(name) => name,
        None if context.globals.yes => {
            return Err(fail_usage(
                "init",
                "name the project",
                "`--yes` has no answer for its name: give it with `--name PROJECT`",
            ));
        }
        None => prompt_project_name(context).await?,
    };
    let dir = args.dir.unwrap_or_else(|| PathBuf::from(project.as_str()));
    let dir = std::path::absolute(&dir).map_err(fail_file("find", &dir))?;
    let mut hosts: Vec<Host> = args.hosts.iter().map(HostAddressArg::to_host).collect();
    let has_example_addresses = (hosts.is_empty() && args.discovery.is_none()) || args.balancer.is_none();
    let slots = args.discovery.map(|DiscoveryKind::Consul| build_slots(&project, args.slots)).transpose()?;
    if hosts.is_empty() && slots.is_none() {
        // Addresses for documentation would never be reached; these are what the README's example uses.
        let examples = ["web1=10.0.0.11", "web2=10.0.0.12"].iter().filter_map(|host| host.parse().ok());
        hosts = examples.map(|host: HostAddressArg| host.to_host()).collect();
    }
    let balancer = args.balancer.unwrap_or(EXAMPLE_BALANCER);
    let port = |chosen: Option<Port>, default: u16| chosen.or(Port::new(default));
    let ports = port(args.check_port, 8888)
        .zip(port(args.main_port, 8080))
        .zip(port(args.backup_port, 80))
        .map(|((check, main), backup)| Ports { check, main, backup })
        .ok_or_else(|| fail_usage("init", "set the ports", "0 is no port"))?;
    let nodes = Nodes { hosts, slots };
    let site = build_site(project, args.server, nodes, balancer, ports, &dir.to_string_lossy());
    // What does not load is not written.
    let yaml = site.render_yaml(&[site.stats_address()]).map_err(|error| Failure::Init(error.into()))?;
    let fleet = parse_config(&dir.join("switchman.yaml"), &yaml)?;
    let world = context.build_host_world(None);
    let written = init::init(world.files.as_ref(), &dir, &site, args.force).map_err(Failure::Init)?;
    let set = NewSet { dir: &dir, server: site.server, has_example_addresses };
    context.renderer.print_init(&written, &list_new_set_steps(&fleet, &set));
    Ok(())
}

fn build_from_params(args: InitArgs) -> FromParams {
    let options = AdoptionOptions {
        service: args.name,
        backends: args.backend,
        addresses: args.hosts.into_iter().map(|host| (host.name, host.address)).collect(),
        balancer: args.balancer,
        check_port: args.check_port,
        backup_port: args.backup_port,
    };
    FromParams { files: args.from, dir: args.dir, force: args.force, options }
}

/// The written hosts, or the slots that hosts claim.
struct Nodes {
    hosts: Vec<Host>,
    slots: Option<SlotParams>,
}

fn build_slots(project: &ServiceName, count: Option<u16>) -> Result<SlotParams, Failure> {
    let catalog_name = derive_catalog_name(project)
        .map_err(|error| fail_usage("init", "name the service in Consul", error.to_string()))?;
    Ok(SlotParams { catalog_name, count: count.unwrap_or(DEFAULT_SLOTS) })
}

fn build_site(
    project: ServiceName,
    server: WebServerArg,
    Nodes { hosts, slots }: Nodes,
    balancer: IpAddr,
    ports: Ports,
    dir: &str,
) -> WorkingSet {
    let second = Duration::from_secs(1);
    // With discovery, as it was measured with slots (docs/design/measurements.md#m46).
    let (inter, rise) = if slots.is_some() { (second / 2, 1) } else { (second, 2) };
    WorkingSet {
        slots,
        health_host: format!("{}.example", project.as_str().replace('_', "-")),
        server: server.into(),
        ports,
        hosts,
        health_path: "/health".into(),
        root: format!("{dir}/site"),
        run_dir: format!("{dir}/run"),
        log_dir: format!("{dir}/log"),
        workers: "auto".into(),
        balancer: BalancerParams {
            log: "/dev/log local0".into(),
            bind: ":80".into(),
            stats: "127.0.0.1:8404".into(),
            backend: "servers".into(),
            admin_socket: "/run/haproxy/admin.sock".into(),
            read_only_socket: Some(SocketAddr::new(balancer, 9999)),
            state_file: "/var/lib/haproxy/servers.state".into(),
            // DOWN in 0.4 to 1.1 s and UP in 0.1 to 0.8 s with such settings, at one check a second at rest
            // (docs/design/measurements.md#m4).
            check: CheckTiming {
                inter,
                fastinter: Some(Duration::from_millis(200)),
                fall: 3,
                rise,
                timeout: Some(second),
            },
        },
        project,
    }
}

async fn prompt_project_name(context: &Context) -> Result<ServiceName, Failure> {
    loop {
        let answer = context.prompt("project_name [my_project]: ").await?;
        match (if answer.is_empty() { "my_project" } else { answer.as_str() }).parse() {
            Ok(name) => return Ok(name),
            Err(error) => {
                context.renderer.print_remark(&format!("`{}` is not a name: {error}", answer.escape_debug()));
            }
        }
    }
}
