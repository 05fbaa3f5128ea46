//! The input of a comparison of a shadow's answer with main's, from the data path: one request and its answers.
//!
//! Cheap to build: a body is copied up to a cap, and only what is longer is hashed as it passes.

use jiff::Timestamp;
use ring::digest::{Context, SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deployment::DeploymentId;
use super::name::ServiceName;

/// Whose answers are compared with main's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ComparedShadow {
    pub service: ServiceName,
    pub deployment: DeploymentId,
}

/// A request that was answered by main and by a shadow, both to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponsePair {
    pub request: RequestSummary,
    pub main: CapturedResponse,
    pub shadow: CapturedResponse,
    /// Main's answer to the same request sent a second time; only of safe methods.
    pub control: Option<CapturedResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSummary {
    pub method: String,
    /// The path as requested, with its query.
    pub path_and_query: String,
    /// Whether the request carries `If-None-Match`, `If-Modified-Since`, `If-Match`, `If-Unmodified-Since` or `If-Range`: the answer depends on
    /// what the client keeps, and is not compared.
    pub conditional: bool,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedResponse {
    pub status: u16,
    /// In the order of the answer, names in lower case. Those that [`Rules::keeps`] are enough. A value that is not UTF-8 is
    /// given with replacement characters.
    pub headers: Vec<(String, String)>,
    pub body: CapturedBody,
    /// Time from the head of the request to the head of the answer.
    pub latency_us: u64,
}

/// A body as far as it was kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapturedBody {
    /// The first bytes: all of them where `total` is as long.
    pub bytes: Vec<u8>,
    /// How many bytes went by.
    pub total: u64,
    /// SHA-256 of all bytes that went by, where they are more than `bytes`.
    pub digest: Option<[u8; 32]>,
    /// Whether the end of the body was seen: false where the proxy stopped reading before it.
    pub ended: bool,
}

impl CapturedBody {
    /// Builds a whole body.
    #[cfg(test)]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { total: bytes.len() as u64, bytes, digest: None, ended: true }
    }

    /// Whether bytes are missing at the end.
    pub const fn is_truncated(&self) -> bool {
        !self.ended || self.bytes.len() as u64 != self.total
    }

    /// SHA-256 of all bytes that went by.
    pub fn sha256(&self) -> [u8; 32] {
        self.digest.unwrap_or_else(|| to_sha256_array(digest(&SHA256, &self.bytes).as_ref()))
    }
}

/// Grows a [`Captured`] frame by frame.
#[derive(Clone)]
pub struct BodyCapture {
    cap: usize,
    bytes: Vec<u8>,
    total: u64,
    /// Begins where the body outgrows the cap: what is short is hashed, if at all, off the data path.
    hash: Option<Context>,
}

impl BodyCapture {
    /// Keeps that many bytes (`Limits::compare_bytes`).
    pub const fn new(cap: usize) -> Self {
        Self { cap, bytes: Vec::new(), total: 0, hash: None }
    }

    /// How many bytes of the next frame would be kept: what has to be held of the budget before [`Self::push`].
    pub fn growth(&self, frame: usize) -> usize {
        frame.min(self.cap - self.bytes.len())
    }

    pub fn push(&mut self, frame: &[u8]) {
        let (head, rest) = frame.split_at(self.growth(frame.len()));
        self.bytes.extend_from_slice(head);
        self.total += frame.len() as u64;
        if rest.is_empty() {
            return;
        }
        let bytes = &self.bytes;
        let hash = self.hash.get_or_insert_with(|| {
            let mut hash = Context::new(&SHA256);
            hash.update(bytes);
            hash
        });
        hash.update(rest);
    }

    /// `ended`: the body came to its end.
    pub fn finish(self, ended: bool) -> CapturedBody {
        let digest = self.hash.map(|hash| to_sha256_array(hash.finish().as_ref()));
        CapturedBody { bytes: self.bytes, total: self.total, digest, ended }
    }
}

impl std::fmt::Debug for BodyCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("kept", &self.bytes.len())
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

fn to_sha256_array(digest: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = *from;
    }
    bytes
}

/// The header fields of two answers that are compared beside status and body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComparisonRules {
    pub headers: Vec<HeaderRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderRule {
    /// Lower case.
    pub name: String,
    pub how: HeaderComparison,
}

/// The part of a field that has to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderComparison {
    /// The value, blanks at the ends apart.
    Value,
    /// The words between commas and semicolons, in any order and case.
    #[serde(alias = "words")]
    Tokens,
    /// Whether it is there: its value differs between two builds, or is a secret.
    Presence,
    /// The names of the cookies that are set.
    CookieNames,
}

impl Default for ComparisonRules {
    /// Returns the fields that a client acts on. The others are counted where they differ, and decide nothing unless the operator
    /// chooses them.
    fn default() -> Self {
        let rule = |how: HeaderComparison| move |name: &&str| HeaderRule { name: (*name).to_owned(), how };
        let value = ["content-encoding", "content-language", "content-disposition", "location"];
        let words = ["content-type", "cache-control", "vary", "allow", "access-control-allow-origin"];
        let presence = [
            "etag",
            "last-modified",
            "www-authenticate",
            "retry-after",
            "strict-transport-security",
            "content-security-policy",
        ];
        let headers = value.iter().map(rule(HeaderComparison::Value));
        let headers = headers.chain(words.iter().map(rule(HeaderComparison::Tokens)));
        let headers = headers.chain(presence.iter().map(rule(HeaderComparison::Presence)));
        let headers = headers.chain(["set-cookie"].iter().map(rule(HeaderComparison::CookieNames)));
        Self { headers: headers.collect() }
    }
}

impl ComparisonRules {
    /// Whether a field of an answer is needed to compare it. `name` in lower case. Fields of the connection are not the
    /// version's, and the body shows more than its length.
    pub fn keeps(&self, name: &str) -> bool {
        !matches!(name, "connection" | "keep-alive" | "transfer-encoding" | "trailer" | "content-length")
    }

    /// Whether a rule compares the field.
    pub fn has_rule_for(&self, name: &str) -> bool {
        self.headers.iter().any(|rule| rule.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_capture_is_capped_and_hash_ignores_frame_boundaries() {
        let body: Vec<u8> = (0..1_000u32).flat_map(u32::to_le_bytes).collect();
        for size in [1, 7, 64, 4_000, 9_000] {
            for cap in [0, 1, 63, 64, 3_999, 4_000, 5_000] {
                let mut capture = BodyCapture::new(cap);
                for frame in body.chunks(size) {
                    let (before, growth) = (capture.bytes.len(), capture.growth(frame.len()));
                    capture.push(frame);
                    assert_eq!(capture.bytes.len(), before + growth);
                }
                let captured = capture.finish(true);
                assert_eq!(captured.bytes, body[..cap.min(4_000)]);
                assert_eq!((captured.total, captured.is_truncated()), (4_000, cap < 4_000));
                assert_eq!(captured.digest.is_some(), cap < 4_000, "a short body is not hashed on the way");
                assert_eq!(captured.sha256(), CapturedBody::from_bytes(body.clone()).sha256());
            }
        }
    }

    #[test]
    fn incomplete_body_is_truncated() {
        assert!(BodyCapture::new(10).finish(false).is_truncated());
        assert!(!BodyCapture::new(10).finish(true).is_truncated());
    }
}
