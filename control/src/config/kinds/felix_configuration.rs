//! `FelixConfiguration`: settings for all nodes (`default`) or one (`node.<name>`).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use flowtable::conn::Timeouts;
use ipnet::IpNet;

use super::felix_fields::{self, without_effect};
use crate::config::decode::{self, Context, Fields};
use crate::config::diagnostic::Diagnostic;
use crate::config::resource::Meta;
use crate::config::source::Located;
use crate::config::yaml::Node;
use crate::desired::{EndpointToHost, FelixSettings, NatExclusions, ServiceLoopPrevention};
use crate::policy::model::Failsafe;
use crate::policy::rule::Protocol;

/// One FelixConfiguration: what it sets, and nothing about what it leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct FelixConfiguration {
    /// Its name: `default` or `node.<name>`.
    pub meta: Meta,
    vxlan_port: Option<u16>,
    vxlan_vni: Option<u32>,
    vxlan_mtu: Option<u16>,
    vxlan_mtu_v6: Option<u16>,
    ipip_mtu: Option<u16>,
    ipip_enabled: Option<bool>,
    vxlan_enabled: Option<bool>,
    allow_vxlan: Option<bool>,
    allow_ipip: Option<bool>,
    interface_prefixes: Option<Vec<String>>,
    external_nodes: Option<Vec<IpNet>>,
    nat_outgoing_address: Option<Ipv4Addr>,
    nat_port_range: Option<(u16, u16)>,
    nat_outgoing_interfaces: Option<String>,
    node_ports: Option<Vec<(u16, u16)>>,
    nat_exclusions: Option<NatExclusions>,
    endpoint_to_host: Option<EndpointToHost>,
    workload_source_spoofing: Option<bool>,
    device_route_source: Option<Ipv4Addr>,
    device_route_source_v6: Option<Ipv6Addr>,
    device_route_protocol: Option<u8>,
    remove_external_routes: Option<bool>,
    service_loop_prevention: Option<ServiceLoopPrevention>,
    ipv6_support: Option<bool>,
    disable_conntrack_invalid_check: Option<bool>,
    conntrack: ConntrackTimeouts,
    /// `failsafeInboundHostPorts`: what policy can not close. `None`: not said.
    pub failsafe_inbound: Option<Vec<Failsafe>>,
    /// `failsafeOutboundHostPorts`: what policy can not keep a host from. `None`: not said.
    pub failsafe_outbound: Option<Vec<Failsafe>>,
}

impl FelixConfiguration {
    pub(crate) fn decode(meta: Meta, spec: &mut Fields<'_>, cx: &mut Context<'_>) -> Self {
        fn value<T>(located: Option<Located<T>>) -> Option<T> {
            located.map(|located| located.value)
        }
        if meta.name.value != "default"
            && !meta.name.value.starts_with("node.")
            && !meta.name.value.is_empty()
        {
            cx.report(
                Diagnostic::warning("this FelixConfiguration concerns no node")
                    .at(&meta.name.at, "only `default` and `node.<name>` are read"),
            );
        }
        let spoofing = [("Disabled", false), ("Any", true)];
        let this = Self {
            meta,
            vxlan_port: value(spec.get("vxlanPort", cx, decode::port)),
            vxlan_vni: value(spec.get("vxlanVNI", cx, decode::number(1..=0x00ff_ffff))),
            vxlan_mtu: value(spec.get("vxlanMTU", cx, mtu)),
            vxlan_mtu_v6: value(spec.get("vxlanMTUV6", cx, mtu)),
            ipip_mtu: value(spec.get("ipipMTU", cx, mtu)),
            ipip_enabled: value(spec.get("ipipEnabled", cx, decode::boolean)),
            vxlan_enabled: value(spec.get("vxlanEnabled", cx, decode::boolean)),
            allow_vxlan: value(spec.get("allowVXLANPacketsFromWorkloads", cx, decode::boolean)),
            allow_ipip: value(spec.get("allowIPIPPacketsFromWorkloads", cx, decode::boolean)),
            interface_prefixes: value(spec.get("interfacePrefix", cx, interface_prefixes)),
            external_nodes: value(spec.get(
                "externalNodesList",
                cx,
                decode::list(decode::address_in_subnet),
            ))
            .map(|list| list.into_iter().map(|net| net.value.trunc()).collect()),
            nat_outgoing_address: value(spec.get("natOutgoingAddress", cx, decode::ipv4)),
            nat_port_range: value(spec.get("natPortRange", cx, decode::port_range)),
            nat_outgoing_interfaces: value(spec.get(
                "iptablesNATOutgoingInterfaceFilter",
                cx,
                interface_filter,
            )),
            node_ports: value(spec.get("kubeNodePortRanges", cx, decode::list(decode::port_range)))
                .map(|list| list.into_iter().map(|range| range.value).collect()),
            nat_exclusions: value(spec.get(
                "natOutgoingExclusions",
                cx,
                decode::choice(&NatExclusions::WORDS, false),
            )),
            endpoint_to_host: value(spec.get(
                "defaultEndpointToHostAction",
                cx,
                decode::choice(&EndpointToHost::WORDS, false),
            )),
            workload_source_spoofing: value(spec.get(
                "workloadSourceSpoofing",
                cx,
                decode::choice(&spoofing, false),
            )),
            device_route_source: without_effect(spec, "deviceRouteSourceAddress", cx, decode::ipv4),
            device_route_source_v6: without_effect(
                spec,
                "deviceRouteSourceAddressIPv6",
                cx,
                decode::ipv6,
            ),
            device_route_protocol: value(spec.get(
                "deviceRouteProtocol",
                cx,
                decode::number(1..=255u8),
            )),
            remove_external_routes: value(spec.get("removeExternalRoutes", cx, decode::boolean)),
            service_loop_prevention: value(spec.get(
                "serviceLoopPrevention",
                cx,
                decode::choice(&ServiceLoopPrevention::WORDS, false),
            )),
            ipv6_support: without_effect(spec, "ipv6Support", cx, decode::boolean),
            disable_conntrack_invalid_check: value(spec.get(
                "disableConntrackInvalidCheck",
                cx,
                decode::boolean,
            )),
            conntrack: spec
                .get("bpfConntrackTimeouts", cx, ConntrackTimeouts::decode)
                .map_or_else(ConntrackTimeouts::default, |timeouts| timeouts.value),
            failsafe_inbound: failsafes(spec, "failsafeInboundHostPorts", cx),
            failsafe_outbound: failsafes(spec, "failsafeOutboundHostPorts", cx),
        };
        for name in ["wireguardEnabled", "wireguardEnabledV6"] {
            if let Some(on) = spec.get(name, cx, decode::boolean)
                && on.value
            {
                cx.report(
                    Diagnostic::error("WireGuard is not supported by this version").at(
                        &on.at,
                        "traffic that should be encrypted would travel in the clear",
                    ),
                );
            }
        }
        felix_fields::check(spec, cx);
        this
    }

