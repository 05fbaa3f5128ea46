//! The only integration-test binary; a module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod activity;
mod agent_check;
mod check;
mod docs;
mod drain;
mod established;
mod examples;
mod faults;
mod golden_rules;
mod hostile;
mod init;
mod keep;
mod lab;
mod layering;
mod metrics;
mod pipes;
mod promote;
mod proxy;
mod quick_start;
mod recorded;
mod roll;
mod roll_cli;
mod roll_faults;
mod site;
#[path = "../../src/snapshot.rs"]
mod snapshot;
mod snapshots;
mod splits;
mod supervisor;
#[path = "../../src/sys/testing.rs"]
mod testing;
mod versions;
mod vhost;
mod wording;
