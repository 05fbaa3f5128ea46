//! The kinds of clients of a load.

use std::time::Duration;

/// The kinds of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// A connection for many requests, with HAProxy's cookie.
    KeepAliveCookie,
    /// A connection for many requests, without a cookie.
    KeepAlive,
    /// A connection for each request.
    PerRequest,
    /// An answer that takes 2 s, with a cookie.
    Slow,
    /// 4 MiB up, length and sum of what arrived checked.
    Upload,
    /// A websocket of 3 s that echoes every 100 ms; one session is one request.
    Websocket,
}

impl ClientKind {
    /// Whether its clients keep HAProxy's cookie.
    pub const fn has_cookie(self) -> bool {
        matches!(self, Self::KeepAliveCookie | Self::Slow)
    }

    pub const ALL: [Self; 6] =
        [Self::KeepAliveCookie, Self::KeepAlive, Self::PerRequest, Self::Slow, Self::Upload, Self::Websocket];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeepAliveCookie => "keep-alive, cookie",
            Self::KeepAlive => "keep-alive, no cookie",
            Self::PerRequest => "connection per request",
            Self::Slow => "2 s answer",
            Self::Upload => "4 MiB upload",
            Self::Websocket => "websocket of 3 s",
        }
    }

    /// Returns the interval between two requests of one client.
    pub(super) const fn request_interval(self) -> Duration {
        match self {
            Self::KeepAliveCookie | Self::KeepAlive => Duration::from_millis(20),
            Self::PerRequest => Duration::from_millis(30),
            Self::Slow | Self::Websocket => Duration::from_millis(50),
            Self::Upload => Duration::from_millis(200),
        }
    }
}
