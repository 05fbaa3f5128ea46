//! The last request of a process that ends: on a runtime of its own, because the caller's is being dropped.

use std::time::Duration;

/// Limit of the wait for it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the work on a thread of its own, and waits for it no longer than its limit.
pub fn run_at_exit(work: impl Future<Output = ()> + Send + 'static) {
    let (sender, done) = std::sync::mpsc::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            let _ = runtime.block_on(async { tokio::time::timeout(TIMEOUT, work).await });
        }
        let _ = sender.send(());
    };
    if std::thread::Builder::new().name("swm-exit".to_owned()).spawn(run).is_ok() {
        let _ = done.recv_timeout(TIMEOUT);
    }
}
