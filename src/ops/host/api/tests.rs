use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::model::deployment::Access;
use crate::model::port_forward::Switch;
use crate::model::rules::Family;
use crate::world::fake;
use crate::world::fake::firewall::FakeFirewall;
use crate::world::link::HostDeployments as _;
use crate::world::store::Store as _;

/// The switch as it arrives, with one more field.
fn request(field: &str, value: Value) -> serde_json::Result<ForwardRequest> {
    let mut request = json!({
        "forward": {"service": "shop", "check": 8888, "target": 8080}, "switch": "on",
        "balancer_is_local": true, "actor": {"user": "x", "pid": 1}, "action": "x", "detail": "",
    });
    request[field] = value;
    serde_json::from_value(request)
}

/// A forward that was switched on with `access: private` had no rules, and its record said `on`.
#[tokio::test]
async fn forward_request_switches_and_changes_nothing_else() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
    let host = LocalHost::new(fake.world);
    host.set_forward(&request("detail", json!("")).unwrap()).await.unwrap();
    for (field, value) in
        [("access", json!("private")), ("route_change", json!("remove")), ("layer7", json!({}))]
    {
        let error = request(field, value).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }
    let records = fake.store.load_records().unwrap();
    assert_eq!(
        (records[0].switch, records[0].access, &records[0].routes),
        (Switch::On, Access::Public, &None)
    );
}

/// A row of the history that looks like a recorded program, or like a repair by the host.
#[tokio::test]
async fn switch_has_no_action_of_the_host() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
    let host = LocalHost::new(fake.world);
    for action in ["run", "repair"] {
        let refused = host.set_forward(&request("action", json!(action)).unwrap()).await.unwrap_err();
        assert!(matches!(refused, LinkError::Refused { code: ErrorCode::BadRequest, .. }), "{refused}");
    }
    assert_eq!(fake.store.load_records().unwrap(), []);
}

/// An empty list would read as: no process listens.
#[tokio::test]
async fn unreadable_listeners_are_an_error() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
    *fake.packets.is_unreadable.lock().unwrap() = true;
    let host = LocalHost::new(fake.world);
    let listed = host.list_listeners(&"shop".parse().unwrap(), Port::new(80).unwrap()).await;
    assert!(matches!(listed, Err(LinkError::Refused { code: ErrorCode::SocketsFailed, .. })), "{listed:?}");
}

/// The command line prints answers, and people paste them.
#[tokio::test]
async fn answers_have_no_value_of_an_environment() {
    let fake = fake::world(vec![], Arc::new(FakeFirewall::new(&[Family::V4])));
    let mut deployment = crate::model::example::deployment("shop", "1.0.0", 20000);
    deployment.instance.how.env = [("TOKEN".to_owned(), "hunter2".to_owned())].into();
    fake.world.deployments.put(&deployment).unwrap();
    let host = LocalHost::new(fake.world);
    let answer = serde_json::to_string(&host.list_deployments().await.unwrap()).unwrap();
    assert!(answer.contains("\"TOKEN\":\"redacted:") && !answer.contains("hunter2"), "{answer}");
}
