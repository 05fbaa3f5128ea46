//! The ports that rules of others match.

use crate::model::ports::Port;
use crate::model::rules::Rule;
use crate::plan::input_filter::includes_port;

/// Returns whether the ports after an option of a rule include a port.
pub fn rule_names_port(rule: &Rule, option: &str, port: Port) -> bool {
    rule.option_value(option).is_some_and(|list| includes_port(list, port))
}
