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

/// Every line with a time: the forward, its owner, the last change, the lock.
#[test]
fn times_of_owner_and_lock_have_the_chosen_form() {
    run_in_namespace(|| async {
        let host = LocalOperator::new(make_single_host());
        host.stdout(&["enable-forward", "--no-wait"]);
        host.stdout(&["disable-forward", "--no-wait"]);
        let has_rfc3339 = |text: &str| {
            text.split([' ', '\n', ','])
                .any(|word| word.contains('-') && word.contains('T') && word.contains('Z'))
        };
        let mut texts = vec![
            host.stdout(&["status", "--time-format", "rfc2822"]),
            host.stdout(&["history", "--time-format", "rfc2822"]),
        ];
        let acquired = host.run(&["lock", "acquire", "--message", "new rack", "--time-format", "rfc2822"]);
        texts.push(String::from_utf8(acquired.stderr).unwrap());
        texts.push(host.stdout(&["lock", "status", "--time-format", "rfc2822"]));
        let released = host.run(&["lock", "release", "--time-format", "rfc2822"]);
        texts.push(String::from_utf8(released.stderr).unwrap());
        for text in texts {
            assert!(text.contains(" +0000") && !has_rfc3339(&text), "{text}");
        }
        assert!(host.stdout(&["status"]).contains(" UTC: disable-forward"));
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

/// Nothing listens on the data ports of a managed service.
#[test]
fn check_of_managed_service_has_no_problem() {
    run_in_namespace(|| async {
        let host = LocalOperator::new(make_single_host());
        host.deploy("1.0.0");
        host.stdout(&["enable-forward", "--no-wait"]);
        let found = host.run(&["check"]);
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(!text.contains("problem"), "{text}");
        assert!(text.contains("main vhost: healthy on port 20000"), "{text}");
        assert!(text.contains("backup vhost: healthy on port 20000"), "{text}");
    });
}
