use super::*;

fn registry() -> ConsulRegistry {
    let endpoint = "http://127.0.0.1:8500".to_owned();
    let servers = HttpServers::new(vec![endpoint.clone()], &super::super::http_servers::TlsFiles::default());
    ConsulRegistry {
        servers: servers.unwrap(),
        endpoint: endpoint.parse().unwrap(),
        files: AccessFiles::default(),
    }
}

#[test]
fn paths_escape_what_ids_contain() {
    let registry = registry();
    let path = registry.build_path(&["agent", "service", "deregister", "switchman:web1:shop/%"], &[]);
    assert_eq!(path, "/v1/agent/service/deregister/switchman:web1:shop%2F%25");
    let path = registry
        .build_path(&["kv", "switchman", "shop", "slots", ""], &[("recurse", ""), ("consistent", "")]);
    assert_eq!(path, "/v1/kv/switchman/shop/slots/?recurse=&consistent=");
}

#[test]
fn registrations_of_others_at_the_same_agent_are_not_listed() {
    let service = |id: &str, host: &str| LocalService {
        id: id.to_owned(),
        service: "shop".to_owned(),
        tags: vec![],
        meta: Some(BTreeMap::from([(HOST_META.to_owned(), host.to_owned())])),
        port: 8080,
        address: "10.0.0.1".to_owned(),
    };
    let services = [
        service("switchman:web1:shop", "web1"),
        service("switchman:web10:shop", "web10"),
        service("switchman:web1:other", "web10"),
        service("shop-web1", "web1"),
    ];
    let check = LocalCheck {
        service_id: "switchman:web1:shop".to_owned(),
        status: "critical".to_owned(),
        output: "no vhost answers".to_owned(),
    };
    let own = list_own(&"web1".parse().unwrap(), services.into_iter(), &[check]);
    let ids: Vec<&str> = own.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["switchman:web1:shop"]);
    let check = RegistrationCheck { is_passing: false, output: "no vhost answers".to_owned() };
    assert_eq!(own[0].check, Some(check));
}

#[test]
fn claim_that_another_program_wrote_is_an_error() {
    let pair = |key: &str, value: &str| KvPair {
        key: key.to_owned(),
        value: Some(STANDARD.encode(value)),
        session: None,
        modify_index: 7,
    };
    let claim = to_claim(&pair("switchman/shop/slots/3", r#"{"host":"web1","address":"10.0.0.1"}"#)).unwrap();
    assert_eq!((claim.slot, claim.owner.to_string()), (3, "`web1` at 10.0.0.1".to_owned()));
    for (key, value) in [("switchman/shop/slots/x", "{}"), ("switchman/shop/slots/3", "web1")] {
        let error = to_claim(&pair(key, value)).unwrap_err();
        assert_eq!(error.reason, format!("the key `{key}` is no claim of a slot"));
    }
}
