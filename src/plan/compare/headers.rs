//! The header fields that a client acts on.

use std::collections::BTreeSet;

use super::differences::{Difference, Differences};
use super::redact;
use crate::model::compare::{CapturedResponse, ComparisonRules, HeaderComparison, HeaderRule};
use crate::model::evidence::DifferenceKind;
use crate::model::field::Field;

pub(super) fn compare(
    rule: &HeaderRule,
    main: &CapturedResponse,
    shadow: &CapturedResponse,
    differences: &mut Differences,
) {
    let (ours, theirs) = (read_values(main, &rule.name), read_values(shadow, &rule.name));
    let field = Field::Header(rule.name.clone());
    let kind = match (ours.is_empty(), theirs.is_empty()) {
        (true, true) => return,
        (false, true) => DifferenceKind::Missing,
        (true, false) => DifferenceKind::Extra,
        (false, false) if are_equal(rule.how, &ours, &theirs) => return differences.add_equal(field),
        (false, false) => DifferenceKind::Value,
    };
    differences.add_difference(field, kind, || (format_values(rule, &ours), format_values(rule, &theirs)));
}

/// Limit of the fields without a rule in one pair of answers.
const MAX_OTHERS: usize = 64;

/// Looks at the fields that no rule compares: their values are not shown, because any of them may be a secret.
pub(super) fn compare_others(
    rules: &ComparisonRules,
    main: &CapturedResponse,
    shadow: &CapturedResponse,
    differences: &mut Differences,
) {
    let names = main.headers.iter().chain(&shadow.headers).map(|(name, _)| name);
    let names: BTreeSet<&String> = names.filter(|name| !rules.has_rule_for(name)).collect();
    for name in names.into_iter().take(MAX_OTHERS) {
        let (ours, theirs) = (read_values(main, name), read_values(shadow, name));
        let kind = match (ours.is_empty(), theirs.is_empty()) {
            (false, true) => Some(DifferenceKind::Missing),
            (true, false) => Some(DifferenceKind::Extra),
            _ => (ours != theirs).then_some(DifferenceKind::Value),
        };
        let show = |values: &[&str]| if values.is_empty() { "(absent)" } else { "(there)" }.to_owned();
        let difference = kind.map(|kind| Difference { kind, main: show(&ours), shadow: show(&theirs) });
        differences.others.insert(Field::Header(name.clone()), difference);
    }
}

/// The first value of a field, blanks at the ends apart.
pub(super) fn find_first_value<'a>(answer: &'a CapturedResponse, name: &str) -> Option<&'a str> {
    read_values(answer, name).first().copied()
}

fn read_values<'a>(answer: &'a CapturedResponse, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.trim()).collect()
}

fn are_equal(how: HeaderComparison, main: &[&str], shadow: &[&str]) -> bool {
    match how {
        HeaderComparison::Value => main == shadow,
        HeaderComparison::Tokens => split_tokens(main) == split_tokens(shadow),
        HeaderComparison::Presence => true,
        HeaderComparison::CookieNames => parse_cookie_names(main) == parse_cookie_names(shadow),
    }
}

fn split_tokens(values: &[&str]) -> BTreeSet<String> {
    let words = values.iter().flat_map(|value| value.split([',', ';']));
    words.map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty()).collect()
}

fn parse_cookie_names<'a>(values: &[&'a str]) -> BTreeSet<&'a str> {
    values.iter().map(|value| value.split(['=', ';']).next().unwrap_or_default().trim()).collect()
}

fn format_values(rule: &HeaderRule, values: &[&str]) -> String {
    if values.is_empty() {
        return "(absent)".into();
    }
    let cookies =
        || parse_cookie_names(values).into_iter().map(redact::redact_text).collect::<Vec<_>>().join(", ");
    match rule.how {
        HeaderComparison::Presence => "(there)".into(),
        HeaderComparison::CookieNames => redact::quote_value(&format!("cookies {}", cookies())),
        HeaderComparison::Value | HeaderComparison::Tokens if redact::is_secret(&rule.name) => {
            "(hidden)".into()
        }
        HeaderComparison::Value | HeaderComparison::Tokens => {
            redact::quote_value(&redact::redact_target(&values.join(", ")))
        }
    }
}
