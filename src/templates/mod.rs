//! Text that is written for other programs: vhosts, haproxy.cfg, units. Pure.

pub mod unit;
pub mod vhost;
pub mod working_set;
