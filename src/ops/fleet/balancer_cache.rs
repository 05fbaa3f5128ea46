//! Shares one reading of a balancer between all concurrent readers: a batch of fifty hosts costs HAProxy no more than one
//! host.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::model::balancer::{BackendView, BalancerSpec, ServerLine};
use crate::world::balancer::{Balancer, BalancerError, FlushResult, SetWeightResult};

/// A reading is reused while it is younger than this: below the interval between two reads of one waiter.
const MAX_AGE: Duration = Duration::from_millis(40);

type Reading = Result<Arc<BackendView>, BalancerError>;
type LinesReading = Result<Arc<Vec<ServerLine>>, BalancerError>;

/// A balancer whose readings are shared.
pub struct CachedBalancer {
    inner: Arc<dyn Balancer>,
    /// The lock is held during a read, so concurrent readers get the same result.
    last: Mutex<Option<(Instant, Reading)>>,
    last_lines: Mutex<Option<(Instant, LinesReading)>>,
}

impl CachedBalancer {
    pub fn new(inner: Arc<dyn Balancer>) -> Self {
        Self { inner, last: Mutex::new(None), last_lines: Mutex::new(None) }
    }
}

/// Returns the last reading while it is young, else reads.
async fn share<T: Clone>(last: &Mutex<Option<(Instant, T)>>, read: impl Future<Output = T>) -> T {
    let mut last = last.lock().await;
    if let Some((at, reading)) = &*last
        && at.elapsed() < MAX_AGE
    {
        return reading.clone();
    }
    let began = Instant::now();
    let reading = read.await;
    *last = Some((began, reading.clone()));
    reading
}

#[async_trait]
impl Balancer for CachedBalancer {
    fn spec(&self) -> &BalancerSpec {
        self.inner.spec()
    }

    /// Returns a reading that is at most 40 ms old, counted from when the read began.
    async fn read(&self) -> Reading {
        share(&self.last, self.inner.read()).await
    }

    async fn read_lines(&self) -> LinesReading {
        share(&self.last_lines, self.inner.read_lines()).await
    }

    async fn close_idle(&self, server: &str) -> Result<FlushResult, BalancerError> {
        self.inner.close_idle(server).await
    }

    async fn set_weight(&self, server: &str, weight: u32) -> Result<SetWeightResult, BalancerError> {
        self.inner.set_weight(server, weight).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::model::example;

    struct Counting(BalancerSpec, AtomicU32);

    #[async_trait]
    impl Balancer for Counting {
        fn spec(&self) -> &BalancerSpec {
            &self.0
        }

        async fn read(&self) -> Reading {
            self.1.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Arc::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cache_shares_concurrent_reads_and_drops_old_readings() {
        let inner = Arc::new(Counting(example::balancer("lb1", None), AtomicU32::new(0)));
        let shared = CachedBalancer::new(inner.clone());
        futures_util::future::join_all((0..50).map(|_| shared.read())).await;
        assert_eq!(inner.1.load(Ordering::Relaxed), 1);
        tokio::time::sleep(MAX_AGE).await;
        shared.read().await.unwrap();
        assert_eq!(inner.1.load(Ordering::Relaxed), 2);
    }
}
