//! An answer's body, on its way to the client.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::client::Heads;
use super::comparison::Recorder;
use super::counters::Held;
use super::upload::Asked;

pub struct Download {
    body: Inner,
    recorder: Option<Recorder>,
    _flight: Option<Flight>,
}

enum Inner {
    Of(Incoming),
    Own(Option<Bytes>),
}

/// From the head of a request to the end of its answer.
pub struct Flight {
    heads: Arc<Heads>,
    read: Rc<Cell<bool>>,
    asked: Option<Asked>,
    _counted: Option<Held>,
}

impl Flight {
    /// `read`: whether the request was read to its end; `asked`: of a body that main was to ask for.
    pub const fn begin(
        heads: Arc<Heads>,
        read: Rc<Cell<bool>>,
        asked: Option<Asked>,
        counted: Option<Held>,
    ) -> Self {
        Self { heads, read, asked, _counted: counted }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.heads.answered(self.read.get());
        if let Some(asked) = &self.asked {
            asked.unwanted();
        }
    }
}

impl Download {
    pub fn of(body: Incoming, flight: Flight, recorder: Option<Recorder>) -> Self {
        let mut download = Self { body: Inner::Of(body), recorder, _flight: Some(flight) };
        download.look_for_the_end();
        download
    }

    pub fn own(text: String, flight: Option<Flight>) -> Self {
        Self { body: Inner::Own((!text.is_empty()).then(|| text.into())), recorder: None, _flight: flight }
    }

    fn look_for_the_end(&mut self) {
        if self.recorder.is_some() && self.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
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
            Inner::Of(body) => Pin::new(body).poll_frame(cx),
            Inner::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        };
        if this.recorder.is_some() {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if let (Some(recorder), Some(data)) = (&mut this.recorder, frame.data_ref()) {
                        recorder.push(data);
                    }
                    this.look_for_the_end();
                }
                Poll::Ready(None) => this.end(),
                Poll::Ready(Some(Err(_))) | Poll::Pending => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inner::Of(body) => body.is_end_stream(),
            Inner::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Inner::Of(body) => body.size_hint(),
            Inner::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}
