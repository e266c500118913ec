//! What is shared, what is refused, and what keeps its number.

use std::path::Path;
use std::sync::Arc;

use fastpath::policy::{Decided, Decider, Direction as Dir, End, Judgement};
use fastpath::port::PortId;
use flowtable::acl::{L4, Tuple};

use super::*;
use crate::compile::PortSpec;
use crate::config::decode::Context;
use crate::config::{Diagnostics, Source, load_sources, read, yaml};
use crate::policy::legs::Leg;
use crate::policy::model::PolicyId;
use crate::policy::packet::{Packet, State};
use crate::policy::rule::Protocol;
use crate::policy::testing::calculated;
use crate::policy::verdict::{DefaultDenial, Outcome, Reason};

impl PolicyCompiler {
    /// What is in force, without what depends on what was in force before: rules and sets by their names, not numbers.
    pub(crate) fn normal_form(&self) -> String {
        use std::fmt::Write as _;
        let sets: BTreeMap<_, _> = self.model.ip_sets.iter().collect();
        let names: HashMap<_, _> = sets
            .iter()
            .filter_map(|(id, set)| Some((self.sets.number(id)?, (id, set))))
            .collect();
        let mut form = String::new();
        let lines = self.lines.iter().flat_map(|(id, lines)| {
            let directions = DIRECTIONS.into_iter().zip(lines);
            directions.map(move |(direction, line)| ((id, direction), line))
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort_by_key(|(key, _)| *key);
        for (key, line) in lines {
            let _ = writeln!(form, "{key:?}");
            let of_tiers = line.tiers.iter();
            let of_tiers = of_tiers.map(|(default, list)| (Some(*default), list));
            for (default, list) in of_tiers.chain([(None, &line.profiles)]) {
                let _ = writeln!(form, " {default:?}");
                for rule in list.iter().flat_map(|policy| &policy.rules) {
                    let mut rule = rule.clone();
                    let id = std::mem::replace(&mut rule.id, RuleId(0));
                    let _ = write!(form, "  {:?}", self.numbers.name(id));
                    for side in [&mut rule.source, &mut rule.destination] {
                        for list in [
                            &mut side.sets,
                            &mut side.not_sets,
                            &mut side.named_ports,
                            &mut side.not_named_ports,
                            &mut side.port_sets,
                        ] {
                            let list = std::mem::take(list);
                            let list: Vec<_> = list.iter().map(|id| names.get(id)).collect();
                            let _ = write!(form, " {list:?}");
                        }
                    }
                    let _ = writeln!(form, " {rule:?}");
                }
            }
        }
        let compiled: BTreeSet<_> = self.compiled.keys().collect();
        let lists: BTreeSet<usize> = self.lists.0.keys().map(Vec::len).collect();
        let _ = writeln!(form, "{compiled:?} {lists:?} {:?}", self.endpoints.keys());
        form
    }
}

const PODS: &str = "apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n}
spec: {bgp: {ipv4Address: 192.0.2.1/24}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: p}
spec: {cidr: 10.0.0.0/16}
";

fn pod(name: &str, last: u8) -> String {
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: n-k8s-{name}-eth0, namespace: default, labels: {{app: {name}}}}}
spec: {{orchestrator: k8s, node: n, pod: {name}, endpoint: eth0, interfaceName: cali{name}, ipNetworks: [10.0.0.{last}/32], profiles: [kns.default]}}
"
    )
}

fn policy(name: &str, of: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{selector: \"app == '{of}'\", types: [Ingress], ingress: [{rules}]}}
"
    )
}

fn model(policies: &[String]) -> Arc<Model> {
    let text = PODS.to_owned() + &pod("a", 1) + &pod("b", 2) + &policies.concat();
    let cluster = load_sources(&[Source::new("all.yaml", text)]);
    cluster
        .unwrap_or_else(|all| panic!("{}", all.render(false)))
        .policy
}

