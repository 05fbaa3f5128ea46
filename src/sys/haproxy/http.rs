//! The statistics page as CSV.

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;

use super::dial;
use super::error::{MAX_ANSWER_BYTES, ReadError, new_too_large_error};

/// Made at the first use: a TLS client reads the system's roots, which a stats socket never needs.
#[derive(Default)]
pub(super) struct PageClient(OnceLock<Result<reqwest::Client, String>>);

impl PageClient {
    /// Sends one GET of `URL;csv`: no redirect, no proxy, user and password from the URL. The answer is bounded in size.
    pub(super) async fn get(&self, url: &str, bound: Duration) -> Result<String, ReadError> {
        let client = self.0.get_or_init(|| build_client(bound));
        let client = client.as_ref().map_err(|why| ReadError::NoConnection(why.clone()))?;
        let mut response =
            client.get(to_csv_url(url)?).send().await.map_err(|error| to_read_error(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(ReadError::Refused { status });
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(String::from_utf8_lossy(&body).into_owned()),
                Err(_) => return Err(ReadError::Truncated { received: body.len() }),
            }
            if body.len() as u64 > MAX_ANSWER_BYTES {
                return Err(new_too_large_error());
            }
        }
    }
}

fn build_client(bound: Duration) -> Result<reqwest::Client, String> {
    // Another part of the program may have installed it already: that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().redirect(Policy::none()).user_agent("switchman");
    // A connection a read: after a reload a kept one is connected to the old process, which no longer checks anything.
    let builder = builder.pool_max_idle_per_host(0).dns_resolver(Arc::new(dial::Resolver));
    // Shared among the addresses of a name; below the bound, so that the last one is reached within it.
    builder.connect_timeout(bound * 9 / 10).build().map_err(|error| error.to_string())
}

/// HAProxy prints CSV where the URI ends with `;csv`: its default statistics address is `/haproxy?stats`, with the parameter
/// in the query (configuration manual, `stats uri`).
pub(super) fn to_csv_url(url: &str) -> Result<Url, ReadError> {
    let mut parsed: Url =
        url.parse().map_err(|_| ReadError::NoConnection("the address is not a URL".to_owned()))?;
    if let Some(query) = parsed.query() {
        let query = if query.ends_with(";csv") { query.to_owned() } else { format!("{query};csv") };
        parsed.set_query(Some(&query));
    } else if !parsed.path().ends_with(";csv") {
        let path = format!("{};csv", parsed.path());
        parsed.set_path(&path);
    }
    Ok(parsed)
}

/// The innermost reason, without the URL: it may hold a password.
fn to_read_error(error: &reqwest::Error) -> ReadError {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    let source = error.source().is_some();
    ReadError::NoConnection(if source { reason.to_string() } else { "the request failed".to_owned() })
}
