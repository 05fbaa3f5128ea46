//! The master CLI given for a stats socket: with answers of old HAProxies, and with the real one.

use tokio::net::TcpListener;

use super::tests::{Running, read_spec_until};
use super::*;
use crate::model::example;
use crate::sys::exec::Program;
use crate::sys::testing::run_in_namespace;

async fn read(access: StatsEndpoint) -> Result<FlushResult, BalancerError> {
    let spec = example::balancer("lb1", Some(access));
    connect(&spec, Duration::from_secs(5)).unwrap().close_idle("main-web1").await
}

#[test]
fn master_cli_of_real_haproxy_is_named() {
    run_in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let config = format!(
            "global\n stats socket {} level admin\ndefaults\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server \
             5s\nbackend servers\n server main-web1 127.0.0.1:8080\n",
            path("stats.sock").display()
        );
        std::fs::write(path("haproxy.cfg"), config).unwrap();
        let program = Program::new("haproxy").args(["-W", "-db", "-S"]).arg(path("master.sock"));
        let log = std::fs::File::create(path("log")).unwrap();
        let _haproxy = Running(program.arg("-f").arg(path("haproxy.cfg")).start(log).unwrap());
        let stats = StatsEndpoint::Unix(path("stats.sock"));
        read_spec_until(&example::balancer("lb1", Some(stats)), Result::is_ok).await;
        let address = path("master.sock").display().to_string();
        let master = BalancerError::MasterCli { address };
        let access = StatsEndpoint::Unix(path("master.sock"));
        let spec = example::balancer("lb1", Some(access.clone()));
        read_spec_until(&spec, |view| view.as_ref().is_err_and(|error| *error == master)).await;
        assert_eq!(read(access).await, Err(master.clone()));
        let balancer = connect(&spec, Duration::from_secs(5)).unwrap();
        assert_eq!(balancer.read_lines().await, Err(master.clone()));
        assert_eq!(balancer.set_weight("main-web1", 50).await, Err(master));
    });
}

/// HAProxy before 2.4 lists all commands. A stats socket lists its own.
#[tokio::test]
async fn master_cli_of_old_haproxy_is_distinguished_from_a_stats_socket() {
    let list = |commands: &str| {
        format!(
            "Unknown command. Please enter one of the following commands only :\n{commands}  quit           : disconnect\n\n"
        )
    };
    for (commands, is_master) in [
        ("  help           : this message\n  show proc      : show processes status\n", true),
        ("  help           : this message\n  @master        : send a command to the master process\n", true),
        ("  help           : this message\n  show info      : report information\n", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = list(commands);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 1024];
            assert!(stream.read(&mut line).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let error = read(StatsEndpoint::Tcp { host: "127.0.0.1".into(), port }).await.unwrap_err();
        assert_eq!(matches!(error, BalancerError::MasterCli { .. }), is_master, "{error}");
    }
}
