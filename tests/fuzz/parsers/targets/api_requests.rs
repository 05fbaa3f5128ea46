//! Bodies of requests to a host: what is accepted is written and read back as the same.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use switchman::model::api::deployments::{
    AccessRequest, AssignRequest, CloseIdleRequest, DeployRequest, KillRequest, MergeRequest, RollbackRequest,
    UpdateRequest, WatchRequest, WithdrawRequest,
};
use switchman::model::api::endpoint::RequestBody;
use switchman::model::api::journal::JournalRequest;
use switchman::model::api::{ForwardRequest, ProbeRequest, RunRequest, StatusRequest};
use switchman::model::traffic_split::TrafficSplitRequest;

fn read_back<T: RequestBody + Debug>(body: &[u8]) {
    let Ok(request) = T::from_json(body) else { return };
    let written = request.to_json().unwrap().unwrap();
    let again = T::from_json(&written).unwrap().to_json().unwrap().unwrap();
    let parse = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
    assert_eq!(parse(&written), parse(&again), "{request:?}");
}

fuzz_target!(|body: &[u8]| {
    read_back::<ForwardRequest>(body);
    read_back::<StatusRequest>(body);
    read_back::<ProbeRequest>(body);
    read_back::<RunRequest>(body);
    read_back::<DeployRequest>(body);
    read_back::<AssignRequest>(body);
    read_back::<KillRequest>(body);
    read_back::<UpdateRequest>(body);
    read_back::<MergeRequest>(body);
    read_back::<RollbackRequest>(body);
    read_back::<AccessRequest>(body);
    read_back::<WithdrawRequest>(body);
    read_back::<WatchRequest>(body);
    read_back::<CloseIdleRequest>(body);
    read_back::<TrafficSplitRequest>(body);
    read_back::<JournalRequest>(body);
});
