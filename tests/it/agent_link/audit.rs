//! What the history of a host records about its clients: the credential that the host checked, beside the actor that the client claims.

use switchman::model::api::ForwardRequest;
use switchman::model::caller::{Caller, CallerIdentity};
use switchman::model::history::HistoryEntry;

use super::*;

/// A switch by a client that claims to be root on another machine.
fn forge_switch() -> ForwardRequest {
    let request = serde_json::json!({
        "forward": {"service": "shop", "check": 8888, "target": 8080}, "switch": "off",
        "balancer_is_local": false, "actor": {"user": "root", "machine": "ops1", "pid": 1},
        "action": "disable-forward", "detail": "",
    });
    serde_json::from_value(request).unwrap()
}

/// Switches, and returns the entry about it.
async fn switch(link: &dyn HostLink) -> HistoryEntry {
    link.set_forward(&forge_switch()).await.unwrap();
    let entry = link.load_history(None, 1).await.unwrap().remove(0);
    assert_eq!(entry.actor.name(), "root on ops1", "the claim is kept");
    entry
}

fn user(name: &str, uid: u32) -> CallerIdentity {
    CallerIdentity::User { name: name.to_owned(), uid, login: None }
}

#[test]
fn forged_actor_is_recorded_with_its_certificate() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let ca = place.text("ca.pem");
        place.tls_agent(&["--client-ca", &ca]).await;
        place.certificate("mallory", "ca", "127.0.0.1", "2");
        let entry = switch(&*place.over_tls(place.as_one("mallory"))).await;
        let Some(Caller { identity: CallerIdentity::Certificate { name, fingerprint }, address }) =
            entry.caller
        else {
            panic!("{entry:?}")
        };
        let shown = command("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &place.text("mallory.pem")])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap().to_lowercase().replace(':', "");
        assert!(
            fingerprint.len() == 16 && shown.contains(&format!("={fingerprint}")),
            "{fingerprint}: {shown}"
        );
        assert_eq!((name.as_str(), address.unwrap().ip().is_loopback()), ("mallory", true));
        // The owner of the maintenance has it, too.
        let port = Port::new(8080).unwrap();
        let owner = place.over_socket().fetch_activity(&"shop".parse().unwrap(), port).await.unwrap().owner;
        assert!(matches!(owner.unwrap().caller.unwrap().identity, CallerIdentity::Certificate { .. }));
    });
}

#[test]
fn forged_actor_is_recorded_with_its_token() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let token = place.write("token", "a token that is long enough\n").display().to_string();
        place.tls_agent(&["--token-file", &token]).await;
        let reach = ConnectConfig { token_file: Some(place.path("token")), ..ConnectConfig::default() };
        let caller = switch(&*place.over_tls(reach)).await.caller.unwrap();
        assert_eq!(caller.identity, CallerIdentity::Token { name: "token".to_owned() });
        assert!(caller.address.unwrap().ip().is_loopback());
    });
}

#[test]
fn local_client_is_recorded_by_the_user_of_its_process() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.agent(&[]).await;
        assert_eq!(switch(&*place.over_socket()).await.caller, Some(Caller::new(user("root", 0), None)));
        // A command on the host, without an agent between.
        let listed = command(SWITCHMAN)
            .args(["--state-dir", &place.text("state"), "--output", "json", "history"])
            .env("SUDO_USER", "mallory")
            .current_dir(place.dir.path())
            .output()
            .unwrap();
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(
            listed["history"][0]["caller"],
            serde_json::json!({"by": "user", "name": "root", "uid": 0})
        );
        // Another user cannot name a caller: the socket for relays is root's, too.
        for socket in ["agent.sock", "agent.sock.relay"] {
            let mode = std::fs::metadata(place.path(socket)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{socket}");
        }
    });
}