    /// Puts what this configuration sets over what `settings` hold.
    pub fn apply(&self, settings: &mut FelixSettings) {
        fn set<T: Clone>(target: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        fn override_mtu(target: &mut Option<u16>, value: Option<u16>) {
            if let Some(mtu) = value {
                *target = (mtu != 0).then_some(mtu);
            }
        }
        fn override_with<T: Clone>(target: &mut Option<T>, value: Option<&T>) {
            if value.is_some() {
                *target = value.cloned();
            }
        }
        set(&mut settings.vxlan_port, self.vxlan_port.as_ref());
        set(&mut settings.vxlan_vni, self.vxlan_vni.as_ref());
        override_mtu(&mut settings.vxlan_mtu, self.vxlan_mtu);
        override_mtu(&mut settings.vxlan_mtu_v6, self.vxlan_mtu_v6);
        override_mtu(&mut settings.ipip_mtu, self.ipip_mtu);
        override_with(&mut settings.ipip_enabled, self.ipip_enabled.as_ref());
        override_with(&mut settings.vxlan_enabled, self.vxlan_enabled.as_ref());
        set(
            &mut settings.allow_vxlan_from_workloads,
            self.allow_vxlan.as_ref(),
        );
        set(
            &mut settings.allow_ipip_from_workloads,
            self.allow_ipip.as_ref(),
        );
        set(
            &mut settings.interface_prefixes,
            self.interface_prefixes.as_ref(),
        );
        set(&mut settings.external_nodes, self.external_nodes.as_ref());
        override_with(
            &mut settings.nat_outgoing_address,
            self.nat_outgoing_address.as_ref(),
        );
        override_with(&mut settings.nat_port_range, self.nat_port_range.as_ref());
        override_with(
            &mut settings.nat_outgoing_interfaces,
            self.nat_outgoing_interfaces.as_ref(),
        );
        set(&mut settings.node_ports, self.node_ports.as_ref());
        set(&mut settings.nat_exclusions, self.nat_exclusions.as_ref());
        set(
            &mut settings.endpoint_to_host,
            self.endpoint_to_host.as_ref(),
        );
        set(
            &mut settings.workload_source_spoofing,
            self.workload_source_spoofing.as_ref(),
        );
        override_with(
            &mut settings.device_route_source,
            self.device_route_source.as_ref(),
        );
        override_with(
            &mut settings.device_route_source_v6,
            self.device_route_source_v6.as_ref(),
        );
        set(
            &mut settings.device_route_protocol,
            self.device_route_protocol.as_ref(),
        );
        set(
            &mut settings.remove_external_routes,
            self.remove_external_routes.as_ref(),
        );
        set(
            &mut settings.service_loop_prevention,
            self.service_loop_prevention.as_ref(),
        );
        set(&mut settings.ipv6_support, self.ipv6_support.as_ref());
        set(
            &mut settings.disable_conntrack_invalid_check,
            self.disable_conntrack_invalid_check.as_ref(),
        );
        self.conntrack.apply(&mut settings.conntrack);
    }
}

/// `bpfConntrackTimeouts`, as far as it is given. `Auto` and what is left out leave our own timeouts in force
/// (Calico's field steers its BPF dataplane; this one stands in its place).
#[derive(Clone, Debug, Default, PartialEq)]
struct ConntrackTimeouts(Vec<(&'static str, Duration)>);

/// Sets what a field stands for.
type Set = fn(&mut Timeouts, Duration);

/// The fields, and what each sets.
const CONNTRACK: [(&str, Set); 7] = [
    ("tcpSynSent", |all, it| {
        (all.tcp_syn_sent, all.tcp_syn_received) = (it, it);
    }),
    ("tcpEstablished", |all, it| all.tcp_established = it),
    ("tcpFinsSeen", |all, it| {
        (all.tcp_last_ack, all.tcp_time_wait) = (it, it);
    }),
    ("tcpResetSeen", |all, it| all.tcp_close = it),
    ("udpTimeout", |all, it| {
        (all.udp_unreplied, all.udp_assured) = (it, it);
    }),
    ("genericTimeout", |all, it| all.generic = it),
    ("icmpTimeout", |all, it| all.icmp = it),
];

impl ConntrackTimeouts {
    fn decode(node: &Node, cx: &mut Context<'_>) -> Option<Self> {
        let mut fields = Fields::open(node, "bpfConntrackTimeouts", cx)?;
        let timeout = |node: &Node, cx: &mut Context<'_>| {
            let given = decode::text(node, cx)?;
            if given == "Auto" {
                return Some(None);
            }
            let timeout = decode::parse_duration(&given).filter(|timeout| !timeout.is_zero());
            if timeout.is_none() {
                let label = "such as `90s`, `1m30s` or `500ms`, or `Auto`";
                cx.error(&node.at, format!("not a timeout: `{given}`"), label);
            }
            Some(Some(timeout?))
        };
        let mut set = Vec::new();
        for (name, _) in CONNTRACK {
            let given = fields.get(name, cx, timeout).and_then(|given| given.value);
            set.extend(given.map(|timeout| (name, timeout)));
        }
        // Has no counterpart: the entries of a connection appear in pairs, and at once.
        let _ = fields.get("creationGracePeriod", cx, timeout);
        fields.finish(cx);
        Some(Self(set))
    }

    fn apply(&self, timeouts: &mut Timeouts) {
        for (name, timeout) in &self.0 {
            if let Some((_, set)) = CONNTRACK.iter().find(|(field, _)| field == name) {
                set(timeouts, (*timeout).min(Timeouts::LONGEST));
            }
        }
    }
}

fn failsafes(
    spec: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context<'_>,
) -> Option<Vec<Failsafe>> {
    let ports = spec.get(name, cx, decode::list(failsafe))?;
    Some(ports.value.into_iter().map(|port| port.value).collect())
}

/// A failsafe port; without a protocol it is TCP.
fn failsafe(node: &Node, cx: &mut Context<'_>) -> Option<Failsafe> {
    let mut fields = Fields::open(node, "a port", cx)?;
    let protocols = [
        ("tcp", Protocol::TCP),
        ("udp", Protocol::UDP),
        ("sctp", Protocol::SCTP),
    ];
    let protocol = fields.get("protocol", cx, decode::choice(&protocols, false));
    let port = fields.require("port", cx, decode::number(0..=65535u16));
    let net = fields.get("net", cx, decode::address_in_subnet);
    fields.finish(cx);
    Some(Failsafe {
        protocol: protocol.map_or(Protocol::TCP, |protocol| protocol.value),
        port: port?.value,
        net: net.map(|net| net.value.trunc()),
    })
}

/// `iptablesNATOutgoingInterfaceFilter`: what iptables' `-o` takes, in Felix's letters; empty: nothing is asked for.
fn interface_filter(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let given = decode::text(node, cx).filter(|given| !given.is_empty())?;
    let known = |c: char| c.is_ascii_alphanumeric() || ":._+-".contains(c);
    if !(1..=15).contains(&given.len()) || !given.chars().all(known) {
        let label = "such as `eth0`, or `eth+` for all that begin so";
        cx.error(&node.at, "not an interface's name", label);
        return None;
    }
    Some(given)
}

/// An MTU; 0 means "choose", as in Calico. IPv4 needs 68 at least (RFC 791).
fn mtu(node: &Node, cx: &mut Context<'_>) -> Option<u16> {
    let value = decode::number(0..=65535u16)(node, cx)?;
    if (1..68).contains(&value) {
        let label = "must be 68 or more, or 0 to choose it from the uplink's";
        cx.error(&node.at, "MTU too small", label);
        return None;
    }
    Some(value)
}

/// `interfacePrefix`: one prefix or several with commas between.
fn interface_prefixes(node: &Node, cx: &mut Context<'_>) -> Option<Vec<String>> {
    let given = decode::name(node, cx)?;
    let prefixes: Vec<String> = given
        .split(',')
        .map(|part| part.trim().to_owned())
        .collect();
    if prefixes
        .iter()
        .any(|prefix| prefix.is_empty() || prefix.len() > 14)
    {
        cx.error(
            &node.at,
            "not a list of interface prefixes",
            "such as `cali` or `cali,tap`",
        );
        return None;
    }
    Some(prefixes)
}
