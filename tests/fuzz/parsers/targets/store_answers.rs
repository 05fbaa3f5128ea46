//! Answers of etcd and Consul, and the entries of a journal.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &str| {
    switchman::sys::journal::fuzz_answers(answer);
    switchman::sys::discovery::fuzz_answer(answer);
});
