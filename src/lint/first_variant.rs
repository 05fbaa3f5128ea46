//! The files with the first branch of every condition, for readers that need one text.

use super::cfg::ParsedCfg;
use super::conditions::list_variants;
use super::source::{HaproxyCfg, LineMap};

/// Parses the files with the first branch of every condition.
pub(super) fn parse_first_variant(source: &HaproxyCfg, map: &LineMap) -> ParsedCfg {
    let lines: Vec<&str> = source.files.iter().flat_map(|file| file.text.lines()).collect();
    let first = list_variants(&lines).lines.into_iter().next().unwrap_or_default();
    let numbered = first.iter().filter_map(|at| Some((at + 1, *lines.get(*at)?)));
    ParsedCfg::parse_lines(numbered, &map.list_starts())
}
