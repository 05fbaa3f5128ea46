//! Samples of the errors of `init`.

use super::{Sample, name, not_found, samples};
use crate::lint::{AdoptionError, UnclearLine};
use crate::model::name::{NameError, ServiceName};
use crate::ops::init::InitError;
use crate::templates::vhost::VhostError;
use crate::templates::working_set::TemplateError;
use crate::world::files::FilesError;

pub(super) fn list_adoption_errors() -> Vec<Sample<AdoptionError>> {
    let names = || vec!["shop".to_owned(), "blog".to_owned()];
    let line = |line: u32, reason: &str| UnclearLine {
        place: format!("/etc/haproxy/haproxy.cfg:{line}"),
        reason: reason.to_owned(),
        lacks_address: false,
    };
    samples!(AdoptionError {
        NoBackend: [AdoptionError::NoBackend],
        SeveralBackends: [AdoptionError::SeveralBackends { found: names() }],
        UnknownBackend: [AdoptionError::UnknownBackend { requested: "web".into(), found: names() }],
        ServiceName: [AdoptionError::ServiceName {
            found: "shop:8080".into(),
            reason: name_error().to_string()
        }],
        Unclear: [
            AdoptionError::Unclear {
                lines: vec![
                    line(
                        31,
                        "`web1` and `web1b` are two lines without `backup` for 10.0.0.11: a host has one main vhost"
                    ),
                    line(40, "`web2` has no address of its own"),
                ],
            },
            AdoptionError::Unclear {
                lines: vec![UnclearLine {
                    lacks_address: true,
                    ..line(
                        41,
                        "`web2` has the name `web2.lan`, which the hosts file of this machine does not have: give the address with `--host web2=ADDRESS`"
                    )
                }],
            }
        ],
        HostsDiffer: [AdoptionError::HostsDiffer {
            first: "shop".into(),
            first_hosts: vec!["web1 backup-web1 10.0.0.11".into()],
            other: "blog".into(),
            other_hosts: vec!["web1 backup-web1 10.0.0.21".into()],
        }],
        NoPort: [AdoptionError::NoPort { purpose: "backup vhost" }],
        UnknownHost: [AdoptionError::UnknownHost { name: name("web9"), found: vec!["web1".into()] }],
    })
}

fn name_error() -> NameError {
    "shop:8080".parse::<ServiceName>().unwrap_err()
}

pub(super) fn list_init_errors() -> Vec<Sample<InitError>> {
    samples!(InitError {
        AlreadyExists: [InitError::AlreadyExists {
            paths: vec!["/srv/shop/switchman.yaml".into(), "/srv/shop/haproxy.cfg".into()],
        }],
        Template: [TemplateError { placeholder: "{{check_port}}".into() }.into()],
        Directory: [VhostError::Character { subject: "the directory", found: "/srv/my shop".into() }.into()],
        Files: [FilesError {
            action: "write",
            path: "/srv/shop/haproxy.cfg".into(),
            reason: not_found().to_string()
        }
        .into()],
    })
}
