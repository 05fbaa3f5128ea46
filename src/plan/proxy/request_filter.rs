//! Which requests a mirror is about.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A glob that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a path pattern: {why}", .pattern.escape_debug())]
pub struct PatternError {
    pub pattern: String,
    pub why: String,
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

    pub fn method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|wanted| wanted == method)
    }

    /// Without its query.
    pub fn path(&self, path: &str) -> bool {
        self.paths.as_ref().is_none_or(|paths| paths.is_match(path))
    }
}

fn build_error(pattern: &str, error: &globset::Error) -> PatternError {
    PatternError { pattern: pattern.to_owned(), why: error.kind().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_filter(methods: &[&str], paths: &[&str]) -> Result<RequestFilter, PatternError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        RequestFilter::new(&owned(methods), &owned(paths))
    }

    #[test]
    fn nothing_asked_for_is_everything() {
        let all = build_filter(&[], &[]).unwrap();
        assert!(all.method("BREW") && all.path("/") && all.path("*"));
    }

    #[test]
    fn a_star_stays_within_a_segment() {
        let some = build_filter(&["get", "POST"], &["/api/*/price", "/v2/**"]).unwrap();
        assert!(some.method("GET") && some.method("POST") && !some.method("PUT") && !some.method("get"));
        for (path, matches) in [
            ("/api/7/price", true),
            ("/api/7/8/price", false),
            ("/api//price", true),
            ("/v2/a/b/c", true),
            ("/v2", false),
            ("/v20", false),
        ] {
            assert_eq!(some.path(path), matches, "{path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let error = build_filter(&[], &["/ok", "/a["]).unwrap_err();
        assert!(error.to_string().starts_with("`/a[` is not a path pattern: "), "{error}");
    }
}
