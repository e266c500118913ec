//! Settings as Felix sends them: only those that differ from their defaults, as texts.

use std::collections::HashMap;

use control::desired::{EndpointToHost, FelixSettings, NatExclusions, ServiceLoopPrevention};
use control::policy::model::{Failsafe, Settings};

pub(super) fn changed(felix: &FelixSettings, policy: &Settings) -> HashMap<String, String> {
    let mut config = HashMap::new();
    let (all, default) = (all(felix), all(&FelixSettings::default()));
    for ((name, given), (_, default)) in all.into_iter().zip(default) {
        if given != default {
            config.insert(name.to_owned(), given);
        }
    }
    let ours = Settings::default();
    for (name, given, default) in [
        (
            "FailsafeInboundHostPorts",
            &policy.failsafe_inbound,
            &ours.failsafe_inbound,
        ),
        (
            "FailsafeOutboundHostPorts",
            &policy.failsafe_outbound,
            &ours.failsafe_outbound,
        ),
    ] {
        if given != default {
            let ports: Vec<_> = given.iter().map(failsafe).collect();
            let text = if ports.is_empty() {
                "none".to_owned()
            } else {
                ports.join(",")
            };
            config.insert(name.to_owned(), text);
        }
    }
    config
}

fn failsafe(port: &Failsafe) -> String {
    let protocol = port.protocol.to_string().to_lowercase();
    match port.net {
        Some(net) => format!("{protocol}:[{net}]:{}", port.port),
        None => format!("{protocol}:{}", port.port),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn list(values: impl IntoIterator<Item = String>) -> String {
    values.into_iter().collect::<Vec<_>>().join(",")
}

fn all(felix: &FelixSettings) -> Vec<(&'static str, String)> {
    let range = |(first, last): &(u16, u16)| format!("{first}:{last}");
    let times = &felix.conntrack;
    let timeouts = [
        ("TCPSynSent", times.tcp_syn_sent),
        ("TCPEstablished", times.tcp_established),
        ("TCPFinsSeen", times.tcp_time_wait),
        ("TCPResetSeen", times.tcp_close),
        ("UDPTimeout", times.udp_assured),
        ("GenericTimeout", times.generic),
        ("ICMPTimeout", times.icmp),
    ];
    vec![
        ("VXLANPort", felix.vxlan_port.to_string()),
        ("VXLANVNI", felix.vxlan_vni.to_string()),
        ("VXLANMTU", text(felix.vxlan_mtu)),
        ("VXLANMTUV6", text(felix.vxlan_mtu_v6)),
        ("IpInIpMtu", text(felix.ipip_mtu)),
        ("IpInIpEnabled", text(felix.ipip_enabled)),
        ("VXLANEnabled", text(felix.vxlan_enabled)),
        (
            "AllowVXLANPacketsFromWorkloads",
            felix.allow_vxlan_from_workloads.to_string(),
        ),
        (
            "AllowIPIPPacketsFromWorkloads",
            felix.allow_ipip_from_workloads.to_string(),
        ),
        ("InterfacePrefix", felix.interface_prefixes.join(",")),
        (
            "ExternalNodesCIDRList",
            list(felix.external_nodes.iter().map(ToString::to_string)),
        ),
        ("NATOutgoingAddress", text(felix.nat_outgoing_address)),
        (
            "NATPortRange",
            felix.nat_port_range.as_ref().map(range).unwrap_or_default(),
        ),
        (
            "IptablesNATOutgoingInterfaceFilter",
            text(felix.nat_outgoing_interfaces.as_ref()),
        ),
        (
            "KubeNodePortRanges",
            list(felix.node_ports.iter().map(range)),
        ),
        (
            "NATOutgoingExclusions",
            match felix.nat_exclusions {
                NatExclusions::IpPoolsOnly => "IPPoolsOnly",
                NatExclusions::IpPoolsAndHostIps => "IPPoolsAndHostIPs",
            }
            .to_owned(),
        ),
        (
            "DefaultEndpointToHostAction",
            match felix.endpoint_to_host {
                EndpointToHost::Drop => "DROP",
                EndpointToHost::Accept => "ACCEPT",
                EndpointToHost::Return => "RETURN",
                EndpointToHost::Reject => "REJECT",
            }
            .to_owned(),
        ),
        (
            "WorkloadSourceSpoofing",
            if felix.workload_source_spoofing {
                "Any"
            } else {
                "Disabled"
            }
            .to_owned(),
        ),
        ("DeviceRouteSourceAddress", text(felix.device_route_source)),
        (
            "DeviceRouteSourceAddressIPv6",
            text(felix.device_route_source_v6),
        ),
        (
            "DeviceRouteProtocol",
            felix.device_route_protocol.to_string(),
        ),
        (
            "RemoveExternalRoutes",
            felix.remove_external_routes.to_string(),
        ),
        (
            "ServiceLoopPrevention",
            match felix.service_loop_prevention {
                ServiceLoopPrevention::Drop => "Drop",
                ServiceLoopPrevention::Reject => "Reject",
                ServiceLoopPrevention::Disabled => "Disabled",
            }
            .to_owned(),
        ),
        ("Ipv6Support", felix.ipv6_support.to_string()),
        (
            "DisableConntrackInvalidCheck",
            felix.disable_conntrack_invalid_check.to_string(),
        ),
        (
            "BPFConntrackTimeouts",
            list(timeouts.map(|(name, time)| format!("{name}={}ms", time.as_millis()))),
        ),
    ]
}
