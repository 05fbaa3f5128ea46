//! The packets that an expression of nftables matches, as far as it is about the destination port of a new TCP connection.

use std::collections::BTreeMap;

use serde_json::Value;

/// `nft -n` prints states of connections, types of addresses and protocols as numbers.
const CT_STATE_NEW: u64 = 8;
const ADDRESS_LOCAL: u64 = 2;
const PROTOCOL_TCP: u64 = 6;
const CT_STATUS_DNAT: u64 = 32;
/// Protocols whose fields no TCP packet has.
const OTHER_PROTOCOLS: [&str; 9] = ["udp", "udplite", "icmp", "icmpv6", "igmp", "sctp", "dccp", "ah", "esp"];

/// A set of destination ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum PortSet {
    #[default]
    Any,
    Only(Vec<(u16, u16)>),
}

impl PortSet {
    pub(super) fn list(&self) -> Vec<(u16, u16)> {
        match self {
            Self::Any => vec![],
            Self::Only(ports) => ports.clone(),
        }
    }

    /// All other ports.
    fn complement(&self) -> Self {
        let Self::Only(ports) = self else { return Self::Any };
        let mut sorted = ports.clone();
        sorted.sort_unstable();
        let (mut rest, mut next) = (Vec::new(), Some(0));
        for (low, high) in sorted {
            if let Some(start) = next.filter(|start| *start < low) {
                rest.push((start, low - 1));
            }
            next = next.and_then(|start: u16| high.checked_add(1).map(|after| after.max(start)));
        }
        rest.extend(next.map(|start| (start, u16::MAX)));
        Self::Only(rest)
    }

    fn intersect(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, ports) | (ports, Self::Any) => ports.clone(),
            (Self::Only(one), Self::Only(two)) => {
                let pairs = one.iter().flat_map(|left| two.iter().map(move |right| (left, right)));
                let both = pairs.map(|(left, right)| (left.0.max(right.0), left.1.min(right.1)));
                Self::Only(both.filter(|(low, high)| low <= high).collect())
            }
        }
    }
}

/// The packets that reach a point of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RuleMatch {
    pub ports: PortSet,
    /// Whether a match on another field than the destination port and the protocol was passed.
    pub is_conditional: bool,
    /// Whether only packets match whose destination was translated before.
    pub is_translated_only: bool,
}

impl RuleMatch {
    /// Returns the packets that have one of these ports too; `None` where no packet does.
    pub(super) fn narrow(&self, ports: &PortSet) -> Option<Self> {
        let ports = self.ports.intersect(ports);
        (ports != PortSet::Only(vec![])).then_some(Self { ports, ..self.clone() })
    }
}

/// Named sets and maps by family, table and name.
#[derive(Default)]
pub(super) struct SetTable<'a>(BTreeMap<(String, String, String), &'a [Value]>);

impl<'a> SetTable<'a> {
    pub(super) fn add(&mut self, family: &str, table: &str, name: &str, body: &'a Value) {
        let elements = body.get("elem").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        self.0.insert((family.to_owned(), table.to_owned(), name.to_owned()), elements);
    }

    /// The elements of `@NAME` or of a set that is written in the rule.
    fn find<'b>(&self, (family, table, _): &(String, String, String), data: &'b Value) -> &'b [Value]
    where
        'a: 'b,
    {
        if let Some(name) = data.as_str().and_then(|name| name.strip_prefix('@')) {
            let key = (family.clone(), table.clone(), name.to_owned());
            return self.0.get(&key).copied().unwrap_or_default();
        }
        data.get("set").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

/// The pairs of a map.
pub(super) fn find_map_elements<'b, 'a: 'b>(
    sets: &SetTable<'a>,
    chain: &(String, String, String),
    data: &'b Value,
) -> Vec<(&'b Value, &'b Value)> {
    let pairs = sets.find(chain, data).iter().filter_map(|pair| match pair.as_array()?.as_slice() {
        [key, value] => Some((key, value)),
        _ => None,
    });
    pairs.collect()
}

/// The field that a map or a match looks at.
pub(super) enum Key {
    Port,
    /// Several fields, of which one is the port.
    PortAmong(usize),
    ConnectionState,
    Protocol,
    LoopbackInterface,
    Other,
}

impl Key {
    /// Returns the packets that match an element of a set; `None` where no first packet of a TCP connection does.
    pub(super) fn match_element(&self, element: &Value, matched: &RuleMatch) -> Option<RuleMatch> {
        match self {
            Self::Port => matched.narrow(&read_ports(element)),
            Self::PortAmong(at) => {
                let field = strip_element(element).get("concat").and_then(|parts| parts.get(*at));
                let matched = matched.narrow(&field.map_or(PortSet::Any, read_ports))?;
                Some(RuleMatch { is_conditional: true, ..matched })
            }
            Self::ConnectionState => (is_word(element, "new")
                || strip_element(element).as_u64() == Some(CT_STATE_NEW))
            .then(|| matched.clone()),
            Self::Protocol => is_tcp(element).then(|| matched.clone()),
            Self::LoopbackInterface if is_word(element, "lo") => None,
            Self::LoopbackInterface | Self::Other => {
                Some(RuleMatch { is_conditional: true, ..matched.clone() })
            }
        }
    }

