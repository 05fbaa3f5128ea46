//! `status` on the real kernel: it shows what the host has, also where the configuration has something else.

use crate::single_host::{LocalOperator, make_single_host};
use crate::testing::run_in_namespace;

#[test]
fn status_shows_ports_of_kernel_and_every_conflict() {
    run_in_namespace(|| async {
        let host = LocalOperator::new(make_single_host());
        host.stdout(&["enable-forward", "--no-wait"]);
        let file = host.dir().join("switchman.yaml");
        let yaml = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{yaml}ports: {{check: 8889}}\n")).unwrap();
        let status = host.stdout(&["status"]);
        let conflict = "`ports.check: 8889`";
        assert!(status.contains("forward   on  8888 -> 8080,"), "{status}");
        assert!(status.contains("ports     ") && status.contains(conflict), "{status}");
        for args in [["disable-forward", "--no-wait"], ["enable-forward", "--no-wait"]] {
            let refused = host.run(&args);
            let text = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && text.contains(conflict), "{text}");
        }
        assert!(host.stdout(&["status"]).contains("forward   on  8888 -> 8080,"));
    });
}

#[test]
fn status_of_managed_service_shows_version_and_port_of_instance() {
    run_in_namespace(|| async {
        let host = LocalOperator::new(make_single_host());
        host.deploy("1.0.0");
        host.stdout(&["enable-forward", "--no-wait"]);
        let status = host.stdout(&["status"]);
        assert!(status.contains("forward   on  8888 -> 20000 (1.0.0),"), "{status}");
        assert!(status.contains("main vhost healthy on 20000"), "{status}");
        assert!(!status.contains("ports     "), "{status}");
    });
}
