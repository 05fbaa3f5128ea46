//! The statistics page as CSV.

use std::error::Error as _;
use std::sync::OnceLock;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use super::Unreadable;

/// One GET of `URL;csv`: no redirect, no proxy, user and password from the URL. The answer is bounded.
pub(super) async fn get(url: &str, largest: u64) -> Result<String, Unreadable> {
    let mut response = client()?.get(csv_url(url)?).send().await.map_err(|error| unreachable(&error))?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(Unreadable::Refused { status });
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(String::from_utf8_lossy(&body).into_owned()),
            Err(_) => return Err(Unreadable::Truncated { received: body.len() }),
        }
        if body.len() as u64 > largest {
            return Err(Unreadable::Garbled(format!("more than {largest} bytes")));
        }
    }
}

/// Made at the first use: a TLS client reads the system's roots, which a unix socket never needs.
fn client() -> Result<&'static Client, Unreadable> {
    static CLIENT: OnceLock<Result<Client, String>> = OnceLock::new();
    let made = CLIENT.get_or_init(|| {
        // Another part of the program may have installed it already: that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder().no_proxy().redirect(Policy::none()).user_agent("switchman");
        builder.build().map_err(|error| error.to_string())
    });
    made.as_ref().map_err(|why| Unreadable::NoConnection(why.clone()))
}

/// HAProxy prints CSV where the path ends with `;csv`.
fn csv_url(url: &str) -> Result<Url, Unreadable> {
    let mut parsed: Url =
        url.parse().map_err(|_| Unreadable::NoConnection("the address is not a URL".to_owned()))?;
    if !parsed.path().ends_with(";csv") {
        let path = format!("{};csv", parsed.path());
        parsed.set_path(&path);
    }
    Ok(parsed)
}

/// The innermost reason, without the URL: it may hold a password.
fn unreachable(error: &reqwest::Error) -> Unreadable {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    let source = error.source().is_some();
    Unreadable::NoConnection(if source { reason.to_string() } else { "the request failed".to_owned() })
}
