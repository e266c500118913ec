//! The kernel against the evaluator, and a changed table against a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use control::nft::{KnownSets, Nft, Rendered, Ruleset, View, render};
use control::policy::legs::{Party, host_endpoint, legs, wildcard};
use control::policy::packet::Packet;
use control::policy::verdict::Outcome;
use control::policy::{Model, evaluate};

use crate::lab::{Lab, NODE, Way, run};
use crate::packets::bytes;
use crate::random::{Dice, OURS, model, other_members, packet};

/// Lengths of packets: what the kernels say to each other is shorter.
const SHORTEST: usize = 300;
/// Packets of a batch.
const BATCH: usize = 150;

fn table(model: &Model, known: &mut KnownSets) -> Rendered {
    let addresses: Vec<IpAddr> = NODE
        .map(|address| address.parse().expect("an address"))
        .into();
    let all = wildcard(model, OURS);
    let own = host_endpoint(model, OURS, "eth0", &addresses).filter(|own| all != Some(own));
    let interfaces = own.map(|own| ("eth0".to_owned(), own.to_owned()));
    let view = View {
        model,
        node: OURS,
        interfaces: interfaces.into_iter().collect(),
        wildcard: all.map(str::to_owned),
        pod_prefixes: &["cali".to_owned()],
        pod_interfaces: BTreeSet::new(),
        pods: BTreeSet::new(),
        peers: BTreeSet::new(),
        vxlan: Some(4789),
    };
    render(&view, known).expect("a table")
}

/// Packets no two of which are of one connection, and the lengths that they are known by.
fn batch(dice: &mut Dice, way: Way) -> BTreeMap<usize, Packet> {
    let mut seen = BTreeSet::new();
    let mut packets = BTreeMap::new();
    for _ in 0..BATCH {
        let packet = packet(dice, way);
        let sent = packet.before_dnat();
        // ICMP has numbers to be told apart by.
        let key = (packet.src, packet.dst, packet.protocol, packet.ports);
        let before = (sent.src, sent.dst, sent.protocol, sent.ports);
        if packet.icmp.is_some() || seen.insert(key) & (key == before || seen.insert(before)) {
            packets.insert(SHORTEST + packets.len(), packet);
        }
    }
    packets
}

fn judge(
    lab: &Lab,
    seed: u64,
    model: &Model,
    ruleset: &Ruleset,
    dice: &mut Dice,
    counts: &mut [u64; 2],
) {
    for way in [Way::In, Way::Out, Way::Through] {
        let packets = batch(dice, way);
        let raw: Vec<_> = packets
            .iter()
            .map(|(length, packet)| {
                let to = packet.before_dnat().dst;
                (to, bytes(packet, *length as u16, *length))
            })
            .collect();
        let passing = lab.passing(way, &raw);
        let outside = Party::Outside {
            node: OURS.to_owned(),
            endpoint: Some("edge".to_owned()),
        };
        let host = Party::Host(OURS.to_owned());
        let legs = match way {
            Way::In => legs(model, &outside, &host),
            Way::Out => legs(model, &host, &outside),
            Way::Through => legs(model, &outside, &outside),
        };
        for (length, packet) in packets {
            let verdict = evaluate(model, &packet, &legs);
            let passes = passing.contains(&length);
            counts[usize::from(passes)] += 1;
            assert_eq!(
                verdict.outcome == Outcome::Allow,
                passes,
                "seed {seed}, {way:?}: {packet}, {:?}\n{:#?}\n{}",
                packet.state,
                verdict.legs,
                ruleset.replace(),
            );
        }
    }
}

/// `CARACAL_NFT_MODELS=400` for more than the usual.
#[test]
fn what_passes_is_what_the_evaluator_says() {
    let Some(lab) = Lab::new("what_passes_is_what_the_evaluator_says") else {
        return;
    };
    let nft = Nft::find().expect("nft");
    let models = std::env::var("CARACAL_NFT_MODELS").ok();
    let models: u64 = models.and_then(|count| count.parse().ok()).unwrap_or(25);
    let mut known = KnownSets::default();
    let mut before = Ruleset::default();
    let mut counts = [0; 2];
    let mut stayed = 0;
    let mut became = BTreeMap::new();
    for seed in 0..models {
        let mut dice = Dice(seed);
        let first = model(&mut dice);
        let second = other_members(&mut dice, &first);
        for model in [&first, &second] {
            let Rendered { ruleset, .. } = table(model, &mut known);
            let change = ruleset.change(&before);
            count_other_kinds(&before, &ruleset, &mut became);
            let counted = (!before.is_empty()).then(|| lab.on_node(counters));
            lab.on_node(|| nft.apply(&change))
                .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{change}"));
            let counts_on = lab.on_node(counters);
            for (name, count) in counted.unwrap_or_default() {
                if let Some(now) = counts_on.get(&name) {
                    assert_eq!(*now, count, "seed {seed}: {name}");
                    stayed += usize::from(count > 0);
                }
            }
            let changed = lab.on_node(list);
            judge(&lab, seed, model, &ruleset, &mut dice, &mut counts);
            if dice.one_in(4) {
                lab.on_node(|| nft.apply(&ruleset.replace()))
                    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                assert_eq!(changed, lab.on_node(list), "seed {seed}: {change}");
            }
            before = ruleset;
        }
    }
    let [dropped, passed] = counts;
    eprintln!("{dropped} packets were dropped, {passed} passed");
    assert!(dropped > passed / 8 && passed > dropped / 8);
    assert!(stayed > 0, "no rule that counted stayed");
    for kind in ["addresses", "nets"] {
        let sets = became.get(kind).copied().unwrap_or_default();
        eprintln!("{sets} sets became {kind}");
        assert!(sets > 0);
    }
}

/// Counts sets that are of another kind than before, by what they became.
fn count_other_kinds(before: &Ruleset, after: &Ruleset, became: &mut BTreeMap<String, usize>) {
    for name in after.sets.keys() {
        for (new, old) in [("addresses", "nets"), ("nets", "addresses")] {
            let rest = name.strip_prefix(new);
            if rest.is_some_and(|rest| before.sets.contains_key(&format!("{old}{rest}"))) {
                *became.entry(new.to_owned()).or_default() += 1;
            }
        }
    }
}

/// Packets by counter.
fn counters() -> BTreeMap<String, u64> {
    let text = run("nft", "-j list counters table inet caracal", "");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let objects = value["nftables"].as_array().expect("a list");
    let counters = objects.iter().filter_map(|object| {
        let counter = &object["counter"];
        let name = counter["name"].as_str()?.to_owned();
        Some((name, counter["packets"].as_u64()?))
    });
    counters.collect()
}

/// The table without what counts, in an order of our own: chains come as they were made.
fn list() -> BTreeSet<String> {
    let text = run("nft", "-s list table inet caracal", "");
    let mut parts = BTreeSet::new();
    for part in text.split("\n\n") {
        let mut part = part.to_owned();
        part.retain(|letter| !letter.is_whitespace() && letter != '}');
        parts.insert(part.replace("tableinetcaracal{", ""));
    }
    parts
}
