//! Felix's settings: what its ConfigUpdate says, read as a FelixConfiguration is.
//!
//! ConfigUpdate has parameters by Felix's own names (`VXLANPort`), as texts in Felix's own forms (`tcp:22,udp:68`). They are
//! written as the `spec` that says the same, and decoded by the code that decodes files: one meaning, one set of checks.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::decode::{Context, Fields, digits};
use crate::config::kinds::FelixConfiguration;
use crate::config::resource::Meta;
use crate::config::{Diagnostics, Located, Source, yaml};
use crate::desired::FelixSettings;
use crate::policy::model::Settings;

/// In what form a parameter is given.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Number,
    Switch,
    /// Texts with commas between.
    List,
    /// `proto:[net:]port`, with commas between.
    Failsafes,
    /// `name=timeout`, with commas between.
    Timeouts,
}

/// The fields that are acted on or warned of. Felix's name of a field is the same in other letters, or in [`OTHER_NAMES`].
const FIELDS: [(&str, Form); 42] = [
    ("allowIPIPPacketsFromWorkloads", Form::Switch),
    ("allowVXLANPacketsFromWorkloads", Form::Switch),
    ("awsSrcDstCheck", Form::Text),
    ("bpfConntrackTimeouts", Form::Timeouts),
    ("bpfEnabled", Form::Switch),
    ("defaultEndpointToHostAction", Form::Text),
    ("deviceRouteProtocol", Form::Number),
    ("deviceRouteSourceAddress", Form::Text),
    ("deviceRouteSourceAddressIPv6", Form::Text),
    ("disableConntrackInvalidCheck", Form::Switch),
    ("externalNodesList", Form::List),
    ("failsafeInboundHostPorts", Form::Failsafes),
    ("failsafeOutboundHostPorts", Form::Failsafes),
    ("floatingIPs", Form::Text),
    ("interfacePrefix", Form::Text),
    ("ipipEnabled", Form::Switch),
    ("ipipMTU", Form::Number),
    ("iptablesFilterAllowAction", Form::Text),
    ("iptablesFilterDenyAction", Form::Text),
    ("iptablesMangleAllowAction", Form::Text),
    ("iptablesNATOutgoingInterfaceFilter", Form::Text),
    ("ipv6Support", Form::Switch),
    ("istioAmbientMode", Form::Text),
    ("kubeNodePortRanges", Form::List),
    ("natOutgoingAddress", Form::Text),
    ("natOutgoingExclusions", Form::Text),
    ("natPortRange", Form::Text),
    ("nftablesFilterAllowAction", Form::Text),
    ("nftablesFilterDenyAction", Form::Text),
    ("nftablesMangleAllowAction", Form::Text),
    ("removeExternalRoutes", Form::Switch),
    ("routeSyncDisabled", Form::Switch),
    ("serviceLoopPrevention", Form::Text),
    ("vxlanEnabled", Form::Switch),
    ("vxlanMTU", Form::Number),
    ("vxlanMTUV6", Form::Number),
    ("vxlanPort", Form::Number),
    ("vxlanVNI", Form::Number),
    ("wireguardEnabled", Form::Switch),
    ("wireguardEnabledV6", Form::Switch),
    ("workloadSourceSpoofing", Form::Text),
    ("wireguardHostEncryptionEnabled", Form::Switch),
];

/// Parameters whose name in files is another one.
const OTHER_NAMES: [(&str, &str); 3] = [
    ("ExternalNodesCIDRList", "externalNodesList"),
    ("IpInIpEnabled", "ipipEnabled"),
    ("IpInIpMtu", "ipipMTU"),
];

/// The fields of `bpfConntrackTimeouts`.
const TIMEOUTS: [&str; 8] = [
    "creationGracePeriod",
    "genericTimeout",
    "icmpTimeout",
    "tcpEstablished",
    "tcpFinsSeen",
    "tcpResetSeen",
    "tcpSynSent",
    "udpTimeout",
];

/// Settings in force, with what is remarkable about them.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) felix: FelixSettings,
    pub(super) policy: Settings,
    pub(super) remarks: Diagnostics,
}

