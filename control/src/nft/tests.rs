//! The script of a table, word for word, and of changes of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::sets::{Made, Sets};
use super::*;
use crate::config::{Source, load_sources};
use crate::policy::model::{IpSet, Model};
use crate::policy::rule::{
    Families, Family, IcmpMatch, IpSetId, Matches, PortRange, Ports, Protocol, Side,
};

const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node1-eth0, labels: {at: edge}}
spec: {node: node1, interfaceName: eth0, profiles: [open]}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: open}
spec: {egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: admins, labels: {who: admins}}
spec: {nets: [192.0.2.0/24, 192.0.2.7/32, 'fd00:a::/64']}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: guard}
spec: {order: 10, defaultAction: Pass}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: guard.edge}
spec:
  tier: guard
  selector: at == 'edge'
  types: [Ingress]
  ingress:
  - {action: Log, protocol: TCP, destination: {ports: [22]}}
  - {action: Deny, source: {notNets: [10.0.0.0/8]}, protocol: UDP, destination: {notPorts: [53, '1000:2000', 1500]}}
  - {action: Pass, source: {selector: who == 'admins'}}
  - {action: Deny, ipVersion: 6, protocol: ICMPv6, icmp: {type: 128}}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: staged}
spec: {selector: at == 'edge', types: [Ingress], ingress: [{action: Deny}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: at == 'edge'
  types: [Ingress]
  applyOnForward: true
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, 443]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: dns}
spec:
  selector: at == 'edge'
  doNotTrack: true
  applyOnForward: true
  types: [Ingress, Egress]
  ingress: [{action: Allow, protocol: UDP, destination: {ports: [53]}}]
  egress: [{action: Allow, protocol: UDP, source: {ports: [53]}}]
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: node-ports}
spec:
  selector: at == 'edge'
  preDNAT: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny, protocol: TCP, destination: {ports: ['30000:32767']}}]
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec:
  failsafeInboundHostPorts: [{protocol: TCP, port: 22}, {protocol: TCP, port: 6443, net: 10.0.0.0/8}]
  failsafeOutboundHostPorts: [{protocol: UDP, port: 53}]
";

fn model(resources: &str) -> Model {
    let cluster = load_sources(&[Source::new("hosts.yaml", resources)]).expect("resources");
    Model::clone(&cluster.policy)
}

fn rendered(model: &Model) -> Rendered {
    let view = View {
        model,
        node: "node1",
        interfaces: [("eth0".to_owned(), "node1-eth0".to_owned())].into(),
        wildcard: None,
        pod_prefixes: &["cali".to_owned()],
        pod_interfaces: ["cali1", "pod2"].map(str::to_owned).into(),
        pods: ["10.0.0.7/32".parse().expect("a prefix")].into(),
        peers: ["192.0.2.9/32".parse().expect("a prefix")].into(),
        vxlan: Some(4789),
    };
    render(&view, &mut KnownSets::default()).expect("a table")
}

/// `UPDATE_EXPECTED=1 cargo test -p control --lib nft` writes it anew; read the difference.
#[test]
fn the_script_is_what_was_agreed() {
    let script = rendered(&model(RESOURCES)).ruleset.replace();
    let path = Path::new("tests/golden/host-policy.nft");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(path, &script).expect("write");
    }
    let agreed = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(script, agreed);
}

#[test]
fn members_that_come_and_go_are_all_that_is_changed() {
    let before = rendered(&model(RESOURCES)).ruleset;
    let other = RESOURCES.replace("'fd00:a::/64'", "198.51.100.1/32, 'fd00:b::/64'");
    let after = rendered(&model(&other)).ruleset;
    let change = after.change(&before);
    let lines: Vec<_> = change.lines().collect();
    let [added, removed, added6] = lines[..] else {
        panic!("{change}")
    };
    assert!(
        added.starts_with("add element inet caracal nets4-")
            && added.ends_with(" { 198.51.100.1 }"),
        "{added}"
    );
    assert!(
        removed.starts_with("delete element inet caracal nets6-")
            && removed.ends_with(" { fd00:a::/64 }"),
        "{removed}"
    );
    assert!(added6.ends_with(" { fd00:b::/64 }"), "{added6}");
    assert_eq!(after.change(&after), "");
}

