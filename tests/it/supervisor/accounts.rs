//! The account of a service, without an entry in the user database, and the sandbox of its programs.

use switchman::model::account::{Account, Permission, Sandbox, build_account_name};

use super::*;

/// Prints the user, the groups, the capabilities and what the program can read.
const REPORT: &str = "id -u; id -G; grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs):' /proc/self/status | tr -d '\\t'; umask; \
                      for file in own other accounts.json $SWITCHMAN_INSTANCE_DIR/spec.json; do \
                      cat $file >/dev/null 2>&1 && echo $file || echo closed; done; (echo >written) 2>/dev/null && echo wrote || echo refused; \
                      echo end; exec sleep 600";

/// A directory that others may enter, with a file of the account and one of root.
struct Prepared {
    yard: Yard,
    account: Account,
    spec: InstanceSpec,
}

async fn prepare(allow: &[Permission]) -> Prepared {
    let yard = Yard::new();
    set_mode(yard.dir.path(), 0o755);
    let service = "swm-shop".parse().unwrap();
    let user = build_account_name(&service);
    let account = yard.runner.prepare_account(&service, &user).await.unwrap().unwrap();
    assert_eq!(yard.runner.prepare_account(&service, &user).await.unwrap(), Some(account));
    for name in ["own", "other"] {
        std::fs::write(yard.path(name), name).unwrap();
        set_mode(&yard.path(name), 0o600);
    }
    std::os::unix::fs::chown(yard.path("own"), Some(account.uid), Some(account.gid)).unwrap();
    let sandbox = Some(Sandbox { allow: allow.iter().copied().collect() });
    let spec = InstanceSpec { service, user: Some(user), account: Some(account), sandbox, ..yard.sh(REPORT) };
    Prepared { yard, account, spec }
}

async fn report(yard: &Yard, spec: &InstanceSpec) -> Vec<String> {
    yard.runner.start(spec).await.unwrap();
    until(async || yard.log(Some(1)).await == ["end"]).await;
    yard.log(None).await
}

const NO_CAPABILITIES: &str = "0000000000000000";

#[tokio::test]
async fn program_of_an_account_has_no_rights_and_reads_no_file_of_others() {
    if !is_root() {
        return crate::testing::missing("this user is not root");
    }
    let Prepared { yard, account, spec } = prepare(&[]).await;
    let lines = report(&yard, &spec).await;
    let id = account.uid.to_string();
    assert!(account.uid >= 50_000 && account.uid == account.gid, "{account:?}");
    assert_eq!(lines[..2], [id.clone(), id]);
    let capabilities = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}:{NO_CAPABILITIES}"));
    assert_eq!(lines[2..7], capabilities);
    assert_eq!(lines[7..], ["NoNewPrivs:1", "0022", "own", "closed", "closed", "closed", "refused", "end"]);
    assert!(nix::unistd::User::from_name(spec.user.as_ref().unwrap()).unwrap().is_none(), "no user was made");
    // Its keeper starts it again as the same user.
    send(yard.main().await, Signal::SIGKILL);
    until(async || yard.log(None).await.len() == 2 * lines.len()).await;
    assert_eq!(yard.log(None).await[lines.len()..], lines);
}

#[tokio::test]
async fn new_privileges_are_allowed_on_request_alone() {
    if !is_root() {
        return crate::testing::missing("this user is not root");
    }
    for (allow, expected) in
        [(Permission::NewPrivileges, "NoNewPrivs:0"), (Permission::Devices, "NoNewPrivs:1")]
    {
        let Prepared { yard, spec, .. } = prepare(&[allow]).await;
        let lines = report(&yard, &spec).await;
        assert_eq!(lines[4], format!("CapEff:{NO_CAPABILITIES}"));
        assert_eq!(
            lines[5] == format!("CapBnd:{NO_CAPABILITIES}"),
            allow == Permission::Devices,
            "{lines:?}"
        );
        assert_eq!(lines[7], expected);
    }
}

/// As switchman 0.1.0 recorded it: the file has neither a sandbox nor an account.
#[tokio::test]
async fn program_of_an_old_record_runs_as_before() {
    if !is_root() {
        return crate::testing::missing("this user is not root");
    }
    let yard = Yard::new();
    let spec = yard.sh(REPORT);
    let lines = report(&yard, &spec).await;
    assert_eq!(lines[0], "0");
    assert_ne!(lines[4], format!("CapEff:{NO_CAPABILITIES}"));
    assert_eq!(lines[7], "NoNewPrivs:0");
    let file = std::fs::read_to_string(yard.path("instances").join(ID).join("spec.json")).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert!(saved["spec"].get("sandbox").is_none() && saved["spec"].get("account").is_none(), "{file}");
    // The same record: it is adopted, and not refused as another one.
    yard.runner.start(&spec).await.unwrap();
}

#[tokio::test]
async fn root_on_request_keeps_its_capabilities() {
    if !is_root() {
        return crate::testing::missing("this user is not root");
    }
    let yard = Yard::new();
    let spec =
        InstanceSpec { user: Some("root".to_owned()), sandbox: Some(Sandbox::default()), ..yard.sh(REPORT) };
    let lines = report(&yard, &spec).await;
    assert_eq!(lines[0], "0");
    assert_ne!(lines[4], format!("CapEff:{NO_CAPABILITIES}"));
    assert_eq!(lines[7], "NoNewPrivs:1");
}

#[tokio::test]
async fn unknown_user_is_an_error_and_no_account_is_made() {
    if !is_root() {
        return crate::testing::missing("this user is not root");
    }
    let yard = Yard::new();
    let service = "swm-shop".parse().unwrap();
    let error = yard.runner.prepare_account(&service, "swm-nobody").await;
    assert_eq!(error, Err(RunnerError::NoUser { user: "swm-nobody".to_owned() }));
    assert!(!yard.path("accounts.json").exists());
}

/// The unit of an instance as the other runner writes it.
#[test]
fn unit_of_a_program_is_rated_at_most_3() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/units/sandbox.service");
    #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
    let analyze =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", unit]).output();
    let Ok(output) = analyze else { return crate::testing::missing("systemd-analyze is not installed") };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rating) = text.rsplit_once("sandbox.service: ").unwrap_or_else(|| panic!("{output:?}"));
    let rating: f32 = rating.split_whitespace().next().unwrap().parse().unwrap();
    assert!(rating <= 3.0, "{text}");
}
