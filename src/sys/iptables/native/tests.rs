//! Rule sets of other programs on the real kernel, as nft prints them.

use crate::model::native_rule::NativeEffect::{Accept, Drop, Mark, Notrack, Translate, Zone};
use crate::model::native_rule::{NativeEffect, NativeRule};
use crate::sys::exec::Program;
use crate::sys::iptables::{COMMAND_TIMEOUT, Iptables};
use crate::sys::testing::run_in_namespace;
use crate::world::firewall::Firewall;

async fn read_rules(ruleset: &str) -> Vec<NativeRule> {
    let output =
        Program::new("nft").args(["-f", "-"]).run(ruleset.as_bytes(), COMMAND_TIMEOUT).await.unwrap();
    assert_eq!(output.status, 0, "{ruleset}: {}", output.stderr);
    Iptables.read_native_rules().await.unwrap()
}

type Outline<'a> = (&'a str, Vec<(u16, u16)>, NativeEffect, bool);

fn outline(rules: &[NativeRule]) -> Vec<Outline<'_>> {
    rules
        .iter()
        .map(|rule| (rule.chain.as_str(), rule.ports.clone(), rule.effect, rule.is_conditional))
        .collect()
}

/// netbird (netbirdio/netbird) and podman's netavark write native rules into `ip nat` or beside it.
#[test]
fn sets_maps_and_jumps_are_resolved_in_table_nat() {
    run_in_namespace(|| async {
        let rules = read_rules(
            "table ip nat { map m { type inet_service : inet_service; elements = { 8888 : 9001 }; }
             set s { type inet_service; flags interval; elements = { 8000-9000 }; }
             chain x { tcp dport != 22 redirect to :5; }
             chain own { type nat hook prerouting priority -110; tcp dport @s redirect to :9000
               tcp dport 8880-8890 counter dnat to 10.0.0.1
               meta l4proto tcp iifname \"eth0\" jump x
               udp dport 8888 redirect to :77
               meta l4proto tcp th dport 8888 redirect to :77
               tcp dport 1-65535 redirect to :tcp dport map @m
             }
             }",
        )
        .await;
        let all_but_ssh = vec![(0, 21), (23, u16::MAX)];
        let expected: Vec<Outline<'_>> = vec![
            ("own", vec![(8000, 9000)], Translate, false),
            ("own", vec![(8880, 8890)], Translate, false),
            ("x", all_but_ssh, Translate, true),
            ("own", vec![(8888, 8888)], Translate, false),
            ("own", vec![(8888, 8888)], Translate, false),
        ];
        assert_eq!(outline(&rules), expected);
        assert_eq!(
            rules[0].delete_command(),
            format!("nft delete rule ip nat own handle {}", rules[0].handle)
        );
    });
}

#[test]
fn filters_are_read_for_a_new_connection_from_outside() {
    run_in_namespace(|| async {
        let rules = read_rules(
            "table inet f { set p { type ipv4_addr . inet_service; elements = { 10.0.0.1 . 8888 }; }
             chain j { accept; }
             chain i { type filter hook input priority 0; policy drop; ct state established,related accept
               ct state vmap { established : accept, invalid : drop, new : continue }
               iifname \"lo\" accept
               ip saddr . tcp dport @p accept
               tcp dport vmap { 22 : accept, 8080 : jump j }
               ct state new tcp dport { 80, 443 } accept
               ip protocol icmp accept
               fib daddr type local meta mark set 5
             }
             chain r { type filter hook prerouting priority -300; tcp dport 8888 notrack; tcp dport 8888 ct zone set 5; }
             }",
        )
        .await;
        let port = |number| vec![(number, number)];
        let expected: Vec<Outline<'_>> = vec![
            ("r", port(8888), Notrack, false),
            ("r", port(8888), Zone, false),
            ("i", port(8888), Accept, true),
            ("i", port(22), Accept, false),
            ("j", port(8080), Accept, false),
            ("i", vec![(80, 80), (443, 443)], Accept, false),
            ("i", vec![], Mark, false),
            ("i", vec![], Drop, false),
        ];
        assert_eq!(outline(&rules), expected);
    });
}

#[test]
fn rules_that_iptables_prints_are_left_out() {
    run_in_namespace(|| async {
        let script = "iptables-nft -t nat -A PREROUTING -p tcp --dport 8888 -j REDIRECT --to-ports 9000; \
                      iptables-nft -A INPUT -p tcp --dport 8888 -j DROP; iptables-nft -P INPUT DROP";
        let output = Program::new("sh").args(["-ec", script]).run(b"", COMMAND_TIMEOUT).await.unwrap();
        assert_eq!(output.status, 0, "{}", output.stderr);
        assert_eq!(read_rules("").await, []);
    });
}
