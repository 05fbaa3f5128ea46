//! The outside world, one adapter each. No decisions here: `plan` makes them.

pub mod exec;
pub mod iptables;
pub mod store;

#[cfg(test)]
pub(crate) mod testing;