/// What a ConfigUpdate sets, over Calico's defaults.
///
/// # Errors
/// What can not be honoured, or understood.
pub(super) fn settings(config: &BTreeMap<String, String>) -> Result<Given, Diagnostics> {
    let source = Source::new("Felix's settings", spec(config));
    let documents = yaml::parse(&source).map_err(|error| Diagnostics(vec![*error]))?;
    let mut given = Given::default();
    let Some(document) = documents.first() else {
        return Ok(given);
    };
    let mut cx = Context {
        diagnostics: &mut given.remarks,
        resource: "FelixConfiguration default".to_owned(),
    };
    let Some(mut fields) = Fields::open(document, "spec", &mut cx) else {
        return Err(given.remarks);
    };
    let meta = Meta {
        kind: "FelixConfiguration",
        name: Located {
            value: "default".to_owned(),
            at: document.at.clone(),
        },
        namespace: None,
        labels: BTreeMap::new(),
    };
    let configuration = FelixConfiguration::decode(meta, &mut fields, &mut cx);
    if given.remarks.has_errors() {
        return Err(given.remarks);
    }
    configuration.apply(&mut given.felix);
    given.policy = Settings::of(&given.felix, [&configuration]);
    Ok(given)
}

/// A parameter by its name in Felix, in whatever letters.
pub(super) fn parameter<'c>(config: &'c BTreeMap<String, String>, name: &str) -> Option<&'c str> {
    let mut all = config.iter();
    all.find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// The `spec` that says the same, one field a line.
