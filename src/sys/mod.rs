//! The outside world, one adapter each. No decisions here: `plan` makes them.

mod access_files;
pub mod archive;
mod certificate_error;
pub mod clock;
pub mod commands;
pub mod conntrack;
pub mod discovery;
pub mod exec;
pub mod files;
pub mod haproxy;
pub mod haproxy_program;
mod http_servers;
pub mod identity;
pub mod iptables;
pub mod journal;
pub mod lines;
pub mod link;
pub mod machine;
mod netlink;
pub mod outputs;
pub mod packet_probe;
pub mod probe;
pub mod proxy;
pub mod registry;
pub mod releases;
pub mod rule_watch;
pub mod runner;
pub mod shared_outputs;
pub mod sock_diag;
pub mod sqlite;
pub mod ssh;
pub mod store;
pub mod supervisor;
pub mod systemd;
mod users;
pub mod webhook;

#[cfg(test)]
pub(crate) mod testing;