fn chain(compiler: &PolicyCompiler, pod: &str) -> usize {
    let [line, _] = &compiler.lines[&id(pod)];
    Arc::as_ptr(
        line.tiers
            .first()
            .and_then(|(_, all)| all.first())
            .expect("a policy"),
    ) as usize
}

fn id(pod: &str) -> WorkloadId {
    WorkloadId {
        orchestrator: "k8s".to_owned(),
        workload: format!("default/{pod}"),
        endpoint: "eth0".to_owned(),
    }
}

fn named(name: &str) -> PolicyId {
    PolicyId {
        kind: crate::policy::model::PolicyKind::Namespaced,
        namespace: Some("default".into()),
        name: name.into(),
    }
}

const ALLOW_B: &str = "{action: Allow, protocol: TCP, source: {selector: \"app == 'b'\"}, destination: {ports: [80]}}";
const ALLOW_ALL: &str = "{action: Allow}";

#[test]
fn what_does_not_change_keeps_its_form_and_its_numbers() {
    let mut compiler = PolicyCompiler::default();
    let of_a = policy("of-a", "a", &format!("{ALLOW_B}, {ALLOW_ALL}"));
    let before = model(&[of_a.clone(), policy("of-b", "b", ALLOW_ALL)]);
    compiler.update(&before, "n").unwrap();
    let (a, b) = (chain(&compiler, "a"), chain(&compiler, "b"));
    let numbers = compiler
        .rule_ids(&named("of-a"), Direction::Ingress)
        .to_vec();
    assert_eq!(numbers.len(), 2);
    let after = model(&[of_a, policy("of-b", "b", "{action: Deny}")]);
    compiler.update(&after, "n").unwrap();
    assert_eq!(chain(&compiler, "a"), a);
    assert_ne!(chain(&compiler, "b"), b);
    assert_eq!(
        compiler.rule_ids(&named("of-a"), Direction::Ingress),
        numbers
    );
    // Of a policy that changed, too, the rules that stayed.
    let changed = policy("of-a", "a", &format!("{ALLOW_B}, {{action: Deny}}"));
    compiler.update(&model(&[changed]), "n").unwrap();
    let now = compiler.rule_ids(&named("of-a"), Direction::Ingress);
    assert_eq!(now[0], numbers[0]);
    assert_ne!(now[1], numbers[1]);
    let gone = Decider::of(flowtable::acl::Reason::Rule(numbers[1]), Dir::Ingress);
    let reason = compiler.reason(gone).unwrap().to_string();
    assert!(
        reason.contains("of-a, ingress rule 2 (Allow), all.yaml:"),
        "{reason}"
    );
}

#[test]
fn over_the_limit_everything_stays_as_it_was() {
    let mut compiler = PolicyCompiler::default();
    compiler
        .update(&model(&[policy("p", "a", ALLOW_B)]), "n")
        .unwrap();
    let (rules, sets) = compiler.memory_bytes();
    for (rules, sets) in [(rules + 4096, sets << 8), (rules << 8, sets + 4096)] {
        let mut compiler = PolicyCompiler::with_limits(rules, sets);
        let small = model(&[policy("p", "a", ALLOW_B)]);
        compiler.update(&small, "n").unwrap();
        let (form, used) = (chain(&compiler, "a"), compiler.memory_bytes());
        let many: Vec<String> = (0..200)
            .map(|n| {
                let nets: Vec<_> = (0..20).map(|m| format!("10.{n}.{m}.0/24")).collect();
                format!("{{action: Allow, source: {{selector: \"x{n} == 'y' || app == 'b'\", nets: [{}]}}}}", nets.join(", "))
            })
            .collect();
        let nets: Vec<_> = (0..4000)
            .map(|n| format!("10.1.{}.{}/32", n / 250, n % 250))
            .collect();
        let set = format!(
            "---\napiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {{name: s, namespace: default, labels: {{x0: y}}}}\nspec: {{nets: [{}]}}\n",
            nets.join(", ")
        );
        let large = model(&[policy("p", "a", &many.join(", ")), set]);
        let error = compiler.update(&large, "n").unwrap_err();
        assert!(!error.to_string().is_empty());
        assert!(Arc::ptr_eq(compiler.model(), &small));
        assert_eq!(chain(&compiler, "a"), form);
        assert!(compiler.memory_bytes().0 <= used.0, "{error}");
        // It goes on from there.
        compiler
            .update(&model(&[policy("q", "b", ALLOW_ALL)]), "n")
            .unwrap();
    }
}

