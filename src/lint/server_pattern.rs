//! Patterns of the names of server lines, such as `main-{host}`.

/// Returns the host in the name of a server line, by the pattern of such names.
pub(super) fn extract_host<'a>(name: &'a str, pattern: &str) -> Option<&'a str> {
    let (before, after) = pattern.split_once("{host}")?;
    name.strip_prefix(before)?.strip_suffix(after).filter(|host| !host.is_empty())
}