/// A set that gets its first prefix, or loses its last, is another set, and the rules that name it are changed with it.
#[test]
fn a_set_of_single_addresses_is_a_hash_set_until_it_gets_a_prefix() {
    let prefixes = rendered(&model(RESOURCES)).ruleset;
    let single = RESOURCES.replace("192.0.2.0/24, ", "198.51.100.1, ");
    let single = rendered(&model(&single)).ruleset;
    let id = "e855c3917c60193e";
    for (before, after, old, new, declared) in [
        (
            &prefixes,
            &single,
            "nets",
            "addresses",
            "{ type ipv4_addr; }",
        ),
        (
            &single,
            &prefixes,
            "addresses",
            "nets",
            "{ type ipv4_addr; flags interval; }",
        ),
    ] {
        let change = after.change(before);
        let say = |words: &str| format!("{words} element inet caracal");
        assert!(!change.contains(&say("delete")), "{change}");
        let lines: Vec<_> = change.lines().collect();
        assert_eq!(
            lines[0],
            format!("add set inet caracal {new}4-{id} {declared}")
        );
        assert!(lines[1].starts_with(&format!("add element inet caracal {new}4-{id} {{ ")));
        assert_eq!(
            lines[lines.len() - 1],
            format!("delete set inet caracal {old}4-{id}")
        );
        let flushed = lines.iter().filter(|line| line.starts_with("flush "));
        assert_eq!(flushed.count(), 1, "{change}");
        let rules: Vec<_> = lines.iter().filter(|line| line.contains('@')).collect();
        assert_eq!(rules.len(), 2, "{change}");
        assert!(
            rules[0].contains(&format!("ip saddr @{new}4-{id} ")),
            "{change}"
        );
        assert!(
            rules[1].contains(&format!("ip6 saddr @nets6-{id} ")),
            "{change}"
        );
        // What its rules have counted stays.
        assert_eq!(before.counters, after.counters);
    }
    let one_more = RESOURCES.replace("192.0.2.0/24, ", "198.51.100.1, 198.51.100.2, ");
    let one_more = rendered(&model(&one_more)).ruleset;
    assert_eq!(
        one_more.change(&single),
        format!("add element inet caracal addresses4-{id} {{ 198.51.100.2 }}\n")
    );
}

#[test]
fn a_rule_that_stays_keeps_its_counter_wherever_it_goes() {
    let before = rendered(&model(RESOURCES));
    let more = RESOURCES.replace(
        "  - {action: Log, protocol: TCP",
        "  - {action: Deny, protocol: 99}\n  - {action: Log, protocol: TCP",
    );
    let after = rendered(&model(&more));
    let gone: Vec<_> = before
        .ruleset
        .counters
        .difference(&after.ruleset.counters)
        .collect();
    assert!(gone.is_empty(), "{gone:?}");
    let change = after.ruleset.change(&before.ruleset);
    let flushed: BTreeSet<_> = change
        .lines()
        .filter_map(|line| line.strip_prefix("flush chain inet caracal "))
        .collect();
    assert_eq!(flushed, BTreeSet::from(["in/node1-eth0/0"]), "{change}");
}

#[test]
fn without_an_endpoint_there_is_no_table() {
    let none = rendered(&Model::default()).ruleset;
    assert!(none.is_empty());
    let before = rendered(&model(RESOURCES)).ruleset;
    assert_eq!(
        none.change(&before),
        "add table inet caracal\ndelete table inet caracal\n"
    );
    assert_eq!(none.change(&none), "");
}

#[test]
fn a_name_that_can_not_be_said_is_an_error() {
    let model = model(RESOURCES);
    let view = View {
        model: &model,
        node: "node1",
        interfaces: [("eth\"0".to_owned(), "node1-eth0".to_owned())].into(),
        wildcard: None,
        pod_prefixes: &[],
        pod_interfaces: BTreeSet::new(),
        pods: BTreeSet::new(),
        peers: BTreeSet::new(),
        vxlan: None,
    };
    let error = render(&view, &mut KnownSets::default()).unwrap_err();
    assert!(error.to_string().contains("eth\\\"0"), "{error}");
}