#[test]
fn other_nodes_endpoints_are_not_compiled() {
    let mut compiler = PolicyCompiler::default();
    compiler
        .update(&model(&[policy("p", "a", ALLOW_B)]), "elsewhere")
        .unwrap();
    assert!(compiler.lines.is_empty() && compiler.endpoint("calia").is_none());
}

/// The verdict on a packet that comes in by one interface, an uplink or none, and goes to a pod.
fn judged(compiler: &PolicyCompiler, interface: (&str, PortRole), packet: &Packet) -> Judgement {
    use std::net::IpAddr::{V4, V6};
    let mut ports = PortTable::default();
    ports.insert(port(interface.0, interface.1));
    let policies = compiler.policies(&ports, &|_| Vec::new());
    let l4 = match (packet.ports, packet.icmp) {
        (Some((source, destination)), _) => L4::Ports {
            source,
            destination,
        },
        (None, Some((kind, code))) => L4::Icmp { kind, code },
        (None, None) => L4::Other,
    };
    let protocol = packet.protocol.0;
    let (from, to) = match interface.1 {
        PortRole::Pod => (End::Elsewhere, End::Pod(PortId(0))),
        _ => (End::Uplink(PortId(0)), End::Elsewhere),
    };
    match (packet.src, packet.dst) {
        (V4(src), V4(dst)) => {
            let (source, destination) = (src.to_bits(), dst.to_bits());
            let tuple = Tuple {
                source,
                destination,
                protocol,
                l4,
            };
            policies.judge(&tuple, from, to, |_| ())
        }
        (V6(src), V6(dst)) => {
            let (source, destination) = (src.to_bits(), dst.to_bits());
            let tuple = Tuple {
                source,
                destination,
                protocol,
                l4,
            };
            policies.judge(&tuple, from, to, |_| ())
        }
        _ => panic!("two families"),
    }
}

fn port(name: &str, role: PortRole) -> PortSpec {
    PortSpec {
        name: name.to_owned(),
        ifindex: 1,
        mac: encap::eth::MacAddr([2; 6]),
        mtu: 1500,
        partial_checksums: false,
        role,
    }
}

/// Calico's own cases, but for those about the host's own packets: compiled, with the verdict and the reason that they
/// have in the evaluator.
#[test]
fn calicos_cases_have_the_verdicts_that_calico_expects() {
    let source = read(Path::new("tests/policy-cases/cases.json")).unwrap();
    let documents = yaml::parse(&source).unwrap();
    let mut diagnostics = Diagnostics::default();
    let mut cx = Context {
        diagnostics: &mut diagnostics,
        resource: String::new(),
    };
    let (mut pods, mut hosts, mut compiler) = (0, 0, PolicyCompiler::default());
    for group in calculated::decode(&documents[0], &mut cx) {
        compiler.update(&Arc::new(group.model.clone()), "").unwrap();
        for check in &group.checks {
            let is_hosts_own = |leg: &Leg| matches!(leg, Leg::HostNormal(..));
            if check.legs.iter().any(is_hosts_own) {
                continue;
            }
            let interface = if group.model.workloads.is_empty() {
                hosts += 1;
                ("eth0", PortRole::Uplink)
            } else {
                pods += 1;
                ("", PortRole::Pod)
            };
            let verdict = check.run(&group.model);
            let (outcome, decider) = match judged(&compiler, interface, &check.packet) {
                Judgement::Allow { source, .. } if interface.1 == PortRole::Uplink => {
                    (Outcome::Allow, source)
                }
                Judgement::Allow { destination, .. } => (Outcome::Allow, destination),
                Judgement::Deny { by, .. } => (Outcome::Deny, by),
            };
            let what = format!("{}: {}: {verdict:?}", group.name, check.way);
            assert_eq!(outcome, check.expected, "{what}");
            let reason = verdict.decided_by().map(|leg| leg.reason.clone());
            let decided = |it: &Reason| !matches!(it, Reason::NoPolicy | Reason::Undecided);
            let reason = reason.filter(decided);
            assert_eq!(compiler.reason(decider), reason, "{what}");
        }
    }
    assert!(pods > 100 && hosts > 10, "{pods} {hosts}");
}

