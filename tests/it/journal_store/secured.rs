//! Stores as people run them: TLS with an authority of their own, and a user or token with no more rights than the journal needs.
//! The rights are those of docs/rolling.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use switchman::model::journal_location::{
    AccessFiles, ClusterLocation, JournalLocation, PostgresLocation, Secret,
};
use switchman::sys::journal::open::open_journal;

use super::conformance::{Store, check_store};
use super::servers::Servers;
use crate::testing::run_in_namespace;

const ETCD: &str = "https://127.0.0.1:2379";
const CONSUL: &str = "https://127.0.0.1:8501";
const POSTGRES: &str = "postgresql://switchman@127.0.0.1/fleet?sslmode=require";

/// The authority, its certificates, and a directory that every user can read.
struct Authority(tempfile::TempDir);

fn run(program: &str, args: &[&str], dir: &Path) -> Output {
    #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        for name in ["ca", "other"] {
            let subject = format!("/CN=swm {name}");
            let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
            let files = ["-keyout", &key, "-out", &pem, "-subj", &subject, "-days", "2"];
            authority.openssl(&[&["req", "-x509", "-newkey", "rsa:2048", "-nodes"], &files[..]].concat());
        }
        for name in ["server", "client"] {
            let (key, request, pem) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
            // The gateway of etcd refuses a client's certificate with a common name while it has users.
            let subject = format!("/O={name}");
            let made = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject];
            let files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &request];
            authority.openssl(&[&made[..], &files].concat());
            let sign = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key"];
            let more = ["-CAcreateserial", "-days", "2", "-copy_extensions", "copy", "-out", &pem];
            authority.openssl(&[&sign[..], &more].concat());
        }
        authority
    }

    fn openssl(&self, args: &[&str]) {
        run("openssl", args, self.0.path());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Sends a request as an administrator, and returns the answer.
    fn request(&self, url: &str, header: &str, body: &serde_json::Value) -> serde_json::Value {
        let method = if url.starts_with(CONSUL) { "PUT" } else { "POST" };
        let (body, ca) = (body.to_string(), self.text("ca.pem"));
        let (certificate, key) = (self.text("client.pem"), self.text("client.key"));
        let identity = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
        let args = ["-sS", "--fail-with-body", "-X", method, "-H", header, "-d", &body, url];
        let answer = run("curl", &[&identity[..], &args].concat(), self.0.path()).stdout;
        serde_json::from_slice(&answer).unwrap_or_default()
    }

    fn files(&self, secret: &str) -> AccessFiles {
        let secret = Some(Secret(secret.to_owned()));
        AccessFiles { ca: Some(self.path("ca.pem")), secret, ..AccessFiles::default() }
    }

    async fn conforms(&self, location: JournalLocation) {
        let open = |fleet: &str| -> Store {
            open_journal(&location, self.0.path(), &fleet.parse().unwrap(), |_| unreachable!("no machine"))
        };
        check_store(&open).await;
    }

    /// Checks that a command fails with a cause that has these words, and with a next step.
    fn fails(&self, journal: &str, secret: &str, words: &[&str]) {
        let config = self.path("switchman.yaml");
        std::fs::write(&config, "service: shop\nhosts: {web1: {address: 127.0.0.1}}\n").unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test starts programs by itself")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchman"));
        command.arg("--config").arg(config).args(["lock", "acquire", "--message", "a test"]);
        command.env("SWITCHMAN_JOURNAL", journal).env("SWITCHMAN_JOURNAL_SECRET", secret);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{journal}: {text}");
        assert!(text.starts_with("error: cannot ") && text.contains("\n next: "), "{journal}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert!(secret.is_empty() || !text.contains(secret), "{text}");
    }
}

