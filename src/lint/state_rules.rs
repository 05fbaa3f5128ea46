//! Rules that decide by the state of main lines (`srv_is_up`, `nbsrv`, ...): they act when a host goes into maintenance, beside
//! what cookie and checks do.

use std::collections::BTreeSet;

use super::acl::{Condition, Sample, Test, list_acls, parse_condition};
use super::cfg::{Section, Statement};
use super::keywords::{ServerLine, read_servers};
use super::report::LintReport;
use super::site::{CheckTarget, Site, Target};
use crate::model::finding::Severity::{Problem, Warning};

/// Fetches whose value follows the state of servers.
const STATE_FETCHES: [&str; 11] = [
    "srv_is_up",
    "nbsrv",
    "connslots",
    "avg_queue",
    "be_conn_free",
    "srv_conn",
    "srv_conn_free",
    "srv_queue",
    "srv_sess_rate",
    "srv_weight",
    "srv_uweight",
];

/// Converters that read the state of the backend or server in the text before them.
const STATE_CONVERTERS: [&str; 3] = ["nbsrv", "srv_queue", "srv_is_up"];

/// Fetches of what a rule before can have set.
const HEADER_FETCHES: [&str; 8] =
    ["hdr", "req.hdr", "req.fhdr", "hdr_val", "req.hdr_val", "hdr_cnt", "req.hdr_cnt", "shdr"];

/// Hosts in maintenance at one time, and how to call them.
struct Phase<'t> {
    name: String,
    out: Vec<&'t Target>,
    is_single: bool,
}

/// Whether a condition matches in a phase; `None`: not for every request alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    matches: Option<bool>,
    /// An unknown value that follows the state of servers.
    follows_state: bool,
}

const UNRELATED: Outcome = Outcome { matches: None, follows_state: false };
const UNCERTAIN: Outcome = Outcome { matches: None, follows_state: true };

const fn known(matches: Option<bool>) -> Outcome {
    Outcome { matches, follows_state: matches.is_none() }
}

struct StateRules<'s, 'a> {
    site: &'s Site<'a>,
    targets: &'s [Target],
    /// Variables and headers that a rule sets by the state of servers, as `var(NAME)` and `hdr(NAME)`.
    carriers: BTreeSet<String>,
}

pub(super) fn lint_state_rules(site: &Site<'_>, targets: &[Target], report: &mut LintReport<'_>) {
    let mut rules = StateRules { site, targets, carriers: BTreeSet::new() };
    // A variable can carry another one; deeper chains are not followed.
    for _ in 0..3 {
        rules.collect_carriers();
    }
    let phases = list_phases(targets);
    for section in site.cfg.list_sections() {
        for line in &section.lines {
            rules.lint_rule(section, line, &phases, report);
        }
    }
}

fn list_phases(targets: &[Target]) -> Vec<Phase<'_>> {
    // More hosts behave like those before them.
    const MAX_HOSTS: usize = 16;
    let mut hosts: Vec<&str> = Vec::new();
    for target in targets {
        if !hosts.contains(&target.host.as_str()) {
            hosts.push(&target.host);
        }
    }
    let mut phases = vec![Phase { name: String::new(), out: vec![], is_single: false }];
    for host in hosts.iter().take(MAX_HOSTS) {
        let out = targets.iter().filter(|target| target.host == *host).collect();
        phases.push(Phase { name: format!("`{host}`"), out, is_single: true });
    }
    if hosts.len() > 1 {
        phases.push(Phase { name: "every host".to_owned(), out: targets.iter().collect(), is_single: false });
    }
    phases
}

/// What a rule does to users, or `None` for one that moves none.
fn describe_effect(line: &Statement) -> Option<&'static str> {
    const ANSWERS: &str = "HAProxy answers or refuses users itself";
    const MOVES: &str = "users go elsewhere than to the vhost of their cookie";
    let action = |at: usize| line.word(at).unwrap_or_default().split('(').next().unwrap_or_default();
    let diverts = |action: &str| match action {
        "deny" | "reject" | "tarpit" | "silent-drop" | "return" | "redirect" | "auth" | "use-service"
        | "close" => Some(ANSWERS),
        "set-dst" | "set-dst-port" | "cache-use" => Some(MOVES),
        // The rules after it are skipped.
        "allow" | "accept" => Some("the rules after it are skipped"),
        _ => None,
    };
    match line.word(0)? {
        "use_backend" | "use-server" | "force-be-switch" | "stick" | "force-persist" | "ignore-persist" => {
            Some(MOVES)
        }
        "redirect" | "block" => Some(ANSWERS),
        "monitor" => Some("what checks this HAProxy takes it out of service"),
        "http-request" | "http-response" | "http-after-response" => diverts(action(1)),
        "tcp-request" | "tcp-response" => diverts(action(2)),
        _ => None,
    }
}

