//! Five-tuple rules: one policy, one trace, all contenders with the same verdicts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use benches::peer::Peer;
use benches::policies::rule_of;
use benches::rounds::{Contender, Result, interleave};
use benches::rules::{FiveTuple, Packet, five_tuples, packets};
use benches::setup::Setup;
use benches::table::Table;
use benches::{alloc, cpu};
use flowtable::acl::{
    Action, Chain, ChainSpec, Compiler, L4, Policy, Reason, RuleId, Sets, Tier, Tuple, Verdict,
};

use crate::tuple_space::TupleSpace;

/// Packets of a pass; a multiple of the batch.
const PACKETS: usize = 1 << 18;

/// Packets that are classified together.
const BATCH: usize = 64;

struct Dpdk {
    name: String,
    peer: Peer,
    built: Duration,
    resident_bytes: u64,
}

/// `count` rules under the name `name`.
pub(crate) fn run(setup: &Setup, name: &str, count: usize) -> Result<()> {
    if !setup.wants(name) {
        return Ok(());
    }
    let rules = five_tuples(count, 1);
    let packets = packets(&rules, PACKETS, 2);
    println!("## {name}: {count} five-tuple rules, {PACKETS} packets\n");

    let ((chain, own_build), own_memory) = alloc::measure(|| cpu::time(|| chain_of(&rules)));
    let chain = chain?;
    let ((space, space_build), space_memory) =
        alloc::measure(|| cpu::time(|| TupleSpace::new(&rules)));
    let mut peers = build_peers(setup, &rules)?;
    let tuples: Vec<_> = packets.iter().map(tuple_of).collect();
    let sets = Sets::default();
    verify(setup, &rules, &packets, &chain, &space, &mut peers)?;

    let mut table = Table::new(&["build", "ms", "KB kept", "KB at most"]);
    let kilobytes = |bytes: usize| format!("{:.0}", bytes as f64 / 1e3);
    let millis = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    for (name, build, memory) in [
        ("flowtable", own_build, own_memory),
        ("tuple space", space_build, space_memory),
    ] {
        table.row(vec![
            name.into(),
            millis(build),
            kilobytes(memory.kept_bytes),
            kilobytes(memory.peak_bytes),
        ]);
    }
    for it in &peers {
        table.row(vec![
            it.name.clone(),
            millis(it.built),
            format!("{} resident", kilobytes(it.resident_bytes as usize)),
            String::new(),
        ]);
    }
    println!("{table}");

    let mut contenders = vec![
        Contender::here("flowtable, 64 at a time", || {
            let mut out = [Verdict::default(); BATCH];
            for tuples in tuples.chunks_exact(BATCH) {
                chain.classify_batch(&sets, tuples, &mut out);
                black_box(&mut out);
            }
        }),
        Contender::here("flowtable, one by one", || {
            for tuple in &tuples {
                black_box(chain.classify(&sets, tuple));
            }
        }),
    ];
    contenders.extend(peers.iter_mut().map(|it| {
        let name = it.name.clone();
        Contender::new(name, move || it.peer.time("batch"))
    }));
    contenders.push(Contender::here("tuple space", || {
        for packet in &packets {
            black_box(space.classify(packet));
        }
    }));
    if count <= 1_000 {
        contenders.push(Contender::here("linear scan", || {
            for packet in &packets {
                black_box(rules.iter().position(|rule| rule.matches(packet)));
            }
        }));
    }
    let all = interleave(setup.rounds, PACKETS, &mut contenders)?;
    println!("{}", Table::of_series(name, "ns", &all));
    Ok(())
}

/// One tier with one policy of all `rules`; rule `n` is number `n + 1`.
fn chain_of(rules: &[FiveTuple]) -> Result<Chain> {
    let rules = (1..)
        .zip(rules)
        .map(|(id, rule)| rule_of(id, rule, Action::Allow))
        .collect();
    let policies = [Arc::new(Policy { rules })].into();
    Ok(Compiler::default().chain(&ChainSpec {
        tiers: vec![Tier {
            policies,
            ..Tier::default()
        }],
        ..ChainSpec::default()
    })?)
}

fn tuple_of(packet: &Packet) -> Tuple<u32> {
    Tuple {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        l4: L4::Ports {
            source: packet.source_port,
            destination: packet.destination_port,
        },
    }
}

