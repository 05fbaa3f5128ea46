//! `check`: looks at everything that would lose requests, and says how to mend it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::lint::{self, HaproxyCfg};
use crate::model::finding::Finding;
use crate::model::fleet::Fleet;
use crate::model::host::Host;
use crate::model::ports::Port;
use crate::model::rules::{Family, Table, Tables};
use crate::plan::check::{Facts, findings};
use crate::plan::firewall::variant;
use crate::world::HostWorld;

use super::rules;
use super::status;

pub async fn check(world: &HostWorld, fleet: &Fleet, host: &Host, cfg: Option<&HaproxyCfg>) -> Vec<Finding> {
    let facts = facts(world, fleet, host).await;
    let mut all = findings(fleet, &facts);
    all.extend(lint::lint_first(fleet, cfg));
    all
}

async fn facts(world: &HostWorld, fleet: &Fleet, host: &Host) -> Facts {
    let backup =
        SocketAddr::new(host.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), fleet.ports.backup.get());
    let (tables, native, views, main_health, backup_health) = tokio::join!(
        rules::observe(world),
        world.firewall.native_nat(),
        futures_util::future::join_all(world.balancers.iter().map(|balancer| balancer.read())),
        world.probe.ask(fleet.main_address(host), &fleet.health),
        world.probe.ask(backup, &fleet.health),
    );
    let filters = match &tables {
        Ok(tables) => filters(world, tables).await,
        Err(_) => vec![],
    };
    let recorded = world.store.recorded();
    let drift = match (&recorded, &tables) {
        (Ok(recorded), Ok(tables)) => status::drift(recorded, tables),
        _ => vec![],
    };
    let view = |spec: &crate::model::balancer::BalancerSpec| {
        let at = world.balancers.iter().position(|balancer| balancer.spec().name == spec.name)?;
        views.get(at).map(|view| view.as_ref().map(|view| (**view).clone()).map_err(ToString::to_string))
    };
    Facts {
        host: host.clone(),
        may_change_rules: world.machine.may_change_rules().map_err(|error| error.to_string()),
        tables: tables.map_err(|error| error.to_string()),
        native: native.map_err(|error| error.to_string()),
        filters,
        recorded: recorded.map_err(|error| error.to_string()),
        last: world.store.history(Some(&fleet.service), 1).ok().and_then(|mut rows| rows.pop()),
        drift,
        booted_at: world.machine.booted_at().ok(),
        on_check: listeners(world, fleet.ports.check),
        on_main: listeners(world, fleet.ports.main),
        on_backup: listeners(world, fleet.ports.backup),
        addresses: world.machine.addresses().unwrap_or_default(),
        main_health: main_health.map_err(|error| error.to_string()),
        backup_health: backup_health.map_err(|error| error.to_string()),
        balancers: fleet.balancers.iter().map(view).collect(),
    }
}

async fn filters(world: &HostWorld, tables: &[(Family, Tables)]) -> Vec<(Family, Result<Table, String>)> {
    let read = tables.iter().map(async |(family, tables)| {
        let table = world.firewall.filter(*family, variant(tables)).await;
        (*family, table.map_err(|error| error.to_string()))
    });
    futures_util::future::join_all(read).await
}

fn listeners(world: &HostWorld, port: Port) -> Vec<(u32, String)> {
    let found = world.machine.listeners(port).unwrap_or_default();
    found.into_iter().map(|listener| (listener.pid, listener.name)).collect()
}
