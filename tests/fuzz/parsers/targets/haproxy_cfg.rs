//! haproxy.cfg of other people: the findings, and the fleet that `init --from` reads.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchman::config::parse_config;
use switchman::lint::{AdoptionOptions, CfgFile, HaproxyCfg, adopt_haproxy, lint_haproxy, parse_hosts_file};

fuzz_target!(|bytes: &[u8]| {
    let file = CfgFile::decode("haproxy.cfg", bytes);
    let addresses = parse_hosts_file(&file.text);
    let cfg = HaproxyCfg { files: vec![file], addresses };
    let fleet = parse_config(Path::new("switchman.yaml"), "service: shop\n").unwrap();
    let _ = lint_haproxy(&fleet, Some(&cfg));
    if let Ok(adoption) = adopt_haproxy(&cfg, &fleet, &AdoptionOptions::default()) {
        let _ = lint_haproxy(&adoption.fleet, Some(&cfg));
    }
});
