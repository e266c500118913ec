//! A node's worth of Calico policies: a thousand endpoints, five thousand policies, IP sets of ten thousand.

use std::collections::HashSet;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use benches::alloc;
use benches::rng::{Rng, Zipf};
use benches::rounds::{Contender, Result, interleave};
use benches::setup::Setup;
use benches::table::Table;
use flowtable::acl::{
    Action, Chain, ChainSpec, Compiler, L4, Member, Members, Net, Policy, PortRange, Rule, RuleId,
    SetId, SetWriter, Sets, Side, Tier, TierDefault, Tuple, Verdict,
};
use flowtable::lpm::Prefix4;

/// New connections of a pass.
const CONNECTIONS: usize = 1 << 16;

/// Connections whose addresses are looked up together.
const BATCH: usize = 64;

/// Addresses of pods of the whole cluster.
const PODS: usize = 60_000;

/// Workloads of the whole cluster: the pods of one have the same labels.
const WORKLOADS: usize = 2_000;

/// Members of a set, at least.
const MEMBERS: usize = 10_000;

/// What a cluster looks like to one node.
pub(crate) struct Shape {
    pub(crate) endpoints: usize,
    pub(crate) policies: usize,
    /// Policies that each endpoint applies, of its namespace and of all.
    pub(crate) own: usize,
    /// Endpoints of one workload, as the replicas of a deployment, apply the same policies.
    pub(crate) workloads: usize,
    pub(crate) sets: usize,
}

/// Policies of a tier, which endpoints share.
pub(crate) type List = Arc<[Arc<Policy>]>;

/// What an endpoint applies to what it sends and what it receives.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) egress: ChainSpec,
    pub(crate) ingress: ChainSpec,
}

fn pod(at: usize) -> u32 {
    0x0a00_0000 + at as u32
}

/// A policy as users write them: a few rules, most with a port and a selector.
pub(crate) fn policy(rng: &mut Rng, id: &mut u32, sets: usize, ingress: bool) -> Arc<Policy> {
    let popular = Zipf::new(sets);
    let rules = (0..=rng.below(4)).map(|_| {
        *id += 1;
        let far = match rng.below(10) {
            0 => Side {
                nets: vec![Net::V4(
                    Prefix4::containing(0x0a00_0000 | rng.next_u64() as u32 >> 12, 24)
                        .unwrap_or(Prefix4::DEFAULT),
                )],
                ..Side::default()
            },
            1 => Side::default(),
            _ => Side {
                sets: vec![SetId(popular.draw(rng) as u32)],
                ..Side::default()
            },
        };
        let ports = match rng.below(10) {
            0 => Vec::new(),
            1 => vec![PortRange {
                first: 30_000,
                last: 32_767,
            }],
            _ => {
                let port = [80, 443, 8080, 53, 5432, 9090, 6379, 3306, 8443, 9100];
                vec![PortRange::one(port[rng.below(port.len())])]
            }
        };
        let protocol = (!ports.is_empty()).then(|| if rng.below(5) == 0 { 17 } else { 6 });
        let (source, destination) = if ingress {
            (
                far,
                Side {
                    ports,
                    ..Side::default()
                },
            )
        } else {
            (Side::default(), Side { ports, ..far })
        };
        Rule {
            id: RuleId(*id),
            action: if rng.below(12) == 0 {
                Action::Deny
            } else {
                Action::Allow
            },
            protocol,
            source,
            destination,
            ..Rule::default()
        }
    });
    Arc::new(Policy {
        rules: rules.collect(),
    })
}

/// Policies in both directions, and the endpoints that apply them: a platform tier that passes, the default
/// tier, a profile that allows.
pub(crate) fn node(shape: &Shape) -> (Vec<[Arc<Policy>; 2]>, Vec<Endpoint>) {
    let mut rng = Rng::new(5);
    let mut id = 0;
    let policies: Vec<[Arc<Policy>; 2]> = (0..shape.policies)
        .map(|_| [false, true].map(|ingress| policy(&mut rng, &mut id, shape.sets, ingress)))
        .collect();
    let profile = Arc::new(Policy {
        rules: vec![Rule {
            id: RuleId(u32::MAX),
            action: Action::Allow,
            ..Rule::default()
        }],
    });
    let platform = [0, 1].map(|direction| -> Arc<[_]> {
        policies
            .iter()
            .take(5)
            .map(|it| Arc::clone(&it[direction]))
            .collect()
    });
    let profiles: Arc<[_]> = [profile].into();
    let workloads: Vec<Endpoint> = (0..shape.workloads)
        .map(|_| {
            let mut chosen: Vec<usize> =
                (0..shape.own).map(|_| rng.below(policies.len())).collect();
            chosen.sort_unstable();
            chosen.dedup();
            let chain = |direction: usize| {
                let own = chosen
                    .iter()
                    .map(|&at| Arc::clone(&policies[at][direction]));
                ChainSpec {
                    tiers: vec![
                        Tier {
                            policies: Arc::clone(&platform[direction]),
                            default: TierDefault::Pass,
                        },
                        Tier {
                            policies: own.collect(),
                            default: TierDefault::Deny,
                        },
                    ],
                    profiles: Arc::clone(&profiles),
                    ..ChainSpec::default()
                }
            };
            Endpoint {
                egress: chain(0),
                ingress: chain(1),
            }
        })
        .collect();
    let endpoints = workloads.iter().cycle().take(shape.endpoints);
    let endpoints = endpoints.cloned().collect();
    (policies, endpoints)
}

