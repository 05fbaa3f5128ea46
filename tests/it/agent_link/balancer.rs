//! HAProxy's stats socket on another machine, through a real sshd.

use super::*;

use switchman::model::balancer::{BalancerSpec, CheckTiming, ServerNames, SshSocket, StatsEndpoint};
use switchman::sys::haproxy::connect;
use switchman::world::balancer::{Balancer, FlushResult, SetWeightResult};

impl Place {
    /// A HAProxy with one server without a check.
    async fn haproxy(&mut self, level: &str) -> Pid {
        let text = format!(
            "global\n stats socket {} mode 600 level {level}\ndefaults\n mode http\n timeout connect 1s\n timeout client 5s\n \
             timeout server 5s\nbackend servers\n server main-web1 127.0.0.1:8080 weight 100\n",
            self.text("admin.sock")
        );
        let file = self.write("haproxy.cfg", &text).display().to_string();
        let pid = self.start("haproxy", "haproxy", &["-db", "-f", &file]);
        let socket = self.path("admin.sock");
        until(async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
        pid
    }

    fn stats_socket(&self, config: &str, path: &str) -> SshSocket {
        let options = self.ssh_options(config);
        SshSocket { destination: "lb1".into(), port: None, options, path: self.path(path) }
    }

    fn balancer(&self, config: &str, path: &str) -> Arc<dyn Balancer> {
        let spec = BalancerSpec {
            name: "lb1".parse().unwrap(),
            stats_endpoint: Some(StatsEndpoint::Ssh(self.stats_socket(config, path))),
            backend: "servers".into(),
            servers: ServerNames::default(),
            check: CheckTiming::default(),
            is_on_host: false,
        };
        connect(&spec, Duration::from_secs(2)).unwrap()
    }

    /// The ssh processes that forward for this place, setpriv(1) before it has become ssh among them.
    fn forwards(&self) -> Vec<Pid> {
        let needle = self.path("admin.sock").display().to_string();
        let pid = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.unwrap().file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            (line.contains("\0-L\0") && line.contains(&needle)).then(|| Pid::from_raw(name))
        };
        std::fs::read_dir("/proc").unwrap().filter_map(pid).collect()
    }
}

async fn failure(balancer: &dyn Balancer) -> String {
    balancer.read().await.unwrap_err().to_string()
}

#[test]
fn balancer_is_read_and_changed_through_one_ssh() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let mut haproxy = place.haproxy("admin").await;
        let balancer = place.balancer("", "admin.sock");
        for _ in 0..20 {
            assert_eq!(balancer.read().await.unwrap().servers().len(), 1);
        }
        let forwards = place.forwards();
        assert_eq!(forwards.len(), 1);
        // Its socket has no name by now, so nothing is left of it in any case.
        let line = std::fs::read(format!("/proc/{}/cmdline", forwards[0])).unwrap();
        let line = String::from_utf8(line).unwrap();
        let local = line.split('\0').skip_while(|word| *word != "-L").nth(1).unwrap();
        let local = local.split(':').next().unwrap();
        assert!(!std::path::Path::new(local).parent().unwrap().exists(), "{local}");
        assert_eq!(balancer.set_weight("main-web1", 7).await, Ok(SetWeightResult::Set));
        assert_eq!(balancer.read().await.unwrap().servers()[0].weight, 7);
        assert_eq!(balancer.close_idle("main-web1").await, Ok(FlushResult::Closed));
        // HAProxy is restarted, then ssh ends: each time the next reads work again.
        kill(haproxy, Signal::SIGKILL).unwrap();
        until(async || failure_of(&*balancer).await).await;
        haproxy = place.haproxy("user").await;
        until(async || balancer.read().await.is_ok()).await;
        kill(forwards[0], Signal::SIGKILL).unwrap();
        until(async || balancer.read().await.is_ok() && place.forwards() != forwards).await;
        // An empty answer is no success.
        assert_eq!(balancer.set_weight("main-web1", 8).await, Ok(SetWeightResult::NotAllowed));
        assert_eq!(balancer.close_idle("main-web1").await, Ok(FlushResult::NotAllowed));
        kill(haproxy, Signal::SIGKILL).unwrap();
        until(async || failure_of(&*balancer).await).await;
        assert!(balancer.set_weight("main-web1", 9).await.is_err());
        drop(balancer);
        until(async || place.forwards().is_empty()).await;
    });
}

async fn failure_of(balancer: &dyn Balancer) -> bool {
    balancer.read().await.is_err()
}

