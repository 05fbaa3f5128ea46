//! Wall-clock time, for records. Waiting uses tokio's clock, which tests can pause.

pub trait Clock: Send + Sync {
    fn now(&self) -> jiff::Timestamp;
}
