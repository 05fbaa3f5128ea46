//! Names of fetches and converters in expressions.

use super::acl::Sample;
use super::vocabulary::is_word;

/// Why HAProxy refuses an expression: its fetch or one of its converters is known to no version.
pub(super) fn refuse_sample(text: &str, is_acl: bool) -> Option<String> {
    if text.contains('$') {
        return None;
    }
    let sample = Sample::parse(text);
    let fetch = sample.fetch;
    if fetch.is_empty() {
        return Some("an expression has no fetch".to_owned());
    }
    let is_known = is_word("fetch", fetch) || (is_acl && is_word("acl", fetch));
    if !is_known && !fetch.starts_with("lua.") && !fetch.starts_with(['"', '\'', '!', '-']) {
        return Some(format!("no HAProxy from 2.6 to 3.4 knows the fetch `{fetch}`"));
    }
    let is_unknown =
        |name: &&str| !name.is_empty() && !is_word("converter", name) && !name.starts_with("lua.");
    let converter = sample.list_converters().into_iter().find(is_unknown)?;
    Some(format!("no HAProxy from 2.6 to 3.4 knows the converter `{converter}`"))
}
