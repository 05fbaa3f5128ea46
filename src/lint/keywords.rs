//! A server line as HAProxy reads it: its keywords with the `default-server` lines before it (configuration manual, 5.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::cfg::{ParsedCfg, Section};

/// Keywords without a value; `no-...` takes one back. Every other keyword has one value.
const FLAGS: [&str; 25] = [
    "allow-0rtt",
    "agent-check",
    "backup",
    "check",
    "check-reuse-pool",
    "check-send-proxy",
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
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "ssl",
    "ssl-reuse",
    "stick",
    "tfo",
    "tls-tickets",
];

pub(super) struct ServerLine<'a> {
    pub name: &'a str,
    pub number: usize,
    address: &'a str,
    /// The keywords in force: a flag has an empty value.
    keywords: BTreeMap<&'a str, &'a str>,
}

/// All `server` lines of a backend, in their order.
pub(super) fn read_servers<'a>(cfg: &'a ParsedCfg, section: &'a Section) -> Vec<ServerLine<'a>> {
    let mut defaults = BTreeMap::new();
    for inherited in cfg.inheritance_chain(section)[1..].iter().rev() {
        for line in inherited.find_all(&["default-server"]) {
            parse_keywords(&line.words[1..], &mut defaults);
        }
    }
    let mut servers = Vec::new();
    for line in &section.lines {
        match line.words.as_slice() {
            [first, rest @ ..] if first == "default-server" => parse_keywords(rest, &mut defaults),
            [first, name, address, rest @ ..] if first == "server" => {
                let mut keywords = defaults.clone();
                parse_keywords(rest, &mut keywords);
                servers.push(ServerLine { name, number: line.number, address, keywords });
            }
            _ => {}
        }
    }
    servers
}

fn parse_keywords<'a>(words: &'a [String], into: &mut BTreeMap<&'a str, &'a str>) {
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix("no-").filter(|flag| FLAGS.contains(flag)) {
            into.remove(flag);
        } else if FLAGS.contains(&word) || word.starts_with("no-") {
            into.insert(word, "");
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
        self.keywords.get(key).is_none_or(|value| !value.contains('$'))
    }

    /// The data port as it is written; `None` without one, or when it comes from the environment.
    pub(super) fn port(&self) -> Option<&'a str> {
        let port = self.address.rsplit_once(':')?.1;
        (!port.is_empty() && port.chars().all(|c| c.is_ascii_digit())).then_some(port)
    }

    /// The address, when it is one and not a name.
    pub(super) fn ip_address(&self) -> Option<IpAddr> {
        let text = self.address.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
        let with_port = text.parse::<SocketAddr>().map(|address| address.ip());
        // HAProxy takes the last colon as the port's, also after a bare IPv6 address.
        with_port.ok().or_else(|| text.rsplit_once(':')?.0.parse().ok())
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
             default-server fall 9\n server two ipv6@[::1]:${P} port ${Q}\n server three ::1:81\n",
        );
        let found = read_servers(&cfg, cfg.find("backend", "x").unwrap());
        let [one, two, three] = found.as_slice() else { panic!("{}", found.len()) };
        assert!(!one.has_flag("backup") && !one.has_flag("check") && two.has_flag("check"));
        assert_eq!(
            (one.value("cookie"), one.value("inter"), one.value("fall")),
            (Some("backup"), Some("2s"), None)
        );
        assert_eq!((two.value("weight"), two.value("fall"), two.port()), (Some("7"), Some("9"), None));
        assert!(two.value("port").is_none() && !two.is_known("port") && one.is_known("port"));
        assert_eq!((three.ip_address(), three.port()), (Some("::1".parse().unwrap()), Some("81")));
    }
}
