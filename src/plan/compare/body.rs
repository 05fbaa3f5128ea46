//! Bodies: JSON by path, everything else by length and hash.

use std::borrow::Cow;
use std::io::Read;

use super::differences::Differences;
use super::headers;
use super::json;
use crate::model::compare::CapturedResponse;
use crate::model::evidence::DifferenceKind;
use crate::model::field::Field;
use crate::model::plural::Count;

/// Bytes of a body after decompression.
const MAX_DECODED: u64 = 2 << 20;

/// How far a body can be understood.
enum BodyContent<'a> {
    Plain(Cow<'a, [u8]>),
    /// Cut at the cap, coded in a way that is not understood, or too long when decoded.
    Opaque,
}

pub(super) fn compare(main: &CapturedResponse, shadow: &CapturedResponse, differences: &mut Differences) {
    if !main.body.ended || !shadow.body.ended {
        return compare_truncated(main, shadow, differences);
    }
    match (decode_content(main), decode_content(shadow)) {
        (BodyContent::Plain(ours), BodyContent::Plain(theirs)) => {
            compare_plain(main, &ours, &theirs, differences);
        }
        // Two that are both too long, or both coded with brotli: the bytes on the wire decide whether they are the same.
        (_, _) if read_content_coding(main) == read_content_coding(shadow) => {
            compare_opaque(main, shadow, differences);
        }
        (_, _) => differences.body_unread = true,
    }
}

fn compare_plain(main: &CapturedResponse, ours: &[u8], theirs: &[u8], differences: &mut Differences) {
    if !may_be_json(main, ours) {
        return compare_bytes(ours, theirs, differences);
    }
    if ours == theirs {
        differences.add_equal(Field::Body);
        if let Some(ours) = json::parse(ours) {
            json::compare(&ours, &ours, differences);
        }
        return;
    }
    let word = |parsed: bool, bytes: &[u8]| {
        format!("{}, {}", if parsed { "JSON" } else { "not JSON" }, format_length(bytes.len()))
    };
    match (json::parse(ours), json::parse(theirs)) {
        (Some(ours), Some(theirs)) => {
            differences.add_equal(Field::Body);
            json::compare(&ours, &theirs, differences);
        }
        (None, None) => compare_bytes(ours, theirs, differences),
        (main, shadow) => differences.add_difference(Field::Body, DifferenceKind::Type, || {
            (word(main.is_some(), ours), word(shadow.is_some(), theirs))
        }),
    }
}

fn compare_bytes(ours: &[u8], theirs: &[u8], differences: &mut Differences) {
    if ours == theirs {
        return differences.add_equal(Field::Body);
    }
    let kind = if ours.len() == theirs.len() { DifferenceKind::Value } else { DifferenceKind::Length };
    let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let show = |len: usize| format!("{}, other from byte {same} on", format_length(len));
    differences.add_difference(Field::Body, kind, || (format_length(ours.len()), show(theirs.len())));
}

fn compare_opaque(main: &CapturedResponse, shadow: &CapturedResponse, differences: &mut Differences) {
    if main.body.total != shadow.body.total {
        let length = |answer: &CapturedResponse| Count(answer.body.total, "byte").to_string();
        return differences
            .add_difference(Field::Body, DifferenceKind::Length, || (length(main), length(shadow)));
    }
    let (ours, theirs) = (main.body.sha256(), shadow.body.sha256());
    if ours == theirs {
        return differences.add_equal(Field::Body);
    }
    let show = |total: u64, hash: [u8; 32]| {
        let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}, sha256 {hash}...", Count(total, "byte"))
    };
    differences.add_difference(Field::Body, DifferenceKind::Value, || {
        (show(main.body.total, ours), show(shadow.body.total, theirs))
    });
}

/// At least one body was longer than the proxy read: only a difference in the part that was read can be found.
fn compare_truncated(main: &CapturedResponse, shadow: &CapturedResponse, differences: &mut Differences) {
    let common = main.body.bytes.len().min(shadow.body.bytes.len());
    let ended_first = |one: &CapturedResponse, other: &CapturedResponse| {
        one.body.ended && one.body.total < other.body.total
    };
    let differ = main.body.bytes[..common] != shadow.body.bytes[..common]
        || ended_first(main, shadow)
        || ended_first(shadow, main);
    if !differ
        || read_content_coding(main) != read_content_coding(shadow)
        || headers::find_first_value(main, "content-encoding").is_some()
    {
        differences.body_unread = true;
        return;
    }
    let show = |answer: &CapturedResponse| {
        format!("{}{}", if answer.body.ended { "" } else { "more than " }, Count(answer.body.total, "byte"))
    };
    differences.add_difference(Field::Body, DifferenceKind::Value, || (show(main), show(shadow)));
}

fn decode_content(answer: &CapturedResponse) -> BodyContent<'_> {
    if answer.body.is_truncated() {
        return BodyContent::Opaque;
    }
    let bytes = answer.body.bytes.as_slice();
    let decoded = match read_content_coding(answer).as_deref() {
        None => return BodyContent::Plain(Cow::Borrowed(bytes)),
        // The headers of an answer without a body, to HEAD, declare how a body would be coded.
        Some(_) if bytes.is_empty() => return BodyContent::Plain(Cow::Borrowed(bytes)),
        Some("gzip" | "x-gzip") => read_bounded(flate2::read::MultiGzDecoder::new(bytes)),
        Some("deflate") => read_bounded(flate2::read::ZlibDecoder::new(bytes)),
        Some(_) => None,
    };
    decoded.map_or(BodyContent::Opaque, |bytes| BodyContent::Plain(Cow::Owned(bytes)))
}

fn read_bounded(from: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_DECODED + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_DECODED).then_some(bytes)
}

/// `None`: as it is.
fn read_content_coding(answer: &CapturedResponse) -> Option<String> {
    let coding = headers::find_first_value(answer, "content-encoding")?.to_ascii_lowercase();
    (!coding.is_empty() && coding != "identity").then_some(coding)
}

/// Decides by the content type; without one, or as plain text, by how the body begins.
fn may_be_json(answer: &CapturedResponse, bytes: &[u8]) -> bool {
    let media = headers::find_first_value(answer, "content-type").unwrap_or_default().to_ascii_lowercase();
    let media = media.split(';').next().unwrap_or_default().trim();
    let begins =
        || bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| b"{[".contains(byte));
    match media {
        "" | "text/plain" => begins(),
        media => media.ends_with("/json") || media.ends_with("+json"),
    }
}

fn format_length(bytes: usize) -> String {
    Count(bytes, "byte").to_string()
}
