//! Packets that answer the packet probe, and the kernel's table of listeners.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    switchman::sys::packet_probe::fuzz_packet(bytes);
});
