//! Kernel port rules: what a nat table holds, what it should hold, and the transaction between the two.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::ServiceName;
use super::port_forward::Forward;
use super::ports::Port;

#[cfg(test)]
pub mod simulate;

/// Our own chain of the nat table. The chain is ours as a whole; outside it, a rule is ours by its comment.
pub const CHAIN: &str = "SWITCHMAN";
/// Comment of the rule that keeps the kernel's connection tracking going while no forward is on: tracking ends with the
/// last rule that needs it, and with it the translation of every open connection (`tests/it/open_connections.rs`).
pub const ANCHOR_COMMENT: &str = "switchman:anchor";
/// Comment of the jump into our chain.
pub const JUMP_COMMENT: &str = "switchman:jump";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The stem of the command names: `iptables`, `ip6tables`.
    pub const fn command_stem(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The two kernels' worth of iptables. Rules of both are live at once, and each tool sees only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    NfTables,
    Legacy,
}

impl Variant {
    /// The middle of the command names: `iptables-nft-restore`, `iptables-legacy-restore`.
    pub const fn infix(self) -> &'static str {
        match self {
            Self::NfTables => "nft",
            Self::Legacy => "legacy",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NfTables => "nf_tables",
            Self::Legacy => "legacy",
        })
    }
}

/// Builds the jump into our chain. Only packets for this host: without `--dst-type LOCAL` forwarded (container) traffic would
/// be taken as well.
pub fn build_jump_rule(chain: &str) -> Rule {
    let words =
        ["-m", "addrtype", "--dst-type", "LOCAL", "-m", "comment", "--comment", JUMP_COMMENT, "-j", CHAIN];
    Rule { chain: chain.to_owned(), words: words.map(str::to_owned).to_vec() }
}

/// A `-A CHAIN ...` line of `iptables-save`, unquoted and cut into words; the chain is not among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub chain: String,
    pub words: Vec<String>,
}

impl Rule {
    /// Reads a `-A CHAIN ...` line of `iptables-save`; `None` for anything else.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = split_words(line)?.into_iter();
        if words.next()? != "-A" {
            return None;
        }
        Some(Self { chain: words.next()?, words: words.collect() })
    }

    /// The word after `option`, such as the text after `--comment`.
    pub fn option_value(&self, option: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == option)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub fn has_option(&self, option: &str) -> bool {
        self.words.iter().any(|word| word == option)
    }

    /// Ours: in our chain, or carrying a comment of ours.
    pub fn is_ours(&self) -> bool {
        self.chain == CHAIN
            || self.option_value("--comment").is_some_and(|text| text.starts_with("switchman:"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {}", self.chain)?;
        for word in &self.words {
            if word.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\\' | ':')) || word.is_empty()
            {
                write!(f, " \"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))?;
            } else {
                write!(f, " {word}")?;
            }
        }
        Ok(())
    }
}

/// Cuts a line as iptables-save quotes it: `"` holds blanks together, `\` takes the next character as it is.
/// `None` when a quote is left open.
pub fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

/// A table of one family and variant, as `iptables-save -t TABLE` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Chain -> policy; user-defined chains have none (`-`).
    pub chains: BTreeMap<String, Option<String>>,
    /// In the kernel's order.
    pub rules: Vec<Rule>,
    /// Chains that iptables cannot print, because a native rule of nftables is in them. Of their rules only our jump is listed.
    pub unprintable_chains: Vec<String>,
}

impl Table {
    pub fn rules_in_chain<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }

    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }
}

/// The tables of both variants for one family. A variant that is not there (no command, or no table in the kernel) is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The variant that the command `iptables` runs.
    pub default: Variant,
    pub nf_tables: Option<Table>,
    pub legacy: Option<Table>,
}

impl Tables {
    pub fn of(&self, variant: Variant) -> Option<&Table> {
        match variant {
            Variant::NfTables => self.nf_tables.as_ref(),
            Variant::Legacy => self.legacy.as_ref(),
        }
    }
}

/// The purpose of a redirect of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectKind {
    /// check port -> where main really answers. Its absence is maintenance.
    Forward,
    /// Main's data port -> where main really answers.
    Route,
    /// The backup vhost's data port -> where the backup version really answers.
    Backup,
}

impl RedirectKind {
    pub const ALL: [Self; 3] = [Self::Forward, Self::Route, Self::Backup];

    /// The last part of the comment on its rule.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Route => "route",
            Self::Backup => "backup",
        }
    }
}

/// A redirect of one port to another one of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub service: ServiceName,
    pub kind: RedirectKind,
    pub port: Port,
    /// The rule takes one of this many connections that reach it; 1: every connection. The rules of a port with several targets follow
    /// each other with 3, 2 and 1, so that each target gets an equal share.
    pub one_in: u32,
    pub target: Port,
}

impl Redirect {
    /// Builds the redirects of a port that spread its connections evenly over targets. Every connection that the rules before have left
    /// goes to the first target.
    pub fn spread(service: &ServiceName, kind: RedirectKind, port: Port, targets: &[Port]) -> Vec<Self> {
        let redirect = |(one_in, target): (u32, &Port)| Self {
            service: service.clone(),
            kind,
            port,
            one_in,
            target: *target,
        };
        (1..).zip(targets).map(redirect).collect()
    }

    /// The forward that this is; `None` for a route, and for the rules of a forward before its last one.
    pub fn to_forward(&self) -> Option<Forward> {
        let Self { service, kind, port, one_in, target } = self;
        (*kind == RedirectKind::Forward && *one_in == 1).then(|| Forward {
            service: service.clone(),
            check: *port,
            target: *target,
        })
    }
}

impl Ord for Redirect {
    /// Orders redirects as the kernel has to try them: the rule for every connection comes last.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |one: &Self| (one.kind, one.port, Reverse(one.one_in), one.target);
        self.service.cmp(&other.service).then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Redirect {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The desired state of our part of a nat table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredRules {
    /// Sorted by service, then kind. A service without its forward is in maintenance.
    pub redirects: BTreeSet<Redirect>,
    /// Whether checks also come from this host itself (a load balancer on the host).
    pub balancer_is_local: bool,
}

/// An `iptables-restore --noflush` input for one table: the kernel applies all of it, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transaction {
    pub family: Family,
    pub variant: Variant,
    pub text: String,
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, infix) = (self.family.command_stem(), self.variant.infix());
        writeln!(f, "# {command}-{infix}-restore --noflush -w")?;
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn foreign_comments_are_parsed_whole() {
        let line = r#"-A PREROUTING -m comment --comment "it\"s a\\b  c" -j ACCEPT"#;
        let rule = Rule::parse(line).unwrap();
        assert_eq!(rule.option_value("--comment"), Some(r#"it"s a\b  c"#));
        assert_eq!(rule.to_string(), line);
    }

    proptest! {
        #[test]
        fn shown_rules_read_back(words in proptest::collection::vec("[ -~]{0,12}", 0..8)) {
            let rule = Rule { chain: "PREROUTING".into(), words };
            prop_assert_eq!(Rule::parse(&rule.to_string()), Some(rule));
        }

        #[test]
        fn rule_parse_never_panics(line in ".*") {
            let _ = Rule::parse(&line);
        }
    }
}
