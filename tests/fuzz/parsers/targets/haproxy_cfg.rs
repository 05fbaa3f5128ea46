//! haproxy.cfg of other people: the findings, and the fleet that `init --from` reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use switchman::lint::{AdoptionOptions, CfgFile, HaproxyCfg, adopt_haproxy, lint_haproxy, parse_hosts_file};
use switchman::model::fleet::Fleet;

fuzz_target!(|bytes: &[u8]| {
    let file = CfgFile::decode("haproxy.cfg", bytes);
    let addresses = parse_hosts_file(&file.text);
    let cfg = HaproxyCfg { files: vec![file], addresses };
    let fleet = Fleet::default();
    let _ = lint_haproxy(&fleet, Some(&cfg));
    if let Ok(adoption) = adopt_haproxy(&cfg, &fleet, &AdoptionOptions::default()) {
        let _ = lint_haproxy(&adoption.fleet, Some(&cfg));
    }
});
