//! The outside world, one adapter each. No decisions here: `plan` makes them.

pub mod exec;
pub mod iptables;

#[cfg(test)]
pub(crate) mod testing;
