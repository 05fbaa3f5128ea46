//! Whether a filter table lets a new TCP connection to a port in: a walk through INPUT with three answers, because a
//! rule may ask for things (addresses, interfaces, sets) that are not known here.

use crate::model::ports::Port;
use crate::model::rules::{Rule, Table};

/// What the filter does with the first packet of a connection to a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    /// Dropped or rejected whatever its source; by which rule or policy.
    Refused {
        by: String,
    },
    /// It depends on the source, or on something else this walk cannot know; the last rule that may refuse it.
    Depends {
        on: String,
    },
}

/// Deeper than any real rule set; a loop of chains cannot be built in the kernel.
const DEPTH: usize = 32;

/// Walks INPUT of a filter table for a packet with this destination port, after nat (INPUT sees the real port).
pub fn fate(table: &Table, port: Port) -> Fate {
    let mut doubt = None;
    let verdict = walk(table, "INPUT", port, DEPTH, &mut doubt);
    let policy = table.chains.get("INPUT").cloned().flatten().unwrap_or_else(|| "ACCEPT".to_owned());
    let refused_by = match verdict {
        Some(End::Accept) => None,
        Some(End::Refuse(by)) => Some(by),
        None => (policy != "ACCEPT").then(|| format!("the policy {policy} of INPUT")),
    };
    match (refused_by, doubt) {
        (Some(by), None | Some(Doubt::Refuses(_))) => Fate::Refused { by },
        (None, None | Some(Doubt::Accepts)) => Fate::Accepted,
        (Some(on), Some(Doubt::Accepts)) | (None, Some(Doubt::Refuses(on))) => Fate::Depends { on },
    }
}

enum End {
    Accept,
    Refuse(String),
}

/// What a rule that may or may not match would have done.
enum Doubt {
    Accepts,
    Refuses(String),
}

fn walk(table: &Table, chain: &str, port: Port, depth: usize, doubt: &mut Option<Doubt>) -> Option<End> {
    if depth == 0 {
        return None;
    }
    for rule in table.in_chain(chain) {
        let certain = match matches(rule, port) {
            Match::No => continue,
            Match::Yes => true,
            Match::Maybe => false,
        };
        let end = match rule.value("-j").or_else(|| rule.value("-g")) {
            Some("ACCEPT") => Some(End::Accept),
            Some("DROP" | "REJECT") => Some(End::Refuse(rule.to_string())),
            Some("RETURN") if certain => return None,
            Some(target) if table.chains.contains_key(target) => walk(table, target, port, depth - 1, doubt),
            _ => None,
        };
        match end {
            Some(end) if certain => return Some(end),
            // Any way in or out that depends on the source: a way in weighs more, it may be the balancer's.
            Some(End::Accept) => *doubt = Some(Doubt::Accepts),
            Some(End::Refuse(by)) if doubt.is_none() => *doubt = Some(Doubt::Refuses(by)),
            _ => {}
        }
    }
    None
}

enum Match {
    Yes,
    No,
    Maybe,
}

/// A first packet of a TCP connection, state NEW, from nobody knows where, not through loopback.
fn matches(rule: &Rule, port: Port) -> Match {
    if rule.has("!") {
        return Match::Maybe;
    }
    let mut words = rule.words.iter().map(String::as_str);
    let mut answer = Match::Yes;
    while let Some(word) = words.next() {
        let one = match word {
            "-j" | "-g" => break,
            "-m" => match words.next() {
                Some("tcp" | "comment" | "state" | "conntrack" | "multiport") => Match::Yes,
                Some("udp" | "icmp" | "icmp6") => Match::No,
                _ => Match::Maybe,
            },
            "-p" => match words.next() {
                Some("tcp") => Match::Yes,
                _ => Match::No,
            },
            "--dport" | "--dports" => among(words.next().unwrap_or(""), port),
            "--comment" => {
                words.next();
                Match::Yes
            }
            "--state" | "--ctstate" => has_new(words.next().unwrap_or("")),
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

fn has_new(states: &str) -> Match {
    if states.split(',').any(|state| state == "NEW") { Match::Yes } else { Match::No }
}

/// `80`, `80,443`, `8000:8999`.
pub fn names_port(list: &str, port: Port) -> bool {
    list.split(',').any(|part| match part.split_once(':') {
        Some((low, high)) => {
            let bound = |text: &str, default| if text.is_empty() { Ok(default) } else { text.parse::<u16>() };
            matches!((bound(low, 0), bound(high, u16::MAX)), (Ok(low), Ok(high)) if (low..=high).contains(&port.get()))
        }
        None => part.parse() == Ok(port.get()),
    })
}

fn among(list: &str, port: Port) -> Match {
    if names_port(list, port) { Match::Yes } else { Match::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(policy: &str, rules: &[&str]) -> Table {
        let mut table = Table::default();
        table.chains.insert("INPUT".into(), Some(policy.into()));
        table.chains.insert("ufw".into(), None);
        table.rules = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
        table
    }

    fn fate_of(policy: &str, rules: &[&str]) -> Fate {
        fate(&table(policy, rules), Port::new(8080).unwrap())
    }

    fn refused(by: &str) -> Fate {
        Fate::Refused { by: by.into() }
    }

    #[test]
    fn an_open_host_accepts() {
        assert_eq!(fate_of("ACCEPT", &[]), Fate::Accepted);
        assert_eq!(fate(&Table::default(), Port::new(80).unwrap()), Fate::Accepted);
    }

    #[test]
    fn the_usual_server_rules_hide_the_real_port() {
        let usual = [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 8888 -j ACCEPT",
            "-A INPUT -p udp -m udp --dport 8080 -j ACCEPT",
        ];
        assert_eq!(fate_of("DROP", &usual), refused("the policy DROP of INPUT"));
        let reject = "-A INPUT -j REJECT --reject-with icmp-port-unreachable";
        let with_reject = [&usual[..], &[reject]].concat();
        assert_eq!(fate_of("ACCEPT", &with_reject), refused(reject));
        for way_in in ["--dport 8080", "-m multiport --dports 80,8080", "-m multiport --dports 8000:8999"] {
            let rule = format!("-A INPUT -p tcp -m tcp {way_in} -j ACCEPT");
            assert_eq!(fate_of("DROP", &[&usual[..], &[rule.as_str()]].concat()), Fate::Accepted, "{rule}");
        }
    }

    #[test]
    fn a_rule_for_some_sources_leaves_it_open() {
        let from = "-A INPUT -s 10.0.0.2/32 -p tcp -m tcp --dport 8080 -j ACCEPT";
        assert_eq!(fate_of("DROP", &[from]), Fate::Depends { on: "the policy DROP of INPUT".into() });
        let ban = "-A INPUT -s 192.0.2.0/24 -j DROP";
        assert_eq!(fate_of("ACCEPT", &[ban]), Fate::Depends { on: ban.into() });
        assert_eq!(fate_of("DROP", &[ban]), refused("the policy DROP of INPUT"));
    }

    #[test]
    fn chains_are_followed_and_returned_from() {
        let rules = [
            "-A INPUT -j ufw",
            "-A ufw -p tcp -m tcp --dport 22 -j ACCEPT",
            "-A ufw -j RETURN",
            "-A ufw -j DROP",
        ];
        assert_eq!(fate_of("DROP", &rules), refused("the policy DROP of INPUT"));
        let rules = ["-A INPUT -j ufw", "-A ufw -p tcp -m tcp --dport 8080 -j ACCEPT"];
        assert_eq!(fate_of("DROP", &rules), Fate::Accepted);
    }
}
