//! Gathers main's and a shadow's answer to one request, within a bound on bytes, for the collector.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use jiff::Timestamp;

use super::collector::{ByteReservation, CollectorHandle};
use crate::model::compare::{BodyCapture, CapturedResponse, ComparisonRules, RequestSummary, ResponsePair};

/// A request whose answers are to be compared: handed over when the last of them is whole, forgotten when one never is.
pub struct Comparison {
    collector: CollectorHandle,
    state: RefCell<Option<PendingPair>>,
}

struct PendingPair {
    reservation: ByteReservation,
    request: RequestSummary,
    main: Option<CapturedResponse>,
    shadow: Option<CapturedResponse>,
    control: ControlAnswer,
}

enum ControlAnswer {
    /// Main gets the request once, or did not answer the second time.
    Absent,
    Pending,
    Received(CapturedResponse),
}

/// The sender of an answer, and for which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Main,
    Shadow,
    Control,
}

impl Comparison {
    /// `None`, and counted, where there is no room for it.
    pub fn start(
        collector: &CollectorHandle,
        request: &Request<Incoming>,
        is_controlled: bool,
    ) -> Option<Rc<Self>> {
        let request = describe_request(request);
        let Some(reservation) = collector.reserve(request.method.len() + request.path_and_query.len()) else {
            collector.count_dropped();
            return None;
        };
        let state = PendingPair {
            reservation,
            request,
            main: None,
            shadow: None,
            control: if is_controlled { ControlAnswer::Pending } else { ControlAnswer::Absent },
        };
        Some(Rc::new(Self { collector: collector.clone(), state: RefCell::new(Some(state)) }))
    }

    /// Reserves further bytes before they are kept; without room for them the whole of it is forgotten, and counted.
    fn grow(&self, bytes: usize) {
        let mut state = self.state.borrow_mut();
        if state.as_mut().is_some_and(|state| !state.reservation.grow(bytes)) {
            *state = None;
            self.collector.count_dropped();
        }
    }

    /// Whether it can still be made.
    pub fn is_pending(&self) -> bool {
        self.state.borrow().is_some()
    }

    /// Forgets the pair, because an answer will never be whole.
    pub fn forget(&self) {
        *self.state.borrow_mut() = None;
    }

    fn record_answer(&self, side: Side, answer: CapturedResponse) {
        if let Some(state) = self.state.borrow_mut().as_mut() {
            match side {
                Side::Main => state.main = Some(answer),
                Side::Shadow => state.shadow = Some(answer),
                Side::Control => state.control = ControlAnswer::Received(answer),
            }
        }
        self.submit_if_complete();
    }

    /// Main did not answer the second time, which is no evidence about the first.
    pub fn skip_control(&self) {
        if let Some(state) = self.state.borrow_mut().as_mut()
            && matches!(state.control, ControlAnswer::Pending)
        {
            state.control = ControlAnswer::Absent;
        }
        self.submit_if_complete();
    }

    fn submit_if_complete(&self) {
        let mut pending = self.state.borrow_mut();
        let is_complete = |state: &PendingPair| {
            state.main.is_some() && state.shadow.is_some() && !matches!(state.control, ControlAnswer::Pending)
        };
        if !pending.as_ref().is_some_and(is_complete) {
            return;
        }
        let Some(PendingPair { reservation, request, main: Some(main), shadow: Some(shadow), control }) =
            pending.take()
        else {
            return;
        };
        let control = match control {
            ControlAnswer::Received(answer) => Some(answer),
            ControlAnswer::Absent | ControlAnswer::Pending => None,
        };
        self.collector.offer(Box::new(ResponsePair { request, main, shadow, control }), reservation);
    }
}

fn describe_request(request: &Request<Incoming>) -> RequestSummary {
    let conditions = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE];
    RequestSummary {
        method: request.method().to_string(),
        path_and_query: request.uri().path_and_query().map_or_else(String::new, PathAndQuery::to_string),
        conditional: conditions.iter().any(|name| request.headers().contains_key(name)),
        at: Timestamp::now(),
    }
}

/// The cost of a field of an answer beside its bytes.
const FIELD_OVERHEAD_BYTES: usize = 64;

/// An answer as it goes by, for one comparison or several.
pub struct Recorder {
    side: Side,
    comparisons: Vec<Rc<Comparison>>,
    answer: CapturedResponse,
    capture: Option<BodyCapture>,
}

impl Recorder {
    /// Is `None` where no comparison needs it.
    pub fn new<B>(
        side: Side,
        comparisons: Vec<Rc<Comparison>>,
        response: &Response<B>,
        took: Duration,
        cap: usize,
    ) -> Option<Self> {
        let headers = select_headers(response.headers(), comparisons.first()?.collector.rules());
        let length = |(name, value): &(String, String)| name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        let comparisons = reserve_for_each(comparisons, headers.iter().map(length).sum());
        if comparisons.is_empty() {
            return None;
        }
        let answer = CapturedResponse {
            status: response.status().as_u16(),
            headers,
            body: BodyCapture::new(0).finish(false),
            latency_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        Some(Self { side, comparisons, answer, capture: Some(BodyCapture::new(cap)) })
    }

    pub fn push(&mut self, data: &[u8]) {
        let Some(capture) = &self.capture else { return };
        let growth = capture.growth(data.len());
        self.comparisons = reserve_for_each(std::mem::take(&mut self.comparisons), growth);
        match &mut self.capture {
            Some(capture) if !self.comparisons.is_empty() => capture.push(data),
            capture => *capture = None,
        }
    }

    /// `is_whole`: the body came to its end. Does nothing the second time.
    pub fn finish(&mut self, is_whole: bool) {
        let Some(capture) = self.capture.take() else { return };
        self.answer.body = capture.finish(is_whole);
        for comparison in std::mem::take(&mut self.comparisons) {
            comparison.record_answer(self.side, self.answer.clone());
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

/// Drops those that have no room for this number of bytes more, and those that can never be made any more.
fn reserve_for_each(mut comparisons: Vec<Rc<Comparison>>, bytes: usize) -> Vec<Rc<Comparison>> {
    comparisons.retain(|comparison| {
        comparison.grow(bytes);
        comparison.is_pending()
    });
    comparisons
}

/// Returns the fields that are compared.
fn select_headers(headers: &HeaderMap, rules: &ComparisonRules) -> Vec<(String, String)> {
    let kept = headers.iter().filter(|(name, _)| rules.keeps(name.as_str()));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    kept.map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect()
}