#[test]
fn etcd_conforms_with_client_certificates_and_a_limited_role() {
    run_in_namespace(|| async {
        let authority = Authority::new();
        let args =
            [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let args: Vec<String> =
            args.iter().flat_map(|(flag, file)| [(*flag).to_owned(), authority.text(file)]).collect();
        let Some(_servers) = Servers::etcd_with_tls(&args).await else { return };
        let call = |path: &str, body| authority.request(&format!("{ETCD}/v3/auth/{path}"), "X: y", &body);
        for user in ["root", "switchman", "other"] {
            call("user/add", serde_json::json!({"name": user, "password": format!("secret-{user}")}));
        }
        call("role/add", serde_json::json!({"name": "root"}));
        call("role/add", serde_json::json!({"name": "switchman"}));
        // The keys from `switchman/` on to `switchman0`, the end of that prefix.
        let keys = serde_json::json!({
            "permType": "READWRITE", "key": "c3dpdGNobWFuLw==", "range_end": "c3dpdGNobWFuMA==",
        });
        call("role/grant", serde_json::json!({"name": "switchman", "perm": keys}));
        call("user/grant", serde_json::json!({"user": "root", "role": "root"}));
        call("user/grant", serde_json::json!({"user": "switchman", "role": "switchman"}));
        call("enable", serde_json::json!({}));

        let files = AccessFiles {
            certificate: Some(authority.path("client.pem")),
            key: Some(authority.path("client.key")),
            ..authority.files("secret-switchman")
        };
        let user = Some("switchman".to_owned());
        authority
            .conforms(JournalLocation::Etcd(ClusterLocation {
                endpoints: vec![ETCD.to_owned()],
                user,
                files,
            }))
            .await;

        let journal = |ca: &str, user: &str| {
            format!(
                "{{etcd: '{ETCD}', user: {user}, ca: {}, certificate: {}, key: {}}}",
                authority.text(ca),
                authority.text("client.pem"),
                authority.text("client.key")
            )
        };
        let right = "secret-switchman";
        authority.fails(
            &journal("other.pem", "switchman"),
            right,
            &["certificate: UnknownIssuer", "`journal`"],
        );
        authority.fails(
            &journal("ca.pem", "switchman"),
            "wrong-one",
            &["invalid user ID or password", "`journal`"],
        );
        authority.fails(&journal("ca.pem", "other"), "secret-other", &["permission denied", "rights"]);
        let without = format!("{{etcd: '{ETCD}', user: switchman, ca: {}}}", authority.text("ca.pem"));
        authority.fails(&without, right, &["Certificate", "`journal`"]);
    });
}

#[test]
fn consul_conforms_with_tls_and_a_limited_token() {
    run_in_namespace(|| async {
        let authority = Authority::new();
        let master = "5f0c9a4e-3f6e-4c5d-9f9e-1f3f3b0a7c11";
        let hcl = format!(
            "ports {{ https = 8501 }} cert_file = {:?} key_file = {:?} ca_file = {:?} verify_incoming_https = false \
             acl {{ enabled = true default_policy = \"deny\" tokens {{ master = {master:?} }} }}",
            authority.text("server.pem"),
            authority.text("server.key"),
            authority.text("ca.pem")
        );
        let Some(servers) = Servers::consul_with(&hcl).await else { return };
        let header = format!("X-Consul-Token: {master}");
        let call = |path: &str, body| authority.request(&format!("{CONSUL}/v1/acl/{path}"), &header, &body);
        servers.wait_for_consul_acls(&header).await;
        let rules = r#"key_prefix "switchman/" { policy = "write" } session_prefix "" { policy = "write" }"#;
        call("policy", serde_json::json!({"Name": "switchman", "Rules": rules}));
        let make_token = |policies: serde_json::Value| {
            let token = call("token", serde_json::json!({"Policies": policies}));
            token["SecretID"].as_str().unwrap().to_owned()
        };
        let token = make_token(serde_json::json!([{"Name": "switchman"}]));
        let files = authority.files(&token);
        let endpoints = vec![CONSUL.to_owned()];
        authority.conforms(JournalLocation::Consul(ClusterLocation { endpoints, user: None, files })).await;

        let journal = |ca: &str| format!("{{consul: '{CONSUL}', ca: {}}}", authority.text(ca));
        authority.fails(&journal("other.pem"), &token, &["certificate: UnknownIssuer", "`journal`"]);
        let unknown = "11111111-2222-3333-4444-555555555555";
        authority.fails(&journal("ca.pem"), unknown, &["ACL not found", "`journal`"]);
        let powerless = make_token(serde_json::json!([]));
        authority.fails(&journal("ca.pem"), &powerless, &["Permission denied", "rights"]);
    });
}

#[test]
fn postgres_conforms_with_tls_a_password_and_a_schema_of_its_own() {
    run_in_namespace(|| async {
        let authority = Authority::new();
        let Some(servers) =
            Servers::postgres_with_tls(&authority.path("server.pem"), &authority.path("server.key")).await
        else {
            return;
        };
        servers.psql(
            "CREATE ROLE switchman LOGIN PASSWORD 'secret-switchman'; CREATE ROLE other LOGIN PASSWORD 'secret-other'; \
             CREATE DATABASE fleet;",
        );
        servers.psql("\\c fleet\nCREATE SCHEMA switchman AUTHORIZATION switchman;");
        let files = authority.files("secret-switchman");
        authority
            .conforms(JournalLocation::Postgres(PostgresLocation { url: POSTGRES.to_owned(), files }))
            .await;

        let journal = |ca: &str, url: &str| format!("{{postgres: '{url}', ca: {}}}", authority.text(ca));
        let right = "secret-switchman";
        authority.fails(&journal("other.pem", POSTGRES), right, &["certificate: UnknownIssuer", "`journal`"]);
        let wrong = &["password authentication failed", "`journal`"];
        authority.fails(&journal("ca.pem", POSTGRES), "wrong-one", wrong);
        let other = POSTGRES.replace("switchman@", "other@");
        authority.fails(&journal("ca.pem", &other), "secret-other", &["permission denied", "rights"]);
        let plain = POSTGRES.replace("require", "disable");
        authority.fails(&journal("ca.pem", &plain), right, &["no encryption", "`journal`"]);
    });
}
