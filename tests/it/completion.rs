//! Completion in real shells: names from switchman.yaml, versions and ids from a host's recorded state, and silence where nothing
//! can be read.

use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

const SWITCHMAN: &str = env!("CARGO_BIN_EXE_switchman");
const FLEET: &str = "service: shop\nhosts:\n  web1: {address: 10.9.8.7}\n  web2: {address: 10.9.8.8}\n";
const ONE_HOST: &str = "service: shop\n";
/// The longest wait for candidates: a second of the product, and what a busy machine adds.
const LIMIT: Duration = Duration::from_secs(8);

/// A directory with a configuration and the state of a host that has four versions of `shop`.
fn make_host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("switchman.yaml"), ONE_HOST).unwrap();
    std::fs::write(dir.path().join("fleet.yaml"), FLEET).unwrap();
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    connection.execute_batch(include_str!("../fixtures/recorded/state.sql")).unwrap();
    connection.pragma_update(None, "user_version", 4).unwrap();
    dir
}

/// Sources the script in a shell that has the built program in its PATH, then runs `then`.
#[allow(clippy::disallowed_methods, reason = "a test starts programs by itself, with its own PATH")]
fn run_shell(shell: &str, dir: &Path, then: &str) -> Output {
    let script = dir.join(format!("completion.{shell}"));
    let generated = start(Command::new(SWITCHMAN).args(["completions", shell]));
    assert!(generated.status.success(), "{generated:?}");
    std::fs::write(&script, generated.stdout).unwrap();
    let program = Path::new(SWITCHMAN).parent().unwrap().display();
    let text = then.replace("SCRIPT", &script.display().to_string());
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    let options: &[&str] = if shell == "zsh" { &["-f"] } else { &[] };
    let mut command = Command::new(shell);
    command
        .args(options)
        .arg("-c")
        .arg(text)
        .env("PATH", path)
        .env("SWITCHMAN_STATE_DIR", dir)
        .current_dir(dir);
    start(&mut command)
}

fn start(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn is_installed(shell: &str) -> bool {
    #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
    let found = Command::new(shell).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        crate::testing::missing(&format!("{shell} is not installed"));
    }
    found
}

/// Completes the last word as the shell does at TAB. Returns the candidates; the shell prints nothing else.
fn complete(shell: &str, dir: &Path, words: &[&str]) -> BTreeSet<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (list, last, index) = (quoted.join(" "), words.last().unwrap(), words.len() - 1);
    let then = match shell {
        "bash" => format!(
            "source SCRIPT; complete -p switchman >/dev/null || exit 9; COMP_WORDS=({list}); COMP_CWORD={index}; COMP_TYPE=9; \
             _clap_complete_switchman switchman '{last}' x; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        ),
        // The functions of zsh's completion system work at its prompt only.
        "zsh" => format!(
            "compdef() {{ : }}; _describe() {{ print -l -- \"${{(@P)${{@[3]}}}}\" }}; source SCRIPT; words=({list}); \
             CURRENT={}; _clap_dynamic_completer_switchman",
            index + 1
        ),
        _ => format!("source SCRIPT; complete -C '{}'", words.join(" ")),
    };
    let output = run_shell(shell, dir, &then);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{shell} {words:?}: {stderr}");
    // A description follows the candidate.
    let candidate = |line: &str| line.split(['\t', ':']).next().unwrap_or_default().trim_end().to_owned();
    String::from_utf8_lossy(&output.stdout).lines().map(candidate).filter(|word| !word.is_empty()).collect()
}

fn assert_completes(shell: &str) {
    let dir = make_host();
    let complete = |words: &[&str]| complete(shell, dir.path(), words);
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        complete(&["switchman", "--config", "fleet.yaml", "roll", "--host", "w"]),
        set(&["web1", "web2"])
    );
    assert_eq!(complete(&["switchman", "assign", "s"]), set(&["shop"]));
    let versions = set(&["4.0.0", "6.0.0", "6.0.1", "7.0.0"]);
    for command in ["assign", "kill", "describe", "logs", "canary", "mirror", "ls", "compare", "promote"] {
        let found = complete(&["switchman", "--local", command, "shop", ""]);
        assert!(found.is_superset(&versions), "{command}: {found:?}");
    }
    assert_eq!(complete(&["switchman", "--local", "kill", "shop", "6"]), set(&["6.0.0", "6.0.1"]));
    assert_eq!(complete(&["switchman", "--local", "kill", "blog", "6"]), set(&[]));
    let ids = complete(&["switchman", "--local", "describe", "dp_01m8e00"]);
    assert_eq!(ids, set(&["dp_01m8e0023zq8sbgxd0a8", "dp_01m8e00echsswbpvchm7"]));
    // A new version is not one that is there.
    assert_eq!(complete(&["switchman", "--local", "deploy", "shop", "6"]), set(&[]));
    // Commands that switchman starts by itself are not offered.
    assert_eq!(complete(&["switchman", "pro"]), set(&["promote"]));
    assert_eq!(complete(&["switchman", "superv"]), set(&[]));
}

/// Rows: D30.
#[test]
fn bash_completes_hosts_services_versions_and_ids() {
    assert_completes("bash");
}

/// Rows: D30.
#[test]
fn zsh_completes_hosts_services_versions_and_ids() {
    if is_installed("zsh") {
        assert_completes("zsh");
    }
}

/// Rows: D30.
#[test]
fn fish_completes_hosts_services_versions_and_ids() {
    if is_installed("fish") {
        assert_completes("fish");
    }
}

/// A host that is silent, one without an agent, a configuration with a mistake, no configuration: no error, no prompt, and soon.
#[test]
fn completion_is_silent_and_fast_where_nothing_can_be_read() {
    let dir = make_host();
    let silent = dir.path().join("silent.sock");
    let _listener = UnixListener::bind(&silent).unwrap();
    let yaml = format!(
        "service: shop\nhosts:\n  web1: {{address: 10.9.8.7, agent: 'unix://{}'}}\n  web2: {{address: 10.9.8.8, agent: \
         'unix:///nonexistent/agent.sock'}}\n",
        silent.display()
    );
    std::fs::write(dir.path().join("switchman.yaml"), yaml).unwrap();
    let began = Instant::now();
    let nothing = BTreeSet::new();
    assert_eq!(complete("bash", dir.path(), &["switchman", "kill", "shop", "6"]), nothing);
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    std::fs::write(dir.path().join("switchman.yaml"), "hosts: [").unwrap();
    assert_eq!(complete("bash", dir.path(), &["switchman", "kill", "s"]), nothing);
    std::fs::remove_file(dir.path().join("switchman.yaml")).unwrap();
    assert_eq!(complete("bash", dir.path(), &["switchman", "kill", "shop", "6"]), nothing);
    assert_eq!(complete("bash", dir.path(), &["switchman", "kill", "--host", "w"]), nothing);
}
