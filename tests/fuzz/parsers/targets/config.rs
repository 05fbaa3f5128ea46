//! `switchman.yaml`, and the hosts that are added to it: a file that was accepted is accepted with one more host, or the change is
//! refused.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use switchman::config::host_edit::add_hosts;
use switchman::config::parse_config;

fuzz_target!(|text: &str| {
    let file = Path::new("switchman.yaml");
    let config = parse_config(file, text);
    let added = add_hosts(text, &["web9: {address: \"10.0.0.99\"}".to_owned()]);
    if let (Ok(fleet), Ok(added)) = (config, added)
        && let Ok(changed) = parse_config(file, &added)
    {
        assert!(changed.hosts.len() <= fleet.hosts.len() + 1, "{added}");
    }
});
