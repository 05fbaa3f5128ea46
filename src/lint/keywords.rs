//! A server line as HAProxy reads it: its keywords with the `default-server` lines before it (configuration manual, 5.2).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::cfg::{ParsedCfg, Section};

/// Keywords without a value; `no-...` takes one back. Every other keyword has one value.
const FLAGS: [&str; 29] = [
    "allow-0rtt",
    "agent-check",
    "backup",
    "check",
    "check-reuse-pool",
    "check-send-proxy",
    "check-sni-auto",
    "check-ssl",
    "check-via-socks4",
    "disabled",
    "enabled",
    "force-sslv3",
    "force-tlsv10",
    "force-tlsv11",
    "force-tlsv12",
    "force-tlsv13",
    "non-stick",
    "renegotiate",
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "sni-auto",
    "ssl",
    "ssl-reuse",
    "stick",
    "strict-maxconn",
    "tfo",
    "tls-tickets",
];

/// The port of a server line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerPort {
    Fixed(u16),
    /// The port that the client connected to, plus this.
    OfClient(i32),
    /// From the environment.
    Unknown,
}

/// The address of a server line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerAddress<'a> {
    Ip(IpAddr),
    Name(&'a str),
    /// The address that the client connected to.
    OfClient,
    /// A socket of the machine or of HAProxy itself: no host is reached.
    Local,
    /// From the environment.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerLine<'a> {
    pub name: Cow<'a, str>,
    pub number: usize,
    /// A list from the environment adds keywords that are not known here.
    pub is_open: bool,
    /// A slot of a `server-template`.
    pub is_slot: bool,
    address: &'a str,
    /// The keywords in force: a flag has an empty value.
    keywords: BTreeMap<&'a str, &'a str>,
}

/// More slots of one `server-template` are like those before them.
const MAX_SLOTS: u32 = 64;

/// All servers of a section, in their order: its `server` lines and the slots of its `server-template` lines.
pub(super) fn read_servers<'a>(cfg: &'a ParsedCfg, section: &'a Section) -> Vec<ServerLine<'a>> {
    let mut defaults = BTreeMap::new();
    let mut is_open = false;
    for inherited in cfg.inheritance_chain(section)[1..].iter().rev() {
        for line in inherited.find_all(&["default-server"]) {
            parse_keywords(&line.words[1..], &mut defaults);
            is_open |= line.is_open;
        }
    }
    let mut servers = Vec::new();
    for line in &section.lines {
        match line.words.as_slice() {
            [first, rest @ ..] if first == "default-server" => {
                parse_keywords(rest, &mut defaults);
                is_open |= line.is_open;
            }
            [first, name, address, rest @ ..] if first == "server" => {
                let mut keywords = defaults.clone();
                parse_keywords(rest, &mut keywords);
                let is_open = is_open || line.is_open;
                let name = Cow::Borrowed(name.as_str());
                servers.push(ServerLine {
                    name,
                    number: line.number,
                    is_open,
                    is_slot: false,
                    address,
                    keywords,
                });
            }
            [first, prefix, range, address, rest @ ..] if first == "server-template" => {
                let mut keywords = defaults.clone();
                parse_keywords(rest, &mut keywords);
                let is_open = is_open || line.is_open;
                servers.extend(list_slots(range).map(|slot| ServerLine {
                    name: Cow::Owned(format!("{prefix}{slot}")),
                    number: line.number,
                    is_open,
                    is_slot: true,
                    address,
                    keywords: keywords.clone(),
                }));
            }
            _ => {}
        }
    }
    servers
}

/// The numbers of `3` or `2-5`.
fn list_slots(range: &str) -> impl Iterator<Item = u32> + use<> {
    let bounds = match range.split_once('-') {
        Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
        None => range.parse().ok().map(|last| (1, last)),
    };
    let (first, last): (u32, u32) = bounds.unwrap_or((1, 0));
    (first..=last).take(MAX_SLOTS as usize)
}

