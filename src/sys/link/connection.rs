//! A connection to an agent, and a request over it.

use std::error::Error;
use std::io;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::http::request::Builder;
use hyper::{Request, Response};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::model::api::endpoint::Method;
use crate::sys::ssh::stderr::SshStderr;

/// Few requests are more than some bytes; a file is read as it is sent.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) struct Connection {
    pub sender: SendRequest<Body>,
    pub token: Option<String>,
    /// Standard error of the ssh that carries the connection.
    pub ssh_stderr: Option<SshStderr>,
    /// When it was made, or its last answer read to the end.
    pub last_used: Instant,
    /// Dropped with it, which ends it.
    pub _close: oneshot::Sender<()>,
}

/// A request as it is sent, without the types of its endpoint.
pub(super) struct EncodedRequest {
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// JSON.
    pub body: Option<Bytes>,
}

/// Why a request got no answer.
pub(super) enum RequestFailure {
    /// Not a byte of it was sent: the kept connection had ended.
    NotSent,
    Broken(String),
}

impl Connection {
    pub async fn send(&mut self, request: &EncodedRequest) -> Result<Response<Incoming>, RequestFailure> {
        let broken = |error: &dyn Error| RequestFailure::Broken(describe_error(error));
        let mut builder = self.build_request(request.method, &request.target);
        if request.body.is_some() {
            builder = builder.header("content-type", "application/json");
        }
        let bytes = request.body.clone().unwrap_or_default();
        let request = builder
            .body(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| broken(&error))?;
        self.sender.send_request(request).await.map_err(|error| match error {
            error if error.is_canceled() => RequestFailure::NotSent,
            error => broken(&error),
        })
    }

    pub fn build_request(&self, method: Method, target: &str) -> Builder {
        let request = Request::builder().method(method.as_str()).uri(target).header("host", "switchman");
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Describes a failure together with the standard error of ssh, which explains more.
    pub async fn explain_failure(&self, failure: RequestFailure) -> String {
        let why = match failure {
            RequestFailure::NotSent => "the connection was closed".to_owned(),
            RequestFailure::Broken(why) => why,
        };
        match &self.ssh_stderr {
            Some(stderr) => match stderr.wait_for_text().await {
                words if words.is_empty() => why,
                words => format!("{why}; ssh reports: {words}"),
            },
            None => why,
        }
    }
}

/// An error with its causes: hyper's own words stop before the cause.
pub(super) fn describe_error(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}
