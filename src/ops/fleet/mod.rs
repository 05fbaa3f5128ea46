//! Stories of the operator machine, over [`crate::world::FleetWorld`] only.

pub mod balancer_cache;
pub mod balancer_wait;
pub mod check;
pub mod deployments;
pub mod discovery;
pub mod drain;
pub mod forward;
pub mod hooks;
pub mod journal_move;
pub mod lock;
mod mains;
pub mod metrics;
mod owner;
mod port_conflicts;
pub mod promote;
pub mod reach;
pub mod roll;
mod server_lines;
pub mod status;
pub mod withdraw;
