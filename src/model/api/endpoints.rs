//! The one table of the host API's endpoints. The agent serves every row, `sys::link` calls every row that is not for
//! other programs alone, and the OpenAPI description is made of it.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::api::deployments::{
    AccessRequest, AssignRequest, AssignResponse, CloseIdleRequest, CloseIdleResponse, DeployRequest,
    DeployResponse, DeploymentView, DeploymentsView, KillRequest, KillResponse, MergeRequest,
    RollbackRequest, TrialOutcome, UpdateRequest, WatchRequest, WithdrawRequest,
};
use crate::model::api::endpoint::{
    ANSWER_TIMEOUT, Archive, Endpoint, JsonLines, Method, NoBody, NoQuery, PlainText, Row,
};
use crate::model::api::journal::{JournalAnswer, JournalCall, JournalRequest};
use crate::model::api::{
    ForwardRequest, HealthStatus, Hello, HostRelease, HostView, ProbeRequest, ProbeResult, ProgramVersion,
    RunEvent, RunRequest, ServiceActivity, StatusRequest,
};
use crate::model::client_role::ClientRole::{self, All, Read, Switch};
use crate::model::deployment::{Deployment, DeploymentId, Digest};
use crate::model::evidence::Evidence;
use crate::model::forward::{ChangeResult, ServiceRecord};
use crate::model::history::HistoryEntry;
use crate::model::journal::RollEntryKind;
use crate::model::journal_record::Log;
use crate::model::name::ServiceName;
use crate::model::ports::Port;
use crate::model::proxy::ProxyStats;
use crate::model::registration::RegistrationState;
use crate::model::release::ReleaseCheck;
use crate::model::roll::Work;
use crate::model::traffic_split::{TrafficSplitRequest, TrafficSplitResponse};

const MINUTE: Duration = Duration::from_mins(1);
/// Timeout of another main: its health is waited for, and that the kernel forgets the connections to the one before (10 s).
const ASSIGN_TIMEOUT: Duration = ANSWER_TIMEOUT.saturating_add(MINUTE);
/// The host starts a proxy, checks its health and routes traffic to it; each step has its own timeout on the host.
const PROXY_START_TIMEOUT: Duration = Duration::from_secs(30);

/// The host reads up to 4 GiB.
const VERIFY_TIMEOUT: Duration = Duration::from_mins(5);

/// SQLite waits up to 5 s for another writer.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(8);

/// An endpoint that only reads.
type Get<R, P = (), Q = NoQuery> = Endpoint<P, Q, NoBody, R>;
/// An endpoint that takes a JSON body.
type Send<B, R, P = (), Q = NoQuery> = Endpoint<P, Q, B, R>;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortQuery {
    // A query has texts only, which a `Port` is never read from.
    #[schemars(with = "Port")]
    pub port: u16,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    pub limit: u32,
    pub service: Option<ServiceName>,
}

/// The fields of a [`KillRequest`] for a caller that sends no body.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KillQuery {
    pub force: Option<bool>,
    pub keep_files: Option<bool>,
    pub drain_timeout_ms: Option<u64>,
    pub dry_run: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    pub tail: Option<u32>,
    pub follow: Option<bool>,
}

/// Instances are replaced one after another. Where the last one fails, the host replaces the ones before it a second time.
fn compute_update_timeout(request: &UpdateRequest) -> Duration {
    let grace = request.how.as_ref().map_or(MINUTE, |how| how.grace);
    let each = request.health_timeout.saturating_add(request.drain_timeout).saturating_add(grace);
    let replacements = request.expected_instances.max(1).saturating_mul(2) - 1;
    ANSWER_TIMEOUT.saturating_add(each.saturating_mul(replacements))
}

/// A directory of the request is made by root, with files whose content the request has. The command that a roll records is run by
/// the operator who resumes it.
fn find_journal_role(request: &JournalRequest) -> ClientRole {
    match request.directory {
        Some(_) => All,
        None if records_command(&request.call) => All,
        None if request.call.is_write() => Switch,
        None => Read,
    }
}

/// Whether the call records a roll that a resume would run a command for, or reach hosts by recorded addresses for. An entry that is
/// not known is taken for one.
fn records_command(call: &JournalCall) -> bool {
    let JournalCall::Append { log: Log::Rolls, entry, .. } = call else { return false };
    match serde_json::from_str::<RollEntryKind>(&entry.what) {
        Ok(RollEntryKind::Began { spec, .. }) => {
            matches!(spec.work, Work::Command { .. }) || !spec.found_hosts.is_empty()
        }
        Ok(_) => false,
        Err(_) => true,
    }
}

