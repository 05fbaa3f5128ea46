//! The ports that rules of others match, in iptables and in native nftables.

use crate::model::ports::Port;
use crate::model::rules::Rule;
use crate::plan::input_filter::includes_port;

/// Whether a native statement matches a port.
pub fn statement_matches(statement: &str, port: Port) -> bool {
    let words = statement.split(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | '}'));
    // What comes before the verdict is matched; `redirect to :8888` would be its target.
    let mut matched = words.take_while(|word| !matches!(*word, "redirect" | "dnat"));
    matched.any(|word| includes_port(&word.replace('-', ":"), port))
}

/// Returns whether the ports after an option of a rule include a port.
pub fn rule_names_port(rule: &Rule, option: &str, port: Port) -> bool {
    rule.option_value(option).is_some_and(|list| includes_port(list, port))
}
