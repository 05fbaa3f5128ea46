//! Checks of single values, and the faults they report.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_yaml::Spanned;

use crate::config::fields::ConfigDuration;
use crate::config::problem::{ConfigFault, ConfigProblem};

/// haproxy.cfg, 4: what a section may be called.
/// Whether ssh takes the text for a destination, and neither for an option nor for anything to expand.
pub(super) fn is_ssh_destination(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@._-:[]".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

pub(super) fn is_haproxy_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c))
}

/// A time of zero would mean for ever, or never, in turn: refused everywhere.
pub(super) fn check_duration(
    setting: Option<&Spanned<ConfigDuration>>,
    key: &str,
) -> Result<Option<Duration>, ConfigFault> {
    match setting {
        Some(zero) if zero.value.0.is_zero() => {
            Err(build_wrong_value(zero, key, "0".to_owned(), "a time above zero"))
        }
        setting => Ok(setting.map(|time| time.value.0)),
    }
}

pub(super) fn check_count(setting: Option<&Spanned<u32>>, key: &str) -> Result<Option<u32>, ConfigFault> {
    match setting {
        Some(number) if !(1..=100).contains(&number.value) => {
            Err(build_wrong_value(number, key, number.value.to_string(), "a number from 1 to 100"))
        }
        setting => Ok(setting.map(|number| number.value)),
    }
}

pub(super) fn check_unique<'a, T>(
    seen: &mut BTreeMap<&'a str, u64>,
    name: &'a str,
    setting: &Spanned<T>,
    key: impl Fn() -> String,
) -> Result<(), ConfigFault> {
    match seen.insert(name, line_number(setting)) {
        Some(first) => Err(build_other_problem(
            line_number(setting),
            &key(),
            &format!("`{name}` is already the name in line {first}"),
        )),
        None => Ok(()),
    }
}

pub(super) fn line_number<T>(setting: &Spanned<T>) -> u64 {
    setting.referenced.line()
}

pub(super) fn quote(text: &str) -> String {
    format!("`{}`", text.escape_debug())
}

pub(super) fn build_wrong_value<T>(
    setting: &Spanned<T>,
    key: &str,
    found: String,
    expected: &str,
) -> ConfigFault {
    let problem = ConfigProblem::WrongValue { found, expected: expected.to_owned() };
    ConfigFault { line: line_number(setting), key: Some(key.to_owned()), problem }
}

pub(super) fn build_other_problem(line: u64, key: &str, text: &str) -> ConfigFault {
    ConfigFault { line, key: Some(key.to_owned()), problem: ConfigProblem::Other(text.to_owned()) }
}