fn hosts(default: &str) -> String {
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {{name: named, labels: {{is: host}}}}
spec: {{node: n, interfaceName: eth0}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {{name: by-address, labels: {{is: host}}}}
spec: {{node: n, expectedIPs: [192.0.2.1]}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {{name: others}}
spec: {{node: n, interfaceName: '*'}}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {{name: t}}
spec: {{order: 1, defaultAction: {default}}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: t.forward}}
spec: {{tier: t, selector: is == 'host', applyOnForward: true, types: [Ingress], ingress: [{{action: Allow, protocol: TCP}}]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: t.early}}
spec: {{tier: t, selector: is == 'host', preDNAT: true, applyOnForward: true, types: [Ingress], ingress: [{{action: Deny, protocol: SCTP}}]}}
"
    )
}

#[test]
fn host_endpoints_belong_to_interfaces_by_name_or_address_or_all() {
    let mut compiler = PolicyCompiler::default();
    let before = model(&[hosts("Deny")]);
    compiler.update(&before, "n").unwrap();
    let mut ports = PortTable::default();
    for (at, name) in ["eth0", "eth1", "eth2", "calia"].into_iter().enumerate() {
        let role = if name == "calia" {
            PortRole::Pod
        } else {
            PortRole::Uplink
        };
        ports.insert(PortSpec {
            ifindex: at as u32 + 1,
            ..port(name, role)
        });
    }
    let addresses = |ifindex| match ifindex {
        2 => vec!["192.0.2.1".parse().unwrap()],
        _ => Vec::new(),
    };
    let hosts_of = |compiler: &PolicyCompiler| compiler.policies(&ports, &addresses).hosts;
    let hosts = hosts_of(&compiler).expect("they have a say");
    let name = |end| hosts.of(end).map(|endpoint| endpoint.name.to_string());
    let uplink = |at| End::Uplink(PortId(at));
    assert_eq!(name(uplink(0)).as_deref(), Some("named"));
    assert_eq!(name(uplink(1)).as_deref(), Some("by-address"));
    for end in [uplink(2), End::Pod(PortId(3)), End::Elsewhere] {
        assert_eq!(name(end).as_deref(), Some("others"));
    }
    let named = hosts.of(uplink(0)).unwrap();
    assert!(named.ingress.is_some() && named.pre_dnat.is_some());
    assert!(named.egress.is_none() && named.untracked.is_none());
    let others = hosts.of(End::Elsewhere).unwrap();
    assert!(others.ingress.is_none(), "no policy selects it");
    // On another node, and where none has a say, there is nothing to ask.
    compiler.update(&before, "elsewhere").unwrap();
    assert!(hosts_of(&compiler).is_none());
    compiler.update(&model(&[]), "n").unwrap();
    assert!(hosts_of(&compiler).is_none());
}

