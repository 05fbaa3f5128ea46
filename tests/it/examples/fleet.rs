//! The Makefile and the Ansible play of `examples/` on a fleet of the lab, under load.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use switchman::lab::operator::LabTransport;

use super::{LIMIT, SWITCHMAN, command, copy, examples, find, succeed};
use crate::site::{Plan, Site};
use crate::testing::can_make_namespaces;

/// The command that restarts the main vhost on a host of the lab. ssh sets SSH_CONNECTION, whose third word is the host's
/// address. `broken-HOST` makes it fail.
fn restart_script(site: &Site, deploy_root: &Path) -> PathBuf {
    let lab = site.lab.dir().display();
    let script = format!(
        "set -eu\nset -- $SSH_CONNECTION\nhost=web${{3##*.1}}\n[ ! -e {lab}/broken-$host ] || {{ echo broken; exit 1; }}\n\
         exec sh {lab}/$host/replace-main.sh \"$(basename \"$(readlink {}/current)\")\"\n",
        deploy_root.display()
    );
    let file = site.lab.dir().join("restart.sh");
    std::fs::write(&file, script).unwrap();
    file
}

/// A copy of `examples/makefile` on the operator machine of a fleet, with archives of two versions.
struct Deploys {
    site: Site,
    dir: PathBuf,
    root: PathBuf,
}

impl Deploys {
    async fn up() -> Self {
        let yaml = "roll: {min_up: 1, drain_timeout: 20s}\n";
        let site =
            Site::up("make", Plan { hosts: 3, pipe: LabTransport::Ssh, yaml, ..Plan::default() }).await;
        let (dir, root) = (site.operator.dir().join("deploy"), site.lab.dir().join("srv"));
        copy(&examples().join("makefile"), &dir);
        for made in [&dir.join("releases"), &root] {
            std::fs::create_dir_all(made).unwrap();
        }
        for version in ["2.0.0", "3.0.0"] {
            let archive = format!("releases/{version}.tar.gz");
            succeed(command("tar").current_dir(&dir).args(["-czf", &archive, "Makefile"]));
        }
        Self { site, dir, root }
    }

    /// Exit status and output of `make` on the operator machine.
    async fn make(&self, args: &[&str]) -> (i32, String) {
        let operator = self.site.operator.dir().display();
        let switchman =
            format!("{SWITCHMAN} --config {operator}/switchman.yaml --state-dir {operator}/state --no-color");
        let restart = format!("sh {}", restart_script(&self.site, &self.root).display());
        let make = self.site.lab.program("client", "make").arg("--no-print-directory").args(args);
        let make = make
            .dir(&self.dir)
            .env("SWITCHMAN", switchman)
            .env("DEPLOY_ROOT", &self.root)
            .env("DEPLOY_RESTART", restart)
            .env("DEPLOY_SSH_CONFIG", format!("{operator}/ssh_config"));
        let output = make.run(b"", LIMIT).await.unwrap();
        (output.status, output.stdout + &output.stderr)
    }

    async fn make_well(&self, args: &[&str], wanted: &str) {
        let (status, text) = self.make(args).await;
        assert!(status == 0 && text.contains(wanted), "{args:?}: {text}");
    }

    /// `make` ends with 2 for every status of a recipe that fails.
    async fn make_badly(&self, args: &[&str], wanted: &[&str]) {
        let (status, text) = self.make(args).await;
        assert!(status == 2 && wanted.iter().all(|wanted| text.contains(wanted)), "{args:?}: {text}");
    }