impl<'a> StateRules<'_, 'a> {
    fn lint_rule(
        &self,
        section: &'a Section,
        line: &'a Statement,
        phases: &[Phase<'_>],
        report: &mut LintReport<'_>,
    ) {
        let Some(effect) = describe_effect(line) else { return };
        let rule = line.words.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
        let computes_name = ["use_backend", "use-server"].contains(&line.word(0).unwrap_or_default());
        if computes_name && line.word(1).is_some_and(|name| self.carries_state(name)) {
            let reason =
                format!("`{rule}` computes a name from the state of servers: in maintenance {effect}");
            return report_state_rule(line, Warning, reason, report);
        }
        let Some(condition) = parse_condition(line) else { return };
        let outcomes: Vec<Outcome> =
            phases.iter().map(|phase| self.evaluate(section, &condition, phase)).collect();
        let Some((first, rest)) = outcomes.split_first() else { return };
        let is_changed = |other: &Outcome| other.matches != first.matches;
        let changed = rest.iter().zip(&phases[1..]).find(|(other, _)| is_changed(other));
        let (severity, when) = match changed {
            Some((other, phase)) if phase.is_single && first.matches.is_some() && other.matches.is_some() => {
                (Problem, format!("with {} in maintenance it {}", phase.name, describe_change(*other)))
            }
            Some((_, phase)) => (Warning, format!("it can change with {} in maintenance", phase.name)),
            None if outcomes.iter().any(|outcome| outcome.follows_state && outcome.matches.is_none()) => {
                (Warning, "it can change with a host in maintenance".to_owned())
            }
            None => return,
        };
        let reason = format!("`{rule}` decides by the state of main lines: {when}, so that {effect}");
        report_state_rule(line, severity, reason, report);
    }

    fn evaluate(&self, section: &'a Section, condition: &Condition<'a>, phase: &Phase<'_>) -> Outcome {
        let groups = condition.groups.iter().map(|group| {
            let terms = group.iter().map(|term| {
                let found = match term.test {
                    Test::Named("TRUE") => Outcome { matches: Some(true), follows_state: false },
                    Test::Named("FALSE") => Outcome { matches: Some(false), follows_state: false },
                    Test::Named(name) => {
                        let acls = list_acls(self.site.cfg, section, name);
                        let found =
                            acls.into_iter().map(|words| self.evaluate_expression(section, words, phase));
                        combine(found, true)
                    }
                    Test::Expression(words) => self.evaluate_expression(section, words, phase),
                };
                Outcome { matches: found.matches.map(|matches| matches != term.is_negated), ..found }
            });
            combine(terms, false)
        });
        let found = combine(groups, true);
        Outcome { matches: found.matches.map(|matches| matches != condition.is_unless), ..found }
    }

    fn evaluate_expression(&self, section: &'a Section, words: &'a [String], phase: &Phase<'_>) -> Outcome {
        let Some(first) = words.first() else { return UNRELATED };
        let sample = Sample::parse(first);
        let patterns: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let converters = sample.list_converters();
        match sample.fetch {
            "always_true" => return Outcome { matches: Some(true), follows_state: false },
            "always_false" => return Outcome { matches: Some(false), follows_state: false },
            "srv_is_up" => {
                let Some((proxy, server)) = self.find_server(section, sample.arguments) else {
                    return UNRELATED;
                };
                let is_up = self.is_up(proxy, &server, &phase.out);
                let is_up = match converters.as_slice() {
                    [] | ["bool"] => is_up,
                    ["not"] => is_up.map(|is_up| !is_up),
                    _ => None,
                };
                return known(is_up.and_then(|is_up| compare(i64::from(is_up), &patterns)));
            }
            "nbsrv" => {
                let Some(proxy) = self.find_backend(section, sample.arguments) else { return UNRELATED };
                let count = self.count_usable(proxy, &phase.out).filter(|_| converters.is_empty());
                let found = known(count.and_then(|count| compare(count, &patterns)));
                return if self.follows_forward(proxy) { found } else { UNRELATED };
            }
            _ => {}
        }
        if self.carries_state_of(section, first) { UNCERTAIN } else { UNRELATED }
    }

    /// Whether a sample's value follows the state of servers, directly or by what a rule before has set.
    fn carries_state_of(&self, section: &'a Section, text: &str) -> bool {
        let sample = Sample::parse(text);
        let follows = |proxy: Option<&'a Section>| proxy.is_none_or(|proxy| self.follows_forward(proxy));
        if STATE_FETCHES.contains(&sample.fetch) {
            let name = sample.arguments.split('/').next().unwrap_or_default();
            let is_of_server = sample.fetch.starts_with("srv_") && !sample.arguments.contains('/');
            return follows(self.find_backend(section, if is_of_server { "" } else { name }));
        }
        let name = sample.arguments.split(',').next().unwrap_or_default();
        let is_carrier = match sample.fetch {
            "var" => self.carriers.contains(&format!("var({name})")),
            fetch if HEADER_FETCHES.contains(&fetch) => {
                self.carriers.contains(&format!("hdr({})", name.to_ascii_lowercase()))
            }
            _ => false,
        };
        is_carrier || sample.list_converters().iter().any(|converter| STATE_CONVERTERS.contains(converter))
    }

    /// The same for a text with `%[...]` in it.
    fn carries_state(&self, text: &str) -> bool {
        let samples = text.split("%[").skip(1).map(|part| part.split(']').next().unwrap_or_default());
        let Some(section) = self.site.cfg.proxies().next() else { return false };
        samples.into_iter().any(|sample| self.carries_state_of(section, sample))
    }

    /// Finds `set-var(NAME)` and `set-header NAME` whose value or condition follows the state of servers.
    fn collect_carriers(&mut self) {
        let mut found = BTreeSet::new();
        let phase = Phase { name: String::new(), out: vec![], is_single: false };
        for section in self.site.cfg.list_sections() {
            for line in &section.lines {
                let at = match line.word(0) {
                    Some("http-request") => 1,
                    Some("tcp-request") => 2,
                    _ => continue,
                };
                let action = Sample::parse(line.word(at).unwrap_or_default());
                let carrier = match action.fetch {
                    "set-var" | "set-var-fmt" => {
                        format!("var({})", action.arguments.split(',').next().unwrap_or_default())
                    }
                    "set-header" | "add-header" => {
                        format!("hdr({})", line.word(at + 1).unwrap_or_default().to_ascii_lowercase())
                    }
                    _ => continue,
                };
                let by_value = line.words[at..].iter().skip(1).any(|word| {
                    self.carries_state(word)
                        || (action.fetch == "set-var" && self.carries_state_of(section, word))
                });
                let by_condition = parse_condition(line).is_some_and(|condition| {
                    let found = self.evaluate(section, &condition, &phase);
                    found.follows_state || self.names_state(section, &condition)
                });
                if by_value || by_condition {
                    found.insert(carrier);
                }
            }
        }
        self.carriers = found;
    }

    /// Whether a condition names a state, also one that can be computed.
    fn names_state(&self, section: &'a Section, condition: &Condition<'a>) -> bool {
        condition.groups.iter().flatten().any(|term| {
            let expressions = match term.test {
                Test::Named(name) => list_acls(self.site.cfg, section, name),
                Test::Expression(words) => vec![words],
            };
            let firsts = expressions.into_iter().filter_map(|words| words.first());
            firsts.into_iter().any(|first| self.carries_state_of(section, first))
        })
    }

    fn find_backend(&self, section: &'a Section, name: &str) -> Option<&'a Section> {
        if name.is_empty() { Some(section) } else { self.site.find_proxy(name) }
    }

    fn find_server(&self, section: &'a Section, name: &str) -> Option<(&'a Section, ServerLine<'a>)> {
        self.site.find_tracked(section, name)
    }

    fn is_up(&self, section: &'a Section, server: &ServerLine<'a>, out: &[&Target]) -> Option<bool> {
        match self.site.find_check(section, server) {
            CheckTarget::Disabled => Some(false),
            CheckTarget::Nothing => Some(true),
            CheckTarget::Unknown => None,
            check @ CheckTarget::Port { .. } => Some(!out.iter().any(|target| check.follows_forward(target))),
        }
    }

    /// The value of `nbsrv`: main lines that take users, else backup lines.
    fn count_usable(&self, section: &'a Section, out: &[&Target]) -> Option<i64> {
        let servers = read_servers(self.site.cfg, section);
        let (mut mains, mut backups) = (0, 0);
        for server in servers.iter().filter(|server| server.weight() != Some(0)) {
            match (self.is_up(section, server, out)?, server.has_flag("backup")) {
                (true, false) => mains += 1,
                (true, true) => backups += 1,
                (false, _) => {}
            }
        }
        let uses_all = self.site.cfg.find_setting(section, &["option", "allbackups"]).is_some();
        Some(match (mains, backups) {
            (0, 1..) if !uses_all => 1,
            (0, backups) => backups,
            (mains, _) => mains,
        })
    }

    /// Whether a line of the section goes DOWN with the forward of a host.
    fn follows_forward(&self, section: &'a Section) -> bool {
        read_servers(self.site.cfg, section).iter().any(|server| {
            let check = self.site.find_check(section, server);
            check == CheckTarget::Unknown || self.targets.iter().any(|target| check.follows_forward(target))
        })
    }
}

fn describe_change(other: Outcome) -> &'static str {
    if other.matches == Some(true) { "applies" } else { "no longer applies" }
}

