//! The verdict on a forward by the answer to a packet: proven, unverified, or contradicted with the cause that the rules
//! show.

use std::net::{IpAddr, SocketAddr};

use super::check::data_ports::rules_before_jump;
use super::check::port_match::rule_names_port;
use super::input_filter::{FilterVerdict, Match, evaluate_filter, match_rule};
use crate::model::deployment::Access;
use crate::model::forward::ServiceRecord;
use crate::model::native_rule::{NativeEffect, NativeRule};
use crate::model::packet_proof::{PacketAnswer, PacketVerdict};
use crate::model::port_forward::Switch;
use crate::model::ports::Port;
use crate::model::rules::{Family, Rule, Table, Tables};

/// The priority of our jump's hook: `dstnat`.
const DSTNAT: i64 = -100;

/// The requirement of the record for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub role: PortRole,
    pub switch: Switch,
    /// The port to which a packet is sent.
    pub port: Port,
    /// The port on which a process accepts the packet.
    pub target: Port,
}

/// The use of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortRole {
    Check,
    Data,
}

impl Claim {
    pub fn from_record(record: &ServiceRecord) -> Self {
        // No rule routes to a private service.
        let switch = if record.access == Access::Private { Switch::Off } else { record.switch };
        let target = record.check_targets().first().copied().unwrap_or(record.forward.target);
        Self { role: PortRole::Check, switch, port: record.forward.check, target }
    }

    /// Returns the claim that users reach the main vhost. `None` where the record does not put it into service.
    pub fn from_data_port(record: &ServiceRecord) -> Option<Self> {
        let is_on = record.access == Access::Public && record.switch == Switch::On;
        let port = record.routes.as_ref().map_or(record.forward.target, |routes| routes.main.port);
        is_on.then(|| {
            Self::from_open_port(port, record.effective_targets(port).first().copied().unwrap_or(port))
        })
    }

    /// Returns the claim that a data port is open; `target` accepts its packets.
    pub const fn from_open_port(port: Port, target: Port) -> Self {
        Self { role: PortRole::Data, switch: Switch::On, port, target }
    }

    /// Returns the claim about the instance that answered, where the port is spread over several.
    #[must_use]
    pub fn narrow_to(self, targets: &[Port], answer: &PacketAnswer) -> Self {
        let PacketAnswer::Accepted { by: Some(by) } = answer else { return self };
        let answering = targets.iter().find(|target| target.get() == by.port());
        Self { target: answering.copied().unwrap_or(self.target), ..self }
    }

    fn describe(self, answer: &PacketAnswer) -> String {
        let Self { switch, port, .. } = self;
        match self.role {
            PortRole::Check => format!("the forward is {switch}, but a packet to port {port} {answer}"),
            PortRole::Data => format!("a packet to the data port {port} {answer}"),
        }
    }
}

/// The state of the host beside the forward, which is read only where the answer alone decides nothing.
#[derive(Debug, Clone)]
pub struct PacketFacts {
    /// The nat tables of the family.
    pub nat: Option<Tables>,
    /// Raw, mangle and filter of the family.
    pub tables: Vec<(String, Table)>,
    pub native: Vec<NativeRule>,
    /// Why native rules were not looked at.
    pub native_obstacle: Option<String>,
    /// Addresses on which a process listens on the check port and on the target; `None`: not known.
    pub check_listeners: Option<Vec<SocketAddr>>,
    pub target_listeners: Option<Vec<SocketAddr>>,
    /// The processes that listen on the check port: `nginx (pid 7)`.
    pub check_processes: Vec<String>,
}

/// Judges an answer that needs no further facts.
pub fn judge_answer(claim: Claim, address: SocketAddr, answer: &PacketAnswer) -> Option<PacketVerdict> {
    let is_as_claimed = match (claim.switch, answer) {
        (Switch::On, PacketAnswer::Accepted { by: Some(by) })
            if by.ip() == address.ip() && by.port() == claim.target.get() =>
        {
            true
        }
        // A data port without a route is the administrator's: it may well be published by a container.
        (Switch::On, PacketAnswer::Accepted { .. }) => {
            claim.role == PortRole::Data && claim.port == claim.target
        }
        (Switch::Off, PacketAnswer::Refused) => true,
        _ => false,
    };
    is_as_claimed.then(|| PacketVerdict::Packet { answer: answer.clone() })
}

