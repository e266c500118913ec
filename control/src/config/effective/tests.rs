use super::*;
use crate::config::load_sources;

/// A value for each setting that is not its default, as it is written.
const SAMPLES: [(&str, &str, &str); 34] = [
    ("allowIPIPPacketsFromWorkloads", "true", "true"),
    ("allowVXLANPacketsFromWorkloads", "true", "true"),
    ("bpfConntrackTimeouts.genericTimeout", "1s", "1s"),
    ("bpfConntrackTimeouts.icmpTimeout", "2s", "2s"),
    ("bpfConntrackTimeouts.tcpEstablished", "3s", "3s"),
    ("bpfConntrackTimeouts.tcpFinsSeen", "4s", "4s"),
    ("bpfConntrackTimeouts.tcpResetSeen", "1500ms", "1500ms"),
    ("bpfConntrackTimeouts.tcpSynSent", "6s", "6s"),
    ("bpfConntrackTimeouts.udpTimeout", "7s", "7s"),
    ("defaultEndpointToHostAction", "Accept", "Accept"),
    ("disableConntrackInvalidCheck", "true", "true"),
    ("externalNodesList", "[192.0.2.0/24]", "[\"192.0.2.0/24\"]"),
    (
        "failsafeInboundHostPorts",
        "[{protocol: UDP, port: 7}]",
        "[\"UDP 7\"]",
    ),
    ("failsafeOutboundHostPorts", "[]", "[]"),
    ("interfacePrefix", "'cali,tap'", "cali,tap"),
    ("ipipEnabled", "false", "false"),
    ("ipipMTU", "1400", "1400"),
    ("iptablesNATOutgoingInterfaceFilter", "eth+", "eth+"),
    ("kubeNodePortRanges", "['20000:20010']", "[\"20000:20010\"]"),
    ("natOutgoingAddress", "192.0.2.9", "192.0.2.9"),
    (
        "natOutgoingExclusions",
        "IPPoolsAndHostIPs",
        "IPPoolsAndHostIPs",
    ),
    ("natPortRange", "'1024:2000'", "1024:2000"),
    ("serviceLoopPrevention", "Reject", "Reject"),
    ("vxlanEnabled", "true", "true"),
    ("vxlanMTU", "1410", "1410"),
    ("vxlanMTUV6", "1420", "1420"),
    ("vxlanPort", "4790", "4790"),
    ("vxlanVNI", "7", "7"),
    ("workloadSourceSpoofing", "Any", "Any"),
    ("deviceRouteProtocol", "81", "81"),
    ("deviceRouteSourceAddress", "192.0.2.8", "192.0.2.8"),
    (
        "deviceRouteSourceAddressIPv6",
        "'2001:db8::8'",
        "2001:db8::8",
    ),
    ("ipv6Support", "false", "false"),
    ("removeExternalRoutes", "false", "false"),
];

/// A FelixConfiguration that says one thing.
fn felix(name: &str, setting: &str, written: &str) -> String {
    let spec = match setting.split_once('.') {
        Some((map, field)) => format!("{map}: {{{field}: {written}}}"),
        None => format!("{setting}: {written}"),
    };
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n"
    )
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The value of a setting, and where it is from: resource and line.
fn found(text: &str, name: &str) -> (String, Option<(String, usize)>) {
    let cluster = load_sources(&[Source::new("felix.yaml", text)]);
    let cluster = cluster.unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let all = of_resources(&cluster, "n1");
    let setting = all.iter().find(|it| it.name == name).expect("a setting");
    let given = setting.given.as_ref();
    let place = given.map(|it| {
        (
            it.resource.clone().unwrap_or_default(),
            it.at.line_and_column().0,
        )
    });
    (shown(&setting.value), place)
}

#[test]
fn each_setting_has_its_value_and_its_place_by_the_precedence_of_felix() {
    let cluster = load_sources(&[]).unwrap_or_default();
    let names: Vec<_> = of_resources(&cluster, "n1")
        .iter()
        .filter(|it| it.of == "FelixConfiguration")
        .map(|it| it.name)
        .collect();
    assert_eq!(names, SAMPLES.map(|(name, ..)| name), "a sample for each");
    for (name, written, value) in SAMPLES {
        let nothing = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n";
        let (default, place) = found(nothing, name);
        assert_eq!(place, None, "{name}");
        assert_ne!(default, value, "{name}: the sample is the default");
        let [all, own, other] =
            ["default", "node.n1", "node.n2"].map(|it| felix(it, name, written));
        let of = |resource: &str, line| Some((format!("FelixConfiguration {resource}"), line));
        assert_eq!(
            found(&all, name),
            (value.to_owned(), of("default", 6)),
            "{name}"
        );
        assert_eq!(
            found(&own, name),
            (value.to_owned(), of("node.n1", 6)),
            "{name}"
        );
        assert_eq!(
            found(&other, name),
            (default, None),
            "{name}: another node's"
        );
        // In whatever order they are read.
        assert_eq!(
            found(&format!("{all}{own}"), name).1,
            of("node.n1", 12),
            "{name}"
        );
        assert_eq!(
            found(&format!("{own}{all}"), name).1,
            of("node.n1", 6),
            "{name}"
        );
        // What is said of other things is no matter.
        let beside = felix("node.n1", "logSeverityScreen", "Info");
        assert_eq!(
            found(&format!("{all}{beside}"), name),
            (value.to_owned(), of("default", 6)),
            "{name}"
        );
    }
}

