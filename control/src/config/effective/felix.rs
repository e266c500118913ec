//! The settings of FelixConfiguration and BGPConfiguration that are read.

use std::time::Duration;

use flowtable::conn::Timeouts;
use serde_json::{Value, json};

use super::word;
use crate::desired::{
    EndpointToHost, FelixSettings, NatExclusions, ServiceCidrs, ServiceLoopPrevention,
};
use crate::policy::model::{Failsafe, Settings};

/// Whether something follows from a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does.
    Some,
    /// It is read, and this version does nothing with it.
    None,
}

/// Each setting of FelixConfiguration and its value in force. `null`: none, or chosen by other things.
pub(super) fn values(
    felix: &FelixSettings,
    policy: &Settings,
) -> Vec<(&'static str, Value, Effect)> {
    // By name, so that none is forgotten.
    let FelixSettings {
        vxlan_port,
        vxlan_vni,
        vxlan_mtu,
        vxlan_mtu_v6,
        ipip_mtu,
        ipip_enabled,
        vxlan_enabled,
        allow_vxlan_from_workloads,
        allow_ipip_from_workloads,
        interface_prefixes,
        external_nodes,
        nat_outgoing_address,
        nat_port_range,
        nat_outgoing_interfaces,
        node_ports,
        nat_exclusions,
        endpoint_to_host,
        workload_source_spoofing,
        device_route_source,
        device_route_source_v6,
        device_route_protocol,
        remove_external_routes,
        service_loop_prevention,
        ipv6_support,
        disable_conntrack_invalid_check,
        conntrack,
    } = felix;
    let spoofing = if *workload_source_spoofing {
        "Any"
    } else {
        "Disabled"
    };
    let ranges: Vec<_> = node_ports.iter().copied().map(range).collect();
    let mut all = vec![
        (
            "allowIPIPPacketsFromWorkloads",
            json!(allow_ipip_from_workloads),
        ),
        (
            "allowVXLANPacketsFromWorkloads",
            json!(allow_vxlan_from_workloads),
        ),
    ];
    all.extend(timeouts(conntrack));
    all.extend([
        (
            "defaultEndpointToHostAction",
            word(&EndpointToHost::WORDS, endpoint_to_host),
        ),
        (
            "disableConntrackInvalidCheck",
            json!(disable_conntrack_invalid_check),
        ),
        ("externalNodesList", json!(external_nodes)),
        (
            "failsafeInboundHostPorts",
            failsafes(&policy.failsafe_inbound),
        ),
        (
            "failsafeOutboundHostPorts",
            failsafes(&policy.failsafe_outbound),
        ),
        ("interfacePrefix", json!(interface_prefixes.join(","))),
        ("ipipEnabled", json!(ipip_enabled)),
        ("ipipMTU", json!(ipip_mtu)),
        (
            "iptablesNATOutgoingInterfaceFilter",
            json!(nat_outgoing_interfaces),
        ),
        ("kubeNodePortRanges", json!(ranges)),
        ("natOutgoingAddress", json!(nat_outgoing_address)),
        (
            "natOutgoingExclusions",
            word(&NatExclusions::WORDS, nat_exclusions),
        ),
        ("natPortRange", json!(nat_port_range.map(range))),
        (
            "serviceLoopPrevention",
            word(&ServiceLoopPrevention::WORDS, service_loop_prevention),
        ),
        ("vxlanEnabled", json!(vxlan_enabled)),
        ("vxlanMTU", json!(vxlan_mtu)),
        ("vxlanMTUV6", json!(vxlan_mtu_v6)),
        ("vxlanPort", json!(vxlan_port)),
        ("vxlanVNI", json!(vxlan_vni)),
        ("workloadSourceSpoofing", json!(spoofing)),
    ]);
    let idle = [
        ("deviceRouteProtocol", json!(device_route_protocol)),
        ("deviceRouteSourceAddress", json!(device_route_source)),
        (
            "deviceRouteSourceAddressIPv6",
            json!(device_route_source_v6),
        ),
        ("ipv6Support", json!(ipv6_support)),
        ("removeExternalRoutes", json!(remove_external_routes)),
    ];
    let all = all
        .into_iter()
        .map(|(name, value)| (name, value, Effect::Some));
    let idle = idle
        .into_iter()
        .map(|(name, value)| (name, value, Effect::None));
    all.chain(idle).collect()
}

/// Each setting of BGPConfiguration that is read.
pub(super) fn services(services: &ServiceCidrs) -> Vec<(&'static str, Value, Effect)> {
    let ServiceCidrs {
        cluster,
        external,
        load_balancer,
    } = services;
    vec![
        ("serviceClusterIPs", json!(cluster), Effect::Some),
        ("serviceExternalIPs", json!(external), Effect::Some),
        ("serviceLoadBalancerIPs", json!(load_balancer), Effect::Some),
    ]
}

/// As `bpfConntrackTimeouts` has them; a field that sets two timeouts shows both where they differ.
fn timeouts(all: &Timeouts) -> Vec<(&'static str, Value)> {
    let time = |time: Duration| match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    };
    let both = |one, other| {
        let (one, other) = (time(one), time(other));
        json!(if one == other {
            one
        } else {
            format!("{one}, {other} once answered")
        })
    };
    vec![
        (
            "bpfConntrackTimeouts.genericTimeout",
            json!(time(all.generic)),
        ),
        ("bpfConntrackTimeouts.icmpTimeout", json!(time(all.icmp))),
        (
            "bpfConntrackTimeouts.tcpEstablished",
            json!(time(all.tcp_established)),
        ),
        (
            "bpfConntrackTimeouts.tcpFinsSeen",
            json!(time(all.tcp_last_ack)),
        ),
        (
            "bpfConntrackTimeouts.tcpResetSeen",
            json!(time(all.tcp_close)),
        ),
        (
            "bpfConntrackTimeouts.tcpSynSent",
            json!(time(all.tcp_syn_sent)),
        ),
        (
            "bpfConntrackTimeouts.udpTimeout",
            both(all.udp_unreplied, all.udp_assured),
        ),
    ]
}

fn range((first, last): (u16, u16)) -> String {
    format!("{first}:{last}")
}

fn failsafes(ports: &[Failsafe]) -> Value {
    ports.iter().map(|port| json!(port.to_string())).collect()
}