/// Sets as selectors make them: each selects some of the cluster's workloads, and all pods of those.
fn ip_sets(count: usize) -> Result<SetWriter> {
    let mut rng = Rng::new(9);
    let mut sets = SetWriter::default();
    for set in 0..count {
        let mut members = HashSet::new();
        while members.len() < MEMBERS {
            let workload = rng.below(WORKLOADS);
            let pods = (workload..PODS).step_by(WORKLOADS);
            members.extend(pods.map(|at| host(pod(at))));
        }
        sets.replace(SetId(set as u32), &members.into_iter().collect::<Vec<_>>())?;
    }
    Ok(sets)
}

/// A new connection between two endpoints of the node, or from one of the cluster.
struct Connection {
    from: usize,
    to: usize,
    tuple: Tuple<u32>,
}

fn connections(endpoints: usize) -> Vec<Connection> {
    let mut rng = Rng::new(11);
    (0..CONNECTIONS)
        .map(|_| {
            let (from, to) = (rng.below(endpoints), rng.below(endpoints));
            let port = [
                80, 443, 8080, 53, 5432, 9090, 6379, 3306, 8443, 9100, 31_000, 22,
            ];
            Connection {
                from,
                to,
                tuple: Tuple {
                    source: pod(rng.below(PODS)),
                    destination: pod(rng.below(PODS)),
                    protocol: if rng.below(5) == 0 { 17 } else { 6 },
                    l4: L4::Ports {
                        source: 32_768 + rng.below(28_000) as u16,
                        destination: port[rng.below(port.len())],
                    },
                },
            }
        })
        .collect()
}

/// Both legs of new connections.
pub(crate) fn run(setup: &Setup) -> Result<()> {
    if !setup.wants("calico") {
        return Ok(());
    }
    println!("## calico: both legs of a new connection\n");
    for (name, own, workloads) in [
        ("100 workloads, 50 policies each", 50, 100),
        ("1000 workloads, 10 policies each", 10, 1000),
        ("1000 workloads, 50 policies each", 50, 1000),
    ] {
        let shape = Shape {
            endpoints: 1000,
            policies: 5000,
            own,
            workloads,
            sets: 200,
        };
        let (_, endpoints) = node(&shape);
        let (sets, set_memory) = alloc::measure(|| ip_sets(shape.sets));
        let sets = sets?.snapshot();
        let mut compiler = Compiler::default();
        let (chains, memory) = alloc::measure(|| -> Result<Vec<[Chain; 2]>> {
            endpoints
                .iter()
                .map(|it| Ok([compiler.chain(&it.egress)?, compiler.chain(&it.ingress)?]))
                .collect()
        });
        let chains = chains?;
        let connections = connections(shape.endpoints);
        let allowed = connections
            .iter()
            .filter(|it| legs(&chains, &sets, it).iter().all(|verdict| verdict.allow))
            .count();
        println!(
            "{name}: {allowed} of {CONNECTIONS} connections allowed; chains {:.1} MB, sets {:.1} MB\n",
            memory.kept_bytes as f64 / 1e6,
            set_memory.kept_bytes as f64 / 1e6
        );
        let mut contenders = [
            Contender::here("addresses once, 64 at a time", || {
                for some in connections.as_chunks::<BATCH>().0 {
                    classify(&chains, &sets, some);
                }
            }),
            Contender::here("one by one", || {
                for it in &connections {
                    black_box(legs(&chains, &sets, it));
                }
            }),
        ];
        let all = interleave(setup.rounds, CONNECTIONS, &mut contenders)?;
        println!("{}", Table::of_series(name, "ns", &all));
    }
    Ok(())
}

/// Looks the addresses up once for both legs, then asks both chains.
fn classify(chains: &[[Chain; 2]], sets: &Sets, some: &[Connection; BATCH]) {
    let mut sources = [Members::NONE; BATCH];
    let mut destinations = [Members::NONE; BATCH];
    sets.members_batch(&some.each_ref().map(|it| it.tuple.source), &mut sources);
    sets.members_batch(
        &some.each_ref().map(|it| it.tuple.destination),
        &mut destinations,
    );
    for ((it, source), destination) in some.iter().zip(&sources).zip(&destinations) {
        let leg = |chain: &Chain| chain.classify_known(sets, &it.tuple, source, destination);
        black_box([leg(&chains[it.from][0]), leg(&chains[it.to][1])]);
    }
}

fn legs(chains: &[[Chain; 2]], sets: &Sets, it: &Connection) -> [Verdict; 2] {
    [
        chains[it.from][0].classify(sets, &it.tuple),
        chains[it.to][1].classify(sets, &it.tuple),
    ]
}

/// An address as a member.
pub(crate) fn host(addr: u32) -> Member {
    Member::Net(Net::V4(Prefix4::host(addr)))
}

/// An address, protocol and port as a member.
pub(crate) fn port(addr: u32, port: u16) -> Member {
    Member::Port {
        addr: IpAddr::V4(addr.into()),
        protocol: 6,
        port,
    }
}
