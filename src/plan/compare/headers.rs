//! The header fields that a client acts on.

use std::collections::BTreeSet;

use super::differences::Differences;
use super::redact;
use crate::model::compare::{CapturedResponse, HeaderComparison, HeaderRule};
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
