//! The part of users' data that a report may show: enough to see the difference, and no secret.

use crate::model::plural::Count;

/// Characters of a value in an example.
const MAX_VALUE: usize = 40;
/// Characters of a request in an example.
const MAX_REQUEST: usize = 100;
/// The length in characters from which a word of letters and digits is taken for a token.
const MIN_TOKEN_LENGTH: usize = 24;

const SECRET_WORDS: [&str; 19] = [
    "token",
    "passw",
    "pwd",
    "passphrase",
    "secret",
    "key",
    "auth",
    "cookie",
    "session",
    "credential",
    "private",
    "signature",
    "otp",
    "jwt",
    "csrf",
    "ssn",
    "iban",
    "card",
    "cvv",
];

/// Whether the value under this name is not shown at all.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|secret| name.contains(secret))
}

/// Whether a JSON key is data rather than a name: a number, a UUID, a hash, a random id, an address, a long text.
pub(super) fn is_id(key: &str) -> bool {
    if key.len() > 64 || key.contains('@') {
        return true;
    }
    if key.len() < 16 {
        return !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
    }
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    let hex = digits > 0 && key.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let mixed = digits >= 3
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && key.bytes().any(|byte| byte.is_ascii_uppercase())
        && key.bytes().any(|byte| byte.is_ascii_lowercase());
    digits == key.len() || hex || mixed
}

/// A text with its secrets replaced, not cut.
pub(super) fn redact_text(value: &str) -> String {
    let trimmed = value.trim_start();
    if ["bearer ", "basic ", "digest "].iter().any(|scheme| starts_with_ignore_case(trimmed, scheme)) {
        return "(hidden)".into();
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while !rest.is_empty() {
        let end = rest.find(is_card_separator).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        out.push_str(&self::redact_word(word));
        let gap = behind.find(|c| !is_card_separator(c)).unwrap_or(behind.len());
        let (gap, behind) = behind.split_at(gap);
        out.push_str(gap);
        rest = behind;
    }
    out
}

/// Formats a text for an example: replaced, escaped, cut, in quotes.
pub(super) fn quote_redacted(value: &str) -> String {
    format!("\"{}\"", truncate(&redact_text(take_head(value)), MAX_VALUE))
}

/// Formats a text for an example, after its secrets were replaced.
pub(super) fn quote_value(value: &str) -> String {
    truncate(value, 2 * MAX_VALUE)
}

/// Two texts that differ, cut to where they do.
pub(super) fn redact_pair(main: &str, shadow: &str) -> (String, String) {
    let same = main.char_indices().zip(shadow.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    let same = same.unwrap_or_else(|| main.len().min(shadow.len()));
    if same <= MAX_VALUE / 2 {
        return (quote_redacted(main), quote_redacted(shadow));
    }
    // From the word's start on: half a token does not look like one.
    let gap = main[..same].char_indices().rev().find(|(_, c)| is_card_separator(*c));
    let start = gap.map_or(0, |(at, c)| at + c.len_utf8());
    let show = |value: &str| {
        if same - start > 4 * MAX_VALUE {
            return format!("(text of {}, the same up to byte {same})", Count(value.len(), "byte"));
        }
        format!(
            "\"{}{}\"",
            if start > 0 { "..." } else { "" },
            truncate(&redact_text(take_head(&value[start..])), MAX_VALUE)
        )
    };
    (show(main), show(shadow))
}

/// `GET /items/7?page=2&token=(hidden)`
pub(super) fn redact_request(method: &str, target: &str) -> String {
    truncate(&format!("{method} {}", self::redact_target(target)), MAX_REQUEST)
}

/// A path with its query, or a whole address: values of parameters with a secret's name are hidden.
pub(super) fn redact_target(target: &str) -> String {
    let target = take_head(target);
    // user:password@host
    let target = match target.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('/').unwrap_or((rest, "")) {
            (host, path) if host.contains('@') => {
                format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or_default())
            }
            _ => target.to_owned(),
        },
        None => target.to_owned(),
    };
    let Some(start) = target.find(['?', '#']) else { return redact_text(&target) };
    let (path, query) = target.split_at(start);
    // With the `?`, `&` or `#` it begins with.
    let parameter = |(at, _): (usize, &str)| {
        let rest = &query[at..];
        let end = rest[1..].find(['?', '&', '#']).map_or(rest.len(), |end| end + 1);
        match rest[..end].split_once('=') {
            Some((name, _)) if is_secret(name) || starts_with_ignore_case(&name[1..], "code") => {
                format!("{}=(hidden)", redact_text(name))
            }
            _ => redact_text(&rest[..end]),
        }
    };
    let query: String = query.match_indices(['?', '&', '#']).map(parameter).collect();
    format!("{}{query}", redact_text(path))
}

/// The first characters of a text, with control characters escaped: nothing a terminal or a page acts on.
fn truncate(value: &str, most: usize) -> String {
    let escaped = value.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    if escaped.chars().count() <= most {
        return escaped;
    }
    let shown: String = escaped.chars().take(most).collect();
    format!("{shown}...")
}

/// As much as can ever be shown, with room for what is replaced: a long text costs no more than a short one. Ends with a whole
/// word.
fn take_head(value: &str) -> &str {
    let most = 8 * MAX_REQUEST;
    if value.len() <= most {
        return value;
    }
    let head = &value[..value.floor_char_boundary(most)];
    head.rfind(is_card_separator).map_or(head, |end| &head[..end])
}

fn redact_word(word: &str) -> String {
    let at_sign = word.replace("%40", "@");
    if at_sign.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.')) {
        return "(e-mail)".into();
    }
    if is_card(word) {
        return "(number)".into();
    }
    if is_token(word) {
        let first: String = word.chars().take(4).collect();
        return format!("{first}...({})", Count(word.len(), "character"));
    }
    word.to_owned()
}

fn is_token(word: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+.%~".contains(&byte);
    word.len() >= MIN_TOKEN_LENGTH
        && word.bytes().all(allowed)
        && word.bytes().any(|byte| byte.is_ascii_digit())
        && word.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// 15 to 19 digits with a right check digit (ISO/IEC 7812-1).
fn is_card(word: &str) -> bool {
    if !(15..=19).contains(&word.len()) || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let digits = word.bytes().rev().map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| if at % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    sum.is_multiple_of(10)
}

fn is_card_separator(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'<>(){}[],;:&=?#|/\\".contains(c)
}

fn starts_with_ignore_case(text: &str, lower: &str) -> bool {
    text.get(..lower.len()).is_some_and(|start| start.eq_ignore_ascii_case(lower))
}
