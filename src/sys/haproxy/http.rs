//! The statistics page as CSV.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;

use super::{LARGEST, Unreadable, dial, too_large};

/// Made at the first use: a TLS client reads the system's roots, which a stats socket never needs.
#[derive(Default)]
pub(super) struct Client(OnceLock<Result<reqwest::Client, String>>);

impl Client {
    /// One GET of `URL;csv`: no redirect, no proxy, user and password from the URL. The answer is bounded in size.
    pub(super) async fn get(&self, url: &str, bound: Duration) -> Result<String, Unreadable> {
        let client = self.0.get_or_init(|| build(bound));
        let client = client.as_ref().map_err(|why| Unreadable::NoConnection(why.clone()))?;
        let mut response = client.get(csv_url(url)?).send().await.map_err(|error| unreachable(&error))?;
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
            if body.len() as u64 > LARGEST {
                return Err(too_large());
            }
        }
    }
}

fn build(bound: Duration) -> Result<reqwest::Client, String> {
    // Another part of the program may have installed it already: that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().redirect(Policy::none()).user_agent("switchman");
    // A connection a read: after a reload a kept one leads to the old process, which no longer checks anything.
    let builder = builder.pool_max_idle_per_host(0).dns_resolver(Arc::new(dial::Resolver));
    // Shared among the addresses of a name; below the bound, so that the last one is reached within it.
    builder.connect_timeout(bound * 9 / 10).build().map_err(|error| error.to_string())
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
