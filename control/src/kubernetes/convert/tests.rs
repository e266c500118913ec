use serde_json::{Value, json};

use super::*;

fn service(value: &Value) -> Option<Service> {
    let object: core::Service = serde_json::from_value(value.clone()).expect("a Service");
    object.convert()
}

fn slice(value: &Value) -> Option<EndpointSlice> {
    let object: discovery::EndpointSlice =
        serde_json::from_value(value.clone()).expect("an EndpointSlice");
    object.convert()
}

/// A service as an API server says it, both families.
fn dns() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system", "resourceVersion": "246",
            "managedFields": [{"manager": "kubeadm", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]
        },
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10", "fd00:96::a"],
            "externalIPs": ["192.0.2.53"],
            "ipFamilyPolicy": "PreferDualStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": "dns"},
                {"name": "dns-tcp", "port": 53, "targetPort": 53},
                {"name": "sctp", "protocol": "SCTP", "port": 9},
                {"name": "new", "protocol": "QUIC", "port": 10}
            ],
            "somethingNewer": {"a": 1}
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"},
            {"ip": "198.51.100.2", "ipMode": "VIP"},
            {"ip": "198.51.100.3", "ipMode": "Proxy"},
            {"hostname": "balancer.example"}
        ]}}
    })
}

fn with(mut value: Value, path: &str, what: Value) -> Value {
    *value.pointer_mut(path).expect("a member") = what;
    value
}

fn addresses(all: &[&str]) -> Vec<std::net::IpAddr> {
    super::addresses(&all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
}

#[test]
fn a_service_of_both_families() {
    let it = service(&dns()).expect("a service");
    assert_eq!(it.key(), ("kube-system", "kube-dns"));
    assert_eq!(it.cluster_ips, addresses(&["10.96.0.10", "fd00:96::a"]));
    assert_eq!(it.external_ips, addresses(&["192.0.2.53"]));
    // What a proxy is to see first is not ours.
    assert_eq!(
        it.load_balancer_ips,
        addresses(&["198.51.100.1", "198.51.100.2"])
    );
    let ports: Vec<_> = it
        .ports
        .iter()
        .map(|it| (it.name.as_str(), it.protocol, it.port))
        .collect();
    assert_eq!(
        ports,
        [("dns", 17, 53), ("dns-tcp", 6, 53), ("sctp", 132, 9)]
    );
    assert!(!it.client_ip_affinity && !it.internal_local && !it.publish_not_ready);
}

#[test]
fn addresses_that_only_some_may_use_are_left_to_the_load_balancer() {
    let mut value = dns();
    value["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/24"]);
    let it = service(&value).expect("a service");
    assert!(it.load_balancer_ips.is_empty());
    assert_eq!(it.external_ips, addresses(&["192.0.2.53"]));
    value["spec"]["loadBalancerSourceRanges"] = json!([]);
    let it = service(&value).expect("a service");
    assert_eq!(it.load_balancer_ips.len(), 2, "nobody is kept out");
}

#[test]
fn settings_of_a_service() {
    let mut value = with(dns(), "/spec/sessionAffinity", json!("ClientIP"));
    value = with(value, "/spec/internalTrafficPolicy", json!("Local"));
    value["spec"]["publishNotReadyAddresses"] = json!(true);
    let it = service(&value).expect("a service");
    assert!(it.client_ip_affinity && it.internal_local && it.publish_not_ready);
}

#[test]
fn headless_services_and_names_of_others_are_none() {
    let headless = with(dns(), "/spec/clusterIPs", json!(["None"]));
    assert_eq!(service(&headless), None);
    let old = with(dns(), "/spec/clusterIPs", json!([]));
    assert_eq!(
        service(&old).expect("a service").cluster_ips,
        addresses(&["10.96.0.10"])
    );
    assert_eq!(
        service(&with(old.clone(), "/spec/clusterIP", json!("None"))),
        None
    );
    assert_eq!(
        service(&with(old, "/spec/clusterIP", json!(""))),
        None,
        "not given yet"
    );
    let external = with(dns(), "/spec/type", json!("ExternalName"));
    assert_eq!(service(&external), None);
    let bare = json!({"metadata": {"name": "a", "namespace": "b"}});
    assert_eq!(service(&bare), None);
}

/// A slice as an API server says it.
fn endpoints() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-x2x7f", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"}
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.244.1.2"], "nodeName": "a", "zone": "z",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": "coredns", "namespace": "kube-system"}
            },
            {"addresses": ["10.244.1.3", "10.244.1.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.1.5"], "conditions": {"ready": null}},
            {"addresses": ["10.244.1.6"]}
        ],
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": 5353},
            {"name": null, "port": 5354},
            {"name": "all", "protocol": "TCP", "port": null}
        ]
    })
}

#[test]
fn endpoints_and_what_is_not_said_of_them() {
    let it = slice(&endpoints()).expect("a slice");
    assert_eq!(it.key(), ("kube-system", "kube-dns-x2x7f"));
    assert_eq!(it.service, "kube-dns");
    let seen: Vec<_> = it
        .endpoints
        .iter()
        .map(|it| (it.address.to_string(), it.ready, it.serving, it.terminating))
        .collect();
    assert_eq!(
        seen,
        [
            ("10.244.1.2".to_owned(), true, true, false),
            ("10.244.1.3".to_owned(), false, true, true),
            ("10.244.1.5".to_owned(), true, true, false),
            ("10.244.1.6".to_owned(), true, true, false),
        ]
    );
    assert_eq!(it.endpoints[0].node.as_deref(), Some("a"));
    assert_eq!(it.endpoints[1].node, None);
    let ports: Vec<_> = it
        .ports
        .iter()
        .map(|it| (it.name.as_str(), it.protocol, it.port))
        .collect();
    assert_eq!(ports, [("dns", 17, 5353), ("", 6, 5354)]);
}

#[test]
fn slices_that_are_nobodys_or_have_names_for_addresses_are_none() {
    assert_eq!(
        slice(&with(endpoints(), "/addressType", json!("FQDN"))),
        None
    );
    assert_eq!(
        slice(&with(endpoints(), "/metadata/labels", json!({"a": "b"}))),
        None
    );
    let empty = json!({"kubernetes.io/service-name": ""});
    assert_eq!(slice(&with(endpoints(), "/metadata/labels", empty)), None);
    let none = with(endpoints(), "/endpoints", json!(null));
    assert_eq!(slice(&none).expect("a slice").endpoints, []);
    let none = with(endpoints(), "/ports", json!(null));
    assert_eq!(slice(&none).expect("a slice").ports, []);
}