    pub(super) fn collect_ports<'b>(&self, elements: impl Iterator<Item = &'b Value>) -> PortSet {
        let ports = elements.map(|element| match self {
            Self::Port => read_ports(element),
            Self::PortAmong(at) => strip_element(element)
                .get("concat")
                .and_then(|parts| parts.get(*at))
                .map_or(PortSet::Any, read_ports),
            _ => PortSet::Any,
        });
        let mut all = Vec::new();
        for set in ports {
            match set {
                PortSet::Any => return PortSet::Any,
                PortSet::Only(mut ports) => all.append(&mut ports),
            }
        }
        PortSet::Only(all)
    }
}

pub(super) fn read_key(key: &Value) -> Key {
    if let Some(parts) = key.get("concat").and_then(Value::as_array) {
        let at = parts.iter().position(|part| matches!(read_key(part), Key::Port));
        return at.map_or(Key::Other, Key::PortAmong);
    }
    let text =
        |outer: &str, inner: &str| key.get(outer).and_then(|body| body.get(inner)).and_then(Value::as_str);
    match (text("payload", "protocol"), text("payload", "field")) {
        (Some("tcp" | "th"), Some("dport")) => return Key::Port,
        (Some("ip"), Some("protocol")) | (Some("ip6"), Some("nexthdr")) => return Key::Protocol,
        _ => {}
    }
    match (text("meta", "key"), text("ct", "key")) {
        (Some("l4proto"), _) => Key::Protocol,
        (Some("iif" | "iifname"), _) => Key::LoopbackInterface,
        (_, Some("state")) => Key::ConnectionState,
        _ => Key::Other,
    }
}

/// Narrows `matched` by an expression. Returns false where no first packet of a TCP connection from outside matches.
pub(super) fn match_expression(
    sets: &SetTable<'_>,
    chain: &(String, String, String),
    name: &str,
    body: &Value,
    matched: &mut RuleMatch,
) -> bool {
    match name {
        "match" => {}
        "xt" | "limit" | "quota" | "ct count" | "socket" | "lookup" => {
            matched.is_conditional = true;
            return true;
        }
        _ => return true,
    }
    let (Some(left), Some(right)) = (body.get("left"), body.get("right")) else { return true };
    if is_fib_local(left) && (is_word(right, "local") || right.as_u64() == Some(ADDRESS_LOCAL)) {
        return true;
    }
    let protocol = left.get("payload").and_then(|field| field.get("protocol")).and_then(Value::as_str);
    if protocol.is_some_and(|name| OTHER_PROTOCOLS.contains(&name)) {
        return false;
    }
    // firewalld accepts what was translated, without a look at its port.
    if is_ct_status(left) && (is_word(right, "dnat") || right.as_u64() == Some(CT_STATUS_DNAT)) {
        matched.is_translated_only = true;
        return true;
    }
    let key = read_key(left);
    let is_negative = body.get("op").and_then(Value::as_str) == Some("!=");
    let elements = if right.is_string() && !right.as_str().is_some_and(|name| name.starts_with('@'))
        || right.is_number()
        || right.get("range").is_some()
    {
        vec![right]
    } else if let Some(list) = right.as_array() {
        list.iter().collect()
    } else {
        sets.find(chain, right).iter().collect()
    };
    if is_negative && matches!(key, Key::Port) {
        let narrowed = matched.narrow(&key.collect_ports(elements.into_iter()).complement());
        return narrowed.map(|narrowed| *matched = narrowed).is_some();
    }
    if is_negative {
        matched.is_conditional |= !matches!(key, Key::LoopbackInterface);
        return true;
    }
    if matches!(key, Key::Port | Key::PortAmong(_)) {
        matched.is_conditional |= matches!(key, Key::PortAmong(_));
        let narrowed = matched.narrow(&key.collect_ports(elements.into_iter()));
        return narrowed.map(|narrowed| *matched = narrowed).is_some();
    }
    let mut any = elements.into_iter().filter_map(|element| key.match_element(element, matched));
    any.next().map(|first| *matched = first).is_some()
}

fn is_fib_local(left: &Value) -> bool {
    let fib = left.get("fib");
    fib.and_then(|fib| fib.get("result")).is_some_and(|result| result == "type")
        && fib.and_then(|fib| fib.get("flags")).is_some_and(|flags| flags.to_string().contains("daddr"))
}

fn is_ct_status(left: &Value) -> bool {
    left.get("ct").and_then(|ct| ct.get("key")).is_some_and(|key| key == "status")
}

/// An element may carry a timeout, a counter or a comment.
fn strip_element(element: &Value) -> &Value {
    element.get("elem").and_then(|inner| inner.get("val")).unwrap_or(element)
}

fn read_ports(element: &Value) -> PortSet {
    let element = strip_element(element);
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    if let Some(port) = number(element) {
        return PortSet::Only(vec![(port, port)]);
    }
    match element.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([low, high]) => {
            number(low).zip(number(high)).map_or(PortSet::Any, |(low, high)| PortSet::Only(vec![(low, high)]))
        }
        _ => PortSet::Any,
    }
}

fn is_word(element: &Value, word: &str) -> bool {
    strip_element(element).as_str() == Some(word)
}

fn is_tcp(element: &Value) -> bool {
    is_word(element, "tcp") || strip_element(element).as_u64() == Some(PROTOCOL_TCP)
}
