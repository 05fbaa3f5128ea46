//! An answer's body, on its way to the client.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::client_stream::HeadState;
use super::comparison::Recorder;
use super::counters::GaugeGuard;
use super::upload::ContinueSignal;

pub struct Download {
    body: DownloadBody,
    recorder: Option<Recorder>,
    _in_flight: Option<InFlightRequest>,
}

enum DownloadBody {
    Upstream(Incoming),
    Local(Option<Bytes>),
}

/// Time from the head of a request to the end of its answer.
pub struct InFlightRequest {
    head_state: Arc<HeadState>,
    is_request_read: Rc<Cell<bool>>,
    continue_signal: Option<ContinueSignal>,
    _gauge_guard: Option<GaugeGuard>,
}

impl InFlightRequest {
    /// `is_request_read`: whether the request was read to its end; `continue_signal`: of a body that waits for main's 100 Continue.
    pub const fn new(
        head_state: Arc<HeadState>,
        is_request_read: Rc<Cell<bool>>,
        continue_signal: Option<ContinueSignal>,
        gauge_guard: Option<GaugeGuard>,
    ) -> Self {
        Self { head_state, is_request_read, continue_signal, _gauge_guard: gauge_guard }
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.head_state.mark_answered(self.is_request_read.get());
        if let Some(signal) = &self.continue_signal {
            signal.set_unwanted();
        }
    }
}

impl Download {
    pub fn from_upstream(body: Incoming, in_flight: InFlightRequest, recorder: Option<Recorder>) -> Self {
        let mut download = Self { body: DownloadBody::Upstream(body), recorder, _in_flight: Some(in_flight) };
        download.finish_if_ended();
        download
    }

    pub fn from_text(text: String, in_flight: Option<InFlightRequest>) -> Self {
        Self {
            body: DownloadBody::Local((!text.is_empty()).then(|| text.into())),
            recorder: None,
            _in_flight: in_flight,
        }
    }

    fn finish_if_ended(&mut self) {
        if self.recorder.is_some() && self.is_end_stream() {
            self.finish_recording();
        }
    }

    fn finish_recording(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.finish(true);
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = match &mut this.body {
            DownloadBody::Upstream(body) => Pin::new(body).poll_frame(cx),
            DownloadBody::Local(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        };
        if this.recorder.is_some() {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if let (Some(recorder), Some(data)) = (&mut this.recorder, frame.data_ref()) {
                        recorder.push(data);
                    }
                    this.finish_if_ended();
                }
                Poll::Ready(None) => this.finish_recording(),
                Poll::Ready(Some(Err(_))) | Poll::Pending => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            DownloadBody::Upstream(body) => body.is_end_stream(),
            DownloadBody::Local(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            DownloadBody::Upstream(body) => body.size_hint(),
            DownloadBody::Local(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
