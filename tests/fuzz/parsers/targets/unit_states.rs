//! States of units and processes, as systemd and the kernel print them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    switchman::sys::systemd::fuzz_properties(text);
    switchman::sys::supervisor::fuzz_process_stat(text);
    let _ = switchman::templates::unit::parse_unit_name(text);
});
