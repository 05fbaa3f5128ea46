//! The site that tests of fleet stories run against. Its hosts are the real `ops::host`, over a kernel and a store in memory;
//! it is the one place where both sides of `ops` meet in a process.

pub mod host_fleet;
pub mod site;
mod site_balancer;
mod site_deployments;
pub mod site_fault;
pub mod site_link;
pub mod site_traffic_split;
mod site_world;
