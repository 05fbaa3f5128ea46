//! Pure decisions: (desired, observed, now) -> what to do. No I/O, no clock, no async.

pub mod address_conflicts;
pub mod agent_check;
pub mod check;
pub mod compare;
pub mod discovery;
pub mod drain;
pub mod firewall;
pub mod host_selection;
pub mod host_servers;
pub mod init_steps;
pub mod input_filter;
pub mod mains;
pub mod metrics;
pub mod owner;
pub mod packet_proof;
pub mod port_conflicts;
pub mod promote;
pub mod proxy;
pub mod repair_backoff;
pub mod roll;
pub mod rollback;
pub mod server_lines;
pub mod switch;
pub mod traffic_split;
pub mod versions;
pub mod weights;
