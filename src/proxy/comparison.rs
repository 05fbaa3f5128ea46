//! Gathers main's and a shadow's answer to one request, within a bound on bytes, for whoever compares them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use jiff::Timestamp;

use super::collector::{Held, Line};
use crate::model::compare::{Answer, Asked, Capture, Pair, Rules};

/// One request whose answers are to be compared: handed over when the last of them is whole, forgotten when one never is.
pub struct Comparison {
    line: Line,
    state: RefCell<Option<State>>,
}

struct State {
    held: Held,
    request: Asked,
    main: Option<Answer>,
    shadow: Option<Answer>,
    control: Control,
}

enum Control {
    /// Main is asked once, or did not answer the second time.
    Nobody,
    Awaited,
    Answered(Answer),
}

/// Which of the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Main,
    Shadow,
    Control,
}

impl Comparison {
    /// `None`, and counted, where there is no room for it.
    pub fn begin(line: &Line, request: &Request<Incoming>, controlled: bool) -> Option<Rc<Self>> {
        let request = asked(request);
        let Some(held) = line.hold(request.method.len() + request.path_and_query.len()) else {
            line.missed();
            return None;
        };
        let state = State {
            held,
            request,
            main: None,
            shadow: None,
            control: if controlled { Control::Awaited } else { Control::Nobody },
        };
        Some(Rc::new(Self { line: line.clone(), state: RefCell::new(Some(state)) }))
    }

    /// Before so many more bytes are kept; without room for them the whole of it is forgotten, and counted.
    fn grow(&self, bytes: usize) {
        let mut state = self.state.borrow_mut();
        if state.as_mut().is_some_and(|state| !state.held.grow(bytes)) {
            *state = None;
            self.line.missed();
        }
    }

    /// Whether it can still be made.
    pub fn wants_more(&self) -> bool {
        self.state.borrow().is_some()
    }

    /// One of the answers will never be whole.
    pub fn forget(&self) {
        *self.state.borrow_mut() = None;
    }

    fn answered(&self, side: Side, answer: Answer) {
        if let Some(state) = self.state.borrow_mut().as_mut() {
            match side {
                Side::Main => state.main = Some(answer),
                Side::Shadow => state.shadow = Some(answer),
                Side::Control => state.control = Control::Answered(answer),
            }
        }
        self.hand_over();
    }

    /// Main did not answer the second time, which says nothing of the first.
    pub fn uncontrolled(&self) {
        if let Some(state) = self.state.borrow_mut().as_mut()
            && matches!(state.control, Control::Awaited)
        {
            state.control = Control::Nobody;
        }
        self.hand_over();
    }

    fn hand_over(&self) {
        let mut place = self.state.borrow_mut();
        let whole = |state: &State| {
            state.main.is_some() && state.shadow.is_some() && !matches!(state.control, Control::Awaited)
        };
        if !place.as_ref().is_some_and(whole) {
            return;
        }
        let Some(State { held, request, main: Some(main), shadow: Some(shadow), control }) = place.take()
        else {
            return;
        };
        let control = match control {
            Control::Answered(answer) => Some(answer),
            Control::Nobody | Control::Awaited => None,
        };
        self.line.offer(Box::new(Pair { request, main, shadow, control }), held);
    }
}

fn asked(request: &Request<Incoming>) -> Asked {
    let conditions = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE];
    Asked {
        method: request.method().to_string(),
        path_and_query: request.uri().path_and_query().map_or_else(String::new, PathAndQuery::to_string),
        conditional: conditions.iter().any(|name| request.headers().contains_key(name)),
        at: Timestamp::now(),
    }
}

/// What a field of an answer costs beside its bytes.
const FIELD: usize = 64;

/// One answer as it goes by, for one comparison or several.
pub struct Recorder {
    side: Side,
    comparisons: Vec<Rc<Comparison>>,
    answer: Answer,
    capture: Option<Capture>,
}

impl Recorder {
    /// `None`: nobody wants to know.
    pub fn new<B>(
        side: Side,
        comparisons: Vec<Rc<Comparison>>,
        response: &Response<B>,
        took: Duration,
        cap: usize,
    ) -> Option<Self> {
        let headers = kept(response.headers(), comparisons.first()?.line.rules());
        let length = |(name, value): &(String, String)| name.len() + value.len() + FIELD;
        let comparisons = with_room(comparisons, headers.iter().map(length).sum());
        if comparisons.is_empty() {
            return None;
        }
        let answer = Answer {
            status: response.status().as_u16(),
            headers,
            body: Capture::new(0).finish(false),
            latency_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        Some(Self { side, comparisons, answer, capture: Some(Capture::new(cap)) })
    }

    pub fn push(&mut self, data: &[u8]) {
        let Some(capture) = &self.capture else { return };
        let growth = capture.growth(data.len());
        self.comparisons = with_room(std::mem::take(&mut self.comparisons), growth);
        match &mut self.capture {
            Some(capture) if !self.comparisons.is_empty() => capture.push(data),
            capture => *capture = None,
        }
    }

    /// `whole`: the body came to its end. Does nothing the second time.
    pub fn finish(&mut self, whole: bool) {
        let Some(capture) = self.capture.take() else { return };
        self.answer.body = capture.finish(whole);
        for comparison in std::mem::take(&mut self.comparisons) {
            comparison.answered(self.side, self.answer.clone());
        }
    }
}

impl Drop for Recorder {
    /// An answer that was cut is never compared; main's second one is not needed.
    fn drop(&mut self) {
        if self.side != Side::Control {
            self.comparisons.iter().for_each(|comparison| comparison.forget());
        }
    }
}

/// Without those that have no room for so many bytes more, and those that can never be made any more.
fn with_room(mut comparisons: Vec<Rc<Comparison>>, bytes: usize) -> Vec<Rc<Comparison>> {
    comparisons.retain(|comparison| {
        comparison.grow(bytes);
        comparison.wants_more()
    });
    comparisons
}

/// Those fields that are looked at.
fn kept(headers: &HeaderMap, rules: &Rules) -> Vec<(String, String)> {
    let kept = headers.iter().filter(|(name, _)| rules.keeps(name.as_str()));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    kept.map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect()
}
