//! What Felix, or whoever connects in its place, sends.

use std::sync::Arc;

use control::config::HostEndpoints;
use control::felix::frame::{self, Frames};
use control::felix::proto::{self, Payload, ToDataplane};
use control::felix::{State, Surroundings};
use control::policy::Model;

/// Frames, in two pieces or whole, and what follows from their messages; or a message without a frame.
pub(super) fn messages(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let (start, end) = rest.split_at(usize::from(first).min(rest.len()));
    let whole = taken(&[rest]);
    assert_eq!(taken(&[start, end]), whole, "in pieces");
    look_at(&whole);
    let mut framed = (rest.len() as u64).to_le_bytes().to_vec();
    framed.extend_from_slice(rest);
    look_at(&taken(&[&framed]));
}

/// The messages of a stream, up to its end or to what is none.
fn taken(pieces: &[&[u8]]) -> Vec<ToDataplane> {
    let (mut frames, mut messages) = (Frames::default(), Vec::new());
    for piece in pieces {
        frames.push(piece);
        while let Ok(Some(message)) = frames.take() {
            messages.push(message);
        }
    }
    assert_eq!(frames.count(), messages.len() as u64);
    let _ = frames.end();
    messages
}

/// Said twice they mean the same, and what follows has no hole.
fn look_at(messages: &[ToDataplane]) {
    let mut state = State::new("node1");
    for message in messages {
        state.take(message.clone());
    }
    let mut again = state.clone();
    for message in messages {
        again.take(message.clone());
    }
    assert_eq!(again, state, "said twice");
    let before = Arc::new(Model::default());
    let around = Surroundings {
        taken: &["eth0"],
        host_endpoints: HostEndpoints::ForwardedOnly,
        before: &before,
    };
    match state.desired(&around) {
        Ok(calculated) => {
            let desired = &calculated.desired;
            assert!(desired.local_node().is_some());
            assert!(desired.policy.unknown_ip_sets().is_empty());
            assert_eq!(desired.endpoints.len(), desired.policy.workloads.len());
            let mut interfaces: Vec<_> = desired.endpoints.iter().collect();
            interfaces.sort_by_key(|it| &it.interface);
            interfaces.dedup_by_key(|it| &it.interface);
            assert_eq!(interfaces.len(), desired.endpoints.len());
            assert!(desired.routes.is_sorted_by(|a, b| a.dst < b.dst));
        }
        Err(error) => assert!(!error.is_empty()),
    }
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

/// One stream of everything, and each message alone.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let number = |number| proto::Protocol {
        number_or_name: Some(proto::NumberOrName::Number(number)),
    };
    let rule = proto::Rule {
        action: "allow".to_owned(),
        ip_version: 4,
        protocol: Some(number(6)),
        src_net: texts(["10.0.0.0/8"]),
        dst_ports: vec![proto::PortRange {
            first: 80,
            last: 90,
        }],
        src_ip_set_ids: texts(["s"]),
        not_dst_named_port_ip_set_ids: texts(["p"]),
        not_icmp: Some(proto::NotIcmp::TypeCode(proto::IcmpTypeAndCode {
            kind: 3,
            code: 4,
        })),
        rule_id: "AAECAwQFBgcICQoL".to_owned(),
        ..proto::Rule::default()
    };
    let id = proto::PolicyId {
        name: "p".to_owned(),
        namespace: "ns".to_owned(),
        kind: "NetworkPolicy".to_owned(),
        ..proto::PolicyId::default()
    };
    let tier = proto::TierInfo {
        name: "default".to_owned(),
        ingress_policies: vec![bytes(frame::encode(&id)), b"ns/staged:default.p".to_vec()],
        egress_policies: vec![b"knp.default.x".to_vec()],
        default_action: "Pass".to_owned(),
    };
    let endpoint = proto::WorkloadEndpoint {
        state: "active".to_owned(),
        name: "cali1".to_owned(),
        mac: "0a:58:0a:f4:eb:85".to_owned(),
        profile_ids: texts(["kns.ns"]),
        ipv4_nets: texts(["10.1.0.5/32"]),
        ipv6_nets: texts(["fd00::5/128"]),
        tiers: vec![tier.clone()],
        allow_spoofed_source_prefixes: texts(["203.0.113.0/28"]),
    };
    let payloads = [
        Payload::ConfigUpdate(proto::ConfigUpdate {
            config: [
                ("VXLANPort", "4790"),
                ("FailsafeInboundHostPorts", "tcp:10.0.0.0/8:22,udp:68"),
                ("BPFConntrackTimeouts", "TCPSynSent=7s"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        }),
        Payload::IpSetUpdate(proto::IpSetUpdate {
            id: "s".to_owned(),
            members: texts(["10.0.0.1/32", "fd00::/64"]),
            kind: 2,
        }),
        Payload::IpSetUpdate(proto::IpSetUpdate {
            id: "p".to_owned(),
            members: texts(["10.0.0.1,tcp:80"]),
            kind: 1,
        }),
        Payload::IpSetDeltaUpdate(proto::IpSetDeltaUpdate {
            id: "s".to_owned(),
            added_members: texts(["10.9.0.0/16"]),
            removed_members: texts(["10.0.0.1/32"]),
        }),
        Payload::ActivePolicyUpdate(proto::ActivePolicyUpdate {
            id: Some(id),
            policy: Some(proto::Policy {
                inbound_rules: vec![rule.clone()],
                tier: "default".to_owned(),
                ..proto::Policy::default()
            }),
        }),
        Payload::ActiveProfileUpdate(proto::ActiveProfileUpdate {
            id: Some(proto::ProfileId {
                name: "kns.ns".to_owned(),
            }),
            profile: Some(proto::Profile {
                inbound_rules: Vec::new(),
                outbound_rules: vec![rule],
            }),
        }),
        Payload::WorkloadEndpointUpdate(proto::WorkloadEndpointUpdate {
            id: Some(proto::WorkloadEndpointId {
                orchestrator_id: "k8s".to_owned(),
                workload_id: "ns/pod".to_owned(),
                endpoint_id: "eth0".to_owned(),
            }),
            endpoint: bytes(frame::encode(&endpoint)),
        }),
        Payload::HostEndpointUpdate(proto::HostEndpointUpdate {
            id: Some(proto::HostEndpointId {
                endpoint_id: "h".to_owned(),
            }),
            endpoint: Some(proto::HostEndpoint {
                name: "*".to_owned(),
                expected_ipv4_addrs: texts(["192.0.2.1"]),
                forward_tiers: vec![tier],
                ..proto::HostEndpoint::default()
            }),
        }),
        Payload::VtepUpdate(proto::VtepUpdate {
            node: "node2".to_owned(),
            mac: "66:11:22:33:44:55".to_owned(),
            ipv4_addr: "10.2.0.1".to_owned(),
            parent_device_ip: "192.0.2.2".to_owned(),
            ..proto::VtepUpdate::default()
        }),
        Payload::RouteUpdate(proto::RouteUpdate {
            ip_pool_type: 2,
            dst: "10.2.0.0/26".to_owned(),
            dst_node_name: "node2".to_owned(),
            dst_node_ip: "192.0.2.2".to_owned(),
            tunnel_type: Some(proto::TunnelType {
                vxlan: true,
                ..proto::TunnelType::default()
            }),
            types: 17,
            ..proto::RouteUpdate::default()
        }),
        Payload::HostMetadataV4V6Update(proto::HostMetadataV4V6Update {
            hostname: "node1".to_owned(),
            ipv4_addr: "192.0.2.1/24".to_owned(),
            ipv6_addr: String::new(),
        }),
        Payload::IpamPoolUpdate(proto::IpamPoolUpdate {
            id: "10.0.0.0-8".to_owned(),
            pool: Some(proto::IpamPool {
                cidr: "10.0.0.0/8".to_owned(),
                masquerade: true,
                vxlan_mode: "cross-subnet".to_owned(),
                ..proto::IpamPool::default()
            }),
        }),
        Payload::InSync(proto::InSync {}),
    ];
    let messages: Vec<_> = (0..)
        .zip(payloads)
        .map(|(sequence_number, payload)| ToDataplane {
            sequence_number,
            payload: Some(payload),
        })
        .collect();
    let mut stream = vec![100];
    stream.extend(messages.iter().flat_map(frame::encode));
    let alone = messages
        .iter()
        .map(|it| [&[0][..], &bytes(frame::encode(it))].concat());
    alone.chain([stream]).collect()
}

/// A message without its length in front.
fn bytes(mut frame: Vec<u8>) -> Vec<u8> {
    frame.split_off(8)
}
