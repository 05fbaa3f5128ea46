//! Values of `switchman.yaml` that are types and not strings.

use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected};

use crate::model::balancer::{SshSocket, StatsEndpoint};
use crate::model::duration;
use crate::model::ports::Port;

/// `500ms`, `2s`, `1m30s`.
#[derive(Debug, Clone, Copy)]
pub struct ConfigDuration(pub Duration);

impl<'de> Deserialize<'de> for ConfigDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let expected = "a number with a unit, such as 500ms, 2s or 1m30s";
        duration::parse(&text)
            .map(Self)
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }
}

impl JsonSchema for ConfigDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$", "examples": ["500ms", "2s", "1m30s"]})
    }
}

/// `/run/haproxy/admin.sock`, `ssh://ops@lb1/run/haproxy/admin.sock`, `tcp://10.0.0.2:9999`, `http://10.0.0.2:8404/stats`.
#[derive(Debug, Clone)]
pub struct HaproxyEndpoint(pub StatsEndpoint);

const EXPECTED_ENDPOINT: &str = "a socket path such as /run/haproxy/admin.sock, ssh://HOST/PATH of a socket on another machine, \
                      tcp://HOST:PORT, or http://HOST:PORT/PATH of the statistics page";

impl<'de> Deserialize<'de> for HaproxyEndpoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_endpoint(&text)
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED_ENDPOINT))
    }
}

impl JsonSchema for HaproxyEndpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HaproxyAccess".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": EXPECTED_ENDPOINT})
    }
}

fn parse_endpoint(text: &str) -> Option<StatsEndpoint> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    if let Some(rest) = text.strip_prefix("tcp://") {
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let named = !host.is_empty() && !host.contains(['/', '@', '[', ']']);
        return named.then(|| StatsEndpoint::Tcp { host: host.to_owned(), port });
    }
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        let host = rest.split('/').next().unwrap_or("").rsplit('@').next().unwrap_or("");
        return (!host.is_empty() && !host.starts_with(':')).then(|| StatsEndpoint::Http(text.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("ssh://") {
        return parse_ssh_socket(rest).map(StatsEndpoint::Ssh);
    }
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix@")).unwrap_or(text);
    path.starts_with('/').then(|| StatsEndpoint::Unix(PathBuf::from(path)))
}

/// Parses what follows `ssh://`: `[USER@]HOST[:PORT]/PATH`. The options are those of the configuration.
fn parse_ssh_socket(rest: &str) -> Option<SshSocket> {
    let at = rest.find('/')?;
    let (authority, path) = rest.split_at(at);
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (host, port) = match host.strip_prefix('[') {
        Some(inner) => {
            let (address, port) = inner.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(str::parse::<Port>).transpose().ok()?;
    let is_plain = |text: &str, more: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    // In a forward, ssh gives `:`, `%` and `$` a meaning (ssh_config(5), LocalForward).
    let fits =
        is_plain(host, "._-:") && user.is_none_or(|user| is_plain(user, "._-")) && is_plain(path, "/._-+@,=");
    let destination = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
    (fits && path.len() > 1).then(|| SshSocket { destination, port, options: Vec::new(), path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_endpoint_parses_every_form() {
        let tcp = |host: &str, port| Some(StatsEndpoint::Tcp { host: host.to_owned(), port });
        assert_eq!(parse_endpoint("tcp://10.0.0.2:9999"), tcp("10.0.0.2", 9999));
        assert_eq!(parse_endpoint("tcp://[fd00::2]:9999"), tcp("fd00::2", 9999));
        assert_eq!(parse_endpoint("tcp://lb1.example:9999/"), tcp("lb1.example", 9999));
        assert_eq!(parse_endpoint("/run/h.sock"), Some(StatsEndpoint::Unix("/run/h.sock".into())));
        assert_eq!(parse_endpoint("unix:///run/h.sock"), Some(StatsEndpoint::Unix("/run/h.sock".into())));
        for (text, destination, port) in [
            ("ssh://lb1/run/h.sock", "lb1", None),
            ("ssh://ops@lb1.example:2222/run/h.sock", "ops@lb1.example", Some(2222)),
            ("ssh://ops@[fd00::2]/run/h.sock", "ops@fd00::2", None),
            ("ssh://[fd00::2]:2222/run/h.sock", "fd00::2", Some(2222)),
        ] {
            let Some(StatsEndpoint::Ssh(socket)) = parse_endpoint(text) else { panic!("{text}") };
            assert_eq!((socket.destination.as_str(), socket.port.map(Port::get)), (destination, port));
            assert_eq!((socket.path.to_str(), socket.to_string().as_str()), (Some("/run/h.sock"), text));
        }
        assert_eq!(parse_endpoint("http://lb:8404/s"), Some(StatsEndpoint::Http("http://lb:8404/s".into())));
        for bad in [
            "",
            "lb1",
            "tcp://lb1",
            "tcp://:99",
            "tcp://lb1:0",
            "tcp://lb1:99999",
            "http://",
            "run/x",
            "ftp://x",
            "ssh://lb1",
            "ssh://lb1/",
            "ssh:///run/h.sock",
            "ssh://-oProxyCommand=x/run/h.sock",
            "ssh://-l@lb1/run/h.sock",
            "ssh://lb1:0/run/h.sock",
            "ssh://lb1:22:22/run/h.sock",
            "ssh://[lb1]/run/h.sock",
            "ssh://lb1/run/%h.sock",
            "ssh://lb1/run/h:sock",
        ] {
            assert_eq!(parse_endpoint(bad), None, "{bad}");
        }
    }
}