/// Declares the rows, and the list of them all.
macro_rules! table {
    ($($name:ident: $types:ty = $row:expr;)*) => {
        $(pub const $name: $types = $row;)*

        /// Every row of the table.
        pub const ROWS: &[Row] = &[$($name.row),*];
    };
}

table! {
    HELLO: Get<Hello> = Endpoint::new(Method::Get, "/v1", "hello", "Report the agent and its API versions", Read);
    DESCRIPTION: Get<Map<String, Value>> =
        Endpoint::new(Method::Get, "/v1/openapi.json", "description", "This description", Read).for_other_programs();
    STATUS: Send<StatusRequest, HostView> =
        Endpoint::new(Method::Post, "/v1/status", "status", "Report the state of this host", Read);
    PROBE: Send<ProbeRequest, ProbeResult> =
        Endpoint::new(Method::Post, "/v1/probe", "probe", "Check the health of a real port once", Switch);
    RUN: Send<RunRequest, JsonLines<RunEvent>> = Endpoint::new(Method::Post, "/v1/run",
        "run",
        "Run a program: its lines, then its end. The program ends when the caller disconnects",
        All,
    );
    HISTORY: Get<Vec<HistoryEntry>, (), HistoryQuery> =
        Endpoint::new(Method::Get, "/v1/history", "history", "List the operations on this host, oldest first", Read);
    PROXY_STATS: Get<Option<ProxyStats>> =
        Endpoint::new(Method::Get, "/v1/proxy", "proxy", "Report the counters of the host's proxy; null: it has none", Read);
    // Where every scraper looks.
    METRICS: Get<PlainText> = Endpoint::new(Method::Get, "/metrics",
        "metrics",
        "Report the metrics of this host: Prometheus' text format 0.0.4",
        Read,
    )
    .for_other_programs();

    ACTIVITY: Get<ServiceActivity, ServiceName, PortQuery> = Endpoint::new(Method::Get, "/v1/services/{service}/pulse",
        "pulse",
        "Report what changes while a command waits: the record's generation, open connections",
        Read,
    );
    LISTENERS: Get<Vec<SocketAddr>, ServiceName, PortQuery> = Endpoint::new(Method::Get, "/v1/services/{service}/listeners",
        "listeners",
        "List the addresses on which processes listen at a port of a service, regardless of its rules",
        Read,
    );
    FORWARD: Send<ForwardRequest, ChangeResult, ServiceName> = Endpoint::new(Method::Put, "/v1/services/{service}/forward",
        "switchForward",
        "Switch the forward in kernel and record; repeating the request changes nothing",
        Switch,
    );
    WITHDRAW: Send<WithdrawRequest, RegistrationState, ServiceName> = Endpoint::new(Method::Post, "/v1/services/{service}/withdraw",
        "withdraw",
        "Take this host out of DNS and release its slot; the forward has to be off",
        Switch,
    );
    RELEASES: Get<Vec<HostRelease>, ServiceName> =
        Endpoint::new(Method::Get, "/v1/services/{service}/releases", "releases", "List the complete releases", Read);
    VERIFY_RELEASE: Get<ReleaseCheck, (ServiceName, String)> = Endpoint::new(Method::Get, "/v1/services/{service}/releases/{release}/verification",
        "verifyRelease",
        "Compare the files of a release with those that were placed",
        Read,
    )
    .with_timeout(|_| VERIFY_TIMEOUT);
    JOURNAL: Send<JournalRequest, JournalAnswer, ServiceName> = Endpoint::new(Method::Post, "/v1/services/{service}/journal",
        "journal",
        "Carry out one operation on the journal that this host keeps for the operators of a service",
        Read,
    )
    .with_timeout(|_| JOURNAL_TIMEOUT)
    .with_body_role(find_journal_role);
    UPLOAD: Endpoint<(ServiceName, String), NoQuery, Archive, Digest> = Endpoint::new(Method::Put, "/v1/services/{service}/releases/{release}",
        "placeRelease",
        "Unpack a .tar.gz of at most 1 GiB, all or nothing; repeating the request changes nothing",
        All,
    );

    HEALTH: Get<HealthStatus> =
        Endpoint::new(Method::Get, "/health", "health", "Report that the agent answers", Read).for_other_programs();
    VERSION: Get<ProgramVersion> = Endpoint::new(Method::Get, "/version", "version", "Report the version of the agent", Read).for_other_programs();
    OPENAPI: Get<Map<String, Value>> =
        Endpoint::new(Method::Get, "/openapi", "openapi", "This description", Read).for_other_programs();

    DEPLOYMENTS: Get<DeploymentsView> = Endpoint::new(Method::Get, "/v1/deployments",
        "deployments",
        "List the deployments of this host and the routes of its ports",
        Read,
    )
    .with_short_path();
    DEPLOY: Send<DeployRequest, DeployResponse> = Endpoint::new(Method::Post, "/v1/deployments",
        "deploy",
        "Start a version; the first version of a service becomes main",
        All,
    )
    .with_timeout(|request: &DeployRequest| ANSWER_TIMEOUT + request.health_timeout)
    .with_short_path();
    DEPLOYMENT: Get<DeploymentView, DeploymentId> =
        Endpoint::new(Method::Get, "/v1/deployments/{id}", "deployment", "Show one deployment", Read)
            .with_short_path()
            .for_other_programs();
    UPDATE: Send<UpdateRequest, Deployment, DeploymentId> = Endpoint::new(Method::Put, "/v1/deployments/{id}",
        "update",
        "Replace the code of a deployment, or the address of a registered one; the id stays",
        All,
    )
    .with_timeout(compute_update_timeout)
    .with_short_path();
    PATCH_UPDATE: Send<UpdateRequest, Deployment, DeploymentId> =
        Endpoint::new(Method::Patch, UPDATE.row.path, "patch", UPDATE.row.summary, All).with_short_path().for_other_programs();
    KILL: Send<KillRequest, KillResponse, DeploymentId, KillQuery> = Endpoint::new(Method::Delete, "/v1/deployments/{id}",
        "kill",
        "Stop and remove a deployment; the query overrides the body",
        All,
    )
    .with_timeout(|request: &KillRequest| ANSWER_TIMEOUT + request.drain_timeout * 2 + MINUTE)
    .with_short_path();
    MERGE: Send<MergeRequest, Deployment, DeploymentId> = Endpoint::new(Method::Post, "/v1/deployments/{id}/merge",
        "merge",
        "Give a deployment the id and the revision that its version has on other hosts",
        All,
    )
    .with_short_path();
    LOGS: Get<JsonLines<RunEvent>, DeploymentId, LogsQuery> =
        Endpoint::new(Method::Get, "/v1/deployments/{id}/logs", "logs", "Stream the logs of its instance", Read)
            .with_short_path();

    SERVICES: Get<Vec<ServiceRecord>> =
        Endpoint::new(Method::Get, "/v1/services", "services", "List the records of all services", Read)
            .with_short_path()
            .for_other_programs();
    SERVICE: Get<ServiceRecord, ServiceName> =
        Endpoint::new(Method::Get, "/v1/services/{service}", "service", "Show the record of one service", Read)
            .with_short_path()
            .for_other_programs();
    ACCESS: Send<AccessRequest, ChangeResult, ServiceName> =
        Endpoint::new(Method::Patch, "/v1/services/{service}", "access", "Make a service public or private", Switch)
            .with_short_path();
    ASSIGN: Send<AssignRequest, AssignResponse, ServiceName> =
        Endpoint::new(Method::Put, "/v1/services/{service}/main", "assign", "Make a version main on both ports", Switch)
            .with_timeout(|_| ASSIGN_TIMEOUT)
            .with_short_path();
    ROLLBACK: Send<RollbackRequest, AssignResponse, ServiceName> =
        Endpoint::new(Method::Post, "/v1/services/{service}/rollback", "rollback", "Go back to the last good main", Switch)
            .with_timeout(|_| ASSIGN_TIMEOUT)
            .with_short_path();
    WATCH: Send<WatchRequest, Option<TrialOutcome>, ServiceName> = Endpoint::new(Method::Post, "/v1/services/{service}/watch",
        "watch",
        "How the watch window of a new main ended; null while it is open: repeat the request",
        Switch,
    )
    .with_short_path();
    CLOSE_IDLE: Send<CloseIdleRequest, CloseIdleResponse, ServiceName> = Endpoint::new(Method::Post, "/v1/services/{service}/close-idle",
        "closeIdle",
        "Close idle connections by the backup port to versions that it is no longer routed to",
        Switch,
    );
    TRAFFIC_SPLIT: Send<TrafficSplitRequest, TrafficSplitResponse, ServiceName> = Endpoint::new(Method::Put, "/v1/services/{service}/splits",
        "split",
        "Set mirrors and canary of a service; repeating the request changes nothing",
        Switch,
    )
    .with_timeout(|_| ANSWER_TIMEOUT + PROXY_START_TIMEOUT)
    .with_short_path();
    EVIDENCE: Get<Option<Evidence>, (ServiceName, DeploymentId)> = Endpoint::new(Method::Get, "/v1/services/{service}/evidence/{id}",
        "evidence",
        "Compare a shadow's answers with main's; null: no evidence yet",
        Read,
    )
    .with_short_path();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::api::endpoint::RequestBody;
    use crate::model::deployment::Instance;
    use crate::model::example;
    use crate::model::journal_record::StoredEntry;
    use crate::model::roll::{RollSpec, Step};

    fn make_update(expected_instances: u32) -> UpdateRequest {
        let Instance { how, .. } = example::deployment("shop", "1.0.0", 20001).instance;
        UpdateRequest {
            id: "dp_0123456789".parse().unwrap(),
            how: Some(how),
            digest: None,
            health_timeout: Duration::from_secs(50),
            drain_timeout: Duration::from_mins(10),
            site: None,
            actor: example::make_actor(),
            dry_run: false,
            expected_instances,
        }
    }

    /// An operator who resumes a roll runs its recorded command, and reaches its recorded hosts.
    #[test]
    fn roll_with_a_command_is_recorded_by_a_client_who_may_run_one() {
        let append = |log, what: String| {
            let entry = StoredEntry { id: "r1".into(), at: jiff::Timestamp::UNIX_EPOCH, host: None, what };
            let call = JournalCall::Append { holder: None, log, entry, token: "t1".into() };
            find_journal_role(&JournalRequest { directory: None, call })
        };
        let began = |spec: RollSpec| {
            let kind = RollEntryKind::Began { spec, actor: example::make_actor(), overridden: vec![] };
            serde_json::to_string(&kind).unwrap()
        };
        let command = example::make_roll_spec(&["web1"]);
        let new_main = r#"{"version": "2.0.0", "trial_ms": 0}"#;
        let work = Work::Assign(serde_json::from_str(new_main).unwrap());
        let assign = RollSpec { work, ..command.clone() };
        let elsewhere = RollSpec { found_hosts: vec![example::host("web1", "192.0.2.1")], ..assign.clone() };
        let step = RollEntryKind::StepBegan { step: Step::Drained };
        for (what, role) in [
            (began(command.clone()), All),
            (began(assign), Switch),
            (began(elsewhere), All),
            (serde_json::to_string(&step).unwrap(), Switch),
            ("{\"what\":\"new\"}".to_owned(), All),
        ] {
            assert_eq!(append(Log::Rolls, what.clone()), role, "{what}");
        }
        assert_eq!(append(Log::Promotions, began(command)), Switch);
    }

    /// Eight instances that each drain for the whole limit, and seven that are taken back after the eighth failed.
    #[test]
    fn update_timeout_grows_with_instances() {
        let grace = make_update(1).how.unwrap().grace;
        let each = Duration::from_secs(50) + Duration::from_mins(10) + grace;
        for (instances, replacements) in [(0, 1), (1, 1), (2, 3), (8, 15)] {
            assert_eq!(UPDATE.timeout(&make_update(instances)), ANSWER_TIMEOUT + each * replacements);
        }
        let endless = UpdateRequest { drain_timeout: Duration::MAX, ..make_update(u32::MAX) };
        assert_eq!(UPDATE.timeout(&endless), Duration::MAX);
    }

    /// A host of an older version refuses fields that it does not know.
    #[test]
    fn update_body_has_no_new_field() {
        let bodies = [1, 8].map(|instances| make_update(instances).to_json().unwrap().unwrap());
        assert_eq!(bodies[0], bodies[1]);
        assert_eq!(UpdateRequest::from_json(&bodies[1]).unwrap(), make_update(0));
    }

    /// A new endpoint that changes something is not for readers.
    #[test]
    fn readers_only_get_and_ask_for_the_status() {
        let reading: Vec<&str> = ROWS
            .iter()
            .filter(|row| row.role == Read && row.method != Method::Get)
            .map(|row| row.id)
            .collect();
        assert_eq!(reading, ["status", "journal"]);
        assert!(ROWS.iter().all(|row| row.method != Method::Get || row.role == Read));
        let programs: Vec<&str> = ROWS.iter().filter(|row| row.role == All).map(|row| row.id).collect();
        assert_eq!(programs, ["run", "placeRelease", "deploy", "update", "patch", "kill", "merge"]);
    }

    #[test]
    fn journal_role_depends_on_the_operation() {
        let role = |directory: Option<&str>, call| {
            JOURNAL.body_role()(&JournalRequest { directory: directory.map(Into::into), call })
        };
        let notes = || JournalCall::LoadNotes { limit: 1 };
        let note = || JournalCall::AddNote {
            note: crate::model::lock::LockNote {
                at: jiff::Timestamp::UNIX_EPOCH,
                user: "ann".to_owned(),
                text: String::new(),
            },
            token: "t".to_owned(),
        };
        assert_eq!([role(None, notes()), role(None, note())], [Read, Switch]);
        assert_eq!([role(Some("/srv"), notes()), role(Some("/srv"), note())], [All, All]);
    }
}
