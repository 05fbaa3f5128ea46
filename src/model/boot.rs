//! What starts a process when its machine boots.

/// How a process was started, as far as systemd's control group shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartedBy {
    /// A unit of systemd.
    Unit {
        name: String,
        /// Whether a target, a socket or another unit wants it at boot.
        is_enabled: bool,
    },
    /// Something that does not come back by itself: the session of a user, mostly.
    Scope(String),
}
