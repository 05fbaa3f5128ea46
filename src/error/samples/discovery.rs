//! Sources of hosts that do not answer, or whose answer is no fleet.

use super::{Sample, name, samples, secs, wrap};
use crate::model::discovery::{ConsulLookup, DnsLookup, DnsRecord, HostLookup};
use crate::model::failure::ErrorCode;
use crate::model::journal_location::AccessFiles;
use crate::model::name::NameError;
use crate::ops::fleet::discovery::DiscoveryError;
use crate::ops::fleet::withdraw::WithdrawError;
use crate::plan::discovery::HostListError;
use crate::world::discovery::HostSourceError;
use crate::world::link::LinkError;

pub(super) fn list_discovery_errors() -> Vec<Sample<DiscoveryError>> {
    let unreadable = samples!(HostSourceError {
        Unreachable: [HostSourceError::Unreachable {
            reason: "http://127.0.0.1:8500: Connection refused (os error 111)".into(),
        }],
        TimedOut: [HostSourceError::TimedOut { waited: secs(10) }],
        Refused: [HostSourceError::Refused { reason: "403 Forbidden ACL not found".into() }],
    });
    let address = "10.0.0.12".parse().unwrap();
    let unusable = samples!(HostListError {
        Empty: [HostListError::Empty],
        TooMany: [HostListError::TooMany { found: 2001 }],
        BadName: [HostListError::BadName {
            found: "web 2".into(),
            address,
            reason: NameError::Character { found: ' ' },
        }],
        BadAddress: [HostListError::BadAddress { host: name("web2"), address: "0.0.0.0".parse().unwrap() }],
        DoubleName: [HostListError::DoubleName {
            host: name("web2"),
            first: address,
            second: "10.0.0.13".parse().unwrap(),
        }],
        DoubleAddress: [HostListError::DoubleAddress { address, first: name("web2"), second: name("web3") }],
    });
    let consul = HostLookup::Consul(ConsulLookup {
        endpoint: "http://127.0.0.1:8500".into(),
        service: "shop".into(),
        tag: Some("blue".into()),
        datacenter: Some("dc2".into()),
        files: AccessFiles::default(),
    });
    let dns = HostLookup::Dns(DnsLookup {
        name: "_shop._tcp.example".into(),
        kind: DnsRecord::Srv,
        server: "10.0.0.2:53".parse().ok(),
    });
    let unreadable =
        wrap(unreadable, |error| DiscoveryError::Unreadable { lookup: Box::new(consul.clone()), error });
    let unusable = wrap(unusable, |error| DiscoveryError::Unusable { lookup: Box::new(dns.clone()), error });
    unreadable.into_iter().chain(unusable).collect()
}

pub(super) fn list_withdraw_errors() -> Vec<Sample<WithdrawError>> {
    let refused = |message: &str| WithdrawError::NotRequested {
        host: "web1".into(),
        source: LinkError::Refused { code: ErrorCode::Unprocessable, message: message.into() },
    };
    samples!(WithdrawError {
        NotRequested: [
            refused("the agent of this host does not register `shop`"),
            refused("the forward is on: the host has to be in maintenance"),
        ],
        StillUsed: [WithdrawError::StillUsed {
            host: "web1".into(),
            users: vec!["`lb1` still has it in `backup-1`".into()],
            waited: secs(20),
        }],
    })
}
