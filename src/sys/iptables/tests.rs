//! Against the real kernel, each test in a network namespace of its own, in both variants.

use super::*;
use crate::sys::testing::run_in_namespace;

const BOTH: [Variant; 2] = [Variant::NfTables, Variant::Legacy];

fn transaction(family: Family, variant: Variant, text: &str) -> Transaction {
    Transaction { family, variant, text: text.to_owned() }
}

const ON: &str = "*nat\n:SWITCHMAN - [0:0]\n-A SWITCHMAN -m conntrack --ctstate NEW -m comment --comment \"switchman:anchor\"\n\
    -A SWITCHMAN -p tcp -m tcp --dport 8888 -m comment --comment \"switchman:shop:forward\" -j REDIRECT --to-ports 8080\n\
    -I PREROUTING 1 -m addrtype --dst-type LOCAL -m comment --comment \"switchman:jump\" -j SWITCHMAN\nCOMMIT\n";

#[test]
fn committed_rules_read_back_unchanged() {
    for variant in BOTH {
        run_in_namespace(move || async move {
            for family in [Family::V4, Family::V6] {
                Iptables.commit(&transaction(family, variant, ON)).await.unwrap();
                let tables = Iptables.nat(family).await.unwrap();
                let mut expected = Table::empty_nat();
                expected.apply_transaction(&transaction(family, variant, ON)).unwrap();
                let read = tables.of(variant).unwrap();
                let sorted = |table: &Table| {
                    let mut rules = table.rules.clone();
                    rules.sort();
                    rules
                };
                assert_eq!(sorted(read), sorted(&expected), "{family} {variant}");
                assert_eq!(read.chains, expected.chains, "{family} {variant}");
            }
        });
    }
}

#[test]
fn listing_creates_no_legacy_tables() {
    run_in_namespace(|| async {
        let tables = Iptables.nat(Family::V4).await.unwrap();
        assert_eq!(tables.legacy, None);
        assert_eq!(list_legacy_tables(Family::V4), Vec::<String>::new());
    });
}

#[test]
fn refused_transaction_changes_nothing() {
    for variant in BOTH {
        run_in_namespace(move || async move {
            Iptables.commit(&transaction(Family::V4, variant, ON)).await.unwrap();
            let before = Iptables.nat(Family::V4).await.unwrap();
            let bad = "*nat\n:SWITCHMAN - [0:0]\n-A SWITCHMAN -j NO_SUCH_CHAIN\nCOMMIT\n";
            let error = Iptables.commit(&transaction(Family::V4, variant, bad)).await.unwrap_err();
            assert!(matches!(error, FirewallError::Failed { .. }), "{error}");
            assert_eq!(Iptables.nat(Family::V4).await.unwrap(), before);
        });
    }
}

#[test]
fn nat_lists_both_variants() {
    run_in_namespace(|| async {
        for variant in BOTH {
            Iptables.commit(&transaction(Family::V4, variant, ON)).await.unwrap();
        }
        let tables = Iptables.nat(Family::V4).await.unwrap();
        assert!(tables.nf_tables.is_some_and(|table| table.has_rules()));
        assert!(tables.legacy.is_some_and(|table| table.has_rules()));
    });
}

#[test]
fn native_nftables_rules_are_listed_beside_iptables_rules() {
    run_in_namespace(|| async {
        Iptables.commit(&transaction(Family::V4, Variant::NfTables, ON)).await.unwrap();
        let native = "table inet swm-test { chain pre { type nat hook prerouting priority -110; tcp dport { 8888, 9999 } \
                      redirect to :9000; }; }";
        let output =
            Program::new("nft").args(["-f", "-"]).run(native.as_bytes(), COMMAND_TIMEOUT).await.unwrap();
        assert_eq!(output.status, 0, "{}", output.stderr);
        let rules = Iptables.read_native_rules().await.unwrap();
        assert_eq!(
            rules.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "inet swm-test pre: tcp dport { 8888, 9999 } redirect to :9000 (handle 3, prerouting priority -110)"
            ]
        );
        assert_eq!(rules[0].ports, [(8888, 8888), (9999, 9999)]);
    });
}

/// netbirdio/netbird#2725 and containernetworking/plugins#461: `iptables-save` prints "Table `nat' is incompatible, use 'nft' tool" and
/// returns 0, so that the table looked empty.
#[test]
fn table_with_a_native_rule_is_read_chain_by_chain() {
    run_in_namespace(|| async {
        Iptables.commit(&transaction(Family::V4, Variant::NfTables, ON)).await.unwrap();
        let before = Iptables.nat(Family::V4).await.unwrap().nf_tables.unwrap();
        let native = "add rule ip nat PREROUTING tcp dport { 22, 8888 } redirect to :9000";
        let output =
            Program::new("nft").args(["-f", "-"]).run(native.as_bytes(), COMMAND_TIMEOUT).await.unwrap();
        assert_eq!(output.status, 0, "{}", output.stderr);
        let after = Iptables.nat(Family::V4).await.unwrap().nf_tables.unwrap();
        assert_eq!(after.unprintable_chains, ["PREROUTING"]);
        assert_eq!(
            after.rules.iter().collect::<std::collections::BTreeSet<_>>(),
            before.rules.iter().collect()
        );
        assert_eq!(after.chains.get("SWITCHMAN"), Some(&None));
        // A change is committed and read back as ever.
        Iptables.commit(&transaction(Family::V4, Variant::NfTables, ON)).await.unwrap();
        let jumps = Iptables.nat(Family::V4).await.unwrap().nf_tables.unwrap();
        assert!(jumps.rules.contains(&build_jump_rule("PREROUTING")));
    });
}

#[test]
fn commit_times_out_on_held_xtables_lock() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("xtables.lock");
        let file = std::fs::File::create(&lock).unwrap();
        let _held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let restore = Program::new("iptables-legacy-restore")
            .args(["--noflush", "-w", "1"])
            .env("XTABLES_LOCKFILE", &lock);
        let error = run(&restore, ON.as_bytes()).await.unwrap_err();
        assert!(matches!(error, FirewallError::Locked { .. }), "{error}");
    });
}

#[test]
fn missing_privilege_is_reported() {
    run_in_namespace(|| async {
        for program in ["iptables-nft-save", "iptables-legacy-restore"] {
            let nobody = Program::new("setpriv").args(["--reuid=65534", "--clear-groups", program]);
            let error = run(&nobody, ON.as_bytes()).await.unwrap_err();
            assert!(matches!(error, FirewallError::NoPrivilege { .. }), "{error}");
        }
    });
}

#[test]
fn missing_program_is_reported() {
    run_in_namespace(|| async {
        let error = run(&Program::new("swm-no-such-restore"), b"").await.unwrap_err();
        assert_eq!(error.to_string(), "`swm-no-such-restore` is not installed");
    });
}
