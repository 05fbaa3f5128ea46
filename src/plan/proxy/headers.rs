//! Hop-by-hop headers, which are not forwarded (RFC 9110, 7.6.1). Nothing is added to main's request.

use hyper::header::{
    self, CONNECTION, CONTENT_LENGTH, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::{Method, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The connection options of a message's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// The message is the last on its connection.
    pub is_close: bool,
    pub is_keep_alive: bool,
    pub is_upgrade: bool,
}

/// Reads the header `Connection`.
pub fn read_connection_options(headers: &HeaderMap) -> ConnectionOptions {
    let mut options = ConnectionOptions::default();
    for token in split_tokens(headers, &CONNECTION) {
        options.is_close |= token.eq_ignore_ascii_case("close");
        options.is_keep_alive |= token.eq_ignore_ascii_case("keep-alive");
        options.is_upgrade |= token.eq_ignore_ascii_case("upgrade");
    }
    options
}

/// Whether the request wants the connection itself.
pub fn wants_upgrade(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::CONNECT
        || (headers.contains_key(UPGRADE) && read_connection_options(headers).is_upgrade && !is_h2c(headers))
}

/// `Upgrade: h2c` is declined by leaving it out: a client that can speak HTTP/2 without it does so from the first byte.
fn is_h2c(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// Prepares the headers of a request for the upstream. The request to close the connection is kept, and so is an upgrade.
pub fn prepare_request(method: &Method, version: Version, headers: &mut HeaderMap) {
    let trailers = keep_te(headers);
    let Some(options) = strip_hop_headers(headers, wants_upgrade(method, headers)) else {
        if trailers {
            headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        }
        return;
    };
    let value = match (options, trailers) {
        (ConnectionOptions { is_upgrade: true, .. }, _) => "upgrade",
        (ConnectionOptions { is_close: true, .. }, false) => "close",
        (ConnectionOptions { is_close: true, .. }, true) => "close, TE",
        (ConnectionOptions { is_keep_alive: true, .. }, _) if version == Version::HTTP_10 => "keep-alive",
        (_, true) => "TE",
        _ => return,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(value));
}

/// Prepares the headers of an answer for the client; `is_last`: the proxy ends the connection after it.
pub fn prepare_response(version: Version, is_upgraded: bool, is_last: bool, headers: &mut HeaderMap) {
    let options = strip_hop_headers(headers, is_upgraded).unwrap_or_default();
    // An answer of HTTP/1.0 ends its connection unless its headers state otherwise.
    let ends = options.is_close || (version == Version::HTTP_10 && !options.is_keep_alive);
    let value = match (is_upgraded, is_last || ends) {
        (true, _) => "upgrade",
        (false, true) => "close",
        (false, false) if version == Version::HTTP_10 => "keep-alive",
        (false, false) => return,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(value));
}

/// Removes `Connection`, the headers that it names, and its relatives; `None` where there were none. What frames the
/// message is never removed, even if `Connection` names it.
fn strip_hop_headers(headers: &mut HeaderMap, is_upgrading: bool) -> Option<ConnectionOptions> {
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    if !is_upgrading && headers.contains_key(UPGRADE) {
        headers.remove(UPGRADE);
    }
    if !headers.contains_key(CONNECTION) {
        return is_upgrading.then(ConnectionOptions::default);
    }
    let options = read_connection_options(headers);
    let named: Vec<HeaderName> = split_tokens(headers, &CONNECTION)
        .filter(|token| {
            !["close", "keep-alive", "upgrade", "te"].iter().any(|own| token.eq_ignore_ascii_case(own))
        })
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, header::TRAILER].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    Some(ConnectionOptions { is_upgrade: is_upgrading && options.is_upgrade, ..options })
}

/// Forwards only `trailers` of `TE`: without it a server may not send any, and its other values are about this connection.
fn keep_te(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(TE) {
        return false;
    }
    let trailers = split_tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
    trailers
}

/// Appends the client's address to `X-Forwarded-For`, and sets `X-Forwarded-Proto` where it is absent.
pub fn append_forwarded(peer: std::net::IpAddr, headers: &mut HeaderMap) {
    let peer = peer.to_canonical().to_string();
    let known: Vec<&str> =
        headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = known.into_iter().chain([peer.as_str()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if let Entry::Vacant(entry) = headers.entry(X_FORWARDED_PROTO) {
        entry.insert(HeaderValue::from_static("http"));
    }
}

/// The comma-separated texts of all fields of a name.
fn split_tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn prepare_and_list(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = make_headers(lines);
        prepare_request(&Method::GET, Version::HTTP_11, &mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let lines =
            [("connection", "x-one, keep-alive"), ("x-one", "1"), ("x-two", "2"), ("keep-alive", "5")];
        assert_eq!(prepare_and_list(&lines), ["x-two: 2"]);
        assert_eq!(
            prepare_and_list(&[("proxy-connection", "close"), ("proxy-authorization", "x")]),
            ["proxy-authorization: x"]
        );
        assert_eq!(prepare_and_list(&[("connection", "close")]), ["connection: close"]);
        assert_eq!(
            prepare_and_list(&[
                ("upgrade", "h2c"),
                ("connection", "upgrade, http2-settings"),
                ("http2-settings", "A")
            ]),
            [""; 0]
        );
    }

    #[test]
    fn connection_header_cannot_remove_framing() {
        let lines = [
            ("connection", "host, content-length, transfer-encoding, trailer"),
            ("host", "a"),
            ("content-length", "1"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
        ];
        assert_eq!(
            prepare_and_list(&lines),
            ["content-length: 1", "host: a", "trailer: x", "transfer-encoding: chunked"]
        );
    }

    #[test]
    fn te_trailers_is_kept() {
        assert_eq!(prepare_and_list(&[("te", "gzip, trailers;q=0.5")]), [""; 0]);
        for (te, connection, kept) in
            [("gzip, Trailers", "TE", "connection: TE"), ("trailers", "TE, close", "connection: close, TE")]
        {
            assert_eq!(prepare_and_list(&[("te", te), ("connection", connection)]), [kept, "te: trailers"]);
        }
    }

    #[test]
    fn upgrade_is_forwarded() {
        let lines = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(prepare_and_list(&lines), ["connection: upgrade", "upgrade: websocket"]);
        assert!(wants_upgrade(&Method::GET, &make_headers(&lines)));
        assert!(!wants_upgrade(&Method::GET, &make_headers(&[("upgrade", "websocket")])));
        assert_eq!(prepare_and_list(&[("upgrade", "websocket")]), [""; 0]);
    }

    #[test]
    fn connection_close_is_forwarded() {
        let close = |version, last, lines: &[(&'static str, &'static str)]| {
            let mut headers = make_headers(lines);
            prepare_response(version, false, last, &mut headers);
            headers.get(CONNECTION).is_some_and(|value| value == "close")
        };
        assert!(!close(Version::HTTP_11, false, &[]));
        assert!(!close(Version::HTTP_11, false, &[("connection", "keep-alive")]));
        assert!(close(Version::HTTP_11, true, &[("connection", "keep-alive")]));
        assert!(close(Version::HTTP_11, false, &[("connection", "Close")]));
        assert!(close(Version::HTTP_10, false, &[]));
        assert!(!close(Version::HTTP_10, false, &[("connection", "keep-alive")]));
    }

    #[test]
    fn forwarded_for_is_appended() {
        let mut headers = make_headers(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        append_forwarded("::ffff:10.0.0.2".parse().unwrap(), &mut headers);
        assert_eq!(headers.get("x-forwarded-for").unwrap(), "10.0.0.1, 10.0.0.2");
        assert_eq!(headers.get("x-forwarded-proto").unwrap(), "https");
    }
}