/// The bytes of an ssh client follow the name that root's relay gave: it cannot name another one.
#[test]
fn ssh_client_is_recorded_by_its_login_and_address() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        place.sshd("").await;
        let (socket, state) = (place.text("agent.sock"), place.text("state"));
        let relay = format!("exec {SWITCHMAN} --state-dir {state} \"$@\" --socket {socket}");
        let relay = place.script("relay", &relay);
        for has_agent in [false, true] {
            if has_agent {
                place.agent(&[]).await;
            }
            let link = place.over_ssh("", &[&relay]);
            let caller = switch(&*link).await.caller.unwrap();
            assert_eq!(caller.identity, user("root", 0), "agent: {has_agent}");
            let address = caller.address.unwrap_or_else(|| panic!("no address; agent: {has_agent}"));
            assert!(address.ip().is_loopback() && address.port() != 2222, "{address}");
        }
        // A relay that names nothing, or no JSON, is closed.
        let mut stream = tokio::net::UnixStream::connect(place.path("agent.sock.relay")).await.unwrap();
        stream.write_all(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    });
}

/// Names of tokens, roles and certificates decide what a client may do.
#[test]
fn token_and_certificate_are_limited_to_their_role() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let (ann, ci) = ("9f86d081884c7d659a2feaa0c55ad015", "1f3870be274f6c49b3e31a0c6728957f");
        let tokens = place.write("tokens", &format!("# clients\nann {ann}\nci {ci} switch\n"));
        place.write("ann", ann);
        place.write("ci", &format!("ci {ci} switch\n"));
        place.tls_agent(&["--token-file", &tokens.display().to_string()]).await;
        let with =
            |name: &str| ConnectConfig { token_file: Some(place.path(name)), ..ConnectConfig::default() };
        let (ann, ci) = (place.over_tls(with("ann")), place.over_tls(with("ci")));
        let (heard, _) = listener();
        ann.run(&sh("exit 3"), heard).await.unwrap();
        let rows = ann.load_history(None, 2).await.unwrap();
        let details: Vec<_> = rows.iter().map(|row| (row.action.as_str(), row.detail.as_str())).collect();
        assert_eq!(details, [("run", "sh -c 'exit 3'"), ("run", "status 3")]);
        assert!(
            rows.iter().all(|row| row.caller.as_ref().unwrap().to_string() == "token ann from 127.0.0.1")
        );
        assert_eq!(switch(&*ci).await.caller.unwrap().to_string(), "token ci from 127.0.0.1");
        let (heard, _) = listener();
        let refused = ci.run(&sh("true"), heard).await.unwrap_err();
        let message = "the token ci has the role `switch`, and POST /v1/run needs `all`".to_owned();
        assert_eq!(refused, LinkError::Refused { code: ErrorCode::RoleTooLow, message });
        let several = place.over_tls(with("tokens")).greet().await.unwrap_err().to_string();
        assert!(several.contains("it has 2 tokens, and one is needed here"), "{several}");
    });
}

#[test]
fn certificate_that_is_not_listed_is_refused() {
    run_in_namespace(|| async {
        let mut place = Place::new();
        let ca = place.text("ca.pem");
        let clients = place.write("clients", "ops\nwatcher read\n").display().to_string();
        place.tls_agent(&["--client-ca", &ca, "--clients", &clients]).await;
        for name in ["ops", "watcher", "stranger"] {
            place.certificate(name, "ca", "127.0.0.1", "2");
        }
        let link = |name: &str| place.over_tls(place.as_one(name));
        switch(&*link("ops")).await;
        link("watcher").load_history(None, 1).await.unwrap();
        let refused = link("watcher").set_forward(&forge_switch()).await.unwrap_err();
        assert!(
            matches!(&refused, LinkError::Refused { code: ErrorCode::RoleTooLow, message } if message.contains("needs `switch`")),
            "{refused:?}"
        );
        let refused = link("stranger").greet().await.unwrap_err().to_string();
        assert_eq!(refused, "the certificate stranger is not in the list of clients of this agent");
    });
}
