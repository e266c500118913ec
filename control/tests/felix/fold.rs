//! What a state holds depends on the last word about each thing only.

use std::collections::BTreeMap;

use control::felix::proto::{self, Payload};
use control::policy::model::{PolicyId, PolicyKind, Workload, WorkloadId};
use proptest::prelude::*;

use crate::felix_encoder::{self as encoder, Generation};
use crate::{calculated, told};

/// A thing that messages are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Set(u8),
    Profile(u8),
    Policy(u8),
    Pod(u8),
    Host(u8),
    Route(u8),
    Vtep(u8),
    Pool(u8),
    /// A node's address, by one of the messages that say it.
    Address(u8, u8),
    Config,
    Services,
}

/// What is said of it.
#[derive(Clone, Debug)]
enum Word {
    /// What it is now; the number tells one from another.
    Is(u8),
    /// Members of a set that come and go, as bits.
    Changes {
        come: u8,
        go: u8,
    },
    Goes,
}

type Said = (Thing, Word);

fn members(bits: u8) -> Vec<String> {
    let bits = (0..8).filter(move |bit| bits & (1 << bit) != 0);
    bits.map(|bit| format!("10.0.{bit}.0/24")).collect()
}

fn policy_id(name: u8) -> PolicyId {
    PolicyId {
        kind: if name == 0 {
            PolicyKind::Namespaced
        } else {
            PolicyKind::StagedGlobal
        },
        namespace: (name == 0).then(|| "ns".into()),
        name: format!("p{name}").as_str().into(),
    }
}

fn rules(number: u8) -> Vec<proto::Rule> {
    vec![proto::Rule {
        action: "allow".to_owned(),
        src_ip_set_ids: vec![format!("s{}", number % 3)],
        // Now and then it is not to be understood.
        ip_version: if number % 7 == 6 { 5 } else { 0 },
        ..proto::Rule::default()
    }]
}

fn workload_id(name: u8) -> WorkloadId {
    WorkloadId {
        orchestrator: "k8s".to_owned(),
        workload: format!("ns/pod-{name}"),
        endpoint: "eth0".to_owned(),
    }
}

