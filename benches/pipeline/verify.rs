//! Both contenders send the same packets, and their checksums are right, or there is nothing to compare.

use std::collections::HashMap;

use benches::rounds::Result;
use benches::scenario::{Chain, Scenario};
use encap::{checksum, ipv4, ipv6, l4};
use fastpath::counters::Counter;
use fastpath::reason::DropReason;

use crate::minimal::Minimal;
use benches::ours::Ours;

/// Sends one packet of each flow through both and compares what comes out.
pub(crate) fn run(scenario: &Scenario) -> Result<()> {
    let flows = scenario.flows();
    let mut ours = Ours::new(scenario, flows, (64, 1));
    ours.put(scenario, 0);
    ours.run(scenario);
    let counters = ours.counters();
    if counters.tx.get() != flows as u64 || !counters.is_balanced() {
        let dropped: Vec<_> = DropReason::ALL
            .iter()
            .filter(|&&reason| {
                let drops = |port| counters.drops(port, reason).map_or(0, Counter::get);
                scenario.in_ports().into_iter().any(|port| drops(port) > 0)
            })
            .map(|reason| reason.name())
            .collect();
        return Err(format!(
            "of {flows} packets {} went on; {dropped:?}",
            counters.tx.get()
        )
        .into());
    }
    let mut minimal = Minimal::new(scenario, flows);
    minimal.put(scenario, 0);
    minimal.run(scenario, 64);

    // Pods' ports are emptied one after the other, so the order is another: by content, then.
    let mut expected = HashMap::<Vec<u8>, usize>::new();
    for index in 0..flows {
        let (hop, bytes) = minimal.output(index);
        if hop.is_none() {
            return Err("the minimal loop finds no route".into());
        }
        *expected
            .entry(comparable(scenario.chain, bytes))
            .or_default() += 1;
    }
    for output in ours.outputs() {
        check_sums(scenario.chain, &output)?;
        match expected.get_mut(&comparable(scenario.chain, &output)) {
            Some(left) if *left > 0 => *left -= 1,
            _ => return Err(format!("not what the minimal loop sends: {output:02x?}").into()),
        }
    }
    Ok(())
}

/// The packet without what depends on the hash of the flow: identification, source port and checksums outside.
/// Next hops differ in their addresses, so that these stay in.
fn comparable(chain: Chain, packet: &[u8]) -> Vec<u8> {
    let free: &[std::ops::Range<usize>] = match chain {
        _ if chain.is_vxlan4() => &[18..20, 24..26, 34..36],
        Chain::Vxlan6 => &[54..56, 60..62],
        _ => &[],
    };
    let mut packet = packet.to_vec();
    for range in free {
        packet[range.clone()].fill(0);
    }
    packet
}

/// Checks every checksum in a packet that was sent.
fn check_sums(chain: Chain, packet: &[u8]) -> Result<()> {
    let inner_at = match chain {
        _ if chain.is_vxlan4() => 64,
        Chain::Vxlan6 => 84,
        Chain::Ipip => 34,
        _ => 14,
    };
    let (outer, inner) = (&packet[14..], &packet[inner_at..]);
    let is_right = if chain.is_v6() {
        let ip = ipv6::parse(inner)?;
        checksum::verify_v6(ip.src, ip.dst, l4::UDP, &inner[40..])
    } else {
        let ip = ipv4::parse(inner)?;
        checksum::verify_v4(ip.src, ip.dst, ip.protocol, &inner[20..])
    };
    let outer_is_right = if chain == Chain::Vxlan6 {
        let ip = ipv6::parse(outer)?;
        checksum::verify_v6(ip.src, ip.dst, l4::UDP, &outer[40..])
    } else if !chain.is_v6() {
        usize::from(ipv4::parse(outer)?.total_len) == outer.len()
    } else {
        true
    };
    if is_right && outer_is_right {
        Ok(())
    } else {
        Err(format!("a wrong checksum: {packet:02x?}").into())
    }
}