/// Judges an answer with the facts that explain it.
pub fn explain_answer(
    claim: Claim,
    family: Family,
    address: SocketAddr,
    answer: &PacketAnswer,
    facts: &PacketFacts,
) -> PacketVerdict {
    if let Some(verdict) = judge_answer(claim, address, answer) {
        return verdict;
    }
    let fact = claim.describe(answer);
    let contradicted = |cause| PacketVerdict::Contradicted { fact: fact.clone(), cause };
    let unverified = |reason| PacketVerdict::Unverified { reason };
    if let PacketAnswer::Accepted { by } = answer {
        let is_untracked = by.is_none() && facts.check_listeners.as_ref().is_none_or(Vec::is_empty);
        if claim.switch == Switch::On && is_untracked {
            return unverified("the kernel does not show which process answers".to_owned());
        }
        return contradicted(find_answerer(claim, family, *by, facts));
    }
    // The filters see the target where the forward is on, and the check port where it is off.
    let filtered = if claim.switch == Switch::On { claim.target } else { claim.port };
    match (claim.switch, find_obstacle(claim, family, filtered, facts)) {
        (Switch::On, Obstacle::Certain(cause)) => contradicted(Some(cause)),
        // A filter that admits only the balancer drops this packet; the balancer's would follow the rule.
        (Switch::Off, Obstacle::Certain(_) | Obstacle::None) => match find_rule_on_port(claim, family, facts)
        {
            Some(rule) => unverified(format!("a packet to port {} {answer}, but {rule}", claim.port)),
            None => PacketVerdict::Packet { answer: answer.clone() },
        },
        (_, Obstacle::Depends(rule)) => unverified(format!(
            "a packet to port {} {answer}, and the filter may depend on its interface or source: `{rule}`",
            claim.port
        )),
        (Switch::On, Obstacle::None) => match find_missing_listener(claim, address.ip(), facts) {
            Some(reason) => unverified(reason),
            // Silence has causes that no rule shows: a filter of what leaves the host, a limit.
            None if *answer == PacketAnswer::Silent => unverified(format!(
                "a packet to port {} {answer}, and no rule explains that: a filter of OUTPUT or a limit may drop it",
                claim.port
            )),
            None => match &facts.native_obstacle {
                Some(obstacle) => unverified(format!(
                    "a packet to port {} {answer}, and native rules are not looked at: {obstacle}",
                    claim.port
                )),
                None => contradicted(None),
            },
        },
    }
}

/// Why no process can accept what is sent or redirected here; `None` where one can. A redirect goes to the address of the
/// interface by which the packet comes in.
fn find_missing_listener(claim: Claim, address: IpAddr, facts: &PacketFacts) -> Option<String> {
    let target = claim.target;
    let Some(listeners) = &facts.target_listeners else {
        return Some(format!("it is not known whether a process listens on port {target}"));
    };
    let usable = |listener: &&SocketAddr| listener.is_ipv6() || listener.is_ipv4() == address.is_ipv4();
    let listeners: Vec<&SocketAddr> = listeners.iter().filter(usable).collect();
    if address.is_ipv6() && !listeners.iter().any(|listener| listener.is_ipv6()) || listeners.is_empty() {
        return Some(format!("no process listens on port {target}"));
    }
    // A listener on `::` may be limited to IPv6.
    let is_open =
        |listener: &&&SocketAddr| listener.ip().is_unspecified() && listener.is_ipv4() == address.is_ipv4();
    if listeners.iter().any(|listener| is_open(&listener)) {
        return None;
    }
    let names: Vec<String> = listeners.iter().map(|listener| format!("`{listener}`")).collect();
    if claim.port == target {
        let is_there = listeners.iter().any(|listener| listener.ip() == address);
        return (!is_there)
            .then(|| format!("port {target} listens on {} only, and not on `{address}`", names.join(", ")));
    }
    Some(format!(
        "port {target} listens on {} only, to which a packet of another interface is not redirected",
        names.join(", ")
    ))
}

/// The rule or the process that makes an address answer against the record.
fn find_answerer(
    claim: Claim,
    family: Family,
    by: Option<SocketAddr>,
    facts: &PacketFacts,
) -> Option<String> {
    let is_untranslated = by.is_none_or(|by| by.port() == claim.port.get());
    if is_untranslated && !facts.check_processes.is_empty() {
        let port =
            if claim.role == PortRole::Check { "the check port itself" } else { "the data port itself" };
        return Some(format!("`{}` listens on {port}", facts.check_processes.join("`, `")));
    }
    find_rule_on_port(claim, family, facts).or_else(|| {
        let by = by.filter(|_| claim.switch == Switch::Off)?;
        (by.port() == claim.target.get())
            .then(|| "a rule that switchman does not know redirects it to main".to_owned())
    })
}

/// A rule of another program that translates connections to the check port.
fn find_rule_on_port(claim: Claim, family: Family, facts: &PacketFacts) -> Option<String> {
    let native = facts.native.iter().filter(|rule| rule.matches_family(family));
    let mut translations = native.filter(|rule| rule.effect == NativeEffect::Translate);
    find_translation(facts, claim.port).map(|rule| format!("the rule `{rule}` takes the port first")).or_else(
        || {
            let rule = translations.find(|rule| rule.matches_port(claim.port))?;
            Some(format!("the native rule `{rule}` takes the port first"))
        },
    )
}

fn find_translation(facts: &PacketFacts, check: Port) -> Option<&Rule> {
    let nat = facts.nat.as_ref()?;
    [&nat.nf_tables, &nat.legacy].into_iter().flatten().find_map(|table| {
        let mut translations = rules_before_jump(table, check)
            .filter(|rule| matches!(rule.option_value("-j"), Some("DNAT" | "REDIRECT" | "NETMAP")));
        translations.next()
    })
}