/// As a message of a generation.
fn message((thing, word): &Said, generation: Generation) -> Payload {
    let is_old = generation == Generation::V3_31;
    match (*thing, word) {
        (Thing::Set(name), Word::Is(bits)) => Payload::IpSetUpdate(proto::IpSetUpdate {
            id: format!("s{name}"),
            members: members(*bits),
            kind: 2,
        }),
        (Thing::Set(name), Word::Changes { come, go }) => {
            Payload::IpSetDeltaUpdate(proto::IpSetDeltaUpdate {
                id: format!("s{name}"),
                added_members: members(*come),
                removed_members: members(*go),
            })
        }
        (Thing::Set(name), Word::Goes) => Payload::IpSetRemove(proto::IpSetRemove {
            id: format!("s{name}"),
        }),
        (Thing::Profile(name), Word::Goes) => {
            Payload::ActiveProfileRemove(proto::ActiveProfileRemove {
                id: Some(proto::ProfileId {
                    name: format!("f{name}"),
                }),
            })
        }
        (Thing::Profile(name), Word::Is(number)) => {
            Payload::ActiveProfileUpdate(proto::ActiveProfileUpdate {
                id: Some(proto::ProfileId {
                    name: format!("f{name}"),
                }),
                profile: Some(proto::Profile {
                    inbound_rules: rules(*number),
                    outbound_rules: Vec::new(),
                }),
            })
        }
        (Thing::Policy(name), Word::Goes) => {
            Payload::ActivePolicyRemove(proto::ActivePolicyRemove {
                id: Some(encoder::policy_id(&policy_id(name), "default", generation)),
            })
        }
        (Thing::Policy(name), Word::Is(number)) => {
            Payload::ActivePolicyUpdate(proto::ActivePolicyUpdate {
                id: Some(encoder::policy_id(&policy_id(name), "default", generation)),
                policy: Some(proto::Policy {
                    outbound_rules: rules(*number),
                    tier: if is_old {
                        String::new()
                    } else {
                        "default".to_owned()
                    },
                    ..proto::Policy::default()
                }),
            })
        }
        (Thing::Pod(name), Word::Goes) => {
            Payload::WorkloadEndpointRemove(proto::WorkloadEndpointRemove {
                id: Some(encoder::workload_id(&workload_id(name))),
            })
        }
        (Thing::Pod(name), Word::Is(number)) => {
            let pod = Workload {
                // Two may claim one interface, or an uplink.
                interface: ["cali0", "cali1", "eth0"][usize::from(number % 3)].to_owned(),
                active: number % 2 == 0,
                nets: vec![format!("10.1.0.{number}/32").parse().unwrap()],
                profiles: vec![format!("f{name}")],
                ..Workload::default()
            };
            encoder::workload(&workload_id(name), &pod, None, generation)
        }
        (Thing::Host(name), Word::Goes) => Payload::HostEndpointRemove(proto::HostEndpointRemove {
            id: Some(proto::HostEndpointId {
                endpoint_id: format!("h{name}"),
            }),
        }),
        (Thing::Host(name), Word::Is(number)) => {
            Payload::HostEndpointUpdate(proto::HostEndpointUpdate {
                id: Some(proto::HostEndpointId {
                    endpoint_id: format!("h{name}"),
                }),
                endpoint: Some(proto::HostEndpoint {
                    name: format!("eth{number}"),
                    ..proto::HostEndpoint::default()
                }),
            })
        }
        (Thing::Route(name), Word::Goes) => Payload::RouteRemove(proto::RouteRemove {
            dst: format!("10.2.{name}.0/26"),
        }),
        (Thing::Route(name), Word::Is(number)) => Payload::RouteUpdate(proto::RouteUpdate {
            dst: format!("10.2.{name}.0/26"),
            types: 1,
            ip_pool_type: (number % 5).into(),
            dst_node_name: format!("n{}", number % 2),
            dst_node_ip: format!("192.0.2.{}", number % 2),
            ..proto::RouteUpdate::default()
        }),
        (Thing::Vtep(name), Word::Goes) => Payload::VtepRemove(proto::VtepRemove {
            node: format!("n{name}"),
        }),
        (Thing::Vtep(name), Word::Is(number)) => Payload::VtepUpdate(proto::VtepUpdate {
            node: format!("n{name}"),
            mac: format!("02:00:00:00:00:{number:02x}"),
            parent_device_ip: format!("192.0.2.{number}"),
            ..proto::VtepUpdate::default()
        }),
        (Thing::Pool(name), Word::Goes) => Payload::IpamPoolRemove(proto::IpamPoolRemove {
            id: format!("10.{name}.0.0-16"),
        }),
        (Thing::Pool(name), Word::Is(number)) => Payload::IpamPoolUpdate(proto::IpamPoolUpdate {
            id: format!("10.{name}.0.0-16"),
            pool: Some(proto::IpamPool {
                cidr: format!("10.{name}.0.0/16"),
                masquerade: number % 2 == 0,
                ..proto::IpamPool::default()
            }),
        }),
        (Thing::Address(name, how), Word::Is(number)) => address(name, how, Some(*number)),
        (Thing::Address(name, how), Word::Goes) => address(name, how, None),
        (Thing::Config, Word::Is(number)) => Payload::ConfigUpdate(proto::ConfigUpdate {
            config: [(
                "VXLANPort".to_owned(),
                (4700 + u16::from(*number)).to_string(),
            )]
            .into(),
        }),
        (Thing::Services, Word::Is(number)) => {
            Payload::GlobalBgpConfigUpdate(proto::GlobalBgpConfigUpdate {
                service_cluster_cidrs: vec![format!("10.{number}.0.0/16")],
                ..proto::GlobalBgpConfigUpdate::default()
            })
        }
        (thing, word) => unreachable!("{thing:?} {word:?}"),
    }
}

