//! The address of something that runs already.

use std::net::IpAddr;

use crate::model::ports::Port;

/// The reason why no port rule can route to an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Seed row R35.
    #[error("invalid URL({}): {reason}", .uri.escape_debug())]
    Invalid { uri: String, reason: &'static str },
    #[error(
        "`{host}` is not this host: a kernel rule forwards a port only within one machine; start a relay here, \
         or deploy it on that machine"
    )]
    OtherHost { host: String },
}

/// The port that `http://HOST[:PORT][/]` names on the host itself: HOST is `localhost`, a loopback address or the host's own.
/// Without a scheme it means http, without a port 80 (seed row R35).
pub fn parse_local_port(uri: &str, own: IpAddr) -> Result<Port, UriError> {
    let invalid = |reason| UriError::Invalid { uri: uri.to_owned(), reason };
    let rest = match uri.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(invalid("only http:// is spoken on a data port")),
        None => uri,
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if !matches!(path, "" | "/") {
        return Err(invalid("a port is routed to a whole server, not to a path of it"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(|| invalid("the bracket is not closed"))?;
            (host, rest.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.unwrap_or("80").parse().map_err(|_| invalid("a port is a number from 1 to 65535"))?;
    let is_local = match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified() || address == own,
        Err(_) if host.is_empty() => return Err(invalid("the host is missing")),
        Err(_) => host == "localhost",
    };
    if is_local { Ok(port) } else { Err(UriError::OtherHost { host: host.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: R35.
    #[test]
    fn local_port_accepts_only_this_host() {
        let own: IpAddr = "10.0.0.11".parse().unwrap();
        let port = |uri| parse_local_port(uri, own).map(Port::get);
        assert_eq!(port("http://127.0.0.1:9000"), Ok(9000));
        assert_eq!(port("localhost:9000/"), Ok(9000));
        assert_eq!(port("http://10.0.0.11:9000"), Ok(9000));
        assert_eq!(port("http://[::1]:9000/"), Ok(9000));
        assert_eq!(port("http://localhost"), Ok(80));
        assert!(matches!(port("http://10.0.0.12:9000"), Err(UriError::OtherHost { .. })));
        for bad in [
            "",
            "http://",
            "https://localhost:1",
            "http://localhost:0",
            "http://[::1:9",
            "http://localhost:1/a",
            "http://localhost:99999",
        ] {
            assert!(matches!(port(bad), Err(UriError::Invalid { .. })), "{bad}");
        }
    }
}
