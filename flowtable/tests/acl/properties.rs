//! What holds for any policies, IP sets and packets: every verdict is the naive one.

use std::sync::Arc;

use flowtable::acl::{
    Address, Chain, ChainSpec, Compiler, Policy, SetId, SetWriter, Sets, Tier, TierDefault, Tuple,
    Verdict,
};

use crate::generate::{Random, SETS};
use crate::naive::{NaiveSets, NaiveVerdict, Packet, classify};

fn assert_same(found: &Verdict, naive: &NaiveVerdict, seed: u64, packet: Packet) {
    let kept = naive.logs.len().min(found.logs.rules().len());
    let found = (
        found.allow,
        found.reason,
        found.logs.total(),
        found.logs.rules(),
    );
    let expected = (
        naive.allow,
        naive.reason,
        naive.logs.len(),
        &naive.logs[..kept],
    );
    assert_eq!(found, expected, "seed {seed}, {packet:?}");
}

/// One by one, with memberships known, and in a batch.
fn assert_chain(
    chain: &Chain,
    sets: &Sets,
    spec: &ChainSpec,
    naive: &NaiveSets,
    packets: &[Packet],
    seed: u64,
) -> usize {
    let expected: Vec<_> = packets
        .iter()
        .map(|&packet| classify(spec, naive, packet))
        .collect();
    assert_family(chain, sets, packets, &expected, Packet::v4, seed);
    assert_family(chain, sets, packets, &expected, Packet::v6, seed);
    packets.len()
}

/// The packets of one family, one by one and in batches.
fn assert_family<A: Address + Default>(
    chain: &Chain,
    sets: &Sets,
    packets: &[Packet],
    expected: &[NaiveVerdict],
    tuple: impl Fn(Packet) -> Option<Tuple<A>>,
    seed: u64,
) {
    let own: Vec<_> = packets
        .iter()
        .zip(expected)
        .filter_map(|(&packet, expected)| Some((tuple(packet)?, packet, expected)))
        .collect();
    let tuples: Vec<_> = own.iter().map(|(tuple, ..)| *tuple).collect();
    let mut batch = vec![Verdict::default(); tuples.len()];
    chain.classify_batch(sets, &tuples, &mut batch);
    let members = |pick: fn(&Tuple<A>) -> A| -> Vec<_> {
        tuples
            .iter()
            .map(|tuple| sets.members(pick(tuple)))
            .collect()
    };
    let (sources, destinations) = (members(|it| it.source), members(|it| it.destination));
    let mut known = vec![Verdict::default(); tuples.len()];
    chain.classify_known_batch(sets, &tuples, &sources, &destinations, &mut known);
    let found = batch.into_iter().zip(known);
    for ((tuple, packet, expected), (batch, known)) in own.into_iter().zip(found) {
        assert_same(&chain.classify(sets, &tuple), expected, seed, packet);
        assert_same(&batch, expected, seed, packet);
        assert_same(&known, expected, seed, packet);
    }
}

/// A node's policies and sets, both as they are judged and as they are compiled.
struct World {
    random: Random,
    ids: u32,
    policies: Vec<Arc<Policy>>,
    sets: SetWriter,
    naive: NaiveSets,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut ids = 0;
        let policies = random.policies(&mut ids);
        let mut world = Self {
            random,
            ids,
            policies,
            sets: SetWriter::default(),
            naive: NaiveSets::new(),
        };
        world.change_sets(60);
        world
    }

    fn change_sets(&mut self, changes: usize) {
        for _ in 0..changes {
            let set = SetId(self.random.below(SETS) as u32);
            let member = self.random.member();
            let members = self.naive.entry(set).or_default();
            if self.random.once_in(4) {
                assert_eq!(self.sets.remove(set, &member), members.remove(&member));
            } else {
                assert_eq!(self.sets.add(set, &member), Ok(members.insert(member)));
            }
        }
    }

    fn replace_a_policy(&mut self) -> (Arc<Policy>, Arc<Policy>) {
        let at = self.random.below(self.policies.len());
        let new = self.random.policy(&mut self.ids, 8);
        let old = std::mem::replace(&mut self.policies[at], Arc::clone(&new));
        (old, new)
    }

    fn packets(&mut self, count: usize) -> Vec<Packet> {
        (0..count).map(|_| self.random.packet()).collect()
    }
}

fn replace(spec: &mut ChainSpec, old: &Arc<Policy>, new: &Arc<Policy>) {
    let lists = spec.tiers.iter_mut().map(|tier| &mut tier.policies);
    for list in lists.chain([&mut spec.profiles]) {
        if list.iter().any(|policy| Arc::ptr_eq(policy, old)) {
            let replaced = list.iter().map(|policy| {
                Arc::clone(if Arc::ptr_eq(policy, old) {
                    new
                } else {
                    policy
                })
            });
            *list = replaced.collect();
        }
    }
}

/// The verdicts of one random world, before and after changes of its policies and sets.
fn run(seed: u64, packets: usize) -> usize {
    let mut world = World::new(seed);
    let mut compiler = Compiler::default();
    let mut specs: Vec<_> = (0..3).map(|_| world.random.spec(&world.policies)).collect();
    let packets = world.packets(packets);
    let mut verdicts = 0;
    let mut before = Vec::new();
    for _ in 0..2 {
        let sets = world.sets.snapshot();
        let chains: Vec<_> = specs
            .iter()
            .map(|spec| compiler.chain(spec).unwrap())
            .collect();
        for (spec, chain) in specs.iter().zip(&chains) {
            verdicts += assert_chain(chain, &sets, spec, &world.naive, &packets, seed);
        }
        before.push((specs.clone(), chains, sets, world.naive.clone()));
        world.change_sets(10);
        let (old, new) = world.replace_a_policy();
        for spec in &mut specs {
            replace(spec, &old, &new);
        }
    }
    // What was handed out has not changed.
    let (specs, chains, sets, naive) = &before[0];
    for (spec, chain) in specs.iter().zip(chains) {
        let few = &packets[..packets.len().min(8)];
        verdicts += assert_chain(chain, sets, spec, naive, few, seed);
    }
    verdicts
}

fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// 200,000 verdicts and more; millions of other ones in minutes with
/// `ACL_FIRST=1000000 ACL_SEEDS=20000 cargo test -p flowtable --release --test acl verdicts_equal -- --nocapture`.
#[test]
fn verdicts_equal_the_naive_ones() {
    let first = number_from_env("ACL_FIRST", 0);
    let seeds = number_from_env("ACL_SEEDS", 400);
    let verdicts: usize = (first..first + seeds).map(|seed| run(seed, 96)).sum();
    println!("{verdicts} verdicts");
    assert!(verdicts as u64 > seeds * 500, "{verdicts}");
}

/// In one policy, and in as many as users have.
#[test]
fn verdicts_of_thousands_of_rules_equal_the_naive_ones() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut ids = 0;
        let one = [random.long_policy(11_000)].into();
        let many = (0..2000).map(|_| random.policy(&mut ids, 10)).collect();
        let packets: Vec<_> = (0..300).map(|_| random.packet()).collect();
        for policies in [one, many] {
            let spec = ChainSpec {
                tiers: vec![Tier {
                    policies,
                    default: TierDefault::Deny,
                }],
                ..ChainSpec::default()
            };
            let chain = Compiler::default().chain(&spec).unwrap();
            let naive = NaiveSets::new();
            assert_chain(&chain, &Sets::default(), &spec, &naive, &packets, seed);
        }
    }
}