/// The number that a text begins with, as HAProxy reads most of them: 0 without one.
pub(super) fn parse_leading_number(text: &str) -> i64 {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = digits[..end].parse().unwrap_or(if end == 0 { 0 } else { i64::MAX });
    if text.starts_with('-') { -number } else { number }
}

/// Whether a keyword has no value.
pub(super) fn is_flag(word: &str) -> bool {
    FLAGS.contains(&word) || word.starts_with("no-")
}

fn parse_keywords<'a>(words: &'a [String], into: &mut BTreeMap<&'a str, &'a str>) {
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix("no-").filter(|flag| FLAGS.contains(flag)) {
            into.remove(flag);
            into.insert(word, "");
        } else if is_flag(word) {
            into.insert(word, "");
            into.retain(|other, _| other.strip_prefix("no-") != Some(word));
            match word {
                "enabled" => into.remove("disabled"),
                "disabled" => into.remove("enabled"),
                _ => None,
            };
        } else {
            into.insert(word, words.next().unwrap_or(""));
        }
    }
}

impl<'a> ServerLine<'a> {
    pub(super) fn has_flag(&self, flag: &str) -> bool {
        self.keywords.contains_key(flag)
    }

    /// `None` too for a value taken from the environment: it is not known here.
    pub(super) fn value(&self, key: &str) -> Option<&'a str> {
        self.keywords.get(key).copied().filter(|value| !value.contains('$'))
    }

    /// Whether the value is written in the file, so that it can be compared.
    pub(super) fn is_known(&self, key: &str) -> bool {
        self.keywords.get(key).map_or(!self.is_open, |value| !value.contains('$'))
    }

    /// The port after `port`, as HAProxy takes it: the leading digits, in 16 bits; 0 counts as none.
    pub(super) fn check_port(&self) -> Option<u16> {
        let text = self.value("port")?;
        u16::try_from(parse_leading_number(text).rem_euclid(1 << 16)).ok().filter(|port| *port != 0)
    }

    /// The weight, or `None` if it comes from the environment.
    pub(super) fn weight(&self) -> Option<i64> {
        self.is_known("weight").then(|| self.value("weight").map_or(1, parse_leading_number))
    }

    /// Whether the line sends the PROXY protocol.
    pub(super) fn sends_proxy(&self) -> bool {
        self.keywords.keys().any(|key| key.starts_with("send-proxy"))
    }

    /// The address and port as they are written.
    pub(super) const fn endpoint_text(&self) -> &'a str {
        self.address
    }

    fn split_address(&self) -> (&'a str, Option<&'a str>) {
        let text = self.address.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
        if text.parse::<std::net::Ipv4Addr>().is_ok() || text.ends_with(']') {
            return (text, None);
        }
        // HAProxy takes the last colon as the port's, also after a bare IPv6 address.
        text.rsplit_once(':').map_or((text, None), |(address, port)| (address, Some(port)))
    }

    pub(super) fn port(&self) -> ServerPort {
        let Some(port) = self.split_address().1.filter(|port| !port.is_empty()) else {
            return if self.address.contains('$') { ServerPort::Unknown } else { ServerPort::OfClient(0) };
        };
        let is_relative = port.starts_with(['+', '-']);
        match port.parse::<i32>() {
            Ok(offset) if is_relative => ServerPort::OfClient(offset),
            Ok(0) => ServerPort::OfClient(0),
            Ok(port) => u16::try_from(port).map_or(ServerPort::Unknown, ServerPort::Fixed),
            Err(_) => ServerPort::Unknown,
        }
    }

    pub(super) fn address(&self) -> ServerAddress<'a> {
        const LOCAL: [&str; 6] = ["/", "unix@", "abns@", "fd@", "sockpair@", "rhttp@"];
        if LOCAL.iter().any(|start| self.address.starts_with(start)) {
            return ServerAddress::Local;
        }
        let text = self.split_address().0;
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            _ if bare.contains('$') => ServerAddress::Unknown,
            Ok(address) if address.is_unspecified() => ServerAddress::OfClient,
            Ok(address) => ServerAddress::Ip(address.to_canonical()),
            Err(_) if bare.is_empty() || bare == "*" => ServerAddress::OfClient,
            Err(_) => ServerAddress::Name(bare),
        }
    }

    /// The address, when it is one and not a name.
    pub(super) fn ip_address(&self) -> Option<IpAddr> {
        match self.address() {
            ServerAddress::Ip(address) => Some(address),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyword_values_are_skipped_and_later_keywords_override() {
        let cfg = ParsedCfg::parse(
            "defaults a\n default-server inter 1s check backup\ndefaults b from a\n default-server inter 2s\nbackend x\n \
             default-server no-backup weight 7\n server one 10.0.0.1:80 cookie backup no-check\n \
             default-server fall 9\n server two ipv6@[::1]:${P} port ${Q}\n server three ::1:81\n server four web1:+9 no-check-ssl \
             disabled enabled\n server five *:0 ssl no-ssl\n server-template t 2-3 10.0.0.9:8080\n server six 10.0.0.8 \
             source 0.0.0.0 usesrc clientip send-proxy-v2\n",
        );
        let found = read_servers(&cfg, cfg.find("backend", "x").unwrap());
        let [one, two, three, four, five, slot, last, six] = found.as_slice() else {
            panic!("{}", found.len())
        };
        assert!(!one.has_flag("backup") && !one.has_flag("check") && two.has_flag("check"));
        assert_eq!(
            (one.value("cookie"), one.value("inter"), one.value("fall")),
            (Some("backup"), Some("2s"), None)
        );
        assert_eq!(
            (two.value("weight"), two.value("fall"), two.port()),
            (Some("7"), Some("9"), ServerPort::Unknown)
        );
        assert!(two.value("port").is_none() && !two.is_known("port") && one.is_known("port"));
        let loopback = ServerAddress::Ip("::1".parse().unwrap());
        assert_eq!((three.address(), three.port()), (loopback, ServerPort::Fixed(81)));
        assert_eq!((four.address(), four.port()), (ServerAddress::Name("web1"), ServerPort::OfClient(9)));
        let port = |text: &str| {
            let text = format!("backend x\n server a 10.0.0.1:80 check port {text}\n");
            let cfg = ParsedCfg::parse(&text);
            read_servers(&cfg, cfg.find("backend", "x").unwrap())[0].check_port()
        };
        // The column srv_check_port of `show servers state`, in 2.6.12 and 3.4.7.
        assert_eq!(
            ["8888", "74424", "8888x", "-1", "0", "http"].map(port),
            [Some(8888), Some(8888), Some(8888), Some(65535), None, None]
        );
        assert!(four.has_flag("no-check-ssl") && !four.has_flag("disabled"));
        assert_eq!((five.address(), five.port()), (ServerAddress::OfClient, ServerPort::OfClient(0)));
        assert!(!five.has_flag("ssl") && six.sends_proxy() && six.value("usesrc") == Some("clientip"));
        assert_eq!((&*slot.name, &*last.name, slot.port()), ("t2", "t3", ServerPort::Fixed(8080)));
        assert_eq!(six.port(), ServerPort::OfClient(0));
    }

    /// The manuals of three versions say which keywords have an argument: a wrong list shifts all words of a line.
    #[test]
    fn keywords_have_the_arguments_of_the_manual() {
        for version in ["2.6.12", "3.2.26", "3.4.7"] {
            let file =
                format!("{}/tests/fixtures/haproxy/keywords-{version}.txt", env!("CARGO_MANIFEST_DIR"));
            for line in std::fs::read_to_string(file).unwrap().lines() {
                let Some(("server", rest)) = line.split_once('\t') else { continue };
                let (keyword, has_value) =
                    rest.split_once('\t').map_or((rest, false), |(keyword, _)| (keyword, true));
                let is_flag = FLAGS.contains(&keyword) || keyword.starts_with("no-");
                assert_eq!(is_flag, !has_value, "{keyword} of {version}");
            }
        }
    }
}