#[test]
fn ends_of_tiers_keep_their_numbers_and_are_counted() {
    let mut compiler = PolicyCompiler::default();
    compiler.update(&model(&[hosts("Deny")]), "n").unwrap();
    let eth0 = ("eth0", PortRole::Uplink);
    let by = |compiler: &PolicyCompiler| {
        let packet = Packet {
            src: "203.0.113.1".parse().unwrap(),
            dst: "10.0.0.1".parse().unwrap(),
            protocol: Protocol::UDP,
            ports: Some((40_000, 53)),
            icmp: None,
            original_dst: None,
            state: State::New,
        };
        match judged(compiler, eth0, &packet) {
            Judgement::Deny { by, .. } => Some(by),
            Judgement::Allow { .. } => None,
        }
    };
    let end = by(&compiler).expect("the end of the tier");
    let said = compiler.reason(end).unwrap().to_string();
    assert_eq!(
        said,
        "no rule matched in tier t; GlobalNetworkPolicy t.forward selects this endpoint, all.yaml:43"
    );
    // Something else changes, and what does not is as it was.
    let more = model(&[hosts("Deny"), policy("p", "a", ALLOW_ALL)]);
    let before = compiler.policies(&PortTable::default(), &|_| Vec::new());
    compiler.update(&more, "n").unwrap();
    assert_eq!(by(&compiler), Some(end));
    assert!(before.hosts.is_some());
    let Decided::Rule(id) = end.decided() else {
        panic!("a number")
    };
    assert_eq!(compiler.counters().get(id).connections, 2);
    assert!(compiler.denying().any(|(it, ..)| it == id));
    compiler.update(&model(&[hosts("Pass")]), "n").unwrap();
    assert_eq!(by(&compiler), None);
}

#[test]
fn what_denies_by_default_is_counted_and_keeps_its_number() {
    let mut compiler = PolicyCompiler::default();
    let policies = [policy("of-a", "a", ALLOW_B), policy("of-b", "b", ALLOW_ALL)];
    compiler.update(&model(&policies), "n").unwrap();
    let end = |name: &str| DefaultDenial::EndOfTier {
        tier: "default".into(),
        policy: named(name),
    };
    let number =
        |compiler: &PolicyCompiler, denial| compiler.default_id(denial, Direction::Ingress);
    let before = number(&compiler, end("of-a")).unwrap();
    assert_ne!(number(&compiler, end("of-b")), Some(before));
    let packet = Packet {
        src: "192.0.2.9".parse().unwrap(),
        dst: "10.0.0.1".parse().unwrap(),
        protocol: Protocol::TCP,
        ports: Some((40_000, 80)),
        icmp: None,
        original_dst: None,
        state: State::New,
    };
    let denied = |judgement| match judgement {
        Judgement::Deny { by, .. } => Some(by),
        Judgement::Allow { .. } => None,
    };
    let by = denied(judged(&compiler, ("calia", PortRole::Pod), &packet));
    assert_eq!(by, Some(Decider::rule(before)));
    assert_eq!(compiler.counters().get(before).connections, 1);
    let said = |compiler: &PolicyCompiler| {
        let found = compiler.denying().find(|(id, ..)| *id == before);
        found.map(|(_, reason, direction)| (reason.to_string(), direction))
    };
    let text = |line| {
        format!(
            "no rule matched in tier default; NetworkPolicy default/of-a selects this endpoint, all.yaml:{line}"
        )
    };
    assert_eq!(said(&compiler), Some((text(23), Direction::Ingress)));
    // The same policy in another place.
    let moved = policies.clone().map(|policy| format!("# Moved.\n{policy}"));
    compiler.follow_places(&model(&moved));
    assert_eq!(said(&compiler), Some((text(24), Direction::Ingress)));
    // Another policy comes, and another interface has no policy at all.
    compiler.update(&model(&policies[..1]), "n").unwrap();
    assert_eq!(number(&compiler, end("of-a")), Some(before));
    assert_eq!(number(&compiler, end("of-b")), None);
    let by = denied(judged(&compiler, ("calix", PortRole::Pod), &packet));
    assert_eq!(
        compiler.reason(by.expect("a denial")),
        Some(Reason::UnknownEndpoint)
    );
    let unknown = number(&compiler, DefaultDenial::UnknownEndpoint).unwrap();
    assert_eq!(compiler.counters().get(unknown).connections, 1);
}
