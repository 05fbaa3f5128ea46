//! One story per verb, top to bottom, against the traits of `world` only.

pub mod agent_check;
pub mod check;
pub mod drain;
pub mod forward;
pub mod here;
pub mod hooks;
pub mod host;
pub mod init;
pub mod keep;
pub mod lock;
pub mod metrics;
pub mod restore;
pub mod roll;
pub mod rollout;
pub mod rules;
pub mod seen;
pub mod shared;
pub mod status;
pub mod traffic;
pub mod versions;
