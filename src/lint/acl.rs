//! Conditions of rules and the ACLs in them (configuration manual, 7.1 and 7.2).

use super::cfg::{ParsedCfg, Section, Statement};

/// The condition of a rule: terms that all have to match, or those of another group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition<'a> {
    pub is_unless: bool,
    pub groups: Vec<Vec<Term<'a>>>,
    /// A `{` has no `}`.
    pub is_unclosed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Term<'a> {
    pub is_negated: bool,
    pub test: Test<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test<'a> {
    /// An ACL of the section.
    Named(&'a str),
    /// `{ FETCH FLAGS VALUES }`.
    Expression(&'a [String]),
}

/// ACLs that HAProxy defines itself.
const PREDEFINED: [&str; 22] = [
    "FALSE",
    "HTTP",
    "HTTP_1.0",
    "HTTP_1.1",
    "HTTP_2.0",
    "HTTP_3.0",
    "HTTP_CONTENT",
    "HTTP_URL_ABS",
    "HTTP_URL_SLASH",
    "HTTP_URL_STAR",
    "LOCALHOST",
    "METH_CONNECT",
    "METH_DELETE",
    "METH_GET",
    "METH_HEAD",
    "METH_OPTIONS",
    "METH_POST",
    "METH_PUT",
    "METH_TRACE",
    "RDP_COOKIE",
    "REQ_CONTENT",
    "WAIT_END",
];

pub(super) fn is_predefined(name: &str) -> bool {
    name == "TRUE" || PREDEFINED.contains(&name)
}

/// First words of the lines that can have a condition.
const RULES: [&str; 18] = [
    "use_backend",
    "force-be-switch",
    "use-server",
    "redirect",
    "monitor",
    "force-persist",
    "ignore-persist",
    "stick",
    "stats",
    "http-request",
    "http-response",
    "http-after-response",
    "tcp-request",
    "tcp-response",
    "quic-initial",
    "block",
    "http-check",
    "use-fcgi-app",
];

/// The condition of a rule, or `None` for a line without one.
pub(super) fn parse_condition(line: &Statement) -> Option<Condition<'_>> {
    let first = line.word(0)?;
    if !RULES.contains(&first) || first == "http-check" {
        return None;
    }
    let at = line.words.iter().position(|word| word == "if" || word == "unless")?;
    let words = &line.words[at + 1..];
    let mut found = Condition { is_unless: line.words[at] == "unless", groups: vec![], is_unclosed: false };
    let (mut group, mut is_negated, mut at) = (Vec::new(), false, 0);
    while let Some(word) = words.get(at) {
        at += 1;
        let bare = word.trim_start_matches('!');
        is_negated ^= (word.len() - bare.len()) % 2 == 1;
        match bare {
            "" => continue,
            "or" | "||" => found.groups.push(std::mem::take(&mut group)),
            "{" => {
                let length = words[at..].iter().position(|word| word == "}");
                found.is_unclosed |= length.is_none();
                let end = length.map_or(words.len(), |length| at + length);
                group.push(Term { is_negated, test: Test::Expression(&words[at..end]) });
                at = end + 1;
            }
            name => group.push(Term { is_negated, test: Test::Named(name) }),
        }
        is_negated = false;
    }
    found.groups.push(group);
    Some(found)
}

/// The expressions of a named ACL in a section: each `acl` line adds one, and one has to match.
pub(super) fn list_acls<'a>(cfg: &'a ParsedCfg, section: &'a Section, name: &str) -> Vec<&'a [String]> {
    let chain = cfg.inheritance_chain(section).into_iter().flat_map(|section| &section.lines);
    let lines = chain.filter(|line| line.word(0) == Some("acl") && line.word(1) == Some(name));
    lines.map(|line| line.words.get(2..).unwrap_or_default()).collect()
}

/// `FETCH(ARGUMENTS),CONVERTERS` of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    pub fetch: &'a str,
    pub arguments: &'a str,
    /// `,CONVERTER(ARGUMENTS)...`, or nothing.
    pub converters: &'a str,
}

impl<'a> Sample<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let end = text.find(['(', ',']).unwrap_or(text.len());
        let (fetch, rest) = text.split_at(end);
        let (arguments, converters) = match rest.strip_prefix('(') {
            Some(inner) => split_arguments(inner),
            None => ("", rest),
        };
        Self { fetch, arguments, converters }
    }

    /// The names of the converters.
    pub(super) fn list_converters(&self) -> Vec<&'a str> {
        let (mut names, mut rest) = (Vec::new(), self.converters);
        while let Some(text) = rest.strip_prefix(',') {
            let end = text.find(['(', ',']).unwrap_or(text.len());
            names.push(&text[..end]);
            rest = &text[end..];
            if let Some(inner) = rest.strip_prefix('(') {
                rest = split_arguments(inner).1;
            }
        }
        names
    }
}

/// The text up to the matching `)`, and what follows.
fn split_arguments(text: &str) -> (&str, &str) {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match (c, quote) {
            _ if is_escaped => is_escaped = false,
            ('\\', _) => is_escaped = true,
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            ('(', None) => depth += 1,
            (')', None) if depth == 0 => return (&text[..at], &text[at + 1..]),
            (')', None) => depth -= 1,
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        let words = text.split(' ').map(str::to_owned).collect();
        let line = Statement { number: 1, words, is_open: false };
        let Some(found) = parse_condition(&line) else { return "none".into() };
        let terms = found.groups.iter().map(|group| {
            let texts = group.iter().map(|term| {
                let sign = if term.is_negated { "!" } else { "" };
                match term.test {
                    Test::Named(name) => format!("{sign}{name}"),
                    Test::Expression(words) => format!("{sign}{{{}}}", words.join(" ")),
                }
            });
            texts.collect::<Vec<_>>().join("&")
        });
        terms.collect::<Vec<_>>().join("|") + if found.is_unclosed { "?" } else { "" }
    }

    #[test]
    fn conditions_are_groups_of_terms() {
        assert_eq!(parse("use_backend x"), "none");
        assert_eq!(parse("server if { x }"), "none");
        assert_eq!(
            parse("use_backend x if a !b or { path /x } || ! { src 1.1.1.1 }"),
            "a&!b|{path /x}|!{src 1.1.1.1}"
        );
        assert_eq!(parse("http-request deny if { path /x"), "{path /x}?");
        assert_eq!(parse("http-request deny if !{ srv_is_up(a/b) }"), "!{srv_is_up(a/b)}");
    }

    #[test]
    fn samples_are_fetch_arguments_and_converters() {
        let found = Sample::parse("req.hdr(x,\")\"),lower,regsub(\\(a\\),b),nbsrv");
        assert_eq!((found.fetch, found.arguments), ("req.hdr", "x,\")\""));
        assert_eq!(found.list_converters(), ["lower", "regsub", "nbsrv"]);
        let plain = Sample::parse("path,lower");
        assert_eq!((plain.fetch, plain.arguments, plain.list_converters()), ("path", "", vec!["lower"]));
        assert_eq!(Sample::parse("src").list_converters(), Vec::<&str>::new());
    }
}
