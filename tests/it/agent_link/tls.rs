//! TLS with client certificates, and with a token.

use super::*;

pub(super) const TLS: &str = "127.0.0.9:9443";

impl Place {
    fn openssl(&self, args: &[&str]) {
        let made = command("openssl").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// `NAME.pem` and `NAME.key`, able to sign others.
    fn authority(&self, name: &str) {
        let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        self.openssl(&[&new[..], &["-subj", &subject, "-keyout", &key, "-out", &pem]].concat());
    }

    /// `NAME.pem` and `NAME.key`, signed by an authority, valid for `days` from now.
    pub(super) fn certificate(&self, name: &str, authority: &str, address: &str, days: &str) {
        self.certificate_with(name, authority, &format!("subjectAltName=IP:{address}"), None, days);
    }

    /// With an extended key usage, such as `clientAuth`.
    fn certificate_with(
        &self,
        name: &str,
        authority: &str,
        alternative: &str,
        usage: Option<&str>,
        days: &str,
    ) {
        let file = |end: &str| format!("{name}.{end}");
        let subject = format!("/CN={name}");
        let usage = usage.map(|usage| format!("extendedKeyUsage={usage}"));
        let usage: Vec<&str> = usage.iter().flat_map(|usage| ["-addext", usage]).collect();
        let new =
            ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", &subject];
        let files = ["-addext", alternative, "-keyout", &file("key"), "-out", &file("csr")];
        self.openssl(&[&new[..], &files, &usage].concat());
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        let sign = ["x509", "-req", "-in", &file("csr"), "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        let out = ["-days", days, "-copy_extensions", "copy", "-out", &file("pem")];
        self.openssl(&[&sign[..], &out].concat());
    }

    pub(super) async fn tls_agent(&mut self, admission: &[&str]) {
        self.authority("ca");
        self.certificate("agent", "ca", "127.0.0.9", "2");
        let (pem, key) = (self.text("agent.pem"), self.text("agent.key"));
        let listen = ["--listen", TLS, "--certificate", &pem, "--key", &key];
        self.agent(&[&listen[..], admission].concat()).await;
        until(async || TcpStream::connect(TLS).await.is_ok()).await;
    }

    pub(super) fn over_tls(&self, reach: ConnectConfig) -> Arc<dyn HostLink> {
        let ca = reach.ca.or_else(|| Some(self.path("ca.pem")));
        connect(&"web1".parse().unwrap(), &Transport::Tls(TLS.to_owned()), &ConnectConfig { ca, ..reach })
    }

    pub(super) fn as_one(&self, name: &str) -> ConnectConfig {
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        ConnectConfig { certificate: Some(certificate), key: Some(key), ..ConnectConfig::default() }
    }
}

#[test]
fn tls_admits_certificates_of_the_authority_only() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let ca = place.text("ca.pem");
        place.tls_agent(&["--client-ca", &ca]).await;
        place.authority("other");
        place.certificate("operator", "ca", "127.0.0.1", "2");
        place.certificate("late", "ca", "127.0.0.1", "-1");
        place.certificate("stranger", "other", "127.0.0.1", "2");
        let link = place.over_tls(place.as_one("operator"));
        assert!(link.greet().await.is_ok());
        let other_ca = ConnectConfig { ca: Some(place.path("other.pem")), ..place.as_one("operator") };
        let cases = [
            (ConnectConfig::default(), "CertificateRequired"),
            (place.as_one("late"), "CertificateExpired"),
            (place.as_one("stranger"), "UnknownCA"),
            (other_ca, "invalid peer certificate: UnknownIssuer"),
            (
                ConnectConfig { key: Some(place.path("none")), ..place.as_one("operator") },
                "none`: No such file or directory",
            ),
            (
                ConnectConfig { ca: Some(place.path("ca.key")), ..ConnectConfig::default() },
                "ca.key` holds no certificate",
            ),
        ];
        for (reach, text) in cases {
            let why = refusal(&*place.over_tls(reach)).await;
            assert!(why.contains(text), "{text}: {why}");
        }
        assert!(link.greet().await.is_ok(), "other connections block no client");
    });
}

