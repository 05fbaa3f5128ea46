//! The requests that a mirror copies.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A path pattern that is not a glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a path pattern: {reason}", .pattern.escape_debug())]
pub struct PatternError {
    pub pattern: String,
    pub reason: String,
}

/// Methods and paths; empty: all.
#[derive(Debug, Clone)]
pub struct RequestFilter {
    methods: Vec<String>,
    paths: Option<GlobSet>,
}

impl RequestFilter {
    /// `*` stays within a segment, `**` does not.
    pub fn new(methods: &[String], paths: &[String]) -> Result<Self, PatternError> {
        let mut set = GlobSetBuilder::new();
        for pattern in paths {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            set.add(glob.map_err(|error| build_error(pattern, &error))?);
        }
        let set = set.build().map_err(|error| build_error("", &error))?;
        let methods = methods.iter().map(|method| method.to_ascii_uppercase()).collect();
        Ok(Self { methods, paths: (!paths.is_empty()).then_some(set) })
    }

    pub fn matches_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|wanted| wanted == method)
    }

    /// Whether a path, without its query, is copied.
    pub fn matches_path(&self, path: &str) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.is_match(path))
    }
}

fn build_error(pattern: &str, error: &globset::Error) -> PatternError {
    PatternError { pattern: pattern.to_owned(), reason: error.kind().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_filter(methods: &[&str], paths: &[&str]) -> Result<RequestFilter, PatternError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        RequestFilter::new(&owned(methods), &owned(paths))
    }

    #[test]
    fn filter_without_patterns_matches_every_request() {
        let all = build_filter(&[], &[]).unwrap();
        assert!(all.matches_method("BREW") && all.matches_path("/") && all.matches_path("*"));
    }

    #[test]
    fn star_matches_within_one_segment() {
        let some = build_filter(&["get", "POST"], &["/api/*/price", "/v2/**"]).unwrap();
        assert!(
            some.matches_method("GET")
                && some.matches_method("POST")
                && !some.matches_method("PUT")
                && !some.matches_method("get")
        );
        for (path, matches) in [
            ("/api/7/price", true),
            ("/api/7/8/price", false),
            ("/api//price", true),
            ("/v2/a/b/c", true),
            ("/v2", false),
            ("/v20", false),
        ] {
            assert_eq!(some.matches_path(path), matches, "{path}");
        }
    }

    #[test]
    fn invalid_pattern_is_named_in_the_error() {
        let error = build_filter(&[], &["/ok", "/a["]).unwrap_err();
        assert!(error.to_string().starts_with("`/a[` is not a path pattern: "), "{error}");
    }
}
