//! Listings of iptables and nft.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|listing: &str| {
    switchman::sys::iptables::fuzz_listings(listing);
});
