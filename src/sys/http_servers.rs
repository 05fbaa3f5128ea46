//! HTTP requests to the servers of a cluster: each in turn until one answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};

use super::certificate_error::is_certificate_error;

/// Limit of one request to one server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer may hold the whole history of a promotion.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// How a client proves itself, and what it trusts. Paths are absolute.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// PEM texts.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key of the client.
    pub identity: Option<Vec<u8>>,
}

/// The servers of a cluster.
#[derive(Debug)]
pub struct HttpServers {
    client: Client,
    endpoints: Vec<String>,
    /// Index of the endpoint that has answered last.
    preferred: AtomicUsize,
}

/// No server of a cluster answered; the reason of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    pub reason: String,
    /// On each connection one side did not accept the other's certificate: a retry does not help.
    pub is_certificate_error: bool,
}

/// An answer of a server.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl HttpServers {
    /// `endpoints` are URLs without a path.
    pub fn new(endpoints: Vec<String>, tls: &TlsFiles) -> Result<Self, String> {
        // Another part of the program may have installed it already: that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder =
            Client::builder().user_agent("switchman").no_proxy().connect_timeout(CONNECT_TIMEOUT);
        if let Some(ca) = &tls.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(ca);
            builder = builder.tls_certs_only(certificates.map_err(|error| describe(&error))?);
        }
        if let Some(identity) = &tls.identity {
            let identity = reqwest::Identity::from_pem(identity).map_err(|error| describe(&error))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|error| describe(&error))?;
        Ok(Self { client, endpoints, preferred: AtomicUsize::new(0) })
    }

    /// Sends a request to the servers in turn, from the one that answered last, until one answers.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
        timeout: Option<Duration>,
    ) -> Result<HttpAnswer, NoAnswer> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut reasons = Vec::new();
        let mut is_certificate_error = true;
        for offset in 0..self.endpoints.len() {
            let index = (first + offset) % self.endpoints.len();
            let endpoint = &self.endpoints[index];
            let request = build(self.client.request(method.clone(), format!("{endpoint}{path}")));
            match send(request.timeout(timeout.unwrap_or(REQUEST_TIMEOUT))).await {
                // A server that has lost its cluster is no better than none.
                Ok(answer) if answer.status.is_server_error() => {
                    is_certificate_error = false;
                    reasons.push(format!("{endpoint}: {} {}", answer.status, answer.text.trim()));
                }
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failed) => {
                    is_certificate_error &= failed.is_certificate_error;
                    reasons.push(format!("{endpoint}: {}", failed.reason));
                }
            }
        }
        Err(NoAnswer { reason: reasons.join("; "), is_certificate_error })
    }

    /// Reads an answer that does not end, from the server that answered last, until a part of it is `wanted`.
    pub async fn stream(
        &self,
        path: &str,
        body: &str,
        token: Option<&str>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), NoAnswer> {
        let endpoint = &self.endpoints[self.preferred.load(Ordering::Relaxed) % self.endpoints.len()];
        let mut request = self.client.post(format!("{endpoint}{path}")).body(body.to_owned());
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let failed = |error: reqwest::Error| NoAnswer {
            reason: format!("{endpoint}: {}", describe(&error)),
            is_certificate_error: is_certificate_error(&error),
        };
        let mut response = request.send().await.map_err(failed)?;
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if wanted(&String::from_utf8_lossy(&chunk)) {
                return Ok(());
            }
        }
        Err(NoAnswer { reason: format!("{endpoint}: the answer ended"), is_certificate_error: false })
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }
}

async fn send(request: RequestBuilder) -> Result<HttpAnswer, NoAnswer> {
    let failed = |error: reqwest::Error| NoAnswer {
        reason: describe(&error),
        is_certificate_error: is_certificate_error(&error),
    };
    let mut response = request.send().await.map_err(failed)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            let reason = format!("the answer has more than {MAX_ANSWER_BYTES} bytes");
            return Err(NoAnswer { reason, is_certificate_error: false });
        }
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(HttpAnswer { status, headers, text })
}

/// The innermost reason.
fn describe(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    if error.is_timeout() { format!("no answer in time ({reason})") } else { reason.to_string() }
}