/// Starts DPDK's classifiers and has them build, side by side.
fn build_peers(setup: &Setup, rules: &[FiveTuple]) -> Result<Vec<Dpdk>> {
    let Some(program) = &setup.dpdk else {
        return Ok(Vec::new());
    };
    let file = setup.scratch.join("rules");
    let ports = |(first, last): (u16, u16)| u32::from(last) << 16 | u32::from(first);
    let words = rules.iter().flat_map(|rule| {
        [
            rule.source.0,
            rule.source.1.into(),
            rule.destination.0,
            rule.destination.1.into(),
            ports(rule.source_ports),
            ports(rule.destination_ports),
            rule.protocol.unwrap_or(0).into(),
            if rule.protocol.is_some() { 0xff } else { 0 },
        ]
    });
    std::fs::write(&file, words.flat_map(u32::to_ne_bytes).collect::<Vec<_>>())?;
    let mut peers = Vec::new();
    for kind in ["avx512x32", "avx512x16", "avx2"] {
        let mut peer = Peer::start(program, kind, setup.core)?;
        peer.ready()?;
        let [built, resident_bytes] = peer.ask(&format!("rules {}", file.display()))?[..] else {
            return Err("the peer says nothing of its table".into());
        };
        peers.push(Dpdk {
            name: format!("rte_acl {kind}"),
            peer,
            built: Duration::from_nanos(built),
            resident_bytes,
        });
    }
    Ok(peers)
}

/// All contenders find the same rules, or there is nothing to compare.
fn verify(
    setup: &Setup,
    rules: &[FiveTuple],
    packets: &[Packet],
    chain: &Chain,
    space: &TupleSpace,
    peers: &mut [Dpdk],
) -> Result<()> {
    let sets = Sets::default();
    let number = |verdict: Verdict| match verdict.reason {
        Reason::Rule(RuleId(id)) => id,
        Reason::TierDefault(_) | Reason::End => 0,
    };
    let tuples: Vec<_> = packets.iter().map(tuple_of).collect();
    let mut verdicts = vec![Verdict::default(); tuples.len()];
    chain.classify_batch(&sets, &tuples, &mut verdicts);
    let ours: Vec<u32> = verdicts.into_iter().map(number).collect();
    let differs = |who: &str, found: &mut dyn Iterator<Item = u32>| -> Result<()> {
        let mut count = 0;
        for ((own, found), packet) in ours.iter().zip(found).zip(packets) {
            if *own != found {
                return Err(
                    format!("{who} finds rule {found} for {packet:x?}, flowtable {own}").into(),
                );
            }
            count += 1;
        }
        println!("{who} agrees about {count} packets");
        Ok(())
    };
    let matching = ours.iter().filter(|&&rule| rule != 0).count();
    println!("{matching} packets match a rule");
    // A scan of all packets would take minutes.
    let few = packets.iter().take(1 << 14);
    differs(
        "a linear scan",
        &mut few.map(|packet| {
            let found = rules.iter().position(|rule| rule.matches(packet));
            found.map_or(0, |at| at as u32 + 1)
        }),
    )?;
    differs(
        "one by one flowtable",
        &mut tuples
            .iter()
            .map(|tuple| number(chain.classify(&sets, tuple))),
    )?;
    differs(
        "tuple space",
        &mut packets.iter().map(|packet| space.classify(packet)),
    )?;
    let (input, output) = (setup.scratch.join("packets"), setup.scratch.join("found"));
    let bytes = |packet: &Packet| {
        let mut bytes = [0; 16];
        bytes[0] = packet.protocol;
        bytes[4..8].copy_from_slice(&packet.source.to_be_bytes());
        bytes[8..12].copy_from_slice(&packet.destination.to_be_bytes());
        bytes[12..14].copy_from_slice(&packet.source_port.to_be_bytes());
        bytes[14..].copy_from_slice(&packet.destination_port.to_be_bytes());
        bytes
    };
    if !peers.is_empty() {
        std::fs::write(&input, packets.iter().flat_map(bytes).collect::<Vec<_>>())?;
    }
    for it in peers {
        it.peer.ask(&format!("packets {}", input.display()))?;
        it.peer.ask(&format!("outputs {}", output.display()))?;
        let found = std::fs::read(&output)?;
        let found = found.as_chunks::<4>().0;
        differs(
            &it.name,
            &mut found.iter().map(|&four| u32::from_ne_bytes(four)),
        )?;
    }
    println!();
    Ok(())
}
