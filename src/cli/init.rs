//! `init`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::Context;
use super::failure::{fail_file, fail_usage};
use super::render::ExampleAddresses;
use super::web_server_arg::WebServerArg;
use crate::error::Failure;
use crate::model::balancer::CheckTiming;
use crate::model::host::{Host, Transport};
use crate::model::name::{HostName, ServiceName};
use crate::model::ports::{Port, Ports};
use crate::ops::init;
use crate::templates::working_set::{BalancerParams, WorkingSet};

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Write the files into this directory [default: ./PROJECT]
    dir: Option<PathBuf>,
    /// Set the project's name; without it, switchman prompts for one
    #[arg(long, value_name = "PROJECT")]
    name: Option<ServiceName>,
    /// Write the two vhosts for this web server
    #[arg(long, value_enum, default_value_t = WebServerArg::Nginx)]
    server: WebServerArg,
    /// Add a web host and the address HAProxy connects to; once for each [default: web1 and web2]
    #[arg(long = "host", value_name = "NAME=ADDRESS")]
    hosts: Vec<HostArg>,
    /// Read HAProxy's state at this address of the load balancer [default: 10.0.0.2]
    #[arg(long, value_name = "ADDRESS")]
    balancer: Option<IpAddr>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// The address of the load balancer in the example of the README.
const EXAMPLE_BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

#[derive(Debug, Clone)]
struct HostArg(Host);

impl FromStr for HostArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS, such as web1=10.0.0.11")?;
        let name: HostName = name.parse().map_err(|error| format!("`{name}` is not a name: {error}"))?;
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an IP address"))?;
        Ok(Self(Host { name, address: Some(address), transport: Transport::Local }))
    }
}

pub async fn run(args: InitArgs, context: &Context) -> Result<(), Failure> {
    let project = match args.name {
        Some(name) => name,
        None => prompt_project_name(context).await?,
    };
    let dir = args.dir.unwrap_or_else(|| PathBuf::from(project.as_str()));
    let dir = std::path::absolute(&dir).map_err(fail_file("find", &dir))?;
    let mut hosts: Vec<Host> = args.hosts.into_iter().map(|host| host.0).collect();
    let examples = ExampleAddresses { hosts: hosts.is_empty(), balancer: args.balancer.is_none() };
    if hosts.is_empty() {
        // Addresses for documentation would never be reached; these are what the README's example uses.
        hosts = ["web1=10.0.0.11", "web2=10.0.0.12"]
            .iter()
            .filter_map(|host| host.parse::<HostArg>().ok())
            .map(|host| host.0)
            .collect();
    }
    let balancer = args.balancer.unwrap_or(EXAMPLE_BALANCER);
    let site = build_site(project, args.server, hosts, balancer, &dir.to_string_lossy())
        .ok_or_else(|| fail_usage("init", "set the ports", "0 is no port"))?;
    let world = context.build_host_world(None);
    let written = init::init(world.files.as_ref(), &dir, &site, args.force).map_err(Failure::Init)?;
    context.renderer.print_init(&written, examples);
    Ok(())
}

fn build_site(
    project: ServiceName,
    server: WebServerArg,
    hosts: Vec<Host>,
    balancer: IpAddr,
    dir: &str,
) -> Option<WorkingSet> {
    let second = Duration::from_secs(1);
    Some(WorkingSet {
        health_host: format!("{}.example", project.as_str().replace('_', "-")),
        server: server.into(),
        ports: Ports { check: Port::new(8888)?, main: Port::new(8080)?, backup: Port::new(80)? },
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
                inter: second,
                fastinter: Some(Duration::from_millis(200)),
                fall: 3,
                rise: 2,
                timeout: Some(second),
            },
        },
        project,
    })
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
