//! Whether a filter table lets a new TCP connection to a port in: a walk through INPUT with three answers, because a
//! rule may match on things (addresses, interfaces, sets) that are not known here.

use crate::model::ports::Port;
use crate::model::rules::{Rule, Table};

/// The effect of the filter on the first packet of a connection to a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterVerdict {
    Accepted,
    /// Dropped or rejected from every source.
    Refused(RefusingRule),
    /// The verdict depends on the source, or on something else this walk cannot know; the last rule that may refuse it.
    Depends {
        rule: String,
    },
}

/// The rule or policy that refuses a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusingRule {
    /// The rule as `iptables -S` prints it, or the policy in words.
    pub text: String,
    pub target: RefusalTarget,
}

/// The effect of a refusal on the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalTarget {
    /// The client gets no reply, and waits for its timeout.
    Drop,
    /// The client is refused at once.
    Reject,
}

/// Deeper than any real rule set; a loop of chains cannot be built in the kernel.
const MAX_DEPTH: usize = 32;

/// Walks INPUT of a filter table for a packet with this destination port, after nat (INPUT sees the real port).
pub fn evaluate_filter(table: &Table, port: Port) -> FilterVerdict {
    let mut doubt = None;
    let verdict = walk(table, "INPUT", port, MAX_DEPTH, &mut doubt);
    let policy = table.chains.get("INPUT").cloned().flatten().unwrap_or_else(|| "ACCEPT".to_owned());
    let refused_by = match verdict {
        Some(RuleDecision::Accept) => None,
        Some(RuleDecision::Refuse(by)) => Some(by),
        None => (policy != "ACCEPT").then(|| RefusingRule {
            text: format!("the policy {policy} of INPUT"),
            // A policy is ACCEPT or DROP: iptables has no other.
            target: RefusalTarget::Drop,
        }),
    };
    match (refused_by, doubt) {
        (Some(refusal), None | Some(UncertainRule::Refuses(_))) => FilterVerdict::Refused(refusal),
        (None, None | Some(UncertainRule::Accepts)) => FilterVerdict::Accepted,
        (Some(refusal), Some(UncertainRule::Accepts)) | (None, Some(UncertainRule::Refuses(refusal))) => {
            FilterVerdict::Depends { rule: refusal.text }
        }
    }
}

enum RuleDecision {
    Accept,
    Refuse(RefusingRule),
}

/// The effect that a rule which may or may not match would have had.
enum UncertainRule {
    Accepts,
    Refuses(RefusingRule),
}

fn walk(
    table: &Table,
    chain: &str,
    port: Port,
    depth: usize,
    doubt: &mut Option<UncertainRule>,
) -> Option<RuleDecision> {
    if depth == 0 {
        return None;
    }
    for rule in table.rules_in_chain(chain) {
        let certain = match match_rule(rule, port) {
            Match::No => continue,
            Match::Yes => true,
            Match::Maybe => false,
        };
        let end = match rule.option_value("-j").or_else(|| rule.option_value("-g")) {
            Some("ACCEPT") => Some(RuleDecision::Accept),
            Some("DROP") => Some(refuse(rule, RefusalTarget::Drop)),
            Some("REJECT") => Some(refuse(rule, RefusalTarget::Reject)),
            Some("RETURN") if certain => return None,
            Some(target) if table.chains.contains_key(target) => walk(table, target, port, depth - 1, doubt),
            _ => None,
        };
        match end {
            Some(end) if certain => return Some(end),
            // Any way in or out that depends on the source: a way in weighs more, it may be the balancer's.
            Some(RuleDecision::Accept) => *doubt = Some(UncertainRule::Accepts),
            Some(RuleDecision::Refuse(refusal)) if doubt.is_none() => {
                *doubt = Some(UncertainRule::Refuses(refusal));
            }
            _ => {}
        }
    }
    None
}

fn refuse(rule: &Rule, target: RefusalTarget) -> RuleDecision {
    RuleDecision::Refuse(RefusingRule { text: rule.to_string(), target })
}

/// Whether a rule matches the first packet of a connection to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Yes,
    No,
    Maybe,
}

/// A first packet of a TCP connection, state NEW, from an unknown source, not through loopback.
pub fn match_rule(rule: &Rule, port: Port) -> Match {
    if rule.has_option("!") {
        return Match::Maybe;
    }
    let mut words = rule.words.iter().map(String::as_str);
    let mut answer = Match::Yes;
    while let Some(word) = words.next() {
        let one = match word {
            "-j" | "-g" => break,
            "-m" => match words.next() {
                Some("tcp" | "comment" | "state" | "conntrack" | "multiport" | "addrtype") => Match::Yes,
                // No first packet of a connection has a routing header.
                Some("udp" | "icmp" | "icmp6" | "rt") => Match::No,
                _ => Match::Maybe,
            },
            "-p" => match words.next() {
                Some("tcp") => Match::Yes,
                _ => Match::No,
            },
            "--dport" | "--dports" => match_port_list(words.next().unwrap_or(""), port),
            "--comment" => {
                words.next();
                Match::Yes
            }
            // A packet to this host, and not to a group of hosts.
            "--dst-type" if words.next() == Some("LOCAL") => Match::Yes,
            "--dst-type" => Match::No,
            "--state" | "--ctstate" => match_states(words.next().unwrap_or("")),
            "-i" if words.next() == Some("lo") => Match::No,
            _ => Match::Maybe,
        };
        match one {
            Match::No => return Match::No,
            Match::Maybe => answer = Match::Maybe,
            Match::Yes => {}
        }
    }
    answer
}

