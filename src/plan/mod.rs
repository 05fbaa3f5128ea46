//! Pure decisions: (desired, observed, now) -> what to do. No I/O, no clock, no async.

pub mod firewall;
pub mod switch;