/// An obstacle between a packet and the process.
enum Obstacle {
    None,
    /// A rule that matches every packet to the port.
    Certain(String),
    /// A rule that may match the packets of a balancer or not.
    Depends(String),
}

fn find_obstacle(claim: Claim, family: Family, filtered: Port, facts: &PacketFacts) -> Obstacle {
    let mut depends = None;
    for (name, table) in &facts.tables {
        let found = match name.as_str() {
            "filter" => evaluate_input(table, filtered),
            // Both come before nat.
            _ => find_early_rule(table, claim.port),
        };
        match found {
            Obstacle::Certain(cause) => return Obstacle::Certain(cause),
            Obstacle::Depends(rule) => depends = depends.or(Some(rule)),
            Obstacle::None => {}
        }
    }
    if let Some(rule) = find_translation(facts, claim.port).filter(|_| claim.switch == Switch::On) {
        return Obstacle::Certain(format!("the rule `{rule}` takes the port first"));
    }
    let native: Vec<&NativeRule> = facts.native.iter().filter(|rule| rule.matches_family(family)).collect();
    match find_native_obstacle(claim, filtered, &native) {
        Obstacle::None => depends.map_or(Obstacle::None, Obstacle::Depends),
        found => found,
    }
}

fn evaluate_input(table: &Table, port: Port) -> Obstacle {
    match evaluate_filter(table, port) {
        FilterVerdict::Accepted => Obstacle::None,
        FilterVerdict::Refused(refusal) => {
            Obstacle::Certain(format!("the filter of INPUT refuses port {port}: `{}`", refusal.text))
        }
        FilterVerdict::Depends { rule } => Obstacle::Depends(rule),
    }
}

/// A rule of raw or mangle that keeps the check port from nat.
fn find_early_rule(table: &Table, check: Port) -> Obstacle {
    let mut depends = None;
    // With a zone for the packets of this host too, answers may well be in the zone of their connection.
    let sets_zone = |rule: &&Rule| rule.chain == "OUTPUT" && rule.has_option("--zone");
    let is_one_sided = !table.rules.iter().any(|rule| sets_zone(&rule));
    for rule in table.rules.iter().filter(|rule| !["OUTPUT", "POSTROUTING"].contains(&rule.chain.as_str())) {
        let names_port = rule_names_port(rule, "--dport", check) || rule_names_port(rule, "--dports", check);
        let effect = match rule.option_value("-j") {
            Some("NOTRACK") => "turns connection tracking off, without which no redirect works",
            Some("CT") if rule.has_option("--notrack") => {
                "turns connection tracking off, without which no redirect works"
            }
            Some("CT") if rule.has_option("--zone") && (names_port || is_one_sided) => {
                "moves the connection into another zone of connection tracking"
            }
            Some("DROP") => "drops the packet before nat",
            Some("MARK") if names_port => "marks the packet, which may choose another routing table",
            Some("TPROXY") => "takes the packet before nat",
            _ => continue,
        };
        match match_rule(rule, check) {
            Match::No => {}
            Match::Yes => return Obstacle::Certain(format!("the rule `{rule}` {effect}")),
            Match::Maybe => depends = depends.or_else(|| Some(rule.to_string())),
        }
    }
    depends.map_or(Obstacle::None, Obstacle::Depends)
}

/// Walks the hooks in the kernel's order. An accepting rule ends its own hook and priority only.
fn find_native_obstacle(claim: Claim, filtered: Port, rules: &[&NativeRule]) -> Obstacle {
    let mut depends: Option<String> = None;
    let mut passed = None;
    let mut may_pass = None;
    for rule in rules {
        let place = (&rule.family, &rule.table, &rule.hook, rule.priority);
        let is_after_nat = rule.hook == "input" || rule.priority > DSTNAT;
        let port = if is_after_nat { filtered } else { claim.port };
        let is_translated = is_after_nat && filtered != claim.port;
        if passed == Some(place) || !rule.matches_port(port) || rule.is_translated_only && !is_translated {
            continue;
        }
        let effect = match rule.effect {
            NativeEffect::Accept if rule.is_conditional => {
                may_pass = Some(place);
                continue;
            }
            NativeEffect::Accept => {
                passed = Some(place);
                continue;
            }
            NativeEffect::Drop | NativeEffect::Reject => "refuses the packet",
            NativeEffect::Notrack => "turns connection tracking off, without which no redirect works",
            NativeEffect::Translate if claim.switch == Switch::On => "takes the port first",
            NativeEffect::Mark if rule.names_port(port) => {
                "marks the packet, which may choose another routing table"
            }
            NativeEffect::Zone if rule.names_port(port) => {
                "moves the connection into another zone of connection tracking"
            }
            NativeEffect::Translate | NativeEffect::Mark | NativeEffect::Zone => continue,
        };
        if rule.is_conditional || may_pass == Some(place) {
            depends = depends.or_else(|| Some(rule.to_string()));
        } else {
            return Obstacle::Certain(format!("the native rule `{rule}` {effect}"));
        }
    }
    depends.map_or(Obstacle::None, Obstacle::Depends)
}

#[cfg(test)]
mod tests;