fn spec(config: &BTreeMap<String, String>) -> String {
    let mut lines = Vec::new();
    for (name, form) in FIELDS {
        let other = OTHER_NAMES.iter().find(|(_, field)| *field == name);
        let given = parameter(config, other.map_or(name, |(felix, _)| *felix));
        if let Some(value) = given.and_then(|given| value(given, form)) {
            lines.push(format!("  {}: {value}", json!(name)));
        }
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// What a text stands for; none if for what is so without it.
fn value(given: &str, form: Form) -> Option<Value> {
    let is_none = given.is_empty() || given.eq_ignore_ascii_case("none");
    let list = || {
        let parts = given.split(',').map(str::trim);
        parts.filter(move |part| !is_none && !part.is_empty())
    };
    Some(match form {
        Form::List => list().map(Value::from).collect(),
        Form::Failsafes => list().map(failsafe).collect(),
        _ if is_none => return None,
        Form::Text => given.into(),
        Form::Number => digits::<i64>(given).map_or_else(|| given.into(), Value::from),
        Form::Switch => switch(given).map_or_else(|| given.into(), Value::from),
        Form::Timeouts => list().filter_map(timeout).collect::<Map<_, _>>().into(),
    })
}

/// Felix's words for true and false.
fn switch(given: &str) -> Option<bool> {
    match given.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// `22`, `tcp:22`, `tcp:10.0.0.0/8:22` or `tcp:[2001:db8::/32]:22`.
fn failsafe(given: &str) -> Value {
    let (before, port) = given.rsplit_once(':').unwrap_or(("tcp", given));
    let (protocol, net) = match before.split_once(':') {
        Some((protocol, net)) => (protocol, Some(net.trim_matches(['[', ']']))),
        None => (before, None),
    };
    let port = digits::<u16>(port).map_or_else(|| Value::from(port), Value::from);
    json!({ "protocol": protocol, "port": port, "net": net })
}

/// `TCPSynSent=20s`; what is not known is left out.
fn timeout(given: &str) -> Option<(String, Value)> {
    let (name, timeout) = given.split_once('=')?;
    let known = TIMEOUTS
        .iter()
        .find(|known| known.eq_ignore_ascii_case(name.trim()))?;
    Some(((*known).to_owned(), timeout.trim().into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::desired::{EndpointToHost, NatExclusions, ServiceLoopPrevention};
    use crate::policy::model::Failsafe;
    use crate::policy::rule::Protocol;

    fn given(config: &[(&str, &str)]) -> Result<Given, String> {
        let config = config
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        settings(&config.collect()).map_err(|errors| errors.render(false))
    }

    #[test]
    fn nothing_said_is_calicos_default() {
        let given = given(&[("CalicoVersion", "v3.33.0"), ("ClusterGUID", "x")]).unwrap();
        assert_eq!(given.felix, FelixSettings::default());
        assert_eq!(given.policy, Settings::default());
        assert!(given.remarks.0.is_empty());
    }

    #[test]
    fn every_setting_is_taken_in_felix_own_words() {
        let given = given(&[
            ("VXLANPort", "4790"),
            ("VXLANVNI", "7"),
            ("VXLANMTU", "1400"),
            ("VXLANMTUV6", "1380"),
            ("IpInIpMtu", "1440"),
            ("IpInIpEnabled", "false"),
            ("VXLANEnabled", "true"),
            ("AllowVXLANPacketsFromWorkloads", "1"),
            ("AllowIPIPPacketsFromWorkloads", "yes"),
            ("InterfacePrefix", "cali,tap"),
            ("ExternalNodesCIDRList", "192.0.2.0/24, 198.51.100.1"),
            ("NATOutgoingAddress", "192.0.2.9"),
            ("NATPortRange", "32768:65535"),
            ("IptablesNATOutgoingInterfaceFilter", "eth+"),
            ("KubeNodePortRanges", "30000:30010,31000"),
            ("NATOutgoingExclusions", "IPPoolsAndHostIPs"),
            ("DefaultEndpointToHostAction", "ACCEPT"),
            ("WorkloadSourceSpoofing", "Any"),
            ("DeviceRouteSourceAddress", "192.0.2.1"),
            ("DeviceRouteSourceAddressIPv6", "2001:db8::1"),
            ("DeviceRouteProtocol", "3"),
            ("RemoveExternalRoutes", "false"),
            ("ServiceLoopPrevention", "Disabled"),
            ("Ipv6Support", "false"),
            ("DisableConntrackInvalidCheck", "true"),
            ("BPFConntrackTimeouts", "TCPSynSent=7s,UDPTimeout=Auto"),
            (
                "FailsafeInboundHostPorts",
                "tcp:10.0.0.0/8:22,udp:68,179,tcp:[2001:db8::/32]:443",
            ),
            ("FailsafeOutboundHostPorts", "none"),
        ])
        .unwrap();
        let felix = given.felix;
        assert_eq!((felix.vxlan_port, felix.vxlan_vni), (4790, 7));
        let mtus = (felix.vxlan_mtu, felix.vxlan_mtu_v6, felix.ipip_mtu);
        assert_eq!(mtus, (Some(1400), Some(1380), Some(1440)));
        assert_eq!(
            (felix.ipip_enabled, felix.vxlan_enabled),
            (Some(false), Some(true))
        );
        assert!(felix.allow_vxlan_from_workloads && felix.allow_ipip_from_workloads);
        assert_eq!(felix.interface_prefixes, ["cali", "tap"]);
        assert_eq!(felix.external_nodes.len(), 2);
        assert_eq!(
            felix.nat_outgoing_address,
            Some("192.0.2.9".parse().unwrap())
        );
        assert_eq!(felix.nat_port_range, Some((32768, 65535)));
        assert_eq!(felix.nat_outgoing_interfaces.as_deref(), Some("eth+"));
        assert_eq!(felix.node_ports, [(30000, 30010), (31000, 31000)]);
        assert_eq!(felix.nat_exclusions, NatExclusions::IpPoolsAndHostIps);
        assert_eq!(felix.endpoint_to_host, EndpointToHost::Accept);
        assert!(felix.workload_source_spoofing && !felix.remove_external_routes);
        assert!(felix.device_route_source.is_some() && felix.device_route_source_v6.is_some());
        assert_eq!(felix.device_route_protocol, 3);
        assert_eq!(
            felix.service_loop_prevention,
            ServiceLoopPrevention::Disabled
        );
        assert!(!felix.ipv6_support && felix.disable_conntrack_invalid_check);
        assert_eq!(felix.conntrack.tcp_syn_sent, Duration::from_secs(7));
        let policy = given.policy;
        assert_eq!(policy.endpoint_to_host, EndpointToHost::Accept);
        assert_eq!(policy.vxlan_port, 4790);
        let port = |protocol, port, net: Option<&str>| Failsafe {
            protocol,
            port,
            net: net.map(|net| net.parse().unwrap()),
        };
        let expected = [
            port(Protocol::TCP, 22, Some("10.0.0.0/8")),
            port(Protocol::UDP, 68, None),
            port(Protocol::TCP, 179, None),
            port(Protocol::TCP, 443, Some("2001:db8::/32")),
        ];
        assert_eq!(policy.failsafe_inbound, expected);
        assert!(policy.failsafe_outbound.is_empty());
        let remarks = given.remarks.render(false);
        assert!(
            remarks.contains("`ipv6Support: false` has no effect"),
            "{remarks}"
        );
    }

    #[test]
    fn what_can_not_be_honoured_is_refused_by_name() {
        let error = given(&[("WireguardEnabled", "true")]).unwrap_err();
        assert!(error.contains("WireGuard is not supported"), "{error}");
        let error = given(&[("VXLANPort", "ninety")]).unwrap_err();
        assert!(
            error.contains("vxlanPort") && error.contains("Felix's settings"),
            "{error}"
        );
        let error = given(&[("FailsafeInboundHostPorts", "tcp:x")]).unwrap_err();
        assert!(error.contains("\"x\""), "{error}");
    }

    #[test]
    fn texts_stay_texts() {
        let given = given(&[("InterfacePrefix", "a\": 1, \"vxlanPort\": \"")]).unwrap();
        assert_eq!(given.felix.interface_prefixes[0], "a\": 1");
        assert_eq!(given.felix.vxlan_port, 4789);
    }
}
