//! Listings of iptables and nft.

#![no_main]

use libfuzzer_sys::fuzz_target;
use switchman::plan::firewall::{read_forwards, read_redirects};

fuzz_target!(|listing: &str| {
    if let Some(table) = switchman::sys::iptables::fuzz_listings(listing) {
        let _ = (read_forwards(&table), read_redirects(&table));
    }
});
