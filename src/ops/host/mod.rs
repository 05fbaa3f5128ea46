//! Stories of one host, over [`crate::world::HostWorld`] only.

pub mod agent_check;
pub mod api;
pub mod check;
pub mod completion;
pub mod deployments;
pub mod error_code;
pub mod metrics;
pub mod packet_proof;
pub mod port_sockets;
pub mod proxy;
pub mod registration;
pub mod restore;
pub mod rule_reconciler;
pub mod rules;
mod run_record;
pub mod status;
mod warn;
pub mod withdrawal;
