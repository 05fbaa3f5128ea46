//! What a HAProxy program says of configuration files.

/// The result of `haproxy -c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigCheck {
    /// As `haproxy -v` prints it: `2.6.12-1+deb12u4`.
    pub version: String,
    pub is_accepted: bool,
    /// Standard error: one line for each warning and alert.
    pub messages: String,
}
