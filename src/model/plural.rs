//! A number with its noun: `1 host`, `2 hosts`, `3 batches`.

use std::fmt;

/// A number and the singular of its noun, which may have words before it: `idle connection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<'a, N>(pub N, pub &'a str);

impl<N: fmt::Display> fmt::Display for Count<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, noun) = self;
        let number = number.to_string();
        let ending = match number.as_str() {
            "1" => "",
            _ if ["ch", "sh", "s", "x"].iter().any(|end| noun.ends_with(end)) => "es",
            _ => "s",
        };
        f.pad(&format!("{number} {noun}{ending}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(Count(1, "idle connection").to_string(), "1 idle connection");
        assert_eq!(Count(0, "idle connection").to_string(), "0 idle connections");
        assert_eq!(Count(1, "batch").to_string(), "1 batch");
        assert_eq!(Count(2u64, "batch").to_string(), "2 batches");
        assert_eq!(Count("1,204", "request").to_string(), "1,204 requests");
    }
}
