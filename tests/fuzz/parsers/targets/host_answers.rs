//! Answers of a host that may be in other hands: no text for people has a character that a terminal acts on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use switchman::model::terminal_text::{clean_json, clean_line, clean_styled};

fn is_harmless(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fuzz_target!(|answer: &[u8]| {
    for text in switchman::sys::link::fuzz_answer(answer) {
        assert!(text.chars().all(|c| is_harmless(c) || c == '\t'), "{text:?}");
    }
    let text = String::from_utf8_lossy(answer);
    assert!(clean_line(&text).chars().all(|c| is_harmless(c) || c == '\t'));
    assert!(clean_styled(&text).chars().all(|c| is_harmless(c) || matches!(c, '\t' | '\n' | '\u{1b}')));
    // A value stays the same, however it is written.
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
        let written = serde_json::to_string(&value).unwrap();
        let cleaned = clean_json(&written);
        assert!(cleaned.chars().all(is_harmless));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&cleaned).unwrap(), value);
    }
});
