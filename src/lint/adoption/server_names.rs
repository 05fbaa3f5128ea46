//! The names of hosts, and the patterns of their server lines, from the names of the lines.

use crate::lint::server_pattern::extract_host;
use crate::model::balancer::ServerNames;

/// The names of the lines of a host: the main vhost, and the backup vhost if it has a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineNames<'a> {
    pub main: &'a str,
    pub backup: Option<&'a str>,
}

/// Derives the patterns, and the name of each host by them. `None`: no pattern fits all lines. `taken` are names that a new
/// backup line may not have.
pub(super) fn derive_server_names(
    lines: &[LineNames<'_>],
    taken: &[String],
) -> Option<(ServerNames, Vec<String>)> {
    list_patterns(lines, taken).into_iter().find_map(|names| {
        let hosts = lines.iter().map(|line| read_host(line, &names)).collect::<Option<Vec<_>>>()?;
        Some((names, hosts))
    })
}

/// Patterns to try, the most likely first.
fn list_patterns(lines: &[LineNames<'_>], taken: &[String]) -> Vec<ServerNames> {
    let mut found = vec![ServerNames::default()];
    let pair = lines.iter().find_map(|line| Some((line.main, line.backup?)));
    if let Some((main, backup)) = pair {
        found.extend(list_common_parts(main, backup));
        return found;
    }
    let patterns = ["backup-{host}", "{host}-backup", "{host}-switchman-backup"];
    let is_free = |pattern: &&str| {
        let mut new = lines.iter().map(|line| pattern.replace("{host}", line.main));
        new.all(|name| !taken.contains(&name))
    };
    let patterns = patterns.into_iter().filter(is_free);
    found.extend(patterns.map(|backup| ServerNames { main: "{host}".into(), backup: backup.into() }));
    found
}

/// Longer names are not searched for a common part: the time grows with the third power of the length.
const MAX_LENGTH: usize = 128;

/// The patterns by which a part that two names have in common is the host: first those whose part is a word of both, then
/// the others, each from the longest part.
fn list_common_parts(main: &str, backup: &str) -> Vec<ServerNames> {
    if main.len().max(backup.len()) > MAX_LENGTH {
        return vec![];
    }
    let mut found = Vec::new();
    for (start, _) in main.char_indices() {
        for end in (start + 1..=main.len()).filter(|end| main.is_char_boundary(*end)) {
            let part = &main[start..end];
            let is_whole = part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric());
            for (at, _) in backup.match_indices(part).filter(|_| is_whole) {
                let rests = [&main[..start], &main[end..], &backup[..at], &backup[at + part.len()..]];
                let is_word = !rests[0].ends_with(is_inner)
                    && !rests[1].starts_with(is_inner)
                    && !rests[2].ends_with(is_inner)
                    && !rests[3].starts_with(is_inner);
                let names = ServerNames {
                    main: format!("{}{{host}}{}", rests[0], rests[1]),
                    backup: format!("{}{{host}}{}", rests[2], rests[3]),
                };
                found.push((!is_word, usize::MAX - part.len(), names));
            }
        }
    }
    found.sort_by_key(|(is_part, length, _)| (*is_part, *length));
    found.into_iter().map(|(_, _, names)| names).filter(|names| names.main != names.backup).collect()
}

const fn is_inner(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn read_host(line: &LineNames<'_>, names: &ServerNames) -> Option<String> {
    let host = extract_host(line.main, &names.main)?;
    let is_same = line.backup.is_none_or(|backup| extract_host(backup, &names.backup) == Some(host));
    is_same.then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(lines: &[(&str, &str)], taken: &[&str]) -> Option<(String, String, Vec<String>)> {
        let lines: Vec<LineNames<'_>> = lines
            .iter()
            .map(|(main, backup)| LineNames { main, backup: (!backup.is_empty()).then_some(*backup) })
            .collect();
        let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
        derive_server_names(&lines, &taken).map(|(names, hosts)| (names.main, names.backup, hosts))
    }

    fn names(main: &str, backup: &str, hosts: &[&str]) -> Option<(String, String, Vec<String>)> {
        Some((main.to_owned(), backup.to_owned(), hosts.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn patterns_are_derived_from_pairs() {
        let default = names("main-{host}", "backup-{host}", &["web1", "web2"]);
        assert_eq!(derive(&[("main-web1", "backup-web1"), ("main-web2", "backup-web2")], &[]), default);
        assert_eq!(
            derive(&[("web1", "web1-backup"), ("web2", "")], &[]),
            names("{host}", "{host}-backup", &["web1", "web2"])
        );
        assert_eq!(
            derive(&[("web1-main", "web1-backup"), ("web2-main", "web2-backup")], &[]),
            names("{host}-main", "{host}-backup", &["web1", "web2"])
        );
        assert_eq!(
            derive(&[("app1", "spare1"), ("app2", "spare2")], &[]),
            names("app{host}", "spare{host}", &["1", "2"])
        );
        assert_eq!(derive(&[("a", "b"), ("c", "d")], &[]), None);
        assert_eq!(derive(&[("web1", "web2-backup"), ("web2", "web1-backup")], &[]), None);
    }

    #[test]
    fn names_without_backup_lines_are_hosts() {
        assert_eq!(derive(&[("main-a", "")], &[]), names("main-{host}", "backup-{host}", &["a"]));
        assert_eq!(derive(&[("a", ""), ("b", "")], &[]), names("{host}", "backup-{host}", &["a", "b"]));
        assert_eq!(derive(&[("a", "")], &["backup-a"]), names("{host}", "{host}-backup", &["a"]));
    }
}
