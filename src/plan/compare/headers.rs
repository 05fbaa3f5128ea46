//! The header fields that a client acts on.

use std::collections::BTreeSet;

use super::redact;
use super::seen::Seen;
use crate::model::compare::{Answer, HeaderHow, HeaderRule};
use crate::model::evidence::Kind;
use crate::model::field::Field;

pub(super) fn compare(rule: &HeaderRule, main: &Answer, shadow: &Answer, seen: &mut Seen) {
    let (ours, theirs) = (values(main, &rule.name), values(shadow, &rule.name));
    let field = Field::Header(rule.name.clone());
    let kind = match (ours.is_empty(), theirs.is_empty()) {
        (true, true) => return,
        (false, true) => Kind::Missing,
        (true, false) => Kind::Extra,
        (false, false) if same(rule.how, &ours, &theirs) => return seen.same(field),
        (false, false) => Kind::Value,
    };
    seen.differ(field, kind, || (show(rule, &ours), show(rule, &theirs)));
}

/// The first value of a field, blanks at the ends apart.
pub(super) fn first<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    values(answer, name).first().copied()
}

fn values<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.trim()).collect()
}

fn same(how: HeaderHow, main: &[&str], shadow: &[&str]) -> bool {
    match how {
        HeaderHow::Value => main == shadow,
        HeaderHow::Words => words(main) == words(shadow),
        HeaderHow::Presence => true,
        HeaderHow::CookieNames => cookies(main) == cookies(shadow),
    }
}

fn words(values: &[&str]) -> BTreeSet<String> {
    let words = values.iter().flat_map(|value| value.split([',', ';']));
    words.map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty()).collect()
}

fn cookies<'a>(values: &[&'a str]) -> BTreeSet<&'a str> {
    values.iter().map(|value| value.split(['=', ';']).next().unwrap_or_default().trim()).collect()
}

fn show(rule: &HeaderRule, values: &[&str]) -> String {
    if values.is_empty() {
        return "(absent)".into();
    }
    let cookies = || cookies(values).into_iter().map(redact::text).collect::<Vec<_>>().join(", ");
    match rule.how {
        HeaderHow::Presence => "(there)".into(),
        HeaderHow::CookieNames => redact::shown(&format!("cookies {}", cookies())),
        HeaderHow::Value | HeaderHow::Words if redact::is_secret(&rule.name) => "(hidden)".into(),
        HeaderHow::Value | HeaderHow::Words => redact::shown(&redact::target(&values.join(", "))),
    }
}
