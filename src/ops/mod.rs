//! One story per verb, top to bottom, against the traits of `world` only.

pub mod agent_check;
pub mod check;
pub mod drain;
pub mod forward;
pub mod init;
pub mod restore;
pub mod rules;
pub mod seen;
pub mod status;
