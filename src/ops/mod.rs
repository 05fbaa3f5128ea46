//! One story per verb, top to bottom, against the traits of `world` only. `fleet` runs on the operator machine, `host` runs on
//! a host; the only door between them is [`crate::world::link::HostLink`].

pub mod fleet;
pub mod host;
pub mod init;
