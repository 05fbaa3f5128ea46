//! Pure decisions: (desired, observed, now) -> what to do. No I/O, no clock, no async.

pub mod agent_check;
pub mod check;
pub mod compare;
pub mod drain;
pub mod firewall;
pub mod haproxy_lint;
pub mod input_filter;
pub mod keep;
pub mod metrics;
pub mod proxy;
pub mod roll;
pub mod rollout;
pub mod site;
pub mod splits;
pub mod standing;
pub mod switch;
pub mod this_host;
pub mod versions;
pub mod vhost;
pub mod weights;
