//! Ports of instances that other processes listen on.

use super::*;
use crate::world::machine::ListeningProcess;
use crate::world::runner::Runner as _;

fn listen(fake: &FakeWorld, number: u16) {
    let process = ListeningProcess { pid: 4711, name: "nc".into() };
    fake.host.listeners.lock().unwrap().push((port(number), process));
}

/// Rows: D20.
#[tokio::test(start_paused = true)]
async fn deploy_passes_over_ports_in_use() {
    let fake = fake();
    listen(&fake, 20000);
    // A socket on one address, of a process that is not to be seen.
    fake.packets.listeners.lock().unwrap().push("127.0.0.2:20001".parse().unwrap());
    let deployed = deploy(&fake.world, &request(&fake, "1.0.0")).await.unwrap();
    assert_eq!(deployed.deployment.instance.port, port(20002));
}

#[tokio::test(start_paused = true)]
async fn deploy_refuses_a_requested_port_in_use_with_its_owner() {
    let fake = fake();
    listen(&fake, 20000);
    fake.packets.listeners.lock().unwrap().push("127.0.0.2:20001".parse().unwrap());
    for (number, owner) in
        [(20000, "nc (pid 4711)"), (20001, "a process that switchman cannot see, at 127.0.0.2:20001")]
    {
        let wanted = DeployRequest { port: Some(port(number)), ..request(&fake, "1.0.0") };
        let error = deploy(&fake.world, &wanted).await.unwrap_err();
        assert_eq!(error.to_string(), format!("port {number} is taken by {owner}"));
    }
}

/// At boot, or after its keeper was killed: another process was faster.
#[tokio::test(start_paused = true)]
async fn restart_on_a_port_in_use_names_the_process() {
    let fake = with_versions(&["1.0.0"]).await;
    let one = fake.world.deployments.all().unwrap().remove(0);
    let id = one.instance_id(&one.instance);
    listen(&fake, 20000);
    // It runs: the listener is the instance itself, or one of its own processes.
    assert_eq!(restore_instances(&fake.world).await.unwrap(), Vec::<String>::new());
    fake.versions.stop(&id, MS).await.unwrap();
    assert_eq!(
        restore_instances(&fake.world).await.unwrap(),
        ["shop 1.0.0 cannot listen: its port 20000 is in use by nc (pid 4711)"]
    );
}

/// A packet of a connection that the kernel does not track would follow the new redirect.
#[tokio::test(start_paused = true)]
async fn open_connections_are_tracked_before_the_first_redirect_of_a_port_only() {
    let fake = with_versions(&["1.0.0"]).await;
    let tracked = || std::mem::take(&mut *fake.versions.tracked.lock().unwrap());
    let ports = example::make_network(10).ports;
    let mut both = tracked();
    both.sort();
    assert_eq!(both, [ports.backup, ports.main]);
    deploy(&fake.world, &request(&fake, "2.0.0")).await.unwrap();
    assert_eq!(tracked(), []);
}

/// Unknown is not free.
#[tokio::test(start_paused = true)]
async fn deploy_refuses_where_listeners_are_not_known() {
    let fake = fake();
    *fake.packets.is_unreadable.lock().unwrap() = true;
    for requested in [None, Some(port(20005))] {
        let wanted = DeployRequest { port: requested, ..request(&fake, "1.0.0") };
        let error = deploy(&fake.world, &wanted).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SocketsFailed, "{error}");
    }
    assert!(fake.world.deployments.all().unwrap().is_empty());
}