#[test]
fn what_says_nothing_is_not_the_source() {
    for (name, written) in [
        ("bpfConntrackTimeouts.udpTimeout", "Auto"),
        ("iptablesNATOutgoingInterfaceFilter", "''"),
        ("vxlanPort", "null"),
    ] {
        assert_eq!(
            found(&felix("default", name, written), name).1,
            None,
            "{name}"
        );
    }
    // This does: it takes away what `default` says.
    let both = format!(
        "{}{}",
        felix("default", "vxlanMTU", "1400"),
        felix("node.n1", "vxlanMTU", "0")
    );
    let own = ("FelixConfiguration node.n1".to_owned(), 12);
    assert_eq!(found(&both, "vxlanMTU"), ("null".to_owned(), Some(own)));
}

#[test]
fn a_list_of_resources_has_places_too() {
    let text = "apiVersion: projectcalico.org/v3\nkind: FelixConfigurationList\nitems:\n- apiVersion: projectcalico.org/v3\n  \
                kind: FelixConfiguration\n  metadata: {name: default}\n  spec:\n    vxlanPort: 4791\n- apiVersion: projectcalico.org/v3\n  \
                kind: FelixConfiguration\n  metadata: {name: node.n1}\n  spec:\n    vxlanVNI: 9\n";
    assert_eq!(found(text, "vxlanPort").1.unwrap().1, 8);
    assert_eq!(found(text, "vxlanVNI").1.unwrap().1, 13);
}

#[test]
fn prefixes_of_services_are_those_of_default() {
    let text = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec:\n  serviceClusterIPs:\n  - cidr: 10.96.0.0/12\n";
    let (value, place) = found(text, "serviceClusterIPs");
    assert_eq!(value, "[\"10.96.0.0/12\"]");
    assert_eq!(place, Some(("BGPConfiguration default".to_owned(), 6)));
    assert_eq!(
        found(
            &text.replace("name: default", "name: node.n1"),
            "serviceClusterIPs"
        )
        .1,
        None
    );
}

#[test]
fn each_setting_of_the_daemon_has_its_place() {
    let text = "nodeName: n\nresources: /r\nuplinks: [{interface: eth0, queues: 3, mode: copy}]\n\
                pollers:\n  cores: [2, 3]\npollMode: busy\nfailMode: open\noffload: kernel\nmaxPods: 10\n\
                frames:\n  total: 4096\n  size: 4096\n  uplinkRing: 512\n  podRing: 64\n\
                connections:\n  entries: 4096\n  entriesV6: 1024\n  perEndpointPercent: 50\n  pickUp: false\n  keep: false\n\
                reevaluateEstablished: true\nhostEndpoints: forwarded-only\ncontrolSocket: /s\nsource: felix\nfelixSocket: /f\nmtuFile: /m\n\
                kubernetes:\n  kubeconfig: /k\n  inCluster: false\n  server: https://s\n\
                metrics: off\nhealth: 127.0.0.1:1\nruleMetrics: true\n";
    let said = |text: &str| {
        let source = Source::new("/etc/caracal/caracal.yaml", text);
        let config = DaemonConfig::parse(&source).unwrap();
        of_daemon(&source, &config, "n")
    };
    let (all, defaults) = (said(text), said(""));
    for (setting, default) in all.iter().zip(&defaults) {
        let name = setting.name;
        assert!(default.given.is_none(), "{name}");
        let given = setting
            .given
            .as_ref()
            .unwrap_or_else(|| panic!("{name} has no place"));
        let last = name.rsplit('.').next().unwrap();
        assert!(
            given.at.line_text().trim_start().starts_with(last),
            "{name}: {:?}",
            given.at
        );
        assert!(
            setting.value != default.value || name == "nodeName",
            "{name}"
        );
    }
    // All that are read are shown.
    let example = include_str!("../../../examples/caracal.yaml").replace("#: ", "");
    let source = Source::new("caracal.yaml", example);
    let known: Vec<_> = all.iter().map(|it| it.name).collect();
    for key in Places::of(&yaml::parse(&source).unwrap()[0]).leaves() {
        assert!(known.contains(&key), "{key} is not shown");
    }
}
