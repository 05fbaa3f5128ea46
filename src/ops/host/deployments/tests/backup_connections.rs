//! Idle connections that balancers keep to an old version by the backup port.

use super::*;
use crate::model::api::deployments::CloseIdleRequest;
use crate::model::socket::TcpInfo;

fn socket(cookie: u64, receive_queue: u32) -> Socket {
    let peer = format!("10.0.0.2:4000{cookie}").parse().unwrap();
    Socket { cookie, peer, receive_queue, send_queue: 0, info: TcpInfo::default() }
}

/// 2.0.0 is main; of the connections to 1.0.0, those with these cookies came by the backup port.
async fn with_connections(sockets: Vec<Socket>, by_backup: &[u64]) -> FakeWorld {
    let fake = with_versions(&["1.0.0", "2.0.0"]).await;
    assign(&fake.world, &to("2.0.0")).await.unwrap();
    let came = sockets.iter().filter(|socket| by_backup.contains(&socket.cookie));
    let peers = came.map(|socket| socket.peer).collect();
    fake.versions.led.lock().unwrap().insert((port(80), port(20000)), peers);
    *fake.host.sockets.lock().unwrap() = sockets;
    fake
}

/// How many were closed, and which are open.
async fn close(fake: &FakeWorld, reported: u64, dry_run: bool) -> (usize, Vec<u64>) {
    let request = CloseIdleRequest { reported, dry_run };
    let closed = close_backup_connections(&fake.world, &shop(), &request).await.unwrap();
    let open = fake.host.sockets.lock().unwrap().iter().map(|socket| socket.cookie).collect();
    (closed.closed, open)
}

#[tokio::test(start_paused = true)]
async fn only_idle_connections_by_the_backup_port_are_closed() {
    let fake = with_connections(vec![socket(1, 0), socket(2, 9), socket(3, 0)], &[1, 2]).await;
    assert_eq!(close(&fake, 1, false).await, (0, vec![1, 2, 3]), "one of the two is not known to a balancer");
    assert_eq!(close(&fake, 2, true).await, (1, vec![1, 2, 3]));
    assert_eq!(close(&fake, 2, false).await, (1, vec![2, 3]), "a request is in flight on the second");
}

/// While main is out, balancers use the backup vhost.
#[tokio::test(start_paused = true)]
async fn nothing_is_closed_during_maintenance() {
    let fake = with_connections(vec![socket(1, 0)], &[1]).await;
    rules::change_with(&fake.world, "disable-forward", |records| {
        let intent = records[0].build_intent(&actor(), "disable-forward", "");
        Ok::<_, ChangeError>(Intent { switch: Switch::Off, ..intent })
    })
    .await
    .unwrap();
    assert_eq!(close(&fake, 1, false).await, (0, vec![1]));
}

/// The version that the backup port is routed to keeps its connections.
#[tokio::test(start_paused = true)]
async fn connections_to_the_backup_of_a_trial_stay_open() {
    let fake = with_connections(vec![socket(1, 0)], &[1]).await;
    assign(&fake.world, &AssignRequest { trial: MS * 5000, ..to("1.0.0") }).await.unwrap();
    fake.versions.led.lock().unwrap().insert((port(80), port(20001)), [socket(1, 0).peer].into());
    fake.versions.led.lock().unwrap().remove(&(port(80), port(20000)));
    assert_eq!(close(&fake, 1, false).await, (0, vec![1]));
}