/// A certificate of a host does not open other hosts, and one of an operator cannot answer for a host.
#[test]
fn certificate_for_another_purpose_is_refused_by_both_sides() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let ca = place.text("ca.pem");
        place.tls_agent(&["--client-ca", &ca]).await;
        for (name, usage) in [("host", "serverAuth"), ("operator", "clientAuth")] {
            place.certificate_with(name, "ca", "subjectAltName=IP:127.0.0.8", Some(usage), "2");
        }
        assert!(place.over_tls(place.as_one("operator")).greet().await.is_ok());
        let refused = refusal(&*place.over_tls(place.as_one("host"))).await;
        assert!(refused.contains("received fatal alert"), "{refused}");
        let (pem, key, socket) =
            (place.text("operator.pem"), place.text("operator.key"), place.text("false.sock"));
        let state = place.text("false");
        let address = "127.0.0.8:9443";
        let agent = ["--state-dir", &state, "agent", "--socket", &socket, "--listen", address];
        let files = ["--certificate", &pem, "--key", &key, "--client-ca", &ca];
        place.start("false", SWITCHMAN, &[&agent[..], &files].concat());
        until(async || TcpStream::connect(address).await.is_ok()).await;
        let reach = ConnectConfig { ca: Some(place.path("ca.pem")), ..place.as_one("operator") };
        let link = connect(&"web1".parse().unwrap(), &Transport::Tls(address.to_owned()), &reach);
        let refused = refusal(&*link).await;
        assert!(refused.contains("does not allow extended key usage for server authentication"), "{refused}");
    });
}

#[test]
fn tls_admits_clients_with_token_only() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let token = place.write("token", "a token that is long enough\n").display().to_string();
        place.write("wrong", "a token that is long enough?\n");
        place.tls_agent(&["--token-file", &token]).await;
        let with =
            |name: &str| ConnectConfig { token_file: Some(place.path(name)), ..ConnectConfig::default() };
        assert!(place.over_tls(with("token")).greet().await.is_ok());
        for reach in [with("wrong"), ConnectConfig::default()] {
            let refused = place.over_tls(reach).greet().await.unwrap_err();
            let message = "the bearer token is missing or wrong".to_owned();
            assert_eq!(refused, LinkError::Refused { code: ErrorCode::Unauthorized, message });
        }
        // A client without a token learns nothing, and the socket requires none.
        assert!(place.over_socket().greet().await.is_ok());
        let short = place.write("short", "short").display().to_string();
        let (pem, key) = (place.text("agent.pem"), place.text("agent.key"));
        let more = ["--listen", TLS, "--certificate", &pem, "--key", &key, "--token-file", &short];
        let output =
            command(SWITCHMAN).args(["agent", "--socket", &place.text("other.sock")]).args(more).output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(said.contains("80 are needed"), "{said}");
    });
}

/// As ssh and sudo do with theirs.
#[test]
fn key_and_token_that_others_may_read_are_refused() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let token = place.write("token", "a token that is long enough\n").display().to_string();
        place.tls_agent(&["--token-file", &token]).await;
        let (pem, key) = (place.text("agent.pem"), place.text("agent.key"));
        let start_agent = || {
            let more = ["--listen", TLS, "--certificate", &pem, "--key", &key, "--token-file", &token];
            let agent = ["agent", "--socket", &place.text("other.sock")];
            let output = command(SWITCHMAN).args(agent).args(more).output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        let set_mode = |file: &str, mode| {
            std::fs::set_permissions(place.path(file), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode("token", 0o644);
        let refused = start_agent();
        assert!(
            refused.contains("cannot use the token") && refused.contains("its mode is 0644"),
            "{refused}"
        );
        let reach = ConnectConfig { token_file: Some(place.path("token")), ..ConnectConfig::default() };
        let refused = place.over_tls(reach).greet().await.unwrap_err().to_string();
        assert!(refused.contains("its mode is 0644") && refused.contains("chmod 600"), "{refused}");
        set_mode("token", 0o600);
        set_mode("agent.key", 0o640);
        let refused = start_agent();
        assert!(refused.contains("cannot use the key") && refused.contains("its mode is 0640"), "{refused}");
        set_mode("agent.key", 0o600);
        std::os::unix::fs::chown(place.path("token"), Some(65534), None).unwrap();
        let refused = start_agent();
        assert!(refused.contains("it belongs to the user with uid 65534"), "{refused}");
    });
}

/// Many silent connections keep no other client out for long.
#[test]
fn silent_tls_clients_block_no_other_client() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let ca = place.text("ca.pem");
        place.tls_agent(&["--client-ca", &ca]).await;
        place.certificate("operator", "ca", "127.0.0.1", "2");
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(TcpStream::connect(TLS).await.unwrap());
        }
        let link = place.over_tls(place.as_one("operator"));
        until(async || link.greet().await.is_ok()).await;
        drop(silent);
    });
}