fn address(name: u8, how: u8, number: Option<u8>) -> Payload {
    let hostname = format!("n{name}");
    let Some(number) = number else {
        let gone = proto::HostMetadataRemove { hostname };
        return match how {
            0 => Payload::HostMetadataRemove(gone),
            1 => Payload::HostMetadataV6Remove(gone),
            _ => Payload::HostMetadataV4V6Remove(gone),
        };
    };
    let (ipv4_addr, ipv6_addr) = (format!("192.0.2.{number}"), format!("2001:db8::{number:x}"));
    match how {
        0 => Payload::HostMetadataUpdate(proto::HostMetadataUpdate {
            hostname,
            ipv4_addr,
            ipv6_addr: String::new(),
        }),
        1 => Payload::HostMetadataV6Update(proto::HostMetadataV6Update {
            hostname,
            ipv6_addr,
        }),
        _ => Payload::HostMetadataV4V6Update(proto::HostMetadataV4V6Update {
            hostname,
            ipv4_addr: format!("{ipv4_addr}/24"),
            ipv6_addr: format!("{ipv6_addr}/64"),
        }),
    }
}

fn said() -> impl Strategy<Value = Said> {
    let few = 0..3_u8;
    let thing = prop_oneof![
        3 => few.clone().prop_map(Thing::Set),
        1 => few.clone().prop_map(Thing::Profile),
        1 => few.clone().prop_map(Thing::Policy),
        1 => few.clone().prop_map(Thing::Pod),
        1 => few.clone().prop_map(Thing::Host),
        1 => few.clone().prop_map(Thing::Route),
        1 => few.clone().prop_map(Thing::Vtep),
        1 => few.clone().prop_map(Thing::Pool),
        1 => (0..2_u8, few).prop_map(|(name, how)| Thing::Address(name, how)),
        1 => Just(Thing::Config),
        1 => Just(Thing::Services),
    ];
    (thing, 0..10_u8, any::<u8>(), any::<u8>()).prop_map(|(thing, kind, one, other)| {
        let can_go = !matches!(thing, Thing::Config | Thing::Services);
        let word = match (thing, kind) {
            (_, 0..3) if can_go => Word::Goes,
            (Thing::Set(_), 3..7) => Word::Changes {
                come: one & !other,
                go: other,
            },
            _ => Word::Is(one % 8),
        };
        (thing, word)
    })
}

/// The last word about each thing, in Felix's order. Changes of sets are added up, by bits.
fn coalesced(all: &[Said]) -> Vec<Said> {
    let mut last: BTreeMap<Thing, Word> = BTreeMap::new();
    for (thing, word) in all {
        let word = match (last.get(thing), word) {
            (Some(Word::Is(bits)), Word::Changes { come, go }) => Word::Is(bits & !go | come),
            // Of what is not there nothing can change.
            (_, Word::Changes { .. }) => Word::Goes,
            (_, word) => word.clone(),
        };
        last.insert(*thing, word);
    }
    last.into_iter().collect()
}

/// All that follows: what is wanted, and what is not done.
fn outcome(all: &[Said], generation: Generation) -> String {
    let state = told("n0", all.iter().map(|said| message(said, generation)));
    match calculated(&state) {
        Ok(calculated) => format!("{:#?}\n{:#?}", calculated.desired, calculated.problems),
        Err(error) => error,
    }
}

proptest! {
    #[test]
    fn only_the_last_word_about_each_thing_counts(
        all in proptest::collection::vec(said(), 0..60),
        again in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        for generation in [Generation::V3_31, Generation::V3_32] {
            let expected = outcome(&coalesced(&all), generation);
            prop_assert_eq!(&outcome(&all, generation), &expected);
            // Each may come twice, and what goes may never have been there.
            let mut twice = all.clone();
            if !twice.is_empty() {
                for index in &again {
                    let at = index.index(twice.len());
                    twice.insert(at, twice[at].clone());
                }
            }
            let nothing = [(Thing::Set(9), Word::Goes), (Thing::Pod(9), Word::Goes)];
            twice.extend(nothing);
            prop_assert_eq!(&outcome(&twice, generation), &expected);
        }
    }

    /// The order of things matters only where Felix keeps one.
    #[test]
    fn the_order_of_different_things_does_not_matter(
        all in proptest::collection::vec(said(), 0..40),
        seed in any::<u64>(),
    ) {
        let mut mixed = coalesced(&all);
        let expected = outcome(&mixed, Generation::V3_32);
        let len = mixed.len();
        let mut seed = seed | 1;
        for at in (1..len).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            mixed.swap(at, (seed >> 33) as usize % (at + 1));
        }
        prop_assert_eq!(&outcome(&mixed, Generation::V3_32), &expected);
    }
}
