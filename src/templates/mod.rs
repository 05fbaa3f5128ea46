//! Text that is written for other programs: vhosts, haproxy.cfg, units. Pure.

pub mod fleet_yaml;
pub mod unit;
pub mod vhost;
pub mod vhost_unit;
pub mod working_set;
