//! `enable-forward` and `disable-forward`.

use std::time::Duration;

use clap::Args;

use super::Context;
use super::host_args::HostArgs;
use super::lock_wait_args::LockWaitArgs;
use super::plain_text_arg::parse_plain_text;
use crate::config::env;
use crate::error::Failure;
use crate::model::duration;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::port_forward::Switch;
use crate::ops::fleet::forward::{self, SwitchOptions};
use crate::ops::fleet::withdraw::{WithdrawError, withdraw};
use crate::plan::host_selection::HostSelection;
use crate::world::FleetWorld;
use crate::world::reporter::{Event, Reporter};

#[derive(Debug, Args)]
pub struct EnableArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct DisableArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Wait after DOWN until no request is in flight.
    ///
    /// If requests are still in flight after roll.drain_timeout, the forward is turned on again.
    #[arg(long, conflicts_with = "no_wait")]
    drain: bool,
    /// After the drain, take the host out of Consul's DNS and release its slot.
    ///
    /// HAProxy then sends no user to its backup vhost either. enable-forward registers the host again.
    #[arg(long, requires = "drain")]
    deregister: bool,
}

#[derive(Debug, Args)]
#[command(mut_arg("hosts", |arg| arg.help("Act on this host only; may be given several times [default: this machine]")))]
struct CommonArgs {
    #[command(flatten)]
    hosts: HostArgs,
    /// Act on every host of the configuration
    #[arg(long, conflicts_with = "hosts")]
    all: bool,
    /// Return when the kernel is switched, without waiting for HAProxy
    #[arg(long)]
    no_wait: bool,
    /// Override every refusal, and print what was overridden.
    ///
    /// A host that another operation took out of service is taken over only with --reason.
    #[arg(long)]
    force: bool,
    /// Record the purpose of this change; with --force, take over a host from another operation
    #[arg(long, value_name = "TEXT", value_parser = parse_plain_text)]
    reason: Option<String>,
    /// Limit the wait for HAProxy [default: twice the limit of its check settings, and 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    #[command(flatten)]
    lock_wait: LockWaitArgs,
}

impl EnableArgs {
    pub(super) fn lock_wait_limit(&self) -> Duration {
        self.common.lock_wait.limit()
    }
}

impl DisableArgs {
    pub(super) fn lock_wait_limit(&self) -> Duration {
        self.common.lock_wait.limit()
    }
}

pub async fn enable(args: EnableArgs, context: &Context) -> Result<(), Failure> {
    switch_forwards(&args.common, Switch::On, false, false, context).await
}

pub async fn disable(args: DisableArgs, context: &Context) -> Result<(), Failure> {
    switch_forwards(&args.common, Switch::Off, args.drain, args.deregister, context).await
}

async fn switch_forwards(
    args: &CommonArgs,
    switch: Switch,
    drain: bool,
    deregisters: bool,
    context: &Context,
) -> Result<(), Failure> {
    let (file, fleet) = context.load_config().await?;
    let default = if args.all { HostSelection::All } else { HostSelection::ThisMachine };
    let hosts = context.select_hosts(&fleet, args.hosts.select_or(default))?;
    let world = context.build_fleet_world(&file, &fleet, &hosts);
    let actor = env::read_actor().with_reason(args.reason.as_deref(), args.force);
    let (wait, force) = (!args.no_wait, args.force);
    let options = SwitchOptions { actor, wait, drain, force, timeout: args.timeout };
    let [host] = hosts.as_slice() else {
        let each = forward::switch_many(&world, &fleet, &hosts, switch, &options).await?;
        let is_switched = |host: &&Host| each.iter().any(|(name, one)| *name == host.name && one.is_ok());
        let switched: Vec<Host> = hosts.iter().filter(is_switched).filter(|_| deregisters).cloned().collect();
        let printed = context.renderer.print_switches(switch, each);
        let deregistered = deregister_all(&world, &fleet, &switched, &options, context).await;
        if let (Err(_), Err(error)) = (&deregistered, &printed) {
            context.renderer.report(&Event::Warning { text: error.to_string() });
        }
        return deregistered.and(printed);
    };
    if let Ok(Some(lock)) = world.lock.read_holder().await {
        context.renderer.report(&Event::Warning { text: format!("the fleet is locked by {}", lock.holder) });
    }
    let switched = match switch {
        Switch::On => forward::enable(&world, &fleet, host, &options).await?,
        Switch::Off => forward::disable(&world, &fleet, host, &options).await?,
    };
    context.renderer.print_switch(&switched);
    if deregisters {
        deregister(&world, &fleet, host, &options, context).await?;
    }
    Ok(())
}

/// Takes hosts out of DNS, one after another; the failure of one does not keep the others in.
async fn deregister_all(
    world: &FleetWorld,
    fleet: &Fleet,
    hosts: &[Host],
    options: &SwitchOptions,
    context: &Context,
) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for host in hosts {
        match deregister(world, fleet, host, options, context).await {
            Ok(()) => {}
            Err(error) => failed.push(error),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::WithdrawnPartially { done: hosts.len() - failed.len(), of: hosts.len(), failed })
}

async fn deregister(
    world: &FleetWorld,
    fleet: &Fleet,
    host: &Host,
    options: &SwitchOptions,
    context: &Context,
) -> Result<(), WithdrawError> {
    withdraw(world, fleet, host, &options.actor).await?;
    let text = format!("{}: out of DNS, no balancer uses it; its agent releases the slot", host.name);
    context.renderer.print_remark(&text);
    Ok(())
}
