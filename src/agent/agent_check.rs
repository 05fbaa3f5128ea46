//! The responder of HAProxy's `agent-check` (configuration manual, 5.2): HAProxy connects every `agent-inter`, reads one
//! line and closes.
//!
//! Clients are answered one after another, and none can delay the next: nothing is read, and a line of a few bytes
//! fits the send buffer of a fresh connection, so it is written at once, also to one who never reads. Then the connection is the
//! kernel's. An `agent-send` text is left unread, which makes the close a reset; HAProxy has the line and its end by then (2.6
//! with `agent-send`: 477 of 477 answers received).

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::admission::RateLimitedLog;
use crate::model::agent_check::AgentCheckConfig;
use crate::model::name::ServiceName;
use crate::ops;
use crate::plan;
use crate::plan::agent_check::AgentReply;
use crate::world::HostWorld;

/// Timeout of one answer, which takes microseconds: only an upper limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// After an accept that failed, such as for want of file descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Answers until a stop is requested; the listener is closed when this returns.
pub async fn serve(world: HostWorld, service: ServiceName, terms: AgentCheckConfig, listener: TcpListener) {
    tokio::select! {
        () = world.stop.wait() => {}
        () = answer_all(&world, &service, terms, &listener) => {}
    }
}

async fn answer_all(
    world: &HostWorld,
    service: &ServiceName,
    terms: AgentCheckConfig,
    listener: &TcpListener,
) {
    let (mut trouble, log) = (None, RateLimitedLog::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let line = build_line(world, service, terms, &mut trouble);
                // A client that has disconnected retries.
                let _ = tokio::time::timeout(ANSWER_TIMEOUT, write_line(stream, &line)).await;
            }
            Err(why) => {
                log.warn(format_args!("--agent-check: cannot accept: {why}"));
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }
}

/// Returns the line, and an empty one where the record cannot be read, which is logged once until the cause changes.
fn build_line(
    world: &HostWorld,
    service: &ServiceName,
    terms: AgentCheckConfig,
    trouble: &mut Option<String>,
) -> AgentReply {
    let said = ops::host::agent_check::build_line(world, service, terms);
    let why = said.as_ref().err().map(ToString::to_string);
    if let Some(why) = why.as_ref().filter(|why| trouble.as_ref() != Some(why)) {
        log::warn!("agent-check of `{service}` answers nothing: {why}");
    }
    *trouble = why;
    said.unwrap_or_else(|_| plan::agent_check::build_reply(None, terms))
}

async fn write_line(mut stream: TcpStream, line: &AgentReply) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests;
