use super::*;
use crate::model::api::deployments::DeploymentView;
use crate::model::deployment::{DeploymentStatus, Role};
use crate::model::example;
use crate::model::socket::SocketCount;
use crate::ops::fleet::deployments::VersionStatus;

/// A version on web1; the newest revision is 3.
fn make_row(version: &str, revision: u32, status: VersionStatus) -> FleetDeployment {
    let deployment = example::deployment("shop", version, 20000);
    let role = if status == VersionStatus::Active { Role::Main } else { Role::Shadow };
    FleetDeployment {
        service: deployment.service.clone(),
        version: deployment.version.clone(),
        id: deployment.id.clone(),
        revision,
        main: Some(role == Role::Main),
        access: Access::Public,
        status,
        active: Some(0),
        hosts: vec![(
            "web1".parse().unwrap(),
            DeploymentView {
                deployment,
                role,
                backup: false,
                status: DeploymentStatus::Drained,
                process: Ok(ProcessState::External),
                sockets: Ok(SocketCount::default()),
                via_main_port: Ok(SocketCount::default()),
                instances: vec![],
            },
        )],
        traffic: vec![],
        is_latest: revision == 3,
        maintenance: vec![],
        private_on: vec![],
    }
}

fn make_rows() -> Vec<FleetDeployment> {
    vec![
        make_row("1.0.0", 1, VersionStatus::Drained),
        make_row("2.0.0", 2, VersionStatus::Active),
        make_row("3.0.0", 3, VersionStatus::Drained),
    ]
}

/// The command line and the metadata are as a host sent them.
#[test]
fn description_has_no_line_breaks_and_colors_of_a_host() {
    let hostile = "x\n  ID         dp_fake\u{1b}[31m".to_owned();
    let mut row = make_row("1.0.0", 1, VersionStatus::Active);
    let deployment = &mut row.hosts[0].1.deployment;
    deployment.metadata.insert("commit".to_owned(), hostile.clone());
    deployment.instance.how.workload = Workload::Command { argv: vec![hostile.clone()] };
    row.traffic.push(hostile.clone());
    row.hosts[0].1.process = Err(ObservationError::new(hostile));
    for text in [format_description(&row, TimeFormat::Human), format_wide_listing(&[row], TimeFormat::Human)]
    {
        assert!(text.contains("dp_fake"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("  ID         dp_fake")), "{text}");
    }
}

/// Rows: R14.
#[test]
fn r14_wide_list_has_type_and_creation_time() {
    let text = format_wide_listing(&make_rows(), TimeFormat::Human);
    let lines: Vec<&str> = text.lines().collect();
    let header: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(header[header.len() - 3..], ["TYPE", "CREATED", "ID"]);
    let row: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(row[row.len() - 5..row.len() - 1], ["process", "1970-01-01", "00:00:00", "UTC"]);
}

/// Rows: R26.
#[test]
fn wide_list_counts_requests_in_flight_or_shows_them_as_unknown() {
    for (active, shown) in [(Some(7), "7"), (None, "?")] {
        let row = FleetDeployment { active, ..make_row("1.0.0", 1, VersionStatus::Draining) };
        let text = format_wide_listing(&[row], TimeFormat::Human);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines[0].find("ACTIVE").unwrap();
        assert_eq!(lines[2].chars().skip(at).collect::<String>().split(' ').next(), Some(shown), "{text}");
    }
}

/// Rows: R15.
#[test]
fn r15_wide_list_is_ordered_by_status_newest_first() {
    let text = format_wide_listing(&make_rows(), TimeFormat::Human);
    let places: Vec<usize> = ["2.0.0", "3.0.0", "1.0.0"].map(|version| text.find(version).unwrap()).to_vec();
    assert!(places.is_sorted(), "{text}");
}

/// Rows: R25, R34.
#[test]
fn r25_description_has_the_latest_first() {
    let rows = make_rows();
    let text = format_descriptions(&rows, TimeFormat::Human);
    let places: Vec<usize> = ["3.0.0", "2.0.0", "1.0.0"].map(|version| text.find(version).unwrap()).to_vec();
    assert!(places.is_sorted(), "{text}");
    assert_eq!(text.matches("[Latest]").count(), 1);
    assert!(text.contains("Revision   3 [Latest]"), "{text}");
}
