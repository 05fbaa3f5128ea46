//! A request's body on its way to main, with copies that main never waits for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Buf, Bytes, Frame, SizeHint};

/// What keeping a frame costs beside its bytes.
const FRAME: usize = 1024;
/// A shorter frame is copied: a slice of a few bytes keeps the whole buffer alive that it was read into.
const SHORT: usize = 4096;

/// Why a copy was given up that says nothing of its shadow's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The shadow was too far behind.
    Backlog,
    /// The client went away, or was too slow.
    Client,
    /// Main ended before it had read the request.
    MainEarly,
}

impl Given {
    pub const fn word(self) -> &'static str {
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
pub struct Budget(AtomicUsize);

impl Budget {
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The copy of a body between the tee and a shadow's connection.
#[derive(Debug)]
pub struct Queue {
    state: RefCell<State>,
    /// Bytes that this copy is behind.
    behind: Arc<AtomicUsize>,
    budget: Arc<Budget>,
    most_behind: usize,
    most_held: usize,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame<Piece>>,
    /// The whole body went through.
    whole: bool,
    over: Option<Over>,
    reader: Option<Waker>,
    watcher: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Given(Given),
    /// Nobody wants more of it.
    Done,
}

impl Queue {
    pub fn new(budget: &Arc<Budget>, most_behind: usize, most_held: usize, empty: bool) -> Rc<Self> {
        Rc::new(Self {
            state: RefCell::new(State { whole: empty, ..State::default() }),
            behind: Arc::default(),
            budget: budget.clone(),
            most_behind,
            most_held,
        })
    }

    /// Never waits: what does not fit ends the copy.
    fn push(&self, frame: &Frame<Bytes>) {
        let size = frame.data_ref().map_or(FRAME, |data| data.len() + FRAME);
        let mut state = self.state.borrow_mut();
        if state.over.is_some() {
            return;
        }
        let behind = self.behind.load(Ordering::Relaxed) + size;
        if behind > self.most_behind || self.budget.held() + size > self.most_held {
            drop(state);
            self.give_up(Given::Backlog);
            return;
        }
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Frame::data(Piece {
                bytes: if data.len() < SHORT { Bytes::copy_from_slice(data) } else { data.clone() },
                _weight: Weight::new(size, &self.behind, &self.budget),
            }),
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return,
        };
        state.frames.push_back(copy);
        wake(state.reader.take());
    }

    fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.whole = true;
        wake(state.reader.take());
    }

    pub fn give_up(&self, why: Given) {
        self.close(Over::Given(why));
    }

    /// The shadow has answered, or never will.
    pub fn done(&self) {
        self.close(Over::Done);
    }

    fn close(&self, over: Over) {
        let mut state = self.state.borrow_mut();
        if state.over.is_none() {
            state.over = Some(over);
            state.frames = VecDeque::new();
            let wakers = [state.reader.take(), state.watcher.take()];
            drop(state);
            wakers.into_iter().for_each(wake);
        }
    }

    /// Whether the shadow has taken all there was so far, and the client has more to send.
    pub fn waits_for_client(&self) -> bool {
        let state = self.state.borrow();
        !state.whole && state.frames.is_empty() && self.behind.load(Ordering::Relaxed) == 0
    }

    /// Returns when the copy was given up.
    pub async fn given_up(&self) -> Given {
        std::future::poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if let Some(Over::Given(why)) = state.over {
                return Poll::Ready(why);
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
pub struct Piece {
    bytes: Bytes,
    _weight: Weight,
}

impl Buf for Piece {
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
struct Weight {
    size: usize,
    behind: Arc<AtomicUsize>,
    budget: Arc<Budget>,
}

impl Weight {
    fn new(size: usize, behind: &Arc<AtomicUsize>, budget: &Arc<Budget>) -> Self {
        behind.fetch_add(size, Ordering::Relaxed);
        budget.0.fetch_add(size, Ordering::Relaxed);
        Self { size, behind: behind.clone(), budget: budget.clone() }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.behind.fetch_sub(self.size, Ordering::Relaxed);
        self.budget.0.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// The shadow's end of a queue.
#[derive(Debug)]
pub struct CopyBody {
    pub queue: Rc<Queue>,
    /// Of the request's body.
    pub size: SizeHint,
}

/// A copy ends in an error where it is not whole, so that no shadow takes a part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the copy was given up")]
pub struct GivenUp;

impl Body for CopyBody {
    type Data = Piece;
    type Error = GivenUp;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, GivenUp>>> {
        let mut state = self.queue.state.borrow_mut();
        if state.over.is_some() {
            return Poll::Ready(Some(Err(GivenUp)));
        }
        if let Some(frame) = state.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.whole {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.queue.state.borrow();
        state.over.is_none() && state.whole && state.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// The main's end: one queue per shadow.
#[derive(Debug, Default)]
pub struct Tee {
    queues: Vec<Rc<Queue>>,
    ended: Cell<bool>,
}

impl Tee {
    pub fn new(queues: Vec<Rc<Queue>>) -> Self {
        Self { queues, ended: Cell::new(false) }
    }

    pub fn push(&self, frame: &Frame<Bytes>) {
        self.queues.iter().for_each(|queue| queue.push(frame));
    }

    pub fn end(&self) {
        if !self.ended.replace(true) {
            self.queues.iter().for_each(|queue| queue.end());
        }
    }

    /// Does nothing to copies that are whole.
    pub fn give_up(&self, why: Given) {
        if !self.ended.replace(true) {
            self.queues.iter().for_each(|queue| queue.give_up(why));
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.give_up(Given::MainEarly);
    }
}
