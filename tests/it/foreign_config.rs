//! Root obeys no configuration that another user could change.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::testing::missing;

/// A user that Debian always has.
const NOBODY: u32 = 65534;

/// A directory with a configuration whose ssh options run a program.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Returns `None` where the test may not give files to another user.
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            missing("only root can give files to another user");
            return None;
        }
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("project")).unwrap();
        let yaml = format!(
            "service: shop\nhosts: {{web1: {{address: 127.0.0.1, ssh: ops@127.0.0.1}}}}\nssh: {{options: [-o, 'ProxyCommand=touch {}']}}\n",
            place.path("ran").display()
        );
        fs::write(place.path("project/switchman.yaml"), yaml).unwrap();
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchman"));
        command.current_dir(self.path("project")).arg("--state-dir").arg(self.path("state")).args(args);
        command.env_remove("SUDO_UID").env_remove("SUDO_USER").env_remove("SWITCHMAN_CONFIG");
        command.envs(env.iter().copied()).output().unwrap()
    }

    /// Runs `status`, which changes nothing, and returns its error; the program of the ssh options has not run.
    fn refused_status(&self) -> String {
        let output = self.run(&["status", "--host", "web1"], &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("as root") && error.contains("next: "), "{error}");
        assert!(!self.path("ran").exists(), "{error}");
        error
    }

    fn run_proxy_command(&self, args: &[&str], env: &[(&str, &str)]) {
        self.run(&[args, &["status", "--host", "web1"]].concat(), env);
        assert!(self.path("ran").exists(), "ssh did not run its proxy command");
        fs::remove_file(self.path("ran")).unwrap();
    }
}

fn give_to_nobody(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn own_configuration_of_root_is_obeyed() {
    let Some(place) = Place::new() else { return };
    place.run_proxy_command(&[], &[]);
}

#[test]
fn configuration_of_another_user_is_refused_before_anything_of_it_runs() {
    let Some(place) = Place::new() else { return };
    give_to_nobody(&place.path("project/switchman.yaml"));
    let error = place.refused_status();
    assert!(error.contains("`./switchman.yaml` is owned by nobody"), "{error}");
    place.run_proxy_command(&["--trust-config"], &[]);
    place.run_proxy_command(&[], &[("SWITCHMAN_TRUST_CONFIG", "1")]);
    // The caller of sudo may have what root gets; git has the same rule.
    place.run_proxy_command(&[], &[("SUDO_UID", "65534")]);
}

#[test]
fn configuration_that_other_users_may_write_is_refused() {
    let Some(place) = Place::new() else { return };
    set_mode(&place.path("project/switchman.yaml"), 0o666);
    let error = place.refused_status();
    assert!(error.contains("`./switchman.yaml` is writable for every user"), "{error}");
    set_mode(&place.path("project/switchman.yaml"), 0o664);
    chown(place.path("project/switchman.yaml"), None, Some(NOBODY)).unwrap();
    let error = place.refused_status();
    assert!(error.contains("is writable for the group nogroup"), "{error}");
}

/// Its owner could put another file there.
#[test]
fn configuration_in_a_directory_of_another_user_is_refused() {
    let Some(place) = Place::new() else { return };
    give_to_nobody(&place.path("project"));
    let error = place.refused_status();
    assert!(error.contains("/project` is owned by nobody"), "{error}");
    chown(place.path("project"), Some(0), Some(0)).unwrap();
    set_mode(&place.path("project"), 0o777);
    let error = place.refused_status();
    assert!(error.contains("/project` is writable for every user"), "{error}");
}

/// The file belongs to root, and the name that root types does not.
#[test]
fn symbolic_link_in_a_directory_of_another_user_is_refused() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("theirs")).unwrap();
    std::os::unix::fs::symlink(place.path("project/switchman.yaml"), place.path("theirs/link.yaml")).unwrap();
    give_to_nobody(&place.path("theirs"));
    let link = place.path("theirs/link.yaml");
    let output = place.run(&["--config", link.to_str().unwrap(), "status", "--host", "web1"], &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("/theirs` is owned by nobody") && !place.path("ran").exists(), "{error}");
}

/// A directory such as /tmp: its sticky bit keeps the entries of others, and anyone adds one.
#[test]
fn symbolic_link_of_another_user_is_refused() {
    let Some(place) = Place::new() else { return };
    fs::create_dir(place.path("shared")).unwrap();
    set_mode(&place.path("shared"), 0o1777);
    let (link, own) = (place.path("shared/link.yaml"), place.path("shared/own.yaml"));
    std::os::unix::fs::symlink(place.path("project/switchman.yaml"), &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
    std::os::unix::fs::symlink(&link, &own).unwrap();
    for named in [link, own] {
        let output = place.run(&["--config", named.to_str().unwrap(), "status", "--host", "web1"], &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("/shared/link.yaml` is owned by nobody"), "{error}");
        assert!(!place.path("ran").exists(), "{error}");
    }
}

#[test]
fn hook_that_another_user_could_change_is_refused() {
    let Some(place) = Place::new() else { return };
    let hook = place.path("notify.sh");
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    let yaml = format!(
        "service: shop\nhosts: {{web1: {{address: 127.0.0.1, ssh: ops@127.0.0.1}}}}\nhooks: {{before_roll: ['{} start']}}\n",
        hook.display()
    );
    fs::write(place.path("project/switchman.yaml"), yaml).unwrap();
    give_to_nobody(&hook);
    let error = place.refused_status();
    assert!(error.contains("/notify.sh` is owned by nobody"), "{error}");
}
