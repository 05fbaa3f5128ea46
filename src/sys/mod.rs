//! The outside world, one adapter each. No decisions here: `plan` makes them.

pub mod exec;

#[cfg(test)]
pub(crate) mod testing;
