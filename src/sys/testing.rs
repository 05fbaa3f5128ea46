//! A network namespace per kernel test: a thread of its own leaves the machine's network, and everything it starts
//! (threads, children, tokio workers) stays inside with it. Nothing to clean up. `tests/it` includes this file too.

use std::io::Write as _;

use nix::sched::{CloneFlags, unshare};

/// Runs an async test body inside a fresh network namespace with loopback up. Without the privilege it prints that and
/// returns; with `REQUIRE_KERNEL=1` it fails instead.
pub(crate) fn run_in_namespace<F, Fut>(body: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        if let Err(why) = unshare(CloneFlags::CLONE_NEWNET) {
            return missing(&format!("no network namespace can be made: {why}"));
        }
        #[allow(clippy::disallowed_methods, reason = "shared with tests/it, which stand outside the house")]
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).output().unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Checks the privilege for tests that start programs which make namespaces: without it prints that and returns `false`, or
/// fails with
/// `REQUIRE_KERNEL=1`.
#[allow(dead_code, reason = "only tests/it uses it")]
pub(crate) fn can_make_namespaces() -> bool {
    let made = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    if matches!(made, Ok(Ok(()))) {
        return true;
    }
    missing("no network namespace can be made");
    false
}

/// Prints what a test cannot do without, and fails it with `REQUIRE_KERNEL=1`.
pub(crate) fn missing(what: &str) {
    assert!(!is_kernel_required(), "REQUIRE_KERNEL=1, but {what}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

#[allow(clippy::disallowed_methods, reason = "a switch of the test run, not of the program")]
fn is_kernel_required() -> bool {
    std::env::var_os("REQUIRE_KERNEL").is_some_and(|value| value == "1")
}