    fn break_web2(&self, broken: bool) {
        let file = self.site.lab.dir().join("broken-web2");
        if broken { std::fs::write(file, "").unwrap() } else { std::fs::remove_file(file).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn make_deploys_resumes_and_aborts_under_load() {
    if find("make").is_none() || !can_make_namespaces() {
        return;
    }
    let fleet = Deploys::up().await;
    fleet.make_badly(&["deploy"], &["usage: make deploy VERSION=v42"]).await;
    fleet.make_badly(&["deploy", "VERSION=9.9.9"], &["there is no releases/9.9.9.tar.gz"]).await;
    fleet.make_well(&["check"], "web3: switchman").await;
    fleet.make_well(&["plan", "VERSION=2.0.0"], "3 hosts in 3 batches").await;

    // The second of three hosts fails, and the roll continues from there.
    fleet.break_web2(true);
    let partly = ["Some hosts run 2.0.0, others do not.", "Error 3"];
    fleet.make_badly(&["deploy", "VERSION=2.0.0"], &partly).await;
    fleet.make_well(&["status"], "web2  failed").await;
    fleet.break_web2(false);
    fleet.make_well(&["resume"], "3 of 3 hosts done").await;
    for host in ["web1", "web2", "web3"] {
        fleet.site.answered_by(host, "2.0.0").await;
    }

    // The same failure, then an abort: the first host keeps the new version, and every host is in service.
    fleet.break_web2(true);
    fleet.make_badly(&["deploy", "VERSION=3.0.0"], &["Error 3"]).await;
    fleet.make_well(&["abort"], "").await;
    for (host, version) in [("web1", "3.0.0"), ("web2", "2.0.0"), ("web3", "2.0.0")] {
        fleet.site.answered_by(host, version).await;
    }
    assert_eq!(fleet.site.up_count("lb1").await, 3);
    fleet.break_web2(false);
    fleet.make_well(&["deploy", "VERSION=3.0.0"], "every host runs 3.0.0").await;
    fleet.site.answered_by("web3", "3.0.0").await;
    fleet.site.down_without_loss().await;
}

/// The inventory of the lab: ssh by the operator's configuration, switchman with the directories of each host.
fn lab_inventory(site: &Site) -> String {
    let (lab, operator) = (site.lab.dir().display(), site.operator.dir().display());
    let mut inventory = String::from("web:\n  hosts:\n");
    for host in &site.lab.hosts {
        let name = &host.host.name;
        let home = format!("{lab}/{name}");
        let _ = writeln!(
            inventory,
            "    {name}:\n      ansible_ssh_common_args: -F {operator}/ssh_config\n      switchman_on_host: [env, \
             XTABLES_LOCKFILE={home}/xtables.lock, {SWITCHMAN}, --config, {home}/switchman.yaml, --state-dir, \
             {home}/state, --local]",
        );
    }
    inventory
}

const REPLACE: &str = "- name: Replace the main vhost
  ansible.builtin.command: sh LAB/{{ inventory_hostname }}/replace-main.sh {{ version }}
";
const FAIL: &str = "- name: Break\n  ansible.builtin.command: 'false'\n";

#[tokio::test(flavor = "multi_thread")]
async fn ansible_updates_hosts_under_load_and_reports_the_state_after_a_failure() {
    if find("ansible-playbook").is_none() || !can_make_namespaces() {
        return;
    }
    let mut site = Site::up("ansible", Plan { hosts: 2, pipe: LabTransport::Ssh, ..Plan::default() }).await;
    let operator = site.operator.dir().to_owned();
    let dir = operator.join("ansible");
    copy(&examples().join("ansible"), &dir);
    std::fs::copy(operator.join("known_hosts"), dir.join("known_hosts")).unwrap();
    std::fs::write(dir.join("lab.yml"), lab_inventory(&site)).unwrap();
    std::fs::write(dir.join("replace.yml"), REPLACE.replace("LAB", &site.lab.dir().display().to_string()))
        .unwrap();
    std::fs::write(dir.join("fail.yml"), FAIL).unwrap();
    let play = async |site: &Site, version: &str, tasks: &str| {
        let vars = format!(
            "{{version: {version}, tasks_file: {tasks}, switchman: '{{{{ switchman_on_host }}}}', ansible_become: false, \
             ansible_python_interpreter: /usr/bin/python3}}"
        );
        let program =
            site.lab.program("client", "ansible-playbook").args(["-i", "lab.yml", "deploy.yml", "-e", &vars]);
        let program = program
            .dir(&dir)
            .env("ANSIBLE_CONFIG", dir.join("ansible.cfg"))
            .env("ANSIBLE_HOME", operator.join("ansible-home"))
            .env("ANSIBLE_REMOTE_TEMP", operator.join("ansible-tmp"));
        let output = program.run(b"", LIMIT).await.unwrap();
        (output.status, output.stdout + &output.stderr)
    };

    let (status, text) = play(&site, "2.0.0", "replace.yml").await;
    assert_eq!(status, 0, "{text}");
    for host in ["web1", "web2"] {
        site.answered_by(host, "2.0.0").await;
    }

    // A task fails on the first host: it stays in maintenance, and the second host is not touched.
    let (status, text) = play(&site, "3.0.0", "fail.yml").await;
    assert_eq!(status, 2, "{text}");
    for wanted in ["cannot update web1: the task `Break` failed.", "web1 is in maintenance."] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(!text.contains("web2"), "{text}");
    assert_eq!(site.up_count("lb1").await, 1);
    let (status, text) = play(&site, "3.0.0", "replace.yml").await;
    assert_eq!(status, 0, "{text}");
    for host in ["web1", "web2"] {
        site.answered_by(host, "3.0.0").await;
    }

    // Without a backup vhost switchman refuses, and the host stays in service.
    site.lab.kill_backup(0).await.unwrap();
    site.until("a backup vhost that is DOWN", async || {
        let view = site.view("lb1").await;
        view.servers().iter().any(|server| server.backup && server.state.is_out_of_service())
    })
    .await;
    let (status, text) = play(&site, "4.0.0", "replace.yml").await;
    assert!(status == 2 && text.contains("web1 is in service."), "{text}");
    assert_eq!(site.up_count("lb1").await, 2);
    site.down_without_loss().await;
}