fn report_state_rule(
    line: &Statement,
    severity: crate::model::finding::Severity,
    reason: String,
    report: &mut LintReport<'_>,
) {
    report.add(
        severity,
        "haproxy-state-rule",
        line.number,
        reason,
        "remove the condition: checks, cookie and backup lines move the users; or look at servers that are no main vhost",
    );
}

/// Any of the outcomes, or all of them.
fn combine(outcomes: impl Iterator<Item = Outcome>, is_any: bool) -> Outcome {
    let mut found = Outcome { matches: Some(!is_any), follows_state: false };
    for outcome in outcomes {
        found.follows_state |= outcome.follows_state;
        found.matches = match (found.matches, outcome.matches) {
            (Some(decided), _) | (_, Some(decided)) if decided == is_any => Some(decided),
            (Some(_), Some(other)) => Some(other),
            _ => None,
        };
    }
    found
}

/// Compares as the ACL does: `lt 2`, `eq 0 1`, `1:3`; no pattern means true for what is not 0. `None`: not known here.
fn compare(value: i64, patterns: &[&str]) -> Option<bool> {
    let patterns: Vec<&str> = match patterns {
        ["-m", "bool"] | [] => return Some(value != 0),
        ["-m", "found"] => return Some(true),
        ["-m", "int", rest @ ..] | rest => rest.to_vec(),
    };
    let mut operator = "eq";
    let mut is_matched = false;
    for pattern in patterns {
        if ["eq", "ge", "gt", "le", "lt"].contains(&pattern) {
            operator = pattern;
            continue;
        }
        let (first, last) = pattern.split_once(':').unwrap_or((pattern, pattern));
        let parse =
            |text: &str, open: i64| if text.is_empty() { Some(open) } else { text.parse::<i64>().ok() };
        let (first, last) = (parse(first, i64::MIN)?, parse(last, i64::MAX)?);
        is_matched |= match operator {
            "ge" => value >= first,
            "gt" => value > first,
            "le" => value <= last,
            "lt" => value < last,
            _ => (first..=last).contains(&value),
        };
    }
    Some(is_matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_compared_like_acls() {
        for (value, patterns, matches) in [
            (0, "", Some(false)),
            (2, "", Some(true)),
            (1, "lt 2", Some(true)),
            (2, "lt 2", Some(false)),
            (2, "1:3", Some(true)),
            (4, "1:3", Some(false)),
            (4, "2:", Some(true)),
            (1, "eq 0 1", Some(true)),
            (1, "-m int ge 2", Some(false)),
            (1, "-m bool", Some(true)),
            (1, "-f /etc/list", None),
        ] {
            let words: Vec<&str> = patterns.split_whitespace().collect();
            assert_eq!(compare(value, &words), matches, "{value} {patterns}");
        }
    }
}
