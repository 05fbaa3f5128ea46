//! A request's body, from the client to the upstream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::tee::{AbortReason, Tee};

/// A server that has sent nothing by then gets the body anyway (RFC 9110, 10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Upload {
    body: Incoming,
    tee: Option<Rc<Tee>>,
    gate: Option<ContinueGate>,
    is_read: Rc<Cell<bool>>,
}

#[derive(Debug)]
pub enum UploadError {
    Client(hyper::Error),
    /// Main answered instead of requesting the body.
    Unwanted,
}

impl std::fmt::Display for UploadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(error) => write!(f, "the client's body: {error}"),
            Self::Unwanted => f.write_str("the body is not wanted"),
        }
    }
}

impl std::error::Error for UploadError {}

impl Upload {
    /// `is_read` becomes true when the client's last byte was read.
    pub fn new(
        body: Incoming,
        tee: Option<Rc<Tee>>,
        gate: Option<ContinueGate>,
        is_read: Rc<Cell<bool>>,
    ) -> Self {
        let upload = Self { body, tee, gate, is_read };
        if upload.body.is_end_stream() {
            upload.end();
        }
        upload
    }

    fn end(&self) {
        self.is_read.set(true);
        if let Some(tee) = &self.tee {
            tee.end();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        if let Some(gate) = &mut this.gate {
            match gate.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(true) => this.gate = None,
                Poll::Ready(false) => return Poll::Ready(Some(Err(UploadError::Unwanted))),
            }
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(tee) = &this.tee {
                    tee.push(frame);
                }
                if this.body.is_end_stream() {
                    this.end();
                }
            }
            Poll::Ready(Some(Err(_))) => {
                if let Some(tee) = &this.tee {
                    tee.abort(AbortReason::Client);
                }
            }
            Poll::Ready(None) => this.end(),
        }
        polled.map_err(UploadError::Client)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Holds back a body whose client waits for `100 Continue`: reading it is what makes hyper send that.
#[derive(Debug)]
pub struct ContinueGate {
    signal: ContinueSignal,
    timeout: Pin<Box<Sleep>>,
}

/// Whether main wants the body; shared with the reader of main's answer.
#[derive(Debug, Clone, Default)]
pub struct ContinueSignal(Arc<ContinueState>);

#[derive(Debug, Default)]
struct ContinueState {
    state: AtomicU8,
    waker: AtomicWaker,
}

const WAITING: u8 = 0;
const WANTED: u8 = 1;
const UNWANTED: u8 = 2;

impl ContinueSignal {
    pub fn set_wanted(&self) {
        self.set_state(WANTED);
    }

    pub fn set_unwanted(&self) {
        self.set_state(UNWANTED);
    }

    fn set_state(&self, state: u8) {
        let order = Ordering::AcqRel;
        if self.0.state.compare_exchange(WAITING, state, order, Ordering::Acquire).is_ok() {
            self.0.waker.wake();
        }
    }
}

impl ContinueGate {
    pub fn new(signal: ContinueSignal) -> Self {
        Self { signal, timeout: Box::pin(sleep(CONTINUE_TIMEOUT)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.signal.0.waker.register(cx.waker());
        match self.signal.0.state.load(Ordering::Acquire) {
            WANTED => Poll::Ready(true),
            UNWANTED => Poll::Ready(false),
            _ => self.timeout.as_mut().poll(cx).map(|()| true),
        }
    }
}
