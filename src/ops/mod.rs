//! Each verb is one function, read top to bottom, against the traits of `world` only. `fleet` runs on the operator machine, `host`
//! runs on a host; the only interface between them is [`crate::world::link::HostLink`].

pub mod fleet;
pub mod host;
pub mod init;

#[cfg(test)]
pub mod testing;
