//! Against the real kernel. Nothing is measured: the kernel reports a change, or the test ends at its deadline.

use super::*;
use crate::model::rules::{Transaction, Variant};
use crate::sys::exec::Program;
use crate::sys::testing::run_in_namespace;
use crate::world::firewall::Firewall as _;

const BOUND: Duration = Duration::from_secs(20);

async fn run(command: &str) {
    let done = Program::new("sh").args(["-c", command]).run(b"", BOUND).await.unwrap();
    assert_eq!(done.status, 0, "{command}: {}", done.stderr);
}

async fn is_told(watching: &mut dyn RuleSubscription, legacy: bool, what: &str) {
    tokio::time::timeout(BOUND, watching.wait_for_change(legacy)).await.unwrap_or_else(|_| panic!("{what}"));
}

#[test]
fn watch_reports_nat_changes_only() {
    run_in_namespace(|| async {
        let mut watching = KernelRules.start();
        for change in [
            "iptables-nft -t nat -A PREROUTING -p tcp --dport 1 -j ACCEPT",
            "ip6tables-nft -t nat -A PREROUTING -p tcp --dport 1 -j ACCEPT",
            "printf '*nat\\nCOMMIT\\n' | iptables-nft-restore",
            "ip6tables-nft -t nat -F",
            "nft flush ruleset",
        ] {
            run(change).await;
            is_told(watching.as_mut(), false, change).await;
        }
        let events = subscribe().unwrap();
        run("iptables-nft -A INPUT -p tcp --dport 1 -j ACCEPT; nft add table inet swm-test").await;
        run("nft add set inet swm-test s '{ type ipv4_addr; }'; nft add element inet swm-test s '{ 1.2.3.4 }'").await;
        run("iptables-nft -t nat -A PREROUTING -p tcp --dport 2 -j ACCEPT").await;
        // The first change that is reported is the last.
        wait_for_nat_change(Some(&events)).await;
        let waits =
            futures_util::future::poll_immediate(std::pin::pin!(wait_for_nat_change(Some(&events)))).await;
        assert_eq!(waits, None);
    });
}

#[test]
fn watch_reports_buffer_overflow_as_change() {
    run_in_namespace(|| async {
        let events = subscribe().unwrap();
        nix::sys::socket::setsockopt(events.get_ref(), nix::sys::socket::sockopt::RcvBuf, &1).unwrap();
        let rules = "add rule inet swm-test c tcp dport 1 accept\n".repeat(2000);
        let script = format!("add table inet swm-test\nadd chain inet swm-test c\n{rules}");
        let done = Program::new("nft").args(["-f", "-"]).run(script.as_bytes(), BOUND).await.unwrap();
        assert_eq!(done.status, 0, "{}", done.stderr);
        tokio::time::timeout(BOUND, wait_for_nat_change(Some(&events))).await.unwrap();
    });
}

#[test]
fn watch_polls_legacy_rules() {
    run_in_namespace(|| async {
        let mut last = None;
        assert!(check_legacy_changed(&mut last).await, "the first time");
        assert!(!check_legacy_changed(&mut last).await);
        let text = "*nat\n-A PREROUTING -p tcp -m tcp --dport 1 -j ACCEPT\nCOMMIT\n".to_owned();
        let made = Transaction { family: Family::V6, variant: Variant::Legacy, text };
        iptables::Iptables.commit(&made).await.unwrap();
        assert!(check_legacy_changed(&mut last).await);
        assert!(!check_legacy_changed(&mut last).await);
        let mut watching = KernelRules.start();
        is_told(watching.as_mut(), true, "without a word of the kernel").await;
    });
}
