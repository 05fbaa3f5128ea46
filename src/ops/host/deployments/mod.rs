//! Versions side by side, on the host itself: what the agent serves and the command line on the host calls in-process.

mod assign;
mod deploy;
pub mod error;
mod finish;
mod health;
mod idle_connections;
pub(super) mod instance;
mod instance_health;
mod kill;
mod list;
mod merge;
pub(super) mod open_connections;
mod port_owner;
mod reconciler;
mod record;
mod recovery;
mod release_links;
mod service_lock;
mod system_actor;
mod trial;
mod update;

pub use assign::{assign, check_service, rollback, set_access};
pub use deploy::deploy;
pub use idle_connections::close_backup_connections;
pub use kill::kill;
pub use list::{read_view, stream_logs};
pub use merge::merge;
pub use reconciler::run;
pub use recovery::{restore_at_boot, restore_instances};
pub use trial::watch;
pub use update::update;

#[cfg(test)]
mod tests;
