//! The answer that goes on while something runs: JSON lines, and a line without content while nothing happens.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;

use super::respond::to_api_error;
use crate::model::api::{RunEvent, RunOutcome};
use crate::world::link::{LineSink, LinkResult, SharedLineSink};

/// Interval at which the caller of a silent program gets a sign that the link is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Lines that wait for a slow reader; then the program waits too.
const LINE_BUFFER: usize = 256;

pub(super) const MEDIA: &str = "application/x-ndjson";

/// The body of an answer, one [`RunEvent`] a line.
pub(super) struct LineStream(Body);

/// Starts a run. A caller that disconnects ends the program.
pub(super) fn stream_run<F>(run: impl FnOnce(SharedLineSink) -> F) -> LineStream
where
    F: Future<Output = LinkResult<RunOutcome>> + Send + 'static,
{
    let (lines, mut heard) = mpsc::channel(LINE_BUFFER);
    let ended = run(Arc::new(ChannelSink(lines.clone())));
    let running = AbortOnDrop(tokio::spawn(drive_run(ended, lines)));
    let stream = futures_util::stream::poll_fn(move |context| {
        let _held = &running;
        heard.poll_recv(context).map(|line: Option<RunEvent>| line.map(|line| encode_line(&line)))
    });
    LineStream(Body::from_stream(stream))
}

impl IntoResponse for LineStream {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, MEDIA)], self.0).into_response()
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The caller that requested the run, at the other end of the link.
struct ChannelSink(mpsc::Sender<RunEvent>);

#[async_trait]
impl LineSink for ChannelSink {
    async fn write_line(&self, line: &str) {
        // A caller that disconnected receives nothing any more, and the run is ended for it.
        let _ = self.0.send(RunEvent::Line(line.to_owned())).await;
    }
}

async fn drive_run(ended: impl Future<Output = LinkResult<RunOutcome>>, lines: mpsc::Sender<RunEvent>) {
    tokio::pin!(ended);
    let ended = loop {
        tokio::select! {
            ended = &mut ended => break ended,
            () = tokio::time::sleep(KEEPALIVE_INTERVAL) => {
                let _ = lines.try_send(RunEvent::KeepAlive);
            }
        }
    };
    let last = match ended {
        Ok(end) => RunEvent::Exited(end),
        Err(error) => RunEvent::Failed(to_api_error(&error)),
    };
    let _ = lines.send(last).await;
}

fn encode_line(line: &RunEvent) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}
