//! Datagrams of the kernel's sockets and connection tracking.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    switchman::sys::sock_diag::fuzz_datagram(datagram);
    switchman::sys::conntrack::fuzz_datagram(datagram);
});