/// A master of the operator's other sessions would keep the forward.
#[test]
fn forward_does_not_use_a_shared_ssh() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        place.haproxy("user").await;
        let shared = " ControlMaster auto\n ControlPersist 60\n LocalForward 2222 127.0.0.1:1\n ExitOnForwardFailure yes";
        let balancer = place.balancer(shared, "admin.sock");
        assert!(balancer.read().await.is_ok());
        drop(balancer);
        until(async || place.forwards().is_empty()).await;
    });
}

#[test]
fn every_failure_to_reach_a_balancer_names_cause_and_action() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let refused = failure(&*place.balancer("", "admin.sock")).await;
        assert!(refused.contains("Connection refused; start sshd there"), "{refused}");
        assert!(
            refused.contains("`ssh -o BatchMode=yes -F ") && refused.contains(" lb1 true </dev/null`"),
            "{refused}"
        );
        place.sshd("").await;
        place.write("file", "");
        for (config, path, text) in [
            (
                " UserKnownHostsFile /dev/null",
                "admin.sock",
                "Host key verification failed; connect once by hand",
            ),
            (" User swm-nobody", "admin.sock", "let the host accept a key of yours"),
            (" HostName swm-no-such.invalid", "admin.sock", "; correct the name in switchman.yaml"),
            ("", "admin.sock", "/admin.sock` is not there; start HAProxy there"),
            ("", "none/admin.sock", "/none` is not there, or closed to the user"),
            ("", "file", "/file` is no socket; correct the path"),
        ] {
            let error = failure(&*place.balancer(config, path)).await;
            assert!(
                error.contains(text) && error.contains("no connection to `ssh://lb1/"),
                "{text}: {error}"
            );
        }
        // The same failure is known for a while, so that a wait does not start an ssh for each of its reads.
        let balancer = place.balancer(" User swm-nobody", "admin.sock");
        let first = failure(&*balancer).await;
        let began = tokio::time::Instant::now();
        assert_eq!(failure(&*balancer).await, first);
        assert!(began.elapsed() < Duration::from_millis(100));
    });
}

#[test]
fn changed_host_key_is_named() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let other = std::fs::read_to_string(place.path("user.pub")).unwrap();
        place.write("known", &format!("[127.0.0.9]:2222 {other}"));
        let error = failure(&*place.balancer("", "admin.sock")).await;
        assert!(error.contains("find out why the host has another key"), "{error}");
    });
}

#[test]
fn forbidden_forward_and_closed_socket_have_errors_of_their_own() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("AllowStreamLocalForwarding no").await;
        place.haproxy("user").await;
        let error = failure(&*place.balancer("", "admin.sock")).await;
        assert!(error.contains("AllowStreamLocalForwarding yes"), "{error}");
    });
    run_in_namespace(|| async {
        let mut place = Place::new();
        // Root as any other user is.
        let plain = [
            "--bounding-set",
            "-dac_override,-dac_read_search",
            "--inh-caps",
            "-dac_override,-dac_read_search",
        ];
        place.sshd_by(&plain, "").await;
        place.haproxy("user").await;
        nix::unistd::chown(&place.path("admin.sock"), Some(nix::unistd::Uid::from_raw(65534)), None).unwrap();
        let error = failure(&*place.balancer("", "admin.sock")).await;
        assert!(
            error.contains("may not write to `") && error.contains(" user USER mode 600 level admin"),
            "{error}"
        );
    });
}

/// ssh ends with switchman, also after `kill -9`.
#[test]
fn ssh_ends_with_the_command_after_every_signal() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        place.haproxy("user").await;
        let options = place.ssh_options("");
        let yaml = format!(
            "service: shop\nload_balancers:\n  - {{name: lb1, haproxy: \"ssh://lb1{}\", backend: servers}}\nssh: {{options: [{}]}}\n",
            place.text("admin.sock"),
            options.join(", ")
        );
        let file = place.write("switchman.yaml", &yaml).display().to_string();
        let state = place.text("state");
        let mut killed = Pid::from_raw(0);
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
            let watch = ["--config", &file, "--state-dir", &state, "status", "--watch"];
            let pid = place.start("watch", SWITCHMAN, &watch);
            until(async || place.forwards().len() == 1).await;
            kill(pid, signal).unwrap();
            killed = pid;
            until(async || place.forwards().is_empty()).await;
        }
        // A killed command may leave its directory; the next command removes it.
        let left = || {
            let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
            entries
                .filter(|entry| {
                    entry.file_name().to_string_lossy().starts_with(&format!("swm-ssh-{killed}-"))
                })
                .count()
        };
        std::fs::create_dir_all(std::env::temp_dir().join(format!("swm-ssh-{killed}-test"))).unwrap();
        let status = ["--config", &file, "--state-dir", &state, "status"];
        place.start("status", SWITCHMAN, &status);
        until(async || left() == 0 && place.forwards().is_empty()).await;
    });
}
