//! A network namespace per kernel test: a thread of its own leaves the machine's network, and everything it starts
//! (threads, children, tokio workers) stays inside with it. Nothing to clean up.

use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::exec::Program;

/// Runs an async test body inside a fresh network namespace with loopback up. Without the privilege it says so and
/// returns; with `REQUIRE_KERNEL=1` it fails instead.
pub(crate) fn in_namespace<F, Fut>(body: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        if let Err(why) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(!kernel_is_required(), "REQUIRE_KERNEL=1, but no network namespace can be made: {why}");
            #[allow(clippy::disallowed_macros, reason = "a skip is visible")]
            std::eprintln!("SKIPPED: no network namespace can be made here: {why}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let up = Program::new("ip").args(["link", "set", "lo", "up"]);
            let output = up.run(b"", Duration::from_secs(10)).await.unwrap();
            assert_eq!(output.status, 0, "{}", output.stderr);
            body().await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[allow(clippy::disallowed_methods, reason = "a switch of the test run, not of the program")]
fn kernel_is_required() -> bool {
    std::env::var_os("REQUIRE_KERNEL").is_some_and(|value| value == "1")
}
