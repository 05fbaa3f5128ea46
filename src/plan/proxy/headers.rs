//! What of a head is between two neighbours, and is not handed on (RFC 9110, 7.6.1). Nothing is added to main's request.

use hyper::header::{
    self, CONNECTION, CONTENT_LENGTH, Entry, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::{Method, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a head says of its connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hop {
    /// It is the last on its connection.
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

/// What `Connection` says.
pub fn hop(headers: &HeaderMap) -> Hop {
    let mut hop = Hop::default();
    for token in tokens(headers, &CONNECTION) {
        hop.close |= token.eq_ignore_ascii_case("close");
        hop.keep_alive |= token.eq_ignore_ascii_case("keep-alive");
        hop.upgrade |= token.eq_ignore_ascii_case("upgrade");
    }
    hop
}

/// Whether the request asks for the connection itself.
pub fn wants_upgrade(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::CONNECT || (headers.contains_key(UPGRADE) && hop(headers).upgrade && !is_h2c(headers))
}

/// `Upgrade: h2c` is declined by leaving it out: whoever can speak HTTP/2 without it does so from the first byte.
fn is_h2c(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// A request as its next neighbour gets it. The end of the connection stays asked for, and so does an upgrade.
pub fn request(method: &Method, version: Version, headers: &mut HeaderMap) {
    let trailers = keep_te(headers);
    let Some(hop) = strip(headers, wants_upgrade(method, headers)) else {
        if trailers {
            headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        }
        return;
    };
    let value = match (hop, trailers) {
        (Hop { upgrade: true, .. }, _) => "upgrade",
        (Hop { close: true, .. }, false) => "close",
        (Hop { close: true, .. }, true) => "close, TE",
        (Hop { keep_alive: true, .. }, _) if version == Version::HTTP_10 => "keep-alive",
        (_, true) => "TE",
        _ => return,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(value));
}

/// An answer as the client gets it; `last`: the proxy wants to be rid of the connection.
pub fn answer(version: Version, upgraded: bool, last: bool, headers: &mut HeaderMap) {
    let hop = strip(headers, upgraded).unwrap_or_default();
    // An answer of HTTP/1.0 ends its connection unless it says otherwise.
    let ends = hop.close || (version == Version::HTTP_10 && !hop.keep_alive);
    let value = match (upgraded, last || ends) {
        (true, _) => "upgrade",
        (false, true) => "close",
        (false, false) if version == Version::HTTP_10 => "keep-alive",
        (false, false) => return,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(value));
}

/// Takes away `Connection`, what it names, and its relatives; `None` where there was nothing of the kind. What frames the
/// message is never taken away, whatever it is named by.
fn strip(headers: &mut HeaderMap, upgrading: bool) -> Option<Hop> {
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    if !upgrading && headers.contains_key(UPGRADE) {
        headers.remove(UPGRADE);
    }
    if !headers.contains_key(CONNECTION) {
        return upgrading.then(Hop::default);
    }
    let said = hop(headers);
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
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
    Some(Hop { upgrade: upgrading && said.upgrade, ..said })
}

/// Of `TE` only `trailers` is handed on: without it a server may not send any, and its other values are about this hop.
fn keep_te(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(TE) {
        return false;
    }
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
    trailers
}

/// Says who asked, behind whatever was said before.
pub fn forwarded(peer: std::net::IpAddr, headers: &mut HeaderMap) {
    let peer = peer.to_canonical().to_string();
    let said: Vec<&str> =
        headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let all = said.into_iter().chain([peer.as_str()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&all) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if let Entry::Vacant(place) = headers.entry(X_FORWARDED_PROTO) {
        place.insert(HeaderValue::from_static("http"));
    }
}

/// The comma-separated texts of all fields of a name.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn sent(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = map(lines);
        request(&Method::GET, Version::HTTP_11, &mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_is_between_neighbours_stays_there() {
        let lines =
            [("connection", "x-one, keep-alive"), ("x-one", "1"), ("x-two", "2"), ("keep-alive", "5")];
        assert_eq!(sent(&lines), ["x-two: 2"]);
        assert_eq!(
            sent(&[("proxy-connection", "close"), ("proxy-authorization", "x")]),
            ["proxy-authorization: x"]
        );
        assert_eq!(sent(&[("connection", "close")]), ["connection: close"]);
        assert_eq!(
            sent(&[("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "A")]),
            [""; 0]
        );
    }

    #[test]
    fn what_frames_a_message_cannot_be_named_away() {
        let lines = [
            ("connection", "host, content-length, transfer-encoding, trailer"),
            ("host", "a"),
            ("content-length", "1"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
        ];
        assert_eq!(
            sent(&lines),
            ["content-length: 1", "host: a", "trailer: x", "transfer-encoding: chunked"]
        );
    }

    #[test]
    fn trailers_stay_wanted() {
        assert_eq!(sent(&[("te", "gzip, trailers;q=0.5")]), [""; 0]);
        assert_eq!(
            sent(&[("te", "gzip, Trailers"), ("connection", "TE")]),
            ["connection: TE", "te: trailers"]
        );
        assert_eq!(
            sent(&[("te", "trailers"), ("connection", "TE, close")]),
            ["connection: close, TE", "te: trailers"]
        );
    }

    #[test]
    fn an_upgrade_is_handed_on() {
        let lines = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(sent(&lines), ["connection: upgrade", "upgrade: websocket"]);
        assert!(wants_upgrade(&Method::GET, &map(&lines)));
        assert!(!wants_upgrade(&Method::GET, &map(&[("upgrade", "websocket")])));
        assert_eq!(sent(&[("upgrade", "websocket")]), [""; 0]);
    }

    #[test]
    fn the_end_of_a_connection_is_said_end_to_end() {
        let close = |version, last, lines: &[(&'static str, &'static str)]| {
            let mut headers = map(lines);
            answer(version, false, last, &mut headers);
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
    fn who_asked_is_appended() {
        let mut headers = map(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        forwarded("::ffff:10.0.0.2".parse().unwrap(), &mut headers);
        assert_eq!(headers.get("x-forwarded-for").unwrap(), "10.0.0.1, 10.0.0.2");
        assert_eq!(headers.get("x-forwarded-proto").unwrap(), "https");
    }
}
