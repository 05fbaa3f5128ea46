//! The shape of a lab, and the services in it.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::balancer::CheckTiming;
use crate::model::name::HostName;

pub(crate) const SERVICE: &str = "shop";
/// Static pages, for rehearsals with two services; its ports are 8889, 8081 and 81.
pub const SECOND_SERVICE: &str = "blog";

/// The shape of a lab.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Part of every name: `swm-NAME-web1`.
    pub name: HostName,
    pub hosts: u8,
    /// Load balancers, each an HAProxy of its own.
    pub balancers: u8,
    /// The switchman that the hosts run, and that serves the rehearsal application.
    pub switchman: PathBuf,
    pub check: CheckTiming,
    /// HAProxy has a second service, whose clients call port 81: [`SECOND_SERVICE`].
    pub has_second_service: bool,
    /// More keywords for all server lines of HAProxy.
    pub server_keywords: &'static str,
}

impl LabOptions {
    /// Two hosts, checks fast enough for a rehearsal and slow enough to be checks: inter 500 ms, fastinter 100 ms.
    pub fn new(name: HostName, switchman: PathBuf) -> Self {
        let ms = Duration::from_millis;
        let check = CheckTiming {
            inter: ms(500),
            fastinter: Some(ms(100)),
            fall: 3,
            rise: 2,
            timeout: Some(ms(500)),
        };
        Self {
            name,
            hosts: 2,
            balancers: 1,
            switchman,
            check,
            has_second_service: false,
            server_keywords: "",
        }
    }
}
