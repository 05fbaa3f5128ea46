//! Programs that hosts have beside us, started by hand in the namespace. They use what the command `iptables` runs, so
//! there is one variant.

use super::*;

/// A service of the test, ended by its pid.
struct Service {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Service {
    fn start(stage: &Stage, name: &'static str, mut command: Command) -> Self {
        let log = stage.path(&format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), name, log }
    }

    async fn until(&mut self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + BOUND;
        while !holds().await {
            let log = std::fs::read_to_string(&self.log).unwrap();
            assert!(self.child.try_wait().unwrap().is_none(), "{} ended: {log}", self.name);
            assert!(Instant::now() < deadline, "{}: {what}: {log}", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Service {
    /// TERM, so that it ends what it started itself.
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn dockerd(stage: &Stage) -> Service {
    let mut dockerd = command("dockerd");
    dockerd.arg("--data-root").arg(stage.path("docker")).arg("--exec-root").arg(stage.path("docker-exec"));
    dockerd.arg("--pidfile").arg(stage.path("docker.pid")).arg("--storage-driver").arg("vfs");
    dockerd.arg("--host").arg(format!("unix://{}", stage.path("docker.sock").display()));
    Service::start(stage, "dockerd", dockerd)
}

async fn docker_rules() -> Vec<String> {
    theirs(Variant::NfTables).await.into_iter().filter(|rule| rule.contains("DOCKER")).collect()
}

/// Docker's rules come beside ours, ours come back beside Docker's, and a restart of Docker after a flush brings both.
#[test]
fn rules_coexist_with_docker_and_survive_its_restart() {
    run_in_namespace(|| async {
        let stage = Stage::new(Variant::NfTables, true).await;
        let mut docker = dockerd(&stage);
        let socket = stage.path("docker.sock");
        docker.until("it serves", async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
        docker.until("its rules are there", async || docker_rules().await.len() >= 3).await;
        stage.until("ours are there", async || stage.is_as_recorded().await).await;
        assert_eq!(stage.repairs(), [], "Docker leaves ours alone");
        let before = docker_rules().await;
        sh("iptables -t nat -F SWITCHMAN; ip6tables -t nat -F SWITCHMAN");
        stage.is_repaired("a flush beside Docker").await;
        assert_eq!(docker_rules().await, before);
        drop(docker);
        sh("iptables -t nat -F; ip6tables -t nat -F");
        let mut docker = dockerd(&stage);
        docker.until("its rules are there again", async || docker_rules().await == before).await;
        stage.until("ours are there again", async || stage.is_as_recorded().await).await;
    });
}

/// With the nat section that people add to `before.rules`, which begins with a flush so that a reload doubles nothing. ufw has
/// its files in /etc: in a mount namespace of its own, others are there.
const UFW: &str = r#"
mount --make-rprivate /
cp -a /etc/ufw "$DIR/ufw"; cp /etc/default/ufw "$DIR/default-ufw"
mount --bind "$DIR/ufw" /etc/ufw; mount --bind "$DIR/default-ufw" /etc/default/ufw
printf '*nat\n:PREROUTING ACCEPT [0:0]\n-F\n-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22\nCOMMIT\n' > "$DIR/nat"
for file in before before6; do
    cat "$DIR/nat" "/etc/ufw/$file.rules" > "$DIR/rules"; cat "$DIR/rules" > "/etc/ufw/$file.rules"
done
ufw --force enable; ufw reload
"#;

#[test]
fn ufw_reload_is_repaired() {
    for on in [true, false] {
        run_in_namespace(move || async move {
            let stage = Stage::new(Variant::NfTables, on).await;
            let mut ufw = command("unshare");
            ufw.args(["--mount", "sh", "-ec", UFW]).env("DIR", stage.dir.path());
            let output = ufw.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(sh("iptables-save -t filter").contains("ufw-before-input"), "ufw is at work");
            stage.is_repaired("ufw").await;
            assert_eq!(theirs(Variant::NfTables).await, [THEIR_RULE, THEIR_RULE]);
        });
    }
}

/// A bus of our own: every client may do everything.
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=BUS</listen><auth>EXTERNAL</auth>\
    <policy context='default'><allow user='*'/><allow own='*'/><allow send_destination='*'/><allow receive_sender='*'/>\
    </policy></busconfig>";

/// firewalld flushes all of iptables at its start and at each reload. Source: firewalld(1); on a real host:
/// tests/nspawn/firewalls.sh. With its default backend only: with the other one,
/// one reload of 72 beside our repair failed in its own `ebtables-restore` (1.8.9: `RULE_DELETE failed`), which 200 reloads
/// without an agent and 118 more with one did not. Whether our commit in the middle of its reload is the cause is not
/// known.
#[test]
fn firewalld_reload_is_repaired() {
    for on in [true, false] {
        run_in_namespace(move || async move {
            let stage = Stage::new(Variant::NfTables, on).await;
            let bus = stage.path("bus");
            let address = format!("unix:path={}", bus.display());
            let config = stage.path("bus.conf");
            std::fs::write(&config, BUS.replace("BUS", &bus.display().to_string())).unwrap();
            let mut dbus = command("dbus-daemon");
            dbus.arg(format!("--config-file={}", config.display())).args(["--nofork", "--nopidfile"]);
            let mut dbus = Service::start(&stage, "dbus-daemon", dbus);
            dbus.until("it serves", async || bus.exists()).await;
            let etc = stage.path("firewalld").display().to_string();
            sh(&format!("cp -a /etc/firewalld {etc}; grep -q FirewallBackend=nftables {etc}/firewalld.conf"));
            let mut firewalld = command("firewalld");
            firewalld.args(["--nofork", "--nopid"]).arg(format!("--system-config={etc}"));
            firewalld.arg(format!("--log-file={}", stage.path("fw.log").display()));
            firewalld.env("DBUS_SYSTEM_BUS_ADDRESS", &address);
            let mut firewalld = Service::start(&stage, "firewalld", firewalld);
            let asked = |word: &str| {
                command("firewall-cmd").arg(word).env("DBUS_SYSTEM_BUS_ADDRESS", &address).output().unwrap()
            };
            firewalld.until("it serves", async || asked("--state").status.success()).await;
            stage.is_repaired("its start").await;
            let before = stage.repairs().len();
            let reload = asked("--reload");
            assert!(reload.status.success(), "{reload:?}");
            stage
                .until("the reload was mended", async || {
                    stage.repairs().len() > before && stage.is_as_recorded().await
                })
                .await;
            assert!(!theirs(Variant::NfTables).await.contains(&THEIR_RULE.to_owned()), "it was a flush");
        });
    }
}
