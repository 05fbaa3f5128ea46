//! The nouns and their invariants. Depends on nothing of ours; no I/O, no clock.

pub mod agent_check;
pub mod api;
pub mod balancer;
pub mod capped;
pub mod compare;
pub mod deployment;
pub mod duration;
pub mod evidence;
#[cfg(test)]
pub mod example;
pub mod failure;
pub mod field;
pub mod finding;
pub mod fleet;
pub mod forward;
pub mod health;
pub mod history;
pub mod host;
pub mod journal;
pub mod latencies;
pub mod lock;
pub mod name;
pub mod native_rule;
pub mod observation;
pub mod packet_proof;
pub mod percent;
pub mod port_forward;
pub mod ports;
pub mod promote;
pub mod proxy;
pub mod release;
pub mod roll;
pub mod rules;
pub mod socket;
pub mod traffic_split;
pub mod version;
