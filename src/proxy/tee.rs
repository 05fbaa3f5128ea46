//! A request's body on its way to main, with copies that main never waits for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Buf, Bytes, Frame, SizeHint};

/// The cost of a queued frame beside its bytes.
const FRAME_OVERHEAD_BYTES: usize = 1024;
/// A shorter frame is copied: a slice of a few bytes keeps the whole buffer alive that it was read into.
const COPY_LIMIT_BYTES: usize = 4096;

/// Why a copy was aborted, which is no evidence about its shadow's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortReason {
    /// The shadow was too far behind.
    Backlog,
    /// The client disconnected, or was too slow.
    Client,
    /// Main ended before it had read the request.
    MainEarly,
}

impl AbortReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Client => "client",
            Self::MainEarly => "main_early",
        }
    }
}

/// Bytes that are held for all shadows of a worker. Counted until they are written to a socket or thrown away: hyper's own
/// buffers are within.
#[derive(Debug, Default)]
pub struct MirrorBudget(AtomicUsize);

impl MirrorBudget {
    pub fn held_bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The copy of a body between the tee and a shadow's connection.
#[derive(Debug)]
pub struct Queue {
    state: RefCell<QueueState>,
    /// Bytes that this copy is behind.
    backlog_bytes: Arc<AtomicUsize>,
    budget: Arc<MirrorBudget>,
    max_backlog_bytes: usize,
    max_held_bytes: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    frames: VecDeque<Frame<CountedBytes>>,
    /// The whole body went through.
    is_complete: bool,
    end: Option<CopyEnd>,
    reader: Option<Waker>,
    watcher: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
enum CopyEnd {
    Aborted(AbortReason),
    /// The receiver needs no more of it.
    Finished,
}

impl Queue {
    pub fn new(
        budget: &Arc<MirrorBudget>,
        max_backlog_bytes: usize,
        max_held_bytes: usize,
        is_empty: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            state: RefCell::new(QueueState { is_complete: is_empty, ..QueueState::default() }),
            backlog_bytes: Arc::default(),
            budget: budget.clone(),
            max_backlog_bytes,
            max_held_bytes,
        })
    }

    /// Never waits: what does not fit ends the copy.
    fn push(&self, frame: &Frame<Bytes>) {
        let size = frame.data_ref().map_or(FRAME_OVERHEAD_BYTES, |data| data.len() + FRAME_OVERHEAD_BYTES);
        let mut state = self.state.borrow_mut();
        if state.end.is_some() {
            return;
        }
        let backlog = self.backlog_bytes.load(Ordering::Relaxed) + size;
        if backlog > self.max_backlog_bytes || self.budget.held_bytes() + size > self.max_held_bytes {
            drop(state);
            self.abort(AbortReason::Backlog);
            return;
        }
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(CountedBytes {
                bytes: if data.len() < COPY_LIMIT_BYTES {
                    Bytes::copy_from_slice(data)
                } else {
                    data.clone()
                },
                _count: ByteCount::new(size, &self.backlog_bytes, &self.budget),
            }),
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return,
        };
        state.frames.push_back(copy);
        wake(state.reader.take());
    }

    fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.is_complete = true;
        wake(state.reader.take());
    }

    pub fn abort(&self, reason: AbortReason) {
        self.close(CopyEnd::Aborted(reason));
    }

    /// The shadow has answered, or never will.
    pub fn finish(&self) {
        self.close(CopyEnd::Finished);
    }

    fn close(&self, end: CopyEnd) {
        let mut state = self.state.borrow_mut();
        if state.end.is_none() {
            state.end = Some(end);
            state.frames = VecDeque::new();
            let wakers = [state.reader.take(), state.watcher.take()];
            drop(state);
            wakers.into_iter().for_each(wake);
        }
    }

    /// Whether the shadow has taken all there was so far, and the client has more to send.
    pub fn waits_for_client(&self) -> bool {
        let state = self.state.borrow();
        !state.is_complete && state.frames.is_empty() && self.backlog_bytes.load(Ordering::Relaxed) == 0
    }

    /// Returns when the copy was aborted.
    pub async fn wait_for_abort(&self) -> AbortReason {
        std::future::poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(CopyEnd::Aborted(reason)) = state.end {
                return Poll::Ready(reason);
            }
            state.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Bytes of a copy; hyper drops them when they are written.
#[derive(Debug)]
pub struct CountedBytes {
    bytes: Bytes,
    _count: ByteCount,
}

impl Buf for CountedBytes {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[derive(Debug)]
struct ByteCount {
    size: usize,
    backlog_bytes: Arc<AtomicUsize>,
    budget: Arc<MirrorBudget>,
}

impl ByteCount {
    fn new(size: usize, backlog_bytes: &Arc<AtomicUsize>, budget: &Arc<MirrorBudget>) -> Self {
        backlog_bytes.fetch_add(size, Ordering::Relaxed);
        budget.0.fetch_add(size, Ordering::Relaxed);
        Self { size, backlog_bytes: backlog_bytes.clone(), budget: budget.clone() }
    }
}

impl Drop for ByteCount {
    fn drop(&mut self) {
        self.backlog_bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.budget.0.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// The shadow's end of a queue.
#[derive(Debug)]
pub struct CopyBody {
    pub queue: Rc<Queue>,
    /// Size of the request's body.
    pub size: SizeHint,
}

/// A copy ends in an error where it is not whole, so that no shadow takes a part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the copy was aborted")]
pub struct CopyAborted;

impl Body for CopyBody {
    type Data = CountedBytes;
    type Error = CopyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedBytes>, CopyAborted>>> {
        let mut state = self.queue.state.borrow_mut();
        if state.end.is_some() {
            return Poll::Ready(Some(Err(CopyAborted)));
        }
        if let Some(frame) = state.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.is_complete {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.queue.state.borrow();
        state.end.is_none() && state.is_complete && state.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The main's end: one queue per shadow.
#[derive(Debug, Default)]
pub struct Tee {
    queues: Vec<Rc<Queue>>,
    has_ended: Cell<bool>,
}

impl Tee {
    pub fn new(queues: Vec<Rc<Queue>>) -> Self {
        Self { queues, has_ended: Cell::new(false) }
    }

    pub fn push(&self, frame: &Frame<Bytes>) {
        self.queues.iter().for_each(|queue| queue.push(frame));
    }

    pub fn end(&self) {
        if !self.has_ended.replace(true) {
            self.queues.iter().for_each(|queue| queue.end());
        }
    }

    /// Does nothing to copies that are whole.
    pub fn abort(&self, reason: AbortReason) {
        if !self.has_ended.replace(true) {
            self.queues.iter().for_each(|queue| queue.abort(reason));
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.abort(AbortReason::MainEarly);
    }
}