#[test]
fn sets_that_did_not_change_are_not_made_again() {
    let model = model(RESOURCES);
    let mut known = KnownSets::default();
    let view = View {
        model: &model,
        node: "node1",
        interfaces: [("eth0".to_owned(), "node1-eth0".to_owned())].into(),
        wildcard: None,
        pod_prefixes: &[],
        pod_interfaces: BTreeSet::new(),
        pods: BTreeSet::new(),
        peers: BTreeSet::new(),
        vxlan: None,
    };
    let [first, second] = [(); 2].map(|()| render(&view, &mut known).expect("a table").ruleset);
    let of = |ruleset: &Ruleset| {
        let set = ruleset
            .sets
            .iter()
            .find(|(name, _)| name.starts_with("nets4-"));
        match set.map(|(_, set)| set.members.clone()) {
            Some(Members::Nets(nets)) => nets,
            _ => panic!("no set"),
        }
    };
    assert!(Arc::ptr_eq(&of(&first), &of(&second)));
    assert!(
        model
            .ip_sets
            .values()
            .any(|set| matches!(&**set, IpSet::Nets(_)))
    );
}

#[test]
fn conditions_that_nft_has_no_words_for_become_lines() {
    let ports = Made::new(&Arc::new(IpSet::IpPorts(BTreeSet::new())));
    let sets = Sets::from([(IpSetId::from("web"), ports.clone())]);
    let web = |family| names::set(&IpSetId::from("web"), ports.part(family));
    let lines = |matches: Matches| matches::lines(&matches, &sets);
    let range = |first, last| PortRange { first, last };
    let to = |ports: Option<Ports>, not_ports: Option<Ports>| Side {
        ports,
        not_ports,
        ..Side::default()
    };
    let named = |name: &str, ranges: Vec<PortRange>| Ports {
        ranges,
        named: vec![IpSetId::from(name)],
    };
    assert_eq!(lines(Matches::default()), [""]);
    // A number or a name: two lines, and no packet is of both.
    let either = Matches {
        protocol: Some(Protocol::TCP),
        families: Families::Only(Family::V4),
        dst: to(Some(named("web", vec![range(80, 81), range(82, 90)])), None),
        ..Matches::default()
    };
    assert_eq!(
        lines(either),
        [
            "meta nfproto ipv4 meta l4proto 6 th dport 80-90".to_owned(),
            format!(
                "meta nfproto ipv4 meta l4proto 6 th dport != 80-90 ip daddr . meta l4proto . th dport @{}",
                web(Family::V4)
            ),
        ]
    );
    // What has no port has none of that name.
    let neither = Matches {
        families: Families::Only(Family::V6),
        dst: to(None, Some(named("web", Vec::new()))),
        ..Matches::default()
    };
    assert_eq!(
        lines(neither),
        [
            "meta nfproto ipv6 meta l4proto != { 6, 17, 132, 136 }".to_owned(),
            format!(
                "meta nfproto ipv6 meta l4proto {{ 6, 17, 132, 136 }} ip6 daddr . meta l4proto . th dport != @{}",
                web(Family::V6)
            ),
        ]
    );
    let not_icmp = Matches {
        families: Families::Only(Family::V4),
        not_icmp: Some(IcmpMatch {
            kind: 8,
            code: Some(0),
        }),
        ..Matches::default()
    };
    assert_eq!(lines(not_icmp).len(), 3);
    // A set that is not known holds nobody, and nobody is without it.
    for ports in [
        to(Some(named("gone", Vec::new())), None),
        to(None, Some(named("gone", Vec::new()))),
    ] {
        let gone = Matches {
            dst: ports,
            ..Matches::default()
        };
        assert_eq!(lines(gone), [""; 0]);
    }
    // A list of the other family only, and one that excludes everything.
    let one = |nets: Option<&str>, not_nets: &[&str]| Matches {
        families: Families::Only(Family::V4),
        src: Side {
            nets: nets.map(|net| vec![net.parse().expect("a prefix")]),
            not_nets: not_nets
                .iter()
                .map(|net| net.parse().expect("a prefix"))
                .collect(),
            ..Side::default()
        },
        ..Matches::default()
    };
    assert_eq!(lines(one(Some("fd00::/8"), &[])), [""; 0]);
    assert_eq!(lines(one(None, &["0.0.0.0/0"])), [""; 0]);
    assert_eq!(
        lines(one(None, &["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"])),
        ["meta nfproto ipv4 ip saddr != 10.0.0.0/8"]
    );
}