fn match_states(states: &str) -> Match {
    let includes = |wanted| states.split(',').any(|state| state == wanted);
    match (includes("NEW"), includes("DNAT")) {
        (true, _) => Match::Yes,
        // Whether the packet was translated before is not known here.
        (false, true) => Match::Maybe,
        (false, false) => Match::No,
    }
}

/// `80`, `80,443`, `8000:8999`.
pub fn includes_port(list: &str, port: Port) -> bool {
    list.split(',').any(|part| match part.split_once(':') {
        Some((low, high)) => {
            let bound = |text: &str, default| if text.is_empty() { Ok(default) } else { text.parse::<u16>() };
            matches!((bound(low, 0), bound(high, u16::MAX)), (Ok(low), Ok(high)) if (low..=high).contains(&port.get()))
        }
        None => part.parse() == Ok(port.get()),
    })
}

fn match_port_list(list: &str, port: Port) -> Match {
    if includes_port(list, port) { Match::Yes } else { Match::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::example::{make_table, port};

    fn evaluate_rules(policy: &str, rules: &[&str]) -> FilterVerdict {
        evaluate_filter(&make_table(&[("INPUT", Some(policy)), ("ufw", None)], rules), port(8080))
    }

    fn make_refused(text: &str, target: RefusalTarget) -> FilterVerdict {
        FilterVerdict::Refused(RefusingRule { text: text.into(), target })
    }

    fn refused_by_policy() -> FilterVerdict {
        make_refused("the policy DROP of INPUT", RefusalTarget::Drop)
    }

    #[test]
    fn open_host_accepts() {
        assert_eq!(evaluate_rules("ACCEPT", &[]), FilterVerdict::Accepted);
        assert_eq!(evaluate_filter(&Table::default(), port(80)), FilterVerdict::Accepted);
    }

    #[test]
    fn usual_input_rules_refuse_the_real_port() {
        let usual = [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 8888 -j ACCEPT",
            "-A INPUT -p udp -m udp --dport 8080 -j ACCEPT",
        ];
        assert_eq!(evaluate_rules("DROP", &usual), refused_by_policy());
        let reject = "-A INPUT -j REJECT --reject-with icmp-port-unreachable";
        let with_reject = [&usual[..], &[reject]].concat();
        assert_eq!(evaluate_rules("ACCEPT", &with_reject), make_refused(reject, RefusalTarget::Reject));
        for way_in in ["--dport 8080", "-m multiport --dports 80,8080", "-m multiport --dports 8000:8999"] {
            let rule = format!("-A INPUT -p tcp -m tcp {way_in} -j ACCEPT");
            assert_eq!(
                evaluate_rules("DROP", &[&usual[..], &[rule.as_str()]].concat()),
                FilterVerdict::Accepted,
                "{rule}"
            );
        }
    }

    #[test]
    fn source_specific_rule_is_uncertain() {
        let from = "-A INPUT -s 10.0.0.2/32 -p tcp -m tcp --dport 8080 -j ACCEPT";
        assert_eq!(
            evaluate_rules("DROP", &[from]),
            FilterVerdict::Depends { rule: "the policy DROP of INPUT".into() }
        );
        let ban = "-A INPUT -s 192.0.2.0/24 -j DROP";
        assert_eq!(evaluate_rules("ACCEPT", &[ban]), FilterVerdict::Depends { rule: ban.into() });
        assert_eq!(evaluate_rules("DROP", &[ban]), refused_by_policy());
    }

    #[test]
    fn comment_that_names_reject_does_not_make_a_drop_one() {
        let rule = "-A INPUT -m comment --comment REJECT -j DROP";
        assert_eq!(evaluate_rules("ACCEPT", &[rule]), make_refused(rule, RefusalTarget::Drop));
    }

    /// The rules of ufw 0.36 on Debian 12 after `ufw allow 8080/tcp` and `ufw enable`, without those that log.
    const UFW: [&str; 13] = [
        "-A INPUT -j ufw-before-input",
        "-A INPUT -j ufw-after-input",
        "-A ufw-before-input -i lo -j ACCEPT",
        "-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A ufw-before-input -m conntrack --ctstate INVALID -j DROP",
        "-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT",
        "-A ufw-before-input -j ufw-not-local",
        "-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT",
        "-A ufw-before-input -j ufw-user-input",
        "-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN",
        "-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN",
        "-A ufw-not-local -j DROP",
        "-A ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT",
    ];

    #[test]
    fn ufw_lets_in_what_it_allows_and_nothing_else() {
        let evaluate = |number| {
            let own = ["ufw-before-input", "ufw-after-input", "ufw-not-local", "ufw-user-input"];
            let chains = [&[("INPUT", Some("DROP"))][..], &own.map(|chain| (chain, None))].concat();
            evaluate_filter(&make_table(&chains, &UFW), port(number))
        };
        assert_eq!(evaluate(8080), FilterVerdict::Accepted);
        assert_eq!(evaluate(80), refused_by_policy());
    }

    #[test]
    fn filter_follows_chains_and_returns() {
        let rules = [
            "-A INPUT -j ufw",
            "-A ufw -p tcp -m tcp --dport 22 -j ACCEPT",
            "-A ufw -j RETURN",
            "-A ufw -j DROP",
        ];
        assert_eq!(evaluate_rules("DROP", &rules), refused_by_policy());
        let rules = ["-A INPUT -j ufw", "-A ufw -p tcp -m tcp --dport 8080 -j ACCEPT"];
        assert_eq!(evaluate_rules("DROP", &rules), FilterVerdict::Accepted);
    }
}
