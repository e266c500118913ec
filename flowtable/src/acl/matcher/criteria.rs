//! From rules to what they ask of each field.

use crate::acl::intervals::{Criteria, set_bit};
use crate::acl::{Address, Rule, Side};

/// What a list of rules asks, field by field. Rule `n` of the list is bit `n`; what is no rule never holds.
pub(super) struct Asked<A> {
    pub(super) source: Criteria<A>,
    pub(super) destination: Criteria<A>,
    pub(super) source_port: Criteria<u16>,
    pub(super) destination_port: Criteria<u16>,
    pub(super) protocol: Criteria<u8>,
    /// Rules that a packet without ports can match.
    pub(super) without_ports: Vec<u64>,
}

impl<A: Address> Asked<A> {
    pub(super) fn new<'a>(rules: impl ExactSizeIterator<Item = Option<&'a Rule>>) -> Self {
        let bits = rules.len();
        let mut asked = Self {
            source: Criteria::new(bits),
            destination: Criteria::new(bits),
            source_port: Criteria::new(bits),
            destination_port: Criteria::new(bits),
            protocol: Criteria::new(bits),
            without_ports: vec![0; bits.div_ceil(64)],
        };
        for (bit, rule) in rules.enumerate() {
            let Some(rule) = rule else {
                asked.protocol.require(bit);
                continue;
            };
            nets(&mut asked.source, bit, &rule.source);
            nets(&mut asked.destination, bit, &rule.destination);
            ports(&mut asked.source_port, bit, &rule.source);
            ports(&mut asked.destination_port, bit, &rule.destination);
            protocol::<A>(&mut asked.protocol, bit, rule);
            if !rule.source.asks_for_ports() && !rule.destination.asks_for_ports() {
                set_bit(&mut asked.without_ports, bit);
            }
        }
        asked
    }
}

fn nets<A: Address>(criteria: &mut Criteria<A>, bit: usize, side: &Side) {
    if !side.nets.is_empty() {
        criteria.require(bit);
    }
    for (nets, negated) in [(&side.nets, false), (&side.not_nets, true)] {
        for (first, last, _) in nets.iter().filter_map(|&net| A::of_net(net)) {
            criteria.add(bit, first, last, negated);
        }
    }
}

fn ports(criteria: &mut Criteria<u16>, bit: usize, side: &Side) {
    // A port in no range may still be in a named set, which is asked later.
    if side.named_ports.is_empty() && !side.ports.is_empty() {
        criteria.require(bit);
        for range in &side.ports {
            criteria.add(bit, range.first, range.last, false);
        }
    }
    for range in &side.not_ports {
        criteria.add(bit, range.first, range.last, true);
    }
}

fn protocol<A: Address>(criteria: &mut Criteria<u8>, bit: usize, rule: &Rule) {
    let icmp = (rule.icmp.is_some() || rule.not_icmp.is_some()).then_some(A::ICMP);
    if let Some(protocol) = rule.protocol.or(icmp) {
        criteria.require(bit);
        criteria.add(bit, protocol, protocol, false);
    }
    if let Some(protocol) = rule.not_protocol {
        criteria.add(bit, protocol, protocol, true);
    }
}
