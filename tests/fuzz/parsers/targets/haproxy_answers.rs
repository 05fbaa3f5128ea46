//! Answers of HAProxy's statistics socket and page.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &str| {
    switchman::sys::haproxy::fuzz_answers(answer);
});
