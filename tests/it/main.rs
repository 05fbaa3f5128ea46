//! The only integration-test binary; a module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod activity;
mod agent_check;
mod agent_link;
mod balancer_ssh;
mod check;
mod ci_job;
mod completion;
mod discovery;
mod docs;
mod drain;
mod examples;
mod foreign_config;
mod golden_rules;
mod haproxy_lint;
mod haproxy_versions;
mod host_faults;
mod hostile_input;
mod init;
mod init_from;
mod interrupt;
mod journal_store;
mod lab;
mod layering;
mod metrics;
mod open_connections;
mod owner;
mod packet_proof;
mod promote;
mod proxy;
mod quick_start;
mod recorded_state;
mod roll;
mod roll_cli;
mod roll_faults;
mod rule_repair;
mod seeds;
mod server_lines;
mod single_host;
mod site;
#[path = "../../src/snapshot.rs"]
mod snapshot;
mod snapshots;
mod status;
mod supervisor;
mod takeover;
#[path = "../../src/sys/testing.rs"]
mod testing;
mod traffic_split;
mod transcripts;
mod versions;
mod vhost;
mod wording;
